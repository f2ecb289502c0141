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
    rows: int
    stage_k: int  # rows of K per pipeline stage
    sets: int  # of four warps, which take turns along K
    stages: int  # of each set
    blocks_per_sm: int  # the compiler keeps registers low enough for as many


_COLS = 128
_HALF, _BFLOAT, _FP8 = "kFloat16", "kBFloat16", "kFloat8E4M3"
_SHORT = {_HALF: "fp16", _BFLOAT: "bf16"}
# Values in csrc/common/dtypes.h.
_ENUM = {_HALF: 0, _BFLOAT: 1, _FP8: 2}
FORMAT_NUMBERS = {"kU4B8": 0, "kE4M3": 1, "kU4": 2, "kU8B128": 3, "kNvfp4": 4, "kMxfp4": 5}

_BYTES = {_HALF: 2, _BFLOAT: 2, _FP8: 1}

_BOTH = ((_HALF, _HALF), (_BFLOAT, _BFLOAT))
_FP8_BOTH = ((_FP8, _HALF), (_FP8, _BFLOAT))


def _weight_only(kernel: str, weights: str, bits: int, activations: tuple = _BOTH) -> _Format:
    return _Format(kernel, "marlin_16bit", weights, bits, activations, "mma16")


def _fp8(kernel: str, weights: str, bits: int, activations: tuple = _FP8_BOTH) -> _Format:
    return _Format(kernel, "marlin_fp8", weights, bits, activations, "fp8_mma")


_FORMATS = (
    _weight_only("marlin_w8a16", "kE4M3", 8),
    _weight_only("marlin_w4a16", "kU4B8", 4),
    _weight_only("marlin_w4a16_zp", "kU4", 4),
    _weight_only("marlin_w8a16_int8", "kU8B128", 8),
    _weight_only("marlin_w4a16_nvfp4", "kNvfp4", 4),
    _weight_only("marlin_w4a16_mxfp4", "kMxfp4", 4, ((_BFLOAT, _BFLOAT),)),
    _fp8("marlin_w4a8_fp8", "kU4B8", 4),
    _fp8("marlin_w4a8_fp8_zp", "kU4", 4),
    _fp8("marlin_w4a8_fp8_mxfp4", "kMxfp4", 4, ((_FP8, _BFLOAT),)),
    _fp8("marlin_w8a8_fp8", "kE4M3", 8),
)

# By (bits of a weight, bytes of an activation). With up to 32 rows two sets of warps and two blocks share a
# multiprocessor; 64 rows need the registers of one set. 8 rows are half a tensor-core instruction per weight,
# which decoding a few sequences is worth; with FP8 activations they are left out.
_TILES = {
    (8, 2): (
        _Tile(8, 128, 2, 2, 2),
        _Tile(16, 128, 2, 2, 2),
        _Tile(32, 64, 2, 3, 2),
        _Tile(64, 64, 1, 4, 2),
    ),
    (4, 2): (
        _Tile(8, 128, 2, 3, 2),
        _Tile(16, 128, 2, 3, 2),
        _Tile(32, 128, 2, 2, 2),
        _Tile(64, 128, 1, 3, 2),
    ),
    (8, 1): (_Tile(16, 128, 2, 2, 2), _Tile(32, 128, 2, 2, 2), _Tile(64, 128, 1, 3, 2)),
    (4, 1): (_Tile(16, 128, 2, 3, 2), _Tile(32, 128, 2, 3, 2), _Tile(64, 128, 1, 4, 2)),
}

# One instance per branch of the template: each weight format, each activation type, one set and two, few rows
# and many. (kernel, output type, rows)
_TEST_SET = {
    ("marlin_w8a16", _HALF, 16),
    ("marlin_w8a16", _HALF, 64),
    ("marlin_w8a16", _BFLOAT, 8),
    ("marlin_w8a16", _BFLOAT, 64),
    ("marlin_w4a16", _HALF, 8),
    ("marlin_w4a16", _BFLOAT, 32),
    ("marlin_w4a16", _BFLOAT, 64),
    ("marlin_w4a16_zp", _HALF, 16),
    ("marlin_w4a16_zp", _BFLOAT, 32),
    ("marlin_w8a16_int8", _HALF, 32),
    ("marlin_w8a16_int8", _BFLOAT, 16),
    ("marlin_w4a16_nvfp4", _HALF, 16),
    ("marlin_w4a16_nvfp4", _BFLOAT, 64),
    ("marlin_w4a16_mxfp4", _BFLOAT, 16),
    ("marlin_w4a8_fp8", _BFLOAT, 16),
    ("marlin_w4a8_fp8", _HALF, 64),
    ("marlin_w4a8_fp8_zp", _BFLOAT, 16),
    ("marlin_w4a8_fp8_zp", _HALF, 32),
    ("marlin_w4a8_fp8_mxfp4", _BFLOAT, 16),
    ("marlin_w8a8_fp8", _BFLOAT, 16),
    ("marlin_w8a8_fp8", _HALF, 64),
}


