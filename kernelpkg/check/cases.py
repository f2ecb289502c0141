"""The cases: awkward shapes and contents, each with an id that stays the same from run to run and release to
release.

Three sizes. tiny: every branch once, under 10 s on two CPU cores. default: adds the shapes on which kernels
of this kind have failed before (odd M, one row past a tile, N that no large tile divides, K of 28672, several
M splits), and every dtype and grouping with an N and a K that nothing divides.
full: every dtype, grouping and scale kind on every shape of a grid, and layer shapes of Llama 3.1 8B and 70B.

The shapes of scaled_mm include those that vLLM tests its operator on, with vectors and with blocks of scales.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from kernelpkg.errors import UsageError
from kernelpkg.ops.formats import FORMATS, WeightFormat
from kernelpkg.ops.kernels import kernel

SIZES = ("tiny", "default", "full")
Kind = Literal["plain", "strided", "nan", "overflow", "graph", "streams", "repack"]
# Of grouped weight scales: as they are, one per 128 x 128 block, powers of two (MXFP8). Of scaled_mm: vectors
# or blocks.
Scales = Literal["plain", "block", "mx"]
DType = Literal["bf16", "fp16"]

# Two variants each: all row tiles, K split and not, N and K that nothing divides.
_MARLIN_TINY = (
    (0, 64, 128),
    (1, 64, 128),
    (3, 67, 203),
    (7, 192, 384),
    (16, 128, 256),
    (17, 131, 517),
    (33, 64, 1408),
    (65, 320, 256),
    (66, 97, 333),
)
_MARLIN_DEFAULT = (
    (1, 1024, 1024),
    (13, 256, 2048),
    (26, 2368, 1664),
    (64, 512, 512),
    (129, 256, 1024),
    (257, 832, 1408),
    (257, 3328, 1408),
    (3, 64, 28672),  # the longest K of a 70B layer: partial sums and group tables at their largest
    (17, 192, 14336),
    (513, 256, 512),
    (1025, 64, 128),
    (40, 5120, 4096),  # a weight large enough for Hopper's route for many rows to begin at 33
    (2049, 200, 392),  # rows enough there for a library's GEMM over the widened weight
    (2, 28672, 256),
)
# As many pairs as there are variants: each dtype and grouping meets an odd N and K.
_MARLIN_ODD = ((1, 1023, 1025), (16, 777, 2049), (64, 333, 1111), (257, 1001, 1537))
# The grid of full: every variant on each M and each (N, K): aligned, odd, the longest K.
_MARLIN_GRID_M = (1, 3, 16, 17, 64, 257, 1000)
_MARLIN_GRID_NK = ((1024, 2048), (1003, 1811), (256, 28672))
_SCALED_TINY = (
    (0, 64, 64),
    (1, 16, 16),
    (1, 256, 128),
    (7, 80, 144),
    (16, 256, 496),
    (33, 48, 272),
    (65, 128, 1024),
    (129, 208, 256),
)
_SCALED_DEFAULT = (
    (1, 2048, 1024),
    (16, 576, 7168),  # N no multiple of 128, where one well-known route fails
    (33, 1024, 1024),
    (64, 2048, 496),
    (100, 1040, 528),
    (127, 512, 512),
    (257, 832, 1408),
    (513, 256, 1024),
    (3, 64, 28672),
    (1025, 144, 128),
    (2, 28672, 256),
)
# N and K that 16 does not divide: padded or cut off within the operator, or by the kernels themselves.
_SCALED_ODD_TINY = ((1, 33, 129), (5, 37, 100), (16, 100, 200), (66, 67, 333))
_SCALED_ODD = (
    (1, 3420, 1280),
    (64, 6840, 1280),
    (32, 1280, 6840),
    (16, 100, 200),
    (33, 255, 513),
    (257, 1001, 1537),
    (1, 1, 1),
)
_SCALED_BLOCK_TINY = (
    (0, 64, 256),
    (1, 128, 256),
    (3, 200, 300),
    (17, 576, 384),
    (66, 131, 517),
    (129, 260, 256),
)
_SCALED_BLOCK_M = (1, 7, 8, 83)
_SCALED_BLOCK_NK = tuple((n, k) for n in (128, 512, 576, 7168) for k in (256, 3884, 4096))
# Of the microscaled GEMMs, whose K is a multiple of 32. Tiles are 128 x 128 x 128, scales come in tiles of
# 128 rows and 4 blocks.
_MICRO_TINY = ((0, 64, 128), (1, 1, 32), (7, 200, 96), (33, 77, 160), (65, 130, 512), (129, 264, 1056))
_MICRO_DEFAULT = (
    (1, 4096, 4096),
    (16, 576, 7168),
    (64, 2048, 480),
    (100, 1001, 544),
    (128, 512, 512),
    (257, 832, 1408),
    (300, 1003, 32),
    (513, 256, 1024),
    (3, 65, 16384),
    (17, 192, 28672),
    (1025, 136, 128),
    (2, 28672, 256),
)
_SCALED_VLLM = (
    (1, 256, 128),
    (1, 16384, 1024),
    (1, 24576, 496),
    (16, 256, 496),
    (16, 16384, 128),
    (16, 24576, 4096),
    (32, 8192, 4096),
    (32, 16384, 4096),
    (33, 1024, 1024),
    (33, 8192, 128),
    (64, 2048, 496),
    (64, 16384, 1024),
    (100, 8192, 496),
    (128, 32768, 4096),
    (256, 4096, 4096),
    (512, 256, 1024),
    (512, 8192, 4096),
    (512, 16384, 128),
    (512, 24576, 128),
)
# (N, K) of the linear layers of Llama 3.1 8B and 70B that differ: qkv, output, gate and up, down.
_LLAMA_NK = (
    (6144, 4096),
    (4096, 4096),
    (28672, 4096),
    (4096, 14336),
    (10240, 8192),
    (8192, 8192),
    (57344, 8192),
    (8192, 28672),
)
_LLAMA_M = (1, 16, 333)


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    dtype: of the output, 'bf16' or 'fp16'. group_size, scales: of Marlin weights, -1 per channel. token,
    channel: scaled_mm's scale kinds, per token and per channel rather than per tensor; scales 'block': blocks
    of 128 instead. e5m2: whether scaled_mm's a is. configuration: a place in its route's table, -1 for the
    dispatcher's choice. kind: what is special about its contents or about the way it is run.
    """

    family: Literal["marlin", "scaled_mm", "microscaled", "repack"]
    m: int
    n: int
    k: int
    dtype: DType = "bf16"
    group_size: int = -1
    token: bool = False
    channel: bool = False
    bias: bool = False
    kind: Kind = "plain"
    scales: Scales = "plain"
    e5m2: bool = False
    configuration: int = -1

    @property
    def id(self) -> str:
        """The stable name: shape, dtype, scales, then what is special."""
        if self.family == "repack":
            return f"n{self.n}-k{self.k}-{self.kind}"
        if self.family == "marlin":
            prefix = {"plain": "g", "block": "block", "mx": "mx"}[self.scales]
            scales = "channel" if self.group_size == -1 else f"{prefix}{self.group_size}"
        elif self.family == "microscaled":
            scales = ""
        elif self.scales == "block":
            scales = "block"
        else:
            scales = f"{'token' if self.token else 'tensor'}-{'channel' if self.channel else 'tensor'}"
        parts = [f"m{self.m}", f"n{self.n}", f"k{self.k}", self.dtype] + [scales] * bool(scales)
        parts += ["e5m2"] * self.e5m2 + ["bias"] * self.bias + [self.kind] * (self.kind != "plain")
        return "-".join(parts + [f"cfg{self.configuration}"] * (self.configuration >= 0))

    @property
    def multiply_adds(self) -> int:
        """M N K."""
        return self.m * self.n * self.k


