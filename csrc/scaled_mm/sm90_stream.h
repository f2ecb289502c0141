// How the streaming kernel of 9.0 divides a call: plain host code.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "scaled_mm/registry.h"

namespace kernelpkg {

// Everything the kernel is told. A block computes a tile of `rows` neighbouring columns of c (rows
// of the weight) at a time over one of `parts` stretches of K; the blocks of a cluster add up.
// Clusters take tiles in turn.
struct StreamParams {
  CUtensorMap a, b;
  const float* a_scales;
  int64_t a_scale_row, a_scale_block;
  const float* b_scales;
  int64_t b_scale_column, b_scale_block;
  const uint16_t* bias;
  uint16_t* c;
  int64_t ldc;
  int m, n, k;
  int tokens;  // rows of a in a stage, a multiple of 8: no more than there are
  int rows;    // of the weight, a multiple of 8
  int tiles;   // of `rows` rows each, the last may be short
  int parts;   // of K, blocks of a cluster
  int clusters;
  int units;   // of 128 values of K in a stage
  int stages;  // of the ring
  int sums;    // bytes from the ring to where tiles are stored from; 0, in its place, where a
               // cluster has but one tile
  bool half;   // fp16 output, else bf16
};

// The greatest rows of the weight a block takes at a time. It reads on while it stores a tile, so
// that two are better than one twice as large.
constexpr int kStreamMaxRows = 128;
constexpr int kStreamThreads = 32 + 2 * 128;
constexpr int kStreamMaxStages = 24;
constexpr int kStreamMaxParts = 4;
constexpr int kStreamShared = 232448;
constexpr int kStreamBarrierBytes = 16 * kStreamMaxStages;
// Scales of tokens that factor out lie below the barriers.
constexpr int stream_factor_bytes(int tokens, bool blocks) { return blocks ? 0 : tokens * 4; }
// Scales in blocks, per unit of a stage: the tokens', and of as many blocks of rows as a tile can
// touch.
constexpr int kStreamRowBlocks = 2;
constexpr int stream_scale_bytes(int tokens) { return (tokens + kStreamRowBlocks) * 4; }
constexpr int kStreamMaxUnits = 4;
// Units that all stages have together: as many as there are of the fewest rows, 8.
constexpr int stream_all_units(int tokens) {
  constexpr int kMost = kStreamMaxStages * kStreamMaxUnits;
  const int fit = kStreamShared / ((8 + tokens) * kScaleBlock);
  return fit < kMost ? fit : kMost;
}
// Stages begin on 1,024 bytes, which the swizzle asks for. The ring, and sums of their own.
constexpr int stream_ring_bytes(int tokens, bool blocks) {
  const int scales = blocks ? stream_all_units(tokens) * stream_scale_bytes(tokens) : 0;
  const int bytes =
      kStreamShared - kStreamBarrierBytes - stream_factor_bytes(tokens, blocks) - scales;
  return bytes / 1024 * 1024;
}
// Rows of the weight that the two warpgroups' MMAs take together: 64, of which each has a part of
// K, or 64 each.
constexpr int stream_mma_rows(int rows) { return rows <= 64 ? 64 : 128; }
// Floats from one token's sums to the next in shared memory; the 4 keep a warp's writes apart.
constexpr int stream_pitch(int mma_rows) { return mma_rows + 4; }
// What a tile is stored from: its sums where several warpgroups have some of the same rows, else
// its output.
constexpr int stream_store_bytes(int tokens, int mma_rows, bool shared) {
  if (!shared) return tokens * mma_rows * 2;
  return (mma_rows == 64 ? 2 : 1) * tokens * stream_pitch(mma_rows) * 4;
}

// Divides the call and fills tokens, rows, tiles, parts, clusters, units, stages and sums. tokens:
// of the kernel's tile, m at the most. at_once[p]: blocks, in clusters of p + 1, that the device
// holds at once, each with all of a multiprocessor's shared memory.
void stream_divide(int m, int n, int k, int tokens, bool blocks,
                   const int (&at_once)[kStreamMaxParts], StreamParams* params);

// Divides, encodes the maps and launches `kernel`, whose shared memory limit was raised.
Status stream_launch(const char* name, const void* kernel, int tokens, const ScaledMmArgs& args);

}  // namespace kernelpkg
