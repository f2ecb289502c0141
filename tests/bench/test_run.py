"""A whole run with a fake device: what is planned, refused, left out and reported. Times are scripted."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kernelpkg import bench, ops
from kernelpkg.bench import (
    ceilings,
    clocks,
    machine,
    operands,
    point,
    runner,
    shape_costs,
    shapes,
    sweep,
    timing,
    vllm_ops,
)
from kernelpkg.errors import CheckFailed, MachineUnfit, NothingRan, UsageError

SHAPE = (256, 192)
FACTS = {
    "name": "NVIDIA H200",
    "capability": "9.0",
    "multiprocessors": 132,
    "l2_bytes": 4096,
    "integrated": False,
    "driver": "1",
    "torch": "2",
    "cuda": "13.0",
    "uuid": None,
}


class FakeGraph:
    """100 us a launch, nothing behind it."""

    def __init__(self, clock: FakeClock, launches: int):
        self.clock, self.launches, self.kept = clock, launches, {}

    def replay(self) -> None:
        self.clock.now += 100.0 * self.launches


class FakeClock:
    """A clock that calls each launch once when it captures."""

    def __init__(self, device: str = "cpu"):
        self.now = 0.0

    def capture(self, launches: Any, count: int) -> FakeGraph:
        for launch in launches[:2]:
            launch()
        return FakeGraph(self, count)

    def hold(self) -> None: ...

    def mark(self) -> float:
        return self.now

    def microseconds(self, start: float, end: float) -> float:
        return end - start

    def synchronize(self) -> None: ...


class FakeMeter:
    """Ceilings without measuring."""

    def __init__(self, *_: Any):
        self.ceilings = ceilings.Ceilings(read_gbps=4000.0, bf16_tflops=700.0)

    def measure(self, fp8: bool) -> ceilings.Ceilings:
        return self.ceilings

    def finish(self) -> ceilings.Ceilings:
        return self.ceilings


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A Hopper that is not here: `timed` lists the points that were run, `now` is the time of day."""
    seen = SimpleNamespace(timed=[], now=0.0, cost=1.0, missing=set(), available=2**36)

    def time_point(run: Any, at: Any, layer: Any) -> Any:
        seen.timed.append((at.shape.name, at.m, tuple(kernel for kernel, _ in at.kernels)))
        seen.now += seen.cost
        for kernel, variant in at.kernels:
            yield {
                "kernel": kernel,
                "variant": variant,
                "shape": at.shape.name,
                "m": at.m,
                "microseconds": {"median": 1.0},
                "correct": {"passed": True},
                "clocks": {"sm_mhz": 1900 + at.m, "discarded": 1},
            }

    monkeypatch.setattr(machine, "require_cuda", lambda device: None)
    monkeypatch.setattr(machine, "describe", lambda device: dict(FACTS))
    monkeypatch.setattr(machine, "available_bytes", lambda device, integrated: seen.available)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(ops, "load", lambda: None)
    monkeypatch.setattr(
        runner._Run, "_missing", lambda self, kernel: "gone" if kernel in seen.missing else None
    )
    monkeypatch.setattr(timing, "CudaClock", FakeClock)
    monkeypatch.setattr(ceilings, "Meter", FakeMeter)
    monkeypatch.setattr(point, "time_point", time_point)
    monkeypatch.setattr(clocks, "open_sampler", lambda uuid, index: clocks.silent_sampler())
    monkeypatch.setattr(runner.time, "monotonic", lambda: seen.now)
    return seen


