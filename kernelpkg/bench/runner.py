"""The bench: which points are run, and what becomes of each."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kernelpkg.bench import machine as machines
from kernelpkg.bench.report import BenchReport
from kernelpkg.bench.shapes import (
    EVIDENCE_CAPABILITY,
    GATE_OF,
    STANDS_FOR,
    UNTIMED,
    VARIANTS,
    Point,
    Shape,
    Size,
    plan,
    size_named,
)
from kernelpkg.errors import MachineUnfit, UsageError

SCALED_MM = tuple(k for k in VARIANTS if k.startswith("scaled_mm") and k not in STANDS_FOR)
SHIPPED = tuple(kernel for kernel in VARIANTS if kernel not in STANDS_FOR)
# What emulation costs, shown on the device that emulates: one shape, a decode and a prefill M.
SHOWN_EVIDENCE = ("marlin_w4a8_fp8_emulated",)
SHOWN_EVIDENCE_POINTS = (("8B.gate_up", 16), ("8B.gate_up", 4096))


def is_cancelled(cancel: Any) -> Callable[[], bool]:
    """`cancel` as a question: an event (is_set), a callable, or None for never."""
    if cancel is None:
        return lambda: False
    return cancel.is_set if hasattr(cancel, "is_set") else cancel


def not_built(kernel: str, capability: Any) -> str | None:
    """Why the loaded library cannot run a kernel on a capability; None where it can."""
    from kernelpkg import ops

    answer = ops.supports(kernel, capability)
    return None if answer else f"{kernel} is not in the library: {answer.reason}"


def choose(
    kernels: Iterable[str] | None, capability: Any, built: Callable[[str], str | None]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """(kernels to time, reason -> count of those left out).

    None takes every timed kernel that is shipped, of which the gates leave some; one that is not timed is
    left out. An evidence kernel runs on 9.0 alone.
    `built` gives the reason why a kernel is not in the library, None where it is. Raises UsageError for an
    unknown kernel.
    """
    from kernelpkg.gates import gate

    asked = SHIPPED if kernels is None else tuple(kernels)
    chosen, out = [], Counter()
    for kernel in asked:
        if kernel in UNTIMED:
            out[f"the bench does not time {kernel}"] += 1
            continue
        if kernel not in VARIANTS:
            raise UsageError(f"kernel is {kernel!r}; those that are timed: {', '.join(VARIANTS)}.")
        answer = gate("evidence_sm90" if kernel in STANDS_FOR else GATE_OF[kernel]).ask(capability)
        if not answer:
            out[answer.short] += 1
        elif reason := built(kernel):
            out[reason] += 1
        else:
            chosen.append(kernel)
    return tuple(chosen), dict(out)


def run(
    kernels: Sequence[str] | None = None,
    shapes: Sequence[str | Shape | Sequence[int]] | None = None,
    ms: Sequence[int] | None = None,
    size: str = "default",
    device: str = "cuda:0",
    on_row: Callable[[dict[str, Any]], None] | None = None,
    cancel: Any = None,
    *,
    on_progress: Callable[[int, int, str], None] | None = None,
    seed: int | None = None,
    peer_libraries: Sequence[Path | str] = (),
) -> BenchReport:
    """Time our kernels and torch's on one CUDA device, with the ceilings of the machine in the same run.

    kernels: as users name them; None takes all that the gates admit here. shapes: names such as
    '8B.gate_up', 'KxN' or (K, N). ms: rows of the activations. size: 'tiny' (under 30 s on an H200),
    'default' (under 140 s) or 'full' (under 10 minutes); points that the time does not reach are named in
    `not_run`. Where neither shapes nor ms are named, a run with scaled_mm also times every configuration at a
    few points and, from 'default' on, what awkward shapes cost. on_row is called with each row, on_progress
    with points done, points in all and a sentence. cancel: an event or a callable; rows until then are kept.
    seed: of the operands, fresh where None and recorded either way. peer_libraries: vLLM's shared objects, or
    folders that hold them, to time its operators beside ours; those of an installed vLLM where none is named.

    Raises UsageError for a wrong argument, NothingRan without a CUDA device, MachineUnfit where no point
    fits into the memory. Whether results were right is in the rows; `BenchReport.raise_for_status` raises
    for them.
    """
    limits = size_named(size)
    names = None if kernels is None else tuple([kernels] if isinstance(kernels, str) else kernels)
    plan(
        SHIPPED if names is None else names, limits, shapes, ms
    )  # refuses wrong names before a device is touched
    named = tuple(map(Path, peer_libraries))
    if absent := [str(path) for path in named if not path.exists()]:
        raise UsageError(f"there is no file or folder {', '.join(absent)}; name shared objects of vLLM.")
    machines.require_cuda(device)
    import torch

    with torch.cuda.device(torch.device(device)):
        return _Run(limits, size, device, is_cancelled(cancel), on_row, on_progress, seed, named).run(
            names, shapes, ms
        )


class _Run:
    """One run on one device; torch is here."""

    def __init__(
        self,
        limits: Size,
        size: str,
        device: str,
        cancelled: Callable[[], bool],
        on_row: Callable[[dict[str, Any]], None] | None,
        on_progress: Callable[[int, int, str], None] | None,
        seed: int | None,
        peer_libraries: Sequence[Path] = (),
    ):
        from kernelpkg import ops
        from kernelpkg.arch import Capability
        from kernelpkg.bench import clocks, contenders, operands, timing, vllm_ops

        ops.load()
        self.started = time.monotonic()
        self.limits = limits
        self.device = device
        self.cancelled = cancelled
        self.on_row = on_row or (lambda row: None)
        self.on_progress = on_progress or (lambda done, total, message: None)
        self.facts = machines.describe(device)
        self.capability = Capability.parse(self.facts["capability"])
        self.clock = timing.CudaClock(device)
        self.sampler = clocks.open_sampler(self.facts.pop("uuid"), machines.index_of(device))
        vllm = vllm_ops.load(peer_libraries)
        self.peers = contenders.available(self.capability, vllm.peers)
        self.report = BenchReport(
            machine=self.facts | {"clocks": self.sampler.static},
            device=device,
            size=size,
            seed=secrets.randbits(31) if seed is None else seed,
            recipe=operands.RECIPE,
            peers={"vLLM": vllm.provenance} if vllm.provenance else {},
            notes=list(vllm.problems),
        )

    def run(
        self,
        kernels: tuple[str, ...] | None,
        shapes: Sequence[str | Shape | Sequence[int]] | None,
        ms: Sequence[int] | None,
    ) -> BenchReport:
        """All points, until time or patience ends."""
        from kernelpkg.bench.ceilings import Meter

        report = self.report
        chosen, report.gated_out = choose(kernels, self.capability, self._missing)
        points = list(plan(chosen, self.limits, shapes, ms, kernels is not None)) if chosen else []
        if kernels is None and str(self.capability) == EVIDENCE_CAPABILITY:
            points = self._with_evidence(points)
        if points and all(reasons := [self._shortage(point) for point in points]):
            raise MachineUnfit(f"No point of this bench fits into the memory: {reasons[0]}")
        self.on_progress(0, len(points), "measuring the ceilings")
        self.meter = Meter(self.device, self.clock, self.sampler, self.facts, 0.05, self.cancelled)
        if points:
            self.meter.measure(fp8="scaled_mm_row" in self.peers)
            self._points(points)
            if shapes is None and ms is None:
                self._scaled_mm_details([name for name in chosen if name in SCALED_MM])
            found = self.meter.finish()
            report.ceilings = found.as_dict()
            report.notes += found.notes
        report.cancelled = self.cancelled()
        report.clocks = _clock_range(report.rows)
        report.seconds = time.monotonic() - self.started
        if points and not report.rows and not report.cancelled:
            raise MachineUnfit(f"Not one point could be timed: {report.not_run[0]}")
        return report

    def _missing(self, kernel: str) -> str | None:
        return not_built(kernel, self.capability)

    def _with_evidence(self, points: list[Point]) -> list[Point]:
        shown = tuple((name, VARIANTS[name][0]) for name in SHOWN_EVIDENCE if not self._missing(name))
        return [
            Point(point.shape, point.m, point.kernels + shown)
            if (point.shape.name, point.m) in SHOWN_EVIDENCE_POINTS
            else point
            for point in points
        ]

    def _points(self, points: Sequence[Point]) -> None:
        import torch

        from kernelpkg.bench.operands import Layer
        from kernelpkg.bench.point import time_point

        layer: Layer | None = None
        longest = 0.0
        for index, point in enumerate(points):
            what = f"{point.shape} m={point.m}"
            if self.cancelled():
                return
            used = time.monotonic() - self.started
            if used + longest > self.limits.seconds:
                rest = ", ".join(f"{later.shape} m={later.m}" for later in points[index:])
                self.report.not_run.append(f"out of time after {used:.0f} s: {rest}")
                return
            if layer is not None and layer.shape != point.shape:
                layer = None
                torch.cuda.empty_cache()
            if reason := self._shortage(point):
                self.report.not_run.append(f"{what}: {reason}")
                continue
            self.on_progress(index, len(points), what)
            begun = time.monotonic()
            try:
                layer = layer or Layer(point.shape, self.device, self.report.seed or 0)
                for row in time_point(self, point, layer):
                    self.report.rows.append(row)
                    self.on_row(row)
            except torch.cuda.OutOfMemoryError as error:
                layer = None
                self.report.not_run.append(f"{what}: the device ran out of memory ({_first_line(error)})")
            torch.cuda.empty_cache()
            longest = max(longest, time.monotonic() - begun)
        self.on_progress(len(points), len(points), "done")

    def _scaled_mm_details(self, kernels: Sequence[str]) -> None:
        """The sweep of the configurations and the costs of awkward shapes, while there is time."""
        import torch

        from kernelpkg.bench import shape_costs, sweep
        from kernelpkg.bench.stand import Stand

        def ended() -> bool:
            return self.cancelled() or time.monotonic() - self.started > self.limits.seconds

        ceilings, seed = self.meter.ceilings, self.report.seed or 0
        stand = Stand(self.device, self.clock, self.sampler, self.facts, ceilings, seed, ended)
        try:
            for kernel in kernels:
                self.on_progress(0, 1, f"{kernel}: every configuration, and awkward shapes")
                self.report.sweep += sweep.sweep(stand, kernel, self.limits.sweeps)
                if self.limits.costs:
                    self.report.costs += shape_costs.measure(stand, kernel)
        except torch.cuda.OutOfMemoryError as error:
            self.report.not_run.append(f"configurations and awkward shapes: {_first_line(error)}")
        if kernels and ended() and not self.cancelled():
            self.report.not_run.append("configurations or awkward shapes: out of time for some of them")

    def _shortage(self, point: Point) -> str | None:
        from kernelpkg.bench.contenders import bytes_needed

        integrated = self.facts["integrated"]
        available = machines.available_bytes(self.device, integrated)
        needed = bytes_needed(point, self.facts["l2_bytes"], self.peers)
        return machines.shortage(needed, available, integrated, self.facts["name"])


def _clock_range(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Lowest and highest SM clock and power over all rows, and how many samples were discarded."""
    found: dict[str, Any] = {}
    for name in ("sm_mhz", "memory_mhz", "power_w", "temperature_c"):
        values = [value for row in rows if (value := (row.get("clocks") or {}).get(name)) is not None]
        found[name] = [min(values), max(values)] if values else None
    found["discarded"] = sum((row.get("clocks") or {}).get("discarded", 0) for row in rows)
    return found


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
