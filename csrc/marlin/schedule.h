// Who computes what. The output is cut into tiles, each tile's K into units of 128 (one scale
// group). All units of all tiles, tile after tile, are one line, and block b takes the stretch from
// begin(b) to begin(b + 1) of it. With as many blocks as tiles this is one tile per block; with
// another number, tiles are split along K so that all blocks have the same work to within one unit.
// One number, `blocks`, is the whole choice.
//
// A block's stretch inside one tile is a segment. A segment that covers its tile writes the output;
// every other one writes float32 partial sums to its own slot of the workspace, and a second kernel
// adds a tile's slots in the order of K. So no block waits for another, the sum does not depend on
// timing, and the workspace needs no zeroing.
#pragma once

#include <cstdint>

#include "marlin/layout.h"

namespace kernelpkg::marlin {

constexpr int kUnitK = 128;

// Row tiles that are visited before the next column tile: enough to reuse weights from L2, few
// enough that the activations of the group stay there too (16 tiles of 64 rows at K = 4096 are 8
// MiB; GB10 has 24 MiB).
constexpr int kRasterRows = 16;

// All counts fit 32 bits (make_plan sees to it), and begin() divides nothing: a 64-bit division at
// the start of every block costs as much as a few stages of the pipeline.
struct Schedule {
  int m_tiles;
  int n_tiles;
  int k_units;
  int blocks;
  int share;   // units of every block ...
  int larger;  // ... and this many blocks, the first ones, have one more

  static Schedule make(int m_tiles, int n_tiles, int k_units, int blocks) {
    const int units = m_tiles * n_tiles * k_units;
    return {m_tiles, n_tiles, k_units, blocks, units / blocks, units % blocks};
  }

  KERNELPKG_HOST_DEVICE int tiles() const { return m_tiles * n_tiles; }
  KERNELPKG_HOST_DEVICE int units() const { return tiles() * k_units; }
  KERNELPKG_HOST_DEVICE bool splits_k() const { return larger != 0 || share % k_units != 0; }

  KERNELPKG_HOST_DEVICE int begin(int block) const {
    return block * share + (block < larger ? block : larger);
  }
  // The block that computes `unit`: the largest b with begin(b) <= unit.
  KERNELPKG_HOST_DEVICE int owner(int unit) const {
    const int in_larger = larger * (share + 1);
    return unit < in_larger ? unit / (share + 1) : larger + (unit - in_larger) / share;
  }

  // From one segment to the next, the block or the tile goes up, or both: their sum tells segments
  // apart.
  KERNELPKG_HOST_DEVICE static int slot(int block, int tile) { return block + tile; }
  KERNELPKG_HOST_DEVICE int slots() const { return blocks + tiles() - 1; }

  KERNELPKG_HOST_DEVICE void place(int tile, int& m_tile, int& n_tile) const {
    if (m_tiles == 1) {
      m_tile = 0;
      n_tile = tile;
      return;
    }
    const int per_group = kRasterRows * n_tiles;
    const int group = tile / per_group;
    const int first_row = group * kRasterRows;
    const int rows = m_tiles - first_row < kRasterRows ? m_tiles - first_row : kRasterRows;
    const int within = tile - group * per_group;
    n_tile = within / rows;
    m_tile = first_row + within - n_tile * rows;
  }
};

}  // namespace kernelpkg::marlin
