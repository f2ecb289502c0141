// The instances that were built into this library. Each generated file adds its own (instance.cuh),
// so any subset of the catalogue links and runs: dispatch picks among what is here.
#pragma once

#include <cstddef>
#include <vector>

#include "common/dtypes.h"

namespace kernelpkg::marlin {

enum class Family { kShipped, kEmulated };

struct KernelInstance {
  Family family;
  DType a_type;
  WeightFormat format;
  DType c_type;
  int rows;
  int stage_k;
  int stages;
  int threads;
  size_t shared_bytes;
  float fragment_scale;  // dequant.cuh
  const void* kernel;    // the __global__ function's host handle
};

// Every instance that registered before main; not changed after.
const std::vector<KernelInstance>& instances();

// Returns true, so that a namespace-scope constant can call it.
bool add_instance(const KernelInstance& instance);

}  // namespace kernelpkg::marlin
