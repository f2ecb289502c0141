#include "bindings/scaled_mm_checks.h"

#include <cstdint>
#include <limits>

#include "bindings/check_parts.h"

namespace kernelpkg::bindings {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();
// N and K are rounded up to 16, and must then still be an int.
constexpr int64_t kMaxExtent = kMaxInt / kScaledMmRowBytes * kScaledMmRowBytes;

int64_t blocks_of(int64_t extent) { return (extent + kScaleBlock - 1) / kScaleBlock; }

bool is_vector(const Tensor& scales, int64_t count) { return scales.numel() == 1 || scales.numel() == count; }

bool is_matrix(const Tensor& scales, int64_t rows, int64_t columns) {
  return scales.dim() == 2 && scales.size(0) == rows && scales.size(1) == columns;
}

void check_float(const char* op, const char* what, const Tensor& scales, const Tensor& a) {
  if (scales.scalar_type() != ScalarType::Float) {
    refuse_parts(op, given(what, scales), "; scales must be float32, convert them with .float()");
  }
  check_device(op, what, scales, a, "a");
}

// Which kind the scales are of, and their strides. A shape that fits both kinds means the same in either.
void check_scales(const char* op, const Tensor& a, const Tensor& a_scales, const Tensor& b_scales,
                  ScaledMmArgs* args) {
  check_float(op, "a_scales", a_scales, a);
  check_float(op, "b_scales", b_scales, a);
  const int64_t m = args->m, n = args->n, k_blocks = blocks_of(args->k), n_blocks = blocks_of(n);
  const bool vectors = is_vector(a_scales, m) && is_vector(b_scales, n);
  if (vectors && a_scales.is_contiguous() && b_scales.is_contiguous()) {
    args->a_scale_row = a_scales.numel() == 1 ? 0 : 1;
    args->b_scale_column = b_scales.numel() == 1 ? 0 : 1;
  } else if (is_matrix(a_scales, m, k_blocks) && is_matrix(b_scales, k_blocks, n_blocks)) {
    args->block_scales = true;
    args->a_scale_row = a_scales.stride(0);
    args->a_scale_block = a_scales.stride(1);
    args->b_scale_block = b_scales.stride(0);
    args->b_scale_column = b_scales.stride(1);
  } else if (vectors) {
    check_contiguous(op, "a_scales", a_scales);
    check_contiguous(op, "b_scales", b_scales);
  } else {
    refuse_parts(op, "a_scales is ", list(a_scales.sizes()), " and b_scales ", list(b_scales.sizes()),
                 "; they must have one value or one per row of a (", m, ") and one value or one per column of "
                 "b (", n, "), or come in blocks of ", kScaleBlock, ": [", m, ", ", k_blocks, "] and [",
                 k_blocks, ", ", n_blocks, "]");
  }
  args->b_scales = static_cast<const float*>(b_scales.const_data_ptr());
  // No rows, no storage: any pointer will do, it is not followed.
  args->a_scales = m == 0 ? args->b_scales : static_cast<const float*>(a_scales.const_data_ptr());
}

}  // namespace

ScaledMmArgs check_scaled_mm(const char* op, const Tensor& a, const Tensor& b, const Tensor& a_scales,
                             const Tensor& b_scales, const OptionalTensor& bias, ScalarType out_dtype,
                             int64_t configuration) {
  ScaledMmArgs args{};
  const ScalarType a_type = a.scalar_type();
  if ((a_type != ScalarType::Float8_e4m3fn && a_type != ScalarType::Float8_e5m2) ||
      b.scalar_type() != ScalarType::Float8_e4m3fn) {
    refuse_parts(op, "a is ", name(a_type), " and b ", name(b.scalar_type()),
                 "; a must be float8_e4m3fn or float8_e5m2 and b float8_e4m3fn, quantise them first");
  }
  if (!is_16bit(out_dtype)) {
    refuse_parts(op, "out_dtype is ", name(out_dtype), "; it must be bfloat16 or float16");
  }
  if (a.dim() != 2 || b.dim() != 2 || a.size(1) != b.size(0)) {
    refuse_parts(op, "a is ", list(a.sizes()), " and b ", list(b.sizes()),
                 "; they must be [M, K] and [K, N] with one K");
  }
  if (configuration < -1 || configuration > kMaxInt) {
    refuse_parts(op, "configuration is ", configuration, "; it must be a place in the route's table of "
                 "configurations (ops.configurations), or -1 for the dispatcher's choice");
  }
  const int64_t n = b.size(1), k = b.size(0);
  check_size(op, "K", k, kMaxExtent);
  check_size(op, "N", n, kMaxExtent);
  const int64_t lda = check_row_major(op, a, k);
  if (k > 1 && b.stride(0) != 1) {
    refuse_parts(op, "b is ", list(b.sizes()), " with strides ", list(b.strides()),
                 "; it must be column-major, strides [1, s], use b.t().contiguous().t()");
  }
  check_device(op, "b", b, a, "a");

  args.m = static_cast<int>(a.size(0));
  args.n = static_cast<int>(n);
  args.k = static_cast<int>(k);
  args.a = a.const_data_ptr();
  args.a_type = dtype_of(a_type);
  // The stride of a single line means nothing.
  args.lda = args.m > 1 ? lda : line_bytes(k);
  args.b = b.const_data_ptr();
  args.ldb = n > 1 ? b.stride(1) : line_bytes(k);
  check_scales(op, a, a_scales, b_scales, &args);
  args.bias = check_bias(op, bias, a, n, out_dtype);
  args.ldc = n;
  args.c_type = dtype_of(out_dtype);
  args.configuration = static_cast<int>(configuration);
  return args;
}

bool lines_need_copy(const void* first, int64_t stride, int64_t k) {
  return stride < k || stride % kScaledMmRowBytes != 0 ||
         reinterpret_cast<uintptr_t>(first) % kScaledMmRowBytes != 0;
}

}  // namespace kernelpkg::bindings
