// Gathers one packed word from the source matrix: the same code on both sides makes GPU and CPU
// agree.
#pragma once

#include <cstdint>

#include "marlin/layout.h"

namespace kernelpkg::marlin {

// Word `index` of the packed form of `weight`, int32 [ceil(k / 8), n] (nibble j of word (r, c) is
// row 8 r + j) or, where kWide, uint8 [k, n]. Weights beyond k or n are `pad`.
template <bool kWide>
KERNELPKG_HOST_DEVICE inline uint32_t gather_word(const void* weight, uint32_t pad, int64_t k,
                                                  int64_t n, int64_t index) {
  constexpr WeightFormat kLike = kWide ? WeightFormat::kE4M3 : WeightFormat::kU4B8;
  constexpr int kWords = unit_words(kLike);
  const int64_t unit = index / kWords;
  const int within = static_cast<int>(index % kWords);
  const int half = within / kHalfWords;
  const int lane = within % kHalfWords / 4, tile = within % 4;
  const int64_t units_along_k = padded_k(k) / kUnitRows;
  const int64_t strip = unit / 2 / units_along_k;
  const int64_t col = strip * kStripCols + unit % 2 * kUnitCols + unit_col(lane / 4, tile);
  const int64_t first_row = unit / 2 % units_along_k * kUnitRows + 8 * (lane % 4);
  uint32_t word = 0;
  for (int i = 0; i < 8; ++i) {
    if (slot_half(kLike, i) != half) continue;
    const int64_t row = first_row + i;
    uint32_t code = pad;
    if (row < k && col < n) {
      if constexpr (kWide) {
        code = static_cast<const uint8_t*>(weight)[row * n + col];
      } else {
        code = static_cast<const uint32_t*>(weight)[row / 8 * n + col] >> (4 * i) & 15;
      }
    }
    word |= code << slot_shift(kLike, i);
  }
  return word;
}

}  // namespace kernelpkg::marlin
