"""Finds what a build needs: nvcc, CUTLASS headers, CMake, Ninja, a C++ compiler and torch's headers.

Every search goes from the most explicit place to the least (a variable that the user set, PATH, the usual
folders, the PyPI wheels) and says which place it took and why others were passed over. torch is located,
never imported.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from kernelpkg.errors import UsageError

# CUDA 12.9 is the first toolkit that knows family targets such as 120f; 11.0 (Thor) has that name from 13.0
# on.
MINIMUM_NVCC = (13, 0)
# Debian's CMake 3.25 refuses `120f-real`; 4.0.2 was tried and takes it.
MINIMUM_CMAKE = (4, 0)
MINIMUM_NINJA = (1, 10)
# The stable ABI headers that the bindings use exist from torch 2.11 on.
MINIMUM_TORCH = (2, 11)

NVCC_WHEELS = (
    "nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 "
    "nvidia-cuda-cccl==13.0.85 nvidia-cuda-runtime==13.0.96"
)
HINTS = {
    "nvcc": f"install it without root with: pip install {NVCC_WHEELS} "
    "(or pip install 'kernelpkg[cuda]'), or set CUDA_HOME to a toolkit of version 13.0 or newer",
    "cutlass": "install the headers with: pip install nvidia-cutlass==4.2.0.0, or set CUTLASS_HOME",
    "cmake": "install it with: pip install 'cmake>=4.0'",
    "ninja": "install it with: pip install ninja",
    "cxx": "install one with: apt install g++ (or dnf install gcc-c++), or set CXX",
    "torch": "install it with: pip install 'torch>=2.11'",
}


class ToolchainMissing(UsageError):
    """Something that a build needs is not on this machine; the message says what, where it was sought and how
    to install it. `tool` is one of nvcc, cutlass, cmake, ninja, cxx, torch.
    """

    def __init__(self, tool: str, message: str):
        super().__init__(message)
        self.tool = tool


@dataclass(frozen=True, slots=True)
class Toolchain:
    """The tools one build uses. Paths are absolute; versions are strings such as '13.0.88'.

    source says in words where nvcc was found; notes has one sentence per tool and per place passed over.
    """

    nvcc: Path
    version: str
    source: str
    cuda_include: Path
    cuda_lib: Path
    cutlass_include: Path
    cutlass_version: str
    cmake: Path
    cmake_version: str
    ninja: Path
    ninja_version: str
    cxx: Path
    cxx_version: str
    torch_include: Path
    torch_lib: Path
    torch_version: str
    notes: tuple[str, ...] = ()

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment CMake, Ninja and the compilers run in.

        The wheels keep their libraries in `lib` where nvcc looks in `lib64`, so nvcc is told with
        NVCC_APPEND_FLAGS; for other toolkits this names the folder nvcc knows anyway.
        """
        env = dict(os.environ if base is None else base)
        flag = f"-L{self.cuda_lib}"
        have = env.get("NVCC_APPEND_FLAGS", "")
        if flag not in have.split():
            env["NVCC_APPEND_FLAGS"] = f"{have} {flag}".strip()
        # A build made by our own Ninja must not inherit flags that change its results unseen.
        env.pop("NINJA_STATUS", None)
        return env

    def describe(self) -> str:
        """One sentence: which nvcc, from where, with which CMake, Ninja, compiler and torch headers."""
        return (
            f"nvcc {self.version} ({self.source}), CMake {self.cmake_version}, Ninja {self.ninja_version}, "
            f"{self.cxx.name} {self.cxx_version}, CUTLASS {self.cutlass_version}, "
            f"torch {self.torch_version} headers"
        )

    def to_json(self) -> dict[str, object]:
        """The same fields as plain values."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


def version_tuple(text: str) -> tuple[int, ...]:
    """'13.0.88' -> (13, 0, 88); anything after the leading numbers is dropped."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def find_toolchain(
    environ: Mapping[str, str] | None = None,
    *,
    usual_root: Path = Path("/usr/local"),
    site: tuple[Path, ...] | None = None,
) -> Toolchain:
    """Finds every tool a build needs.

    environ, usual_root and site (site-packages folders) stand in for this machine's in tests.
    Raises ToolchainMissing with an install hint for the first tool that is not here.
    """
    env = os.environ if environ is None else environ
    folders = _site_folders() if site is None else site
    notes: list[str] = []
    nvcc, version, source, root = _find_nvcc(env, usual_root, folders, notes)
    cutlass, cutlass_version = _find_cutlass(env, folders, notes)
    cmake, cmake_version = _find_program("cmake", MINIMUM_CMAKE, env, folders, notes)
    ninja, ninja_version = _find_program("ninja", MINIMUM_NINJA, env, folders, notes)
    cxx, cxx_version = _find_cxx(env, notes)
    torch, torch_version = _find_torch(folders, notes)
    return Toolchain(
        nvcc=nvcc,
        version=version,
        source=source,
        cuda_include=root / "include",
        cuda_lib=_library_folder(root) or root / "lib",
        cutlass_include=cutlass,
        cutlass_version=cutlass_version,
        cmake=cmake,
        cmake_version=cmake_version,
        ninja=ninja,
        ninja_version=ninja_version,
        cxx=cxx,
        cxx_version=cxx_version,
        torch_include=torch / "include",
        torch_lib=torch / "lib",
        torch_version=torch_version,
        notes=tuple(notes),
    )


