// From packed words to MMA B fragments (layout.h says what lies where).
//
// Every conversion is exact, FP8 subnormals included, on every target: bit operations and one
// 16-bit multiply or add whose result is representable. cvt.e4m3x2 is not used: it needs 8.9, and
// its F2FP would make a weight-only kernel look like an emulated FP8 MMA in the machine code.
#pragma once

#include <cstdint>

#include "common/dtypes.h"
#include "common/numeric.cuh"
#include "marlin/layout.h"

namespace kernelpkg::marlin {

// What the fragments lack, for the float32 epilogue to put back; powers of two, so nothing is
// rounded.
//   fp16 x e4m3: the bit shift below yields w * 2^-8. The smallest weight becomes 2^-17 and the
//     largest 1.75, all of them fp16 numbers (the smallest are subnormal, which the fp16 MMA
//     multiplies exactly), and products with any finite fp16 activation stay inside float32 by a
//     wide margin: nothing overflows and nothing is lost.
//   bf16 x e4m3: the same trick would yield w * 2^-120, whose products with small activations do
//     fall out of float32; there the factor is put back at once, by a multiply.
//   NVFP4: what nvfp4_scale_exponent leaves of 2^14 and 2^126.
//   fp8 x 4 bits: integers are read as e4m3 subnormals, n * 2^-9; e2m1 as v * 2^-6.
template <DType kAct, WeightFormat kFormat>
constexpr float fragment_scale() {
  if (kAct == DType::kFloat8E4M3) {
    return kFormat == WeightFormat::kE4M3 ? 1.0f : kFormat == WeightFormat::kMxfp4 ? 64.0f : 512.0f;
  }
  if (kFormat == WeightFormat::kE4M3 && kAct == DType::kFloat16) return 256.0f;
  if (kFormat == WeightFormat::kNvfp4) return kAct == DType::kFloat16 ? 128.0f : 256.0f;
  return 1.0f;
}

// Byte `tile` of `bytes` in both half words, over 1024 (fp16) or 128 (bf16) as their upper bytes:
// the zero point as the number that the 16-bit tricks below subtract.
template <DType kAct>
__device__ __forceinline__ uint32_t biased_zero(uint32_t bytes, int tile) {
  constexpr uint32_t kBias = kAct == DType::kFloat16 ? 0x64646464u : 0x43434343u;
  return __byte_perm(bytes, kBias, 0x4040 + 0x0101 * tile);
}

// Pair `pair` (0 .. 3) of a word's eight e2m1 codes as v * 2^-14 (fp16) or v * 2^-126 (bf16): sign
// to the top, exponent and mantissa to the low exponent bits and the high mantissa bits. Subnormals
// come along: exponent field zero means "no leading one" in both types.
template <DType kAct>
__device__ __forceinline__ uint32_t widen_e2m1(uint32_t word, int pair) {
  const uint32_t top = word << (12 - 4 * pair);  // the pair's nibbles end the half words
  return kAct == DType::kFloat16 ? and_or(top, 0x80008000u, (top >> 3) & 0x0e000e00u)
                                 : and_or(top, 0x80008000u, (top >> 6) & 0x01c001c0u);
}

// The fragment of MMA step `step` (0 or 1) for one column tile. word: 4-bit formats, the tile's
// word; 8-bit ones, its word of half `step`. extra: biased_zero (u4), the scale twice (NVFP4), else
// unused.
template <DType kAct, WeightFormat kFormat>
__device__ __forceinline__ void dequantise_16bit(uint32_t (&b)[2], uint32_t word, int step,
                                                 uint32_t extra) {
  constexpr bool kHalf = kAct == DType::kFloat16;
  static_assert(kHalf || kAct == DType::kBFloat16);
  if constexpr (kFormat == WeightFormat::kU4B8 || kFormat == WeightFormat::kU4) {
    constexpr bool kFixed = kFormat == WeightFormat::kU4B8;
    if constexpr (kHalf) {
      // 0x6400 is 1024, whose last mantissa bit is worth 1: OR-ing a nibble in gives 1024 + q, or
      // 1024 + 16 q for the nibble above. Then (1024 + q) - (1024 + z) and (1024 + 16 q) / 16 -
      // (64 + z) are q - z. 64 + z has its zero point four bits further up.
      const uint32_t pairs = word >> (8 * step);
      const uint32_t low = kFixed ? 0x64086408u : extra;
      const uint32_t high = kFixed ? 0xd480d480u : ((extra & 0x000f000fu) << 4) | 0xd400d400u;
      b[0] = half2_sub(and_or(pairs, 0x000f000fu, 0x64006400u), low);
      b[1] = half2_fma(and_or(pairs, 0x00f000f0u, 0x64006400u), 0x2c002c00u, high);
    } else {
      // bf16 keeps 8 significant bits: 0x4300 is 128 with a last bit worth 1, so only the lowest
      // nibble fits. (128 + q) - (128 + z) is q - z.
      const uint32_t minus = kFixed ? 0xc308c308u : extra ^ 0x80008000u;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t pair = and_or(word >> (8 * step + 4 * i), 0x000f000fu, 0x43004300u);
        b[i] = bfloat2_fma(pair, 0x3f803f80u, minus);
      }
    }
  } else if constexpr (kFormat == WeightFormat::kU8B128) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t pair = i == 0 ? word >> 8 : word;  // its bytes lead the odd or the even places
      if constexpr (kHalf) {
        b[i] = half2_sub(and_or(pair, 0x00ff00ffu, 0x64006400u), 0x64806480u);
      } else {
        // 128 + (q & 127), less 256 or, where bit 7 is set, less 128.
        const uint32_t low = and_or(pair, 0x007f007fu, 0x43004300u);
        b[i] = bfloat2_fma(low, 0x3f803f80u, (pair & 0x00800080u) ^ 0xc380c380u);
      }
    }
  } else if constexpr (kFormat == WeightFormat::kE4M3) {
    constexpr int kShift = kHalf ? 1 : 4;  // right shift for a byte that sits in bits 8-15
    constexpr uint32_t kBits = kHalf ? 0x3f803f80u : 0x07f007f0u;
    b[0] = and_or(word, 0x80008000u, (word >> kShift) & kBits);
    b[1] = and_or(word << 8, 0x80008000u, (word << (8 - kShift)) & kBits);
    if constexpr (!kHalf) {
      // * 2^120; the addend -0 keeps the sign of zero, and bf16 fma takes subnormal inputs.
      b[0] = bfloat2_fma(b[0], 0x7b807b80u, 0x80008000u);
      b[1] = bfloat2_fma(b[1], 0x7b807b80u, 0x80008000u);
    }
  } else {
    static_assert(kFormat == WeightFormat::kNvfp4 || !kHalf, "MXFP4 goes with bf16");
    constexpr bool kNvfp4 = kFormat == WeightFormat::kNvfp4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t value = widen_e2m1<kAct>(word, 2 * step + i);
      if constexpr (kHalf) {
        b[i] = half2_mul(value, extra);
      } else {
        b[i] = bfloat2_fma(value, kNvfp4 ? extra : 0x7e807e80u, 0x80008000u);  // 2^126
      }
    }
  }
}