def cases_for(kernel_name: str, size: str = "default") -> tuple[Case, ...]:
    """The cases of a kernel, smallest first. Raises UsageError for an unknown kernel or size."""
    if size not in SIZES:
        raise UsageError(f"size is {size!r}; it must be one of {', '.join(SIZES)}")
    entry = kernel(kernel_name)
    if entry.family == "repack":
        found: Iterator[Case] = _repack(size)
    elif entry.family == "marlin":
        found = _marlin(size, entry.weight_format or "u4b8")
    elif entry.family == "microscaled":
        found = _microscaled(size)
    else:
        found = _scaled_mm(size)
    return tuple(dict.fromkeys(found))


def variants(form: WeightFormat) -> tuple[tuple[DType, int, Scales], ...]:
    """Dtypes, groupings and scale kinds of a format; the dtypes take turns."""
    if form == "nvfp4":
        return ("bf16", 16, "plain"), ("fp16", 16, "plain")
    if form == "mxfp4":
        return (("bf16", 32, "plain"),)
    four: tuple[tuple[DType, int, Scales], ...] = (
        ("bf16", -1, "plain"),
        ("fp16", 128, "plain"),
        ("bf16", 128, "plain"),
        ("fp16", -1, "plain"),
    )
    if form == "e4m3":
        return (
            *four,
            ("bf16", 32, "mx"),
            ("fp16", 128, "block"),
            ("bf16", 128, "block"),
            ("fp16", 32, "plain"),
        )
    return *four, ("bf16", 32, "plain"), ("fp16", 64, "plain"), ("bf16", 64, "plain"), ("fp16", 32, "plain")


