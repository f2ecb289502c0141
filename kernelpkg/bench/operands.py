"""Operands and launches of one point: our kernels and torch's, over as many operand sets as the L2 asks for.

The recipe, published with every report: weights and activations are normal with a fixed seed, each output
channel, group of 128 and token times its own factor between 0.5 and 2 (so that a scale applied at the wrong
place is seen); operand sets have the same weight in different memory and activations of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kernelpkg import ops
from kernelpkg.bench.shapes import GROUP, STANDS_FOR, Point, Shape, activation_bits, weight_bits, work
from kernelpkg.bench.timing import operand_sets
from kernelpkg.ops import reference

RECIPE = (
    "normal values, seed as given; a factor of 0.5 to 2 per channel and group of 128, and per token; scales "
    "from the largest absolute value; operand sets: one weight copied, activations of their own"
)
PEERS = ("bf16", "scaled_mm_tensor", "scaled_mm_row")
# The peer that multiplies with the very scales of a scaled_mm variant.
SAME_SCALES = {"token_channel": "scaled_mm_row", "tensor": "scaled_mm_tensor"}
# Columns quantised or dequantised at once: bounds the memory this takes.
COLUMNS = 2048
# Rows of the output compared with the reference; the whole output is checked for what was never written.
CHECKED_ROWS = 64


@dataclass(frozen=True, slots=True)
class Contender:
    """What is timed at a point: a kernel of ours in one variant, or a peer (kernel None).

    launches: one call per operand set. expected: for a set and some rows, the float64 reference of those rows
    and its spread (see kernelpkg.check.metrics); None for a peer.
    """

    name: str
    kernel: str | None
    variant: str
    launches: tuple[Callable[[], Tensor], ...]
    expected: Callable[[int, Tensor], tuple[Tensor, Tensor]] | None


def by_columns(weight: Tensor, quantise: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A quantiser whose columns are independent, applied to a few thousand columns at a time."""
    parts = [quantise(weight[:, start : start + COLUMNS]) for start in range(0, weight.shape[1], COLUMNS)]
    return _join([part[0] for part in parts]), _join([part[1] for part in parts])


def _join(parts: Sequence[Tensor]) -> Tensor:
    # e4m3 goes as bytes: joining that dtype is not offered by every torch.
    if parts[0].dtype == torch.float8_e4m3fn:
        return torch.cat([part.view(torch.uint8) for part in parts], dim=1).view(torch.float8_e4m3fn)
    return torch.cat(list(parts), dim=1)


