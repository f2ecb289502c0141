#include "bindings/blockscaled_ops.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Float8_e4m3fn.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "bindings/check_parts.h"
#include "marlin/layout.h"
#include "scaled_mm/blockscaled.h"

// The CPU wheel of torch has no such symbol; weak, so that this library loads there and serves the CPU.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                    void** ret_stream);

namespace kernelpkg::bindings {
namespace {

constexpr int64_t kMaxExtent = std::numeric_limits<int32_t>::max() / kScaledMmRowBytes * kScaledMmRowBytes;

// An operand [rows, K] with K along contiguous bytes.
void check_operand(const char* op, const char* what, const Tensor& x, ScalarType type) {
  const bool rows_lie = x.dim() == 2 && (x.numel() == 0 || x.size(1) == 1 || x.stride(1) == 1);
  if (x.scalar_type() == type && rows_lie) return;
  refuse_parts(op, given(what, x), " with strides ", list(x.strides()), "; it must be ", name(type), " [",
               *what == 'a' ? "M" : "N", type == ScalarType::Byte ? ", K/2], two e2m1 codes a byte" : ", K]",
               " with its last stride 1, as kernelpkg.ops quantises it");
}

void check_scales(const char* op, const char* what, const Tensor& scales, const Tensor& a, MicroFormat format,
                  int64_t rows, int64_t k) {
  const bool mxfp8 = format == MicroFormat::kMxfp8;
  const ScalarType type = scales.scalar_type();
  const bool type_holds = mxfp8 ? type == ScalarType::Float8_e8m0fnu || type == ScalarType::Byte
                                : type == ScalarType::Float8_e4m3fn;
  if (!type_holds || scales.numel() != scale_bytes(format, rows, k)) {
    refuse_parts(op, given(what, scales), "; it must be ",
                 mxfp8 ? "float8_e8m0fnu or uint8" : "float8_e4m3fn", " with ", scale_bytes(format, rows, k),
                 " values, one per row and ", scale_vector(format), " values of K in tiles of 128 rows and 4 "
                 "scales, as swizzle_scales makes it for ", rows, " rows and K ", k);
  }
  check_device(op, what, scales, a, "a");
  check_contiguous(op, what, scales);
  check_pointer(op, what, scales);
}

// Row stride in bytes; that of a single row is never used, and views give it arbitrary values.
int64_t row_stride(const Tensor& x) { return x.size(0) > 1 ? x.stride(0) : x.size(1); }

// Fills everything but c, workspace, device and stream. Rows are taken as they lie.
BlockScaledMmArgs check_call(const char* op, MicroFormat format, const Tensor& a, const Tensor& b,
                             const Tensor& a_scales, const Tensor& b_scales, double alpha,
                             const OptionalTensor& bias, ScalarType out_dtype) {
  BlockScaledMmArgs args{};
  const ScalarType codes = format == MicroFormat::kMxfp8 ? ScalarType::Float8_e4m3fn : ScalarType::Byte;
  check_operand(op, "a", a, codes);
  check_operand(op, "b", b, codes);
  if (a.size(1) != b.size(1)) {
    refuse_parts(op, "a is ", list(a.sizes()), " and b ", list(b.sizes()),
                 "; both must have one K, b one row per column of the result");
  }
  const int64_t m = a.size(0), n = b.size(0), k = a.size(1) * 8 / bits_of(format);
  if (k <= 0 || k > kMaxExtent || k % kBlockScaledK != 0) {
    refuse_parts(op, "K is ", k, "; it must be a positive multiple of ", kBlockScaledK,
                 ", pad a and b with zeros before they are quantised");
  }
  if (m > kMaxExtent) {
    refuse_parts(op, given("a", a), "; it may have at most ", kMaxExtent, " rows, split the call");
  }
  check_size(op, "N", n, kMaxExtent);
  if (!is_16bit(out_dtype)) {
    refuse_parts(op, "out_dtype is ", name(out_dtype), "; it must be bfloat16 or float16");
  }
  if (!std::isfinite(static_cast<float>(alpha))) {
    refuse_parts(op, "alpha is ", alpha, "; it must be finite in float32, the product of the global scales");
  }
  check_device(op, "b", b, a, "a");
  check_scales(op, "a_scales", a_scales, a, format, m, k);
  check_scales(op, "b_scales", b_scales, a, format, n, k);
  args.bias = check_bias(op, bias, a, n, out_dtype);

  args.format = format;
  args.a = a.const_data_ptr();
  args.lda = row_stride(a);
  args.b = b.const_data_ptr();
  args.ldb = row_stride(b);
  args.a_scales = a_scales.const_data_ptr();
  args.b_scales = b_scales.const_data_ptr();
  args.alpha = static_cast<float>(alpha);
  args.ldc = n;
  args.c_type = dtype_of(out_dtype);
  args.m = static_cast<int>(m);
  args.n = static_cast<int>(n);
  args.k = static_cast<int>(k);
  return args;
}

// What stands for `count` rows from `first` on: values[k * count + row] of the codes, scales[block * count +
// row], zeros for rows from `rows` on.
struct Decoded {
  std::vector<float> values;
  std::vector<double> scales;
};

Decoded decode(MicroFormat format, const void* codes, int64_t stride, const void* scales, int rows, int k,
               int first, int count) {
  const int vector = scale_vector(format), blocks = k / vector;
  const int64_t tiles = scale_tiles(format, k);
  Decoded out{std::vector<float>(static_cast<size_t>(k) * count),
              std::vector<double>(static_cast<size_t>(blocks) * count)};
  const auto e4m3 = [](uint8_t code) -> float {
    return c10::Float8_e4m3fn(code, c10::Float8_e4m3fn::from_bits());
  };
  for (int row = 0; row < std::min(count, rows - first); ++row) {
    const auto* line = static_cast<const uint8_t*>(codes) + (first + row) * stride;
    for (int i = 0; i < k; ++i) {
      out.values[static_cast<size_t>(i) * count + row] =
          format == MicroFormat::kMxfp8 ? e4m3(line[i])
                                        : marlin::e2m1_value(line[i / 2] >> (i % 2 * 4) & 15u);
    }
    for (int block = 0; block < blocks; ++block) {
      const uint8_t code = static_cast<const uint8_t*>(scales)[scale_offset(first + row, block, tiles)];
      double& scale = out.scales[static_cast<size_t>(block) * count + row];
      if (format == MicroFormat::kNvfp4) {
        scale = e4m3(code);
      } else {
        scale = code == 255 ? std::numeric_limits<double>::quiet_NaN() : std::ldexp(1.0, code - 127);
      }
    }
  }
  return out;
}

// Sums of a block run in float32, all else in float64.
void reference(const BlockScaledMmArgs& args) {
  constexpr int kColumns = 64;  // a task works on
  const int vector = scale_vector(args.format), blocks = args.k / vector;
  const Decoded a = decode(args.format, args.a, args.lda, args.a_scales, args.m, args.k, 0, args.m);
  const auto strip = [&](int first) {
    const Decoded b = decode(args.format, args.b, args.ldb, args.b_scales, args.n, args.k, first, kColumns);
    for (int row = 0; row < args.m; ++row) {
      double sums[kColumns] = {};
      for (int block = 0; block < blocks; ++block) {
        float part[kColumns] = {};
        for (int i = block * vector; i < (block + 1) * vector; ++i) {
          const float value = a.values[static_cast<size_t>(i) * args.m + row];
          const float* weights = &b.values[static_cast<size_t>(i) * kColumns];
          for (int j = 0; j < kColumns; ++j) part[j] += value * weights[j];
        }
        const double scale = a.scales[static_cast<size_t>(block) * args.m + row];
        const double* scales = &b.scales[static_cast<size_t>(block) * kColumns];
        for (int j = 0; j < kColumns; ++j) sums[j] += part[j] * scale * scales[j];
      }
      for (int column = first; column < std::min(first + kColumns, args.n); ++column) {
        const int64_t place = row * args.ldc + column;
        const auto finish = [&](auto* c, const auto* bias) {
          const double added = bias == nullptr ? 0.0 : static_cast<float>(bias[column]);
          c[place] = static_cast<float>(args.alpha * sums[column - first] + added);
        };
        if (args.c_type == DType::kFloat16) {
          finish(static_cast<c10::Half*>(args.c), static_cast<const c10::Half*>(args.bias));
        } else {
          finish(static_cast<c10::BFloat16*>(args.c), static_cast<const c10::BFloat16*>(args.bias));
        }
      }
    }
  };
  torch::stable::parallel_for(0, (args.n + kColumns - 1) / kColumns, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) strip(static_cast<int>(index) * kColumns);
  });
}

