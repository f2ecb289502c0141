"""Which source files make a kernel, and one hash over them: what a recorded result is tied to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from kernelpkg.build import catalogue
from kernelpkg.build.instance import Instance
from kernelpkg.errors import UsageError

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)

# Host code that chooses tiles and launches is part of every kernel of its folder.
KERNEL_FOLDERS = (
    ("marlin", "marlin"),
    ("scaled_mm", "scaled_mm"),
    ("mxfp8_scaled_mm", "scaled_mm"),
    ("nvfp4_scaled_mm", "scaled_mm"),
)


def source_hash(kernel: str, instances: Iterable[Instance] | None = None, csrc: Path | None = None) -> str:
    """sha256 over the csrc files and the catalogue entries that make `kernel`, whatever was built.

    The files are those its instances include, directly or not, and the host code of its folder; generated
    files and other projects' headers are left out. In an installed wheel, which has no sources, the hash its
    manifest recorded. instances and csrc stand in for the catalogue's in tests. Raises UsageError for an
    unknown kernel.
    """
    members = [
        m for m in (catalogue.all_instances() if instances is None else instances) if m.kernel == kernel
    ]
    if not members:
        raise UsageError(
            f"{kernel!r} is not a kernel of the catalogue; those are {', '.join(catalogue.kernels())}."
        )
    if csrc is None and not (catalogue.REPOSITORY / "csrc").is_dir():
        return _recorded_hash(kernel)
    root = (csrc or catalogue.csrc_folder()).resolve()
    digest = hashlib.sha256()
    for member in sorted(members, key=lambda member: member.name):
        digest.update(f"{member.name}\0{member.declares}\0{member.shared_memory}\0{member.source}\0".encode())
    for path in kernel_files(kernel, members, root):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def kernel_files(kernel: str, members: Iterable[Instance], root: Path) -> tuple[Path, ...]:
    """The csrc files that make `kernel`, sorted: the includes of its instances, its folder's host code and
    theirs.
    """
    found: set[Path] = set()
    pending = [path for member in members for path in _included(member.source, root, root)]
    for prefix, folder in KERNEL_FOLDERS:
        if kernel.startswith(prefix):
            pending += sorted([*(root / folder).glob("*.cpp"), *(root / folder).glob("*.cu")])
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            pending += _included(path.read_text(encoding="utf-8"), path.parent, root)
    return tuple(sorted(found))


def _included(text: str, folder: Path, root: Path) -> list[Path]:
    """The csrc files text includes in quotes, found as the compiler does: beside it, then at the root."""
    found = []
    for name in _INCLUDE.findall(text):
        for place in (folder / name, root / name):
            if place.is_file():
                found.append(place.resolve())
                break
    return found


def _recorded_hash(kernel: str) -> str:
    from kernelpkg.build.manifest import find_library

    library = find_library()
    recorded = (library.manifest if library else {}).get("source_hash", {}).get(kernel)
    if recorded is None:
        raise UsageError(
            f"Neither sources nor an installed library say how {kernel} was made; install kernelpkg again."
        )
    return recorded


def source_hashes() -> dict[str, str]:
    """source_hash of every kernel of the catalogue."""
    return {kernel: source_hash(kernel) for kernel in catalogue.kernels()}


@cache
def _python_folders() -> tuple[Path, ...]:
    package = catalogue.REPOSITORY / "kernelpkg"
    return tuple(package / name for name in ("arch", "gates", "build"))


def configure_hash(*settings: str) -> str:
    """sha256 over everything a configure depends on: the settings given, the generators' Python files, the
    CMake files, and the names of the C++ files. Unchanged, the configure can be skipped.
    """
    csrc = catalogue.csrc_folder()
    digest = hashlib.sha256("\0".join(settings).encode())
    files = [path for folder in _python_folders() for path in sorted(folder.glob("*.py"))]
    files += sorted(csrc.rglob("CMakeLists.txt")) + sorted(csrc.rglob("*.cmake"))
    for path in files:
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    for path in (*catalogue.host_sources(csrc), *catalogue.binding_sources(csrc)):
        digest.update(f"\0{path.relative_to(csrc).as_posix()}".encode())
    return digest.hexdigest()
