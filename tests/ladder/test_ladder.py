"""The five rungs, from fake libraries and records. No figure here is a measurement."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernelpkg import ladder
from kernelpkg.arch import Capability
from kernelpkg.bench import hashes, records
from kernelpkg.errors import CheckFailed, NothingRan, UsageError
from kernelpkg.ladder import answers as answering
from kernelpkg.ladder import measured, static, thresholds

HASH = "ab" * 32
KERNELS = ("marlin_w8a16", "marlin_w4a8_fp8", "scaled_mm_sm90", "scaled_mm_sm120")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources with a known hash, a catalogue with the kernels of these tests, and no stored records."""
    monkeypatch.setattr(hashes, "source_hashes", lambda kernels, library=None: dict.fromkeys(kernels, HASH))
    monkeypatch.setattr(static, "catalogue_kernels", lambda: frozenset(KERNELS) | {"scaled_mm_sm120_standin"})
    monkeypatch.setattr(answering, "load_records", lambda: ())


def function(kernel: str, target: str, verdict: str = "native", kind: str = "cubin", **more: Any) -> dict:
    return {
        "function": f"void {kernel}<...>()",
        "symbol": kernel,
        "kernel": kernel,
        "target": target,
        "kind": kind,
        "verdict": verdict,
        "reason": "",
        "opcodes": {"QMMA.16832.F32.E4M3.E4M3": 8} if verdict == "native" else {},
        "code_hash": "0" * 64,
        **more,
    }


def library(*functions: dict, **kernels: list[str]) -> Any:
    """A library whose manifest has these functions and targets."""
    for item in functions:
        kernels.setdefault(item["kernel"], []).append(item["target"])
    entries = {name: {"targets": targets, "instances": []} for name, targets in kernels.items()}
    return SimpleNamespace(
        path=Path("/nowhere/libkernelpkg_ops.so"),
        manifest={"functions": list(functions), "kernels": entries},
    )


FULL = library(
    *(function(kernel, "12.0f") for kernel in ("marlin_w8a16", "marlin_w4a8_fp8", "scaled_mm_sm120")),
    function("marlin_w8a16", "9.0a"),
    function("scaled_mm_sm90", "9.0a"),
    function("scaled_mm_sm120_standin", "9.0a", "emulated"),
)


def check_record(kernel: str, capability: str, passed: bool = True, **changes: Any) -> records.Record:
    row = {
        "kernel": kernel,
        "case": "m16-n128-k256",
        "metric": "relative_error",
        "value": 0.001 if passed else 0.5,
        "bound": 0.002,
        "passed": passed,
    }
    return record("check", capability, [row], kernel, **changes)


def record(kind: str, capability: str, rows: list, kernel: str, **changes: Any) -> records.Record:
    data = {
        "schema": 1,
        "kind": kind,
        "machine": "Test GPU",
        "capability": capability,
        "date": "2026-01-02",
        "source_hash": {kernel: HASH},
        "code_hash": None,
        "rows": rows,
    }
    return records.parse(data | changes)


def bench_row(kernel: str, **changes: Any) -> dict:
    return {
        "kernel": kernel,
        "variant": "channel",
        "shape": "8B.gate_up",
        "m": 16,
        "n": 28672,
        "k": 4096,
        "microseconds": {"median": 40.0},
        "percent_of_limit": 70.0,
        "percent_of_read": 70.0,
        "correct": {"passed": True},
        **changes,
    }


def answers(capability: str, kernel: str, **arguments: Any) -> dict[str, ladder.Rung]:
    arguments.setdefault("library", FULL)
    found = ladder.explain(capability, kernels=(kernel,), **arguments)
    assert [rung.rung for rung in found] == list(ladder.RUNGS)
    return ladder.by_kernel(found)[kernel]


# ------------------------------------------------------------------------------------------- admitted


def test_a_refused_kernel_claims_nothing_more() -> None:
    found = answers("9.0", "marlin_w4a8_fp8")
    assert found["admitted"].status == "fail" and "emulated" in found["admitted"].reason
    assert {found[name].status for name in ladder.RUNGS[1:]} == {"unproved"}
    assert found["admitted"].evidence["instead"].startswith("keep the activations in 16 bits")