Tensor run_cpu(const char* op, MicroFormat format, const Tensor& a, const Tensor& b, const Tensor& a_scales,
               const Tensor& b_scales, double alpha, const OptionalTensor& bias, ScalarType out_dtype) {
  BlockScaledMmArgs args = check_call(op, format, a, b, a_scales, b_scales, alpha, bias, out_dtype);
  Tensor c = torch::stable::new_empty(a, {args.m, args.n}, out_dtype);
  args.c = c.mutable_data_ptr();
  if (args.m != 0) reference(args);
  return c;
}

// The operand, or a copy of it where TMA cannot read its rows: each must start on 16 bytes. The caller keeps
// it until the launch: the allocator orders its memory by the stream.
Tensor aligned_rows(const Tensor& x, const void** data, int64_t* stride) {
  const bool aligned = reinterpret_cast<uintptr_t>(*data) % kScaledMmRowBytes == 0 &&
                       *stride % kScaledMmRowBytes == 0 && *stride >= x.size(1);
  if (aligned || x.numel() == 0) return x;
  Tensor copy = torch::stable::new_empty(x, {x.size(0), x.size(1)});
  torch::stable::copy_(copy, x);
  *data = copy.const_data_ptr();
  *stride = x.size(1);
  return copy;
}

Tensor run_cuda(const char* op, MicroFormat format, bool standin, const Tensor& a, const Tensor& b,
                const Tensor& a_scales, const Tensor& b_scales, double alpha, const OptionalTensor& bias,
                ScalarType out_dtype) {
  BlockScaledMmArgs args = check_call(op, format, a, b, a_scales, b_scales, alpha, bias, out_dtype);
  args.device = a.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(args.device);
  if (aoti_torch_get_current_cuda_stream == nullptr) {
    refuse_parts(op, "this torch was built without CUDA; install a CUDA build of torch");
  }
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(args.device, &stream));
  args.stream = static_cast<cudaStream_t>(stream);
  const Tensor a_rows = aligned_rows(a, &args.a, &args.lda);
  const Tensor b_rows = aligned_rows(b, &args.b, &args.ldb);
  // Rows of c start on 16 bytes as well: what lies beyond N is cut off afterwards.
  constexpr int64_t kColumns = kScaledMmRowBytes / 2;
  args.ldc = (args.n + kColumns - 1) / kColumns * kColumns;
  Tensor c = torch::stable::new_empty(a, {args.m, args.ldc}, out_dtype);
  args.c = c.mutable_data_ptr();
  args.workspace_bytes = blockscaled_mm_workspace_bytes(args, standin);
  OptionalTensor space;
  if (args.workspace_bytes != 0) {
    space = torch::stable::new_empty(a, {static_cast<int64_t>(args.workspace_bytes)}, ScalarType::Byte);
    args.workspace = space->mutable_data_ptr();
  }
  const Status status = standin ? blockscaled_mm_standin(args) : blockscaled_mm(args);
  if (!status.ok()) throw std::runtime_error(status.message());
  if (args.ldc == args.n) return c;
  return torch::stable::contiguous(torch::stable::narrow(c, 1, 0, args.n));
}

}  // namespace

