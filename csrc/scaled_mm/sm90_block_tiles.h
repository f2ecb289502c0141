// How the tiled kernel of 9.0 for scales in blocks is launched: plain host code.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "scaled_mm/registry.h"

namespace kernelpkg {

// Everything the kernel is told. A cluster of two blocks computes two tiles of neighbouring rows of
// c at a time, an item; clusters take works in turn. A work is an item, or of the last items, which
// would leave clusters idle, a part of K: its sums go to memory, where a second kernel adds them.
struct BlockTilesParams {
  CUtensorMap a, b, c;
  const float* a_scales;
  int64_t a_scale_row;
  const float* b_scales;
  int64_t b_scale_column;
  int a_scale_block, b_scale_block;
  const uint16_t* bias;
  int m, n, k;
  int row_items;     // items one above the other
  int column_items;  // and side by side
  int whole;         // items that are one work each
  int parts;         // works of each item after them
  int works;
  float* sums;  // [works - whole, rows of an item, columns of a tile]
  bool half;    // fp16 output, else bf16
};

constexpr int kBlockTilesRows = 128;   // of c in a tile
constexpr int kBlockTilesCluster = 2;  // blocks, which share the weight they read
// Rows of items that are computed together, column by column: about as much of a as of the weight
// is in use at a time, and little of either is fetched twice.
constexpr int kBlockTilesGroup = 8;
// One warpgroup copies, two multiply, each its half of a tile's rows.
constexpr int kBlockTilesThreads = 3 * 128;
constexpr int kBlockTilesTeamRows = 64;
// A tile of c goes out by the copy engine, in boxes of so many columns.
constexpr int kBlockTilesBox = 64;

// All stages that fit beside a tile of c, for tiles of this many columns.
constexpr int block_tiles_stage_bytes(int columns) {
  return (kBlockTilesRows + columns) * kScaleBlock;
}
constexpr int block_tiles_output_bytes(int columns) { return kBlockTilesRows * columns * 2; }
constexpr int block_tiles_stages(int columns) {
  return (232448 - 1024 - block_tiles_output_bytes(columns)) / block_tiles_stage_bytes(columns);
}
constexpr int block_tiles_shared(int columns) {
  return block_tiles_stages(columns) * (block_tiles_stage_bytes(columns) + 16) +
         block_tiles_output_bytes(columns);
}

// Blocks of K that the last round has to be shorter by, for the second kernel to pay.
constexpr int kBlockTilesSaved = 12;

// Fills what divides a call: row_items, column_items, whole, parts, works. Clusters are half as
// many as multiprocessors; where a device holds fewer, they take more works each.
void block_tiles_divide(int m, int n, int k, int columns, int sm_count, BlockTilesParams* params);

// Bytes of the sums of a call so divided.
constexpr size_t block_tiles_sum_bytes(const BlockTilesParams& params, int columns) {
  const size_t values = size_t{kBlockTilesCluster} * kBlockTilesRows * columns;
  return static_cast<size_t>(params.works - params.whole) * values * sizeof(float);
}

// Divides, encodes the maps and launches `kernel`, whose shared memory limit was raised. `divided`
// gets what the kernel was told.
Status block_tiles_launch(const char* name, const void* kernel, int columns,
                          const ScaledMmArgs& args, const ScaledMmDevice& device,
                          BlockTilesParams* divided);

}  // namespace kernelpkg
