#include "common/tensor_map.h"

#include <cuda_runtime_api.h>

namespace kernelpkg {
namespace {

// The driver's encoder. The driver library is not linked: a machine without one loads this library.
using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

EncodeTiled encode_tiled() {
  static const EncodeTiled found = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               12000, cudaEnableDefault, &result);
    const bool ok = error == cudaSuccess && result == cudaDriverEntryPointSuccess;
    return ok ? reinterpret_cast<EncodeTiled>(entry) : nullptr;
  }();
  return found;
}

}  // namespace

Status encode_tensor_map(const std::string& op, const char* what, const TensorMapSpec& tensor,
                         CUtensorMap* map) {
  const EncodeTiled encode = encode_tiled();
  if (encode == nullptr) {
    return Status::error(
        op + ": the driver has no cuTensorMapEncodeTiled; update it to one for CUDA 12 or later.");
  }
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  const CUresult result =
      encode(map, tensor.type, static_cast<cuuint32_t>(tensor.extents.size()),
             const_cast<void*>(tensor.base), tensor.extents.data(), tensor.strides.data(),
             tensor.box.data(), steps, CU_TENSOR_MAP_INTERLEAVE_NONE, tensor.swizzle,
             tensor.promotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return {};
  return Status::error(op + ": the driver refused the tensor map of " + what + " (error " +
                       std::to_string(static_cast<int>(result)) + ").");
}

}  // namespace kernelpkg
