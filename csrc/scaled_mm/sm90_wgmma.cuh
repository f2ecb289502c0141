// Warpgroup MMA on FP8 with both operands in shared memory.
#pragma once

#include <cstdint>

#include "common/hopper.cuh"
#include "cutlass/float8.h"

namespace kernelpkg::ptx {

#define KERNELPKG_D0 "%0,%1,%2,%3,%4,%5,%6,%7"
#define KERNELPKG_D1 KERNELPKG_D0 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define KERNELPKG_D3 \
  KERNELPKG_D1       \
  ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define KERNELPKG_D7                                                                          \
  KERNELPKG_D3                                                                                \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53," \
  "%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define KERNELPKG_F8(i)                                                                 \
  "+f"(acc[i]), "+f"(acc[i + 1]), "+f"(acc[i + 2]), "+f"(acc[i + 3]), "+f"(acc[i + 4]), \
      "+f"(acc[i + 5]), "+f"(acc[i + 6]), "+f"(acc[i + 7])
#define KERNELPKG_F16(i) KERNELPKG_F8(i), KERNELPKG_F8(i + 8)
#define KERNELPKG_F32(i) KERNELPKG_F16(i), KERNELPKG_F16(i + 16)
#define KERNELPKG_WGMMA(n, types, list, a_place, b_place, add_place, ...)              \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add_place                           \
               ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n "k32.f32." types " {" list \
               "}, " a_place ", " b_place ", p, 1, 1;\n}"                              \
               : __VA_ARGS__                                                           \
               : "l"(a), "l"(b), "r"(static_cast<int>(add)))
#define KERNELPKG_WGMMA_SIZES(types)                                                   \
  do {                                                                                 \
    if constexpr (kN == 16)                                                            \
      KERNELPKG_WGMMA(16, types, KERNELPKG_D0, "%8", "%9", "%10", KERNELPKG_F8(0));    \
    else if constexpr (kN == 32)                                                       \
      KERNELPKG_WGMMA(32, types, KERNELPKG_D1, "%16", "%17", "%18", KERNELPKG_F16(0)); \
    else if constexpr (kN == 64)                                                       \
      KERNELPKG_WGMMA(64, types, KERNELPKG_D3, "%32", "%33", "%34", KERNELPKG_F32(0)); \
    else                                                                               \
      KERNELPKG_WGMMA(128, types, KERNELPKG_D7, "%64", "%65", "%66", KERNELPKG_F32(0), \
                      KERNELPKG_F32(32));                                              \
  } while (0)

// Four 8 x 8 pieces of 16-bit values, of which each thread has two neighbours of a row in `bits`,
// column by column: lane l says where column l % 8 of piece l / 8 goes, 16 bytes.
__device__ __forceinline__ void store_shared_transposed(uint32_t address,
                                                        const uint32_t (&bits)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   address),
               "r"(bits[0]), "r"(bits[1]), "r"(bits[2]), "r"(bits[3])
               : "memory");
}

// The descriptor of what lies 16 * `units` bytes behind `operand` in shared memory, in one addition.
__device__ __forceinline__ uint64_t operand_further(uint64_t operand, uint32_t units) {
  const uint32_t low = static_cast<uint32_t>(operand) + units;
  return (operand & 0xffffffff00000000) | low;
}

// acc[64 x kN] = a[64 x 32] b[32 x kN], added to acc where `add`. Both operands K-major, by
// descriptor (hopper.cuh). Asynchronous: acc may not be touched before mma_wait.
template <class ElementA, class ElementB, int kN>
__device__ __forceinline__ void mma_async_fp8(float (&acc)[kN / 2], uint64_t a, uint64_t b,
                                              bool add) {
  static_assert(kN == 16 || kN == 32 || kN == 64 || kN == 128);
  constexpr bool kA5 = std::is_same_v<ElementA, cutlass::float_e5m2_t>;
  constexpr bool kB5 = std::is_same_v<ElementB, cutlass::float_e5m2_t>;
  if constexpr (kA5 && kB5)
    KERNELPKG_WGMMA_SIZES("e5m2.e5m2");
  else if constexpr (kA5)
    KERNELPKG_WGMMA_SIZES("e5m2.e4m3");
  else if constexpr (kB5)
    KERNELPKG_WGMMA_SIZES("e4m3.e5m2");
  else
    KERNELPKG_WGMMA_SIZES("e4m3.e4m3");
}

#undef KERNELPKG_WGMMA_SIZES
#undef KERNELPKG_WGMMA
#undef KERNELPKG_F32
#undef KERNELPKG_F16
#undef KERNELPKG_F8
#undef KERNELPKG_D7
#undef KERNELPKG_D3
#undef KERNELPKG_D1
#undef KERNELPKG_D0

}  // namespace kernelpkg::ptx