class Layer:
    """The weights of one shape in every format that was asked for, kept from one M to the next."""

    def __init__(self, shape: Shape, device: str, seed: int):
        self.shape = shape
        self.device = torch.device(device)
        self.random = torch.Generator(self.device).manual_seed(seed)
        n, k = shape.n, shape.k
        weight = torch.randn(k, n, generator=self.random, device=self.device, dtype=torch.bfloat16)
        groups = self.factors(-(-k // GROUP), n)
        weight *= groups.repeat_interleave(GROUP, dim=0)[:k]
        self.weight = weight
        self._quantised: dict[str, tuple[Tensor, Tensor]] = {}
        self._sets: dict[str, list[Any]] = {}

    def factors(self, *shape: int) -> Tensor:
        """Factors between 0.5 and 2, evenly spread in their logarithm, bf16."""
        exponents = torch.rand(*shape, generator=self.random, device=self.device) * 2 - 1
        return torch.exp2(exponents).to(torch.bfloat16)

    def activations(self, m: int) -> Tensor:
        """bf16 [m, K], every token with its own factor."""
        values = torch.randn(m, self.shape.k, generator=self.random, device=self.device, dtype=torch.bfloat16)
        return values * self.factors(m, 1)

    def quantised(self, kind: str) -> tuple[Tensor, Tensor]:
        """(weights as the quantiser gives them, scales) of a kind such as 'u4b8/g128' or 'fp8/tensor'."""
        if kind not in self._quantised:
            form, _, variant = kind.partition("/")
            group = GROUP if variant == "g128" else -1
            if form == "u4b8":
                made = by_columns(self.weight, lambda w: ops.quantize_u4b8(w, group))
            elif form == "e4m3":
                made = by_columns(self.weight, lambda w: ops.quantize_fp8_per_group(w, group))
            elif variant == "tensor":
                scale = (self.weight.abs().max().float() / ops.E4M3_MAX).reshape(1)
                made = (by_columns(self.weight, lambda w: (_to_fp8(w, scale), scale[None]))[0], scale)
            else:
                made = by_columns(self.weight, ops.quantize_fp8_per_channel)
            if form == "fp8":
                made = (ops.to_column_major(made[0]), made[1].contiguous())
            self._quantised[kind] = made
        return self._quantised[kind]

    def sets(self, kind: str, count: int) -> list[Any]:
        """`count` copies in memory of a weight: 'bf16', 'fp8/...', or packed 'u4b8/g128/16bit' and the
        like.
        """
        found = self._sets.setdefault(kind, [])
        while len(found) < count:
            found.append(_copy(found[0]) if found else self._first(kind))
        return found[:count]

    def _first(self, kind: str) -> Any:
        if kind == "bf16":
            return ops.to_column_major(self.weight)
        if kind.startswith("fp8/"):
            return self.quantised(kind)[0]
        form, variant, activation = kind.split("/")
        quantised, scales = self.quantised(f"{form}/{variant}")
        group = GROUP if variant == "g128" else -1
        return ops.pack_marlin_weight(quantised, scales, form, group, activation)


def _to_fp8(weight: Tensor, scale: Tensor) -> Tensor:
    limited = (weight.float() / scale).clamp(-ops.E4M3_MAX, ops.E4M3_MAX)
    return limited.to(torch.float8_e4m3fn)


def _copy(weight: Any) -> Any:
    if isinstance(weight, Tensor):
        return weight.clone(memory_format=torch.preserve_format)
    return replace(weight, data=weight.data.clone(), scales=weight.scales.clone())


def has_fp8(capability: Any) -> bool:
    """Whether torch multiplies e4m3 on this capability: 8.9 and newer."""
    return (capability.major, capability.minor) >= (8, 9)


def bytes_needed(point: Point, l2_bytes: int | None, peers: Sequence[str]) -> int:
    """A bound on the device memory a point takes, in bytes: operand sets, outputs, and the making of both."""
    n, k, m = point.shape.n, point.shape.k, point.m
    # The bf16 weight and its making, a quantiser at work, the references.
    total = 6 * n * k + 32 * k * min(n, COLUMNS) + 8 * CHECKED_ROWS * (n + k)
    kinds = [(weight_bits(kernel), activation_bits(kernel)) for kernel, _ in point.kernels]
    kinds += [(16, 16) if peer == "bf16" else (8, 8) for peer in peers]
    for weight, activation in kinds:
        each = n * k * weight // 8 + m * k * activation // 8
        # The sets, the unpacked form they were made from, and the outputs a graph keeps and reuses.
        total += operand_sets(each, l2_bytes) * each + n * k * weight // 8 + 4 * m * n * 2
    return total + 256 * 2**20


def contenders(point: Point, layer: Layer, l2_bytes: int | None, peers: Sequence[str]) -> list[Contender]:
    """Everything timed at `point`, ours first. Peers share activations and scales with ours."""
    pool = _Activations(layer, point.m)
    found = []
    for kernel, variant in point.kernels:
        build = _marlin if kernel.startswith("marlin") else _scaled_mm
        found.append(build(kernel, variant, point, layer, pool, l2_bytes))
    found += [_peer(name, point, layer, pool, l2_bytes) for name in peers]
    return found


class _Activations:
    """The activations of a point: one bf16 tensor per operand set, and its quantised forms."""

    def __init__(self, layer: Layer, m: int):
        self.layer = layer
        self.m = m
        self._values: list[Tensor] = []
        self._quantised: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def values(self, index: int) -> Tensor:
        while len(self._values) <= index:
            self._values.append(self.layer.activations(self.m))
        return self._values[index]

    def quantised(self, index: int, variant: str) -> tuple[Tensor, Tensor]:
        kind = "tensor" if variant == "tensor" else "token"
        if (kind, index) not in self._quantised:
            quantise = ops.quantize_fp8_per_tensor if kind == "tensor" else ops.quantize_fp8_per_token
            self._quantised[kind, index] = quantise(self.values(index))
        return self._quantised[kind, index]


def _set_count(kernel: str, variant: str, point: Point, l2_bytes: int | None) -> int:
    shape = point.shape
    stream = work(kernel, variant, point.m, shape.n, shape.k).stream_bytes
    return operand_sets(stream + point.m * shape.k * activation_bits(kernel) // 8, l2_bytes)


def _marlin(
    kernel: str, variant: str, point: Point, layer: Layer, pool: _Activations, l2_bytes: int | None
) -> Contender:
    form = "u4b8" if weight_bits(kernel) == 4 else "e4m3"
    fp8 = activation_bits(kernel) == 8
    emulated = kernel in STANDS_FOR
    count = _set_count(kernel, variant, point, l2_bytes)
    packed = layer.sets(f"{form}/{variant}/{'fp8' if fp8 else '16bit'}", count)

    def operands(index: int) -> tuple[Tensor, Tensor | None]:
        return pool.quantised(index, "token") if fp8 else (pool.values(index), None)

    def launch(index: int) -> Callable[[], Tensor]:
        (a, scales), weight = operands(index), packed[index]
        return lambda: ops.marlin_gemm(a, weight, scales, allow_emulation=emulated)

    quantised, scales = layer.quantised(f"{form}/{variant}")
    group = GROUP if variant == "g128" else -1

    def expected(index: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        a, a_scales = operands(index)
        values = _rows(a, rows).double()
        if a_scales is not None:
            values *= a_scales[rows].double()
        return _product(
            values,
            point.shape.n,
            lambda at: reference.dequantize(quantised[:, at], scales[:, at], form, group),
        )

    launches = tuple(launch(index) for index in range(count))
    return Contender(f"{kernel}/{variant}", kernel, variant, launches, expected)


def _scaled_mm(
    kernel: str, variant: str, point: Point, layer: Layer, pool: _Activations, l2_bytes: int | None
) -> Contender:
    kind = "fp8/tensor" if variant == "tensor" else "fp8/channel"
    count = _set_count(kernel, variant, point, l2_bytes)
    weights, scale_b = layer.sets(kind, count), layer.quantised(kind)[1]

    def launch(index: int) -> Callable[[], Tensor]:
        (a, scale_a), b = pool.quantised(index, variant), weights[index]
        if kernel in STANDS_FOR:
            operator = getattr(torch.ops.kernelpkg_evidence, kernel)
            return lambda: operator(a, b, scale_a, scale_b, None, torch.bfloat16)
        return lambda: ops.cutlass_scaled_mm(a, b, scale_a, scale_b, torch.bfloat16)

    def expected(index: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        a, scale_a = pool.quantised(index, variant)
        values = _rows(a, rows).double() * (scale_a if variant == "tensor" else scale_a[rows]).double()
        return _product(
            values,
            point.shape.n,
            lambda at: (
                weights[0][:, at].double() * (scale_b if variant == "tensor" else scale_b[:, at]).double()
            ),
        )

    launches = tuple(launch(index) for index in range(count))
    return Contender(f"{kernel}/{variant}", kernel, variant, launches, expected)


def _peer(name: str, point: Point, layer: Layer, pool: _Activations, l2_bytes: int | None) -> Contender:
    """torch.mm in bf16, or torch._scaled_mm (fast accumulation, as fast as torch offers it) in e4m3."""
    shape = point.shape
    if name == "bf16":
        count = operand_sets(2 * shape.n * shape.k + 2 * point.m * shape.k, l2_bytes)
        pairs = [(pool.values(i), b) for i, b in enumerate(layer.sets("bf16", count))]
        launches = [lambda a=a, b=b: torch.mm(a, b) for a, b in pairs]
        return Contender(name, None, "", tuple(launches), None)
    variant = "tensor" if name == "scaled_mm_tensor" else "token_channel"
    kind = "fp8/tensor" if variant == "tensor" else "fp8/channel"
    count = _set_count("scaled_mm", variant, point, l2_bytes)
    scale_b = layer.quantised(kind)[1]

    def launch(index: int, b: Tensor) -> Callable[[], Tensor]:
        a, scale_a = pool.quantised(index, variant)
        return lambda: torch._scaled_mm(
            a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    launches = [launch(i, b) for i, b in enumerate(layer.sets(kind, count))]
    return Contender(name, None, variant, tuple(launches), None)


def _rows(a: Tensor, rows: Tensor) -> Tensor:
    # Rows of e4m3 are taken as bytes: indexing that dtype is not offered on every device.
    if a.dtype == torch.float8_e4m3fn:
        return a.view(torch.uint8)[rows].view(torch.float8_e4m3fn)
    return a[rows]


def _product(a: Tensor, n: int, weight: Callable[[slice], Tensor]) -> tuple[Tensor, Tensor]:
    """a @ weight and the spread of its partial sums (kernelpkg.check.metrics), a few thousand columns at a
    time; all float64."""
    sums, spreads = [], []
    squared = a.square()
    for start in range(0, n, COLUMNS):
        part = weight(slice(start, min(start + COLUMNS, n)))
        sums.append(a @ part)
        spreads.append((squared @ part.square_()).sqrt_().add_(sums[-1].abs()))
    return torch.cat(sums, dim=1), torch.cat(spreads, dim=1)


def checked_rows(m: int, device: torch.device | str, generator: torch.Generator | None = None) -> Tensor:
    """All rows up to 64; else 64 of them: the first, the last, and one of each stretch between."""
    if m <= CHECKED_ROWS:
        return torch.arange(m, device=device)
    edges = torch.linspace(0, m, CHECKED_ROWS + 1, device=device).long()
    spread = torch.rand(CHECKED_ROWS, generator=generator, device=device) * (edges[1:] - edges[:-1])
    rows = edges[:-1] + spread.long()
    rows[0], rows[-1] = 0, m - 1
    return rows
