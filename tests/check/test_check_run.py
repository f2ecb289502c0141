"""Cases, the run on the CPU, its report, and the proofs that it sees faults. About 35 s."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import torch

from kernelpkg import check, ops
from kernelpkg.arch import Capability
from kernelpkg.check import runner
from kernelpkg.check.cases import variants
from kernelpkg.check.mutations import PROOF_KERNELS
from kernelpkg.check.operands import make_problem
from kernelpkg.check.refusals import gate_refusals, missed, refusals_for
from kernelpkg.check.report import CheckReport
from kernelpkg.errors import CheckFailed, MachineUnfit, NothingRan, UsageError
from kernelpkg.gates import gate
from kernelpkg.ops import KERNELS, Support, functional, kernel

ROW_KEYS = {"kernel", "case", "metric", "value", "bound", "passed", "device", "label"}
MARLIN_16BIT = (
    "marlin_w8a16",
    "marlin_w4a16",
    "marlin_w4a16_zp",
    "marlin_w8a16_int8",
    "marlin_w4a16_nvfp4",
    "marlin_w4a16_mxfp4",
)
MARLIN_FP8 = ("marlin_w4a8_fp8", "marlin_w4a8_fp8_zp", "marlin_w4a8_fp8_mxfp4", "marlin_w8a8_fp8")
MARLIN = (*MARLIN_16BIT, *MARLIN_FP8)
MICROSCALED = ("mxfp8_scaled_mm_sm120", "nvfp4_scaled_mm_sm120")
CPU_KERNELS = ("marlin_repack", *MARLIN, "scaled_mm_sm90")


@pytest.fixture(autouse=True)
def _library(library):
    return library


@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry.name)
def test_ids_are_unique_and_sizes_nest(entry):
    tiny, default, full = (check.cases_for(entry.name, size) for size in check.SIZES)
    ids = [case.id for case in full]
    assert len(set(ids)) == len(ids)
    assert set(tiny) <= set(default) <= set(full) and len(tiny) < len(full)


def test_ids_are_the_ones_records_hold():
    """Stored records name cases by id: changing one orphans them."""
    marlin = {case.id for case in check.cases_for("marlin_w8a16", "default")}
    assert {
        "m0-n64-k128-bf16-channel",
        "m66-n97-k333-bf16-channel",
        "m33-n192-k384-bf16-g128-bias-strided",
        "m33-n193-k333-bf16-g128-bias-strided",
        "m257-n832-k1408-fp16-channel-bias-overflow",
        "m3-n64-k28672-bf16-block128-bias",
        "m16-n777-k2049-fp16-channel",
        "m64-n333-k1111-bf16-mx32",
    } <= marlin, sorted(marlin)
    scaled = {case.id for case in check.cases_for("scaled_mm_sm90", "default")}
    assert {
        "m1-n16-k16-fp16-tensor-tensor-bias",
        "m33-n208-k272-bf16-token-channel-bias-graph",
        "m33-n203-k333-bf16-token-channel-bias-strided",
        "m16-n100-k200-fp16-token-channel-e5m2-bias",
        "m1-n128-k256-bf16-block-e5m2-bias",
        "m33-n203-k333-bf16-block-bias-graph",
        "m32-n576-k7168-bf16-block",
        "m512-n8192-k4096-bf16-tensor-tensor",
    } <= scaled, sorted(scaled)
    forced = replace(check.cases_for("scaled_mm_sm90", "tiny")[0], configuration=3)
    assert forced.id == "m0-n64-k64-bf16-tensor-tensor-cfg3"
    assert check.cases_for("marlin_repack", "tiny")[0].id == "n64-k128-repack"


@pytest.mark.parametrize("name", MARLIN)
def test_every_format_grouping_and_dtype_meets_an_odd_n_and_k(name):
    form = ops.FORMATS[kernel(name).weight_format]
    cases = check.cases_for(name, "default")
    odd = {(c.dtype, c.group_size) for c in cases if c.n % 2 and c.k % 2}
    names = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    assert odd == {(names[dtype], group) for dtype in form.dtypes for group in form.groups}
    every = set(variants(form.name))
    assert {(c.dtype, c.group_size, c.scales) for c in cases if c.n % 2 and c.k % 2} == every
    # Both dtypes on tiles of each height, those above 64 rows too.
    tiny = check.cases_for(name, "tiny")
    for dtype in form.dtypes:
        assert {min(4, -(-c.m // 16)) for c in tiny if c.dtype == names[dtype]} >= {1, 2, 3, 4}
        assert any(c.m > 64 for c in tiny if c.dtype == names[dtype])


@pytest.mark.parametrize("name", MARLIN)
def test_full_is_the_grid(name):
    """Every format x group x dtype x {M} x {aligned, odd N, long K}."""
    cases = check.cases_for(name, "full")
    for dtype, group, scales in variants(kernel(name).weight_format):
        shapes = {
            (c.m, c.n, c.k) for c in cases if (c.dtype, c.group_size, c.scales) == (dtype, group, scales)
        }
        for m in (1, 3, 16, 17, 64, 257, 1000):
            assert any(s[0] == m and s[1] % 64 == 0 and s[2] % 128 == 0 for s in shapes)
            assert any(s[0] == m and s[1] % 2 for s in shapes)
            assert any(s[0] == m and s[2] == 28672 for s in shapes)


def test_awkward_shapes_are_there():
    for name in (*MARLIN, "scaled_mm_sm120"):
        cases = check.cases_for(name, "default")
        assert any(case.m == 0 for case in cases) and any(case.m == 1 for case in cases)
        assert any(case.k == 28672 for case in cases) and any(case.n == 28672 for case in cases)
        assert any(case.m % 2 and case.m > 256 for case in cases) and any(case.n % 128 for case in cases)
        kinds = {"plain", "strided", "nan", "overflow", "graph", "streams"}
        dtypes = {"bf16", "fp16"}
        if kernel(name).weight_format == "mxfp4":  # bfloat16 alone
            kinds, dtypes = kinds - {"overflow"}, {"bf16"}
        assert {case.kind for case in cases} == kinds and {case.dtype for case in cases} == dtypes
        assert {case.bias for case in cases} == {True, False}


def test_tiny_on_the_cpu_holds_within_ten_seconds_on_two_cores():
    seen: list[dict] = []
    started = time.process_time()
    report = check.run(size="tiny", device="cpu", on_case=seen.append)
    seconds = time.process_time() - started  # of all threads: a busy machine does not fail the test
    report.raise_for_status()
    assert report.passed and seen == report.rows
    assert all(set(row) == ROW_KEYS for row in report.rows)
    assert {row["label"] for row in report.rows} == {"measured here, CPU reference"}
    names = {row["kernel"] for row in report.rows}
    assert names == {"marlin_repack", *MARLIN, "cutlass_scaled_mm", *MICROSCALED}
    cases = {(row["kernel"], row["case"]) for row in report.rows}
    assert report.ran == len(cases)
    said = f"ran {report.ran}, {report.fp8_ran} of them FP8, gated out "
    assert report.summary.startswith(said) and "capability 9.0 alone" in report.summary
    eight_bits = (*MARLIN_FP8, "cutlass_scaled_mm", "mxfp8_scaled_mm_sm120")
    fp8 = {case for case in cases if case[0] in eight_bits}
    assert report.fp8_ran == len({case for case in fp8 if not case[1].startswith("refuses-")}) > 100
    assert {"relative_error", "worst_element", "refusals_missed", "differences"} == {
        r["metric"] for r in report.rows
    }
    assert seconds < 2 * 10, seconds


def test_the_same_seed_gives_the_same_rows_and_another_does_not():
    first, again, other = (
        check.run(["marlin_w4a16"], size="tiny", device="cpu", seed=seed).rows for seed in (0, 0, 1)
    )
    assert first == again
    assert [row["value"] for row in first] != [row["value"] for row in other]


def test_cancel_stops_between_cases():
    stop = threading.Event()
    rows: list[dict] = []

    def on_case(row: dict) -> None:
        rows.append(row)
        if len(rows) == 4:
            stop.set()

    report = check.run(["marlin_w8a16"], size="tiny", device="cpu", on_case=on_case, cancel=stop)
    assert report.cancelled and len(report.rows) == 4 and "cancelled" in report.summary
    report.raise_for_status()


@pytest.mark.parametrize("held_to", ["cpu", "cuda"])
def test_every_fault_is_caught(monkeypatch, held_to):
    """By the bounds of the CPU references, and by the wider ones that GPU kernels are held to."""
    from kernelpkg.check import mutations

    monkeypatch.setattr(
        mutations,
        "bounds_for",
        lambda entry, case, device: check.bounds_for(entry, case, torch.device(held_to)),
    )
    proofs = check.prove()
    assert [proof for proof in proofs if not proof.caught] == []
    assert "none" not in {proof.mutation for proof in proofs}
    for name in PROOF_KERNELS:
        done = {proof.mutation for proof in proofs if proof.kernel == name}
        assert {"drop-bias", "zero-tile", "unwritten-row"} <= done
        # A microscaled scale is a code of few bits: 2 % is no step of it.
        micro = {"micro-swap-two-channels", "micro-shift-blocks", "micro-scale-one-step"}
        assert (micro if name in MICROSCALED else {"swap-two-scales", "scale-2-percent"}) <= done
    done = {proof.mutation for proof in proofs}
    assert done == {mutation.name for mutation in check.MUTATIONS}


@pytest.mark.parametrize("name", CPU_KERNELS)
def test_every_bad_input_is_refused_in_one_sentence(name):
    refusals = refusals_for(kernel(name), torch.device("cpu"))
    assert len(refusals) >= 10
    assert len({refusal.id for refusal in refusals}) == len(refusals)
    for refusal in refusals:
        assert missed(refusal) is None, f"{refusal.id}: {missed(refusal)}"


@pytest.mark.parametrize("name", [*MARLIN, "scaled_mm_sm90", *MICROSCALED])
def test_nothing_but_a_gate_stands_in_the_way_of_calls_that_a_gate_must_refuse(name, monkeypatch):
    """The CPU has no gate, so these calls go through; what fails here would hide a gate on a device."""
    monkeypatch.setattr(functional, "device_capability", lambda index: (9, 0))
    for refusal in gate_refusals(kernel(name), torch.device("cpu")):
        assert missed(refusal) == "was not refused", f"{refusal.id}: {missed(refusal)}"


def test_poison_shows_what_is_not_written():
    with check.execution.poisoned():
        assert torch.empty(3, dtype=torch.bfloat16).isnan().all()
        assert (torch.empty(3, dtype=torch.uint8) == 255).all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_strided_activations_lie_amid_nan():
    case = next(c for c in check.cases_for("marlin_w8a16", "tiny") if c.kind == "strided")
    a = make_problem(kernel("marlin_w8a16"), case, "cpu").inputs["a"]
    assert not a.is_contiguous() and not a.isnan().any()
    around = a.as_strided((case.m + 2, case.k), a.stride(), a.storage_offset() - a.stride(0))
    assert around[[0, -1]].isnan().all()


def test_the_error_map_has_a_value_per_tile():
    case = check.Case("marlin", 33, 192, 384, "bf16", 128)
    rows = check.error_map("marlin_w4a16", case, "cpu")
    assert len(rows) == 3 and all(len(row) == 12 for row in rows)
    assert 0 < max(max(row) for row in rows) <= 1


def report(**changes) -> CheckReport:
    made = CheckReport("cuda:0", "measured here, this capability", "tiny", 0, {})
    for name, value in changes.items():
        setattr(made, name, value)
    return made


ROW = {
    "kernel": "marlin_w8a16",
    "case": "m1",
    "metric": "relative_error",
    "value": 1.0,
    "bound": 0.1,
    "passed": False,
    "device": "cuda:0",
    "label": "",
}


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"rows": [ROW], "ran": 1, "unfit": "lost"}, CheckFailed, "relative_error is 1"),
        ({"ran": 1, "unfit": "out of memory"}, MachineUnfit, "out of memory"),
        ({}, NothingRan, "No case ran on cuda:0"),
        ({"ran": 5, "fp8_eligible": True}, NothingRan, "eligible for FP8 and no FP8 case ran"),
    ],
)
def test_what_went_wrong_decides_the_exit_code(changes, error, says):
    with pytest.raises(error, match=says):
        report(**changes).raise_for_status()


def test_an_eligible_gpu_on_which_no_fp8_case_ran_fails(monkeypatch):
    """A whole run, on a GPU that is not here: its gates admit FP8, its library holds the 16-bit kernels."""
    have = Capability.parse("12.1")

    def supports(op: str, device: object) -> Support:
        answer = gate(kernel(op).gate).ask(have)
        return Support(op, op, have, bool(answer), not kernel(op).fp8_mma, answer.reason)

    monkeypatch.setattr(runner, "supports", supports)
    monkeypatch.setattr(runner, "device_capability", lambda index: have)
    monkeypatch.setattr(runner, "_device", lambda device: torch.device("cuda:0"))
    monkeypatch.setattr(runner, "_machine", lambda device: {})
    monkeypatch.setattr(runner, "_gated", lambda case, device: None)
    monkeypatch.setattr(runner, "_refusals", lambda entry, device, refused_by_gate: ())
    monkeypatch.setattr(runner, "run_case", lambda *arguments: check.Errors(0.0, 0.0))
    made = check.run(["marlin_w4a16", "marlin_w4a8_fp8"], size="tiny")
    assert made.passed and made.fp8_eligible and made.fp8_ran == 0
    assert made.summary.startswith(f"ran {made.ran}, 0 of them FP8, gated out ")
    with pytest.raises(NothingRan, match="eligible for FP8 and no FP8 case ran"):
        made.raise_for_status()
    monkeypatch.setattr(runner, "supports", lambda op, device: replace(supports(op, device), built=True))
    made = check.run(["marlin_w4a16", "marlin_w4a8_fp8"], size="tiny")
    made.raise_for_status()
    assert made.fp8_ran == len(check.cases_for("marlin_w4a8_fp8", "tiny"))


def test_an_ineligible_gpu_on_which_the_rest_ran_is_fine():
    fine = report(ran=5, rows=[ROW | {"passed": True}], gated_out={"gate marlin_fp8 needs ...": 3})
    fine.raise_for_status()
    assert fine.summary == "ran 5, 0 of them FP8, gated out 3 (3 x gate marlin_fp8 needs ...)"


@pytest.mark.parametrize(
    ("capability", "built", "runs", "eligible"),
    [
        ("8.0", True, {"marlin_repack", *MARLIN_16BIT}, False),
        (
            "9.0",
            True,
            {
                "marlin_repack",
                *MARLIN_16BIT,
                "scaled_mm_sm90",
                *(f"{name}_emulated" for name in MARLIN_FP8),
                "scaled_mm_sm89_standin",
                "scaled_mm_sm120_standin",
                *(f"{name}_standin" for name in MICROSCALED),
            },
            True,
        ),
        ("12.1", True, {"marlin_repack", *MARLIN, "scaled_mm_sm120", *MICROSCALED}, True),
        ("12.1", False, set(), True),
        ("13.0", True, set(), False),
    ],
)
def test_which_kernels_a_gpu_runs(monkeypatch, capability, built, runs, eligible):
    """The choice for a GPU that is not here: admission from the gates, code from the library."""
    have = Capability.parse(capability)

    def supports(op: str, device: object) -> Support:
        answer = gate(kernel(op).gate).ask(have)
        return Support(op, op, have, bool(answer), built if answer else None, answer.reason)

    monkeypatch.setattr(runner, "supports", supports)
    monkeypatch.setattr(runner, "device_capability", lambda index: have)
    made, gated = report(), runner.Counter()
    chosen = list(runner._admitted(KERNELS, "tiny", torch.device("cuda:0"), made, gated))
    assert {entry.name for entry, reason in chosen if reason is None} == runs
    assert made.fp8_eligible is eligible
    left_out = [entry for entry in KERNELS if entry.name not in runs]
    assert sum(gated.values()) == sum(len(check.cases_for(entry.name, "tiny")) for entry in left_out)
    if not built:
        assert all(
            f"not built for {capability}" in reason
            for reason in gated
            if "marlin_w" in reason and "gate" not in reason
        )


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(UsageError, match="size is 'huge'"):
        check.run(size="huge", device="cpu")
    with pytest.raises(UsageError, match="no kernel is called 'gemm'"):
        check.run(["gemm"], device="cpu")
    with pytest.raises(UsageError, match="configurations is 'some'; it must be one of dispatched, all"):
        check.run(device="cpu", configurations="some")
    with pytest.raises(UsageError, match="it must be 'auto', 'cpu' or 'cuda:N'"):
        check.run(device="mps")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="and there is none"):
            check.run(device="cuda:0")


def test_the_operator_s_name_stands_for_its_kernels():
    names = [entry.name for entry in check.checkable_kernels(["cutlass_scaled_mm"])]
    assert names == ["scaled_mm_sm89", "scaled_mm_sm90", "scaled_mm_sm100", "scaled_mm_sm120"]
    rows = check.run(["scaled_mm_sm120"], size="tiny", device="cpu").rows
    assert {row["kernel"] for row in rows} == {"cutlass_scaled_mm"}


def test_an_integrated_gpu_keeps_eight_gigabytes(monkeypatch):
    """A case that would leave less is left out with a sentence, before anything is allocated."""
    from kernelpkg import arch
    from kernelpkg.build import jobs

    monkeypatch.setattr(arch, "detect", lambda: arch.Detection((arch.assume("DGX Spark"),), None))
    monkeypatch.setattr(jobs, "available_memory", lambda: (9 * 10**9, "available"))
    huge = check.Case("scaled_mm", 4096, 28672, 4096, token=True, channel=True)
    assert "under 8 GB" in runner._gated(huge, torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**12, 10**12))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    assert runner._gated(check.Case("scaled_mm", 1, 16, 16), torch.device("cuda:0")) is None