def test_any_capability_can_be_asked_about() -> None:
    for capability in ("7.5", "8.9", "12.2", "13.0", "DGX Spark"):
        found = ladder.explain(capability, library=FULL)
        assert len(found) == 5 * len(ladder.KERNELS)
    assert answers("DGX Spark", "marlin_w8a16")["admitted"].capability == "12.1"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="no kernel is called"):
        ladder.explain("12.1", kernels=("nothing",))
    with pytest.raises(UsageError, match="neither a capability"):
        ladder.explain("nothing")


# -------------------------------------------------------------------------------------- built and loads


def test_alive_code_for_the_device() -> None:
    found = answers("12.1", "marlin_w4a8_fp8")
    assert found["built"].status == "pass" and "8 QMMA" in found["built"].reason
    assert found["built"].label.who == "measured here" and found["built"].evidence["image"] == "sm_120f cubin"
    assert found["loads"].status == "pass" and found["loads"].evidence["how"] == "cubin"
    assert found["loads"].label.who == "nobody (loading rule)"


@pytest.mark.parametrize("verdict", ["dead", "emulated"])
def test_dead_and_emulated_code_fail_by_name(verdict: str) -> None:
    broken = library(function("scaled_mm_sm120", "12.0f", verdict, reason="132 BPT.TRAP"))
    found = answers("12.1", "scaled_mm_sm120", library=broken)["built"]
    assert found.status == "fail" and verdict in found.reason and "132 BPT.TRAP" in found.reason


def test_an_evidence_kernel_is_alive_when_emulated() -> None:
    assert answers("9.0", "scaled_mm_sm120_standin")["built"].status == "pass"
    assert answers("12.1", "scaled_mm_sm120_standin")["admitted"].status == "fail"
    native = library(function("scaled_mm_sm120_standin", "9.0a", "native"))
    assert answers("9.0", "scaled_mm_sm120_standin", library=native)["built"].status == "fail"


def test_code_for_other_devices_only() -> None:
    found = answers("8.6", "marlin_w8a16")
    assert found["built"].status == "unproved" and "--arch 8.6" in found["built"].reason
    assert found["loads"].status == "unproved" and found["loads"].evidence["how"] == "no"
    assert "--arch 12.0f" in answers("12.1", "marlin_w8a16", library=library())["built"].reason


def test_no_library_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from kernelpkg import build

    monkeypatch.setattr(build, "find_library", lambda capability=None: None)
    found = answers("12.1", "marlin_w8a16", library=None)
    assert found["built"].status == "unproved" and "kernelpkg build --arch 12.0f" in found["built"].reason
    assert "a build would" in found["loads"].reason


def test_ptx_is_its_own_answer() -> None:
    only = library(function("marlin_w8a16", "8.0", "ptx only", "ptx"))
    found = answers("12.1", "marlin_w8a16", library=only)
    assert found["loads"].status == "unproved" and found["loads"].reason.startswith("PTX JIT")
    assert found["loads"].evidence["how"] == "jit" and found["built"].status == "unproved"


def test_a_library_whose_code_was_not_read(tmp_path: Path) -> None:
    file = tmp_path / "libkernelpkg_ops.so"
    file.write_bytes(b"no library")
    (tmp_path / "manifest.json").write_text(json.dumps({"kernels": {"marlin_w8a16": {"targets": ["12.0f"]}}}))
    found = answers("12.1", "marlin_w8a16", library=file)
    assert found["built"].status == "unproved" and "was not read" in found["built"].reason
    assert found["loads"].status == "pass"


def test_a_gate_without_a_kernel() -> None:
    found = answers("10.0", "scaled_mm_sm100")
    assert found["admitted"].status == "pass" and "no scaled_mm_sm100 yet" in found["built"].reason


# ---------------------------------------------------------------------------------------------- correct


def correct(capability: str, kernel: str, *stored: records.Record, **more: Any) -> ladder.Rung:
    return answers(capability, kernel, records=stored, **more)["correct"]


