// The operators on CPU tensors: the same checks as on a GPU, then the references.
#pragma once

#include "bindings/checks.h"

namespace kernelpkg::bindings {

Tensor marlin_gemm_cpu(const Tensor& a, const Tensor& b_packed, const Tensor& b_scales,
                       OptionalTensor b_zeros, OptionalTensor a_scales, OptionalTensor bias,
                       int64_t weight_format, int64_t size_n, int64_t size_k, int64_t group_size,
                       double output_scale);
Tensor marlin_repack_cpu_op(const Tensor& weight, int64_t weight_format, int64_t size_k, int64_t size_n);
Tensor scaled_mm_cpu(const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales,
                     OptionalTensor bias, ScalarType out_dtype, int64_t configuration);

}  // namespace kernelpkg::bindings
