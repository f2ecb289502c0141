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

// A last round is cut into so many parts of K at most, each of so many blocks of K at least.
constexpr int kMaxCuts = 8;
constexpr int kCutBlocks = 4;

// A configuration's row in the dispatch table, which is data of the catalogue
// (kernelpkg/build/configurations_scaled_mm.py).
struct ScaledMmRow {
  int place;          // in the route's table; the same for every type of a
  int min_m, max_m;   // of a call that may choose it; max_m 0: no limit
  int rows, columns;  // of c that a cluster computes together; columns 0: an equal share of any N
  int blocks;         // of a cluster
  int per_sm;         // blocks that share a multiprocessor
  float round, step;  // relative cost of a round of blocks, and of 128 values of K in it
  float split;        // of adding up parts of K, where a last round that is not full is cut along
                      // K; 0: it is not
};

struct ScaledMmInstance {
  const char* name;           // stem of the generated file
  const char* configuration;  // for people: "128x128x128 pingpong, cluster 2x1"
  ScaledMmRoute route;
  DType a_type;
  bool block_scales;
  ScaledMmRow row;
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

// The instance that serves such a call on a device with `sm_count` multiprocessors, among those of
// this build: of the rows that take this M the one with the least rounds * (round + step *
// ceil(k / 128)) (for equal shares and cut rounds see cost() in scaled_mm.cpp); where none takes
// it, the one whose range of M is nearest. Refused where the build has none at all.
Status scaled_mm_choice(ScaledMmRoute route, DType a_type, bool block_scales, int m, int n, int k,
                        int sm_count, bool standin, const ScaledMmInstance** out);

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
