"""Which library is found: under 1 s."""

import json
import os

import pytest

from kernelpkg.arch import Capability, parse_targets
from kernelpkg.build import catalogue, manifest
from kernelpkg.build.manifest import find_library, library_identity, usable_manifest, write_atomically
from kernelpkg.errors import UsageError


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("KERNELPKG_LIBRARY", raising=False)
    monkeypatch.delenv("KERNELPKG_BUILD_DIR", raising=False)
    monkeypatch.setattr(manifest, "WHEEL_FOLDER", tmp_path / "wheel")


def made(root, name, targets, age, status="done"):
    """A finished build in root/name, `age` seconds old."""
    folder = root / name
    folder.mkdir(parents=True)
    library = folder / "libkernelpkg_ops.so"
    library.write_bytes(name.encode())
    write_atomically(folder / "state.json", {"status": status})
    write_atomically(
        folder / "manifest.json", {"schema": 1, "targets": targets, "library": library_identity(library)}
    )
    stamp = 1_700_000_000 - age
    os.utime(folder / "manifest.json", (stamp, stamp))
    return folder


def test_the_newest_with_code_for_the_capability(tmp_path):
    made(tmp_path, "a", ["9.0a"], age=10)
    made(tmp_path, "b", ["12.0f"], age=20)
    made(tmp_path, "c", ["12.0f"], age=30)
    assert find_library(Capability(12, 1), tmp_path).path.parent.name == "b"
    assert find_library(Capability(9, 0), tmp_path).path.parent.name == "a"
    assert find_library(Capability(8, 0), tmp_path).path.parent.name == "a"  # none has code: the newest
    assert find_library(None, tmp_path).path.parent.name == "a"


def test_nothing_is_none(tmp_path):
    assert find_library(None, tmp_path / "none") is None


def test_failed_changed_and_unfinished_builds_are_ignored(tmp_path):
    made(tmp_path, "failed", ["9.0a"], age=1, status="failed")
    relinked = made(tmp_path, "relinked", ["9.0a"], age=2)
    (relinked / "libkernelpkg_ops.so").write_bytes(b"half a libr")
    bare = made(tmp_path, "bare", ["9.0a"], age=3)
    (bare / "manifest.json").unlink()
    torn = made(tmp_path, "torn", ["9.0a"], age=4)
    (torn / "manifest.json").write_text('{"schema": 1, "tar')
    assert find_library(None, tmp_path) is None
    cancelled = made(tmp_path, "cancelled", ["9.0a"], age=5, status="cancelled")
    assert find_library(None, tmp_path).path.parent == cancelled


def test_a_wheels_library_serves_where_no_build_is(tmp_path):
    folder = made(tmp_path, "wheel", ["9.0a"], age=0)
    os.utime(folder / "libkernelpkg_ops.so", (1, 1))  # unpacking changed its date
    assert find_library(None, tmp_path / "builds").path.parent == folder
    made(tmp_path / "builds", "mine", ["12.0f"], age=0)
    assert find_library(None, tmp_path / "builds").path.parent.name == "mine"
    assert find_library(Capability(9, 0), tmp_path / "builds").path.parent == folder


def test_environment_names_a_library(tmp_path, monkeypatch):
    folder = made(tmp_path, "a", ["9.0a"], age=0)
    monkeypatch.setenv("KERNELPKG_LIBRARY", str(folder / "libkernelpkg_ops.so"))
    assert find_library().targets == parse_targets("9.0a")
    (folder / "manifest.json").unlink()
    assert find_library().manifest == {}
    monkeypatch.setenv("KERNELPKG_LIBRARY", "/nope.so")
    with pytest.raises(UsageError, match=r"KERNELPKG_LIBRARY=/nope\.so is not a file"):
        find_library()


def test_environment_names_the_folder(tmp_path, monkeypatch):
    made(tmp_path, "a", ["9.0a"], age=0)
    monkeypatch.setenv("KERNELPKG_BUILD_DIR", str(tmp_path))
    assert find_library().path.parent.name == "a"


def test_identity_is_not_hashed_again_for_an_unchanged_file(tmp_path):
    folder = made(tmp_path, "a", ["9.0a"], age=0)
    library = folder / "libkernelpkg_ops.so"
    first = library_identity(library)
    assert library_identity(library, {**first, "sha256": "known"})["sha256"] == "known"
    library.write_bytes(b"other")
    assert library_identity(library, first)["sha256"] != first["sha256"]


def test_atomic_write_leaves_no_scratch_file(tmp_path):
    write_atomically(tmp_path / "x.json", {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


def test_other_schema_is_not_usable(tmp_path):
    folder = made(tmp_path, "a", ["9.0a"], age=0)
    data = json.loads((folder / "manifest.json").read_text()) | {"schema": 99}
    write_atomically(folder / "manifest.json", data)
    assert usable_manifest(folder) is None


def test_a_route_behind_a_guard_does_not_narrow_its_kernel():
    targets = parse_targets("9.0a,12.0f")
    entry = manifest.kernels_entry(catalogue.instances_of("test", targets), targets)
    for name in ("marlin_w8a16", "marlin_w4a16", "marlin_repack"):
        assert entry[name]["targets"] == ["9.0a", "12.0f"] and entry[name]["gate"] == "marlin_16bit", name
    assert any("wgmma" in instance for instance in entry["marlin_w8a16"]["instances"])
    assert entry["marlin_w4a8_fp8_emulated"]["targets"] == ["9.0a"]
