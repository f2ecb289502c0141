// Gathers one packed word from the source matrix: the same code on both sides makes GPU and CPU
// agree.
#pragma once

#include <cstdint>

#include "marlin/layout.h"

namespace kernelpkg::marlin {

// `weight` is int32 [k / 8, n] for u4b8 (GPTQ order) and uint8 [k, n] for e4m3.
KERNELPKG_HOST_DEVICE inline uint32_t gather_word(const void* weight, WeightFormat format,
                                                  bool fp8_activations, int n, int64_t index) {
  const int rows = unit_rows(format);
  const int units_per_row = n / kUnitCols;
  const int64_t unit = index / kUnitWords;
  const int within = static_cast<int>(index % kUnitWords);
  const int lane = within / 4, tile = within % 4;
  const int tile_col = lane / 4, quad_lane = lane % 4;
  const int64_t first_row = unit / units_per_row * rows;
  const int64_t col =
      unit % units_per_row * kUnitCols + 8 * (tile_col >> 1) + 2 * tile + (tile_col & 1);
  uint32_t word = 0;
  for (int row = 0; row < rows; ++row) {
    if (slot_quad_lane(format, fp8_activations, row) != quad_lane) continue;
    const int64_t k = first_row + row;
    uint32_t value;
    if (format == WeightFormat::kU4B8) {
      const uint32_t eight = static_cast<const uint32_t*>(weight)[k / 8 * n + col];
      value = encode_nibble(eight >> (4 * (k % 8)) & 15, fp8_activations);
    } else {
      value = static_cast<const uint8_t*>(weight)[k * n + col];
    }
    word |= value << slot_shift(format, fp8_activations, row);
  }
  return word;
}

}  // namespace kernelpkg::marlin
