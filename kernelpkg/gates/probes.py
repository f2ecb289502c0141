"""Asks the compiled and generated layers what they admit: each runs what the build itself would use.

Host header: compiled with a C++ compiler and run. CMake list: evaluated by cmake. Device guard: compiled by
nvcc for each shipped target and judged by its machine code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelpkg.arch.capability import Capability
from kernelpkg.arch.target import Target
from kernelpkg.errors import KernelpkgError
from kernelpkg.gates.generate import CMAKE_NAME, HEADER_NAME, cmake_text, header_text
from kernelpkg.gates.table import GUARDS, Gate

GUARD = Path("csrc/common/guard.cuh")


class LayerUnavailable(KernelpkgError):
    """A layer cannot be asked on this machine; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs the layers are asked with; None where there is none, which makes its layer unavailable."""

    cxx: str | None
    cmake: str | None
    nvcc: str | None
    disassembler: str | None
    guard: Path | None

    @classmethod
    def find(
        cls,
        *,
        cxx: str | os.PathLike[str] | None = None,
        cmake: str | os.PathLike[str] | None = None,
        nvcc: str | os.PathLike[str] | None = None,
        disassembler: str | os.PathLike[str] | None = None,
        guard: Path | None = None,
    ) -> Tools:
        """Take what is given and look for the rest: CUDA_HOME, this environment, PATH, the usual places."""
        root = Path(__file__).resolve().parents[2]
        return cls(
            cxx=_given(cxx) or os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++"),
            cmake=_given(cmake) or _in_environment("cmake") or shutil.which("cmake"),
            nvcc=_given(nvcc) or _cuda_program("nvcc"),
            disassembler=_given(disassembler) or _cuda_program("nvdisasm") or _cuda_program("cuobjdump"),
            guard=guard or next((path for path in (root / GUARD,) if path.exists()), None),
        )


def _given(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


def _in_environment(name: str) -> str | None:
    found = Path(sys.executable).parent / name
    return str(found) if found.exists() else None


def _cuda_program(name: str) -> str | None:
    """A program of the CUDA toolkit: CUDA_HOME, PATH, the wheels of this environment, /usr/local/cuda."""
    homes = [os.environ[key] for key in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(key)]
    for home in homes:
        if (found := Path(home) / "bin" / name).exists():
            return str(found)
    if on_path := shutil.which(name):
        return on_path
    wheels = sorted(Path(sysconfig.get_path("purelib")).glob(f"nvidia/cu*/bin/{name}"), reverse=True)
    system = sorted(Path("/usr/local").glob(f"cuda*/bin/{name}"), reverse=True)
    return next((str(path) for path in (*wheels, *system)), None)


# ------------------------------------------------------------------------------------------- host header


def ask_host_header(
    gates: Sequence[Gate], capabilities: Sequence[Capability], tools: Tools, cache: Cache
) -> dict[tuple[str, Capability], tuple[bool, str]]:
    """What the generated C++ header admits: (gate id, capability) to (admits, the header's own sentence).

    Raises LayerUnavailable where there is no C++ compiler.
    """
    if tools.cxx is None:
        raise LayerUnavailable("no C++ compiler was found: install g++ or pass cxx=")
    header = header_text(gates)
    program = _host_program(gates)

    def run(folder: Path) -> Any:
        (folder / HEADER_NAME).write_text(header, encoding="ascii")
        (folder / "ask.cpp").write_text(program, encoding="ascii")
        _run(
            [*_words(tools.cxx), "-std=c++17", "-Wall", "-Werror", "ask.cpp", "-o", "ask"],
            folder,
            "the C++ compiler",
        )
        arguments = [f"{one.major} {one.minor}" for one in capabilities]
        lines = _run(
            [str(folder / "ask")], folder, "the host header probe", "\n".join(arguments)
        ).splitlines()
        return [line.split("\t", 3) for line in lines]

    names = [str(one) for one in capabilities]
    rows = cache.get(("host", tools.cxx, header, program, *names), run)
    return {
        (gate, Capability.parse(capability)): (admits == "1", said) for gate, capability, admits, said in rows
    }


def _host_program(gates: Sequence[Gate]) -> str:
    asks = "\n".join(f"    ask<kernelpkg::gates::{gate.id}>(major, minor);" for gate in gates)
    return f"""\
#include <cstdio>

#include "{HEADER_NAME}"

template <class Gate>
void ask(int major, int minor) {{
  const bool admits = Gate::admits(major, minor);
  const std::string said = admits ? std::string("admitted") : Gate::refusal(major, minor);
  std::printf("%s\\t%d.%d\\t%d\\t%s\\n", Gate::name, major, minor, admits ? 1 : 0, said.c_str());
}}

int main() {{
  int major = 0, minor = 0;
  while (std::scanf("%d %d", &major, &minor) == 2) {{
{asks}
  }}
}}
"""


# ------------------------------------------------------------------------------------------------- CMake


def ask_cmake(
    gates: Sequence[Gate], requested: Iterable[Target], tools: Tools
) -> dict[str, tuple[Target, ...]]:
    """The targets kernelpkg_gate_targets gives each gate of the requested ones, evaluated by `cmake -P`.

    Raises LayerUnavailable where there is no cmake.
    """
    if tools.cmake is None:
        raise LayerUnavailable("no cmake was found: pip install cmake or pass cmake=")
    wanted = ";".join(str(target) for target in requested)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / CMAKE_NAME).write_text(cmake_text(gates), encoding="ascii")
        script = [f'include("${{CMAKE_CURRENT_LIST_DIR}}/{CMAKE_NAME}")']
        for gate in gates:
            script += [
                f'kernelpkg_gate_targets({gate.id} "{wanted}" found)',
                f'execute_process(COMMAND "${{CMAKE_COMMAND}}" -E echo "{gate.id}=${{found}}")',
            ]
        (folder / "ask.cmake").write_text("\n".join(script) + "\n", encoding="ascii")
        text = _run([*_words(tools.cmake), "-P", "ask.cmake"], folder, "cmake")
    answers: dict[str, tuple[Target, ...]] = {}
    for line in text.splitlines():
        gate_id, _, listed = line.partition("=")
        answers[gate_id] = tuple(Target.parse(entry) for entry in listed.split(";") if entry)
    return answers


# ------------------------------------------------------------------------------------------ device guard

PROBE = """\
// One kernel per gate behind the device guard. Its body is one store, which nothing else in the kernel makes.
#include "guard.cuh"

template <class Gate>
__global__ void probe(int* out) {
  if constexpr (!Gate::kDeviceCode) {
    kernelpkg::guard_trap();
    return;
  } else {
    out[threadIdx.x] = static_cast<int>(threadIdx.x);
  }
}

#define KERNELPKG_PROBE(gate) template __global__ void probe<kernelpkg::gates::gate>(int*);
KERNELPKG_FOR_EACH_GATE(KERNELPKG_PROBE)
KERNELPKG_PROBE(evidence_sm90)
KERNELPKG_PROBE(marlin_wgmma)
"""


def judge_probe(sass: str) -> str:
    """What a probe's machine code is: 'alive' (its store is there), 'dead' (only the trap) or 'silent'.

    Silent, neither of the two, is the dangerous one: such a kernel returns over unwritten output.
    """
    if re.search(r"\bSTG?[. ]", sass):
        return "alive"
    return "dead" if re.search(r"\bBPT\.TRAP\b", sass) else "silent"


def ask_device_guard(
    gates: Sequence[Gate], targets: Sequence[Target], tools: Tools, cache: Cache
) -> Mapping[Target, dict[str, str]]:
    """For each target: gate id to the verdict of `judge_probe` on its compiled probe.

    Raises LayerUnavailable where nvcc, a disassembler or the sources are missing, or nvcc refuses a target.
    """
    if tools.nvcc is None:
        raise LayerUnavailable("no nvcc was found: set CUDA_HOME or pip install the cuda extra")
    if tools.disassembler is None:
        raise LayerUnavailable("neither nvdisasm nor cuobjdump was found: pip install the cuda extra")
    if tools.guard is None:
        raise LayerUnavailable(f"the source {GUARD} is not here: run from a checkout or pass guard=")
    header = header_text(gates)
    guard = tools.guard.read_text(encoding="utf-8")

    def compiled(target: Target) -> dict[str, str]:
        def run(folder: Path) -> Any:
            (folder / HEADER_NAME).write_text(header, encoding="ascii")
            (folder / "guard.cuh").write_text(guard, encoding="utf-8")
            (folder / "probe.cu").write_text(PROBE, encoding="ascii")
            code = f"-gencode=arch={target.compute},code={target.sm}"
            host = ["-ccbin", tools.cxx] if tools.cxx and " " not in tools.cxx else []
            _run(
                [tools.nvcc, *host, "-std=c++17", "-cubin", code, "-I.", "probe.cu"],
                folder,
                f"nvcc for {target}",
            )
            dump = ["-c"] if Path(tools.disassembler).name.startswith("nvdisasm") else ["--dump-sass"]
            sass = _run([tools.disassembler, *dump, "probe.cubin"], folder, "the disassembler")
            return _verdicts(sass, [*gates, *GUARDS])

        return cache.get(("device", tools.nvcc, tools.disassembler, header, guard, PROBE, str(target)), run)

    with ThreadPoolExecutor(max_workers=max(1, len(os.sched_getaffinity(0)))) as pool:
        return dict(zip(targets, pool.map(compiled, targets), strict=True))


def _verdicts(sass: str, gates: Iterable[Gate]) -> dict[str, str]:
    """Gate id to verdict, from a disassembly in the form of nvdisasm or cuobjdump."""
    # nvdisasm opens a function with `.section .text.NAME`, cuobjdump with `Function : NAME`.
    parts = re.split(r"^.*?(?:\.section\s+\.text\.|Function : )([\w$]+).*$", sass, flags=re.MULTILINE)
    bodies = dict(zip(parts[1::2], parts[2::2], strict=True))
    verdicts: dict[str, str] = {}
    for gate in gates:
        mangled = f"gates{len(gate.id)}{gate.id}E"
        bodies_here = [body for symbol, body in bodies.items() if mangled in symbol]
        if len(bodies_here) != 1:
            raise KernelpkgError(
                f"the device-guard probe of {gate.id} appears {len(bodies_here)} times in its disassembly"
            )
        verdicts[gate.id] = judge_probe(bodies_here[0])
    return verdicts


# ----------------------------------------------------------------------------------------------- helpers


class Cache:
    """Answers of compiled probes, kept in a folder and keyed by everything that went into them."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @classmethod
    def default(cls) -> Cache:
        """A folder of this user's under the temporary one; no cache where it cannot be had safely."""
        folder = Path(tempfile.gettempdir()) / f"kernelpkg-gates-{os.getuid()}"
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.stat(follow_symlinks=False)
            if found.st_uid == os.getuid() and not found.st_mode & 0o022 and folder.is_dir():
                return cls(folder)
        return cls(None)

    def get(self, key: tuple[str, ...], run: Callable[[Path], Any]) -> Any:
        """The answer for this key: from the folder, else by running `run` in an empty folder of its own."""
        programs = [_stamp(part) for part in key[:3]]
        digest = hashlib.sha256(json.dumps([key, programs]).encode()).hexdigest()
        path = self.folder / f"{digest}.json" if self.folder else None
        if path is not None:
            with contextlib.suppress(OSError, ValueError):
                return json.loads(path.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory(prefix="kernelpkg-probe-") as name:
            answer = run(Path(name))
        if path is not None:
            with contextlib.suppress(OSError):
                partial = path.with_suffix(f".{os.getpid()}.part")
                partial.write_text(json.dumps(answer), encoding="utf-8")
                partial.replace(path)
        return answer


def _stamp(part: str) -> list[int] | None:
    """Size and date of a program, so that a compiler exchanged in place is asked anew."""
    with contextlib.suppress(OSError, ValueError):
        if len(part) < 4096 and os.path.isabs(part):
            found = os.stat(part)
            return [found.st_size, found.st_mtime_ns]
    return None


def _words(command: str | None) -> list[str]:
    """A command that may carry arguments (CXX='ccache g++'); a path that exists is one word."""
    assert command is not None
    return [command] if os.path.exists(command) else command.split()


def _run(command: Sequence[str], folder: Path, what: str, stdin: str | None = None) -> str:
    """Standard output of a command. Raises LayerUnavailable with the first lines it wrote where it fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, input=stdin, capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LayerUnavailable(f"{what} could not be run: {error}") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[:400]
        raise LayerUnavailable(f"{what} failed with code {done.returncode}: {said}")
    return done.stdout
