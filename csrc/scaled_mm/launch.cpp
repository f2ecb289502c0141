// What touches the CUDA runtime: device properties, first use of a kernel, the launch itself.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

#include "common/device.h"
#include "common/launch.h"
#include "scaled_mm/prepare.h"
#include "scaled_mm/registry.h"

namespace kernelpkg {
namespace {

constexpr int kMaxDevices = 64;

}  // namespace

std::vector<const ScaledMmInstance*>& scaled_mm_registry() {
  static std::vector<const ScaledMmInstance*> registry;
  return registry;
}

std::vector<const ScaledMmInstance*>& scaled_mm_standin_registry() {
  static std::vector<const ScaledMmInstance*> registry;
  return registry;
}

Status scaled_mm_refusal(const char* name, const char* reason) {
  return Status::error(std::string(name) + " cannot run this shape: " + reason + ".");
}

bool scaled_mm_encoded(const void* descriptor) {
  const auto* bytes = static_cast<const unsigned char*>(descriptor);
  return std::any_of(bytes, bytes + 128, [](unsigned char byte) { return byte != 0; });
}

Status scaled_mm_device(int device, ScaledMmDevice* out) {
  static std::once_flag once[kMaxDevices];
  static ScaledMmDevice known[kMaxDevices];
  if (device < 0 || device >= kMaxDevices) {
    return Status::error("scaled_mm: device " + std::to_string(device) + " is not one of 0 to " +
                         std::to_string(kMaxDevices - 1) +
                         "; pass the index of the tensors' device.");
  }
  cudaError_t error = cudaSuccess;
  try {
    std::call_once(once[device], [&] {
      ScaledMmDevice found;
      int l2_bytes = 0;
      const struct {
        int* to;
        cudaDeviceAttr attribute;
      } reads[] = {
          {&found.major, cudaDevAttrComputeCapabilityMajor},
          {&found.minor, cudaDevAttrComputeCapabilityMinor},
          {&found.sm_count, cudaDevAttrMultiProcessorCount},
          {&l2_bytes, cudaDevAttrL2CacheSize},
      };
      for (const auto& read : reads) {
        error = cudaDeviceGetAttribute(read.to, read.attribute, device);
        if (error != cudaSuccess) throw error;  // Keeps the flag unset: the next call asks again.
      }
      found.l2_bytes = l2_bytes;
      known[device] = found;
    });
  } catch (cudaError_t) {
    return cuda_failure(
        "scaled_mm: the properties of device " + std::to_string(device) + " cannot be read", error);
  }
  *out = known[device];
  return Status();
}

Status prepare_kernel(const char* name, const void* kernel, size_t shared_memory, int device,
                      const ScaledMmDevice& properties, std::atomic<uint64_t>* ready) {
  const uint64_t bit = uint64_t{1} << device;
  if (ready->load(std::memory_order_acquire) & bit) return Status();
  const RelaxedCapture relaxed;
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) {
    cudaGetLastError();  // leave none behind for the next caller
    return Status::error(std::string(name) + ": this library has no code for capability " +
                         std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                         " (device " + std::to_string(device) +
                         "); rebuild it there with `kernelpkg build --arch native`.");
  }
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_memory));
  if (error != cudaSuccess) {
    return cuda_failure(std::string(name) + ": device " + std::to_string(device) +
                            " does not grant " + std::to_string(shared_memory) +
                            " bytes of shared memory per block",
                        error);
  }
  ready->fetch_or(bit, std::memory_order_release);
  return Status();
}

Status scaled_mm_prepare(const ScaledMmInstance& instance, int device,
                         const ScaledMmDevice& properties) {
  return prepare_kernel(instance.name, instance.kernel, instance.shared_memory, device, properties,
                        &instance.ready);
}

Status clusters_at_once(const char* name, const void* kernel, int threads, size_t shared_memory,
                        int cluster, int device, int* clusters) {
  static std::mutex mutex;
  static std::map<std::tuple<const void*, int, int>, int> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const std::tuple<const void*, int, int> key{kernel, cluster, device};
  const auto found = known.find(key);
  if (found != known.end()) {
    *clusters = found->second;
    return Status();
  }
  Launch launch(dim3(static_cast<unsigned>(cluster)), threads, shared_memory, false, nullptr);
  launch.cluster(cluster);
  const cudaError_t error = launch.clusters_at_once(kernel, clusters);
  if (error != cudaSuccess) {
    return cuda_failure(std::string(name) + ": the room for clusters cannot be asked", error);
  }
  known.emplace(key, *clusters);
  return Status();
}

Status scaled_mm_launch(const char* name, const void* kernel, dim3 grid, dim3 block, dim3 cluster,
                        size_t shared_memory, void* params, cudaStream_t stream) {
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = cluster.x;
  attribute.val.clusterDim.y = cluster.y;
  attribute.val.clusterDim.z = cluster.z;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_memory;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = cluster.x * cluster.y * cluster.z > 1 ? 1 : 0;
  void* arguments[] = {params};
  const cudaError_t error = cudaLaunchKernelExC(&config, kernel, arguments);
  if (error != cudaSuccess) {
    return cuda_failure(std::string(name) + ": the launch failed", error);
  }
  return Status();
}

}  // namespace kernelpkg
