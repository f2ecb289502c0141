#include "bindings/cpu_reference.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Float8_e4m3fn.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "marlin/layout.h"

namespace kernelpkg::bindings {
namespace {

constexpr int kColumns = 64;    // columns a task works on: one row of its weights is four cache lines
constexpr int kFloatSum = 128;  // values summed in float32 before they are added in float64

const std::array<float, 256>& e4m3_values() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> table{};
    for (int i = 0; i < 256; ++i) {
      table[i] = c10::Float8_e4m3fn(static_cast<uint8_t>(i), c10::Float8_e4m3fn::from_bits());
    }
    return table;
  }();
  return values;
}

float load(const void* data, DType type, int64_t index) {
  switch (type) {
    case DType::kFloat16: return static_cast<const c10::Half*>(data)[index];
    case DType::kBFloat16: return static_cast<const c10::BFloat16*>(data)[index];
    case DType::kFloat8E4M3: return e4m3_values()[static_cast<const uint8_t*>(data)[index]];
    default: return static_cast<const float*>(data)[index];
  }
}

void store(void* data, DType type, int64_t index, double value) {
  if (type == DType::kFloat16) {
    static_cast<c10::Half*>(data)[index] = static_cast<float>(value);
  } else {
    static_cast<c10::BFloat16*>(data)[index] = static_cast<float>(value);
  }
}

// The product of the rows of `a` (float, leading dimension k) with one block of weights [k, kColumns]:
// finish(row, sums) receives kColumns sums in float64.
template <class Finish>
void multiply_block(const float* a, int m, int k, const float* weights, const Finish& finish) {
  for (int row = 0; row < m; ++row) {
    double sums[kColumns] = {};
    for (int begin = 0; begin < k; begin += kFloatSum) {
      float part[kColumns] = {};
      const int end = std::min(k, begin + kFloatSum);
      for (int i = begin; i < end; ++i) {
        const float value = a[static_cast<int64_t>(row) * k + i];
        const float* line = weights + static_cast<int64_t>(i) * kColumns;
        for (int j = 0; j < kColumns; ++j) part[j] += value * line[j];
      }
      for (int j = 0; j < kColumns; ++j) sums[j] += part[j];
    }
    finish(row, sums);
  }
}

std::vector<float> to_float(const void* a, DType type, int64_t lda, int m, int k) {
  std::vector<float> values(static_cast<size_t>(m) * k);
  for (int row = 0; row < m; ++row) {
    for (int i = 0; i < k; ++i) values[static_cast<int64_t>(row) * k + i] = load(a, type, row * lda + i);
  }
  return values;
}

// One weight out of the packed words, without its scale.
float unpack(const MarlinArgs& args, bool fp8, int k, int n) {
  const marlin::Slot slot = marlin::slot_of(args.b_format, fp8, k, n, args.n);
  const uint32_t bits = args.b[slot.word] >> slot.shift;
  return args.b_format == WeightFormat::kU4B8 ? static_cast<float>(marlin::decode_nibble(bits & 15, fp8))
                                              : e4m3_values()[bits & 255];
}

}  // namespace

void marlin_gemm_reference(const MarlinArgs& args) {
  const bool fp8 = args.a_type == DType::kFloat8E4M3;
  const std::vector<float> a = to_float(args.a, args.a_type, args.lda, args.m, args.k);
  torch::stable::parallel_for(0, args.n / kColumns, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> weights(static_cast<size_t>(args.k) * kColumns);
    for (int64_t block = begin; block < end; ++block) {
      const int n0 = static_cast<int>(block) * kColumns;
      for (int k = 0; k < args.k; ++k) {
        const int64_t group = args.group_size == -1 ? 0 : k / args.group_size;
        for (int j = 0; j < kColumns; ++j) {
          const float scale = load(args.scales, args.c_type, group * args.n + n0 + j);
          // At most 4 + 11 significant bits: exact in float32.
          weights[static_cast<int64_t>(k) * kColumns + j] = scale * unpack(args, fp8, k, n0 + j);
        }
      }
      multiply_block(a.data(), args.m, args.k, weights.data(), [&](int row, const double* sums) {
        const double a_scale = fp8 ? args.a_scales[row] : 1.0;
        for (int j = 0; j < kColumns; ++j) {
          const double bias = args.bias ? load(args.bias, args.c_type, n0 + j) : 0.0;
          store(args.c, args.c_type, static_cast<int64_t>(row) * args.n + n0 + j, a_scale * sums[j] + bias);
        }
      });
    }
  });
}

void scaled_mm_reference(const ScaledMmArgs& args) {
  const std::vector<float> a = to_float(args.a, DType::kFloat8E4M3, args.lda, args.m, args.k);
  const auto* b = static_cast<const uint8_t*>(args.b);
  const int blocks = (args.n + kColumns - 1) / kColumns;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> weights(static_cast<size_t>(args.k) * kColumns);
    for (int64_t block = begin; block < end; ++block) {
      const int n0 = static_cast<int>(block) * kColumns;
      const int columns = std::min(kColumns, args.n - n0);
      for (int j = 0; j < kColumns; ++j) {
        for (int k = 0; k < args.k; ++k) {
          weights[static_cast<int64_t>(k) * kColumns + j] =
              j < columns ? e4m3_values()[b[(n0 + j) * args.ldb + k]] : 0.0f;
        }
      }
      multiply_block(a.data(), args.m, args.k, weights.data(), [&](int row, const double* sums) {
        const double a_scale = args.a_scales[args.a_scale_per_token ? row : 0];
        for (int j = 0; j < columns; ++j) {
          const double b_scale = args.b_scales[args.b_scale_per_channel ? n0 + j : 0];
          const double bias = args.bias ? load(args.bias, args.c_type, n0 + j) : 0.0;
          store(args.c, args.c_type, row * args.ldc + n0 + j, a_scale * b_scale * sums[j] + bias);
        }
      });
    }
  });
}

}  // namespace kernelpkg::bindings
