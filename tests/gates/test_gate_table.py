"""The gate table against the design's, refusals in four parts, and the runtime helpers."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest

from kernelpkg import gates
from kernelpkg.arch import CAPABILITIES, ArchError, Capability, Device, Target, assume
from kernelpkg.errors import KernelpkgError, UsageError
from kernelpkg.gates import GATES, GateRefusal, gate, get_marlin_input_dtype, instances_for

ALL = [str(one) for one in CAPABILITIES]
# The design's table, written out by hand.
ADMITS = {
    "marlin_16bit": ["8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1", "12.2"],
    "marlin_fp8": ["8.9", "12.0", "12.1", "12.2"],
    "scaled_mm_sm89": ["8.9"],
    "scaled_mm_sm90": ["9.0"],
    "scaled_mm_sm100": ["10.0", "10.3"],
    "scaled_mm_sm120": ["12.0", "12.1", "12.2"],
}
SHIPS = {
    "marlin_16bit": ["8.0", "8.6", "8.7", "8.9", "9.0a", "10.0f", "11.0", "12.0f"],
    "marlin_fp8": ["8.9", "12.0f"],
    "scaled_mm_sm89": ["8.9"],
    "scaled_mm_sm90": ["9.0a"],
    "scaled_mm_sm100": ["10.0f"],
    "scaled_mm_sm120": ["12.0f"],
}


def test_the_six_gates_admit_and_ship_what_the_design_says() -> None:
    assert [one.id for one in GATES] == list(ADMITS)
    for one in GATES:
        assert [str(capability) for capability in CAPABILITIES if one.ask(capability)] == ADMITS[one.id]
        assert [str(target) for target in one.ships] == SHIPS[one.id]
    proofs = {one.id: one.proof for one in GATES}
    assert proofs == {
        "marlin_16bit": ("HMMA", "HGMMA"),
        "marlin_fp8": ("QMMA",),
        "scaled_mm_sm89": ("QMMA",),
        "scaled_mm_sm90": ("QGMMA",),
        "scaled_mm_sm100": ("UTCQMMA",),
        "scaled_mm_sm120": ("QMMA",),
    }


def test_a_family_is_bounded_and_takes_unknown_minors() -> None:
    family = gates.family(12)
    assert all(Capability(12, minor) in family for minor in range(10))
    assert Capability(11, 9) not in family and Capability(13, 0) not in family
    assert Capability(8, 8) not in gates.exact("8.9") and Capability(9, 0) not in gates.exact("8.9")


@pytest.mark.parametrize("gate_id", list(ADMITS))
@pytest.mark.parametrize("capability", ALL)
def test_every_refusal_says_have_need_why_and_instead(gate_id: str, capability: str) -> None:
    answer = gate(gate_id).ask(capability)
    assert bool(answer) is answer.admitted is (capability in ADMITS[gate_id])
    assert capability in answer.have and answer.need and answer.reason.endswith(".")
    if answer:
        assert (answer.why, answer.instead) == ("", "")
        assert gate(gate_id).require(capability) == answer
        return
    assert answer.why and answer.instead
    assert all(part in answer.reason for part in (answer.have, answer.need, answer.why, answer.instead))
    with pytest.raises(GateRefusal) as caught:
        gate(gate_id).require(capability)
    refusal = caught.value
    assert isinstance(refusal, KernelpkgError) and isinstance(refusal, NotImplementedError)
    assert (refusal.have, refusal.need, refusal.why, refusal.instead) == (
        answer.have,
        answer.need,
        answer.why,
        answer.instead,
    )
    assert str(refusal) == answer.reason and refusal.exit_code == 2
    assert pickle.loads(pickle.dumps(refusal)).answer == answer


def test_what_a_refusal_proposes_is_itself_admitted() -> None:
    for one in GATES:
        for capability in CAPABILITIES:
            answer = one.ask(capability)
            for other in GATES:
                if not answer and f"gate {other.id}" in answer.instead:
                    assert other.ask(capability), answer.reason
            if not answer and "allow_emulation" in answer.instead:
                assert gates.EVIDENCE.ask(capability)


def test_the_reasons_are_the_true_ones() -> None:
    fp8 = gate("marlin_fp8")
    assert "emulated" in fp8.ask("9.0").why and "allow_emulation=True" in fp8.ask("9.0").instead
    assert "emulated" in fp8.ask("10.0").why and "allow_emulation" not in fp8.ask("10.0").instead
    assert "below sm_89" in fp8.ask("8.6").why
    assert "no device of this family" in fp8.ask("13.0").why
    assert "scaled_mm_sm120" in gate("scaled_mm_sm90").ask("12.1").instead


def test_a_device_can_be_asked_about_and_is_named() -> None:
    spark = assume("DGX Spark")
    assert gate("marlin_fp8").ask(spark).have == "GB10 (capability 12.1)"
    assert gate("marlin_fp8").ask(assume("9.0")).have == "device of capability 9.0"
    with pytest.raises(ArchError):
        gate("marlin_fp8").ask("toaster")


def test_unknown_gates_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="scaled_mm_sm120"):
        gate("scaled_mm_sm121")


def test_the_code_generation_filter_takes_what_is_requested_and_shipped() -> None:
    def listed(gate_id: str, *requested: str) -> list[str]:
        return [str(target) for target in instances_for(gate_id, requested)]

    assert listed("marlin_fp8", "12.0f", "9.0a", "8.9") == ["8.9", "12.0f"]
    assert listed("marlin_16bit", "90a", "sm_120f") == ["9.0a", "12.0f"]
    assert listed("scaled_mm_sm120", "12.0a", "12.1f", "12.0") == []
    assert listed("evidence_sm90", "9.0a", "12.0f") == ["9.0a"]
    assert instances_for(gate("marlin_fp8"), [Target.parse("8.9")]) == (Target.parse("8.9"),)


# ------------------------------------------------------------------------------------------- runtime


def test_capability_questions_under_the_fields_names() -> None:
    assert gates.is_device_capability(120, "12.0") and not gates.is_device_capability(120, "12.1")
    assert gates.is_device_capability((8, 9), assume("L4"))
    for device in ("12.0", "12.1", "12.2", assume("GB10"), SimpleNamespace(capability="12.1")):
        assert gates.is_device_capability_family(120, device)
    assert not gates.is_device_capability_family(120, "13.0")
    assert not gates.is_device_capability_family(120, "11.0")
    assert gates.has_device_capability("8.9", "9.0") and not gates.has_device_capability("9.0", "8.9")


def test_a_device_that_is_not_here_or_is_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    with pytest.raises(ArchError, match="CPU"):
        gates.capability_of(torch.zeros(1))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for device in ("cuda:0", torch.device("cuda", 1)):
        with pytest.raises(ArchError, match="no device cuda:"):
            gates.capability_of(device)


def test_the_device_asked_is_the_tensors_never_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: [(9, 0), (12, 1)][index])
    on_second = SimpleNamespace(device=torch.device("cuda", 1))
    assert str(gates.capability_of(on_second)) == "12.1"
    assert str(gates.capability_of("cuda:0")) == "9.0"
    assert get_marlin_input_dtype("fp8", on_second) == "float8_e4m3fn"


@pytest.mark.parametrize("capability", ALL)
def test_fp8_activations_follow_the_gate(capability: str) -> None:
    for requested in ("fp8", "e4m3", "float8_e4m3fn", "torch.float8_e4m3fn", "FP8"):
        if capability in ADMITS["marlin_fp8"]:
            assert get_marlin_input_dtype(requested, capability) == "float8_e4m3fn"
        else:
            with pytest.raises(GateRefusal) as caught:
                get_marlin_input_dtype(requested, capability)
            assert caught.value.gate == "marlin_fp8"


def test_emulation_only_when_asked_and_only_where_it_was_built() -> None:
    assert get_marlin_input_dtype("fp8", "9.0", allow_emulation=True) == "float8_e4m3fn"
    for capability in ("8.6", "10.0", "11.0", "13.0"):
        with pytest.raises(GateRefusal):
            get_marlin_input_dtype("fp8", capability, allow_emulation=True)


def test_16bit_activations_and_dtypes_of_torch() -> None:
    import torch

    assert get_marlin_input_dtype(None, "9.0") is None
    assert get_marlin_input_dtype("bf16", "9.0") == "bfloat16"
    assert get_marlin_input_dtype("half", "12.1") == "float16"
    assert get_marlin_input_dtype(torch.bfloat16, "9.0") is torch.bfloat16
    assert get_marlin_input_dtype(torch.float8_e4m3fn, "12.1") is torch.float8_e4m3fn
    with pytest.raises(GateRefusal, match=r"marlin_16bit refuses capability 7\.5"):
        get_marlin_input_dtype(None, "7.5")
    for wrong in ("int8", torch.float32, 8):
        with pytest.raises(UsageError, match="not an activation dtype"):
            get_marlin_input_dtype(wrong, "9.0")


def test_a_device_of_unknown_capability_is_an_error_not_an_answer() -> None:
    unknown = Device("X", None, None, None, None, None, None, None, None, None, "NVML")
    with pytest.raises(ArchError):
        gate("marlin_16bit").ask(unknown)
