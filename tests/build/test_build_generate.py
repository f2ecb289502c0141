"""Generated files, source hashes and the catalogue: about 2 s."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from kernelpkg.arch import parse_targets
from kernelpkg.build import catalogue, generate, sources
from kernelpkg.build.instance import Instance
from kernelpkg.errors import UsageError
from kernelpkg.gates import GATES, GUARDS

TARGETS = parse_targets("9.0a,12.0f")


def instance(name="w8_a", kernel="marlin_w8a16", gate="marlin_16bit", sets=("test", "release"), **changes):
    values = {
        "name": name,
        "kernel": kernel,
        "gate": gate,
        "evidence": None,
        "declares": "mma16",
        "sets": frozenset(sets),
        "source": f'#include "marlin/instance.cuh"\n// {name}\n',
        "function": name,
    }
    return Instance(**(values | changes))


MEMBERS = (
    instance(),
    instance("w8_b", sets=("release",)),
    instance("w4a8", "marlin_w4a8_fp8", "marlin_fp8", declares="fp8_mma", cost_seconds=50.0),
    instance("w4a8_e", "marlin_w4a8_fp8_emulated", "marlin_fp8", declares="fp8_mma", evidence="emulated"),
    instance("mm89", "scaled_mm_sm89", "scaled_mm_sm89", declares="fp8_mma"),
    instance("mm90", "scaled_mm_sm90", "scaled_mm_sm90", declares="fp8_mma"),
)


def test_content(tmp_path):
    generate.generate("test", TARGETS, tmp_path, MEMBERS)
    assert (tmp_path / "kernelpkg_gates.h").is_file()
    assert (tmp_path / "kernelpkg_gates.cmake").is_file()
    assert sorted(path.stem for path in (tmp_path / "instances").iterdir()) == [
        "mm90",
        "w4a8",
        "w4a8_e",
        "w8_a",
    ]
    assert (tmp_path / "instances" / "w8_a.cu").read_text() == MEMBERS[0].source
    text = (tmp_path / "kernelpkg_sources.cmake").read_text()
    assert "kernelpkg_cuda_library(marlin_fp8 GATE marlin_fp8\n" in text
    assert "kernelpkg_cuda_library(marlin_w4a8_fp8_emulated GATE evidence_sm90\n" in text
    assert "kernelpkg_cuda_library(scaled_mm_sm90 GATE scaled_mm_sm90 CUTLASS\n" in text
    assert "scaled_mm_sm89" not in text  # its gate ships neither target
    assert "kernelpkg_host_library(bindings TORCH\n" in text
    plan = json.loads((tmp_path / "plan.json").read_text())
    by_file = {entry["file"]: entry for entry in plan["files"]}
    assert by_file["w8_a.cu"]["target"] == "9.0a,12.0f"
    assert by_file["w4a8.cu"]["target"] == "12.0f"
    assert by_file["w4a8_e.cu"]["target"] == "9.0a"
    assert by_file["w8_a.cu"]["cost_seconds"] == 20.0  # for two targets
    assert plan["files"][0]["file"] == "w4a8.cu"  # the dearest first


def test_a_second_run_touches_nothing(tmp_path):
    generate.generate("test", TARGETS, tmp_path, MEMBERS)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert generate.generate("test", TARGETS, tmp_path, MEMBERS) == ()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_only_what_changed_is_written_and_what_left_is_removed(tmp_path):
    generate.generate("test", TARGETS, tmp_path, MEMBERS)
    changed = (dataclasses.replace(MEMBERS[0], source="// new\n"), *MEMBERS[3:])
    names = {path.name for path in generate.generate("test", TARGETS, tmp_path, changed)}
    assert names == {"w8_a.cu", "w4a8.cu", "kernelpkg_sources.cmake", "plan.json"}
    assert not (tmp_path / "instances" / "w4a8.cu").exists()


def test_evidence_needs_its_own_target(tmp_path):
    generate.generate("test", parse_targets("12.0f"), tmp_path, MEMBERS)
    assert not (tmp_path / "instances" / "w4a8_e.cu").exists()


def test_release_is_all(tmp_path):
    generate.generate("release", TARGETS, tmp_path, MEMBERS)
    assert (tmp_path / "instances" / "w8_b.cu").exists()


def test_errors(tmp_path):
    with pytest.raises(UsageError, match=r"No kernel of set 'test' is built for 8\.9"):
        generate.generate("test", parse_targets("8.9"), tmp_path, MEMBERS[5:])
    with pytest.raises(UsageError, match="'all' is not a set"):
        generate.generate("all", TARGETS, tmp_path, MEMBERS)
    with pytest.raises(ValueError, match="not an identifier"):
        instance("a-b")
    with pytest.raises(ValueError, match="declares 'hmma'"):
        instance(declares="hmma")


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "kernelpkg.build.generate", "--targets", "9.0a,12.0f", "--out", tmp_path]
    done = subprocess.run([*command, "--set", "test"], capture_output=True, text=True, check=True)
    assert "file(s) changed" in done.stdout
    done = subprocess.run([*command, "--set", "some"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "error: 'some' is not a set of kernel instances; choose one of test, release.\n",
    )


# --- source hashes ---


@pytest.fixture
def csrc(tmp_path):
    for name, text in {
        "CMakeLists.txt": "",
        "marlin/instance.cuh": '#pragma once\n#include "common/deep.h"\n#include <vector>\n',
        "marlin/unused.cuh": "",
        "marlin/host.cpp": '#include "marlin.h"\n',
        "marlin/marlin.h": "",
        "common/deep.h": '  #  include "kernelpkg_gates.h"\n',
        "scaled_mm/launch.cpp": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_files_of_a_kernel(csrc):
    found = sources.kernel_files("marlin_w8a16", MEMBERS[:1], csrc)
    assert [path.relative_to(csrc).as_posix() for path in found] == [
        "common/deep.h",
        "marlin/host.cpp",
        "marlin/instance.cuh",
        "marlin/marlin.h",
    ]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("common/deep.h", True),
        ("marlin/instance.cuh", True),
        ("marlin/host.cpp", True),
        ("marlin/unused.cuh", False),
        ("scaled_mm/launch.cpp", False),
    ],
)
def test_hash_follows_the_files(csrc, name, changes):
    before = sources.source_hash("marlin_w8a16", MEMBERS, csrc)
    (csrc / name).write_text((csrc / name).read_text() + "// more\n")
    assert (sources.source_hash("marlin_w8a16", MEMBERS, csrc) != before) is changes


def test_hash_follows_the_catalogue(csrc):
    before = sources.source_hash("marlin_w8a16", MEMBERS, csrc)
    assert len(before) == 64
    assert sources.source_hash("marlin_w8a16", MEMBERS[::-1], csrc) == before
    other = (dataclasses.replace(MEMBERS[1], source="// new"), MEMBERS[0])
    assert sources.source_hash("marlin_w8a16", other, csrc) != before


def test_hash_of_an_unknown_kernel(csrc):
    with pytest.raises(UsageError, match="'marlin' is not a kernel"):
        sources.source_hash("marlin", MEMBERS, csrc)


def test_configure_hash_follows_settings_and_file_names(csrc, monkeypatch):
    monkeypatch.setattr(catalogue, "csrc_folder", lambda: csrc)
    first = sources.configure_hash("a")
    assert sources.configure_hash("a") == first != sources.configure_hash("b")
    (csrc / "marlin" / "host.cpp").write_text("// other text, same files")
    assert sources.configure_hash("a") == first
    (csrc / "marlin" / "more.cpp").touch()
    assert sources.configure_hash("a") != first


def test_no_sources_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(catalogue, "REPOSITORY", tmp_path)
    with pytest.raises(UsageError, match="installed wheel"):
        catalogue.csrc_folder()


# --- the real catalogue ---


def test_every_source_file_is_built_or_included():
    csrc = catalogue.csrc_folder()
    listed = {*catalogue.host_sources(), *catalogue.binding_sources()}
    assert {path for path in csrc.rglob("*.cpp")} == listed
    generated = "".join(member.source for member in catalogue.all_instances())
    for path in csrc.rglob("*.cu"):
        name = path.relative_to(csrc).as_posix()
        assert f'"{name}"' in generated or path in listed, f"{name} is compiled by nothing"


def test_catalogue_is_sound():
    gates = {gate.id for gate in (*GATES, *GUARDS)}
    members = catalogue.all_instances()
    for member in members:
        assert member.gate in gates
        assert (member.evidence is not None) == member.kernel.endswith(("_emulated", "_standin"))
        re.compile(member.function)
    # These take two minutes each to compile, and run on a Hopper device alone.
    untested = {"mxfp8_scaled_mm_sm120_standin", "nvfp4_scaled_mm_sm120_standin"}
    assert {m.kernel for m in members if "test" in m.sets} == {m.kernel for m in members} - untested


@pytest.mark.parametrize("target", [str(target) for gate in GATES for target in gate.ships])
def test_instance_budget(target):
    """At most 80 Marlin and 28 CUTLASS instances per target; evidence kernels (9.0a alone) come on top."""
    members = catalogue.instances_of("release", parse_targets(target))
    members = [member for member in members if member.evidence is None]
    assert sum(member.kernel.startswith("marlin") for member in members) <= 80
    assert sum(member.kernel.startswith("scaled_mm") for member in members) <= 28
