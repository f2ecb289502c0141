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

# DeepSeek-V3: hidden 7168, 128 heads, key-value rank 512, query rank 1536, intermediate 18432, experts 2048.
# Its checkpoints have a scale for every 128 x 128 weights. `q` is the query projection without its low rank,
# `gate_up_third` the part of gate_up that one device of three holds.
DEEPSEEK = (
    Shape("DSV3.kv_a", 576, 7168),
    Shape("DSV3.qkv_a", 2112, 7168),
    Shape("DSV3.q", 24576, 7168),
    Shape("DSV3.kv_b", 32768, 512),
    Shape("DSV3.o", 7168, 16384),
    Shape("DSV3.down", 7168, 18432),
    Shape("DSV3.gate_up", 36864, 7168),
    Shape("DSV3.q_b", 24576, 1536),
    Shape("DSV3.gate_up_third", 12288, 7168),
    Shape("DSV3.expert_gate_up", 4096, 7168),
    Shape("DSV3.expert_down", 7168, 2048),
)
BLOCKED = frozenset(shape.name for shape in DEEPSEEK)

# The rows of a full run; the smaller sizes take a part of them.
MS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

GROUP = 128

# Marlin kernel -> weight format, bits of an activation, variants, the first one the default. A variant names
# the scales: 'channel' one per output channel, 'gN' one per group of N along K, 'mxN' powers of two instead.
_MARLIN: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "marlin_w8a16": ("e4m3", 16, ("channel", "g128", "mx32")),
    "marlin_w4a16": ("u4b8", 16, ("g128", "channel")),
    "marlin_w4a16_zp": ("u4", 16, ("g128",)),
    "marlin_w8a16_int8": ("u8b128", 16, ("channel", "g128")),
    "marlin_w4a16_nvfp4": ("nvfp4", 16, ("g16",)),
    "marlin_w4a16_mxfp4": ("mxfp4", 16, ("g32",)),
    "marlin_w4a8_fp8": ("u4b8", 8, ("g128", "channel")),
    "marlin_w4a8_fp8_zp": ("u4", 8, ("g128",)),
    "marlin_w4a8_fp8_mxfp4": ("mxfp4", 8, ("g32",)),
    "marlin_w8a8_fp8": ("e4m3", 8, ("channel", "g128")),
}
# Bits of a weight, of its scale and of its zero point, as a checkpoint stores them. 'mxN' scales have 8 bits.
_FORMATS = {
    "u4b8": (4, 16, 0),
    "e4m3": (8, 16, 0),
    "u4": (4, 16, 4),
    "u8b128": (8, 16, 0),
    "nvfp4": (4, 8, 0),
    "mxfp4": (4, 8, 0),
}
# scaled_mm's scales: per token and channel, one per tensor, or blocks: one per token and 128 of K for the
# activations, one per 128 x 128 for the weight.
BLOCK = "block"
BLOCK_SIZE = 128
_VECTORS = ("token_channel", "tensor")
_SCALED_MM = {
    "scaled_mm_sm89": _VECTORS,
    "scaled_mm_sm90": (*_VECTORS, BLOCK),
    "scaled_mm_sm120": (*_VECTORS, BLOCK),
}

_EMULATED = {f"{name}_emulated": name for name, (_, bits, _) in _MARLIN.items() if bits == 8}
_STANDINS = {f"scaled_mm_{route}_standin": f"scaled_mm_{route}" for route in ("sm89", "sm120")}

# The microscaled kernels: known to the ladder and the check, and not timed.
_MICROSCALED = tuple(f"{form}_scaled_mm_sm120" for form in ("mxfp8", "nvfp4"))
_MICROSCALED_STANDINS = {f"{name}_standin": name for name in _MICROSCALED}

# Those whose tile and split can be tuned.
TUNABLE = tuple(_MARLIN)

# An evidence kernel stands for the shipped one it is built from; it runs on 9.0 alone.
STANDS_FOR = _EMULATED | _STANDINS | _MICROSCALED_STANDINS

# kernel -> variants, the first one the default.
VARIANTS: dict[str, tuple[str, ...]] = {
    **{name: variants for name, (_, _, variants) in _MARLIN.items()},
    **_SCALED_MM,
    **{name: _MARLIN[shipped][2] for name, shipped in _EMULATED.items()},
    **{name: _SCALED_MM[shipped] for name, shipped in _STANDINS.items()},
}

GATE_OF = {
    "marlin_repack": "marlin_16bit",
    **{name: "marlin_16bit" if bits == 16 else "marlin_fp8" for name, (_, bits, _) in _MARLIN.items()},
    **{f"scaled_mm_{route}": f"scaled_mm_{route}" for route in ("sm89", "sm90", "sm100", "sm120")},
    **dict.fromkeys(_MICROSCALED, "scaled_mm_sm120"),
    **dict.fromkeys(_EMULATED, "marlin_fp8"),
    **_STANDINS,
    **dict.fromkeys(_MICROSCALED_STANDINS, "scaled_mm_sm120"),
}

