"""What awkward shapes cost scaled_mm: each timed in turn with the next multiple up, in the same run.

Rows of the activations (odd M) and columns of the weight (N a multiple of 16, not of 128) leave the last
tile short, no more. N that is no multiple of 16 writes a wider output and copies it; K that is no multiple of
16 copies the operands, the weight too where it was not padded once at load (`ops.pad_scaled_mm_weight`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernelpkg import ops
from kernelpkg.bench.contenders import Contender, Setting, fp8, scaled_mm
from kernelpkg.bench.point import rounded
from kernelpkg.bench.shapes import BLOCK, VARIANTS, Shape, on_what, shape_of
from kernelpkg.bench.stand import Stand, time_together

SECONDS = 0.02  # of timing for each shape
ODD_MS = (1, 17, 33, 65, 127, 255, 1001, 4095)
ODD_MS_AT = (4096, 4096)  # K, N
# Layers K x N with the one at the next multiple up, and the M they are timed at.
COLUMNS = (((4096, 4080), (4096, 4096)), ((7168, 576), (7168, 640)), ((7168, 2112), (7168, 2176)))
UNALIGNED_N = (((4096, 4090), (4096, 4096)),)
UNALIGNED_K = (((4090, 4096), (4096, 4096)),)
MS = (64, 4096)


@dataclass(frozen=True, slots=True)
class Call:
    """One shape of a comparison. how: what happens to operands and output; padded: the weight was, once."""

    shape: Shape
    m: int
    how: str = "in place"
    padded: bool = False

    @property
    def name(self) -> str:
        """A name that no other call of the comparison has."""
        return f"{self.shape} m={self.m} {self.how}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Awkward calls and the regular ones they are compared with. cost: 'rows', 'columns', 'columns % 16' or
    'K % 16'.
    """

    cost: str
    awkward: tuple[Call, ...]
    regular: tuple[Call, ...]


def comparisons() -> tuple[Comparison, ...]:
    """All of them, those of one layer beside each other."""
    layer = shape_of(ODD_MS_AT)
    found = []
    for m in ODD_MS:
        multiples = dict.fromkeys(-(-m // step) * step for step in (4, 8, 16))
        regular = tuple(Call(layer, up) for up in multiples)
        found.append(Comparison("rows", (Call(layer, m),), regular))
    others = (
        ("columns", COLUMNS, (("in place", False),)),
        ("columns % 16", UNALIGNED_N, (("output copied", False),)),
        ("K % 16", UNALIGNED_K, (("copied per call", False), ("weight padded once", True))),
    )
    for cost, pairs, ways in others:
        for odd, regular in pairs:
            for m in MS:
                awkward = tuple(Call(shape_of(odd), m, how, padded) for how, padded in ways)
                found.append(Comparison(cost, awkward, (Call(shape_of(regular), m),)))
    return tuple(found)


def measure(stand: Stand, kernel: str) -> Iterator[dict[str, Any]]:
    """Rows of what awkward shapes cost `kernel`, per token and channel, and with blocks where it takes them.

    A row has kernel, variant, cost, shape, m, n, k, how; next: m, n, k of the regular call; microseconds and
    next_microseconds of one cold call; speed: their ratio, 1 where the awkward shape costs nothing; correct;
    reason where there is no time; label. Ends early where the stand says so.
    """
    layers: dict[str, Any] = {}
    for one in comparisons():
        calls = (*one.awkward, *one.regular)
        wanted = {call.shape.name: call.shape for call in calls}
        layers = {name: layer for name, layer in layers.items() if name in wanted}
        for variant in (name for name in VARIANTS[kernel] if name in (VARIANTS[kernel][0], BLOCK)):
            if stand.ended():
                return
            for name, shape in wanted.items():
                layers[name] = layers.get(name) or stand.layer(shape)
            yield from _compare(stand, kernel, variant, one, layers)


def _compare(
    stand: Stand, kernel: str, variant: str, one: Comparison, layers: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    makers = {}
    for call in (*one.awkward, *one.regular):
        at = stand.setting(layers[call.shape.name], call.m)
        make = _padded if call.padded else scaled_mm
        makers[call.name] = (at.point, lambda make=make, at=at: make(kernel, variant, at))
    found = time_together(stand, makers, SECONDS)
    for awkward in one.awkward:
        for regular in one.regular:
            ours, theirs = found[awkward.name], found[regular.name]
            both = ours.microseconds and theirs.microseconds
            yield rounded(
                {
                    "kernel": kernel,
                    "variant": variant,
                    "cost": one.cost,
                    "shape": awkward.shape.name,
                    "m": awkward.m,
                    "n": awkward.shape.n,
                    "k": awkward.shape.k,
                    "how": awkward.how,
                    "next": {"m": regular.m, "n": regular.shape.n, "k": regular.shape.k},
                    "microseconds": ours.microseconds,
                    "next_microseconds": theirs.microseconds,
                    "speed": theirs.microseconds / ours.microseconds if both else None,
                    "correct": {"passed": not (ours.wrong or theirs.wrong)},
                    "reason": ours.reason or theirs.reason,
                    "label": f"measured here, {on_what(kernel)}",
                }
            )


def _padded(kernel: str, variant: str, at: Setting) -> Contender:
    def call(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor) -> Tensor:
        return ops.cutlass_scaled_mm(a, b, scale_a, scale_b, torch.bfloat16)

    return fp8(f"{kernel}/{variant}", kernel, variant, at, call, ops.pad_scaled_mm_weight)
