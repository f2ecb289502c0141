"""The correctness gate of a timing: the very graph that is timed, replayed over poisoned outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from kernelpkg.bench.operands import Contender, checked_rows
from kernelpkg.bench.timing import Clock, Graph

# Relative error ||out - ref|| / ||ref|| of a 16-bit output (bf16 rounding alone is 1.7e-3), and the largest
# single error over the reference's root mean square, so that one wrong tile is seen.
RELATIVE_BOUND = 1e-2
LARGEST_BOUND = 0.15


@dataclass(frozen=True, slots=True)
class Verdict:
    """Errors of one replay. unwritten: elements that still held the poison, or came out not finite."""

    relative: float
    largest: float
    unwritten: int

    @property
    def passed(self) -> bool:
        """Whether all three hold; a NaN never does."""
        return self.unwritten == 0 and self.relative <= RELATIVE_BOUND and self.largest <= LARGEST_BOUND


def compare(out: Tensor, expected: Tensor, rows: Tensor) -> Verdict:
    """`out` [M, N] against float64 `expected`, which holds the rows named by `rows`."""
    difference = out[rows].double() - expected
    scale = expected.norm()
    root_mean_square = scale / expected.numel() ** 0.5
    return Verdict(
        relative=float(difference.norm() / scale),
        largest=float(difference.abs().max() / root_mean_square),
        unwritten=int((~out.isfinite()).sum()),
    )


class Verifier:
    """Checks one contender's graph before and after timing, against references computed once."""

    def __init__(self, contender: Contender, graph: Graph):
        if contender.expected is None:
            raise ValueError(f"{contender.name} is a peer, it has no reference here")
        self.graph = graph
        self.rows: dict[int, Tensor] = {}
        self.expected: dict[int, Tensor] = {}
        for index, out in graph.kept.items():
            self.rows[index] = checked_rows(out.shape[0], out.device)
            self.expected[index] = contender.expected(index, self.rows[index])

    def check(self, clock: Clock) -> Verdict:
        """Fill the kept outputs with NaN, replay, compare; the worst over the kept outputs."""
        for out in self.graph.kept.values():
            out.fill_(float("nan"))
        self.graph.replay()
        clock.synchronize()
        found = [
            compare(out, self.expected[index], self.rows[index]) for index, out in self.graph.kept.items()
        ]
        # A NaN is the worst of all and would get lost in max().
        return Verdict(
            relative=_worst(verdict.relative for verdict in found),
            largest=_worst(verdict.largest for verdict in found),
            unwritten=sum(verdict.unwritten for verdict in found),
        )


def _worst(values: Any) -> float:
    listed = list(values)
    return float("nan") if any(value != value for value in listed) else max(listed)


def as_row(before: Verdict, after: Verdict | None) -> dict[str, Any]:
    """The `correct` column of a bench row: both verdicts with their bounds."""
    verdicts: Mapping[str, Verdict | None] = {"before": before, "after": after}
    return {
        "passed": all(verdict is not None and verdict.passed for verdict in verdicts.values()),
        "relative_bound": RELATIVE_BOUND,
        "largest_bound": LARGEST_BOUND,
        **{name: None if verdict is None else asdict(verdict) for name, verdict in verdicts.items()},
    }
