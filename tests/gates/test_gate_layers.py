"""The generated files, the five layers' agreement, and broken copies of the table that must be caught."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernelpkg.arch import CAPABILITIES, TOOLKIT_TARGETS, Target
from kernelpkg.errors import CheckFailed, UsageError
from kernelpkg.gates import (
    GATES,
    GUARDS,
    LAYERS,
    agreement,
    at_least_89,
    exact,
    exact_120,
    gate,
    mutated,
    require_agreement,
    unbounded,
)
from kernelpkg.gates.generate import generate
from kernelpkg.gates.probes import (
    Cache,
    LayerUnavailable,
    Tools,
    ask_cmake,
    ask_device_guard,
    ask_host_header,
    judge_probe,
)

TOOLS = Tools.find()
needs_cxx = pytest.mark.skipif(TOOLS.cxx is None, reason="no C++ compiler on this machine")
needs_cmake = pytest.mark.skipif(TOOLS.cmake is None, reason="no cmake on this machine")
needs_nvcc = pytest.mark.skipif(
    TOOLS.nvcc is None or TOOLS.disassembler is None, reason="no nvcc or no disassembler on this machine"
)
# Each layer is left out where its tool is missing; `test_a_layer_that_cannot_be_asked` covers that case.
AVAILABLE = [
    pytest.param(layer, marks=marks)
    for layer, marks in {
        "host_header": [needs_cxx],
        "cmake": [needs_cmake],
        "device_guard": [needs_nvcc],
        "codegen": [],
        "python": [],
    }.items()
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache of this run's own, so that the first question is really asked."""
    return Cache(tmp_path_factory.mktemp("probes"))


# ------------------------------------------------------------------------------------------ generation


def test_the_command_writes_both_files_and_leaves_unchanged_ones_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kernelpkg.gates.generate", "--out", str(tmp_path / "new")]
    written = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert [Path(path).name for path in written] == ["kernelpkg_gates.h", "kernelpkg_gates.cmake"]
    dates = [os.stat(path).st_mtime_ns for path in written]
    subprocess.run(command, check=True, capture_output=True)
    assert [os.stat(path).st_mtime_ns for path in written] == dates
    generate(tmp_path / "new", exact_120())
    assert [os.stat(path).st_mtime_ns for path in written] != dates


@needs_cxx
def test_the_header_stands_alone_and_refuses_in_pythons_words(cache: Cache) -> None:
    answers = ask_host_header(GATES, CAPABILITIES, TOOLS, cache)
    assert len(answers) == len(GATES) * len(CAPABILITIES)
    for (gate_id, capability), (admits, said) in answers.items():
        answer = gate(gate_id).ask(capability)
        assert admits == answer.admitted
        assert said == ("admitted" if admits else answer.reason)


