// Who computes what. The output is cut into tiles; a tile's K, in pipeline stages, is cut into
// `parts` of equal length to within one stage, and every block takes one part of one tile.
//
// Row tiles are visited in groups of `raster` before the next column tile: enough to reuse weights
// from L2, few enough that the activations of the group stay there too (1,024 rows at K = 4096 are
// 8 MiB; GB10 has 24 MiB).
//
// A tile in one part is written by its block. Parts go to float32 slots of the workspace, and a
// second kernel adds a tile's slots in the order of K. So no block waits for another, the sum does
// not depend on timing, and the workspace needs no zeroing. (Other ways were tried with the
// mma.sync kernel on an H200 and were slower: clusters that add through distributed shared memory,
// which the wgmma kernel takes for few parts; splitting only the tiles of the last round; and,
// instead of the rings in shared memory, weights straight from memory into registers.)
#pragma once

#include <cstdint>

#include "marlin/layout.h"

namespace kernelpkg::marlin {

constexpr int kTileCols = 128;
constexpr int kMaxParts = 32;  // of one tile: the reduction reads them one after another

// log2 of the rows of K per group: 30 where one group is all of K.
inline int group_shift(int group_size) {
  int shift = group_size == -1 ? 30 : 0;
  while (group_size != -1 && 1 << shift < group_size) ++shift;
  return shift;
}

struct Schedule {
  int m_tiles;
  int n_tiles;
  int stages;  // along all of K
  int parts;
  int share;   // stages of every part ...
  int larger;  // ... and this many parts, the first ones, have one more
  int raster;  // row tiles that are visited before the next column tile

  static Schedule make(int m_tiles, int n_tiles, int stages, int parts, int raster) {
    return {m_tiles, n_tiles, stages, parts, stages / parts, stages % parts, raster};
  }

  KERNELPKG_HOST_DEVICE int tiles() const { return m_tiles * n_tiles; }
  KERNELPKG_HOST_DEVICE int blocks() const { return tiles() * parts; }

  KERNELPKG_HOST_DEVICE int begin(int part) const {
    return part * share + (part < larger ? part : larger);
  }

  KERNELPKG_HOST_DEVICE void place(int tile, int& m_tile, int& n_tile) const {
    if (m_tiles == 1) {
      m_tile = 0;
      n_tile = tile;
      return;
    }
    const int per_group = raster * n_tiles;
    const int group = tile / per_group;
    const int first_row = group * raster;
    const int rows = m_tiles - first_row < raster ? m_tiles - first_row : raster;
    const int within = tile - group * per_group;
    n_tile = within / rows;
    m_tile = first_row + within - n_tile * rows;
  }
};

}  // namespace kernelpkg::marlin
