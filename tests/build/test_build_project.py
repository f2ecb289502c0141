"""A tiny real project, built by the real driver, CMake and compilers: about 15 s. Needs nvcc, no GPU.

The repository's build code is copied with a catalogue of one small kernel and a read-back of its own, so that
faults can be planted in every step.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernelpkg.build import ToolchainMissing, find_toolchain
from kernelpkg.build.catalogue import REPOSITORY
from kernelpkg.build.process import session_members

INSTANCES = """
from kernelpkg.build.instance import Instance
SOURCE = '''#include "marlin/tiny.cuh"
TINY(tiny_a, marlin_16bit)
'''
def instances():
    return (Instance("tiny_a", "marlin_w8a16", "marlin_16bit", None, "none", frozenset({"test", "release"}),
                     SOURCE, "tiny_a", None, 2.0),)
"""
NONE = "def instances():\n    return ()\n"
HEADER = """#pragma once
#include "common/guard.cuh"
#define TINY(NAME, GATE)                                            \\
  template <class Gate> __global__ void NAME(float* x) {            \\
    if constexpr (!Gate::kDeviceCode) { kernelpkg::guard_trap(); return; } else { x[threadIdx.x] += 1.0f; } \\
  }                                                                 \\
  void launch_##NAME(float* x) { NAME<kernelpkg::gates::GATE><<<1, 32>>>(x); }
"""
READ_BACK = """
from types import SimpleNamespace
from pathlib import Path
def read_back(library, instances, targets):
    fault = Path(__file__).with_name("fault")
    problems = (fault.read_text(),) if fault.exists() else ()
    Path(__file__).with_name("calls").open("a").write("x")
    return SimpleNamespace(functions=({"function": "tiny_a", "target": "12.0f"},), problems=problems)
"""
# A compiler that hangs on slow.cpp, with a child of its own as nvcc has.
WRAPPER = """#!/bin/sh
case "$*" in *-c*slow.cpp*) if [ -e {root}/slow ]; then touch {root}/began; sleep 300 & sleep 300; fi;; esac
exec g++ "$@"
"""
# An editable install's import hook would come before PYTHONPATH and lead back to the repository.
COPY = """
import sys
from importlib.machinery import PathFinder
sys.meta_path.insert(0, PathFinder)
"""
BUILD = """
import json, signal, threading
from kernelpkg.build import build, catalogue
# A shell starts its background jobs, and so perhaps these tests, with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
assert catalogue.REPOSITORY == __import__("pathlib").Path(__file__).parent, catalogue.REPOSITORY
events, cancel = [], threading.Event()
def on_event(event):
    events.append([event.kind, event.file, event.done, event.total])
    if "--cancel" in sys.argv and event.kind == "start" and "slow" in event.file:
        cancel.set()
answer = {}
try:
    result = build("12.0f", "test", on_event=on_event, cancel=cancel, jobs=2)
    answer = {"files": {f.file: [f.target, f.cached] for f in result.files}, "library": str(result.library),
              "seconds": result.seconds, "manifest": result.manifest}
except BaseException as error:
    answer = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(answer | {"events": events, "torch": "torch" in sys.modules}))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    try:
        find_toolchain()
    except ToolchainMissing as error:
        pytest.skip(f"no toolchain to build with: {error}")
    root = tmp_path_factory.mktemp("project")
    for part in ("__init__.py", "errors.py"):
        (root / "kernelpkg").mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / "kernelpkg" / part, root / "kernelpkg" / part)
    for part in ("arch", "gates", "build"):
        shutil.copytree(REPOSITORY / "kernelpkg" / part, root / "kernelpkg" / part)
    files = {
        "kernelpkg/build/instances_marlin.py": INSTANCES,
        "kernelpkg/build/instances_scaled_mm.py": NONE,
        "kernelpkg/build/instances_blockscaled.py": NONE,
        "kernelpkg/binaries/__init__.py": READ_BACK,
        "csrc/marlin/tiny.cuh": HEADER,
        "csrc/marlin/slow.cpp": "int slow() { return 1; }\n",
        "csrc/marlin/fast.cpp": "int fast() { return 2; }\n",
        "csrc/CMakeLists.txt": (REPOSITORY / "csrc" / "CMakeLists.txt").read_text(),
        "csrc/common/guard.cuh": (REPOSITORY / "csrc" / "common" / "guard.cuh").read_text(),
        "c++": WRAPPER.format(root=root),
        "run.py": COPY + BUILD,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "c++").chmod(0o755)
    return root


def environment(project: Path) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("KERNELPKG_")}
    return env | {"PYTHONPATH": str(project), "CXX": str(project / "c++"), "LC_ALL": "C"}


def start(project: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(project / "run.py"), *arguments],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(project: Path, *arguments: str) -> dict:
    running = start(project, *arguments)
    try:
        output, _ = running.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        running.send_signal(2)
        output, _ = running.communicate(timeout=20)
    return json.loads(output.splitlines()[-1])


def folder(project: Path) -> Path:
    return project / "build" / "test-12.0f"