Tensor mxfp8_scaled_mm_cpu(const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales,
                           OptionalTensor bias, ScalarType out_dtype) {
  return run_cpu("mxfp8_scaled_mm", MicroFormat::kMxfp8, a, b, a_scales, b_scales, 1.0, bias, out_dtype);
}

Tensor mxfp8_scaled_mm_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales,
                            OptionalTensor bias, ScalarType out_dtype) {
  return run_cuda("mxfp8_scaled_mm", MicroFormat::kMxfp8, false, a, b, a_scales, b_scales, 1.0, bias,
                  out_dtype);
}

Tensor mxfp8_scaled_mm_standin_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales,
                                    const Tensor& b_scales, OptionalTensor bias, ScalarType out_dtype) {
  return run_cuda("mxfp8_scaled_mm_standin", MicroFormat::kMxfp8, true, a, b, a_scales, b_scales, 1.0, bias,
                  out_dtype);
}

Tensor nvfp4_scaled_mm_cpu(const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales,
                           double alpha, OptionalTensor bias, ScalarType out_dtype) {
  return run_cpu("nvfp4_scaled_mm", MicroFormat::kNvfp4, a, b, a_scales, b_scales, alpha, bias, out_dtype);
}

Tensor nvfp4_scaled_mm_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales,
                            double alpha, OptionalTensor bias, ScalarType out_dtype) {
  return run_cuda("nvfp4_scaled_mm", MicroFormat::kNvfp4, false, a, b, a_scales, b_scales, alpha, bias,
                  out_dtype);
}