def test_a_run_reports_rows_gates_and_machine(device: SimpleNamespace) -> None:
    rows: list[dict] = []
    progress: list[tuple] = []
    report = bench.run(
        shapes=(SHAPE,),
        ms=(16, 1),
        size="tiny",
        device="cpu",
        on_row=rows.append,
        on_progress=lambda *step: progress.append(step),
        seed=5,
    )
    admitted = ("marlin_w8a16", "marlin_w4a16", "marlin_w4a16_zp", "marlin_w8a16_int8")
    admitted += ("marlin_w4a16_nvfp4", "marlin_w4a16_mxfp4", "scaled_mm_sm90", "scaled_mm_sm90")
    admitted += ("scaled_mm_sm90",)  # vectors, one scale, and blocks
    assert device.timed == [("256x192", 16, admitted), ("256x192", 1, admitted)]
    assert report.rows == rows and len(rows) == 18 and report.seed == 5
    assert report.summary.startswith("ran 18, gated out 6 (") and "marlin_fp8 needs" in report.summary
    assert report.machine["name"] == "NVIDIA H200" and "uuid" not in report.machine
    assert report.clocks["sm_mhz"] == [1901, 1916] and report.clocks["discarded"] == 18
    assert progress[0] == (0, 2, "measuring the ceilings") and progress[-1] == (2, 2, "done")
    report.raise_for_status()