@needs_cxx
def test_the_header_is_constexpr_and_never_device_code_on_the_host(tmp_path: Path) -> None:
    generate(tmp_path)
    lines = ['#include "kernelpkg_gates.h"', "using namespace kernelpkg::gates;"]
    for one in (*GATES, *GUARDS):
        lines.append(f"static_assert(!{one.id}::kDeviceCode);")
        for capability in CAPABILITIES:
            sign = "" if one.ask(capability) else "!"
            lines.append(f"static_assert({sign}{one.id}::admits({capability.major}, {capability.minor}));")
    (tmp_path / "check.cpp").write_text("\n".join(lines) + "\n")
    command = [str(TOOLS.cxx), "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "check.cpp"]
    subprocess.run(command, cwd=tmp_path, check=True)


@needs_cmake
def test_cmake_lists_are_the_requested_targets_that_are_shipped(tmp_path: Path) -> None:
    requested = [Target.parse(one) for one in ("9.0a", "12.0f", "8.9")]
    lists = ask_cmake(GATES, requested, TOOLS)
    assert {gate_id: [target.cmake for target in found] for gate_id, found in lists.items()} == {
        "marlin_16bit": ["89-real", "90a-real", "120f-real"],
        "marlin_fp8": ["89-real", "120f-real"],
        "scaled_mm_sm89": ["89-real"],
        "scaled_mm_sm90": ["90a-real"],
        "scaled_mm_sm100": [],
        "scaled_mm_sm120": ["120f-real"],
    }
    generate(tmp_path)
    (tmp_path / "ask.cmake").write_text(
        'include("kernelpkg_gates.cmake")\n'
        'kernelpkg_gate_targets(evidence_sm90 "90a-real;120f" evidence)\n'
        'message(STATUS "evidence=${evidence}")\n'
        'kernelpkg_gate_targets(marlin_fp16 "90a" none)\n'
    )
    done = subprocess.run([str(TOOLS.cmake), "-P", "ask.cmake"], cwd=tmp_path, capture_output=True, text=True)
    assert "evidence=90a-real" in done.stdout
    assert done.returncode != 0 and "no gate 'marlin_fp16'" in done.stderr


# ------------------------------------------------------------------------------------------ the guard


def test_a_probe_is_judged_by_its_store_and_its_trap() -> None:
    assert judge_probe("        /*0040*/    STG.E desc[UR4][R2.64], R5 ;") == "alive"
    assert judge_probe("        /*0040*/    ST.E [R2.64], R5 ;\n BPT.TRAP 0x1 ;") == "alive"
    assert judge_probe("        /*0010*/    BPT.TRAP 0x1 ;\n EXIT ;") == "dead"
    assert judge_probe("        /*0010*/    EXIT ;\n        /*0050*/  STL [R1], R2 ;") == "silent"


@needs_nvcc
def test_the_guard_leaves_code_for_shipped_targets_and_a_trap_for_all_others(cache: Cache) -> None:
    targets = [
        Target.parse(one) for one in ("8.9", "9.0", "9.0a", "12.0", "12.0a", "12.0f", "12.1a", "12.1f")
    ]
    verdicts = ask_device_guard(GATES, targets, TOOLS, cache)
    for target in targets:
        for one in (*GATES, *GUARDS):
            expected = "alive" if target in one.ships else "dead"
            assert verdicts[target][one.id] == expected, (one.id, str(target))


# -------------------------------------------------------------------------------------------- agreement


@needs_cxx
@needs_cmake
@needs_nvcc
def test_all_five_layers_agree_on_every_gate_and_capability(cache: Cache) -> None:
    found = agreement(cache=cache)
    require_agreement(found)
    assert found.agreed and found.unavailable == {} and found.disagreements == ()
    assert len(found) == len(GATES) * len(CAPABILITIES) * len(LAYERS) == 6 * 13 * 5
    assert {row.layer for row in found} == set(LAYERS)
    assert all(isinstance(row.admits, bool) and row.reason for row in found)
    assert found.summary == "5 layers asked about 6 gates and 13 capabilities: no disagreement"
    assert found.seconds < 60
    row = found.rows[0]
    assert dict(row) == {
        key: getattr(row, key) for key in ("gate", "layer", "capability", "admits", "reason")
    }
    again = agreement(cache=cache)
    assert again.rows == found.rows and again.seconds < 5


@pytest.mark.parametrize("layer", AVAILABLE)
def test_an_exact_120_in_one_layer_is_caught_and_named(layer: str, cache: Cache) -> None:
    others = {"python", "codegen", layer, "cmake" if TOOLS.cmake else "codegen"}
    asked = [one for one in LAYERS if one in others]
    found = agreement(
        capabilities=["9.0", "12.0", "12.1", "12.2", "13.0"],
        layers=asked,
        overrides={layer: exact_120()},
        cache=cache,
    )
    assert {(one.gate, one.capability) for one in found.disagreements} == {
        ("scaled_mm_sm120", "12.1"),
        ("scaled_mm_sm120", "12.2"),
    }
    for one in found.disagreements:
        assert layer in one.odd and one.refuse == (layer,)
        if len(asked) > 2:
            assert one.odd == (layer,)
    with pytest.raises(
        CheckFailed, match=f"scaled_mm_sm120 at 12.1: .* refused by {layer}; look at .*{layer}"
    ):
        require_agreement(found)


@pytest.mark.parametrize("layer", AVAILABLE)
def test_fp8_from_89_up_in_one_layer_is_caught(layer: str, cache: Cache) -> None:
    found = agreement(
        capabilities=["8.9", "9.0", "10.0", "10.3", "11.0"],
        layers=[*{layer, "python", "codegen"}],
        overrides={layer: at_least_89()},
        cache=cache,
    )
    assert {(one.gate, one.capability) for one in found.disagreements} == {
        ("marlin_fp8", capability) for capability in ("9.0", "10.0", "10.3", "11.0")
    }
    assert all(layer in one.admit for one in found.disagreements)


@pytest.mark.parametrize("layer", [param for param in AVAILABLE if param.values[0] != "device_guard"])
def test_an_unbounded_family_in_one_layer_is_caught(layer: str, cache: Cache) -> None:
    found = agreement(layers=[*{layer, "python", "codegen"}], overrides={layer: unbounded()}, cache=cache)
    assert [(one.gate, one.capability) for one in found.disagreements] == [("scaled_mm_sm120", "13.0")]
    assert found.disagreements[0].admit == (layer,)


@needs_nvcc
def test_a_guard_for_code_that_no_toolkit_makes_counts_as_not_asked(cache: Cache) -> None:
    found = agreement(
        capabilities=["13.0"],
        layers=["device_guard", "python"],
        overrides={"device_guard": unbounded()},
        cache=cache,
    )
    assert not found.agreed and "nvcc for 13.0" in found.unavailable["device_guard"]


@needs_nvcc
def test_a_guard_that_asks_for_the_device_in_place_of_the_target_is_caught(cache: Cache) -> None:
    # __CUDA_ARCH__ is 1200 inside 12.0f code wherever it runs: a guard written for 12.1 kills that code.
    wrong = mutated("marlin_fp8", ships=("8.9", "12.1a"))
    found = agreement(
        capabilities=["12.0", "12.1", "12.2"],
        layers=["device_guard", "python"],
        overrides={"device_guard": wrong},
        cache=cache,
    )
    assert {one.capability for one in found.disagreements} == {"12.0", "12.2"}
    reasons = {row.capability: row.reason for row in found if row.gate == "marlin_fp8" and not row.admits}
    assert "the 12.0f code loads here but the guard left only its trap" in reasons["12.0"]


@needs_nvcc
def test_a_guard_without_its_trap_is_told_from_a_dead_kernel(cache: Cache, tmp_path: Path) -> None:
    silent = tmp_path / "guard.cuh"
    assert TOOLS.guard is not None
    silent.write_text(TOOLS.guard.read_text().replace("__trap();", ""))
    wrong = mutated("scaled_mm_sm90", ships=("8.9",))
    found = agreement(
        capabilities=["9.0"],
        layers=["device_guard", "python"],
        overrides={"device_guard": wrong},
        guard=silent,
        cache=cache,
    )
    (row,) = [row for row in found if row.gate == "scaled_mm_sm90" and row.layer == "device_guard"]
    assert row.admits is False and "returns silently" in row.reason


def test_a_mutated_code_generator_is_caught() -> None:
    def drops_family_code(one: object, requested: object) -> list[Target]:
        return [target for target in TOOLKIT_TARGETS if target in one.ships and target.suffix != "f"]  # type: ignore[attr-defined]

    found = agreement(layers=["codegen", "python"], codegen=drops_family_code)
    assert {one.gate for one in found.disagreements} == {
        *("marlin_16bit", "marlin_fp8", "scaled_mm_sm100", "scaled_mm_sm120"),
    }


def test_a_layer_that_cannot_be_asked_never_counts_as_agreeing(tmp_path: Path) -> None:
    nothing = Tools(cxx=None, cmake=None, nvcc=None, disassembler=None, guard=None)
    found = agreement(tools=nothing, cache=Cache(tmp_path))
    assert set(found.unavailable) == {"host_header", "cmake", "device_guard"}
    assert not found.agreed and not found.disagreements
    assert all((row.admits is None) == (row.layer in found.unavailable) for row in found)
    assert "2 layers asked" in found.summary and "device_guard not asked (no nvcc" in found.summary
    with pytest.raises(CheckFailed, match="device_guard could not be asked: no nvcc"):
        require_agreement(found)


def test_a_tool_that_fails_makes_its_layer_unavailable(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'licence expired' >&2\nexit 3\n")
    broken.chmod(0o755)
    found = agreement(
        capabilities=["9.0"], nvcc=broken, cmake=broken, cxx=broken, disassembler=broken, cache=Cache(None)
    )
    assert set(found.unavailable) == {"host_header", "cmake", "device_guard"}
    assert all("licence expired" in reason for reason in found.unavailable.values())
    with pytest.raises(LayerUnavailable, match="could not be run"):
        ask_cmake(GATES, TOOLKIT_TARGETS, Tools(None, str(tmp_path / "none"), None, None, None))


def test_unknown_layers_and_gates_are_refused() -> None:
    with pytest.raises(UsageError, match="host_header"):
        agreement(layers=["kernel"])
    with pytest.raises(UsageError, match="host_header"):
        agreement(overrides={"kernel": GATES})
    with pytest.raises(UsageError, match="marlin_fp8"):
        mutated("marlin_fp4", admits=[exact("9.0")])


@needs_nvcc
@pytest.mark.parametrize("name", ["nvdisasm", "cuobjdump"])
def test_either_disassembler_gives_the_same_verdicts(name: str, cache: Cache) -> None:
    program = Path(str(TOOLS.disassembler)).parent / name
    if not program.exists():
        pytest.skip(f"{name} does not stand beside {TOOLS.disassembler}")
    tools = Tools.find(disassembler=program)
    verdicts = ask_device_guard(GATES, [Target.parse("12.0f")], tools, cache)[Target.parse("12.0f")]
    assert {gate_id for gate_id, verdict in verdicts.items() if verdict == "alive"} == {
        *("marlin_16bit", "marlin_fp8", "scaled_mm_sm120"),
    }
    assert set(verdicts.values()) == {"alive", "dead"}
