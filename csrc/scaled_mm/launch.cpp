// What touches the CUDA runtime: device properties, first use of a kernel, the launch itself.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <mutex>
#include <string>

#include "scaled_mm/registry.h"

namespace kernelpkg {
namespace {

constexpr int kMaxDevices = 64;

Status cuda_error(const std::string& what, cudaError_t error) {
  cudaGetLastError();  // Not sticky errors only: leave none behind for the next caller.
  return Status::error(what + ": " + cudaGetErrorString(error) + ".");
}

// First use of a kernel loads its module, which a strict stream capture of this thread would
// forbid.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

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
    return cuda_error(
        "scaled_mm: the properties of device " + std::to_string(device) + " cannot be read", error);
  }
  *out = known[device];
  return Status();
}

Status scaled_mm_prepare(const ScaledMmInstance& instance, int device,
                         const ScaledMmDevice& properties) {
  const uint64_t bit = uint64_t{1} << device;
  if (instance.ready.load(std::memory_order_acquire) & bit) return Status();
  RelaxedCapture relaxed;
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, instance.kernel) != cudaSuccess) {
    cudaGetLastError();
    return Status::error(std::string(instance.name) + ": this library has no code for capability " +
                         std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                         " (device " + std::to_string(device) +
                         "); rebuild it there with `kernelpkg build --arch native`.");
  }
  const cudaError_t error =
      cudaFuncSetAttribute(instance.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(instance.shared_memory));
  if (error != cudaSuccess) {
    return cuda_error(std::string(instance.name) + ": device " + std::to_string(device) +
                          " does not grant " + std::to_string(instance.shared_memory) +
                          " bytes of shared memory per block",
                      error);
  }
  instance.ready.fetch_or(bit, std::memory_order_release);
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
    return cuda_error(std::string(name) + ": the launch failed", error);
  }
  return Status();
}

}  // namespace kernelpkg
