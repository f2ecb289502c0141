"""A point of the bench on the CPU: real operands, a fake clock, the references in place of the kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kernelpkg.arch import Capability
from kernelpkg.bench import contenders, operands, point, runner, shapes, verify, vllm_ops
from kernelpkg.bench.ceilings import Ceilings
from kernelpkg.bench.clocks import silent_sampler
from kernelpkg.errors import CheckFailed, MachineUnfit, NothingRan
from kernelpkg.ops import reference

SHAPE = shapes.shape_of((256, 192))
L2 = 4096


@dataclass
class EagerGraph:
    """Runs the launches again at every replay, into the outputs kept at capture, as a graph does."""

    clock: EagerClock
    calls: list
    kept: dict[int, torch.Tensor]

    @property
    def launches(self) -> int:
        return len(self.calls)

    def replay(self) -> None:
        self.clock.now += 100.0 * self.launches
        for index, out in self.kept.items():
            out.copy_(self.calls[index]())


class EagerClock:
    """A clock that captures by calling."""

    now = 0.0

    def capture(self, launches: Sequence[Callable[[], Any]], count: int) -> EagerGraph:
        calls = [launches[index % len(launches)] for index in range(count)]
        return EagerGraph(self, calls, {index: calls[index]() for index in range(min(2, len(launches)))})

    def hold(self) -> None: ...

    def mark(self) -> float:
        return self.now

    def microseconds(self, start: float, end: float) -> float:
        return end - start

    def synchronize(self) -> None: ...


@dataclass
class Packed:
    """Stands for PackedWeight: what the quantiser gave, unpacked."""

    data: torch.Tensor
    scales: torch.Tensor
    form: str
    group: int
    zeros: torch.Tensor | None
    global_scale: float
    size_k: int


def packed(quantised: torch.Tensor, scales: torch.Tensor, form: str, group: int, **rest: Any) -> Packed:
    return Packed(quantised, scales, form, group, **rest)


def multiply(a: torch.Tensor, weight: Packed, a_scales: Any = None, **_: Any) -> torch.Tensor:
    dense = reference.dequantize(
        weight.data,
        weight.scales,
        weight.form,
        weight.group,
        zeros=weight.zeros,
        global_scale=weight.global_scale,
        size_k=weight.size_k,
    )
    return reference.marlin_gemm_reference(a, dense, a_scales).to(torch.bfloat16)


def scaled(a: torch.Tensor, b: torch.Tensor, scale_a: Any, scale_b: Any, dtype: Any) -> torch.Tensor:
    return reference.scaled_mm_reference(a, b, scale_a, scale_b).to(dtype)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small products: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The operators replaced by their references, so that no library is needed."""
    monkeypatch.setattr(operands.ops, "pack_marlin_weight", packed)
    monkeypatch.setattr(operands.ops, "marlin_gemm", multiply)
    monkeypatch.setattr(operands.ops, "cutlass_scaled_mm", scaled)
    monkeypatch.setattr(vllm_ops, "workspace", lambda device: None)
    monkeypatch.setattr(vllm_ops, "pack", their_packing)
    monkeypatch.setattr(vllm_ops, "marlin_gemm", their_marlin)
    monkeypatch.setattr(vllm_ops, "scaled_mm", lambda *given: scaled(*given, torch.bfloat16))
    return monkeypatch


def their_packing(quantised: torch.Tensor, scales: torch.Tensor, form: str) -> vllm_ops.MarlinWeight:
    """Unpacked, with the format where vLLM's number of the element type stands."""
    return vllm_ops.MarlinWeight(quantised, scales, form, SHAPE.k, SHAPE.n)


def their_marlin(a: torch.Tensor, weight: vllm_ops.MarlinWeight, locks: Any) -> torch.Tensor:
    group = -1 if weight.scales.shape[0] == 1 else 128
    dense = reference.dequantize(weight.data, weight.scales, weight.element, group)
    return reference.marlin_gemm_reference(a, dense, None).to(torch.bfloat16)


@dataclass
class Run:
    """What time_point needs of a run."""

    peers: tuple[str, ...] = ("bf16",)
    clock: EagerClock = field(default_factory=EagerClock)
    sampler: Any = field(default_factory=silent_sampler)
    limits: Any = field(default_factory=lambda: shapes.Size((), (), False, 1.0, 0.001, True))
    facts: dict = field(default_factory=lambda: {"l2_bytes": L2})
    report: runner.BenchReport = field(default_factory=runner.BenchReport)
    capability: Capability = field(default_factory=lambda: Capability(9, 0))

    def __post_init__(self) -> None:
        found = Ceilings(read_gbps=1.0, bf16_tflops=1.0, fp8_tflops=2.0)
        self.meter = SimpleNamespace(ceilings=found, read_for=lambda size: found.read_gbps)

    def cancelled(self) -> bool:
        return False