def _marlin(size: str, form: WeightFormat) -> Iterator[Case]:
    every = variants(form)

    def some(shapes: tuple[tuple[int, int, int], ...]) -> Iterator[Case]:
        """Two variants to a shape, the next two to the next; the bias changes too."""
        for position, shape in enumerate(shapes):
            for turn in (2 * position, 2 * position + 1):
                dtype, group, scales = every[turn % len(every)]
                bias = (position + turn) % 2 == 1
                yield Case("marlin", *shape, dtype, group, bias=bias, scales=scales)

    group = FORMATS[form].group
    special = Case("marlin", 33, 192, 384, group_size=group, bias=True)
    yield from some(_MARLIN_TINY)
    yield from _special(special, form)
    # Rows that start anywhere and end in the middle of 16 bytes: copied and padded first.
    yield replace(special, n=193, k=333, kind="strided")
    if size == "tiny":
        return
    yield from some(_MARLIN_DEFAULT)
    yield from some(_MARLIN_ODD)
    yield from _special(replace(special, m=257, n=832, k=1408, group_size=FORMATS[form].groups[0]), form)
    if size == "full":
        shapes = [(m, n, k) for n, k in _MARLIN_GRID_NK for m in _MARLIN_GRID_M]
        for position, shape in enumerate((*_MARLIN_DEFAULT, *_MARLIN_ODD, *shapes)):
            for turn, (dtype, group, scales) in enumerate(every):
                bias = (position + turn) % 2 == 1
                yield Case("marlin", *shape, dtype, group, bias=bias, scales=scales)
        for n, k in _LLAMA_NK:
            for position, m in enumerate(_LLAMA_M):
                dtype, group, scales = every[2 * position % len(every)]
                yield Case("marlin", m, n, k, dtype, group, scales=scales)


