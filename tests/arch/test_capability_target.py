"""Capabilities and targets: every form that is read, every one that is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpkg.arch import CAPABILITIES, TOOLKIT_TARGETS, ArchError, Capability, Target, parse_targets
from kernelpkg.errors import UsageError

GB10 = Capability(12, 1)


@pytest.mark.parametrize(
    "written",
    [
        *("12.1", "121", "sm_121", "SM_121", " 12.1 ", "compute_121", "121a", "12.1f"),
        *((12, 1), [12, 1], 121, 12.1, GB10),
        *("GB10", "gb10", "NVIDIA GB10", "DGX Spark", "dgx-spark"),
    ],
)
def test_all_forms_of_a_capability_read_the_same(written: object) -> None:
    assert Capability.parse(written) == GB10


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("Tesla T4", "7.5"),
        ("NVIDIA A100-SXM4-80GB", "8.0"),
        ("NVIDIA A100-PCIE-40GB", "8.0"),
        ("RTX 3090", "8.6"),
        ("A10", "8.6"),
        ("A10G", "8.6"),
        ("Jetson Orin", "8.7"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "8.9"),
        ("L4", "8.9"),
        ("L40S", "8.9"),
        ("NVIDIA H100 80GB HBM3", "9.0"),
        ("NVIDIA H100 PCIe", "9.0"),
        ("h200", "9.0"),
        ("NVIDIA GH200 480GB", "9.0"),
        ("B200", "10.0"),
        ("NVIDIA B300 SXM6 AC", "10.3"),
        ("Jetson Thor", "11.0"),
        ("RTX 5090", "12.0"),
        ("RTX 5070 Ti", "12.0"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "12.0"),
    ],
)
def test_device_names_give_their_capability(name: str, capability: str) -> None:
    assert str(Capability.parse(name)) == capability


@pytest.mark.parametrize(
    "written",
    [
        *("", "12", "12.10", "sm_1", "RTX 9999", "Radeon", "0.5", b"12.1"),
        *(None, True, 5, 12, 1200, -121, 12.15),
        *((12,), (12, 1, 0), (12, "1"), (12, 10), (0, 1)),
    ],
)
def test_bad_capabilities_are_refused_with_what_is_allowed(written: object) -> None:
    with pytest.raises(ArchError, match=r"12\.1") as caught:
        Capability.parse(written)
    assert isinstance(caught.value, UsageError) and caught.value.exit_code == 2


@pytest.mark.parametrize("written", ["99", "sm_99", 99, "91", "85"])
def test_two_digits_that_no_gpu_has_are_refused_with_the_nearest(written: object) -> None:
    near = "8.0, 8.6, 8.7, 8.8, 8.9" if written == "85" else "9.0"
    with pytest.raises(ArchError, match=rf"which no GPU has; that generation has {near}, and"):
        Capability.parse(written)
    assert str(Capability.parse("9.9")) == "9.9", "a minor that does not exist yet can be asked about"


def test_capability_properties_and_order() -> None:
    assert (str(GB10), GB10.sm, GB10.number, GB10.family) == ("12.1", "sm_121", 121, 12)
    assert Capability(9, 0) < Capability(10, 0) < GB10 < Capability(13, 0)
    assert len({GB10, Capability.parse("121")}) == 1
    listed = " ".join(str(one) for one in CAPABILITIES)
    assert listed == "7.5 8.0 8.6 8.7 8.9 9.0 10.0 10.3 11.0 12.0 12.1 12.2 13.0"


@given(st.integers(1, 99), st.integers(0, 9))
def test_text_and_sm_name_read_back(major: int, minor: int) -> None:
    capability = Capability(major, minor)
    assert Capability.parse(str(capability)) == capability
    if capability.number >= 100:
        assert Capability.parse(capability.sm) == capability
        assert Capability.parse(capability.number) == capability


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("90a", "9.0a"),
        ("9.0a", "9.0a"),
        ("sm_90a", "9.0a"),
        ("compute_120f", "12.0f"),
        ("120f-real", "12.0f"),
        ("8.9", "8.9"),
        ("89", "8.9"),
        (Target(Capability(9, 0), "a"), "9.0a"),
        (GB10, "12.1"),
    ],
)
def test_all_forms_of_a_target(written: object, text: str) -> None:
    assert str(Target.parse(written)) == text


def test_target_names() -> None:
    target = Target.parse("12.0f")
    assert (target.sm, target.compute, target.cmake, target.number) == (
        "sm_120f",
        "compute_120f",
        "120f-real",
        "120f",
    )
    assert (target.capability, target.suffix) == (Capability(12, 0), "f")


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("80f", r"80f does not exist: family targets \(suffix f\) begin at 10\.0; use 80"),
        ("90f", r"begin at 10\.0; use 90a"),
        ("89a", r"89a does not exist: .* begin at 9\.0; use 89"),
        ("120b", "not a target"),
        ("sm_", "not a target"),
        ("", "not a target"),
        (121, "not a target"),
    ],
)
def test_targets_that_do_not_exist_are_refused_with_the_reason(written: object, says: str) -> None:
    with pytest.raises(ArchError, match=says):
        Target.parse(written)


def test_lists_of_targets() -> None:
    assert [str(one) for one in parse_targets("9.0a,12.0f; 8.9 9.0a")] == ["9.0a", "12.0f", "8.9"]
    assert parse_targets(["90a", Target.parse("120f")]) == parse_targets("90a,120f")
    for empty in ("", " , ", []):
        with pytest.raises(ArchError, match="no target given"):
            parse_targets(empty)


def test_the_toolkit_has_no_target_of_the_boundary_cases() -> None:
    assert not {"12.2", "13.0"} & {str(target.capability) for target in TOOLKIT_TARGETS}
    assert {"9.0a", "12.0f", "12.1a"} <= {str(target) for target in TOOLKIT_TARGETS}


def test_arch_and_gates_do_not_import_torch() -> None:
    code = (
        "import sys, kernelpkg.arch, kernelpkg.gates; sys.exit(bool({'torch', 'pynvml'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
