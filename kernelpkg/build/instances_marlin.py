"""The Marlin instances: which tiles are built, for which types.

A tile is one row of `_TILES`. What fits is fixed by three limits: 101,376 B of shared memory for a block
(checked at compile time in csrc/marlin/tile.cuh), 65,536 registers per multiprocessor over the blocks that
should share it, and enough bytes of weights under way (stages - 1 of them, times the blocks) to keep the
memory of the fastest device busy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

from kernelpkg.build.instance import Instance

UNIT_K = 128


@dataclass(frozen=True, slots=True)
class _Format:
    kernel: str
    gate: str
    weights: str
    bits: int
    activations: tuple[tuple[str, str], ...]  # (activation type, output type)
    declares: str


@dataclass(frozen=True, slots=True)
class _Tile:
    row_blocks: int  # of 16 rows
    cols: int
    stage_k: int
    stages: int
    blocks_per_sm: int  # the compiler keeps registers low enough for as many


_HALF, _BFLOAT, _FP8 = "kFloat16", "kBFloat16", "kFloat8E4M3"
_SHORT = {_HALF: "fp16", _BFLOAT: "bf16"}
_ENUM = {_HALF: 0, _BFLOAT: 1, _FP8: 2, "kU4B8": 0, "kE4M3": 1}  # values in csrc/common/dtypes.h
_BYTES = {_HALF: 2, _BFLOAT: 2, _FP8: 1}

_W8A16 = _Format("marlin_w8a16", "marlin_16bit", "kE4M3", 8, ((_HALF, _HALF), (_BFLOAT, _BFLOAT)), "mma16")
_W4A16 = _Format("marlin_w4a16", "marlin_16bit", "kU4B8", 4, ((_HALF, _HALF), (_BFLOAT, _BFLOAT)), "mma16")
_W4A8 = _Format("marlin_w4a8_fp8", "marlin_fp8", "kU4B8", 4, ((_FP8, _HALF), (_FP8, _BFLOAT)), "fp8_mma")

# 128 columns: on an H200 they beat 256 at almost every shape measured, since more, smaller blocks wait less
# for each other. At most 50,176 B where it can be had, so that two blocks share the 100 KiB of an 8.6, 8.9 or
# 12.x multiprocessor; with 64 rows it cannot everywhere, so a tile with twice the warps stands beside it.
_TILES: dict[_Format, tuple[_Tile, ...]] = {
    _W8A16: (
        _Tile(1, 128, 64, 4, 4),
        _Tile(2, 128, 64, 4, 3),
        _Tile(4, 128, 64, 4, 2),
        _Tile(4, 256, 64, 4, 1),
    ),
    _W4A16: (
        _Tile(1, 128, 128, 4, 4),
        _Tile(2, 128, 64, 5, 3),
        _Tile(4, 128, 64, 4, 2),
        _Tile(4, 256, 64, 6, 1),
    ),
    _W4A8: (
        _Tile(1, 128, 128, 4, 4),
        _Tile(2, 128, 128, 4, 3),
        _Tile(4, 128, 128, 4, 2),
        _Tile(4, 256, 128, 4, 1),
    ),
}

# One instance per branch of the template: each weight format, each activation type, each number of row
# blocks, both widths. (kernel, output type, row blocks, columns)
_TEST_SET = {
    ("marlin_w8a16", _HALF, 1, 128),
    ("marlin_w8a16", _HALF, 4, 128),
    ("marlin_w8a16", _BFLOAT, 1, 128),
    ("marlin_w8a16", _BFLOAT, 4, 256),
    ("marlin_w4a16", _HALF, 1, 128),
    ("marlin_w4a16", _BFLOAT, 2, 128),
    ("marlin_w4a16", _BFLOAT, 4, 128),
    ("marlin_w4a8_fp8", _BFLOAT, 1, 128),
    ("marlin_w4a8_fp8", _HALF, 4, 128),
    ("marlin_w4a8_fp8_emulated", _BFLOAT, 1, 128),
    ("marlin_w4a8_fp8_emulated", _HALF, 4, 128),
}


def _shared_memory(form: _Format, activation: str, tile: _Tile) -> int:
    """Dynamic shared memory of a block in bytes: stages of activations, weights and one row of scales."""
    rows = 16 * tile.row_blocks
    activations = rows * tile.stage_k * _BYTES[activation]
    weights = tile.stage_k * tile.cols * form.bits // 8
    return tile.stages * (activations + weights + tile.cols * 2)


def _instance(form: _Format, activation: str, output: str, tile: _Tile, emulated: bool) -> Instance:
    kernel = f"{form.kernel}_emulated" if emulated else form.kernel
    gate = "evidence_sm90" if emulated else form.gate
    family = "kEmulated" if emulated else "kShipped"
    rows = 16 * tile.row_blocks
    numbers = f"{tile.row_blocks}, {tile.cols}, {tile.stage_k}, {tile.stages}, {tile.blocks_per_sm}"
    function = (
        f"marlin_kernel<kernelpkg::gates::{gate}, "
        f"kernelpkg::marlin::Tile<(kernelpkg::DType){_ENUM[activation]}, "
        f"(kernelpkg::WeightFormat){_ENUM[form.weights]}, (kernelpkg::DType){_ENUM[output]}, {numbers}>"
    )
    in_test = (kernel, output, tile.row_blocks, tile.cols) in _TEST_SET
    return Instance(
        name=f"{kernel}_{_SHORT[output]}_{rows}x{tile.cols}",
        kernel=kernel,
        gate=form.gate,
        evidence="emulated" if emulated else None,
        declares=form.declares,
        sets=frozenset({"test", "release"} if in_test else {"release"}),
        source=(
            f"// {kernel}: {rows} x {tile.cols} tile, {tile.stages} stages of {tile.stage_k} along K.\n"
            '#include "marlin/instance.cuh"\n\n'
            f"KERNELPKG_MARLIN_INSTANCE({family}, {gate}, {activation}, {form.weights}, {output}, "
            f"{numbers})\n"
        ),
        function=re.escape(function),
        shared_memory=_shared_memory(form, activation, tile),
        cost_seconds=3.0,
    )


def _helpers() -> Instance:
    return Instance(
        name="marlin_helpers",
        kernel="marlin_repack",
        gate="marlin_16bit",
        evidence=None,
        declares="none",
        sets=frozenset({"test", "release"}),
        source=(
            "// The kernels beside the GEMM: packing weights, adding partial sums.\n"
            '#include "marlin/reduce.cu"\n'
            '#include "marlin/repack.cu"\n'
        ),
        function=r"marlin_(repack|reduce)_kernel<",
        cost_seconds=3.0,
    )


@cache
def instances() -> tuple[Instance, ...]:
    """Every Marlin instance, shipped and emulated, and the helper kernels."""
    found = [_helpers()]
    for form, tiles in _TILES.items():
        for activation, output in form.activations:
            found += [_instance(form, activation, output, tile, False) for tile in tiles]
    for activation, output in _W4A8.activations:
        for tile in _TILES[_W4A8]:
            # The conversions of the emulated form need registers: half the blocks, or they would spill.
            roomy = replace(tile, blocks_per_sm=max(1, tile.blocks_per_sm // 2))
            found.append(_instance(_W4A8, activation, output, roomy, True))
    return tuple(found)
