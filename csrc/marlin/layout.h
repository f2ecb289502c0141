// Where weight (k, n) lives in the packed words: the one description that the GPU repack, the CPU
// repack, the CPU reference and the kernel's dequantisers share.
//
// The matrix is cut into units of 32 columns and 16 (e4m3) or 32 (u4b8) rows; each is 512
// consecutive bytes, units running along N first. Inside a unit, 16 bytes belong to each of the 32
// lanes of a warp: exactly the B fragments that the lane hands to its next MMAs, so that a warp
// reads a unit with one coalesced 16-byte load per lane, in device memory and in shared memory
// alike. A unit spans four MMA column tiles (8 columns each), one 32-bit word per tile.
//
// Columns are dealt to the four tiles in pairs. Lane t of a quad owns accumulator columns 2t and
// 2t+1 of every tile, and with this deal these are the eight neighbours 8t .. 8t+7 of the unit:
// scales, bias, partial sums and output all become 16-byte accesses.
#pragma once

#include <cstdint>

#include "common/dtypes.h"

#if defined(__CUDACC__)
#define KERNELPKG_HOST_DEVICE __host__ __device__
#else
#define KERNELPKG_HOST_DEVICE
#endif

namespace kernelpkg::marlin {

constexpr int kUnitCols = 32;
constexpr int kUnitWords = 128;  // 32 lanes x 4 words = 512 bytes

KERNELPKG_HOST_DEVICE constexpr int unit_rows(WeightFormat format) {
  return format == WeightFormat::kU4B8 ? 32 : 16;
}

struct Slot {
  int64_t word;  // index of the 32-bit word
  int shift;     // of the lowest bit of the nibble or byte in it
};

// Bit position, inside its word, of the weight in row `row` of a unit.
KERNELPKG_HOST_DEVICE constexpr int slot_shift(WeightFormat format, bool fp8_activations, int row) {
  if (format == WeightFormat::kE4M3) {
    // Rows (r, r+1) share the two odd bytes and rows (r+8, r+9) the two even ones: a pair lands in
    // the upper bytes of the two half words with no shift, or with one.
    return 8 * ((row & 8 ? 0 : 1) + 2 * (row & 1));
  }
  if (fp8_activations) {
    // m16n8k32: a lane's first register holds rows 4t .. 4t+3, its second the same + 16. Even
    // nibbles feed the first.
    return 4 * (2 * (row & 3) + (row >> 4));
  }
  // m16n8k16 twice: pair p = (rows 2t, 2t+1), (+8), (+16), (+24) sits in nibbles p and p + 4, one
  // per half word.
  return 4 * ((row >> 3) + 4 * (row & 1));
}

// Lane within its quad that owns the weight in row `row` of a unit.
KERNELPKG_HOST_DEVICE constexpr int slot_quad_lane(WeightFormat format, bool fp8_activations,
                                                   int row) {
  return format == WeightFormat::kU4B8 && fp8_activations ? (row & 15) >> 2 : (row & 7) >> 1;
}

KERNELPKG_HOST_DEVICE constexpr Slot slot_of(WeightFormat format, bool fp8_activations, int k,
                                             int n, int size_n) {
  const int rows = unit_rows(format);
  const int row = k % rows;
  const int col = n % kUnitCols;
  const int tile = (col & 7) >> 1;                  // which of the four MMA column tiles
  const int tile_col = 2 * (col >> 3) + (col & 1);  // column inside it
  const int lane = 4 * tile_col + slot_quad_lane(format, fp8_activations, row);
  const int64_t unit = static_cast<int64_t>(k / rows) * (size_n / kUnitCols) + n / kUnitCols;
  return {unit * kUnitWords + lane * 4 + tile, slot_shift(format, fp8_activations, row)};
}

// The nibble as stored. For FP8 activations the kernel needs sign and magnitude: bit 3 is the sign
// of q - 8, bits 0-2 its magnitude, less one where negative (so that -8 fits). Its own inverse up
// to the sign's meaning: see decode_nibble.
KERNELPKG_HOST_DEVICE constexpr uint32_t encode_nibble(uint32_t q, bool fp8_activations) {
  return !fp8_activations ? q : q >= 8 ? q - 8 : 15 - q;
}

// The weight's integer value (-8 .. 7) from the nibble as stored.
KERNELPKG_HOST_DEVICE constexpr int decode_nibble(uint32_t stored, bool fp8_activations) {
  if (!fp8_activations) return static_cast<int>(stored) - 8;
  return stored & 8 ? -1 - static_cast<int>(stored & 7) : static_cast<int>(stored);
}

constexpr int64_t packed_words(WeightFormat format, int k, int n) {
  return static_cast<int64_t>(k) * n / (32 / bits_of(format));
}

}  // namespace kernelpkg::marlin