def _roomy(form: _Format, tile: _Tile) -> _Tile:
    """The tile, with one block's registers where two blocks' would spill on 12.0f: zero points take more."""
    return replace(tile, blocks_per_sm=1) if form.weights == "kU4" and tile.rows == 32 else tile


def _shared_memory(form: _Format, activation: str, tile: _Tile) -> int:
    """Dynamic shared memory of a block in bytes, as csrc/marlin/tile.cuh counts it: per stage activations
    (rows lie apart), weights, up to one row of scales and of zero points per 32 of K, one barrier."""
    pitch = tile.stage_k + 32 if activation == _FP8 else tile.stage_k * 2 + 64
    blocks = tile.stage_k // 32
    scales = blocks * _COLS * (4 if form.weights == "kNvfp4" else 2)
    zeros = blocks * _COLS if form.weights == "kU4" else 0
    weights = tile.stage_k * _COLS * form.bits // 8
    return tile.sets * tile.stages * (tile.rows * pitch + weights + scales + zeros + 8)


def _instance(form: _Format, activation: str, output: str, tile: _Tile, emulated: bool) -> Instance:
    kernel = f"{form.kernel}_emulated" if emulated else form.kernel
    gate = "evidence_sm90" if emulated else form.gate
    family = "kEmulated" if emulated else "kShipped"
    numbers = f"{tile.rows}, {tile.stage_k}, {tile.sets}, {tile.stages}, {tile.blocks_per_sm}"
    function = (
        f"marlin_kernel<kernelpkg::gates::{gate}, "
        f"kernelpkg::marlin::Tile<(kernelpkg::DType){_ENUM[activation]}, "
        f"(kernelpkg::WeightFormat){FORMAT_NUMBERS[form.weights]}, (kernelpkg::DType){_ENUM[output]}, "
        f"{numbers}>"
    )
    in_test = (form.kernel, output, tile.rows) in _TEST_SET
    return Instance(
        name=f"{kernel}_{_SHORT[output]}_{tile.rows}x{_COLS}",
        kernel=kernel,
        gate=form.gate,
        evidence="emulated" if emulated else None,
        declares=form.declares,
        sets=frozenset({"test", "release"} if in_test else {"release"}),
        source=(
            f"// {kernel}: {tile.rows} x {_COLS} tile, {tile.sets} x {tile.stages} stages of "
            f"{tile.stage_k} along K.\n"
            '#include "marlin/instance.cuh"\n\n'
            f"KERNELPKG_MARLIN_INSTANCE({family}, {gate}, {activation}, {form.weights}, {output}, "
            f"{numbers})\n"
        ),
        function=re.escape(function),
        shared_memory=_shared_memory(form, activation, tile),
        cost_seconds=3.0,
    )


# The Hopper route for many rows (csrc/marlin/wgmma.cuh). u4b8 is u4 with every zero point 8, so one instance
# serves both; wgmma tiles are chosen by rows alone. (kernel, weights, activation types)
_WGMMA_FORMATS = (
    ("marlin_w8a16", "kE4M3", (_HALF, _BFLOAT)),
    ("marlin_w4a16", "kU4", (_HALF, _BFLOAT)),
    ("marlin_w8a16_int8", "kU8B128", (_HALF, _BFLOAT)),
    ("marlin_w4a16_nvfp4", "kNvfp4", (_HALF, _BFLOAT)),
    ("marlin_w4a16_mxfp4", "kMxfp4", (_BFLOAT,)),
)
_WGMMA_ROWS = (64, 128)
_WGMMA_TEST_SET = {
    ("kE4M3", _HALF, 64),
    ("kE4M3", _BFLOAT, 128),
    ("kU4", _BFLOAT, 64),
    ("kU4", _HALF, 128),
    ("kU8B128", _BFLOAT, 128),
    ("kNvfp4", _BFLOAT, 64),
    ("kMxfp4", _BFLOAT, 128),
}


