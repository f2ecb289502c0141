"""What a build is for: under 1 s."""

import subprocess
import sys

import pytest

from kernelpkg.arch import CAPABILITIES, Capability, Detection, assume
from kernelpkg.build import add_native, allowed_targets, default_set, default_targets, native_targets
from kernelpkg.build.targets import resolve_targets
from kernelpkg.errors import UsageError

NOTHING = Detection((), "No NVIDIA driver is installed on this machine.")


def here(*what: str) -> Detection:
    return Detection(tuple(assume(one) for one in what), None)


@pytest.mark.parametrize(
    ("capability", "want"),
    [
        ("8.0", "8.0"),
        ("8.6", "8.6"),
        ("8.7", "8.7"),
        ("8.9", "8.9"),
        ("9.0", "9.0a"),
        ("10.0", "10.0f"),
        ("10.3", "10.0f"),
        ("11.0", "11.0"),
        ("12.0", "12.0f"),
        ("12.1", "12.0f"),
        ("7.5", ""),
        ("13.0", ""),
    ],
)
def test_native(capability, want):
    assert ",".join(map(str, native_targets(Capability.parse(capability)))) == want


def test_every_capability_answers():
    for capability in CAPABILITIES:
        native_targets(capability)


def test_resolve_native_of_two_gpus():
    assert [str(t) for t in resolve_targets("native", here("12.1", "9.0"))] == ["9.0a", "12.0f"]


def test_a_list_is_sorted_so_that_one_folder_serves_both_orders():
    assert (
        resolve_targets("12.0f,9.0a") == resolve_targets("9.0a 12.0f") == resolve_targets(["90a", "sm_120f"])
    )


def test_native_without_a_gpu_tells_to_give_targets():
    with pytest.raises(
        UsageError, match=r"needs a GPU and none is here \(No NVIDIA driver.*--arch 9\.0a,12\.0f"
    ):
        resolve_targets("native", NOTHING)


def test_native_on_a_gpu_no_gate_serves():
    with pytest.raises(UsageError, match=r"No gate admits the GPUs here: .*7\.5"):
        resolve_targets("native", here("7.5"))


@pytest.mark.parametrize("target", ["7.5", "12.1a", "9.0", "12.0"])
def test_a_target_no_gate_ships_lists_those_that_are(target):
    with pytest.raises(UsageError) as caught:
        resolve_targets(f"9.0a,{target}")
    assert target in str(caught.value)
    assert ", ".join(map(str, allowed_targets())) in str(caught.value)


def test_advice_for_a_near_miss():
    with pytest.raises(UsageError, match=r"on a 12\.1 device 12\.0f runs as it is"):
        resolve_targets("12.1a")


def test_defaults(monkeypatch):
    monkeypatch.delenv("KERNELPKG_SET", raising=False)
    assert default_targets(NOTHING) == "9.0a,12.0f"
    assert default_targets(here("12.1")) == "12.0f"
    assert default_targets(here("7.5")) == "9.0a,12.0f"
    assert default_set(NOTHING) == "test"
    assert default_set(here("9.0")) == "release"
    monkeypatch.setenv("KERNELPKG_SET", "test")
    assert default_set(here("9.0")) == "test"
    monkeypatch.setenv("KERNELPKG_SET", "all")
    with pytest.raises(UsageError, match="KERNELPKG_SET=all"):
        default_set(NOTHING)


def test_add_native():
    assert add_native("9.0a,12.0f", NOTHING) == "9.0a,12.0f"
    assert add_native("9.0a", here("8.9")) == "8.9,9.0a"


def test_import_needs_no_torch():
    code = "import sys, kernelpkg.build; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
