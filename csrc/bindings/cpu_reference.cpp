#include "bindings/cpu_reference.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Float8_e4m3fn.h>
#include <torch/headeronly/util/Float8_e5m2.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "marlin/layout.h"

namespace kernelpkg::bindings {
namespace {

constexpr int kColumns = 64;    // columns a task works on: a strip of Marlin weights, four cache lines a row
constexpr int kFloatSum = 128;  // values summed in float32 before they are added in float64

template <class Float8>
const std::array<float, 256>& values_of() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> table{};
    for (int i = 0; i < 256; ++i) table[i] = Float8(static_cast<uint8_t>(i), Float8::from_bits());
    return table;
  }();
  return values;
}

const std::array<float, 256>& e4m3_values() { return values_of<c10::Float8_e4m3fn>(); }

float load(const void* data, DType type, int64_t index) {
  switch (type) {
    case DType::kFloat16: return static_cast<const c10::Half*>(data)[index];
    case DType::kBFloat16: return static_cast<const c10::BFloat16*>(data)[index];
    case DType::kFloat8E4M3: return e4m3_values()[static_cast<const uint8_t*>(data)[index]];
    case DType::kFloat8E5M2: return values_of<c10::Float8_e5m2>()[static_cast<const uint8_t*>(data)[index]];
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
// finish(row, sums) receives kColumns sums in float64. factor(row, part) is what the sums over the values
// from part * kFloatSum on are multiplied by.
template <class Factor, class Finish>
void multiply_block(const float* a, int m, int k, const float* weights, const Factor& factor,
                    const Finish& finish) {
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
      const double scale = factor(row, begin / kFloatSum);
      for (int j = 0; j < kColumns; ++j) sums[j] += scale * part[j];
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

// The value of a code before its scale.
float value_of(WeightFormat format, uint32_t code, int zero) {
  switch (format) {
    case WeightFormat::kE4M3: return e4m3_values()[code];
    case WeightFormat::kNvfp4:
    case WeightFormat::kMxfp4: return marlin::e2m1_value(code);
    default: return static_cast<float>(marlin::integer_value(format, code, zero));
  }
}

// The scales of one row of K in a strip's columns, as the format keeps them.
void scales_of(const MarlinArgs& args, int k, int64_t n0, float* scales) {
  const int64_t n_pad = marlin::padded_n(args.n);
  if (args.b_format == WeightFormat::kNvfp4) {
    const float unit = std::ldexp(1.0f, -marlin::nvfp4_scale_exponent(args.c_type));
    for (int j = 0; j < kColumns; ++j) {
      scales[j] = unit * load(args.scales, args.c_type, marlin::nvfp4_scale_index(k, n0 + j, n_pad));
    }
    return;
  }
  const int64_t group = args.group_size == -1 ? 0 : k / args.group_size;
  for (int j = 0; j < kColumns; ++j) scales[j] = load(args.scales, args.c_type, group * n_pad + n0 + j);
}

// One strip of the weight, [k, kColumns]. Products of a code's value and its scale have at most 8 + 11
// significant bits: exact in float32.
void dequantise_strip(const MarlinArgs& args, int64_t strip, float* weights) {
  const int bits = bits_of(args.b_format);
  const uint32_t mask = (1u << bits) - 1;
  const int64_t n0 = strip * kColumns, n_pad = marlin::padded_n(args.n);
  const int64_t k_pad = marlin::padded_k(args.k);
  const bool zeros = args.b_format == WeightFormat::kU4;
  std::array<float, kColumns> scales;
  std::array<int, kColumns> zero_points{};
  for (int k = 0; k < args.k; ++k) {
    // Every group begins on a multiple of 16.
    if (k % 16 == 0) {
      scales_of(args, k, n0, scales.data());
      const int64_t group = args.group_size == -1 ? 0 : k / args.group_size;
      for (int j = 0; zeros && j < kColumns; ++j) {
        zero_points[j] = args.zeros[marlin::zero_index(group, n0 + j, n_pad)];
      }
    }
    for (int j = 0; j < kColumns; ++j) {
      const marlin::Slot slot = marlin::slot_of(args.b_format, k, n0 + j, k_pad);
      const uint32_t code = args.b[slot.word] >> slot.shift & mask;
      weights[static_cast<int64_t>(k) * kColumns + j] =
          scales[j] * value_of(args.b_format, code, zero_points[j]);
    }
  }
}

}  // namespace

void marlin_gemm_reference(const MarlinArgs& args) {
  const bool fp8 = args.a_type == DType::kFloat8E4M3;
  const std::vector<float> a = to_float(args.a, args.a_type, args.lda, args.m, args.k);
  torch::stable::parallel_for(0, marlin::padded_n(args.n) / kColumns, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> weights(static_cast<size_t>(args.k) * kColumns);
    for (int64_t strip = begin; strip < end; ++strip) {
      dequantise_strip(args, strip, weights.data());
      const int64_t n0 = strip * kColumns;
      const int columns = static_cast<int>(std::min<int64_t>(kColumns, args.n - n0));
      const auto whole = [](int, int) { return 1.0; };
      multiply_block(a.data(), args.m, args.k, weights.data(), whole, [&](int row, const double* sums) {
        const double factor = static_cast<double>(args.output_scale) * (fp8 ? args.a_scales[row] : 1.0);
        for (int j = 0; j < columns; ++j) {
          const double bias = args.bias ? load(args.bias, args.c_type, n0 + j) : 0.0;
          store(args.c, args.c_type, static_cast<int64_t>(row) * args.n + n0 + j, factor * sums[j] + bias);
        }
      });
    }
  });
}

void scaled_mm_reference(const ScaledMmArgs& args) {
  static_assert(kFloatSum == kScaleBlock && kScaleBlock % kColumns == 0, "a sum has one pair of scales");
  const std::vector<float> a = to_float(args.a, args.a_type, args.lda, args.m, args.k);
  const auto* b = static_cast<const uint8_t*>(args.b);
  const int strips = (args.n + kColumns - 1) / kColumns;
  torch::stable::parallel_for(0, strips, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> weights(static_cast<size_t>(args.k) * kColumns);
    for (int64_t strip = begin; strip < end; ++strip) {
      const int n0 = static_cast<int>(strip) * kColumns;
      const int columns = std::min(kColumns, args.n - n0);
      for (int j = 0; j < kColumns; ++j) {
        for (int k = 0; k < args.k; ++k) {
          weights[static_cast<int64_t>(k) * kColumns + j] =
              j < columns ? e4m3_values()[b[(n0 + j) * args.ldb + k]] : 0.0f;
        }
      }
      const auto a_scale = [&](int row, int block) -> double {
        return args.a_scales[row * args.a_scale_row + block * args.a_scale_block];
      };
      const auto b_scale = [&](int column, int block) -> double {
        return args.b_scales[column * args.b_scale_column + block * args.b_scale_block];
      };
      const auto factor = [&](int row, int block) {
        return args.block_scales ? a_scale(row, block) * b_scale(n0 / kScaleBlock, block) : 1.0;
      };
      multiply_block(a.data(), args.m, args.k, weights.data(), factor, [&](int row, const double* sums) {
        for (int j = 0; j < columns; ++j) {
          const double scale = args.block_scales ? 1.0 : a_scale(row, 0) * b_scale(n0 + j, 0);
          const double bias = args.bias ? load(args.bias, args.c_type, n0 + j) : 0.0;
          store(args.c, args.c_type, row * args.ldc + n0 + j, scale * sums[j] + bias);
        }
      });
    }
  });
}

}  // namespace kernelpkg::bindings