def test_a_record_of_this_capability_decides() -> None:
    found = correct("12.1", "scaled_mm_sm120", check_record("scaled_mm_sm120", "12.1"))
    assert found.status == "pass" and str(found.label) == "recorded (Test GPU, 2026-01-02), this capability"
    assert found.evidence["worst"]["value"] == 0.001
    failed = correct("12.1", "scaled_mm_sm120", check_record("scaled_mm_sm120", "12.1", passed=False))
    assert failed.status == "fail" and "m16-n128-k256" in failed.reason and "0.5" in failed.reason


def test_a_sibling_runs_the_same_code() -> None:
    found = correct("12.1", "marlin_w4a8_fp8", check_record("marlin_w4a8_fp8", "12.0"))
    assert found.status == "pass" and found.label.on_what == "sibling 12.0" and found.label.level == 2
    other = correct("12.1", "marlin_w4a8_fp8", check_record("marlin_w4a8_fp8", "8.9"))
    assert other.status == "unproved"  # 8.9 runs other code, and FP8 tensor cores of another kind


def test_a_stand_in_is_labelled_so() -> None:
    found = correct("12.1", "scaled_mm_sm120", check_record("scaled_mm_sm120_standin", "9.0"))
    assert found.status == "pass" and found.label.on_what == "stand-in" and found.label.level == 1
    assert "leaves this device's own tensor cores open" in found.reason
    emulated = correct("12.1", "marlin_w4a8_fp8", check_record("marlin_w4a8_fp8_emulated", "9.0"))
    assert emulated.label.on_what == "stand-in"
    same_source = correct("12.1", "marlin_w8a16", check_record("marlin_w8a16", "9.0"))
    assert same_source.status == "pass" and same_source.label.on_what == "stand-in"
    assert correct("12.1", "scaled_mm_sm120", check_record("scaled_mm_sm90", "9.0")).status == "unproved"


def test_the_nearest_evidence_counts_even_where_it_failed() -> None:
    stored = (
        check_record("scaled_mm_sm120_standin", "9.0"),
        check_record("scaled_mm_sm120", "12.0", passed=False),
    )
    found = correct("12.1", "scaled_mm_sm120", *stored)
    assert found.status == "fail" and found.label.on_what == "sibling 12.0"
    nearest = correct("12.1", "scaled_mm_sm120", *stored, check_record("scaled_mm_sm120", "12.1"))
    assert nearest.status == "pass" and nearest.label.level == 3


def test_a_stale_record_proves_nothing() -> None:
    old = check_record("scaled_mm_sm120", "12.1", source_hash={"scaled_mm_sm120": "cd" * 32})
    found = correct("12.1", "scaled_mm_sm120", old)
    assert found.status == "unproved" and found.reason.startswith("unproved (stale record of 2026-01-02)")
    assert "this capability" in str(found.label)
    fresh = correct("12.1", "scaled_mm_sm120", old, check_record("scaled_mm_sm120_standin", "9.0"))
    assert fresh.status == "pass" and fresh.label.on_what == "stand-in"
    unknown = correct("12.1", "scaled_mm_sm120", check_record("scaled_mm_sm120", "12.1", source_hash={}))
    assert unknown.status == "unproved" and "cannot be compared" in unknown.reason


def test_rows_of_this_process_come_first_and_the_cpu_proves_no_gpu() -> None:
    row = {**check_record("marlin_w8a16", "9.0").rows[0], "device": "cuda:0"}
    found = answers("9.0", "marlin_w8a16", check_rows=[row], records=())
    assert found["correct"].status == "pass" and found["correct"].label.who == "measured here"
    assert found["loads"].label.who == "measured here" and "cuda:0" in found["loads"].reason
    standin = answers("12.1", "marlin_w8a16", check_rows=[row], measured_on="9.0", records=())
    assert str(standin["correct"].label) == "measured here, stand-in"
    assert standin["loads"].label.who == "nobody (loading rule)"
    on_cpu = answers("9.0", "marlin_w8a16", check_rows=[row | {"device": "cpu"}], records=())
    assert on_cpu["correct"].status == "unproved"


