// A ring of stages in shared memory, handed from a copying warp to computing warps by mbarriers.
//
// mbarriers and their cp.async arrival exist from 8.0; bulk copies, which one thread starts and the
// memory system counts, from 9.0.
#pragma once

#include <cstdint>

namespace kernelpkg {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && !defined(KERNELPKG_WITHOUT_BULK_COPIES)
constexpr bool kHasBulkCopies = true;
#else
constexpr bool kHasBulkCopies = false;
#endif

constexpr int kBarrierBytes = 8;

__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the units that carry out asynchronous copies.
__device__ __forceinline__ void barrier_init_done() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(barrier)
               : "memory");
}

// Returns once the phase of this parity is complete. A barrier that was just initialised counts the
// phase before its first, of parity 1, as complete.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define KERNELPKG_WAIT "mbarrier.try_wait.parity.shared.b64"
#else
#define KERNELPKG_WAIT "mbarrier.test_wait.parity.shared.b64"
#endif
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n" KERNELPKG_WAIT
      " done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
#undef KERNELPKG_WAIT
}

// Arrives, and lets the phase wait for `bytes` of bulk copies as well.
__device__ __forceinline__ void barrier_arrive_expecting(uint32_t barrier, uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n.reg .b64 state;\nmbarrier.arrive.expect_tx.shared.b64 state, [%0], %1;\n}" ::"r"(
          barrier),
      "r"(bytes)
      : "memory");
#endif
}

// Arrives when all cp.async of this thread so far have landed.
__device__ __forceinline__ void barrier_arrive_after_copies(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

// Starts a copy of `bytes` consecutive bytes, reported to `barrier`. Addresses and size are
// multiples of 16.
__device__ __forceinline__ void copy_bulk(uint32_t destination, const void* source, uint32_t bytes,
                                          uint32_t barrier) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(destination),
      "l"(source), "r"(bytes), "r"(barrier)
      : "memory");
#endif
}

// Brings bytes into L2; a hint without any visible effect.
__device__ __forceinline__ void prefetch_bulk(const void* source, uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(source), "r"(bytes) : "memory");
#endif
}

// True in one lane of the warp, all of whose lanes must call it. Unlike lane == 0 the compiler
// knows that only one thread is left, and issues a bulk copy there once instead of in a loop over
// lanes.
__device__ __forceinline__ bool elect_one() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __syncwarp();  // elect.sync is an illegal instruction for lanes that come one by one
  uint32_t elected;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(elected));
  return elected != 0;
#else
  return threadIdx.x % 32 == 0;
#endif
}

// Waits for the threads that share the named barrier (1 to 15) alone, not for the whole block.
template <int kThreads, int kBarrier>
__device__ __forceinline__ void sync_named() {
  asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "n"(kThreads) : "memory");
}

}  // namespace kernelpkg