# Kernels without variants to time.
UNTIMED = frozenset(GATE_OF) - frozenset(VARIANTS)

# Timed at every point of a run. The other formats share their code paths; unless they are asked for by name,
# a run times them where `Size.others` says.
MAIN = (
    "marlin_w8a16",
    "marlin_w4a16",
    "marlin_w4a8_fp8",
    *(f"scaled_mm_{r}" for r in ("sm89", "sm90", "sm120")),
)
EVIDENCE_CAPABILITY = "9.0"


def on_what(kernel: str, here: str = "this capability") -> str:
    """What a run of this kernel is evidence of: the capability it ran on, or it stands in for another.

    here: how to name that capability; a reader on another device needs its number.
    """
    return "stand-in" if kernel in STANDS_FOR else here


# What a stored weight stands for: q its code, s its scale, z its zero point.
MEANINGS = {
    "u4b8": "4-bit integer, (q - 8) s (GPTQ)",
    "e4m3": "FP8 e4m3, q s",
    "u4": "4-bit integer, (q - z) s (AWQ)",
    "u8b128": "8-bit integer, (q - 128) s",
    "nvfp4": "FP4 e2m1, q s S; s e4m3 per 16, S one for all (NVFP4)",
    "mxfp4": "FP4 e2m1, q 2^s; s e8m0 per 32 (MXFP4)",
}


def weight_format(kernel: str) -> str | None:
    """The weight format of a Marlin kernel (see kernelpkg.ops.FORMATS); None for another."""
    entry = _MARLIN.get(_EMULATED.get(kernel, kernel))
    return entry[0] if entry else None


def weight_bits(kernel: str) -> int:
    """Bits per weight of `kernel`; 8 for every scaled_mm."""
    form = weight_format(kernel)
    return _FORMATS[form][0] if form else 8


def activation_bits(kernel: str) -> int:
    """Bits per activation: 16 for the weight-only kernels, 8 for those that take e4m3 activations."""
    entry = _MARLIN.get(_EMULATED.get(kernel, kernel))
    return entry[1] if entry else 8