Tensor nvfp4_scaled_mm_standin_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales,
                                    const Tensor& b_scales, double alpha, OptionalTensor bias,
                                    ScalarType out_dtype) {
  return run_cuda("nvfp4_scaled_mm_standin", MicroFormat::kNvfp4, true, a, b, a_scales, b_scales, alpha, bias,
                  out_dtype);
}

STABLE_TORCH_LIBRARY_FRAGMENT(kernelpkg, m) {
  m.def(
      "mxfp8_scaled_mm(Tensor a, Tensor b, Tensor a_scales, Tensor b_scales, Tensor? bias, "
      "ScalarType out_dtype) -> Tensor");
  m.def(
      "nvfp4_scaled_mm(Tensor a, Tensor b, Tensor a_scales, Tensor b_scales, float alpha, Tensor? bias, "
      "ScalarType out_dtype) -> Tensor");
}

STABLE_TORCH_LIBRARY_FRAGMENT(kernelpkg_evidence, m) {
  m.def(
      "mxfp8_scaled_mm_standin(Tensor a, Tensor b, Tensor a_scales, Tensor b_scales, Tensor? bias, "
      "ScalarType out_dtype) -> Tensor");
  m.def(
      "nvfp4_scaled_mm_standin(Tensor a, Tensor b, Tensor a_scales, Tensor b_scales, float alpha, "
      "Tensor? bias, ScalarType out_dtype) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(kernelpkg, CPU, m) {
  m.impl("mxfp8_scaled_mm", TORCH_BOX(&mxfp8_scaled_mm_cpu));
  m.impl("nvfp4_scaled_mm", TORCH_BOX(&nvfp4_scaled_mm_cpu));
}

STABLE_TORCH_LIBRARY_IMPL(kernelpkg, CUDA, m) {
  m.impl("mxfp8_scaled_mm", TORCH_BOX(&mxfp8_scaled_mm_cuda));
  m.impl("nvfp4_scaled_mm", TORCH_BOX(&nvfp4_scaled_mm_cuda));
}

STABLE_TORCH_LIBRARY_IMPL(kernelpkg_evidence, CPU, m) {
  m.impl("mxfp8_scaled_mm_standin", TORCH_BOX(&mxfp8_scaled_mm_cpu));
  m.impl("nvfp4_scaled_mm_standin", TORCH_BOX(&nvfp4_scaled_mm_cpu));
}

STABLE_TORCH_LIBRARY_IMPL(kernelpkg_evidence, CUDA, m) {
  m.impl("mxfp8_scaled_mm_standin", TORCH_BOX(&mxfp8_scaled_mm_standin_cuda));
  m.impl("nvfp4_scaled_mm_standin", TORCH_BOX(&nvfp4_scaled_mm_standin_cuda));
}

}  // namespace kernelpkg::bindings