def test_peer_libraries_are_named_or_not(
    device: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provenance = {"version": "0.22.1", "origin": "named", "files": {"_C.abi3.so": "00"}}
    loaded = vllm_ops.Loaded(("vllm_cutlass",), ("_C.abi3.so does not load",), provenance)
    asked: list[Any] = []
    monkeypatch.setattr(vllm_ops, "load", lambda named: asked.append(named) or loaded)
    report = bench.run(
        ("marlin_w8a16",), (SHAPE,), (1,), size="tiny", device="cpu", peer_libraries=[tmp_path]
    )
    assert asked == [(tmp_path,)] and report.peers == {"vLLM": provenance}
    assert report.notes == ["_C.abi3.so does not load"]
    assert report.peers_line == "peers in the same run: vLLM 0.22.1 (named libraries)"
    with pytest.raises(UsageError, match=r"no file or folder .*absent; name shared objects of vLLM"):
        bench.run(size="tiny", device="cpu", peer_libraries=[tmp_path / "absent"])


def test_a_run_of_everything_sweeps_and_prices(
    device: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def swept(stand: Any, kernel: str, points: Any) -> list[dict]:
        asked.append((kernel, points, stand.facts["multiprocessors"], stand.ended()))
        return [{"kernel": kernel, "loss": 0.0, "label": "measured here, this capability"}]

    def priced(stand: Any, kernel: str) -> list[dict]:
        return [{"kernel": kernel, "m": 1, "shape": "x", "correct": {"passed": False}}]

    monkeypatch.setattr(operands, "Layer", lambda shape, *_: SimpleNamespace(shape=shape))
    monkeypatch.setattr(sweep, "sweep", swept)
    monkeypatch.setattr(shape_costs, "measure", priced)
    default = shapes.SIZES["default"]
    report = bench.run(("scaled_mm_sm90",), size="default", device="cpu")
    assert asked == [("scaled_mm_sm90", default.sweeps, 132, False)] and len(default.sweeps) <= 8
    assert len(report.sweep) == 1 and report.wrong == report.costs
    with pytest.raises(CheckFailed, match="scaled_mm_sm90 m=1 x"):
        report.raise_for_status()
    tiny = bench.run(("scaled_mm_sm90",), size="tiny", device="cpu")
    assert asked[1:] == [("scaled_mm_sm90", default.sweeps[:1], 132, False)] and tiny.costs == []
    assert bench.run(("scaled_mm_sm90",), (SHAPE,), size="default", device="cpu").sweep == []
    device.cost = 26.0
    late = bench.run(("scaled_mm_sm90",), size="tiny", device="cpu")
    assert late.not_run[-1] == "configurations or awkward shapes: out of time for some of them"


def test_emulation_is_shown_where_it_happens() -> None:
    points = runner.plan(("marlin_w8a16",), runner.size_named("tiny"))
    shown = runner._Run._with_evidence(SimpleNamespace(_missing=lambda name: None), list(points))
    names = {at.m: [kernel for kernel, _ in at.kernels] for at in shown}
    assert names[16] == names[4096] == ["marlin_w8a16", "marlin_w4a8_fp8_emulated"]
    assert names[1] == ["marlin_w8a16"]


def test_time_that_runs_out_is_said(device: SimpleNamespace) -> None:
    device.cost = 10.0
    report = bench.run(("marlin_w8a16",), (SHAPE,), (1, 2, 3, 4), size="tiny", device="cpu")
    assert len(report.rows) == 2
    assert report.not_run == ["out of time after 20 s: 256x192 m=3, 256x192 m=4"]
    assert "1 point(s) not run" in report.summary


def test_memory_that_is_short_leaves_points_out(device: SimpleNamespace) -> None:
    device.available = 3 * 10**8
    with pytest.raises(MachineUnfit, match="No point of this bench fits"):
        bench.run(("marlin_w8a16",), (SHAPE,), (1,), size="tiny", device="cpu")
    assert device.timed == []
    device.available = 2**30
    report = bench.run(("marlin_w8a16",), (SHAPE,), (1, 4096 * 64), size="tiny", device="cpu")
    assert len(report.rows) == 1 and "m=262144: " in report.not_run[0]


def test_cancel_keeps_what_was_measured(device: SimpleNamespace) -> None:
    rows: list[dict] = []
    report = bench.run(
        ("marlin_w8a16",), (SHAPE,), (1, 2, 3), "tiny", "cpu", rows.append, lambda: len(rows) >= 2
    )
    assert report.cancelled and len(report.rows) == 2 and report.summary.endswith("cancelled")
    report.raise_for_status()


def test_nothing_admitted_is_a_reason_and_no_row(device: SimpleNamespace) -> None:
    report = bench.run(("scaled_mm_sm120",), size="tiny", device="cpu")
    assert report.rows == [] and device.timed == []
    with pytest.raises(NothingRan, match=r"scaled_mm_sm120 needs family 12, this is 9\.0"):
        report.raise_for_status()
    device.missing = {"marlin_w8a16"}
    assert bench.run(("marlin_w8a16",), size="tiny", device="cpu").gated_out == {"gone": 1}


def test_a_device_out_of_memory_is_no_crash(device: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("tried to allocate 9 GiB")
        yield

    monkeypatch.setattr(point, "time_point", full)
    with pytest.raises(MachineUnfit, match="tried to allocate"):
        bench.run(("marlin_w8a16",), (SHAPE,), (1,), size="tiny", device="cpu")


def test_the_meter_takes_the_fastest_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "LARGE_BYTES", 2**16)
    monkeypatch.setattr(ceilings, "GEMMS", ((32, 64, 32),))
    monkeypatch.setattr(ceilings, "SMALL_GEMMS", ((32, 64, 32),))
    meter = ceilings.Meter(
        "cpu",
        FakeClock(),
        clocks.silent_sampler(),
        {"l2_bytes": 4096, "multiprocessors": 48, "name": "x"},
        0.001,
    )
    found = meter.measure(fp8=False)
    assert found.read_gbps == pytest.approx(2**16 / 100.0 / 1e3) and found.read_method == "torch.sum"
    assert found.copy_gbps == pytest.approx(2 * 2**15 / 100.0 / 1e3)
    assert found.write_gbps == pytest.approx(2**15 / 100.0 / 1e3)
    assert found.bf16_tflops == pytest.approx(2 * 32 * 64 * 32 / 100.0 / 1e6) and found.fp8_tflops is None
    assert meter.read_for(2**20) == pytest.approx(2**20 / 100.0 / 1e3)
    assert meter.read_for(12345) == pytest.approx(12352 / 100.0 / 1e3), "as many bytes as were asked about"
    assert found.read_by_bytes.keys() == {2**20, 12352}
    assert meter.finish().read_after_gbps == found.read_gbps
    assert any("run-time compiled reader" in note for note in found.notes)  # a CPU has none
