"""The correctness gate of a timing: the very graph that is timed, replayed over poisoned outputs.

Metrics and bounds of our kernels are those of kernelpkg.check. Peers are held to the same references by
bounds that leave other arithmetic room.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from kernelpkg.bench.contenders import Contender
from kernelpkg.bench.shapes import BLOCK, Point, group_size
from kernelpkg.bench.timing import Clock, Graph
from kernelpkg.check.cases import Case
from kernelpkg.check.metrics import Bounds, bounds_for, compare
from kernelpkg.ops.kernels import kernel as kernel_entry


@dataclass(frozen=True, slots=True)
class Verdict:
    """Errors of one replay, the worst over the outputs looked at; see kernelpkg.check.metrics.

    unwritten: elements, over all rows, that still held the poison or came out not finite. bound: of
    relative_error; that of worst_element is 1.
    """

    relative_error: float
    worst_element: float
    unwritten: int
    bound: float

    @property
    def passed(self) -> bool:
        """Whether all three hold; a NaN never does."""
        return self.unwritten == 0 and self.relative_error <= self.bound and self.worst_element <= 1

    @property
    def fault(self) -> str:
        """What does not hold, for a sentence about a wrong result."""
        if self.unwritten:
            return f"{self.unwritten} elements were not written or are not finite"
        if not self.relative_error <= self.bound:
            return f"relative error {self.relative_error:.2g}, bound {self.bound:.2g}"
        return f"one element errs by {self.worst_element:.2g} times what it may"

    def as_dict(self) -> dict[str, Any]:
        """JSON types; an error that is not finite becomes None."""
        return {
            "relative_error": self.relative_error if math.isfinite(self.relative_error) else None,
            "worst_element": self.worst_element if math.isfinite(self.worst_element) else None,
            "unwritten": self.unwritten,
            "relative_bound": self.bound,
        }


def case_of(point: Point, kernel: str, variant: str) -> Case:
    """The case of the check that a timed point is, for its bounds."""
    return Case(
        "marlin" if kernel.startswith("marlin") else "scaled_mm",
        point.m,
        point.shape.n,
        point.shape.k,
        group_size=group_size(variant),
        token=variant == "token_channel",
        channel=variant == "token_channel",
        scales="block" if variant == BLOCK else "plain",
    )


# A peer may round each dequantised weight to 16 bits (2^-9 of each product at most), accumulate in 16 bits
# where K is split, and add e4m3 products in an adder of 13 bits. That stays under 1 % of the whole and 5 % of
# one element's spread; a weight, scale or tile out of its place is far beyond either.
PEER_BOUNDS = Bounds(relative=1e-2, unit=2.0**-7, sums=0.05, step=2.0**-134)


class Verifier:
    """Checks one contender's graph before and after timing, against references computed once."""

    def __init__(self, contender: Contender, graph: Graph, point: Point):
        self.graph = graph
        self.compared = []
        for index, out in graph.kept.items():
            rows, reference, spread = contender.expected(index)
            if contender.kernel is None:
                bounds = PEER_BOUNDS
            else:
                case = case_of(point, contender.kernel, contender.variant)
                bounds = bounds_for(kernel_entry(contender.kernel), case, out.device)
            self.compared.append((out, rows, reference, spread, bounds))

    def check(self, clock: Clock) -> Verdict:
        """Fill the kept outputs with NaN, replay, compare; the worst over the kept outputs."""
        for out, *_ in self.compared:
            out.fill_(float("nan"))
        self.graph.replay()
        clock.synchronize()
        found = []
        for out, rows, reference, spread, bounds in self.compared:
            errors = compare(out[rows], reference, spread, bounds, out.dtype)
            unwritten = int((~out.isfinite()).sum())
            found.append(Verdict(errors.relative_error, errors.worst_element, unwritten, bounds.relative))
        return Verdict(
            max(verdict.relative_error for verdict in found),
            max(verdict.worst_element for verdict in found),
            sum(verdict.unwritten for verdict in found),
            found[0].bound,
        )


def as_row(before: Verdict, after: Verdict | None) -> dict[str, Any]:
    """The `correct` column of a bench row: both verdicts; `after` is None where a wrong result was not
    timed.
    """
    return {
        "passed": before.passed and after is not None and after.passed,
        "before": before.as_dict(),
        "after": None if after is None else after.as_dict(),
    }
