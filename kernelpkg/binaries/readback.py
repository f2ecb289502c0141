"""Reads a built library back: is every kernel there for every target it was asked for, and alive?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kernelpkg.arch import Target
from kernelpkg.binaries.fatbin import NoDeviceCode, read_images
from kernelpkg.binaries.inspection import CACHE_NAME, FunctionCode, declare, functions_of
from kernelpkg.gates import EVIDENCE, gate, instances_for


class InstanceLike(Protocol):
    """The fields of kernelpkg.build.instance.Instance that a read-back looks at."""

    name: str
    kernel: str
    gate: str
    evidence: str | None
    declares: str
    function: str
    shared_memory: int | None


@dataclass(frozen=True, slots=True)
class ReadBack:
    """functions: all kernels of the library, judged. problems: one sentence per fault, naming instance and
    target; empty where all is as asked. notes: what is worth knowing without being a fault (spills).
    """

    functions: tuple[FunctionCode, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def expected_verdict(instance: InstanceLike) -> str:
    """What the instance must read: evidence of an FP8 kernel 'emulated', any other MMA 'native'."""
    if instance.declares == "none":
        return "no mma"
    if instance.evidence is not None and instance.declares == "fp8_mma":
        return "emulated"
    return "native"


def targets_of(instance: InstanceLike, requested: Iterable[object]) -> tuple[Target, ...]:
    """The targets it should have in a build for `requested`: what its gate ships; evidence: 9.0a."""
    return instances_for(EVIDENCE if instance.evidence else gate(instance.gate), requested)


def read_back(
    library: str | Path,
    instances: Sequence[InstanceLike],
    targets: Iterable[object],
    *,
    cache_path: Path | None = None,
) -> ReadBack:
    """Reads `library` and holds it against the instances that were built for the requested targets.

    targets: anything `Target.parse` reads. cache_path: JSON of disassembled code, so that only changed
    kernels are disassembled again; by default beside the library. Raises BrokenBinary and ToolMissing; a
    fault of the build itself is a problem in the result, never an exception.
    """
    path = Path(library)
    requested = tuple(Target.parse(target) for target in targets)
    try:
        images = read_images(path)
    except NoDeviceCode:
        images = ()
    functions = declare(functions_of(path, images, cache_path or path.parent / CACHE_NAME), instances)
    problems = list(_unrequested(path, functions, requested))
    notes: list[str] = []
    for instance in instances:
        pattern = re.compile(instance.function)
        mine = [function for function in functions if pattern.search(function.function)]
        for target in targets_of(instance, requested):
            here = [one for one in mine if one.kind == "cubin" and one.target == str(target)]
            where = f"{instance.name} ({instance.kernel}) for {target}"
            if not here:
                problems.append(f"{where}: {_absence(path, mine, functions, instance)}")
            for function in here:
                fault = _fault(function, instance)
                if fault:
                    problems.append(f"{where}: {fault}")
                if function.spills:
                    notes.append(f"{where}: {function.spills} B of local memory per thread")
        homes = {str(target) for target in targets_of(instance, requested)}
        strays = {one.target for one in mine if one.kind == "cubin"} - homes
        asked = {str(target) for target in requested}
        # A target that nobody asked of anything is named once, by _unrequested.
        for stray in sorted(strays & asked):
            problems.append(
                f"{instance.name} ({instance.kernel}) for {stray}: its gate does not ship this target"
            )
    return ReadBack(functions, tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(notes)))


def _unrequested(path: Path, functions: Sequence[FunctionCode], requested: Sequence[Target]) -> Iterable[str]:
    asked = {str(target) for target in requested}
    found: dict[tuple[str, str], list[str]] = {}
    for function in functions:
        if function.kind == "ptx" or function.target not in asked:
            found.setdefault((function.kind, function.target), []).append(function.function)
    for (kind, target), names in sorted(found.items()):
        word = "PTX" if kind == "ptx" else "machine code"
        listed = ", ".join(sorted(asked)) or "nothing"
        yield (
            f"{path.name} holds {word} for {target}, which nobody requested (requested: {listed}): "
            f"{len(names)} functions, the first is {_short(names[0])}"
        )


def _absence(
    path: Path, mine: Sequence[FunctionCode], functions: Sequence[FunctionCode], instance: InstanceLike
) -> str:
    if mine:
        have = ", ".join(sorted({f"{one.target} ({one.kind})" for one in mine}))
        return f"missing in {path.name}, which has it for {have} only"
    return (
        f"missing in {path.name}: none of its {len({one.symbol for one in functions})} kernels matches "
        f"{instance.function!r}"
    )


def _fault(function: FunctionCode, instance: InstanceLike) -> str | None:
    judged = function.judged(instance.declares)
    expected = expected_verdict(instance)
    if judged.verdict != expected:
        name = _short(function.function)
        return f"reads {judged.verdict!r}, should read {expected!r}: {judged.reason} ({name})"
    return None


def _short(name: str) -> str:
    return name if len(name) <= 120 else f"{name[:117]}..."
