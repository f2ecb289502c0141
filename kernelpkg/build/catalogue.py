"""What can be built: kernel instances, plain sources, and the object libraries they form.

One object library per gate, one per evidence kernel, one for host code and one for the operator bindings, so
that no file is compiled for a target it has no business on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernelpkg.arch import Target
from kernelpkg.build import instances_blockscaled, instances_marlin, instances_scaled_mm
from kernelpkg.build.instance import SETS, Instance
from kernelpkg.errors import UsageError
from kernelpkg.gates import EVIDENCE, instances_for

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARY_NAME = "libkernelpkg_ops.so"

# Folders of csrc whose .cpp files are host code of the library, and the one whose files see torch.
HOST_FOLDERS = ("common", "marlin", "scaled_mm")
BINDINGS_FOLDER = "bindings"
HOST_COST_SECONDS = 3.0
BINDINGS_COST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Unit:
    """One compiler call.

    file: the name shown. path: absolute, or relative to the generated folder where generated. kernels: the
    kernels it is part of (none for host code). cost_seconds: the guess over all its targets.
    """

    file: str
    path: str
    generated: bool
    kernels: tuple[str, ...]
    cost_seconds: float


@dataclass(frozen=True, slots=True)
class Library:
    """One object library of the CMake project.

    gate: whose target list it is compiled for ('evidence_sm90' for evidence kernels), None for C++.
    targets: that list for this build. cutlass, torch: which headers it needs.
    """

    name: str
    gate: str | None
    targets: tuple[Target, ...]
    cutlass: bool
    torch: bool
    units: tuple[Unit, ...]


def csrc_folder() -> Path:
    """The folder of the C++ and CUDA sources. Raises UsageError in an installation without them (a wheel)."""
    folder = REPOSITORY / "csrc"
    if not (folder / "CMakeLists.txt").is_file():
        raise UsageError(
            f"There are no sources at {folder}: this kernelpkg is an installed wheel, whose library is built "
            "already; to build for other targets, clone the repository and install it from there with "
            "`pip install -e . --no-build-isolation`."
        )
    return folder


@cache
def all_instances() -> tuple[Instance, ...]:
    """Every instance of the catalogue. Raises ValueError where two share a name."""
    found = (
        *instances_marlin.instances(),
        *instances_scaled_mm.instances(),
        *instances_blockscaled.instances(),
    )
    seen: set[str] = set()
    for instance in found:
        if instance.name in seen:
            raise ValueError(f"two instances are called {instance.name}; names become file names")
        seen.add(instance.name)
    return found


def check_set(name: str) -> str:
    """The set's name. Raises UsageError where there is no such set."""
    if name not in SETS:
        raise UsageError(f"{name!r} is not a set of kernel instances; choose one of {', '.join(SETS)}.")
    return name


def kernels() -> tuple[str, ...]:
    """The kernels of the catalogue as users name them, in its order."""
    return tuple(dict.fromkeys(instance.kernel for instance in all_instances()))


def instance_targets(instance: Instance, targets: Iterable[Target]) -> tuple[Target, ...]:
    """The targets an instance is compiled for in a build for `targets`: what its gate ships of them, or 9.0a
    alone for evidence kernels.
    """
    return instances_for(EVIDENCE if instance.evidence else instance.gate, targets)


def instances_of(set_name: str, targets: Iterable[Target]) -> tuple[Instance, ...]:
    """The instances a build of this set for these targets compiles."""
    wanted = tuple(targets)
    return tuple(
        instance
        for instance in all_instances()
        if set_name in instance.sets and instance_targets(instance, wanted)
    )


def host_sources(csrc: Path | None = None) -> tuple[Path, ...]:
    """The .cpp files that are neither generated nor bindings."""
    root = csrc or csrc_folder()
    return tuple(path for folder in HOST_FOLDERS for path in sorted((root / folder).rglob("*.cpp")))


def binding_sources(csrc: Path | None = None) -> tuple[Path, ...]:
    """The .cpp files of the operator bindings, the only ones that see torch."""
    return tuple(sorted(((csrc or csrc_folder()) / BINDINGS_FOLDER).rglob("*.cpp")))


def libraries(
    set_name: str, targets: Iterable[Target], instances: Iterable[Instance] | None = None
) -> tuple[Library, ...]:
    """The object libraries of a build, dearest files first so that no long one is left to the end.

    instances stands in for the catalogue's in tests.
    """
    check_set(set_name)
    wanted = tuple(targets)
    csrc = csrc_folder()
    grouped: dict[str, list[Instance]] = {}
    for instance in all_instances() if instances is None else instances:
        if set_name in instance.sets and instance_targets(instance, wanted):
            grouped.setdefault(instance.kernel if instance.evidence else instance.gate, []).append(instance)
    found: list[Library] = []
    for name, members in grouped.items():
        members.sort(key=lambda member: -member.cost_seconds)
        compiled_for = instance_targets(members[0], wanted)
        found.append(
            Library(
                name=name,
                gate=EVIDENCE.id if members[0].evidence else members[0].gate,
                targets=compiled_for,
                cutlass=members[0].gate.startswith("scaled_mm"),
                torch=False,
                units=tuple(
                    Unit(
                        file=f"{member.name}.cu",
                        path=f"instances/{member.name}.cu",
                        generated=True,
                        kernels=(member.kernel,),
                        cost_seconds=member.cost_seconds * len(compiled_for),
                    )
                    for member in members
                ),
            )
        )
    found.sort(key=lambda library: -max(unit.cost_seconds for unit in library.units))
    for name, sources, cost in (
        ("bindings", binding_sources(csrc), BINDINGS_COST_SECONDS),
        ("host", host_sources(csrc), HOST_COST_SECONDS),
    ):
        units = tuple(
            Unit(f"csrc/{path.relative_to(csrc).as_posix()}", str(path), False, (), cost) for path in sources
        )
        if units:
            found.append(Library(name, None, (), cutlass=False, torch=name == "bindings", units=units))
    return tuple(found)
