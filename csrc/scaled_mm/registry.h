// The instances this build holds. Every generated .cu file adds one at load time; the dispatcher
// looks them up, so a build may hold any subset.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "scaled_mm/scaled_mm.h"

namespace kernelpkg {

// What a launch needs to know of the device, read once per device.
struct ScaledMmDevice {
  int major = 0;
  int minor = 0;
  int sm_count = 0;
  int64_t l2_bytes = 0;
};

struct ScaledMmInstance {
  const char* name;    // stem of the generated file
  const char* choice;  // for people: what scaled_mm_choice returns
  ScaledMmRoute route;
  DType c_type;
  int tile;  // place in the route's order of tiles, 0 serves the smallest M
  size_t shared_memory;
  const void* kernel;
  size_t (*workspace_bytes)(const ScaledMmArgs&, const ScaledMmDevice&);
  Status (*launch)(const ScaledMmArgs&, const ScaledMmDevice&);
  // Bit d: the kernel was found in the image of device d and its shared memory limit was raised
  // there.
  mutable std::atomic<uint64_t> ready{0};
};

// Shipped kernels, and apart from them the evidence kernels, which only scaled_mm_standin() reads.
// Filled before main() and on loading a library, not changed afterwards.
std::vector<const ScaledMmInstance*>& scaled_mm_registry();
std::vector<const ScaledMmInstance*>& scaled_mm_standin_registry();

struct ScaledMmRegistrar {
  ScaledMmRegistrar(std::vector<const ScaledMmInstance*>& registry,
                    const ScaledMmInstance& instance) {
    registry.push_back(&instance);
  }
};

// Launches `kernel` on `stream`; `params` points at its one parameter.
Status scaled_mm_launch(const char* name, const void* kernel, dim3 grid, dim3 block, dim3 cluster,
                        size_t shared_memory, void* params, cudaStream_t stream);

// "NAME cannot run this shape: REASON".
Status scaled_mm_refusal(const char* name, const char* reason);

// Whether the driver filled in a TMA descriptor (128 bytes, made of zeros): CUTLASS does not say
// when it did not.
bool scaled_mm_encoded(const void* descriptor);

// The properties of `device`, cached.
Status scaled_mm_device(int device, ScaledMmDevice* out);

// Finds the instance's code for the current device, which must be `device`, and raises its limit of
// shared memory; the work is done once per device.
Status scaled_mm_prepare(const ScaledMmInstance& instance, int device,
                         const ScaledMmDevice& properties);

}  // namespace kernelpkg