def kinds(answer: dict) -> list[str]:
    return [event[0] for event in answer["events"]]


def compilers(project: Path) -> list[str]:
    """Command lines of the processes that hang on slow.cpp for this project."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(project) in text and "slow.cpp" in text:
            found.append(text)
    return found


# The tests below go on from each other's state, in this order.


def test_cancel_stops_the_compilers(project):
    (project / "slow").touch()
    answer = run(project, "--cancel")
    assert answer["error"] == "BuildCancelled"
    assert "the next build goes on from there" in answer["message"]
    assert kinds(answer)[-1] == "cancelled"
    assert compilers(project) == []
    assert not (folder(project) / "manifest.json").exists()
    assert json.loads((folder(project) / "state.json").read_text())["status"] == "cancelled"


def test_an_interrupt_stops_them_too(project):
    (project / "began").unlink(missing_ok=True)
    running = start(project)
    deadline = time.monotonic() + 30
    while not (project / "began").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert compilers(project)
    running.send_signal(2)
    output, _ = running.communicate(timeout=20)
    answer = json.loads(output.splitlines()[-1])
    assert answer["error"] == "KeyboardInterrupt"
    assert kinds(answer)[-1] == "cancelled"
    assert compilers(project) == []
    assert session_members(running.pid) == []


def test_the_next_build_goes_on_and_ends(project):
    (project / "slow").unlink()
    answer = run(project)
    assert answer.get("error") is None, answer
    assert answer["files"]["tiny_a.cu"][0] == "12.0f"
    assert answer["files"]["csrc/marlin/slow.cpp"] == ["host", False]
    assert set(answer["files"]) == {"tiny_a.cu", "csrc/marlin/slow.cpp", "csrc/marlin/fast.cpp"}
    order = kinds(answer)
    assert order[0] == "toolchain"
    assert order.index("plan") < order.index("file") < order.index("link") < order.index("verify")
    assert order[-1] == "done"
    last = [event for event in answer["events"] if event[0] == "file"][-1]
    assert last[2] == last[3] == order.count("file")
    manifest = json.loads((folder(project) / "manifest.json").read_text())
    assert manifest == answer["manifest"]
    assert manifest["kernels"]["marlin_w8a16"]["targets"] == ["12.0f"]
    assert manifest["functions"] == [{"function": "tiny_a", "target": "12.0f"}]


def test_a_build_that_changes_nothing_is_quick(project):
    calls = (project / "kernelpkg" / "binaries" / "calls").read_text()
    before = (folder(project) / "libkernelpkg_ops.so").stat().st_mtime_ns
    began = time.monotonic()
    answer = run(project)
    assert time.monotonic() - began < 2
    assert kinds(answer) == ["toolchain", "done"]
    assert all(cached for _, cached in answer["files"].values())
    assert not answer["torch"]
    assert (folder(project) / "libkernelpkg_ops.so").stat().st_mtime_ns == before
    assert (project / "kernelpkg" / "binaries" / "calls").read_text() == calls  # not read back again


def test_touching_one_file_rebuilds_that_file(project):
    os.utime(project / "csrc" / "marlin" / "fast.cpp")
    answer = run(project)
    assert [name for name, (_, cached) in answer["files"].items() if not cached] == ["csrc/marlin/fast.cpp"]
    assert "configure" not in kinds(answer)


def test_touching_a_header_rebuilds_what_includes_it(project):
    os.utime(project / "csrc" / "marlin" / "tiny.cuh")
    answer = run(project)
    assert [name for name, (_, cached) in answer["files"].items() if not cached] == ["tiny_a.cu"]


def test_an_error_names_the_file(project):
    path = project / "csrc" / "marlin" / "fast.cpp"
    good = path.read_text()
    path.write_text("int fast() { return nothing; }\n")
    answer = run(project)
    assert answer["error"] == "BuildError"
    assert answer["message"].startswith("Compiling csrc/marlin/fast.cpp failed: ")
    assert "was not declared in this scope" in answer["message"]
    assert kinds(answer)[-1] == "failed"
    assert "file" not in kinds(answer)
    assert json.loads((folder(project) / "state.json").read_text())["status"] == "failed"
    path.write_text(good)
    assert run(project).get("error") is None


def test_a_dead_function_fails_the_build_by_name_until_it_is_mended(project):
    fault = project / "kernelpkg" / "binaries" / "fault"
    fault.write_text("tiny_a (marlin_w8a16) for 12.0f: reads 'dead'")
    (project / "csrc" / "marlin" / "fast.cpp").write_text("int fast() { return 3; }\nint more = 4;\n")
    for _ in range(2):  # the second finds everything compiled, and must fail all the same
        answer = run(project)
        assert answer["error"] == "BuildError"
        assert "tiny_a (marlin_w8a16) for 12.0f: reads 'dead'" in answer["message"]
    assert found(project) == "None\n"
    fault.unlink()
    assert run(project).get("error") is None
    assert "libkernelpkg_ops.so" in found(project)


def found(project: Path) -> str:
    code = COPY + "from kernelpkg.build import find_library; print(find_library())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(project),
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
