"""The cases: awkward shapes and contents, each with an id that stays the same from run to run and release to
release.

Three sizes. tiny: every branch once, under 10 s on two CPU cores. default: adds the shapes on which kernels
of this kind have failed before (odd M, one row past a tile, N that no large tile divides, K of 28672, several
M splits), and every dtype and grouping with an N and a K that nothing divides.
full: every dtype, grouping and scale kind on every shape of a grid, and layer shapes of Llama 3.1 8B and 70B.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from kernelpkg.errors import UsageError
from kernelpkg.ops.formats import FORMATS, WeightFormat
from kernelpkg.ops.kernels import kernel

SIZES = ("tiny", "default", "full")
Kind = Literal["plain", "strided", "nan", "overflow", "graph", "streams", "repack"]
# Of grouped weight scales: as they are, one per 128 x 128 block, powers of two (MXFP8).
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
    channel: scaled_mm's scale kinds, per token and per channel rather than per tensor. kind: what is special
    about its contents or about the way it is run.
    """

    family: Literal["marlin", "scaled_mm", "repack"]
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

    @property
    def id(self) -> str:
        """The stable name: shape, dtype, scales, then what is special."""
        if self.family == "repack":
            return f"n{self.n}-k{self.k}-{self.kind}"
        if self.family == "marlin":
            prefix = {"plain": "g", "block": "block", "mx": "mx"}[self.scales]
            scales = "channel" if self.group_size == -1 else f"{prefix}{self.group_size}"
        else:
            scales = f"{'token' if self.token else 'tensor'}-{'channel' if self.channel else 'tensor'}"
        parts = [f"m{self.m}", f"n{self.n}", f"k{self.k}", self.dtype, scales]
        return "-".join(parts + ["bias"] * self.bias + [self.kind] * (self.kind != "plain"))

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
    kinds = [(token, channel) for token in (False, True) for channel in (False, True)]
    for position, shape in enumerate(_SCALED_TINY):
        for turn, (token, channel) in enumerate(kinds):
            dtype = ("bf16", "fp16")[(position + turn) % 2]
            yield Case(
                "scaled_mm", *shape, dtype, token=token, channel=channel, bias=(position + turn // 2) % 2 == 1
            )
    yield from _special(Case("scaled_mm", 33, 208, 272, token=True, channel=True, bias=True))
    if size == "tiny":
        return
    for position, shape in enumerate(_SCALED_DEFAULT):
        turns = range(4) if size == "full" else (position % 4, 3)
        for turn in turns:
            token, channel = kinds[turn]
            dtype = ("bf16", "fp16")[(position + turn) % 2]
            yield Case(
                "scaled_mm", *shape, dtype, token=token, channel=channel, bias=(position + turn) % 2 == 0
            )
    yield from _special(Case("scaled_mm", 257, 832, 1408, token=True, channel=True, bias=True))
    if size == "full":
        for n, k in _LLAMA_NK:
            for m in (*_LLAMA_M, 4096):
                yield Case("scaled_mm", m, n, k, token=True, channel=True)


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