ALL = (
    ("marlin_w8a16", "channel"),
    ("marlin_w8a16", "g128"),
    ("marlin_w4a16", "g128"),
    ("marlin_w4a16", "channel"),
    ("marlin_w4a8_fp8_emulated", "g128"),
    ("scaled_mm_sm90", "token_channel"),
    ("scaled_mm_sm90", "tensor"),
    ("scaled_mm_sm90", "block"),
)


@pytest.mark.parametrize("m", [1, 5, 130])
def test_every_kernel_and_variant_is_checked_and_timed(kernels: Any, m: int) -> None:
    run = Run()
    layer = operands.Layer(SHAPE, "cpu", seed=3)
    rows = list(point.time_point(run, shapes.Point(SHAPE, m, ALL), layer))
    assert [(row["kernel"], row["variant"]) for row in rows] == list(ALL) and run.report.not_run == []
    for row in rows:
        assert row["correct"]["passed"], row
        assert row["microseconds"]["median"] == 100.0 and row["microseconds"]["n"] == 9
        assert row["peers"] == {"bf16": 100.0} and row["ratios"] == {"bf16": 1.0}
        assert row["capability"] == "9.0" and row["host_microseconds"] > 0
        assert row["warm_l2_microseconds"] == 100.0
        assert row["percent_of_limit"] == pytest.approx(100 * max(row["bytes"] / 1e3, 0) / 100, rel=1e-4)
    labels = {row["kernel"]: row["label"] for row in rows}
    assert labels["marlin_w8a16"] == "measured here, this capability"
    assert labels["marlin_w4a8_fp8_emulated"] == "measured here, stand-in"
    assert rows[5]["same_scales"] == "scaled_mm_row" and rows[6]["same_scales"] == "scaled_mm_tensor"
    assert rows[7]["same_scales"] == "scaled_mm_block"


OTHERS = tuple(
    (kernel, shapes.VARIANTS[kernel][0]) for kernel in shapes.VARIANTS if kernel not in shapes.MAIN
)


@pytest.mark.parametrize("shape", [SHAPE, shapes.shape_of((200, 72))])
def test_every_format_is_checked_and_timed(kernels: Any, shape: shapes.Shape) -> None:
    marlin = (*(pair for pair in OTHERS if pair[0].startswith("marlin")), ("marlin_w8a16", "mx32"))
    run = Run()
    rows = list(point.time_point(run, shapes.Point(shape, 3, marlin), operands.Layer(shape, "cpu", seed=3)))
    assert [(row["kernel"], row["variant"]) for row in rows] == list(marlin) and run.report.not_run == []
    assert all(row["correct"]["passed"] for row in rows), [row["correct"] for row in rows]


def test_one_global_scale_for_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = operands.Layer(SHAPE, "cpu", seed=0)
    whole = layer.quantised("nvfp4/g16")
    monkeypatch.setattr(operands, "COLUMNS", 50)
    parts = operands.Layer(SHAPE, "cpu", seed=0).quantised("nvfp4/g16")
    assert torch.equal(whole.weight, parts.weight) and whole.global_scale == parts.global_scale
    assert torch.equal(whole.scales.view(torch.uint8), parts.scales.view(torch.uint8))


def test_operand_sets_are_apart_in_memory_and_alike_in_weight(kernels: Any) -> None:
    layer = operands.Layer(SHAPE, "cpu", seed=0)
    only = shapes.Point(SHAPE, 2, (("marlin_w8a16", "channel"),))
    entry = contenders.contenders(only, layer, 60_000, ())["marlin_w8a16/channel"]()
    assert len(entry.launches) == 60_000 * 5 // (192 * 256 + 192 * 2 + 2 * 256 * 2) + 1
    weights = layer.sets("e4m3/channel", 3)
    assert len({weight.data.data_ptr() for weight in weights}) == 3
    assert torch.equal(weights[0].data.view(torch.uint8), weights[2].data.view(torch.uint8))
    assert not torch.equal(entry.launches[0](), entry.launches[1]())
    fp8 = layer.sets("fp8/channel", 2)
    assert all(weight.stride(0) == 1 for weight in (*fp8, *layer.sets("bf16", 2)))


