"""Tuning by measurement: every way to compute a call, timed as the bench times kernels, and the best kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kernelpkg.bench import machine as machines
from kernelpkg.bench.runner import choose as choose_kernels
from kernelpkg.bench.runner import is_cancelled, not_built
from kernelpkg.bench.shapes import (
    SIZES,
    TUNABLE,
    Point,
    activation_bits,
    group_size,
    plan,
    weight_format,
)
from kernelpkg.errors import CheckFailed, MachineUnfit, NothingRan, UsageError

DEFAULT_KERNELS = ("marlin_w8a16", "marlin_w4a16")
DEFAULT_ROWS = (1, 16, 64, 256)
# A choice must gain this much to be kept: less is within the spread of a median.
LEAST_GAIN = 1.02
# All candidates are timed in turn, then the default and the fastest that compute right once more, for longer.
SECONDS_PER_CANDIDATE = 0.01
FINALISTS = 4


@dataclass(slots=True)
class TuneReport:
    """rows: per kernel, shape and M the default's and the best choice with their microseconds, how many
    candidates were timed and how many fast ones were outside the bounds of the default's route (they round
    where it does not). path: the file that keeps the choices."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    gated_out: dict[str, int] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    cancelled: bool = False

    @property
    def summary(self) -> str:
        """How many points were tuned, and what it brought."""
        better = [row for row in self.rows if (row["gain"] or 0) >= LEAST_GAIN]
        text = f"tuned {len(self.rows)} points, {len(better)} of them faster by 2 % or more"
        if better:
            text += f" (the most: {max(row['gain'] for row in better):.2f} x)"
        gated = sum(self.gated_out.values())
        if gated:
            text += f"; gated out {gated} ({'; '.join(self.gated_out)})"
        return text + (", cancelled" if self.cancelled else "")


def tune(
    kernels: Sequence[str] | None = None,
    shapes: Sequence[str] | None = None,
    ms: Sequence[int] | None = None,
    device: str = "cuda:0",
    on_row: Callable[[dict[str, Any]], None] | None = None,
    cancel: Any = None,
    *,
    path: Path | None = None,
    seed: int = 0,
) -> TuneReport:
    """Time every candidate (kernelpkg.ops.tuning) of the points asked for on a CUDA device; keep the best.

    kernels: Marlin kernels, None for the two that the bench takes everywhere; shapes and ms as for the bench,
    M being 1, 16, 64 and 256 where none is named (a choice serves all M up to the same power of two).
    Activations are bfloat16. A candidate is kept only within the error bounds of the route that the default
    takes. Choices are written after each point, so that a cancelled run keeps what it measured. path: the
    file; None for the one that `ops.use_tuning` reads. A tuning in use in this process is forgotten.

    Raises UsageError for a wrong argument, NothingRan without a CUDA device or where the gates leave nothing,
    MachineUnfit where the clocks were too low for a figure.
    """
    names = DEFAULT_KERNELS if kernels is None else tuple(kernels)
    if wrong := [name for name in names if name not in TUNABLE]:
        raise UsageError(f"kernel is {wrong[0]!r}; those that can be tuned: {', '.join(TUNABLE)}.")
    rows = tuple(ms or DEFAULT_ROWS)
    plan(names, SIZES["full"], shapes, rows)  # refuses wrong names before a device is touched
    machines.require_cuda(device)
    import torch

    with torch.cuda.device(torch.device(device)):
        return _Tuner(device, is_cancelled(cancel), on_row, path, seed).run(names, shapes, rows)


