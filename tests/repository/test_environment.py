"""The three descriptions of the environment agree, and resolve on the machines that users have."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = ("notebooks", "cuda", "test")


def declared() -> set[str]:
    project = PROJECT["project"]
    return {
        *project["dependencies"],
        *(r for extra in EXTRAS for r in project["optional-dependencies"][extra]),
    }


def pins() -> dict[str, str]:
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        match = re.match(r"([A-Za-z0-9_.-]+)==([^\s;]+)", line)
        if match:
            found[normal(match[1])] = match[2]
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_environment_yml_names_what_pyproject_names():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip[0] == "-c constraints.txt"
    backend = {"scikit-build-core>=0.11"}
    assert backend <= set(PROJECT["build-system"]["requires"])
    assert set(pip[1:]) == declared() | backend
    assert any(str(entry).startswith("python=3.1") for entry in environment["dependencies"])


def test_every_declared_dependency_is_pinned():
    names = {normal(re.match(r"[A-Za-z0-9_.-]+", requirement)[0]) for requirement in declared()}
    assert names <= set(pins())


def test_cuda_wheels_are_of_one_line():
    disassemblers = {"nvidia-cuda-cuobjdump", "nvidia-cuda-nvdisasm"}  # these start at 13.2
    cuda = {
        name: version
        for name, version in pins().items()
        if re.match(r"nvidia-(cuda-|nvvm|nvjitlink)|cuda-(python|bindings|toolkit)", name)
    }
    assert cuda, "constraints.txt holds no CUDA wheel"
    other = {name: v for name, v in cuda.items() if not v.startswith("13.0.") and name not in disassemblers}
    assert not other
    assert pins()["torch"] == "2.13.0"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_constraints_resolve(machine: str, tmp_path: Path):
    """uv resolves for a machine that is not this one; pip reads the markers of the one it runs on."""
    resolved = tmp_path / "resolved.txt"
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header"]
    command += ["--python-platform", f"{machine}-unknown-linux-gnu", "--python-version", "3.12"]
    command += [part for extra in EXTRAS for part in ("--extra", extra)]
    command += ["-c", "constraints.txt", "-o", str(resolved), "pyproject.toml"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if run.returncode and re.search(
        r"dns error|Connection refused|timed out|error sending request", run.stderr
    ):
        pytest.skip("no package index is reachable, so nothing can be resolved")
    assert run.returncode == 0, run.stderr
    text = resolved.read_text()
    assert "torch==2.13.0" in text
    assert "nvidia-cuda-nvcc==13.0.88" in text


def test_tracked_files_are_small_and_speak_of_the_project_alone():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert not [path for path in files if path.stat().st_size > 1_500_000]
    top = {path.relative_to(ROOT).parts[0] for path in files}
    folders = {name for name in top if (ROOT / name).is_dir()}
    assert folders <= {".ci", "csrc", "kernelpkg", "notebooks", "tests"}
