// Who computes what. The output is cut into tiles, each tile's K into units of 128 (one scale group). All units of all
// tiles, tile after tile, are one line, and block b takes the stretch from begin(b) to begin(b + 1) of it. With as many
// blocks as tiles this is one tile per block; with another number, tiles are split along K so that all blocks have the
// same work to within one unit. One number, `blocks`, is the whole choice.
//
// A block's stretch inside one tile is a segment. A segment that covers its tile writes the output; every other one
// writes float32 partial sums to its own slot of the workspace, and a second kernel adds a tile's slots in the order of
// K. So no block waits for another, the sum does not depend on timing, and the workspace needs no zeroing.
#pragma once

#include <cstdint>

#include "marlin/layout.h"

namespace kernelpkg::marlin {

constexpr int kUnitK = 128;

// Row tiles that are visited before the next column tile: enough to reuse weights from L2, few enough that the
// activations of the group stay there too (16 tiles of 64 rows at K = 4096 are 8 MiB; GB10 has 24 MiB).
constexpr int kRasterRows = 16;

struct Schedule {
  int m_tiles;
  int n_tiles;
  int k_units;
  int blocks;

  KERNELPKG_HOST_DEVICE int64_t tiles() const { return static_cast<int64_t>(m_tiles) * n_tiles; }
  KERNELPKG_HOST_DEVICE int64_t units() const { return tiles() * k_units; }
  KERNELPKG_HOST_DEVICE bool splits_k() const { return k_units > 1 && tiles() % blocks != 0; }

  KERNELPKG_HOST_DEVICE int64_t begin(int block) const { return units() * block / blocks; }
  // The block that computes `unit`: the largest b with begin(b) <= unit.
  KERNELPKG_HOST_DEVICE int owner(int64_t unit) const {
    return static_cast<int>(((unit + 1) * blocks - 1) / units());
  }

  // From one segment to the next, the block or the tile goes up, or both: their sum tells segments apart.
  KERNELPKG_HOST_DEVICE static int64_t slot(int block, int64_t tile) { return block + tile; }
  KERNELPKG_HOST_DEVICE int64_t slots() const { return blocks + tiles() - 1; }

  KERNELPKG_HOST_DEVICE void place(int64_t tile, int& m_tile, int& n_tile) const {
    const int64_t per_group = static_cast<int64_t>(kRasterRows) * n_tiles;
    const int group = static_cast<int>(tile / per_group);
    const int first_row = group * kRasterRows;
    const int rows = m_tiles - first_row < kRasterRows ? m_tiles - first_row : kRasterRows;
    const int within = static_cast<int>(tile - group * per_group);
    m_tile = first_row + within % rows;
    n_tile = within / rows;
  }
};

}  // namespace kernelpkg::marlin