def wgmma_stages(weights: str, rows: int) -> tuple[int, int, int, int]:
    """(stages, rows of K in one, threads, bytes of shared memory) of a tile, as csrc/marlin/wgmma_tile.h
    counts them: per stage activations, weights, a row of scales and of zero points per 32 of K."""
    stage_k, consumers = (64, 2) if rows >= 128 else (128, 4)
    units = stage_k // 32
    unit = 1024 if weights in ("kE4M3", "kU8B128") else 512
    scales = units * (2 if weights == "kNvfp4" else 1) * 512
    stage = stage_k * rows * 2 + 8 * units * unit + scales + (units * 256 if weights == "kU4" else 0)
    beside = 1024 + 512  # alignment and barriers
    stages = min(16, (232_448 - beside) // stage)
    return stages, stage_k, 128 * (consumers + 1), beside + stages * stage


def _wgmma(kernel: str, weights: str, activation: str, rows: int) -> Instance:
    in_test = (weights, activation, rows) in _WGMMA_TEST_SET
    return Instance(
        name=f"{kernel}_{_SHORT[activation]}_wgmma_{rows}x256",
        kernel=kernel,
        gate="marlin_wgmma",
        evidence=None,
        declares="mma16",
        sets=frozenset({"test", "release"} if in_test else {"release"}),
        source=(
            f"// {kernel}: {rows} x 256 tile by wgmma.\n"
            '#include "marlin/wgmma_instance.cuh"\n\n'
            f"KERNELPKG_MARLIN_WGMMA_INSTANCE(marlin_wgmma, {activation}, {weights}, {rows})\n"
        ),
        function=re.escape(
            "marlin_wgmma_kernel<kernelpkg::gates::marlin_wgmma, kernelpkg::marlin::WgmmaTile<"
            f"(kernelpkg::DType){_ENUM[activation]}, (kernelpkg::WeightFormat){FORMAT_NUMBERS[weights]}, "
            f"{rows}>"
        ),
        cost_seconds=12.0,
    )


def _helper(name: str, gate: str, function: str, source: str) -> Instance:
    return Instance(
        name=name,
        kernel="marlin_repack",
        gate=gate,
        evidence=None,
        declares="none",
        sets=frozenset({"test", "release"}),
        source=source,
        function=function,
        cost_seconds=3.0,
    )


_HELPERS = (
    _helper(
        "marlin_helpers",
        "marlin_16bit",
        r"marlin_(repack|pad_rows|reduce|widen)_kernel<",
        "// The kernels beside the GEMM: packing, padding, adding partial sums, widening.\n"
        '#include "marlin/pad_rows.cu"\n'
        '#include "marlin/reduce.cu"\n'
        '#include "marlin/repack.cu"\n'
        '#include "marlin/widen.cu"\n',
    ),
    _helper(
        "marlin_wgmma_order",
        "marlin_wgmma",
        r"marlin_wgmma_order_kernel<",
        '// Activations in the wgmma kernel\'s order of K.\n#include "marlin/wgmma_order.cu"\n',
    ),
)


@cache
def instances() -> tuple[Instance, ...]:
    """Every Marlin instance, shipped and emulated, and the helper kernels."""
    found = list(_HELPERS)
    for kernel, weights, activations in _WGMMA_FORMATS:
        found += [_wgmma(kernel, weights, one, rows) for one in activations for rows in _WGMMA_ROWS]
    for form in _FORMATS:
        for activation, output in form.activations:
            tiles = [_roomy(form, tile) for tile in _TILES[form.bits, _BYTES[activation]]]
            found += [_instance(form, activation, output, tile, False) for tile in tiles]
            if activation == _FP8:
                # The conversions of the emulated form need registers: one block, or they would spill.
                roomy = [replace(tile, blocks_per_sm=1) for tile in tiles]
                found += [_instance(form, activation, output, tile, True) for tile in roomy]
    return tuple(found)