class _Tuner:
    def __init__(
        self,
        device: str,
        cancelled: Callable[[], bool],
        on_row: Callable[[dict[str, Any]], None] | None,
        path: Path | None,
        seed: int,
    ):
        from kernelpkg import ops
        from kernelpkg.arch import Capability
        from kernelpkg.bench import clocks, timing
        from kernelpkg.ops import tuning

        ops.load()
        self.tuning = tuning
        self.cancelled, self.on_row, self.seed = cancelled, on_row or (lambda row: None), seed
        self.device = device
        self.index = machines.index_of(device)
        facts = machines.describe(device)
        self.clock = timing.CudaClock(device)
        self.sampler = clocks.open_sampler(facts.pop("uuid"), self.index)
        self.l2_bytes = facts["l2_bytes"]
        self.capability = Capability.parse(facts["capability"])
        self.here = {name: facts[name] for name in ("name", "multiprocessors", "capability")}
        self.path = path or tuning.tuning_path(self.here["name"], self.here["multiprocessors"])
        self.report = TuneReport(machine=facts, path=self.path)

    def run(self, kernels: Sequence[str], shapes: Sequence[str] | None, ms: Sequence[int]) -> TuneReport:
        import torch

        from kernelpkg.bench.operands import Layer

        report = self.report
        built = partial(not_built, capability=self.capability)
        chosen, report.gated_out = choose_kernels(kernels, self.capability, built)
        if not chosen:
            raise NothingRan(f"No kernel can be tuned here: {'; '.join(report.gated_out)}.")
        layer = None
        for point in plan(chosen, SIZES["full"], shapes, ms):
            if layer is None or layer.shape != point.shape:
                layer = None
                torch.cuda.empty_cache()
                layer = Layer(point.shape, self.device, self.seed)
            for kernel, variant in point.kernels:
                if self.cancelled():
                    report.cancelled = True
                    return report
                row, entry = self._point(Point(point.shape, point.m, ((kernel, variant),)), layer)
                report.rows.append(row)
                self.on_row(row)
                self.tuning.save_tuning(self.path, self.here, [entry])
            torch.cuda.empty_cache()
        return report

    def _point(self, point: Point, layer: Any) -> tuple[dict[str, Any], tuple[Any, Any]]:
        from kernelpkg.bench import verify
        from kernelpkg.bench.contenders import contenders
        from kernelpkg.bench.timing import launch_count, time_interleaved

        ((kernel, variant),) = point.kernels
        call = self._call(point, kernel, variant)
        found = self.tuning.candidates(call, self.index)
        (make,) = contenders(point, layer, self.l2_bytes, ()).values()
        entry = make()
        count = launch_count(len(entry.launches), 30.0)
        graphs = {}
        try:
            for choice in found:
                self.tuning.choose(call, choice, self.index)
                graphs[choice] = self.clock.capture(entry.launches, count)
        finally:
            self.tuning.forget()

        def timed(choices: Sequence[Any], seconds: float) -> dict[Any, float]:
            some = {str(index): graphs[choice] for index, choice in enumerate(choices)}
            times, _ = time_interleaved(some, self.clock, self.sampler, seconds)
            return {choices[int(name)]: timing.median or float("inf") for name, timing in times.items()}

        times = timed(found, SECONDS_PER_CANDIDATE)
        default = found[0]
        ranked = sorted(times, key=times.__getitem__)
        finalists, outside = [], 0
        for choice in (default, *(choice for choice in ranked if choice != default)):
            if verify.Verifier(entry, graphs[choice], point).check(self.clock).passed:
                finalists.append(choice)
            else:
                outside += 1
            if len(finalists) == FINALISTS:
                break
        if not finalists:
            raise CheckFailed(
                f"Every candidate of {kernel} {point.shape} m={point.m} computes wrong results."
            )
        times = timed(finalists, 5 * SECONDS_PER_CANDIDATE)
        best = min(times, key=times.__getitem__)
        before = times.get(default)  # None: outside the bounds itself, which no default should be
        if times[best] == float("inf"):
            raise MachineUnfit(
                f"Every sample of {kernel} {point.shape} m={point.m} was taken under 75 % of the clock."
            )
        if before is not None and before / times[best] < LEAST_GAIN:
            best = default
        row = {
            "kernel": kernel,
            "variant": variant,
            "shape": point.shape.name,
            "m": point.m,
            "default": str(default),
            "default_us": before and round(before, 2),
            "best": str(best),
            "best_us": round(times[best], 2),
            "gain": before and round(before / times[best], 3),
            "candidates": len(found),
            "outside_bounds": outside,
        }
        return row, (call, self.tuning.Choice("any") if best == default else best)

    def _call(self, point: Point, kernel: str, variant: str) -> Any:
        fp8 = activation_bits(kernel) == 8
        return self.tuning.Call(
            weight_format(kernel),
            "float8_e4m3fn" if fp8 else "bfloat16",
            "bfloat16",
            point.m,
            point.shape.n,
            point.shape.k,
            group_size(variant),
        )
