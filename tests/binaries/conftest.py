"""Small real probes, compiled once per run with the toolkit's own nvcc (about ten seconds on two cores)."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernelpkg.binaries.tools import ToolMissing, find_tool

PROBES = Path(__file__).parent / "probes.cu"


class Toolkit:
    """nvcc and friends, working in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nvcc = find_tool("nvcc")

    def compile(self, result: str, *options: str, source: Path = PROBES) -> Path:
        """Runs nvcc on a source file; the path of the result."""
        file = self.folder / result
        environment = os.environ | {"NVCC_APPEND_FLAGS": ""}
        command = [str(self.nvcc), *options, str(source), "-o", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return file

    def link(self, result: str, *objects: Path) -> Path:
        """A shared library of these objects; the CUDA runtime stays undefined, nothing here runs it."""
        file = self.folder / result
        command = ["g++", "-shared", "-o", str(file), *map(str, objects)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return file


def code(*targets: str, ptx: str | None = None) -> list[str]:
    """nvcc options for machine code of these targets ('120f') and PTX of one."""
    options = [f"-gencode=arch=compute_{target},code=sm_{target}" for target in targets]
    return options + ([f"-gencode=arch=compute_{ptx},code=compute_{ptx}"] if ptx else [])


@pytest.fixture(scope="session")
def toolkit(tmp_path_factory: pytest.TempPathFactory) -> Toolkit:
    try:
        for tool in ("nvcc", "ptxas", "nvdisasm", "cuobjdump"):
            find_tool(tool)
    except ToolMissing as missing:
        pytest.skip(str(missing))
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: nvcc needs it")
    return Toolkit(tmp_path_factory.mktemp("probes"))


@pytest.fixture(scope="session")
def built(toolkit: Toolkit) -> dict[str, Path]:
    """The probe files by name, compiled side by side."""
    host = ["-c", "-Xcompiler=-fPIC"]
    jobs = {
        # The same number twice, 120f and 120: nvcc refuses both in one call, a library may well hold both.
        "family.o": [*host, *code("120f", "90a", ptx="90a")],
        "portable.o": [*host, "-DSUFFIX=_portable", *code("120")],
        "packed.o": [*host, *code("120f", "90a", ptx="90a"), "-Xfatbin=-compress-all"],
        "ptx.o": [*host, *code(ptx="90")],
        "family.cubin": ["-cubin", "-arch=sm_120f"],
        "specific.cubin": ["-cubin", "-arch=sm_90a"],
        "ada.cubin": ["-cubin", "-arch=sm_89"],
        "separate.cubin": ["-cubin", "-arch=sm_90a", "-rdc=true"],
        "text.ptx": ["-ptx", "-arch=compute_90a"],
    }
    with ThreadPoolExecutor(max_workers=2) as pool:
        paths = pool.map(lambda job: toolkit.compile(job[0], *job[1]), jobs.items())
        files = dict(zip(jobs, paths, strict=True))
    files["both.so"] = toolkit.link("both.so", files["family.o"], files["portable.o"])
    files["family.so"] = toolkit.link("family.so", files["family.o"])
    files["packed.so"] = toolkit.link("packed.so", files["packed.o"])
    files["ptx.so"] = toolkit.link("ptx.so", files["ptx.o"])
    archive = toolkit.folder / "probes.a"
    subprocess.run(["ar", "rcs", archive, files["family.o"], files["portable.o"]], check=True)
    files["probes.a"] = archive
    return files
