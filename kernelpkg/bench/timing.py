"""Timing by CUDA graphs over rotated operands: the one method behind every figure of the package.

A graph holds at least 20 launches. Launch i uses operand set i mod S, and the S sets together are larger
than five times the L2, so no launch finds its weights in the cache. One sample is one replay divided by its
launches. Contenders are replayed in turn, in an order that changes from round to round (`turns`), so that a
drift of the clock meets all of them alike. So does a power limit, which lags: what a kernel is allowed
depends on the pause between rounds and on what ran before it.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Protocol

from kernelpkg.bench.clocks import ClockSample, Sampler, is_slow, summarise

MIN_LAUNCHES = 20
MAX_LAUNCHES = 160
# A replay shorter than this would show the gap between host and device; more launches make it longer.
REPLAY_US = 1000.0
COLD_FACTOR = 5
MIN_SAMPLES = 7
MAX_SAMPLES = 60


class Graph(Protocol):
    """A captured sequence of launches. `kept` maps an operand set to the output of a launch over it."""

    launches: int
    kept: Mapping[int, Any]

    def replay(self) -> None: ...


class Clock(Protocol):
    """What timing needs of a device; tests give a fake one."""

    def capture(self, launches: Sequence[Callable[[], Any]], count: int) -> Graph: ...
    def hold(self) -> None: ...
    def mark(self) -> Any: ...
    def microseconds(self, start: Any, end: Any) -> float: ...
    def synchronize(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds per launch over `n` samples; `median` is None where every sample was discarded."""

    median: float | None
    p10: float | None
    p90: float | None
    n: int
    discarded: int
    launches: int

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)


