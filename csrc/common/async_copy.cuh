// Asynchronous copies from global to shared memory (cp.async, 8.0 and later) and the
// grid-dependency pair of 9.0.
#pragma once

#include <cstdint>

namespace kernelpkg {

// 16 bytes, past L1 (.cg), where `wanted`; of them the first `bytes` (0 or 16) are read and the
// rest are zeros. Both addresses on 16 bytes. Predicates instead of branches: a branch around one
// instruction costs six. No L2 policy: with one, ptxas 13.0 took the wrong uniform register for it
// in some of the GEMM kernels, an illegal instruction on the device.
__device__ __forceinline__ void copy_async_16(uint32_t destination, const void* source, bool wanted,
                                              int bytes = 16) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\n"
      "@p cp.async.cg.shared.global [%0], [%1], 16, %3;\n}" ::"r"(destination),
      "l"(source), "r"(static_cast<int>(wanted)), "r"(bytes)
      : "memory");
}

// 4 bytes, both addresses on 4 bytes.
__device__ __forceinline__ void copy_async_4(uint32_t destination, const void* source) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(destination), "l"(source)
               : "memory");
}

// Waits for all of this thread's copies.
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_all;" ::: "memory");
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
