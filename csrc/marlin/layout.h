// Where weight (k, n) lives in the packed words, and where its scale and zero point do: the one
// description that the GPU repack, the CPU repack, the CPU reference and the kernel's dequantisers
// share.
//
// The matrix is padded to whole tiles and cut into units of 32 columns and 32 rows of K. A unit is
// 512 (4 bits) or 1024 (8 bits) consecutive bytes; two neighbouring units form a strip of 64
// columns, and a strip is contiguous along K, so that a block that walks K reads memory forwards.
// Inside a unit 16 bytes belong to each of the 32 lanes of a warp (8 bits: per half of the rows):
// exactly the B fragments that the lane hands to its next MMAs, so that a warp reads a unit with
// coalesced 16-byte loads, in device memory and in shared memory alike. A unit spans four MMA
// column tiles (8 columns each), one 32-bit word per tile.
//
// Columns are dealt to the four tiles in pairs. Lane t of a quad owns accumulator columns 2t and
// 2t+1 of every tile, and with this deal these are the eight neighbours 8t .. 8t+7 of the unit:
// scales, bias, partial sums and output all become 16-byte accesses.
//
// Rows are dealt to the quad by eights: lane t owns rows 8t .. 8t+7. The order of K inside an MMA
// is free as long as both operands agree, and with this one the lane's part of A is 16 (16-bit) or
// 8 (FP8) contiguous bytes. m16n8k16 and m16n8k32 can both be fed from it: one packed copy serves
// 16-bit and FP8 activations.
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
constexpr int kUnitRows = 32;
constexpr int kHalfWords = 128;  // 32 lanes x 4 tiles; a unit of 4-bit weights is one such half
constexpr int kStripCols = 64;
constexpr int kPadK = 128;
constexpr int kPadN = kStripCols;

// Packed extents. 64-bit: rounding up the largest int32 must not wrap.
KERNELPKG_HOST_DEVICE constexpr int64_t padded_k(int64_t k) {
  return (k + kPadK - 1) / kPadK * kPadK;
}
KERNELPKG_HOST_DEVICE constexpr int64_t padded_n(int64_t n) {
  return (n + kPadN - 1) / kPadN * kPadN;
}

KERNELPKG_HOST_DEVICE constexpr bool is_8bit(WeightFormat format) {
  return format == WeightFormat::kE4M3 || format == WeightFormat::kU8B128;
}

KERNELPKG_HOST_DEVICE constexpr int unit_words(WeightFormat format) {
  return is_8bit(format) ? 2 * kHalfWords : kHalfWords;
}

// Words of a whole weight, and of one strip of 64 columns. k and n are the logical extents.
constexpr int64_t strip_words(WeightFormat format, int64_t k) {
  return padded_k(k) / kUnitRows * 2 * unit_words(format);
}
constexpr int64_t packed_words(WeightFormat format, int64_t k, int64_t n) {
  return padded_n(n) / kStripCols * strip_words(format, k);
}

// Columns of a unit: `tile` of the four MMA tiles, `g` (0 .. 7) the column inside it.
KERNELPKG_HOST_DEVICE constexpr int unit_col(int g, int tile) {
  return 8 * (g >> 1) + 2 * tile + (g & 1);
}
KERNELPKG_HOST_DEVICE constexpr int tile_of_col(int col) { return (col & 7) >> 1; }
KERNELPKG_HOST_DEVICE constexpr int g_of_col(int col) { return 2 * (col >> 3) + (col & 1); }

// Lane of its quad that owns row `row` of a unit.
KERNELPKG_HOST_DEVICE constexpr int quad_lane_of_row(int row) { return row >> 3; }

// Bit position, inside its word, of the weight in row `row` of a unit.
KERNELPKG_HOST_DEVICE constexpr int slot_shift(WeightFormat format, int row) {
  if (is_8bit(format)) {
    // Of each four rows the first two share the odd bytes and the last two the even ones: a pair
    // lands in the upper bytes of the two half words with no shift, or with one.
    const int r = row & 3;
    return 8 * ((r & 2 ? 0 : 1) + 2 * (r & 1));
  }
  // Pair p = rows (2p, 2p + 1) of the lane's eight sits in nibbles p and p + 4, one per half word.
  const int i = row & 7;
  return 4 * ((i >> 1) + 4 * (i & 1));
}

