// From a packed word to MMA B fragments. One word holds one lane's weights of one MMA column tile
// (layout.h).
//
// Every conversion is exact, e4m3 subnormals included, on every target: bit operations and one
// 16-bit multiply or add whose result is representable. cvt.e4m3x2 is not used: it needs 8.9, and
// its F2FP would make a weight-only kernel look like an emulated FP8 MMA in the machine code.
#pragma once

#include <cstdint>

#include "common/dtypes.h"
#include "common/numeric.cuh"
#include "marlin/layout.h"

namespace kernelpkg::marlin {

// MMA steps along K that one word feeds: u4b8 with 16-bit activations holds two k16 steps, the
// others one.
template <DType kAct, WeightFormat kFormat>
constexpr int kStepsPerWord = kFormat == WeightFormat::kU4B8 && kAct != DType::kFloat8E4M3 ? 2 : 1;

// What the fragments lack, for the float32 epilogue to put back; powers of two, so nothing is
// rounded.
//   fp16 x e4m3: the bit shift below yields w * 2^-8. The smallest weight becomes 2^-17 and the
//   largest 1.75, all of
//     them fp16 numbers (the smallest are subnormal, which the fp16 MMA multiplies exactly), and
//     products with any finite fp16 activation stay inside float32 by a wide margin: nothing
//     overflows and nothing is lost.
//   bf16 x e4m3: the same trick would yield w * 2^-120, whose products with small activations do
//   fall out of float32;
//     there the factor is put back at once, by the multiply in dequantise.
//   fp8 x u4b8: the nibbles are read as e4m3 subnormals, n * 2^-9.
template <DType kAct, WeightFormat kFormat>
constexpr float kFragmentScale =
    kAct == DType::kFloat8E4M3                                  ? 512.0f
    : kAct == DType::kFloat16 && kFormat == WeightFormat::kE4M3 ? 256.0f
                                                                : 1.0f;

template <DType kAct, WeightFormat kFormat>
__device__ __forceinline__ void dequantise(uint32_t (&b)[2], uint32_t word, int step) {
  if constexpr (kAct == DType::kFloat8E4M3) {
    static_assert(kFormat == WeightFormat::kU4B8, "FP8 activations go with u4b8 weights");
    // Stored is sign (bit 3) and magnitude, less one if negative. As an e4m3 pattern, 0 .. 8 are
    // the numbers n * 2^-9 in a straight line (seven subnormals, then the smallest normal), so
    // magnitude = low bits + sign, and the sign goes to bit 7: one multiply by 0x81 does both. No
    // byte carries into the next (8 + 0x80 at most).
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t magnitude = (word >> (4 * i)) & 0x07070707u;
      const uint32_t sign = (word >> (4 * i + 3)) & 0x01010101u;
      b[i] = sign * 0x81u + magnitude;
    }
  } else if constexpr (kFormat == WeightFormat::kU4B8) {
    if constexpr (kAct == DType::kFloat16) {
      // 0x6400 is 1024, whose last mantissa bit is worth 1: OR-ing a nibble in gives 1024 + q, or
      // 1024 + 16 q for the nibble above. Then (1024 + q) - 1032 and (1024 + 16 q) / 16 - 72 are q
      // - 8.
      const uint32_t pairs = word >> (8 * step);
      b[0] = half2_sub(and_or(pairs, 0x000f000fu, 0x64006400u), 0x64086408u);
      b[1] = half2_fma(and_or(pairs, 0x00f000f0u, 0x64006400u), 0x2c002c00u, 0xd480d480u);
    } else {
      // bf16 keeps 8 significant bits: 0x4300 is 128 with a last bit worth 1, so only the lowest
      // nibble fits. (128 + q) * 1 - 136 is q - 8.
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t pair = and_or(word >> (8 * step + 4 * i), 0x000f000fu, 0x43004300u);
        b[i] = bfloat2_fma(pair, 0x3f803f80u, 0xc308c308u);
      }
    }
  } else {
    // Sign to the top, exponent and mantissa to where the low exponent bits and the high mantissa
    // bits of the wider type are. Subnormals come along: exponent field zero means "no leading one"
    // in both types.
    constexpr int kShift =
        kAct == DType::kFloat16 ? 1 : 4;  // right shift for a byte that sits in bits 8-15
    constexpr uint32_t kBits = kAct == DType::kFloat16 ? 0x3f803f80u : 0x07f007f0u;
    b[0] = and_or(word, 0x80008000u, (word >> kShift) & kBits);
    b[1] = and_or(word << 8, 0x80008000u, (word << (8 - kShift)) & kBits);
    if constexpr (kAct == DType::kBFloat16) {
      // * 2^120; the addend -0 keeps the sign of zero, and bf16 fma takes subnormal inputs.
      b[0] = bfloat2_fma(b[0], 0x7b807b80u, 0x80008000u);
      b[1] = bfloat2_fma(b[1], 0x7b807b80u, 0x80008000u);
    }
  }
}

}  // namespace kernelpkg::marlin
