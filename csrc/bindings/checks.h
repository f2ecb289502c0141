// Host checks of the operators' arguments: everything a caller can get wrong is refused here, before any
// pointer is followed, with one sentence that names what was given, what is allowed and what to do. The CPU
// and the CUDA implementations share them, so that a call accepted on a laptop is accepted on a GPU.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/dtypes.h"
#include "marlin/marlin.h"
#include "scaled_mm/scaled_mm.h"

namespace kernelpkg::bindings {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Activation rows are read 16 bytes at a time (cp.async, TMA).
constexpr int64_t kAlignment = 16;

// Throws std::invalid_argument, which reaches Python as ValueError with nothing added to the message.
[[noreturn]] void refuse(const std::string& message);

// Shape of a packed weight: strips of 64 columns, blocks of 32 rows of K, the words of a block.
std::vector<int64_t> packed_shape(WeightFormat format, int64_t size_k, int64_t size_n);

// Fills everything of the arguments but c, workspace, device and stream. `op` begins the sentences. Rows of
// `a` are taken as they lie: the CUDA operator copies those that rows_need_copy names.
MarlinArgs check_marlin_gemm(const char* op, const Tensor& a, const Tensor& b_packed,
                             const Tensor& b_scales, const OptionalTensor& b_zeros,
                             const OptionalTensor& a_scales, const OptionalTensor& bias,
                             int64_t weight_format, int64_t size_n, int64_t size_k, int64_t group_size,
                             double output_scale);

// Whether the kernels cannot read the rows of `a` where they lie: 16-byte copies need each row to start on
// 16 bytes and to be a whole multiple of them.
bool rows_need_copy(const MarlinArgs& args);

// The weight format of a marlin_repack call whose arguments all hold.
WeightFormat check_marlin_repack(const Tensor& weight, int64_t weight_format, int64_t size_k,
                                 int64_t size_n);

// torch's dtype for the output of these arguments.
ScalarType scalar_type(DType type);

}  // namespace kernelpkg::bindings