def test_refusals_alone_prove_no_numbers() -> None:
    row = {**check_record("scaled_mm_sm120", "12.1").rows[0], "metric": "refusals_missed"}
    only = record("check", "12.1", [row], "scaled_mm_sm120")
    assert correct("12.1", "scaled_mm_sm120", only).status == "unproved"


@pytest.mark.parametrize(("status", "expected"), [("clean", "pass"), ("not run", "pass"), ("errors", "fail")])
def test_what_the_sanitizer_found_counts(status: str, expected: str) -> None:
    row = {"kernel": "scaled_mm_sm120_standin", "tool": "racecheck", "status": status}
    stored = (
        check_record("scaled_mm_sm120_standin", "9.0"),
        record("sanitizer", "9.0", [row], "scaled_mm_sm120_standin"),
    )
    found = correct("12.1", "scaled_mm_sm120", *stored)
    assert found.status == expected and found.evidence["sanitizer"] == {"racecheck": status}
    assert ("racecheck reports errors" in found.reason) == (status == "errors")


def test_what_was_noted_of_a_finding_is_told() -> None:
    row = {
        "kernel": "scaled_mm_sm120_standin",
        "tool": "racecheck",
        "status": "errors",
        "detail": "2 errors; x",
    }
    run = record("sanitizer", "9.0", [row], "scaled_mm_sm120_standin")
    run.details["notes"] = ["Both are in scaled_mm_sm120_standin.", "Another kernel was slow."]
    stored = check_record("scaled_mm_sm120_standin", "9.0"), run
    reason = correct("12.1", "scaled_mm_sm120", *stored).reason
    assert reason.endswith("racecheck reports 2 errors. Both are in scaled_mm_sm120_standin.")


def test_an_error_that_is_not_finite_is_told() -> None:
    row = {**check_record("scaled_mm_sm120", "12.1", passed=False).rows[0], "value": "inf"}
    found = correct("12.1", "scaled_mm_sm120", record("check", "12.1", [row], "scaled_mm_sm120"))
    assert found.status == "fail" and "relative_error inf" in found.reason


def test_nothing_known_says_what_to_do() -> None:
    found = correct("12.1", "scaled_mm_sm120")
    assert found.status == "unproved" and "kernelpkg check" in found.reason and "stand-in" in found.reason


def test_live_runs_the_check_on_what_stands_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from kernelpkg import arch

    asked = {}

    def run(kernels: Any, size: str, device: str) -> Any:
        asked[device] = tuple(kernels)
        rows = [{**check_record(name, "9.0").rows[0], "device": device} for name in kernels]
        return SimpleNamespace(rows=rows)

    monkeypatch.setitem(__import__("sys").modules, "kernelpkg.check", SimpleNamespace(run=run))
    monkeypatch.setattr("kernelpkg.check", SimpleNamespace(run=run), raising=False)
    hopper = SimpleNamespace(devices=(SimpleNamespace(capability=Capability(9, 0)),), message=None)
    monkeypatch.setattr(arch, "detect", lambda: hopper)
    found = answers("12.1", "scaled_mm_sm120", live=True, records=())
    assert asked == {"cuda:0": ("scaled_mm_sm120_standin",)}
    assert str(found["correct"].label) == "measured here, stand-in" and found["correct"].status == "pass"
    found = answers("9.0", "scaled_mm_sm90", live=True, records=())
    assert asked == {"cuda:0": ("scaled_mm_sm90",)} and found["loads"].label.who == "measured here"


# ------------------------------------------------------------------------------------------------- fast


def fast(kernel: str, *rows: dict, capability: str = "9.0", **changes: Any) -> ladder.Rung:
    stored = [record("bench", capability, list(rows), kernel, **changes)] if rows else []
    return answers(capability, kernel, records=stored)["fast"]


def test_the_first_floor_of_w8a16() -> None:
    assert fast("marlin_w8a16", bench_row("marlin_w8a16")).status == "pass"
    slow = fast("marlin_w8a16", bench_row("marlin_w8a16", percent_of_read=49.0))
    assert slow.status == "fail" and "49 at 8B.gate_up m=16" in slow.reason
    other = fast("marlin_w8a16", bench_row("marlin_w8a16", m=1))
    assert other.status == "unproved" and "not all floors were measured" in other.reason


