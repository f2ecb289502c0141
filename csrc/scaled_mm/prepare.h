// What a launch asks of a kernel and a device first, once each.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "common/device.h"
#include "common/launch.h"
#include "common/status.h"
#include "scaled_mm/registry.h"

namespace kernelpkg {

// Finds the code of `kernel`, called `name` in a refusal, for the current device, which must be
// `device`, and raises its limit of shared memory; the work is done once per device, whose bit
// `ready` then has.
Status prepare_kernel(const char* name, const void* kernel, size_t shared_memory, int device,
                      const ScaledMmDevice& properties, std::atomic<uint64_t>* ready);

// How many clusters of `cluster` blocks, each of so many threads and bytes of shared memory, the
// current device, which must be `device`, holds at once.
Status clusters_at_once(const char* name, const void* kernel, int threads, size_t shared_memory,
                        int cluster, int device, int* clusters);

// Launches a kernel that follows another of the same call. With `overlap` (9.0 and later) it is
// scheduled while that one runs out, and has to wait for its end on the device (async_copy.cuh).
template <auto kKernel, class Params>
Status second_kernel(const char* name, dim3 grid, int threads, bool overlap, const Params& params,
                     const ScaledMmArgs& args, const ScaledMmDevice& device) {
  static std::atomic<uint64_t> ready{0};
  const auto* kernel = reinterpret_cast<const void*>(kKernel);
  KERNELPKG_RETURN_IF_ERROR(prepare_kernel(name, kernel, 0, args.device, device, &ready));
  const Launch launch(grid, threads, 0, overlap, args.stream);
  const cudaError_t error = launch.run(kernel, params);
  return error == cudaSuccess ? Status()
                              : cuda_failure(std::string(name) + ": the launch failed", error);
}

}  // namespace kernelpkg
