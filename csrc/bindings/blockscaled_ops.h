// The microscaled GEMMs as operators, on CPU and CUDA tensors. Their source file registers them itself.
#pragma once

#include "bindings/checks.h"

namespace kernelpkg::bindings {

// a [M, K] and b [N, K] e4m3, scales e8m0 (or uint8) in tiles, see scaled_mm/blockscaled.h.
Tensor mxfp8_scaled_mm_cpu(const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales,
                           OptionalTensor bias, ScalarType out_dtype);
Tensor mxfp8_scaled_mm_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales,
                            OptionalTensor bias, ScalarType out_dtype);
Tensor mxfp8_scaled_mm_standin_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales,
                                    const Tensor& b_scales, OptionalTensor bias, ScalarType out_dtype);

// a [M, K/2] and b [N, K/2] uint8, two e2m1 codes a byte, the lower K in the low half; scales e4m3 in tiles;
// alpha: the product of the global scales.
Tensor nvfp4_scaled_mm_cpu(const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales,
                           double alpha, OptionalTensor bias, ScalarType out_dtype);
Tensor nvfp4_scaled_mm_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales,
                            double alpha, OptionalTensor bias, ScalarType out_dtype);
Tensor nvfp4_scaled_mm_standin_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales,
                                    const Tensor& b_scales, double alpha, OptionalTensor bias,
                                    ScalarType out_dtype);

}  // namespace kernelpkg::bindings