def test_scales_differ_from_channel_to_channel() -> None:
    layer = operands.Layer(SHAPE, "cpu", seed=0)
    scales = layer.quantised("e4m3/g128").scales.float()
    assert scales.shape == (2, 192) and scales.max() / scales.min() > 2


def test_a_scale_of_another_block_is_seen(kernels: Any) -> None:
    def shifted(a: torch.Tensor, b: torch.Tensor, scale_a: Any, scale_b: Any, dtype: Any) -> torch.Tensor:
        return scaled(a, b, scale_a, scale_b.roll(1, 1), dtype)

    kernels.setattr(operands.ops, "cutlass_scaled_mm", shifted)
    only = shapes.Point(SHAPE, 5, (("scaled_mm_sm90", "block"),))
    (row,) = point.time_point(Run(), only, operands.Layer(SHAPE, "cpu", seed=1))
    assert not row["correct"]["passed"] and row["microseconds"]["median"] is None


@pytest.mark.parametrize("fault", ["a wrong tile", "a stale output", "a NaN"])
def test_a_wrong_result_is_not_timed(kernels: Any, fault: str) -> None:
    calls = iter(range(10**6))

    def broken(a: torch.Tensor, weight: Packed, *rest: Any, **named: Any) -> torch.Tensor:
        out = multiply(a, weight, *rest, **named)
        if fault == "a wrong tile":
            out[0, 64:72] *= 1.5
        elif fault == "a NaN":
            out[-1, -1] = float("nan")
        elif next(calls) > 1:  # right when captured, unwritten when replayed
            out[:, :] = float("nan")
        return out

    kernels.setattr(operands.ops, "marlin_gemm", broken)
    run = Run()
    only = shapes.Point(SHAPE, 70, (("marlin_w8a16", "channel"), ("scaled_mm_sm90", "tensor")))
    rows = list(point.time_point(run, only, operands.Layer(SHAPE, "cpu", seed=0)))
    assert [row["correct"]["passed"] for row in rows] == [False, True]
    assert rows[0]["microseconds"]["median"] is None and rows[1]["microseconds"]["median"] == 100.0
    assert rows[0]["correct"]["after"] is None
    run.report.rows = rows
    with pytest.raises(CheckFailed, match="marlin_w8a16 m=70"):
        run.report.raise_for_status()


def test_a_result_that_goes_wrong_while_timed_is_seen(kernels: Any) -> None:
    replays = iter(range(10**6))

    def late(a: torch.Tensor, weight: Packed, *rest: Any, **named: Any) -> torch.Tensor:
        out = multiply(a, weight, *rest, **named)
        return out if next(replays) < 6 else out + 1  # capture and first check: two outputs each

    kernels.setattr(operands.ops, "marlin_gemm", late)
    run = Run()
    only = shapes.Point(SHAPE, 3, (("marlin_w4a16", "g128"),))
    (row,) = point.time_point(run, only, operands.Layer(SHAPE, "cpu", seed=0))
    assert row["correct"]["before"]["relative_error"] < row["correct"]["before"]["relative_bound"]
    assert not row["correct"]["passed"] and row["correct"]["after"]["worst_element"] > 1


def test_a_launch_that_is_refused_is_named(kernels: Any) -> None:
    def refused(*_: Any, **__: Any) -> torch.Tensor:
        raise ValueError("not built for this shape")

    kernels.setattr(operands.ops, "cutlass_scaled_mm", refused)
    run = Run()
    pairs = (("marlin_w8a16", "channel"), ("scaled_mm_sm90", "tensor"))
    rows = list(point.time_point(run, shapes.Point(SHAPE, 1, pairs), operands.Layer(SHAPE, "cpu", seed=0)))
    assert len(rows) == 1
    assert run.report.not_run == [f"{SHAPE} m=1 scaled_mm_sm90/tensor: not built for this shape"]


EVERY_PEER = ("bf16", *vllm_ops.NEEDS)


