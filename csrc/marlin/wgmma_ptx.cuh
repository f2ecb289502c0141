// The 9.0a instructions that the wgmma kernel is made of: mbarriers, bulk copies, warpgroup MMA.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "common/dtypes.h"

namespace kernelpkg::marlin::ptx {

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine, before the block's own barrier.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives, and makes the phase wait for `bytes` of copies as well.
__device__ __forceinline__ void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// Waits for the end of the phase of this parity. A fresh barrier is in phase 0, so waiting for
// parity 1 returns at once.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (done == 0);
}

// One lane of the warp, always the same; all lanes must be here.
__device__ __forceinline__ bool elect_one() {
  uint32_t elected;
  asm volatile(
      "{\n.reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(elected));
  return elected != 0;
}

// The box of `map` whose first element is (x, y); elements outside the tensor arrive as zeros.
__device__ __forceinline__ void tensor_copy(uint32_t destination, const CUtensorMap& map, int x,
                                            int y, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3}], [%4];" ::"r"(destination),
      "l"(&map), "r"(x), "r"(y), "r"(barrier)
      : "memory");
}

// The same in five dimensions, of which the first three are taken whole, and with a policy for L2.
__device__ __forceinline__ void tensor_copy(uint32_t destination, const CUtensorMap& map, int d3,
                                            int d4, uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %2, %2, %3, %4}], [%5], %6;" ::"r"(destination),
      "l"(&map), "r"(0), "r"(d3), "r"(d4), "r"(barrier), "l"(policy)
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

template <int kThreads>
__device__ __forceinline__ void named_barrier(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
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

__device__ __forceinline__ float4 load_cluster_16(uint32_t address) {
  float4 value;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

__device__ __forceinline__ uint4 load_shared_16(uint32_t address) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

__device__ __forceinline__ uint2 load_shared_8(uint32_t address) {
  uint2 value;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
               : "=r"(value.x), "=r"(value.y)
               : "r"(address)
               : "memory");
  return value;
}

__device__ __forceinline__ uint32_t load_shared_4(uint32_t address) {
  uint32_t value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  return value;
}

__device__ __forceinline__ uint32_t load_shared_2(uint32_t address) {
  uint16_t value;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(value) : "r"(address) : "memory");
  return value;
}

__device__ __forceinline__ void store_shared_16(uint32_t address, float4 value) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(value.x),
               "f"(value.y), "f"(value.z), "f"(value.w)
               : "memory");
}

// L2 policies. Weights that one pass reads once should be the first to leave, so that activations
// stay; weights that several tiles share should not.
__device__ __forceinline__ uint64_t policy_evict_first() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

__device__ __forceinline__ uint64_t policy_evict_normal() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// Descriptor of a K-major operand of 16-bit elements in rows of 128 bytes with the 128-byte
// swizzle, as the tensor copy writes it: eight rows are 1,024 bytes, the next eight follow.
// `address` is that of the first row (on 1,024 bytes), plus 32 bytes per 16 elements of K.
__device__ __forceinline__ uint64_t swizzled_operand(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kEightRows | ((address & 0x3ffffu) >> 4);
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

// acc[64 x kN] += a[64 x 16] b[16 x kN]: `a` from registers, `b` (K-major, kN rows) from shared
// memory. Asynchronous: neither acc nor a may be touched before mma_wait.
#define KERNELPKG_D0 "%0,%1,%2,%3,%4,%5,%6,%7"
#define KERNELPKG_D1 KERNELPKG_D0 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define KERNELPKG_D3                          \
  KERNELPKG_D1                                \
  ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25," \
  "%26,%27,%28,%29,%30,%31"
#define KERNELPKG_D5                          \
  KERNELPKG_D3                                \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41," \
  "%42,%43,%44,%45,%46,%47"
#define KERNELPKG_D7                          \
  KERNELPKG_D5                                \
  ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57," \
  "%58,%59,%60,%61,%62,%63"
#define KERNELPKG_F8(i)                                                                 \
  "+f"(acc[i]), "+f"(acc[i + 1]), "+f"(acc[i + 2]), "+f"(acc[i + 3]), "+f"(acc[i + 4]), \
      "+f"(acc[i + 5]), "+f"(acc[i + 6]), "+f"(acc[i + 7])
#define KERNELPKG_F16(i) KERNELPKG_F8(i), KERNELPKG_F8(i + 8)
#define KERNELPKG_WGMMA(n, type, list, operands, ...)                                          \
  asm volatile(                                                                                \
      "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"                                               \
      "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" list "}, " operands \
      ", p, 1, 1, 0;\n}"                                                                       \
      : __VA_ARGS__                                                                            \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define KERNELPKG_WGMMA_TYPES(n, list, operands, ...)          \
  do {                                                         \
    if constexpr (kType == DType::kFloat16)                    \
      KERNELPKG_WGMMA(n, "f16", list, operands, __VA_ARGS__);  \
    else                                                       \
      KERNELPKG_WGMMA(n, "bf16", list, operands, __VA_ARGS__); \
  } while (0)

template <DType kType, int kN>
__device__ __forceinline__ void mma_async(float (&acc)[kN / 2], const uint32_t (&a)[4],
                                          uint64_t b) {
  static_assert(kType == DType::kFloat16 || kType == DType::kBFloat16);
  static_assert(kN == 16 || kN == 32 || kN == 64 || kN == 96 || kN == 128);
  if constexpr (kN == 16) {
    KERNELPKG_WGMMA_TYPES(16, KERNELPKG_D0, "{%8,%9,%10,%11}, %12", KERNELPKG_F8(0));
  } else if constexpr (kN == 32) {
    KERNELPKG_WGMMA_TYPES(32, KERNELPKG_D1, "{%16,%17,%18,%19}, %20", KERNELPKG_F16(0));
  } else if constexpr (kN == 64) {
    KERNELPKG_WGMMA_TYPES(64, KERNELPKG_D3, "{%32,%33,%34,%35}, %36", KERNELPKG_F16(0),
                          KERNELPKG_F16(16));
  } else if constexpr (kN == 96) {
    KERNELPKG_WGMMA_TYPES(96, KERNELPKG_D5, "{%48,%49,%50,%51}, %52", KERNELPKG_F16(0),
                          KERNELPKG_F16(16), KERNELPKG_F16(32));
  } else {
    KERNELPKG_WGMMA_TYPES(128, KERNELPKG_D7, "{%64,%65,%66,%67}, %68", KERNELPKG_F16(0),
                          KERNELPKG_F16(16), KERNELPKG_F16(32), KERNELPKG_F16(48));
  }
}

#undef KERNELPKG_WGMMA_TYPES
#undef KERNELPKG_WGMMA
#undef KERNELPKG_F16
#undef KERNELPKG_F8
#undef KERNELPKG_D7
#undef KERNELPKG_D5
#undef KERNELPKG_D3
#undef KERNELPKG_D1
#undef KERNELPKG_D0

}  // namespace kernelpkg::marlin::ptx
