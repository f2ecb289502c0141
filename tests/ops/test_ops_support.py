"""Gates as the functions ask them, and supports(): answered for devices that are not here. About 4 s."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from kernelpkg.arch import CAPABILITIES, Capability
from kernelpkg.build import LibraryInfo
from kernelpkg.errors import UsageError
from kernelpkg.gates import GateRefusal, gate
from kernelpkg.ops import KERNELS, functional, kernel, support, supports
from kernelpkg.ops.dispatch import configurations
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


def test_a_loaded_library_is_asked_for_the_kernel_itself(library):
    """Its registry knows kinds of scales and of activations, and needs no manifest."""
    route, capability = "scaled_mm_sm90", Capability.parse("9.0")
    kinds = {(one.block_scales, one.dtype) for one in configurations(route)}
    assert kinds
    for block_scales in (False, True):
        for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
            answer = supports("cutlass_scaled_mm", capability, block_scales=block_scales, dtype=dtype)
            assert answer.built is ((block_scales, dtype) in kinds), answer.reason
            assert (answer.kernel, answer.library) == (route, str(library.path))
            if not answer:
                assert "holds no scaled_mm_sm90 for float8_" in answer.reason
                assert ("in blocks" in answer.reason) == block_scales


def test_a_loaded_library_without_a_manifest_is_not_unknown(library, monkeypatch):
    bare = replace(library, manifest={})
    monkeypatch.setattr(support, "loaded", lambda: bare)
    answer = supports("scaled_mm_sm90", "9.0")
    assert answer and "the sm_90a cubin is for exactly 9.0" in answer.reason
    monkeypatch.setattr(support, "configurations", lambda route, standin: ())
    answer = supports("scaled_mm_sm90", "9.0")
    assert answer.built is False and "holds no scaled_mm_sm90 for float8_e4m3fn" in answer.reason
    # Marlin has no such table to ask.
    assert supports("marlin_w8a16", "9.0").built is None


def test_a_manifest_does_not_say_which_kinds_there_are():
    asked = {"block_scales": True}, {"dtype": torch.float8_e5m2}
    for kind in asked:
        answer = supports("scaled_mm_sm90", "9.0", FULL, **kind)
        assert answer.admitted and answer.built is None and "is not loaded" in answer.reason
    assert supports("scaled_mm_sm90", "9.0", FULL, block_scales=False, dtype=torch.float8_e4m3fn)


def test_what_no_build_has_is_no_matter_of_building(library):
    for at in (None, FULL):
        answer = supports("cutlass_scaled_mm", "8.9", at, block_scales=True)
        assert answer.admitted and answer.built is False and "kernelpkg build" not in answer.reason
        assert "no build of scaled_mm_sm89 takes" in answer.reason and "marlin_gemm" in answer.reason


def test_kinds_are_of_scaled_mm_alone():
    with pytest.raises(UsageError, match="marlin_w8a16 is no cutlass_scaled_mm"):
        supports("marlin_w8a16", "9.0", FULL, block_scales=True)
    with pytest.raises(UsageError, match=r"dtype is torch\.bfloat16"):
        supports("cutlass_scaled_mm", "9.0", FULL, dtype=torch.bfloat16)


MIXED = {0: (9, 0), 1: (12, 1), 2: (8, 6)}


@pytest.fixture
def mixed_devices(monkeypatch, library):
    """A process that sees an H100, a DGX Spark and an RTX 30; the first is the current one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=0: MIXED[index])
    functional.device_capability.cache_clear()
    yield
    functional.device_capability.cache_clear()


def test_supports_answers_for_the_device_it_is_asked_about(mixed_devices, monkeypatch):
    for index, kernel_name in ((0, "scaled_mm_sm90"), (1, "scaled_mm_sm120"), (2, None)):
        for device in (f"cuda:{index}", torch.device("cuda", index)):
            answer = supports("cutlass_scaled_mm", device, FULL)
            assert answer.kernel == kernel_name and answer.capability == Capability(*MIXED[index])
    assert supports("marlin_w4a8_fp8", "cuda:1", FULL) and not supports("marlin_w4a8_fp8", "cuda:0", FULL)
    # Without an index it is the current device, as everywhere in torch.
    assert supports("cutlass_scaled_mm", "cuda", FULL).kernel == "scaled_mm_sm90"
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert supports("cutlass_scaled_mm", torch.device("cuda"), FULL).kernel == "scaled_mm_sm120"


def test_a_call_is_decided_by_the_tensor_s_device(mixed_devices, packed):
    """Fake tensors on devices that are not here: the gates are asked, then shapes alone are computed."""
    weight, _ = packed("u4b8")
    with FakeTensorMode(allow_non_fake_inputs=True):
        for index in MIXED:
            on = {"device": f"cuda:{index}"}
            a = torch.empty(5, 256, dtype=torch.float8_e4m3fn, **on)
            b = torch.empty(48, 256, dtype=torch.float8_e4m3fn, **on).t()
            one, scales = torch.ones(1, **on), torch.ones(5, **on)
            if index == 2:
                with pytest.raises(GateRefusal, match=r"refuses capability 8\.6"):
                    functional.cutlass_scaled_mm(a, b, one, one)
            else:
                out = functional.cutlass_scaled_mm(a, b, one, one)
                assert out.device == torch.device(f"cuda:{index}") and out.shape == (5, 48)
            moved = replace(
                weight,
                data=torch.empty_like(weight.data, **on),
                scales=torch.empty_like(weight.scales, **on),
            )
            if index == 1:
                assert functional.marlin_gemm(a, moved, scales).device == torch.device("cuda:1")
            else:
                have = ".".join(map(str, MIXED[index]))
                with pytest.raises(GateRefusal, match=f"refuses capability {have}"):
                    functional.marlin_gemm(a, moved, scales)


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
