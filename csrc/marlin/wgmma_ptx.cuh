// The instructions that only Marlin's wgmma kernel needs beside those of common/hopper.cuh: copies
// of its five-dimensional weights, and the warpgroup MMA with its first operand in registers.
#pragma once

#include <cstdint>

#include "common/dtypes.h"
#include "common/hopper.cuh"

namespace kernelpkg::marlin::ptx {

using namespace kernelpkg::ptx;

// A box in five dimensions, of which the first three are taken whole. No policy for L2: ptxas
// 13.0 has been seen to take a wrong register for it (common/async_copy.cuh).
__device__ __forceinline__ void tensor_copy_5d(uint32_t destination, const CUtensorMap& map, int d3,
                                               int d4, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %2, %2, %3, %4}], [%5];" ::"r"(destination),
      "l"(&map), "r"(0), "r"(d3), "r"(d4), "r"(barrier)
      : "memory");
}

// Brings the same box into L2: a hint without any visible effect.
__device__ __forceinline__ void tensor_prefetch_5d(const CUtensorMap& map, int d3, int d4) {
  asm volatile("cp.async.bulk.prefetch.tensor.5d.L2.global [%0, {%1, %1, %1, %2, %3}];" ::"l"(&map),
               "r"(0), "r"(d3), "r"(d4)
               : "memory");
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
