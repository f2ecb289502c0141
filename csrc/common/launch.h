// One kernel launch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace kernelpkg {

// With `overlap` (9.0 and later) the blocks may be scheduled while the kernel before runs out; they
// wait for its end on the device before they read or write anything (async_copy.cuh).
class Launch {
 public:
  Launch(dim3 blocks, int threads, size_t shared_bytes, bool overlap, cudaStream_t stream) {
    config_.gridDim = blocks;
    config_.blockDim = dim3(static_cast<unsigned>(threads));
    config_.dynamicSmemBytes = shared_bytes;
    config_.stream = stream;
    config_.attrs = attributes_;
    if (!overlap) return;
    cudaLaunchAttribute& attribute = attributes_[config_.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  // Every `blocks` neighbouring blocks are a cluster (9.0 and later).
  void cluster(int blocks) {
    cudaLaunchAttribute& attribute = attributes_[config_.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
  }

  // How many such clusters the current device holds at once.
  cudaError_t clusters_at_once(const void* kernel, int* clusters) const {
    return cudaOccupancyMaxActiveClusters(clusters, kernel, &config_);
  }

  // kernel: a __global__ function's handle; arguments: what it takes, types and all.
  template <class... Arguments>
  cudaError_t run(const void* kernel, const Arguments&... arguments) const {
    void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
    return cudaLaunchKernelExC(&config_, kernel, pointers);
  }

 private:
  cudaLaunchConfig_t config_ = {};
  cudaLaunchAttribute attributes_[2] = {};
};

}  // namespace kernelpkg