def _scaled_mm(size: str) -> Iterator[Case]:
    for position, shape in enumerate(_SCALED_TINY):
        for turn in range(4):
            yield _vectors(position + turn, shape, turn, bias=(position + turn // 2) % 2 == 1)
    for position, shape in enumerate(_SCALED_ODD_TINY):
        yield _vectors(position, shape, 3 - position)
        yield _vectors(position + 1, shape, 3, e5m2=True)
    for position, shape in enumerate(_SCALED_BLOCK_TINY):
        yield _blocks(position, shape)
        yield _blocks(position + 1, shape, e5m2=position // 2 % 2 == 0)
    vectors = Case("scaled_mm", 33, 208, 272, token=True, channel=True, bias=True)
    yield from _special(vectors)
    # Rows and columns that start anywhere, in the middle of NaN.
    yield replace(vectors, n=203, k=333, kind="strided")
    blocks = Case("scaled_mm", 33, 203, 333, bias=True, scales="block")
    yield from _special(blocks)
    yield replace(blocks, e5m2=True, kind="nan")
    if size == "tiny":
        return
    for position, shape in enumerate(_SCALED_DEFAULT):
        for turn in range(4) if size == "full" else (position % 4, 3):
            yield _vectors(position + turn, shape, turn, bias=(position + turn) % 2 == 0)
    yield from _special(replace(vectors, m=257, n=832, k=1408))
    for position, shape in enumerate(_SCALED_VLLM):
        yield _vectors(position, shape, position, e5m2=position % 4 == 2)
    for position, shape in enumerate(_SCALED_ODD):
        yield _vectors(position, shape, 3)
        yield _blocks(position, shape, e5m2=position % 4 == 2)
    turns = ((1, 8), (7, 83))
    grid = [(m, *nk) for position, nk in enumerate(_SCALED_BLOCK_NK) for m in turns[position % 2]]
    for position, shape in enumerate(grid):
        yield _blocks(position + position // 4, shape, e5m2=position % 5 == 2)
    yield _blocks(0, (32, 576, 7168))  # columns past the last whole block
    yield _blocks(1, (257, 832, 1408))
    if size == "full":
        yield from _scaled_mm_full()


def _scaled_mm_full() -> Iterator[Case]:
    """Every kind of scales, both outputs, both types of a, bias or not."""
    for position, shape in enumerate((*_SCALED_VLLM, *_SCALED_ODD)):
        for turn in range(4):
            yield _vectors(position + turn, shape, turn, bias=(position + turn // 2) % 2 == 1)
        yield _vectors(position, shape, 3, e5m2=True)
        yield _blocks(position, shape)
    wide = tuple((n, k) for n in (576, 13824) for k in (13824, 16384))
    for position, nk in enumerate((*_SCALED_BLOCK_NK, *wide)):
        for m in (*_SCALED_BLOCK_M, 4096):
            for turn in range(2):
                yield _blocks(position + turn, (m, *nk), e5m2=(position + m) % 3 == turn)
    for m in range(1, 128, 7):  # through every small tile
        for nk in (32, 64, 96):
            yield _vectors(m, (m, nk, nk), 3)
            yield _blocks(m, (m, nk, nk))
    for n, k in _LLAMA_NK:
        for m in (*_LLAMA_M, 4096):
            yield Case("scaled_mm", m, n, k, token=True, channel=True)
            yield Case("scaled_mm", m, n, k, scales="block")


def _vectors(
    position: int, shape: tuple[int, int, int], turn: int, *, bias: bool | None = None, e5m2: bool = False
) -> Case:
    """One scale or a vector of them, a pairing for each `turn`; dtypes take turns, the bias where None."""
    bias = position // 2 % 2 == 1 if bias is None else bias
    token, channel = turn // 2 % 2 == 1, turn % 2 == 1
    dtype: DType = "fp16" if position % 2 else "bf16"
    return Case("scaled_mm", *shape, dtype, token=token, channel=channel, bias=bias, e5m2=e5m2)


def _blocks(position: int, shape: tuple[int, int, int], *, e5m2: bool = False) -> Case:
    """Scales in blocks; dtypes and bias take turns."""
    dtype: DType = "fp16" if position % 2 else "bf16"
    return Case("scaled_mm", *shape, dtype, bias=position // 2 % 2 == 1, scales="block", e5m2=e5m2)


def _microscaled(size: str) -> Iterator[Case]:
    """Dtypes and bias take turns; padding scales are poisoned in every case."""

    def each(shapes: Iterable[tuple[int, int, int]], turn: int = 0) -> Iterator[Case]:
        for at, shape in enumerate(shapes, turn):
            yield Case("microscaled", *shape, "fp16" if at % 2 else "bf16", bias=at // 2 % 2 == 1)

    special = Case("microscaled", 33, 208, 288, bias=True)
    yield from each(_MICRO_TINY)
    yield from _special(special)
    yield replace(special, n=203, kind="strided")  # rows that start anywhere: copied first
    if size == "tiny":
        return
    yield from each(_MICRO_DEFAULT)
    yield from each(_MICRO_DEFAULT[4:7], turn=3)
    yield from _special(replace(special, m=257, n=832, k=1408))
    if size == "full":
        grid = [(m, n, k) for n, k in _MARLIN_GRID_NK for m in _MARLIN_GRID_M]
        grid = [(m, n, k // 32 * 32) for m, n, k in grid]
        for turn in range(4):
            yield from each((*_MICRO_TINY, *_MICRO_DEFAULT, *grid), turn)
        yield from each((m, 96, 160) for m in range(2, 260, 9))
        yield from each((m, n, k) for n, k in _LLAMA_NK for m in (*_LLAMA_M, 4096))


def _special(base: Case, form: WeightFormat | None = None) -> Iterator[Case]:
    """Strided activations amid NaN, NaN rows, overflow to infinity, graph replays, several streams."""
    yield replace(base, kind="strided")
    yield replace(base, kind="nan")
    if form != "mxfp4":  # bfloat16 alone, which reaches as far as float32: nothing overflows
        yield replace(base, kind="overflow", dtype="fp16")
    yield replace(base, kind="graph")
    yield replace(base, kind="streams")


def _repack(size: str) -> Iterator[Case]:
    shapes = [(64, 128), (192, 384), (67, 203)]
    if size != "tiny":
        shapes += [(832, 1408), (64, 28672), (3328, 256), (1, 1), (1001, 777)]
    if size == "full":
        shapes += [(28672, 4096)]
    for n, k in shapes:
        yield Case("repack", 0, n, k, kind="repack")
