"""A device to time on, for what is timed beside the points of a bench: capture, check, time in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kernelpkg.bench import verify
from kernelpkg.bench.ceilings import Ceilings
from kernelpkg.bench.clocks import Sampler
from kernelpkg.bench.contenders import Contender, Setting
from kernelpkg.bench.operands import Inputs, Layer
from kernelpkg.bench.point import launches_of
from kernelpkg.bench.shapes import Point, Shape
from kernelpkg.bench.timing import Clock, time_interleaved


@dataclass(frozen=True, slots=True)
class Stand:
    """What timing needs of one CUDA device. facts: at least l2_bytes and multiprocessors; ceilings: those
    known so far; seed: of the operands; ended: whether to stop.
    """

    device: str
    clock: Clock
    sampler: Sampler
    facts: Mapping[str, Any]
    ceilings: Ceilings
    seed: int
    ended: Callable[[], bool]

    def layer(self, shape: Shape) -> Layer:
        """The weights of a shape, on the device."""
        return Layer(shape, self.device, self.seed)

    def setting(self, layer: Layer, m: int) -> Setting:
        """Operands for m rows of a layer."""
        return Setting(Point(layer.shape, m, ()), layer, Inputs(layer, m), self.facts["l2_bytes"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """microseconds: the median of one cold call, None where `reason` says why. wrong: the result was."""

    microseconds: float | None
    reason: str | None = None
    wrong: bool = False


def time_together(
    stand: Stand, makers: Mapping[str, tuple[Point, Callable[[], Contender]]], seconds: float
) -> dict[str, Outcome]:
    """name -> what its call takes; all are replayed in turn, about `seconds` each.

    A call that is refused, or whose result is outside the bounds of its kernel, is not timed.
    """
    graphs, found = {}, {}
    for name, (point, make) in makers.items():
        try:
            entry = make()
            graph = stand.clock.capture(entry.launches, launches_of(entry, point, stand.ceilings))
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError":
                raise
            line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            found[name] = Outcome(None, f"refused: {line}")
            continue
        verdict = verify.Verifier(entry, graph, point).check(stand.clock)
        if verdict.passed:
            graphs[name] = graph
        else:
            found[name] = Outcome(None, f"wrong: {verdict.fault}", wrong=True)
    if graphs:
        timings, _ = time_interleaved(graphs, stand.clock, stand.sampler, seconds)
        for name, timing in timings.items():
            reason = None if timing.median else "every sample was taken under 75 % of the clock"
            found[name] = Outcome(timing.median, reason)
    return found
