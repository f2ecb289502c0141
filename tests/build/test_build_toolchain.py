"""The toolchain search on made-up machines: under 2 s."""

import importlib.util
from pathlib import Path

import pytest

from kernelpkg.build import toolchain as tc
from kernelpkg.build.toolchain import ToolchainMissing, cmake_settings, find_toolchain, version_tuple
from kernelpkg.errors import UsageError


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def cuda(root: Path, version: str = "13.0.88", lib: str = "lib64", without: str = "") -> Path:
    """A folder that looks like a toolkit; returns its nvcc."""
    for name in (
        "include/cuda_runtime.h",
        "include/crt/host_config.h",
        "include/cccl/cuda/std/type_traits",
        "nvvm/bin/cicc",
        f"{lib}/libcudart_static.a",
    ):
        if name != without:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
    return script(root / "bin" / "nvcc", f"echo 'Cuda compilation tools, release 13.0, V{version}'")


@pytest.fixture
def machine(tmp_path):
    """Environment and places of a machine that has everything but nvcc."""
    bin_dir, site = tmp_path / "bin", tmp_path / "site-packages"
    for name in ("sh", "sed"):
        bin_dir.mkdir(exist_ok=True)
        (bin_dir / name).symlink_to(Path("/bin") / name)
    script(bin_dir / "cmake", "echo 'cmake version 3.25.1'")
    script(bin_dir / "g++", "echo 12.2.0")
    script(site / "cmake" / "data" / "bin" / "cmake", "echo 'cmake version 4.4.4'")
    script(site / "ninja" / "data" / "bin" / "ninja", "echo 1.13.2.git")
    header = site / "cutlass_library" / "source" / "include" / "cutlass" / "version.h"
    header.parent.mkdir(parents=True)
    header.write_text("#define CUTLASS_MAJOR 4\n#define CUTLASS_MINOR 2\n#define CUTLASS_PATCH 0\n")
    return {"environ": {"PATH": str(bin_dir)}, "usual_root": tmp_path / "usr", "site": (site,)}


@pytest.fixture
def torch_found(monkeypatch):
    monkeypatch.setattr(tc, "_find_torch", lambda site, notes: (Path("/t"), "2.13.0"))


def test_nvcc_of_cuda_home_comes_first(machine, tmp_path, torch_found):
    cuda(tmp_path / "usr" / "cuda")
    mine = cuda(tmp_path / "mine", "13.1.5")
    machine["environ"]["CUDA_HOME"] = str(tmp_path / "mine")
    found = find_toolchain(**machine)
    assert (found.nvcc, found.version) == (mine, "13.1.5")
    assert found.source == f"CUDA_HOME={tmp_path / 'mine'}"
    assert any("took 13.1.5 from CUDA_HOME" in note for note in found.notes)


def test_a_cuda_home_without_nvcc_is_said_and_the_usual_place_taken(machine, tmp_path, torch_found):
    cuda(tmp_path / "usr" / "cuda-13.0")
    machine["environ"]["CUDA_HOME"] = "/nope"
    found = find_toolchain(**machine)
    assert found.source == str(tmp_path / "usr" / "cuda-13.0")
    assert "nvcc: CUDA_HOME=/nope has no bin/nvcc" in found.notes


def test_an_old_and_a_broken_nvcc_are_passed_over_for_the_wheels(machine, tmp_path, torch_found):
    cuda(tmp_path / "usr" / "cuda-12.4", "12.4.131")
    cuda(tmp_path / "usr" / "cuda-13.0", without="include/crt/host_config.h")
    wheel = machine["site"][0] / "nvidia" / "cu13"
    cuda(wheel, lib="lib")
    found = find_toolchain(**machine)
    assert found.nvcc == wheel / "bin" / "nvcc"
    assert found.cuda_lib == wheel / "lib"
    assert f"-L{wheel / 'lib'}" in found.environment({})["NVCC_APPEND_FLAGS"]
    said = " ".join(found.notes)
    assert "12.4.131 is older than 13.0" in said
    assert "nvidia-cuda-crt" in said


def test_a_wrapper_on_path_leads_to_its_toolkit(machine, tmp_path, torch_found):
    real = tmp_path / "elsewhere"
    cuda(real)
    script(
        Path(machine["environ"]["PATH"]) / "nvcc",
        f'if [ "$1" = --dryrun ]; then echo "#$ TOP={real}/bin/.." >&2; else exec {real}/bin/nvcc "$@"; fi',
    )
    found = find_toolchain(**machine)
    assert found.cuda_include == real / "include"
    assert found.source.startswith("PATH")


def test_debians_cmake_is_passed_over(machine, tmp_path, torch_found):
    cuda(tmp_path / "usr" / "cuda")
    assert find_toolchain(**machine).cmake_version == "4.4.4"
    (machine["site"][0] / "cmake" / "data" / "bin" / "cmake").unlink()
    machine["site"] = ()
    with pytest.raises(ToolchainMissing, match=r"CUTLASS headers"):
        find_toolchain(**machine)
    with pytest.raises(ToolchainMissing, match=r"3\.25\.1 is older than 4\.0.*pip install 'cmake>=4\.0'"):
        tc._find_program("cmake", tc.MINIMUM_CMAKE, machine["environ"], (), [])


def test_no_nvcc_says_how_to_install_it(machine):
    with pytest.raises(ToolchainMissing) as caught:
        find_toolchain(**machine)
    assert caught.value.tool == "nvcc"
    assert "pip install nvidia-cuda-nvcc==13.0.88" in str(caught.value)
    assert caught.value.exit_code == UsageError.exit_code == 2


def test_torch_is_located_not_imported(tmp_path):
    include = tmp_path / "torch" / "include" / "torch" / "csrc" / "stable"
    include.mkdir(parents=True)
    (include / "library.h").touch()
    (tmp_path / "torch" / "lib").mkdir()
    (tmp_path / "torch" / "lib" / "libtorch.so").touch()
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.9.1'\n")
    if importlib.util.find_spec("torch") is None:
        with pytest.raises(ToolchainMissing, match=r"2\.9\.1 .* older than 2\.11"):
            tc._find_torch((tmp_path,), [])
    else:
        assert tc._find_torch((tmp_path,), [])[0].name == "torch"


def test_cmake_code_names_every_place(machine, tmp_path, torch_found):
    cuda(tmp_path / "usr" / "cuda")
    text = cmake_settings(find_toolchain(**machine))
    for name in (
        "CMAKE_CUDA_COMPILER",
        "KERNELPKG_CUTLASS_INCLUDE",
        "KERNELPKG_TORCH_LIB",
        "NVCC_APPEND_FLAGS",
    ):
        assert name in text


def test_append_flags_of_the_user_stay(machine, tmp_path, torch_found):
    cuda(tmp_path / "usr" / "cuda")
    found = find_toolchain(**machine)
    env = found.environment({"NVCC_APPEND_FLAGS": "-DX"})
    assert env["NVCC_APPEND_FLAGS"].split() == ["-DX", f"-L{found.cuda_lib}"]
    assert found.environment(env) == env


@pytest.mark.parametrize(("text", "want"), [("13.0.88", (13, 0, 88)), ("4.4.4-rc1", (4, 4, 4)), ("x", ())])
def test_versions(text, want):
    assert version_tuple(text) == want
