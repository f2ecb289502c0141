// Host checks of the scaled_mm operators' arguments: see checks.h.
#pragma once

#include "bindings/checks.h"

namespace kernelpkg::bindings {

// Fills everything of the arguments but c, workspace, device and stream; `op` begins the sentences. Rows of a
// and columns of b are taken as they lie: the CUDA operators copy those that lines_need_copy names. Which
// configurations there are is for the dispatcher to say.
ScaledMmArgs check_scaled_mm(const char* op, const Tensor& a, const Tensor& b, const Tensor& a_scales,
                             const Tensor& b_scales, const OptionalTensor& bias, ScalarType out_dtype,
                             int64_t configuration);

// Bytes from one line of `k` FP8 values to the next where each starts on 16 bytes.
constexpr int64_t line_bytes(int64_t k) {
  return (k + kScaledMmRowBytes - 1) / kScaledMmRowBytes * kScaledMmRowBytes;
}

// Whether the kernels cannot read lines of `k` values where they lie: each must start on 16 bytes.
bool lines_need_copy(const void* first, int64_t stride, int64_t k);

}  // namespace kernelpkg::bindings
