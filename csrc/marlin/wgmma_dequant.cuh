// From packed words to wgmma A fragments.
//
// layout.h gives a lane of the mma.sync kernels eight consecutive rows of K. A wgmma fragment wants
// the pair (2t, 2t + 1) of each eight instead. Either the activations follow, put into the lanes'
// order beforehand (wgmma_order.cu), and a lane uses all four pairs of its own words; or they come
// in natural order, and lane t of a quad reads the words of all four lanes of the quad (broadcast
// loads) and takes pair t of each: a shift that depends on the lane.
//
// As in dequant.cuh every widening is exact, e4m3 subnormals included.
#pragma once

#include <cstdint>

#include "common/dtypes.h"
#include "common/numeric.cuh"
#include "marlin/layout.h"

namespace kernelpkg::marlin {

__device__ __forceinline__ uint32_t half2_add(uint32_t a, uint32_t b) {
  uint32_t result;
  asm("add.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}

// Two products in the activations' type. The addend -0 keeps the sign of zero.
template <DType kAct>
__device__ __forceinline__ uint32_t multiply2(uint32_t a, uint32_t b) {
  return kAct == DType::kFloat16 ? half2_fma(a, b, 0x80008000u) : bfloat2_fma(a, b, 0x80008000u);
}

// (~word & mask) | bits
__device__ __forceinline__ uint32_t andnot_or(uint32_t word, uint32_t mask, uint32_t bits) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xae;" : "=r"(result) : "r"(word), "r"(mask), "r"(bits));
  return result;
}

template <DType kAct, WeightFormat kFormat>
struct Widen {
  static constexpr bool kHalf = kAct == DType::kFloat16;
  static constexpr bool kShiftsLeft = kFormat == WeightFormat::kE4M3 ||
                                      kFormat == WeightFormat::kNvfp4 ||
                                      kFormat == WeightFormat::kMxfp4;

  // The shift that brings pair t of a word where widen() wants it: integers to the low end of each
  // half word, floats to the high end.
  static __device__ __forceinline__ int shift(int t) {
    if constexpr (kFormat == WeightFormat::kU4) return 4 * t;
    if constexpr (kFormat == WeightFormat::kU8B128) return 8 - 8 * (t & 1);
    if constexpr (kFormat == WeightFormat::kE4M3) return 8 * (t & 1);
    return 12 - 4 * t;
  }

  // u4: what takes zero point `tile` of four off, in both halves: -(128 + zero) or -(1024 + zero),
  // whose low byte is the zero point.
  static __device__ __forceinline__ uint32_t offset(uint32_t zeros, int tile) {
    return __byte_perm(zeros, kHalf ? 0xe4u : 0xc3u, 0x4040 + 0x0101 * tile);
  }

  static __device__ __forceinline__ uint32_t widen(uint32_t word, int shift, uint32_t offset) {
    const uint32_t x = kShiftsLeft ? word << shift : word >> shift;
    if constexpr (kFormat == WeightFormat::kU4) {
      // OR-ing a nibble into 1024 (fp16) or 128 (bf16), whose last mantissa bit is worth 1, adds
      // it; the offset takes 1024 or 128 off again together with the zero point.
      if constexpr (kHalf) return half2_add(and_or(x, 0x000f000fu, 0x64006400u), offset);
      return bfloat2_fma(and_or(x, 0x000f000fu, 0x43004300u), 0x3f803f80u, offset);
    } else if constexpr (kFormat == WeightFormat::kU8B128) {
      if constexpr (kHalf) return half2_add(and_or(x, 0x00ff00ffu, 0x64006400u), 0xe480e480u);
      // bf16 has room for the low seven bits only. 128 + low, less 128 if bit 7 is set and less 256
      // if not: that bit is the last one of the exponent, so it turns -128 into -256 by itself.
      return bfloat2_fma(and_or(x, 0x007f007fu, 0x43004300u), 0x3f803f80u,
                         andnot_or(x, 0x00800080u, 0xc300c300u));
    } else if constexpr (kFormat == WeightFormat::kE4M3) {
      // Sign to the top, exponent and mantissa to where the wider type has its low exponent and
      // high mantissa bits: w * 2^-8 in fp16; bf16 would be w * 2^-120 and is put right at once.
      if constexpr (kHalf) return and_or(x, 0x80008000u, (x >> 1) & 0x3f803f80u);
      return multiply2<kAct>(and_or(x, 0x80008000u, (x >> 4) & 0x07f007f0u), 0x7b807b80u);
    } else {
      // e2m1 the same way: w * 2^-14 in fp16, w * 2^-126 in bf16. NVFP4 scales are stored so that
      // they bring it back (layout.h); MXFP4 scales are not.
      if constexpr (kHalf) return and_or(x, 0x80008000u, (x >> 3) & 0x0e000e00u);
      const uint32_t small = and_or(x, 0x80008000u, (x >> 6) & 0x01c001c0u);
      if constexpr (kFormat == WeightFormat::kNvfp4) return small;
      return multiply2<kAct>(small, 0x7e807e80u);
    }
  }
};

}  // namespace kernelpkg::marlin
