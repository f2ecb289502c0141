"""Where the disassemblers, the assembler and the sanitizer of the CUDA toolkit are.

The PyPI wheels come first: their nvdisasm (13.2 and newer) reads everything that nvcc 13.0 writes, while a
system toolkit may be older than the binary it is asked about. nvcc's own wheels hold neither tool.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sysconfig
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from kernelpkg.errors import KernelpkgError, UsageError

INSTALL_HINTS = {
    "cuobjdump": "pip install 'nvidia-cuda-cuobjdump>=13.2'",
    "nvdisasm": "pip install 'nvidia-cuda-nvdisasm>=13.2'",
    "ptxas": "pip install nvidia-cuda-nvcc==13.0.88",
    "nvcc": "pip install nvidia-cuda-nvcc==13.0.88",
    "compute-sanitizer": "pip install nvidia-cuda-sanitizer-api",
}
WHEELS_FIRST = ("cuobjdump", "nvdisasm")


class ToolMissing(UsageError):
    """A tool of the CUDA toolkit was found nowhere; the message says how to install it."""


def _wheel_folders() -> list[Path]:
    roots = {Path(sysconfig.get_paths()[key]) for key in ("purelib", "platlib")}
    with suppress(AttributeError):  # some embedded interpreters have no site functions
        roots |= {Path(folder) for folder in (*site.getsitepackages(), site.getusersitepackages())}
    return [folder for root in sorted(roots) for folder in sorted(root.glob("nvidia/*/bin"), reverse=True)]


def _system_folders() -> list[Path]:
    named = [Path(os.environ[key]) / "bin" for key in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(key)]
    on_path = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    installed = [Path("/usr/local/cuda/bin"), *sorted(Path("/usr/local").glob("cuda-*/bin"), reverse=True)]
    return [*named, *on_path, *installed]


def find_tool(name: str) -> Path:
    """The path of a CUDA toolkit program ('cuobjdump', 'nvdisasm', 'ptxas', 'nvcc', 'compute-sanitizer').

    Disassemblers: the wheels, then CUDA_HOME / CUDA_PATH, PATH, /usr/local/cuda*. Others: the wheels last, as
    a toolkit that the user names goes first. Raises ToolMissing with the command that installs it.
    """
    wheels, system = _wheel_folders(), _system_folders()
    folders = [*wheels, *system] if name in WHEELS_FIRST else [*system, *wheels]
    for folder in folders:
        found = shutil.which(name, path=str(folder))
        if found:
            return Path(found)
    hint = INSTALL_HINTS.get(name, "install the CUDA toolkit 13.0 or newer")
    raise ToolMissing(
        f"{name} was not found in site-packages/nvidia/*/bin, CUDA_HOME, PATH or /usr/local/cuda*: {hint}"
    )


def find_assembler() -> Path:
    """The ptxas beside the nvcc that `kernelpkg build` would take, else the one that find_tool finds."""
    try:
        from kernelpkg.build import find_toolchain

        beside = Path(find_toolchain().nvcc).parent / "ptxas"
        if beside.is_file():
            return beside
    except (ImportError, KernelpkgError):
        pass  # no complete build toolchain: an assembler alone is enough here
    return find_tool("ptxas")


def run_tool(command: list[str | Path], *, timeout: float = 600.0) -> subprocess.CompletedProcess[str]:
    """Runs one tool, output captured as text; the caller looks at the return code."""
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, errors="replace", timeout=timeout
    )


@lru_cache(maxsize=16)
def tool_version(path: Path) -> str:
    """'13.0.88' of a tool (the V field of its --version), or its last output line where there is none."""
    lines = run_tool([path, "--version"], timeout=60).stdout.strip().splitlines()
    for line in lines:
        for word in line.split():
            if word.startswith("V") and word[1:2].isdigit():
                return word[1:]
    return lines[-1] if lines else "unknown"