def group_size(variant: str) -> int:
    """Rows of K to a scale: -1 for one per channel."""
    digits = variant.lstrip("gmx")
    return int(digits) if digits.isdigit() else -1


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
    """The work of one call of `kernel`; see `Work`. Weights and scales count as a checkpoint stores them."""
    activation = activation_bits(kernel)
    if form := weight_format(kernel):
        bits, scale_bits, zero_bits = _FORMATS[form]
        group = group_size(variant or VARIANTS[kernel][0])
        groups = 1 if group == -1 else -(-k // group)
        scale_bits = 8 if variant.startswith("mx") else scale_bits
        stream = -(-k * bits // 8) * n + groups * n * (scale_bits + zero_bits) // 8
        activation_scales = 4 * m if activation == 8 else 0
    elif variant == BLOCK:
        blocks = -(-k // BLOCK_SIZE)
        stream = n * k + 4 * blocks * -(-n // BLOCK_SIZE)
        activation_scales = 4 * m * blocks
    else:
        stream = n * k + (4 if variant == "tensor" else 4 * n)
        activation_scales = 4 if variant == "tensor" else 4 * m
    moved = stream + m * k * activation // 8 + activation_scales + m * n * 2
    return Work(stream, moved, 2 * m * n * k, "bf16" if activation == 16 else "fp8")


@dataclass(frozen=True, slots=True)
class Point:
    """One shape at one M, and the (kernel, variant) pairs that are timed there."""

    shape: Shape
    m: int
    kernels: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Size:
    """How much a run does.

    points: layers with the rows M each is timed at, in the order of running. others: (layer, M) where the
    formats outside MAIN are timed too. seconds bounds the timing: points that do not fit are reported, not
    run. sweeps: (layer, M) where every configuration of scaled_mm is timed, with blocks of scales at the
    layers that have them. costs: whether to time what awkward shapes cost.
    """

    points: tuple[tuple[str, tuple[int, ...]], ...]
    others: tuple[tuple[str, int], ...]
    all_variants: bool
    seconds: float
    per_contender_seconds: float
    extras: bool
    sweeps: tuple[tuple[str, int], ...] = ()
    costs: bool = False


_8B = ("8B.gate_up", "8B.down", "8B.qkv", "8B.o")
_70B = ("70B.gate_up", "70B.down", "70B.qkv", "70B.o")
_FULL_MS = (16, 4096, *(m for m in MS if m not in (16, 4096)))
_BLOCKS_64 = ("DSV3.o", "DSV3.qkv_a", "DSV3.expert_gate_up", "DSV3.q_b")
_SWEEPS = (
    ("8B.gate_up", 64),
    ("8B.gate_up", 4096),
    ("8B.o", 16),
    ("8B.o", 256),
    ("8B.down", 1024),
    ("DSV3.qkv_a", 64),
    ("DSV3.o", 64),
    ("DSV3.o", 4096),
)

# What the first floors speak of comes first.
SIZES = {
    "tiny": Size((("8B.gate_up", (16, 1, 4096)),), (), False, 25.0, 0.06, False, _SWEEPS[:1]),
    "default": Size(
        (
            *((shape, (16, 4096, 1, 64, 256, 1024)) for shape in _8B),
            *((shape.name, (4096, 64) if shape.name in _BLOCKS_64 else (4096,)) for shape in DEEPSEEK),
            *((shape, (16, 1, 64)) for shape in _70B),
        ),
        (("8B.gate_up", 16), ("8B.gate_up", 4096)),
        False,
        130.0,
        0.06,
        True,
        _SWEEPS,
        True,
    ),
    "full": Size(
        (
            *((shape, _FULL_MS) for shape in (*_8B, *_70B)),
            *((shape.name, (4096, 64)) for shape in DEEPSEEK),
        ),
        tuple((shape, m) for shape in ("8B.gate_up", "8B.o") for m in (16, 64, 4096)),
        True,
        520.0,
        0.15,
        True,
        _SWEEPS,
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
        for shape in (*SHAPES, *DEEPSEEK):
            if value.lower() in (shape.name.lower(), f"{shape.k}x{shape.n}"):
                return shape
        k, _, n = value.lower().partition("x")
        if k.isdigit() and n.isdigit():
            return shape_of((int(k), int(n)))
    elif isinstance(value, Sequence) and len(value) == 2 and all(isinstance(x, int) for x in value):
        k, n = value
        known = next((shape for shape in (*SHAPES, *DEEPSEEK) if (shape.k, shape.n) == (k, n)), None)
        shape = known or Shape(f"{k}x{n}", n, k)
        if k <= 0 or n <= 0:
            raise UsageError(f"shape {k}x{n} (K x N): K and N must be at least 1.")
        return shape
    names = ", ".join(shape.name for shape in (*SHAPES, *DEEPSEEK))
    raise UsageError(f"shape is {value!r}; give KxN such as 4096x28672, or one of {names}.")


def variants_of(kernel: str, shape: Shape, every: bool, others: bool = True) -> tuple[str, ...]:
    """The variants of `kernel` to time at `shape`: all, or those a short run takes; without `others` two at
    most.

    scaled_mm is timed with the scales that the layer's checkpoint has: blocks for DeepSeek-V3, both kinds of
    vectors for Llama, since torch's own two differ in speed; a shape given by its sizes alone gets them all.
    """
    if kernel.startswith("scaled_mm"):
        blocked, named = shape.name in BLOCKED, shape in (*SHAPES, *DEEPSEEK)
        return tuple(variant for variant in VARIANTS[kernel] if not named or (variant == BLOCK) == blocked)
    variants = VARIANTS[kernel] if others else VARIANTS[kernel][:2]
    return variants if every else variants[:1]


def plan(
    kernels: Iterable[str],
    size: Size,
    shapes: Iterable[str | Shape | Sequence[int]] | None = None,
    ms: Iterable[int] | None = None,
    named: bool = True,
) -> tuple[Point, ...]:
    """The points of a run that have something to time, in the order they run.

    named: whether the kernels were asked for by name; those outside MAIN otherwise run where the size has
    them, and everywhere where shapes or rows were asked for. Marlin kernels run at DeepSeek-V3's layers where
    those were asked for. Kernels that are not timed have no point. Raises UsageError for an unknown kernel,
    shape or M.
    """
    kernels = tuple(kernel for kernel in kernels if kernel not in UNTIMED)
    for kernel in kernels:
        if kernel not in VARIANTS:
            raise UsageError(f"kernel is {kernel!r}; those that are timed: {', '.join(VARIANTS)}.")
    asked = None if shapes is None else tuple(map(shape_of, shapes))
    rows = None if ms is None else tuple(ms)
    for m in rows or ():
        if not isinstance(m, int) or isinstance(m, bool) or m < 1:
            raise UsageError(f"m is {m!r}; it must be a whole number of rows, at least 1.")
    if asked is None:
        places = [(shape_of(name), own if rows is None else rows) for name, own in size.points]
    else:
        own = dict(size.points)
        usual = size.points[0][1] if size.points else ()
        places = [(shape, own.get(shape.name, usual) if rows is None else rows) for shape in asked]
    everywhere = named or asked is not None or rows is not None

    def pairs(shape: Shape, m: int) -> tuple[tuple[str, str], ...]:
        others = everywhere or (shape.name, m) in size.others
        only_blocks = asked is None and shape.name in BLOCKED
        return tuple(
            (kernel, variant)
            for kernel in kernels
            if (others or kernel in MAIN) and not (only_blocks and kernel.startswith("marlin"))
            for variant in variants_of(kernel, shape, size.all_variants, others)
        )

    points = (Point(shape, m, pairs(shape, m)) for shape, own in places for m in own)
    return tuple(point for point in points if point.kernels)
