"""Reading a built library back against a catalogue, and against mutations of it. About three seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kernelpkg.binaries import expected_verdict, load_on_device, read_back, targets_of
from kernelpkg.build.instance import Instance


def instance(name: str, function: str, declares: str, gate: str, **changes: object) -> Instance:
    return Instance(
        name=name,
        kernel=str(changes.pop("kernel", name)),
        gate=gate,
        evidence=changes.pop("evidence", None),  # type: ignore[arg-type]
        declares=declares,
        sets=frozenset({"test"}),
        source="",
        function=function,
    )


HALF = instance("half_tile", r"probes::half\(", "mma16", "marlin_16bit", kernel="marlin_w8a16")
FP8 = instance("fp8_tile", r"probes::fp8<1>", "fp8_mma", "marlin_fp8", kernel="marlin_w4a8_fp8")
EMULATED = instance(
    "fp8_emulated", r"probes::fp8<2>", "fp8_mma", "marlin_fp8", kernel="emulated", evidence="emulated"
)
REPACK = instance("repack", r"probes::shared\(", "none", "marlin_16bit", kernel="marlin_repack")
CATALOGUE = (HALF, REPACK)
TARGETS = ("9.0a", "12.0f")


@pytest.fixture(scope="module")
def library(built: dict[str, Path], toolkit) -> Path:
    """A library of machine code alone, as a build makes it."""
    options = [
        "-c",
        "-Xcompiler=-fPIC",
        *(f"-gencode=arch=compute_{one},code=sm_{one}" for one in ("90a", "120f")),
    ]
    return toolkit.link("release.so", toolkit.compile("release.o", *options))


def problems(library: Path, *instances: Instance, targets: tuple[str, ...] = TARGETS) -> tuple[str, ...]:
    return read_back(library, instances, targets).problems


def test_a_library_that_holds_what_was_asked(library: Path) -> None:
    answer = read_back(library, CATALOGUE, TARGETS)
    assert answer.problems == ()
    mine = [(one.instance, one.kernel, one.target, one.verdict) for one in answer.functions if one.instance]
    assert sorted(mine) == [
        ("half_tile", "marlin_w8a16", "12.0f", "native"),
        ("half_tile", "marlin_w8a16", "9.0a", "native"),
        ("repack", "marlin_repack", "12.0f", "no mma"),
        ("repack", "marlin_repack", "9.0a", "no mma"),
    ]
    assert (library.parent / "inspection-cache.json").is_file()


def test_expectations_follow_gate_and_evidence() -> None:
    assert [str(target) for target in targets_of(HALF, TARGETS)] == ["9.0a", "12.0f"]
    assert [str(target) for target in targets_of(FP8, TARGETS)] == ["12.0f"]
    assert [str(target) for target in targets_of(EMULATED, TARGETS)] == ["9.0a"]
    assert [expected_verdict(one) for one in (HALF, FP8, EMULATED, REPACK)] == [
        "native",
        "native",
        "emulated",
        "no mma",
    ]


def test_a_missing_target_is_named(library: Path) -> None:
    found = problems(library, HALF, targets=("8.9", "9.0a", "12.0f"))
    assert found == (
        "half_tile (marlin_w8a16) for 8.9: missing in release.so, "
        "which has it for 12.0f (cubin), 9.0a (cubin) only",
    )


def test_a_missing_function_is_named(library: Path) -> None:
    found = problems(library, replace(HALF, function=r"probes::third\("))
    assert len(found) == 2 and all("half_tile (marlin_w8a16) for" in one for one in found)
    assert "matches 'probes::third" in found[0]


@pytest.mark.parametrize("body", ["guarded", "silent"])
def test_a_dead_function_is_named(library: Path, body: str) -> None:
    found = problems(library, replace(HALF, function=rf"probes::{body}\("), targets=TARGETS)
    assert len(found) == 2
    assert "half_tile (marlin_w8a16) for 12.0f: reads 'dead', should read 'native'" in found[1]


def test_shipped_fp8_that_reads_emulated_is_a_problem(library: Path) -> None:
    # A gate that ships 9.0a, behind a kernel whose mma.sync ptxas emulates there.
    wrong = replace(FP8, gate="scaled_mm_sm90")
    (found,) = [one for one in problems(library, wrong) if "reads" in one]
    assert found.startswith("fp8_tile (marlin_w4a8_fp8) for 9.0a: reads 'emulated', should read 'native'")


def test_evidence_must_read_emulated(library: Path) -> None:
    assert not [one for one in problems(library, EMULATED) if "reads" in one]
    wrong = replace(EMULATED, function=r"probes::guarded\(")
    assert any("for 9.0a: reads 'dead', should read 'emulated'" in one for one in problems(library, wrong))


def test_code_for_a_target_that_its_gate_does_not_ship(library: Path) -> None:
    assert problems(library, FP8) == (
        "fp8_tile (marlin_w4a8_fp8) for 9.0a: its gate does not ship this target",
    )


def test_targets_that_nobody_requested(library: Path, built: dict[str, Path]) -> None:
    (found,) = problems(library, HALF, targets=("12.0f",))
    assert "holds machine code for 9.0a, which nobody requested (requested: 12.0f)" in found
    (found,) = problems(built["family.so"], HALF)
    assert "holds PTX for 9.0a, which nobody requested" in found


def test_portable_code_is_no_family_code(toolkit, built: dict[str, Path]) -> None:
    library = toolkit.link("portable.so", built["portable.o"])
    portable = replace(HALF, function=r"probes::half_portable\(")
    found = problems(library, portable, targets=("12.0f",))
    assert any("for 12.0f: missing" in one for one in found)
    assert any("machine code for 12.0, which nobody requested" in one for one in found)


def test_a_library_without_device_code(tmp_path: Path, toolkit) -> None:
    source = tmp_path / "host.cpp"
    source.write_text("int one() { return 1; }\n")
    library = toolkit.link("host.so", toolkit.compile("host.o", "-c", "-Xcompiler=-fPIC", source=source))
    assert len(problems(library, HALF)) == 2


def test_loading_on_a_device(library: Path) -> None:
    """On a GPU the driver takes exactly what the loading rules say; without one the answer is unproved."""
    report = load_on_device(library)
    if report.capability is None:
        assert report.status == "unproved" and report.reason.endswith("nothing was loaded.")
        return
    assert all(image.agrees for image in report.images), report
    assert report.status == ("pass" if any(image.loaded for image in report.images) else "fail")