def operand_sets(set_bytes: int, l2_bytes: int | None) -> int:
    """How many operand sets of `set_bytes` exceed five times the L2 together; at least 2.

    An unknown L2 counts as 128 MiB, more than any card in the device table has.
    """
    if set_bytes <= 0:
        raise ValueError(f"an operand set has {set_bytes} bytes; it must have some")
    l2_bytes = l2_bytes or 128 * 2**20
    return max(2, COLD_FACTOR * l2_bytes // set_bytes + 1)


def launch_count(sets: int, expected_us: float) -> int:
    """Launches in one graph: at least 20, about a millisecond, and every operand set equally often."""
    wanted = max(MIN_LAUNCHES, min(MAX_LAUNCHES, ceil(REPLAY_US / max(expected_us, 0.1))))
    return ceil(wanted / sets) * sets


def percentile(ordered: Sequence[float], part: float) -> float:
    """Percentile of sorted values by linear interpolation."""
    position = part * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def statistics(values: Sequence[float], discarded: int, launches: int) -> Timing:
    """Median, p10 and p90 of `values` (microseconds per launch)."""
    if not values:
        return Timing(None, None, None, 0, discarded, launches)
    ordered = sorted(values)
    p10, middle, p90 = (percentile(ordered, part) for part in (0.1, 0.5, 0.9))
    return Timing(middle, p10, p90, len(ordered), discarded, launches)


def time_interleaved(
    graphs: Mapping[str, Graph],
    clock: Clock,
    sampler: Sampler,
    seconds: float,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Replay all `graphs` in turn for about `seconds` each; the timings by name, and the clocks seen.

    The first round warms up and sets the number of rounds: 7 to 60, and on to a multiple of the contenders.
    NVML is read in each round while the device works, and a round under 75 % of the expected clock is
    discarded whole. Up to as many rounds again are run for those discarded. `cancelled` is asked between
    rounds; what was measured until then is returned.
    """
    warm_up = _round(graphs, clock, sampler)[0]
    rounds = _rounds(warm_up, seconds)
    values: dict[str, list[float]] = {name: [] for name in graphs}
    counted: list[ClockSample] = []
    discarded = 0
    while len(counted) < rounds and discarded < rounds and not cancelled():
        order = turns(list(graphs), len(counted))
        spans, sample = _round({name: graphs[name] for name in order}, clock, sampler)
        if is_slow(sample, sampler.expected_mhz):
            discarded += 1
            continue
        counted.append(sample)
        for name, span in spans.items():
            values[name].append(span / graphs[name].launches)
    timings = {name: statistics(values[name], discarded, graph.launches) for name, graph in graphs.items()}
    return timings, summarise(counted, sampler.expected_mhz, discarded)


def turns(names: Sequence[str], index: int) -> list[str]:
    """The order of round `index`: over 2 n rounds each of n names is in each place, and behind each other
    name, equally often.

    E. J. Williams, "Experimental designs balanced for the estimation of residual effects of treatments",
    Australian Journal of Scientific Research A 2 (1949), 149-168.
    """
    count = len(names)
    zigzag = [place // 2 if place % 2 == 0 else count - 1 - place // 2 for place in range(count)]
    if index // max(count, 1) % 2 == 1:
        zigzag.reverse()
    return [names[(place + index) % count] for place in zigzag]


def _rounds(spans: Mapping[str, float], seconds: float) -> int:
    total = max(sum(spans.values()), 1.0)
    count = max(len(spans), 1)
    wanted = max(MIN_SAMPLES, min(MAX_SAMPLES, int(seconds * 1e6 * count / total)))
    return ceil(wanted / count) * count  # each as often in every place


def _round(
    graphs: Mapping[str, Graph], clock: Clock, sampler: Sampler
) -> tuple[dict[str, float], ClockSample]:
    # The device is held until all replays are queued: the host's launch latency stays out of the spans.
    clock.hold()
    marks = {}
    for name, graph in graphs.items():
        start = clock.mark()
        graph.replay()
        marks[name] = (start, clock.mark())
    sample = sampler.read()
    clock.synchronize()
    return {name: clock.microseconds(*pair) for name, pair in marks.items()}, sample


class CudaGraph:
    """A torch.cuda.CUDAGraph with the outputs kept for checking."""

    def __init__(self, graph: Any, launches: int, kept: Mapping[int, Any]):
        self.graph = graph
        self.launches = launches
        self.kept = kept

    def replay(self) -> None:
        """Queue the captured launches on the current stream."""
        self.graph.replay()


class CudaClock:
    """`Clock` on one CUDA device, through torch (imported here and nowhere else in this module)."""

    def __init__(self, device: str):
        import torch

        self.torch = torch
        self.device = torch.device(device)

    def capture(self, launches: Sequence[Callable[[], Any]], count: int) -> CudaGraph:
        """Warm every launch up on a side stream, then capture `count` of them, round and round.

        The outputs of the first two launches (operand sets 0 and 1) stay alive in memory that no other
        launch of the graph writes, so they can be poisoned and checked after a replay; the others' memory
        is reused.
        """
        torch = self.torch
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        graph = torch.cuda.CUDAGraph()
        kept: dict[int, Any] = {}
        with torch.cuda.stream(side):
            for launch in launches:
                launch()
            torch.cuda.synchronize(self.device)
            # Not torch.cuda.graph(): it empties torch's cache and collects garbage at every capture. Other
            # threads (a notebook's) may go on calling CUDA meanwhile.
            with _no_collection():
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    for index in range(count):
                        output = launches[index % len(launches)]()
                        if index < 2:
                            kept[index] = output
                        del output
                except BaseException:
                    with contextlib.suppress(RuntimeError):
                        graph.capture_end()
                    raise
                graph.capture_end()
        torch.cuda.current_stream(self.device).wait_stream(side)
        return CudaGraph(graph, count, kept)

    def hold(self) -> None:
        """Keep the device busy for about 0.2 ms, so that what is queued next runs without gaps."""
        sleep = getattr(self.torch.cuda, "_sleep", None)
        if sleep is not None:
            sleep(400_000)

    def mark(self) -> Any:
        """An event on the current stream, recorded now."""
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def microseconds(self, start: Any, end: Any) -> float:
        """Microseconds between two marks; both must have happened."""
        return start.elapsed_time(end) * 1000.0

    def synchronize(self) -> None:
        """Wait for the device."""
        self.torch.cuda.synchronize(self.device)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage collection held off: memory that it freed during a capture would spoil the capture."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def time_host(call: Callable[[], Any], clock: Clock, now: Callable[[], float], repeats: int = 20) -> float:
    """Median microseconds of one eager call on an idle device, launch and wait included."""
    call()
    clock.synchronize()
    spans = []
    for _ in range(repeats):
        start = now()
        call()
        clock.synchronize()
        spans.append((now() - start) * 1e6)
    return percentile(sorted(spans), 0.5)
