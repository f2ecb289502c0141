"""Gates as the functions ask them, and supports(): answered for devices that are not here. About 2 s."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kernelpkg.arch import CAPABILITIES, Capability
from kernelpkg.build import LibraryInfo
from kernelpkg.errors import UsageError
from kernelpkg.gates import GateRefusal, gate
from kernelpkg.ops import KERNELS, kernel, supports
from kernelpkg.ops.functional import marlin_route, scaled_mm_gate

FULL = LibraryInfo(
    Path("/nowhere/libkernelpkg_ops.so"),
    {
        "kernels": {
            "marlin_w8a16": {"targets": ["9.0a", "12.0f"]},
            "marlin_w4a8_fp8": {"targets": ["12.0f"]},
            "scaled_mm_sm90": {"targets": ["9.0a"]},
            "scaled_mm_sm120": {"targets": ["12.0f"]},
            "scaled_mm_sm120_standin": {"targets": ["9.0a"]},
        }
    },
)


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_the_route_is_the_gate_s_answer(capability):
    for fp8, name in ((False, "marlin_16bit"), (True, "marlin_fp8")):
        if gate(name).ask(capability):
            assert marlin_route(capability, fp8, allow_emulation=False) == "shipped"
            assert marlin_route(capability, fp8, allow_emulation=True) == "shipped"
        else:
            with pytest.raises(GateRefusal):
                marlin_route(capability, fp8, allow_emulation=False)


def test_emulation_runs_where_its_evidence_build_does_and_nowhere_else():
    assert marlin_route(Capability.parse("9.0"), True, allow_emulation=True) == "emulated"
    for other in ("8.0", "10.0", "11.0", "13.0"):
        with pytest.raises(GateRefusal):
            marlin_route(Capability.parse(other), True, allow_emulation=True)


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ("8.9", "scaled_mm_sm89"),
        ("9.0", "scaled_mm_sm90"),
        ("10.3", "scaled_mm_sm100"),
        ("12.2", "scaled_mm_sm120"),
    ],
)
def test_scaled_mm_takes_the_gate_of_the_device(capability, name):
    assert scaled_mm_gate(Capability.parse(capability)) == name


@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.6", "11.0", "13.0"])
def test_scaled_mm_is_refused_elsewhere(capability):
    with pytest.raises(GateRefusal) as refusal:
        scaled_mm_gate(Capability.parse(capability))
    assert refusal.value.why and refusal.value.instead


def test_supported_where_admitted_and_built():
    answer = supports("marlin_w4a8_fp8", "12.1", FULL)
    assert answer and answer.admitted and answer.built
    assert answer.kernel == "marlin_w4a8_fp8" and str(answer.capability) == "12.1"
    assert "12.0" in answer.reason and "Built" in answer.reason


@pytest.mark.parametrize(
    ("op", "capability", "admitted", "built", "says"),
    [
        ("marlin_w4a8_fp8", "9.0", False, None, "allow_emulation=True"),
        ("marlin_w4a8_fp8", "8.9", True, False, "kernelpkg build --arch 8.9"),
        ("marlin_w8a16", "8.0", True, False, "kernelpkg build --arch 8.0"),
        ("marlin_w4a16", "9.0", True, False, "holds no marlin_w4a16"),
        ("scaled_mm_sm120", "13.0", False, None, "refuses capability 13.0"),
        ("scaled_mm_sm100", "10.0", True, False, "holds no scaled_mm_sm100"),
        ("cutlass_scaled_mm", "8.6", False, None, "refuses capability 8.6"),
        ("scaled_mm_sm120_standin", "12.1", False, None, "exactly 9.0"),
    ],
)
def test_not_supported_says_why(op, capability, admitted, built, says):
    answer = supports(op, capability, FULL)
    assert not answer and (answer.admitted, answer.built) == (admitted, built)
    assert says in answer.reason


def test_operators_name_the_kernel_the_device_decides():
    assert supports("cutlass_scaled_mm", "9.0", FULL).kernel == "scaled_mm_sm90"
    assert supports("cutlass_scaled_mm", "DGX Spark", FULL).kernel == "scaled_mm_sm120"
    assert supports("cutlass_scaled_mm", "8.0", FULL).kernel is None
    assert supports("marlin_gemm", "9.0", FULL).kernel == "marlin_w8a16"
    assert supports("scaled_mm_sm120_standin", "9.0", FULL)


def test_a_library_without_a_manifest_is_unknown():
    answer = supports("marlin_w8a16", "9.0", LibraryInfo(Path("/nowhere/x.so"), {}))
    assert answer.admitted and answer.built is None and not answer
    assert "no manifest" in answer.reason


def test_the_cpu_always_has_a_reference():
    for op in ("marlin_w4a8_fp8", "cutlass_scaled_mm", torch.device("cpu")):
        if isinstance(op, str):
            assert supports(op, "cpu", FULL)
    assert supports("marlin_repack", torch.device("cpu"), FULL).capability is None


def test_unknown_names_and_missing_devices_are_refused():
    with pytest.raises(UsageError, match="no operator or kernel is called 'gemm'"):
        supports("gemm", "9.0", FULL)
    with pytest.raises(UsageError, match="no kernel is called"):
        kernel("nothing")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="there is no device cuda:0"):
            supports("marlin_gemm", "cuda:0", FULL)


def test_every_kernel_has_a_gate():
    for entry in KERNELS:
        assert gate(entry.gate).id == entry.gate
        assert (entry.evidence is not None) == (entry.gate == "evidence_sm90")
        assert (entry.shown_for is not None) == (entry.evidence is not None)
