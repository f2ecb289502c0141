// The operators on CUDA tensors: check, allocate, call the host API on the tensor's device and stream.
#pragma once

#include "bindings/checks.h"

namespace kernelpkg::bindings {

Tensor marlin_gemm_cuda(const Tensor& a, const Tensor& b_packed, const Tensor& b_scales,
                        OptionalTensor b_zeros, OptionalTensor a_scales, OptionalTensor bias,
                        int64_t weight_format, int64_t size_n, int64_t size_k, int64_t group_size,
                        double output_scale);
Tensor marlin_gemm_emulated_cuda(const Tensor& a, const Tensor& b_packed, const Tensor& b_scales,
                                 OptionalTensor b_zeros, OptionalTensor a_scales, OptionalTensor bias,
                                 int64_t weight_format, int64_t size_n, int64_t size_k, int64_t group_size,
                                 double output_scale);
Tensor marlin_repack_cuda(const Tensor& weight, int64_t weight_format, int64_t size_k, int64_t size_n);
Tensor scaled_mm_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales,
                      OptionalTensor bias, ScalarType out_dtype, int64_t configuration);
Tensor scaled_mm_sm89_standin_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales,
                                   const Tensor& b_scales, OptionalTensor bias, ScalarType out_dtype,
                                   int64_t configuration);
Tensor scaled_mm_sm120_standin_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales,
                                    const Tensor& b_scales, OptionalTensor bias, ScalarType out_dtype,
                                    int64_t configuration);

}  // namespace kernelpkg::bindings
