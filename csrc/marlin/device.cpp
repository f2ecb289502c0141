#include "marlin/device.h"

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>

namespace kernelpkg::marlin {
namespace {

Status read_facts(int device, DeviceFacts* facts) {
  const struct {
    cudaDeviceAttr attribute;
    int* value;
  } reads[] = {
      {cudaDevAttrComputeCapabilityMajor, &facts->major},
      {cudaDevAttrComputeCapabilityMinor, &facts->minor},
      {cudaDevAttrMultiProcessorCount, &facts->sms},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, &facts->shared_optin},
  };
  for (const auto& read : reads) {
    const cudaError_t error = cudaDeviceGetAttribute(read.value, read.attribute, device);
    if (error != cudaSuccess) {
      return cuda_failure(
          "marlin: device " + std::to_string(device) + " does not answer for its attributes",
          error);
    }
  }
  return {};
}

}  // namespace

Status device_facts(int device, DeviceFacts* facts) {
  static std::mutex mutex;
  static std::map<int, DeviceFacts> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(device);
  if (found != known.end()) {
    *facts = found->second;
    return {};
  }
  KERNELPKG_RETURN_IF_ERROR(read_facts(device, facts));
  known.emplace(device, *facts);
  return {};
}

Status prepare(const void* kernel, int threads, size_t shared_bytes, int device,
               const DeviceFacts& facts) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> prepared;
  const std::lock_guard<std::mutex> lock(mutex);
  if (prepared.count({kernel, device}) != 0) return {};
  const std::string capability = std::to_string(facts.major) + "." + std::to_string(facts.minor);
  if (shared_bytes > static_cast<size_t>(facts.shared_optin)) {
    return Status::error("marlin: a tile needs " + std::to_string(shared_bytes) +
                         " bytes of shared memory and capability " + capability +
                         " gives a block " + std::to_string(facts.shared_optin) +
                         "; build the other tiles with --set release.");
  }
  const RelaxedCapture relaxed;
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error == cudaErrorInvalidDeviceFunction || error == cudaErrorNoKernelImageForDevice ||
      error == cudaErrorUnsupportedPtxVersion) {
    cudaGetLastError();
    return Status::error("marlin: this library holds no code that loads on capability " +
                         capability + " (device " + std::to_string(device) +
                         "); rebuild it there with `kernelpkg build --arch native`.");
  }
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  }
  if (error ==
      cudaSuccess) {  // room for as many blocks as fit: the pipeline wants shared memory, not L1
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                 cudaSharedmemCarveoutMaxShared);
  }
  int blocks = 0;
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes);
  }
  if (error != cudaSuccess) {
    return cuda_failure(
        "marlin: a kernel could not be prepared on device " + std::to_string(device), error);
  }
  if (blocks < 1) {
    return Status::error("marlin: a kernel does not fit a multiprocessor of capability " +
                         capability + "; rebuild with `kernelpkg build --arch native`.");
  }
  prepared.emplace(kernel, device);
  return {};
}

}  // namespace kernelpkg::marlin
