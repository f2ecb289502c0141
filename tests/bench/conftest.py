"""A device that is none: kernels are functions on the CPU that say how long they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kernelpkg.bench.ceilings import Ceilings
from kernelpkg.bench.clocks import silent_sampler


class SpentGraph:
    """Replays as a graph does: into the outputs kept at capture, each launch as long as its call says."""

    def __init__(self, clock: SpentClock, calls: list[Callable[[], Any]], kept: dict[int, torch.Tensor]):
        self.clock, self.calls, self.kept, self.launches = clock, calls, kept, len(calls)

    def replay(self) -> None:
        start = self.clock.now
        for index, out in self.kept.items():
            out.copy_(self.calls[index]())
        each = (self.clock.now - start) / len(self.kept)
        self.clock.now = start + each * self.launches


class SpentClock:
    """A clock that the kernels set forward."""

    now = 0.0

    def capture(self, launches: Sequence[Callable[[], Any]], count: int) -> SpentGraph:
        calls = [launches[index % len(launches)] for index in range(count)]
        return SpentGraph(self, calls, {index: calls[index]() for index in range(min(2, len(launches)))})

    def hold(self) -> None: ...

    def mark(self) -> float:
        return self.now

    def microseconds(self, start: float, end: float) -> float:
        return end - start

    def synchronize(self) -> None: ...


@pytest.fixture
def stand() -> Iterator[Any]:
    """A Stand on the CPU. Products are small: threads would only wait for each other."""
    from kernelpkg.bench.stand import Stand

    facts = {"l2_bytes": 4096, "multiprocessors": 48}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Stand("cpu", SpentClock(), silent_sampler(), facts, Ceilings(), 3, lambda: False)
    torch.set_num_threads(before)


@pytest.fixture
def scaled_mm(monkeypatch: pytest.MonkeyPatch, stand: Any) -> SimpleNamespace:
    """cutlass_scaled_mm as its reference. `microseconds`(M, N, K, configuration, weight) is what a call
    takes; `calls` has the arguments of each; `error`(M, N, configuration) is raised where it is not None.
    """
    from kernelpkg import ops
    from kernelpkg.ops import reference

    seen = SimpleNamespace(microseconds=lambda *_: 10.0, error=lambda *_: None, calls=[], factor={})

    def run(a: Any, b: Any, scale_a: Any, scale_b: Any, dtype: Any, configuration: int = -1) -> Any:
        (m, k), n = a.shape, b.shape[1]
        if fault := seen.error(m, n, configuration):
            raise fault
        seen.calls.append((m, n, k, configuration))
        stand.clock.now += seen.microseconds(m, n, k, configuration, b)
        out = reference.scaled_mm_reference(a, b, scale_a, scale_b)
        return (out * seen.factor.get(configuration, 1.0)).to(dtype)

    monkeypatch.setattr(ops, "cutlass_scaled_mm", run)
    return seen