def test_the_first_floor_of_scaled_mm_takes_the_worst_row() -> None:
    def row(shape: str, ratio: float) -> dict:
        return bench_row(
            "scaled_mm_sm90",
            m=4096,
            shape=shape,
            variant="token_channel",
            ratios={"scaled_mm_row": ratio, "bf16": 2.0},
            same_scales="scaled_mm_row",
        )

    decode = bench_row("scaled_mm_sm90", variant="token_channel", percent_of_read=73.0)
    assert fast("scaled_mm_sm90", row("8B.o", 0.95), row("8B.qkv", 0.81), decode).status == "pass"
    failed = fast("scaled_mm_sm90", row("8B.o", 0.95), row("8B.qkv", 0.79), decode)
    assert failed.status == "fail" and "8B.qkv" in failed.reason and "0.79" in failed.reason


def test_wrong_results_have_no_speed() -> None:
    found = fast("marlin_w8a16", bench_row("marlin_w8a16", correct={"passed": False}))
    assert found.status == "fail" and "wrong results" in found.reason


def test_a_figure_without_a_floor_is_shown_and_proves_nothing() -> None:
    found = fast("marlin_w8a16", bench_row("marlin_w8a16"), capability="12.1")
    assert found.status == "unproved" and "no floor" in found.reason and "70 %" in found.reason


def test_speed_does_not_travel_to_another_device() -> None:
    stored = record("bench", "12.0", [bench_row("marlin_w8a16")], "marlin_w8a16")
    found = answers("12.1", "marlin_w8a16", records=[stored])["fast"]
    assert found.status == "unproved" and "proves nothing here" in found.reason
    assert found.evidence["projection"]["label"] == "projected (nobody measured)"
    assert found.label.level == 0 and "434 us" in found.reason


def test_a_stale_timing() -> None:
    found = fast("marlin_w8a16", bench_row("marlin_w8a16"), source_hash={"marlin_w8a16": "cd" * 32})
    assert found.status == "unproved" and "stale record of 2026-01-02" in found.reason


def test_the_floors_of_the_package() -> None:
    found = {(floor.kernel, floor.metric): floor.at_least for floor in ladder.floors()}
    assert found["marlin_w8a16", "percent_of_read"] >= 65
    assert found["marlin_w4a16", "percent_of_read"] >= 57
    assert found["scaled_mm_sm90", "ratio_to_peer"] >= 0.8
    held = ladder.hold([], "9.0")
    assert len(held) == len([floor for floor in ladder.floors() if floor.capability == "9.0"])
    assert not any(one.passed or one.measured for one in held) and "not measured" in str(held[0])


@pytest.mark.parametrize(
    "text",
    [
        'kernel = "x"\ncapability = "9.0"\nmetric = "speed"\nat_least = 1\nwhy = ""',
        'kernel = "x"\ncapability = "9.0"\nmetric = "ratio_to_peer"\nat_least = 1\nwhy = ""',
        'kernel = "x"\nat_most = 1',
    ],
)
def test_a_broken_floor_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "floors.toml"
    path.write_text(f"[[floor]]\n{text}\n")
    with pytest.raises(UsageError, match=r"floors\.toml, floor 0"):
        thresholds.floors(path)


# ------------------------------------------------------------------------------------ brief and require


def test_brief_stays_under_forty_lines() -> None:
    for capability in ("12.1", "9.0", "8.9", "7.5"):
        text = ladder.brief(ladder.explain(capability, library=FULL))
        assert len(text.splitlines()) < 40 and all(
            len(line) <= 240 or " fail [" in line for line in text.splitlines()
        )
        assert text.startswith("kernelpkg ") and f"capability {capability}" in text
        assert "/nowhere" not in text
    many = [
        ladder.Rung(f"kernel_{i}", "12.1", name, "unproved" if i else "fail", f"because {i}")
        for i in range(12)
        for name in ladder.RUNGS[1:]
    ]
    text = ladder.brief(many)
    assert len(text.splitlines()) < 40 and "more reason(s)" in text and "kernel_0 built fail" in text
    late = ladder.Rung("kernel_z", "12.1", "correct", "fail", "x" * 300)
    reasons = ladder.brief([*many[4:8], late]).splitlines()[4:]
    assert reasons[0].startswith("kernel_z correct fail") and reasons[0].endswith("x" * 300)
    assert ladder.brief(())