// Which of the two halves of an 8-bit unit holds the row; 4-bit units have one.
KERNELPKG_HOST_DEVICE constexpr int slot_half(WeightFormat format, int row) {
  return is_8bit(format) ? (row & 7) >> 2 : 0;
}

struct Slot {
  int64_t word;  // index of the 32-bit word
  int shift;     // of the lowest bit of the nibble or byte in it
};

// k_pad is padded_k of the weight's K.
KERNELPKG_HOST_DEVICE constexpr Slot slot_of(WeightFormat format, int64_t k, int64_t n,
                                             int64_t k_pad) {
  const int row = static_cast<int>(k % kUnitRows);
  const int col = static_cast<int>(n % kUnitCols);
  const int lane = 4 * g_of_col(col) + quad_lane_of_row(row);
  const int64_t unit =
      ((n / kStripCols) * (k_pad / kUnitRows) + k / kUnitRows) * 2 + n % kStripCols / kUnitCols;
  return {
      unit * unit_words(format) + slot_half(format, row) * kHalfWords + lane * 4 + tile_of_col(col),
      slot_shift(format, row)};
}

// Rows of `scales` and `zeros` for a group size (-1: one row); a padded K has padded groups.
KERNELPKG_HOST_DEVICE constexpr int64_t padded_groups(int64_t k, int group_size) {
  return group_size == -1 ? 1 : padded_k(k) / group_size;
}

// Every format but NVFP4 keeps scales [padded_groups, n_pad] in natural order. NVFP4 has two groups
// per unit; 64 scales of a unit lie together, in the lanes' order.
KERNELPKG_HOST_DEVICE constexpr int64_t nvfp4_scale_index(int64_t k, int64_t n, int64_t n_pad) {
  const int col = static_cast<int>(n % kUnitCols);
  const int half = static_cast<int>(k % kUnitRows) >> 4;
  const int64_t unit = k / kUnitRows * (n_pad / kUnitCols) + n / kUnitCols;
  return (unit * 2 + half) * kUnitCols + 4 * g_of_col(col) + tile_of_col(col);
}

// NVFP4 scales are stored times a power of two. The kernel shifts the bits of an e2m1 code into the
// wider type, which reads as value * 2^-126 (bfloat16) or value * 2^-14 (float16), and one
// multiplication by such a scale brings it back in range, exactly.
constexpr int nvfp4_scale_exponent(DType c_type) { return c_type == DType::kBFloat16 ? 118 : 7; }

// Zero points (u4): uint8 [padded_groups, n_pad], in the lanes' order inside every 32 columns.
KERNELPKG_HOST_DEVICE constexpr int64_t zero_index(int64_t group, int64_t n, int64_t n_pad) {
  const int col = static_cast<int>(n % kUnitCols);
  return group * n_pad + n / kUnitCols * kUnitCols + 4 * g_of_col(col) + tile_of_col(col);
}

// Code that padded weights carry: value 0 where the format alone decides it. (u4 has no such code;
// its padding meets zero activations or a zero scale, as all padding does.)
KERNELPKG_HOST_DEVICE constexpr uint32_t pad_code(WeightFormat format) {
  return format == WeightFormat::kU4B8 ? 8 : format == WeightFormat::kU8B128 ? 128 : 0;
}

// Values of codes before their scale. Integers: subtract the zero point where the format has one.
KERNELPKG_HOST_DEVICE constexpr int integer_value(WeightFormat format, uint32_t code, int zero) {
  const int offset = format == WeightFormat::kU4 ? zero : static_cast<int>(pad_code(format));
  return static_cast<int>(code) - offset;
}

// e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
KERNELPKG_HOST_DEVICE constexpr float e2m1_value(uint32_t code) {
  const int exponent = static_cast<int>(code >> 1 & 3), mantissa = static_cast<int>(code & 1);
  const int halves = exponent == 0 ? mantissa : (2 + mantissa) << (exponent - 1);
  return (code & 8 ? -0.5f : 0.5f) * static_cast<float>(halves);
}

}  // namespace kernelpkg::marlin
