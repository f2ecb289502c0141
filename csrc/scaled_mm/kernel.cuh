// The one kernel of scaled_mm: a CUTLASS GEMM inside our own guard.
//
// CUTLASS kernels compiled for a target they were not written for may neither trap nor compute.
// Here the body exists only where the gate ships device code; for any other target the machine code
// is one trap.
#pragma once

#include "common/guard.cuh"
#include "cutlass/cutlass.h"
#include "scaled_mm/registry.h"

namespace kernelpkg {

// `Instance` is the tag of a generated file. It names Gate and Params, the block's size kThreads
// and kMinBlocks, and run(params, shared_memory), the body.
template <class Instance>
__global__ void __launch_bounds__(Instance::kThreads, Instance::kMinBlocks)
    scaled_mm_kernel(__grid_constant__ const typename Instance::Params params) {
  if constexpr (!Instance::Gate::kDeviceCode) {
    guard_trap();
  } else {
    extern __shared__ __align__(1024) char shared_memory[];
    Instance::run(params, shared_memory);
  }
}

}  // namespace kernelpkg

// Defines the tag NAME of an instance from its type, the last argument, and adds it to REGISTRY().
// ROW is the constant that holds the configuration's row of the dispatch table.
#define KERNELPKG_SCALED_MM_INSTANCE(NAME, REGISTRY, CONFIGURATION, ROUTE, A_TYPE, BLOCK_SCALES, \
                                     ROW, ...)                                                   \
  namespace kernelpkg::scaled_mm_instances {                                                     \
  struct NAME : __VA_ARGS__ {                                                                    \
    static constexpr const char* kName = #NAME;                                                  \
  };                                                                                             \
  static const ScaledMmInstance NAME##_instance{                                                 \
      #NAME,                                                                                     \
      CONFIGURATION,                                                                             \
      ScaledMmRoute::ROUTE,                                                                      \
      DType::A_TYPE,                                                                             \
      BLOCK_SCALES,                                                                              \
      ROW,                                                                                       \
      NAME::kSharedMemory,                                                                       \
      reinterpret_cast<const void*>(&scaled_mm_kernel<NAME>),                                    \
      [](const ScaledMmArgs& args, const ScaledMmDevice& device) {                               \
        return NAME::workspace_bytes(args, device);                                              \
      },                                                                                         \
      [](const ScaledMmArgs& args, const ScaledMmDevice& device) {                               \
        return NAME::launch(NAME::kName, reinterpret_cast<const void*>(&scaled_mm_kernel<NAME>), \
                            args, device);                                                       \
      }};                                                                                        \
  static const ScaledMmRegistrar NAME##_registrar{REGISTRY(), NAME##_instance};                  \
  }
