// What every entry point does before it launches: ask the gate, make the device current.
#pragma once

#include <string>

#include "kernelpkg_gates.h"
#include "marlin/device.h"

namespace kernelpkg::marlin {

template <class Gate>
Status require(const char* who, const DeviceFacts& facts) {
  if (Gate::admits(facts.major, facts.minor)) return {};
  return Status::error(std::string(who) + ": " + Gate::refusal(facts.major, facts.minor));
}

// A kernel beside the GEMM (helpers.h), on its device. launch: returns a cudaError_t.
template <class LaunchHelper>
Status run_helper(const char* who, int device, const LaunchHelper& launch) {
  DeviceFacts facts;
  KERNELPKG_RETURN_IF_ERROR(device_facts(device, &facts));
  KERNELPKG_RETURN_IF_ERROR(require<gates::marlin_16bit>(who, facts));
  const CurrentDevice current(device);
  KERNELPKG_RETURN_IF_ERROR(current.status());
  const cudaError_t error = launch();
  if (error == cudaSuccess) return {};
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
    return cuda_failure(std::string(who) + ": this library holds no code for capability " +
                            std::to_string(facts.major) + "." + std::to_string(facts.minor) +
                            ", rebuild it there with `kernelpkg build --arch native`",
                        error);
  }
  return cuda_failure(std::string(who) + ": the launch failed", error);
}

}  // namespace kernelpkg::marlin
