"""Host code of csrc, compiled by g++ with a program that asks it: no GPU and no nvcc is needed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kernelpkg.build.catalogue import csrc_folder
from kernelpkg.build.toolchain import ToolchainMissing, find_toolchain
from kernelpkg.gates.generate import generate


@pytest.fixture(scope="session")
def run_host_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Callable[[str], list[str]]]:
    """(program, the csrc files it needs, without .cpp) -> what it prints for an input, in lines."""
    try:
        tools = find_toolchain()
    except ToolchainMissing as error:
        pytest.skip(str(error))
    csrc = csrc_folder()

    def compiled(program: str, *sources: str) -> Callable[[str], list[str]]:
        folder: Path = tmp_path_factory.mktemp("host_program")
        generate(folder)
        (folder / "main.cpp").write_text(program)
        command = [str(tools.cxx), "-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror"]
        command += [f"-I{csrc}", f"-I{folder}", "-isystem", str(tools.cuda_include)]
        command += [str(folder / "main.cpp"), *(str(csrc / f"{name}.cpp") for name in sources)]
        command += ["-o", str(folder / "main"), str(tools.cuda_lib / "libcudart_static.a")]
        built = subprocess.run([*command, "-lpthread", "-ldl", "-lrt"], capture_output=True, text=True)
        assert built.returncode == 0, built.stderr

        def run(given: str = "") -> list[str]:
            ran = subprocess.run([str(folder / "main")], input=given, capture_output=True, text=True)
            assert ran.returncode == 0, ran.stderr
            return ran.stdout.splitlines()

        return run

    return compiled
