"""What is timed: layer shapes, rows M, kernels with their variants, and the work each call must do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kernelpkg.errors import UsageError


@dataclass(frozen=True, slots=True)
class Shape:
    """One linear layer, C[M, N] = A[M, K] @ W[K, N]. `name` is MODEL.LAYER, such as '8B.gate_up'."""

    name: str
    n: int
    k: int

    def __str__(self) -> str:
        return self.name


# Llama-3.1: hidden 4096 / 8192, intermediate 14336 / 28672, 8 key-value heads of 128 in both.
# qkv and gate_up are the fused projections as inference engines run them, without tensor parallelism.
SHAPES = (
    Shape("8B.qkv", 6144, 4096),
    Shape("8B.o", 4096, 4096),
    Shape("8B.gate_up", 28672, 4096),
    Shape("8B.down", 4096, 14336),
    Shape("70B.qkv", 10240, 8192),
    Shape("70B.o", 8192, 8192),
    Shape("70B.gate_up", 57344, 8192),
    Shape("70B.down", 8192, 28672),
)

# The rows of a full run; the smaller sizes take a part of them.
MS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

GROUP = 128

# kernel -> variants, the first one the default. A variant names the scales: per output channel, per
# group of 128 along K, per token and channel, or one per tensor.
VARIANTS: dict[str, tuple[str, ...]] = {
    "marlin_w8a16": ("channel", "g128"),
    "marlin_w4a16": ("g128", "channel"),
    "marlin_w4a8_fp8": ("g128", "channel"),
    "scaled_mm_sm89": ("token_channel", "tensor"),
    "scaled_mm_sm90": ("token_channel", "tensor"),
    "scaled_mm_sm120": ("token_channel", "tensor"),
    "marlin_w4a8_fp8_emulated": ("g128", "channel"),
    "scaled_mm_sm89_standin": ("token_channel", "tensor"),
    "scaled_mm_sm120_standin": ("token_channel", "tensor"),
}

GATE_OF = {
    "marlin_w8a16": "marlin_16bit",
    "marlin_w4a16": "marlin_16bit",
    "marlin_repack": "marlin_16bit",
    "marlin_w4a8_fp8": "marlin_fp8",
    "scaled_mm_sm89": "scaled_mm_sm89",
    "scaled_mm_sm90": "scaled_mm_sm90",
    "scaled_mm_sm100": "scaled_mm_sm100",
    "scaled_mm_sm120": "scaled_mm_sm120",
    "marlin_w4a8_fp8_emulated": "marlin_fp8",
    "scaled_mm_sm89_standin": "scaled_mm_sm89",
    "scaled_mm_sm120_standin": "scaled_mm_sm120",
}

# An evidence kernel stands for the shipped one it is built from; it runs on 9.0 alone.
STANDS_FOR = {
    "marlin_w4a8_fp8_emulated": "marlin_w4a8_fp8",
    "scaled_mm_sm89_standin": "scaled_mm_sm89",
    "scaled_mm_sm120_standin": "scaled_mm_sm120",
}
EVIDENCE_CAPABILITY = "9.0"

_WEIGHT_BITS = {"marlin_w8a16": 8, "marlin_w4a16": 4, "marlin_w4a8_fp8": 4, "marlin_w4a8_fp8_emulated": 4}


def on_what(kernel: str, here: str = "this capability") -> str:
    """What a run of this kernel is evidence of: the capability it ran on, or it stands in for another.

    here: how to name that capability; a reader on another device needs its number.
    """
    return "stand-in" if kernel in STANDS_FOR else here


def weight_bits(kernel: str) -> int:
    """Bits per weight of `kernel`; 8 for every scaled_mm."""
    return _WEIGHT_BITS.get(kernel, 8)


def activation_bits(kernel: str) -> int:
    """Bits per activation: 16 for the weight-only kernels, 8 for those that take e4m3 activations."""
    return 16 if kernel in ("marlin_w8a16", "marlin_w4a16") else 8


@dataclass(frozen=True, slots=True)
class Work:
    """The least one call must do, by arithmetic alone.

    stream_bytes: weights and their scales, what a small-M call must read from memory once.
    total_bytes: those and the activations, activation scales and the 16-bit output.
    flops: 2 * m * n * k. flop_kind: 'bf16' or 'fp8', the format the tensor cores multiply in.
    """

    stream_bytes: int
    total_bytes: int
    flops: int
    flop_kind: str


def work(kernel: str, variant: str, m: int, n: int, k: int) -> Work:
    """The work of one call of `kernel`; see `Work`."""
    if kernel.startswith("marlin"):
        groups = k // GROUP if variant == "g128" else 1
        stream = n * k * weight_bits(kernel) // 8 + groups * n * 2
        activation_scales = 4 * m if activation_bits(kernel) == 8 else 0
    else:
        stream = n * k + (4 if variant == "tensor" else 4 * n)
        activation_scales = 4 if variant == "tensor" else 4 * m
    moved = stream + m * k * activation_bits(kernel) // 8 + activation_scales + m * n * 2
    kind = "bf16" if activation_bits(kernel) == 16 else "fp8"
    return Work(stream, moved, 2 * m * n * k, kind)


@dataclass(frozen=True, slots=True)
class Point:
    """One shape at one M, and the (kernel, variant) pairs that are timed there."""

    shape: Shape
    m: int
    kernels: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Size:
    """How much a run does. `seconds` bounds the timing: points that do not fit are reported, not run."""

    shapes: tuple[str, ...]
    ms: tuple[int, ...]
    all_variants: bool
    seconds: float
    per_contender_seconds: float
    extras: bool


# The order is the order of running: what the first floors speak of comes first.
SIZES = {
    "tiny": Size(("8B.gate_up",), (16, 1, 4096), False, 25.0, 0.06, False),
    "default": Size(
        ("8B.gate_up", "8B.down", "8B.qkv", "8B.o"), (16, 4096, 1, 64, 256, 1024), False, 135.0, 0.10, True
    ),
    "full": Size(
        ("8B.gate_up", "8B.down", "8B.qkv", "8B.o", "70B.gate_up", "70B.down", "70B.qkv", "70B.o"),
        (16, 4096, *(m for m in MS if m not in (16, 4096))),
        True,
        520.0,
        0.15,
        True,
    ),
}


def size_named(name: str) -> Size:
    """The size called `name`. Raises UsageError for another name."""
    if name not in SIZES:
        raise UsageError(f"size is {name!r}; allowed are {', '.join(SIZES)}.")
    return SIZES[name]


def shape_of(value: str | Shape | tuple[int, int] | Sequence[int]) -> Shape:
    """A shape by name ('8B.gate_up'), as text 'KxN' ('4096x28672'), as (k, n), or a Shape itself."""
    if isinstance(value, Shape):
        return value
    if isinstance(value, str):
        for shape in SHAPES:
            if value.lower() in (shape.name.lower(), f"{shape.k}x{shape.n}"):
                return shape
        k, _, n = value.lower().partition("x")
        if k.isdigit() and n.isdigit():
            return shape_of((int(k), int(n)))
    elif isinstance(value, Sequence) and len(value) == 2 and all(isinstance(x, int) for x in value):
        k, n = value
        known = next((shape for shape in SHAPES if (shape.k, shape.n) == (k, n)), None)
        shape = known or Shape(f"{k}x{n}", n, k)
        if k <= 0 or n <= 0 or k % GROUP or n % 64:
            raise UsageError(f"shape {k}x{n} (K x N): K must be a multiple of {GROUP} and N of 64.")
        return shape
    names = ", ".join(shape.name for shape in SHAPES)
    raise UsageError(f"shape is {value!r}; give KxN such as 4096x28672, or one of {names}.")


def variants_of(kernel: str, every: bool) -> tuple[str, ...]:
    """The variants of `kernel` to time: all, or those a short run takes.

    scaled_mm is always timed with both kinds of scales, since torch's own two differ in speed.
    """
    variants = VARIANTS[kernel]
    return variants if every or kernel.startswith("scaled_mm") else variants[:1]


def plan(
    kernels: Iterable[str],
    size: Size,
    shapes: Iterable[str | Shape | Sequence[int]] | None = None,
    ms: Iterable[int] | None = None,
) -> tuple[Point, ...]:
    """The points of a run, in the order they run. Raises UsageError for an unknown kernel, shape or M."""
    kernels = tuple(kernels)
    for kernel in kernels:
        if kernel not in VARIANTS:
            raise UsageError(f"kernel is {kernel!r}; those that are timed: {', '.join(VARIANTS)}.")
    chosen = tuple(shape_of(shape) for shape in (size.shapes if shapes is None else shapes))
    rows = tuple(size.ms if ms is None else ms)
    for m in rows:
        if not isinstance(m, int) or isinstance(m, bool) or m < 1:
            raise UsageError(f"m is {m!r}; it must be a whole number of rows, at least 1.")
    pairs = tuple(
        (kernel, variant) for kernel in kernels for variant in variants_of(kernel, size.all_variants)
    )
    return tuple(Point(shape, m, pairs) for shape in chosen for m in rows)