def test_vllm_is_timed_beside_its_counterparts(kernels: Any) -> None:
    run = Run(peers=EVERY_PEER)
    rows = list(point.time_point(run, shapes.Point(SHAPE, 70, ALL), operands.Layer(SHAPE, "cpu", seed=1)))
    assert run.report.not_run == run.report.peers_left_out == []
    for row in rows:
        assert row["peers"].keys() == set(EVERY_PEER) and row["peer_reasons"] == {}
        assert row["ratios"]["vllm_cutlass"] == 1.0
    only = shapes.Point(SHAPE, 1, (("marlin_w8a16", "g128"),))
    (row,) = point.time_point(run, only, operands.Layer(SHAPE, "cpu", seed=1))
    assert row["peers"].keys() == {"bf16", "vllm_marlin_w8a16"}
    only = shapes.Point(SHAPE, 4, (("scaled_mm_sm90", "block"),))
    (row,) = point.time_point(run, only, operands.Layer(SHAPE, "cpu", seed=1))
    assert row["peers"].keys() == {"bf16", "vllm_cutlass_block"}


@pytest.mark.parametrize("shape", [SHAPE, shapes.shape_of((200, 72)), shapes.shape_of((130, 260))])
def test_blocks_of_scales_lie_as_torch_and_vllm_read_them(kernels: Any, shape: shapes.Shape) -> None:
    seen = []

    def theirs(a: Any, b: Any, scale_a: Any, scale_b: Any, out_dtype: Any, use_fast_accum: bool) -> Any:
        seen.append((tuple(scale_a.shape), scale_a.stride(0), scale_b.stride(0), use_fast_accum))
        return scaled(a, b, scale_a, scale_b, out_dtype)

    kernels.setattr(torch, "_scaled_mm", theirs)
    run = Run(peers=("scaled_mm_block",))
    only = shapes.Point(shape, 5, (("scaled_mm_sm90", "block"),))
    (row,) = point.time_point(run, only, operands.Layer(shape, "cpu", seed=1))
    assert row["correct"]["passed"] and row["ratios"] == {"scaled_mm_block": 1.0}
    assert set(seen) == {((5, -(-shape.k // 128)), 1, 1, False)}
    assert row["bytes"] == shape.n * shape.k + 4 * -(-shape.n // 128) * -(-shape.k // 128)


def test_a_torch_without_blocks_of_scales_is_a_reason(kernels: Any) -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Invalid scaling configuration.\nmore")

    kernels.setattr(torch, "_scaled_mm", refuses)
    run = Run(peers=contenders.available(Capability(9, 0)))
    only = shapes.Point(SHAPE, 4, (("scaled_mm_sm90", "block"),))
    (row,) = point.time_point(run, only, operands.Layer(SHAPE, "cpu", seed=1))
    assert row["peer_reasons"]["scaled_mm_block"] == "refused: Invalid scaling configuration."
    assert row["peers"] == {"bf16": 100.0}


@pytest.mark.parametrize(
    "fault", ["refuses to launch", "refuses to pack", "is wrong", "goes wrong while timed"]
)
def test_a_peer_that_fails_is_a_reason(kernels: Any, fault: str) -> None:
    calls = iter(range(10**6))

    def broken(a: torch.Tensor, weight: Any, locks: Any) -> torch.Tensor:
        if fault == "refuses to launch":
            raise RuntimeError("Unsupported shapes: MNK = [3, 192, 256]\nand more")
        late = fault == "goes wrong while timed" and next(calls) > 5  # capture and first check: two each
        return their_marlin(a, weight, locks) * (2.0 if late or fault == "is wrong" else 1.0)

    def unpackable(*_: Any) -> Any:
        raise RuntimeError("Unsupported shapes: MNK = [3, 192, 256]")

    kernels.setattr(vllm_ops, "marlin_gemm", broken)
    if fault == "refuses to pack":
        kernels.setattr(vllm_ops, "pack", unpackable)
    run = Run(peers=("bf16", "vllm_marlin_w8a16"))
    only = shapes.Point(SHAPE, 3, (("marlin_w8a16", "channel"),))
    (row,) = point.time_point(run, only, operands.Layer(SHAPE, "cpu", seed=0))
    wanted = {
        "refuses to launch": "refused: Unsupported shapes: MNK = [3, 192, 256]",
        "refuses to pack": "refused: Unsupported shapes: MNK = [3, 192, 256]",
        "is wrong": "wrong: relative error 1, bound 0.01",
        "goes wrong while timed": "wrong: relative error 1, bound 0.01",
    }[fault]
    assert row["correct"]["passed"] and row["peers"] == {"bf16": 100.0}
    assert row["peer_reasons"] == {"vllm_marlin_w8a16": wanted} and run.report.not_run == []
    assert run.report.peers_left_out == [
        {"peer": "vllm_marlin_w8a16", "shape": "256x192", "m": 3, "reason": wanted}
    ]


def test_a_peer_may_round_its_weights(kernels: Any) -> None:
    def rounded(a: torch.Tensor, weight: Any, locks: Any) -> torch.Tensor:
        group = -1 if weight.scales.shape[0] == 1 else 128
        dense = reference.dequantize(weight.data, weight.scales, weight.element, group)
        return (a.float() @ dense.bfloat16().float()).to(torch.bfloat16)

    kernels.setattr(vllm_ops, "marlin_gemm", rounded)
    run = Run(peers=("vllm_marlin_w4a16_g128",))
    only = shapes.Point(SHAPE, 9, (("marlin_w4a16", "g128"),))
    (row,) = point.time_point(run, only, operands.Layer(SHAPE, "cpu", seed=0))
    assert row["peers"] == {"vllm_marlin_w4a16_g128": 100.0}


def test_checked_rows_cover_every_stretch() -> None:
    assert operands.checked_rows(5, "cpu").tolist() == [0, 1, 2, 3, 4]
    rows = operands.checked_rows(4096, "cpu")
    assert len(rows) == 64 and rows[0] == 0 and rows[-1] == 4095
    assert all(index * 64 <= row < (index + 1) * 64 for index, row in enumerate(rows.tolist()))


def test_bounds_are_those_of_the_check() -> None:
    at = shapes.Point(SHAPE, 16, ())
    assert verify.case_of(at, "marlin_w4a16", "g128").group_size == 128
    case = verify.case_of(at, "scaled_mm_sm90", "token_channel")
    assert case.token and case.channel and (case.m, case.n, case.k) == (16, 192, 256)
    blocks = verify.case_of(at, "scaled_mm_sm90", "block")
    assert blocks.scales == "block" and not blocks.token and not blocks.channel


def test_memory_needed_grows_with_the_shape() -> None:
    small = shapes.Point(SHAPE, 1, ALL)
    large = shapes.Point(shapes.shape_of("70B.gate_up"), 4096, ALL)
    peers = contenders.available(Capability(9, 0))
    assert contenders.bytes_needed(small, 60 * 2**20, peers) < 8 * 2**30
    assert 5 * 2**30 < contenders.bytes_needed(large, 60 * 2**20, peers) < 64 * 2**30
    more = contenders.bytes_needed(large, 60 * 2**20, (*peers, *vllm_ops.NEEDS))
    assert more > contenders.bytes_needed(large, 60 * 2**20, peers) + 2 * 57344 * 8192


def test_gates_leave_kernels_out_with_a_reason() -> None:
    chosen, out = runner.choose(None, Capability(9, 0), lambda kernel: None)
    assert set(chosen) & set(shapes.MAIN) == {"marlin_w8a16", "marlin_w4a16", "scaled_mm_sm90"}
    assert "marlin_w4a16_nvfp4" in chosen and sum(out.values()) == 6
    assert any("marlin_fp8 needs 8.9 or family 12, this is 9.0" in reason for reason in out)
    spark, _ = runner.choose(None, Capability(12, 1), lambda kernel: None)
    assert set(spark) & set(shapes.MAIN) == {
        "marlin_w8a16",
        "marlin_w4a16",
        "marlin_w4a8_fp8",
        "scaled_mm_sm120",
    }
    evidence, _ = runner.choose(("marlin_w4a8_fp8_emulated",), Capability(9, 0), lambda kernel: None)
    assert evidence == ("marlin_w4a8_fp8_emulated",)
    nothing, out = runner.choose(("marlin_w8a16",), Capability(9, 0), lambda kernel: "not built")
    assert nothing == () and out == {"not built": 1}


def test_a_report_says_what_ran() -> None:
    report = runner.BenchReport(gated_out={"a gate": 2}, not_run=["8B.o m=1: no memory"])
    assert report.summary == "ran 0, gated out 2 (2: a gate); 1 point(s) not run"
    with pytest.raises(NothingRan, match="a gate; 8B"):
        report.raise_for_status()
    report.rows = [{"microseconds": {"median": None}, "kernel": "x", "m": 1, "shape": "s"}]
    with pytest.raises(MachineUnfit, match="75 %"):
        report.raise_for_status()


def test_cancel_is_an_event_or_a_callable() -> None:
    import threading

    event = threading.Event()
    assert not runner.is_cancelled(event)() and not runner.is_cancelled(None)()
    event.set()
    assert runner.is_cancelled(event)() and runner.is_cancelled(lambda: True)()
