"""How the kernels of 9.0 that are written by hand divide a call: host code, compiled by g++. About 6 s."""

from __future__ import annotations

import itertools

import pytest

PROGRAM = r"""
#include <cstdio>
#include "scaled_mm/sm90_block_tiles.h"
#include "scaled_mm/sm90_stream.h"
using namespace kernelpkg;

// Lines of input: m n k tokens blocks, for 132 multiprocessors, or for 114 with little room for clusters.
int main() {
  int m, n, k, tokens, blocks, sms;
  while (std::scanf("%d %d %d %d %d %d", &m, &n, &k, &tokens, &blocks, &sms) == 6) {
    if (tokens != 0) {
      const int at_once[kStreamMaxParts] = {sms, sms / 2 * 2, 0, sms == 132 ? 120 : 0};
      StreamParams p = {};
      stream_divide(m, n, k, tokens, blocks != 0, at_once, &p);
      std::printf("%d %d %d %d %d %d %d %d %d\n", p.tokens, p.rows, p.tiles, p.parts, p.clusters, p.units,
                  p.stages, p.sums, stream_ring_bytes(tokens, blocks != 0));
    } else {
      BlockTilesParams p = {};
      block_tiles_divide(m, n, k, 128, sms, &p);
      std::printf("%d %d %d %d %d %zu\n", p.row_items, p.column_items, p.whole, p.parts, p.works,
                  block_tiles_sum_bytes(p, 128));
    }
  }
}
"""

NK = [
    (1, 1),
    (8, 65536),
    (96, 96),
    (576, 7168),
    (2112, 7168),
    (4096, 4096),
    (4096, 14336),
    (6144, 4096),
    (8192, 28672),
    (28672, 4096),
    (57344, 8192),
    (100000, 128),
]
SMS = (132, 114)


@pytest.fixture(scope="module")
def divide(run_host_program):
    """cases of six numbers -> what the program says of each."""
    hosts = ("common/device", "common/tensor_map", "scaled_mm/launch")
    run = run_host_program(PROGRAM, *hosts, "scaled_mm/sm90_stream", "scaled_mm/sm90_block_tiles")

    def asked(cases: list[tuple[int, ...]]) -> list[list[int]]:
        lines = run("\n".join(" ".join(map(str, case)) for case in cases))
        return [list(map(int, line.split())) for line in lines]

    return asked


def test_the_streaming_kernel_covers_n_and_k_with_two_stages_at_least(divide) -> None:
    """One stage would be a deadlock: it is handed back when the next has come."""
    cases = [
        (m, n, k, tokens, blocks, sms)
        for (n, k), tokens, blocks, sms in itertools.product(NK, (16, 32, 64, 128), (0, 1), SMS)
        for m in {1, 7, 8, 9, tokens // 2 + 1, tokens - 1, tokens}
    ]
    for case, found in zip(cases, divide(cases), strict=True):
        m, n, k, tile, _, sms = case
        tokens, rows, tiles, parts, clusters, units, stages, sums_at, ring = found
        assert m <= tokens <= tile and tokens % 8 == 0, case
        assert rows % 8 == 0 and 8 <= rows <= 128 and tiles == -(-n // rows), case
        assert parts in (1, 2, 4) and parts <= -(-k // 128), case
        assert 2 <= stages <= 24 and 1 <= units <= 4 and (units >= 2 or rows > 64), case
        # What the MMA reads beyond the last unit: whole groups of 64 rows, all tokens of the tile.
        unit = (rows + tokens) * 128
        read = 64 if rows <= 64 else 128
        beyond = max(0, read * 128 - unit, (tile - tokens) * 128)
        filled = stages * units * unit + beyond
        assert filled <= ring < 232448 and clusters == min(tiles, sms // parts), case
        # Sums, twice where two warpgroups each have a part of K, lie in the ring, or behind it where the
        # next tile is on its way there; 16-bit output does where each row has all its sums in one warpgroup.
        sums = (2 if rows <= 64 else 1) * tile * (read + 4) * 4
        if rows > 64 and parts == 1:
            sums = tile * read * 2
        assert (sums_at == 0) == (clusters == tiles) and sums_at + sums <= ring, case
        assert sums_at == 0 or filled <= sums_at, case


def test_the_tiled_kernel_cuts_only_a_last_round_that_is_not_full(divide) -> None:
    cases = [(m, *nk, 0, 0, sms) for m in (65, 128, 300, 1024, 4096) for nk in NK for sms in SMS]
    cut = 0
    for case, found in zip(cases, divide(cases), strict=True):
        m, n, k, _, _, sms = case
        row_items, column_items, whole, parts, works, sum_bytes = found
        items, clusters = row_items * column_items, sms // 2
        assert row_items == -(-m // 256) and column_items == -(-n // 128), case
        assert works == whole + (items - whole) * parts, case
        assert sum_bytes == (works - whole) * 256 * 128 * 4, case
        if parts == 1:
            assert whole == items, case
            continue
        cut += 1
        assert whole % clusters == 0 and 0 < works - whole <= clusters, case
        assert parts <= min(8, -(-k // 128) // 4), case
    assert cut > len(cases) // 10
