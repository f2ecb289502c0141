"""Operands of one point: weights in every form, activations, and the float64 references of both.

The recipe, published with every report: weights and activations are normal with a fixed seed, each output
channel, group of 128 and token times its own factor between 0.5 and 2 (so that a scale applied at the wrong
place is seen); operand sets have the same weight in different memory and activations of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernelpkg import ops
from kernelpkg.bench import vllm_ops
from kernelpkg.bench.shapes import BLOCK, BLOCK_SIZE, GROUP, Shape, group_size

RECIPE = (
    "normal values, seed as given; a factor of 0.5 to 2 per channel and group of 128, and per token; scales "
    "from the largest absolute value; operand sets: one weight copied, activations of their own"
)
# Columns quantised or dequantised at once: bounds the memory this takes.
COLUMNS = 2048
# Rows of the output compared with the reference; the whole output is checked for what was never written.
CHECKED_ROWS = 64


class Expected(NamedTuple):
    """Of some rows of one output: the float64 reference and its spread (see kernelpkg.check.metrics)."""

    rows: Tensor
    reference: Tensor
    spread: Tensor


class Quantised(NamedTuple):
    """A weight before packing, as kernelpkg.ops quantises it. zeros: zero points of the groups, if any."""

    weight: Tensor
    scales: Tensor
    zeros: Tensor | None = None
    global_scale: float = 1.0


def by_columns(weight: Tensor, quantise: Callable[[Tensor], tuple[Any, ...]]) -> Quantised:
    """A quantiser whose columns are independent, applied to a few thousand columns at a time."""
    parts = [quantise(weight[:, start : start + COLUMNS]) for start in range(0, weight.shape[1], COLUMNS)]
    return Quantised(*(_join(pieces) for pieces in zip(*parts, strict=True)))


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
        self._quantised: dict[str, Quantised] = {}
        self._sets: dict[str, list[Any]] = {}

    def factors(self, *shape: int) -> Tensor:
        """Factors between 0.5 and 2, evenly spread in their logarithm, bf16."""
        exponents = torch.rand(*shape, generator=self.random, device=self.device) * 2 - 1
        return torch.exp2(exponents).to(torch.bfloat16)

    def activations(self, m: int) -> Tensor:
        """bf16 [m, K], every token with its own factor."""
        values = torch.randn(m, self.shape.k, generator=self.random, device=self.device, dtype=torch.bfloat16)
        return values * self.factors(m, 1)

    def quantised(self, kind: str) -> Quantised:
        """The weight as the quantiser of a kind gives it: 'u4b8/g128' and the like, 'fp8/channel',
        'fp8/tensor' or 'fp8/block'.
        """
        if kind not in self._quantised:
            form, _, variant = kind.partition("/")
            if form != "fp8":
                made = self._quantise(form, variant)
            elif variant == "tensor":
                scale = (self.weight.abs().max().float() / ops.E4M3_MAX).reshape(1)
                made = by_columns(self.weight, lambda w: (_to_fp8(w, scale), scale[None]))._replace(
                    scales=scale
                )
            elif variant == BLOCK:
                made = by_columns(self.weight, ops.quantize_fp8_blocks)
            else:
                made = by_columns(self.weight, ops.quantize_fp8_per_channel)
            if form == "fp8":
                # Blocks of scales lie like the weight, with those of a column side by side: torch and vLLM
                # read them so.
                order = ops.to_column_major if variant == BLOCK else Tensor.contiguous
                made = Quantised(ops.to_column_major(made.weight), order(made.scales))
            self._quantised[kind] = made
        return self._quantised[kind]

    def _quantise(self, form: str, variant: str) -> Quantised:
        if form != "nvfp4":
            return by_columns(self.weight, _quantiser(form, variant))
        # The global scale follows from the largest weight of all, so each part is given that one as well.
        largest = torch.zeros(self.shape.k, 1, dtype=self.weight.dtype, device=self.device)
        largest[0] = self.weight.abs().max()
        found = []

        def quantise(part: Tensor) -> tuple[Tensor, ...]:
            weight, scales, global_scale = ops.quantize_nvfp4(torch.cat([part, largest], dim=1))
            found.append(global_scale)
            return weight[:, :-1], scales[:, :-1]

        return by_columns(self.weight, quantise)._replace(global_scale=found[0])

    def sets(self, kind: str, count: int) -> list[Any]:
        """`count` copies in memory of a weight: 'bf16', 'fp8/...', packed 'u4b8/g128' and the like, or
        'vllm/u4b8/g128' as vLLM packs it.
        """
        found = self._sets.setdefault(kind, [])
        while len(found) < count:
            found.append(_copy(found[0]) if found else self._first(kind))
        return found[:count]

    def _first(self, kind: str) -> Any:
        if kind == "bf16":
            return ops.to_column_major(self.weight)
        if kind.startswith("fp8/"):
            return self.quantised(kind).weight
        if kind.startswith("vllm/"):
            _, form, variant = kind.split("/")
            made = self.quantised(f"{form}/{variant}")
            return vllm_ops.pack(made.weight, made.scales, form)
        form, variant = kind.split("/")
        made = self.quantised(kind)
        return ops.pack_marlin_weight(
            made.weight,
            made.scales,
            form,
            group_size(variant),
            zeros=made.zeros,
            global_scale=made.global_scale,
            size_k=self.shape.k,
        )


def _quantiser(form: str, variant: str) -> Callable[[Tensor], tuple[Any, ...]]:
    """The quantiser of a weight format with the scales of a variant, for some columns of the weight."""
    group = group_size(variant)
    if form == "mxfp4":
        return ops.quantize_mxfp4
    if variant.startswith("mx"):
        return ops.quantize_mxfp8
    quantise = {
        "u4b8": ops.quantize_u4b8,
        "u4": ops.quantize_u4,
        "u8b128": ops.quantize_u8b128,
        "e4m3": ops.quantize_fp8_per_group,
    }[form]
    return lambda w: quantise(w, group)


def _to_fp8(weight: Tensor, scale: Tensor) -> Tensor:
    limited = (weight.float() / scale).clamp(-ops.E4M3_MAX, ops.E4M3_MAX)
    return limited.to(torch.float8_e4m3fn)


def _copy(weight: Any) -> Any:
    if isinstance(weight, Tensor):
        return weight.clone(memory_format=torch.preserve_format)
    if isinstance(weight, vllm_ops.MarlinWeight):
        return weight.clone()
    zeros = None if weight.zeros is None else weight.zeros.clone()
    return replace(weight, data=weight.data.clone(), scales=weight.scales.clone(), zeros=zeros)


class Inputs:
    """The activations of a point: one bf16 tensor per operand set, its quantised forms, and what products
    with them are expected to be. Contenders that multiply the same operands share all three.
    """

    def __init__(self, layer: Layer, m: int):
        self.layer = layer
        self.m = m
        self._values: list[Tensor] = []
        self._quantised: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self._expected: dict[tuple[str, int], Expected] = {}
        self._rows: Tensor | None = None

    def values(self, index: int) -> Tensor:
        """bf16 [m, K] of one operand set."""
        while len(self._values) <= index:
            self._values.append(self.layer.activations(self.m))
        return self._values[index]

    def quantised(self, index: int, variant: str) -> tuple[Tensor, Tensor]:
        """(e4m3 [m, K], float32 scales): one scale for variant 'tensor', one per token and 128 of K for
        'block', else one per token.
        """
        kind = variant if variant in _ACTIVATIONS else "token"
        if (kind, index) not in self._quantised:
            self._quantised[kind, index] = _ACTIVATIONS[kind](self.values(index))
        return self._quantised[kind, index]

    def expected(
        self,
        key: str,
        index: int,
        activations: Callable[[Tensor], Tensor],
        weight: Callable[[slice], Tensor],
    ) -> Expected:
        """The product of set `index`, computed once for all contenders with the same `key`.

        activations: rows of A, as float64 with their scales; weight: columns of the weight, likewise.
        """
        if (key, index) not in self._expected:
            if self._rows is None:
                self._rows = checked_rows(self.m, self.layer.device, self.layer.random)
            found = product(activations(self._rows), self.layer.shape.n, weight)
            self._expected[key, index] = Expected(self._rows, *found)
        return self._expected[key, index]


_ACTIVATIONS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "tensor": ops.quantize_fp8_per_tensor,
    "token": ops.quantize_fp8_per_token,
    BLOCK: ops.quantize_fp8_per_token_group,
}


def widen(scales: Tensor, dim: int, start: int, count: int) -> Tensor:
    """Blocks of scales along `dim` -> float64, one for each of `count` places from `start` (a multiple of
    128) on.
    """
    blocks = scales.narrow(dim, start // BLOCK_SIZE, -(-count // BLOCK_SIZE))
    return blocks.double().repeat_interleave(BLOCK_SIZE, dim).narrow(dim, 0, count)


def rows_of(a: Tensor, rows: Tensor) -> Tensor:
    """`rows` of `a`, as float64."""
    # Rows of e4m3 are taken as bytes: indexing that dtype is not offered on every device.
    if a.dtype == torch.float8_e4m3fn:
        return a.view(torch.uint8)[rows].view(torch.float8_e4m3fn).double()
    return a[rows].double()


def product(a: Tensor, n: int, weight: Callable[[slice], Tensor]) -> tuple[Tensor, Tensor]:
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