def _site_folders() -> tuple[Path, ...]:
    """The folders where PyPI wheels may lie: the import path's entries named site- or dist-packages."""
    found = [
        Path(entry) for entry in sys.path if entry and Path(entry).name in ("site-packages", "dist-packages")
    ]
    found += [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")]
    return tuple(dict.fromkeys(folder for folder in found if folder.is_dir()))


# --- nvcc ---------------------------------------------------------------------------------------------------


def _nvcc_places(
    env: Mapping[str, str], usual_root: Path, site: tuple[Path, ...]
) -> Iterator[tuple[Path, str]]:
    """Candidate nvcc files in order of preference, each with the words that name its place."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if env.get(variable):
            yield Path(env[variable]) / "bin" / "nvcc", f"{variable}={env[variable]}"
    on_path = shutil.which("nvcc", path=env.get("PATH", ""))
    if on_path:
        yield Path(on_path), f"PATH ({on_path})"
    versioned = sorted(usual_root.glob("cuda-*"), key=lambda path: version_tuple(path.name[5:]), reverse=True)
    for folder in (usual_root / "cuda", *versioned):
        yield folder / "bin" / "nvcc", str(folder)
    for folder in site:
        for root in sorted(folder.glob("nvidia/cu[0-9]*"), reverse=True):
            yield root / "bin" / "nvcc", f"PyPI wheels in {root}"


def _find_nvcc(
    env: Mapping[str, str], usual_root: Path, site: tuple[Path, ...], notes: list[str]
) -> tuple[Path, str, str, Path]:
    sought: list[str] = []
    seen: set[Path] = set()
    for path, place in _nvcc_places(env, usual_root, site):
        if not path.is_file():
            if place.startswith("CUDA_"):
                notes.append(f"nvcc: {place} has no bin/nvcc")
                sought.append(notes[-1])
            continue
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        problem, version, root = _examine_nvcc(path)
        if problem:
            notes.append(f"nvcc: passed over {place}: {problem}")
            sought.append(notes[-1])
            continue
        notes.append(f"nvcc: took {version} from {place}")
        return path.absolute(), version, place, root
    detail = "; ".join(sought) if sought else "none found"
    raise ToolchainMissing(
        "nvcc",
        f"No usable nvcc in CUDA_HOME, CUDA_PATH, PATH, {usual_root}/cuda* or the PyPI wheels ({detail}); "
        f"{HINTS['nvcc']}.",
    )


def _examine_nvcc(path: Path) -> tuple[str | None, str, Path]:
    """(why it cannot be used or None, its version, its toolkit's root)."""
    text = _output([str(path), "--version"])
    match = re.search(r"\bV(\d+\.\d+\.\d+)", text) or re.search(r"release (\d+\.\d+)", text)
    root = path.resolve().parent.parent
    if not match:
        return "it does not answer --version", "", root
    version = match.group(1)
    if version_tuple(version) < MINIMUM_NVCC:
        return f"version {version} is older than {_dotted(MINIMUM_NVCC)}", version, root
    if not (root / "include" / "cuda_runtime.h").is_file():
        root = _root_by_dryrun(path) or root
    for name, package in (
        ("include/cuda_runtime.h", "nvidia-cuda-runtime"),
        ("include/crt/host_config.h", "nvidia-cuda-crt"),
        ("include/cccl/cuda/std/type_traits", "nvidia-cuda-cccl"),
        ("nvvm/bin/cicc", "nvidia-nvvm"),
    ):
        if not (root / name).is_file():
            return f"{root / name} is missing (wheel {package})", version, root
    if _library_folder(root) is None:
        return f"libcudart_static.a is missing under {root} (wheel nvidia-cuda-runtime)", version, root
    return None, version, root


def _root_by_dryrun(path: Path) -> Path | None:
    """A wrapper script is not in its toolkit's folder; nvcc itself says where that is."""
    text = _output([str(path), "--dryrun", "-c", "-x", "cu", "/dev/null", "-o", "/dev/null"])
    match = re.search(r"^#\$ TOP=(.+)$", text, re.MULTILINE)
    return Path(match.group(1).strip()).resolve() if match else None


def _library_folder(root: Path) -> Path | None:
    for folder in (root / "lib64", root / "lib", *sorted(root.glob("targets/*/lib"))):
        if (folder / "libcudart_static.a").is_file():
            return folder
    return None


# --- the rest -----------------------------------------------------------------------------------------------


def _find_cutlass(env: Mapping[str, str], site: tuple[Path, ...], notes: list[str]) -> tuple[Path, str]:
    places: list[tuple[Path, str]] = []
    if env.get("CUTLASS_HOME"):
        places.append((Path(env["CUTLASS_HOME"]) / "include", f"CUTLASS_HOME={env['CUTLASS_HOME']}"))
    places += [
        (folder / "cutlass_library" / "source" / "include", "the nvidia-cutlass wheel") for folder in site
    ]
    for include, place in places:
        header = include / "cutlass" / "version.h"
        if header.is_file():
            numbers = re.findall(
                r"^#define CUTLASS_(?:MAJOR|MINOR|PATCH)\s+(\d+)", header.read_text(), re.MULTILINE
            )
            version = ".".join(numbers) or "of unknown version"
            notes.append(f"CUTLASS: took {version} from {place}")
            return include.absolute(), version
        if place.startswith("CUTLASS_HOME"):
            notes.append(f"CUTLASS: {place} has no include/cutlass/version.h")
    raise ToolchainMissing(
        "cutlass", f"CUTLASS headers are neither in CUTLASS_HOME nor in the PyPI wheels; {HINTS['cutlass']}."
    )


def _find_program(
    name: str, minimum: tuple[int, ...], env: Mapping[str, str], site: tuple[Path, ...], notes: list[str]
) -> tuple[Path, str]:
    """cmake or ninja: in the wheel (its script costs a Python start), beside this Python, on PATH."""
    places = [(folder / name / "data" / "bin" / name, "the PyPI wheel") for folder in site]
    if site:
        places.append((Path(sysconfig.get_path("scripts")) / name, "this Python environment"))
    on_path = shutil.which(name, path=env.get("PATH", ""))
    if on_path:
        places.append((Path(on_path), "PATH"))
    passed: list[str] = []
    for path, place in places:
        if not path.is_file():
            continue
        match = re.search(r"(\d+\.\d+(?:\.\d+)*)", _output([str(path), "--version"]))
        version = match.group(1) if match else ""
        if version_tuple(version) < minimum:
            passed.append(
                f"{name}: passed over {path}: version {version or 'unknown'} is older than {_dotted(minimum)}"
            )
            continue
        notes.extend(passed)
        notes.append(f"{name}: took {version} from {place} ({path})")
        return path.absolute(), version
    detail = "; ".join(passed) or "none found"
    raise ToolchainMissing(name, f"No {name} {_dotted(minimum)} or newer is here ({detail}); {HINTS[name]}.")


def _find_cxx(env: Mapping[str, str], notes: list[str]) -> tuple[Path, str]:
    for name in (env.get("CXX"), "g++", "c++", "clang++"):
        found = shutil.which(name, path=env.get("PATH", "")) if name else None
        if not found:
            continue
        version = _output([found, "-dumpfullversion", "-dumpversion"]).strip() or "of unknown version"
        notes.append(f"C++: took {found} {version}")
        return Path(found).absolute(), version
    raise ToolchainMissing("cxx", f"No C++ compiler (CXX, g++, c++, clang++) is on PATH; {HINTS['cxx']}.")


def _find_torch(site: tuple[Path, ...], notes: list[str]) -> tuple[Path, str]:
    places = [folder / "torch" for folder in site]
    spec = importlib.util.find_spec("torch") if site else None
    if spec and spec.origin:
        places.insert(0, Path(spec.origin).parent)
    for folder in places:
        header = folder / "include" / "torch" / "csrc" / "stable" / "library.h"
        if not header.is_file() or not (folder / "lib" / "libtorch.so").is_file():
            continue
        text = (folder / "version.py").read_text() if (folder / "version.py").is_file() else ""
        match = re.search(r"__version__\s*=\s*['\"]([^'\"]+)['\"]", text)
        version = match.group(1) if match else "of unknown version"
        if match and version_tuple(version) < MINIMUM_TORCH:
            raise ToolchainMissing(
                "torch",
                f"torch {version} in {folder} is older than {_dotted(MINIMUM_TORCH)}; {HINTS['torch']}.",
            )
        notes.append(f"torch: took headers of {version} from {folder} (not imported)")
        return folder, version
    raise ToolchainMissing("torch", f"torch's stable ABI headers are not here; {HINTS['torch']}.")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _output(command: list[str]) -> str:
    """stdout and stderr of a short command; empty where it cannot run."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def cmake_settings(toolchain: Toolchain) -> str:
    """The toolchain as CMake code, for a configure that was not started by our driver (a wheel build)."""
    values = {
        "CMAKE_CUDA_COMPILER": toolchain.nvcc,
        "CMAKE_CUDA_HOST_COMPILER": toolchain.cxx,
        "CMAKE_CXX_COMPILER": toolchain.cxx,
        "KERNELPKG_CUDA_INCLUDE": toolchain.cuda_include,
        "KERNELPKG_CUDA_LIB": toolchain.cuda_lib,
        "KERNELPKG_CUTLASS_INCLUDE": toolchain.cutlass_include,
        "KERNELPKG_TORCH_INCLUDE": toolchain.torch_include,
        "KERNELPKG_TORCH_LIB": toolchain.torch_lib,
    }
    lines = [f'set({name} "{value}")' for name, value in values.items()]
    lines.append(f'set(ENV{{NVCC_APPEND_FLAGS}} "{toolchain.environment()["NVCC_APPEND_FLAGS"]}")')
    return "\n".join(lines) + "\n"


def main() -> int:
    """`python -m kernelpkg.build.toolchain [--cmake FILE]`: what was found, as text or CMake code."""
    toolchain = find_toolchain()
    if sys.argv[1:2] == ["--cmake"]:
        Path(sys.argv[2]).write_text(cmake_settings(toolchain))
        return 0
    print(toolchain.describe())
    print("\n".join(toolchain.notes))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ToolchainMissing as error:
        sys.exit(f"error: {error}")
