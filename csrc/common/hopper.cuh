// Instructions of Hopper (sm_90a) that its hand-written kernels share: tensor copies, register
// hand-over, clusters, and what surrounds a warpgroup MMA.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace kernelpkg::ptx {

// The box of `map` whose first element is (x, y); elements outside the tensor arrive as zeros.
__device__ __forceinline__ void tensor_copy(uint32_t destination, const CUtensorMap& map, int x,
                                            int y, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3}], [%4];" ::"r"(destination),
      "l"(&map), "r"(x), "r"(y), "r"(barrier)
      : "memory");
}

// The same to this address in every block of the cluster whose bit `blocks` has, reported to the
// barrier at this address there.
__device__ __forceinline__ void tensor_copy_to_all(uint32_t destination, const CUtensorMap& map,
                                                   int x, int y, uint32_t barrier,
                                                   uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(destination),
      "l"(&map), "r"(x), "r"(y), "r"(barrier), "h"(blocks)
      : "memory");
}

// From shared memory to the box of `map` whose first element is (x, y); elements outside the tensor
// are left out. Part of this thread's next group of stores; what it and others wrote there needs
// publish_to_copies() first.
__device__ __forceinline__ void tensor_store(const CUtensorMap& map, int x, int y,
                                             uint32_t source) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map),
      "r"(x), "r"(y), "r"(source)
      : "memory");
}

__device__ __forceinline__ void publish_to_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until this thread's stores have read their shared memory.
__device__ __forceinline__ void store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// Brings the same box into L2: a hint without any visible effect.
__device__ __forceinline__ void tensor_prefetch(const CUtensorMap& map, int x, int y) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(&map), "r"(x),
               "r"(y)
               : "memory");
}

__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

template <int kRegisters>
__device__ __forceinline__ void give_up_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

__device__ __forceinline__ int cluster_rank() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// The two halves of a barrier of all threads of the cluster. What a thread wrote to shared memory
// before it arrived with kPublish is visible to the others after they waited.
template <bool kPublish>
__device__ __forceinline__ void cluster_arrive() {
  if constexpr (kPublish)
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  else
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The address in block `rank` of the cluster that corresponds to `address` here.
__device__ __forceinline__ uint32_t cluster_address(uint32_t address, uint32_t rank) {
  uint32_t mapped;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
  return mapped;
}

// Arrives at a barrier of any block of the cluster, by cluster_address().
__device__ __forceinline__ void barrier_arrive_cluster(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ float4 load_cluster_16(uint32_t address) {
  float4 value;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

// Descriptor of a K-major operand in rows of 128 bytes with the 128-byte swizzle, as the tensor
// copy writes it: eight rows are 1,024 bytes, the next eight follow. `address` is that of the first
// row (on 1,024 bytes); `further` bytes from there are 32 per instruction along K, and 128 per row.
__device__ __forceinline__ uint64_t swizzled_operand(uint32_t address, int further = 0) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 >> 4} << 32;
  return (kSwizzle128 | kEightRows | ((address & 0x3ffffu) >> 4)) + (further >> 4);
}

// Orders this thread's register writes before the warpgroup's next MMA.
__device__ __forceinline__ void mma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void mma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most kPending committed groups are still under way.
template <int kPending>
__device__ __forceinline__ void mma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

}  // namespace kernelpkg::ptx
