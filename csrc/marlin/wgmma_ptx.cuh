// The instructions that only the wgmma kernel needs: tensor copies, register hand-over, warpgroup
// MMA.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "common/dtypes.h"

namespace kernelpkg::marlin::ptx {

// The box of `map` whose first element is (x, y); elements outside the tensor arrive as zeros.
__device__ __forceinline__ void tensor_copy(uint32_t destination, const CUtensorMap& map, int x,
                                            int y, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3}], [%4];" ::"r"(destination),
      "l"(&map), "r"(x), "r"(y), "r"(barrier)
      : "memory");
}

// The same in five dimensions, of which the first three are taken whole. No policy for L2: ptxas
// 13.0 has been seen to take a wrong register for it (common/async_copy.cuh).
__device__ __forceinline__ void tensor_copy_5d(uint32_t destination, const CUtensorMap& map, int d3,
                                               int d4, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %2, %2, %3, %4}], [%5];" ::"r"(destination),
      "l"(&map), "r"(0), "r"(d3), "r"(d4), "r"(barrier)
      : "memory");
}

// Bring the same boxes into L2; hints without any visible effect.
__device__ __forceinline__ void tensor_prefetch(const CUtensorMap& map, int x, int y) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(&map), "r"(x),
               "r"(y)
               : "memory");
}
__device__ __forceinline__ void tensor_prefetch_5d(const CUtensorMap& map, int d3, int d4) {
  asm volatile("cp.async.bulk.prefetch.tensor.5d.L2.global [%0, {%1, %1, %1, %2, %3}];" ::"l"(&map),
               "r"(0), "r"(d3), "r"(d4)
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

__device__ __forceinline__ float4 load_cluster_16(uint32_t address) {
  float4 value;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "r"(address)
               : "memory");
  return value;
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
