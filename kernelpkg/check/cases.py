"""The cases: awkward shapes and contents, each with an id that stays the same from run to run and release to
release.

Three sizes. tiny: every branch once, under 10 s on two CPU cores. default: adds the shapes on which kernels
of this kind have failed before (odd M, one row past a tile, N that no large tile divides, K of 28672, several
M splits).
full: every dtype, grouping and scale kind on every shape, and layer shapes of Llama 3.1 8B and 70B.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from kernelpkg.errors import UsageError
from kernelpkg.ops.kernels import kernel

SIZES = ("tiny", "default", "full")
Kind = Literal["plain", "strided", "nan", "overflow", "graph", "streams", "repack"]

_MARLIN_TINY = ((0, 64, 128), (1, 64, 128), (7, 192, 384), (16, 128, 256), (33, 64, 1408), (65, 320, 256))
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
    (2, 28672, 256),
)
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

    dtype: of the output, 'bf16' or 'fp16'. group_size: of Marlin weights, -1 per channel. token, channel:
    scaled_mm's scale kinds, per token and per channel rather than per tensor. kind: what is special about its
    contents or about the way it is run.
    """

    family: Literal["marlin", "scaled_mm", "repack"]
    m: int
    n: int
    k: int
    dtype: Literal["bf16", "fp16"] = "bf16"
    group_size: int = -1
    token: bool = False
    channel: bool = False
    bias: bool = False
    kind: Kind = "plain"
    fp8: bool = False  # repack only: the order for FP8 activations

    @property
    def id(self) -> str:
        """The stable name: shape, dtype, scales, then what is special."""
        if self.family == "repack":
            return f"n{self.n}-k{self.k}-{'fp8' if self.fp8 else '16bit'}-{self.kind}"
        if self.family == "marlin":
            scales = "channel" if self.group_size == -1 else f"g{self.group_size}"
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
    family = kernel(kernel_name).family
    if family == "repack":
        found: Iterator[Case] = _repack(size)
    elif family == "marlin":
        found = _marlin(size)
    else:
        found = _scaled_mm(size)
    return tuple(dict.fromkeys(found))


def _marlin(size: str) -> Iterator[Case]:
    variants = [(dtype, group) for dtype in ("bf16", "fp16") for group in (-1, 128)]
    for position, shape in enumerate(_MARLIN_TINY):
        for turn, (dtype, group) in enumerate(variants):
            yield Case("marlin", *shape, dtype, group, bias=(position + turn) % 2 == 1)
    yield from _special(Case("marlin", 33, 192, 384, group_size=128, bias=True))
    if size == "tiny":
        return
    for position, shape in enumerate(_MARLIN_DEFAULT):
        # Not all four at default size; which two changes from shape to shape. The bias follows the variant.
        turns = range(4) if size == "full" else (position % 4, (position + 3) % 4)
        for turn in turns:
            dtype, group = variants[turn]
            yield Case("marlin", *shape, dtype, group, bias=(position + turn) % 2 == 0)
    yield from _special(Case("marlin", 257, 832, 1408, bias=True))
    if size == "full":
        for n, k in _LLAMA_NK:
            for position, m in enumerate(_LLAMA_M):
                yield Case("marlin", m, n, k, group_size=(-1, 128)[position % 2])


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


def _special(base: Case) -> Iterator[Case]:
    """Strided activations amid NaN, NaN rows, overflow to infinity, graph replays, several streams."""
    yield replace(base, kind="strided")
    yield replace(base, kind="nan")
    yield replace(
        base, kind="overflow", dtype="fp16"
    )  # bfloat16 reaches as far as float32: nothing overflows
    yield replace(base, kind="graph")
    yield replace(base, kind="streams")


def _repack(size: str) -> Iterator[Case]:
    shapes = [(64, 128), (192, 384)]
    if size != "tiny":
        shapes += [(832, 1408), (64, 28672), (3328, 256)]
    if size == "full":
        shapes += [(28672, 4096)]
    for n, k in shapes:
        for fp8 in (False, True):
            yield Case("repack", 0, n, k, fp8=fp8, kind="repack")
