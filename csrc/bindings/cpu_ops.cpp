#include "bindings/cpu_ops.h"

#include <torch/csrc/stable/ops.h>

#include "bindings/cpu_reference.h"
#include "bindings/scaled_mm_checks.h"

namespace kernelpkg::bindings {

Tensor marlin_gemm_cpu(const Tensor& a, const Tensor& b_packed, const Tensor& b_scales,
                       OptionalTensor b_zeros, OptionalTensor a_scales, OptionalTensor bias,
                       int64_t weight_format, int64_t size_n, int64_t size_k, int64_t group_size,
                       double output_scale) {
  MarlinArgs args = check_marlin_gemm("marlin_gemm", a, b_packed, b_scales, b_zeros, a_scales, bias,
                                      weight_format, size_n, size_k, group_size, output_scale);
  Tensor c = torch::stable::new_empty(a, {args.m, args.n}, scalar_type(args.c_type));
  args.c = c.mutable_data_ptr();
  marlin_gemm_reference(args);
  return c;
}

Tensor marlin_repack_cpu_op(const Tensor& weight, int64_t weight_format, int64_t size_k, int64_t size_n) {
  const WeightFormat format = check_marlin_repack(weight, weight_format, size_k, size_n);
  Tensor packed = torch::stable::new_empty(weight, packed_shape(format, size_k, size_n), ScalarType::Int);
  MarlinRepackArgs args{};
  args.weight = weight.const_data_ptr();
  args.format = format;
  args.packed = static_cast<uint32_t*>(packed.mutable_data_ptr());
  args.k = static_cast<int>(size_k);
  args.n = static_cast<int>(size_n);
  const Status status = marlin_repack_cpu(args);
  if (!status.ok()) refuse(status.message());
  return packed;
}

Tensor scaled_mm_cpu(const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales,
                     OptionalTensor bias, ScalarType out_dtype, int64_t configuration) {
  ScaledMmArgs args = check_scaled_mm("cutlass_scaled_mm", a, b, a_scales, b_scales, bias, out_dtype,
                                      configuration);
  Tensor c = torch::stable::new_empty(a, {args.m, args.n}, out_dtype);
  args.c = c.mutable_data_ptr();
  scaled_mm_reference(args);
  return c;
}

}  // namespace kernelpkg::bindings