def test_brief_tells_refused_from_failed() -> None:
    text = ladder.brief(ladder.explain("9.0", kernels=KERNELS, library=FULL))
    assert "marlin_w4a8_fp8  refused" in text and "marlin_fp8 refuses capability 9.0" in text


@pytest.mark.parametrize(
    "text", ["correct", "right@12.1", "correct@", "@12.1", "correct@12.1:twin", "correct@x"]
)
def test_a_requirement_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError):
        ladder.parse_requirement(text)


def require(wish: str, *stored: records.Record, kernels: tuple[str, ...] = ("scaled_mm_sm120",)) -> Any:
    return ladder.require(wish, kernels=kernels, records=stored, library=FULL)


def test_a_requirement_and_how_near_its_proof_must_be() -> None:
    standin = check_record("scaled_mm_sm120_standin", "9.0")
    assert require("correct@12.1:stand-in", standin)[0].label.on_what == "stand-in"
    require("correct@sm_121", standin)
    require("correct@12.1:recorded", standin)
    for wish in ("correct@12.1:this", "correct@12.1:sibling", "correct@12.1:measured"):
        with pytest.raises(NothingRan, match="stand-in only") as caught:
            require(wish, standin)
        assert caught.value.exit_code == 3
    require("correct@12.1:sibling", check_record("scaled_mm_sm120", "12.0"))
    require("correct@12.1:this", check_record("scaled_mm_sm120", "12.1"))
    require("built@12.1")
    require("loads@12.1")


def test_what_is_unproved_ends_with_three_and_what_failed_with_one() -> None:
    with pytest.raises(NothingRan, match="scaled_mm_sm120 is unproved"):
        require("correct@12.1:stand-in")
    with pytest.raises(CheckFailed, match="failed"):
        require("correct@12.1:stand-in", check_record("scaled_mm_sm120_standin", "9.0", passed=False))
    with pytest.raises(NothingRan, match="no kernel asked about is admitted"):
        require("correct@8.0")
    with pytest.raises(NothingRan, match=r"fast@12\.1"):
        require("fast@12.1")


def test_a_refused_kernel_is_not_required() -> None:
    kernels = ("scaled_mm_sm90", "scaled_mm_sm120")
    found = require("correct@12.1", check_record("scaled_mm_sm120", "12.1"), kernels=kernels)
    assert [rung.kernel for rung in found] == ["scaled_mm_sm120"]


def test_answers_at_hand_are_not_asked_for_again() -> None:
    rungs = ladder.explain("12.1", kernels=("scaled_mm_sm120",), library=FULL)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked again")

    assert ladder.require("built@12.1", rungs=rungs, explained=never)


def test_rung_rows_are_those_of_the_command_line() -> None:
    (first, *_) = ladder.explain("12.1", kernels=("marlin_w8a16",), library=FULL)
    assert list(first.as_row()) == ["kernel", "capability", "rung", "status", "label", "reason"]
    json.dumps([rung.evidence for rung in ladder.explain("12.1", library=FULL)])
    with pytest.raises(ValueError, match="status"):
        ladder.Rung("a", "12.1", "built", "maybe", "")


def test_siblings_share_the_machine_code() -> None:
    everything = [Capability.parse(text) for text in ("8.0", "8.6", "8.9", "9.0", "12.0", "12.1", "12.2")]
    spark = Capability(12, 1)
    assert [str(one) for one in static.siblings("marlin_w8a16", spark, everything)] == ["12.0", "12.2"]
    assert static.siblings("marlin_w8a16", Capability(8, 6), everything) == ()
    assert measured.worst_row([]) is None