// Four bytes q - z, each -15 .. 15, as e4m3 patterns. The patterns 0 .. 15 are the numbers n * 2^-9
// in a straight line (seven subnormals, then the first normals), so magnitude and sign are all that
// is needed. No byte borrows from the next: 128 + q - z stays positive.
__device__ __forceinline__ uint32_t signed_bytes(uint32_t codes, uint32_t zeros) {
  const uint32_t difference = (codes | 0x80808080u) - zeros;  // bit 7 set: not negative
  const uint32_t negative = ~difference & 0x80808080u;
  const uint32_t ones = negative >> 7;
  return (((difference ^ (negative - ones)) & 0x7f7f7f7fu) + ones) | negative;
}

// The fragment of the one m16n8k32 step. words: the tile's word, or for e4m3 both. zeros: the zero
// point in all four bytes (u4).
template <WeightFormat kFormat>
__device__ __forceinline__ void dequantise_fp8(uint32_t (&b)[2], uint32_t first, uint32_t second,
                                               uint32_t zeros) {
  if constexpr (kFormat == WeightFormat::kE4M3) {
    b[0] = __byte_perm(first, 0, 0x2031);  // rows in order
    b[1] = __byte_perm(second, 0, 0x2031);
  } else {
    uint32_t even = first & 0x0f0f0f0fu, odd = (first >> 4) & 0x0f0f0f0fu;
    if constexpr (kFormat == WeightFormat::kMxfp4) {
      even = ((even << 4) & 0x80808080u) | ((even << 2) & 0x1c1c1c1cu);
      odd = ((odd << 4) & 0x80808080u) | ((odd << 2) & 0x1c1c1c1cu);
    } else {
      static_assert(kFormat == WeightFormat::kU4B8 || kFormat == WeightFormat::kU4);
      const uint32_t z = kFormat == WeightFormat::kU4B8 ? 0x08080808u : zeros;
      even = signed_bytes(even, z);
      odd = signed_bytes(odd, z);
    }
    b[0] = __byte_perm(even, odd, 0x6420);  // rows 0, 1 | 2, 3
    b[1] = __byte_perm(even, odd, 0x7531);  // rows 4, 5 | 6, 7
  }
}

}  // namespace kernelpkg::marlin
