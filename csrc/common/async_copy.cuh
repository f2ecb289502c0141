// Asynchronous copies from global to shared memory (cp.async, 8.0 and later) and the
// grid-dependency pair of 9.0.
#pragma once

#include <cstdint>

namespace kernelpkg {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes, past L1 (.cg). Both addresses on 16 bytes. No L2 policy: with one, ptxas 13.0 took the
// wrong uniform register for it in some of the GEMM kernels, an illegal instruction on the device.
__device__ __forceinline__ void copy_async_16(uint32_t destination, const void* source) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(destination), "l"(source)
               : "memory");
}

// The same, or 16 zero bytes where `valid` is false; then `source` is not read, but must still be a
// legal address.
__device__ __forceinline__ void copy_async_16_or_zero(uint32_t destination, const void* source,
                                                      bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source),
               "r"(bytes)
               : "memory");
}

// Lets a following kernel that was launched with programmatic stream serialisation be scheduled
// while this one runs.
__device__ __forceinline__ void allow_dependent_launch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until the kernels before this one have finished and their writes are visible. Does nothing
// before 9.0, where stream order already says so.
__device__ __forceinline__ void wait_for_prior_kernels() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace kernelpkg
