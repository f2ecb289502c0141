"""The manifest beside a built library, and the search for a library to load.

A library without a manifest, or whose build failed since, or whose file is not the one the manifest
describes, is not found: half-finished work is never loaded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kernelpkg.arch import Capability, Image, Target, loads, parse_targets
from kernelpkg.build import catalogue
from kernelpkg.build.events import BuildError
from kernelpkg.build.instance import Instance
from kernelpkg.errors import UsageError
from kernelpkg.gates import GUARDS

SCHEMA = 1
MANIFEST_NAME = "manifest.json"
STATE_NAME = "state.json"
WHEEL_FOLDER = Path(__file__).resolve().parents[1] / "_lib"


@dataclass(frozen=True, slots=True)
class LibraryInfo:
    """A library to load and what its manifest says (empty where it has none: a file named by the user)."""

    path: Path
    manifest: dict[str, Any]

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets it holds code for, by its manifest."""
        listed = self.manifest.get("targets", [])
        return parse_targets(listed) if listed else ()

    def serves(self, capability: Capability) -> bool:
        """Whether some of its machine code loads on a device of this capability."""
        return any(loads(Image("cubin", target), capability).native for target in self.targets)


def write_atomically(path: Path, data: object) -> None:
    """Writes JSON to a file beside `path` and renames it, so that a reader sees the old or the new, never
    half.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(data, indent=1, default=str) + "\n", encoding="utf-8")
    scratch.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none or it cannot be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def library_identity(library: Path, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """size, mtime_ns and sha256 of the library; the hash is taken from `known` where size and time are the
    same.
    """
    stat = library.stat()
    if known and known.get("size") == stat.st_size and known.get("mtime_ns") == stat.st_mtime_ns:
        return dict(known)
    with library.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}


def verify_key(library_sha: str, instances: Iterable[Instance], targets: Iterable[Target]) -> str:
    """What a read-back's result depends on: the library's bytes and what was expected of it."""
    digest = hashlib.sha256(library_sha.encode())
    digest.update(",".join(map(str, targets)).encode())
    for one in instances:
        digest.update(f"\0{one.name}\0{one.kernel}\0{one.gate}\0{one.evidence}\0{one.declares}".encode())
        digest.update(f"\0{one.function}\0{one.shared_memory}".encode())
    return digest.hexdigest()


def read_back(
    library: Path, instances: Sequence[Instance], targets: Sequence[Target]
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """(the functions found in the library as plain rows, what is wrong), from kernelpkg.binaries."""
    from kernelpkg import (
        binaries,
    )  # upwards, but only from inside this function: the read-back belongs to the build

    found = binaries.read_back(library, instances, targets)
    rows = [asdict(row) if is_dataclass(row) else dict(row) for row in found.functions]
    return json.loads(json.dumps(rows, default=str)), tuple(found.problems)


def kernels_entry(instances: Iterable[Instance], targets: Iterable[Target]) -> dict[str, Any]:
    """The manifest's `kernels`: per kernel its targets, instances, declaration, gate and evidence kind.

    A kernel may have a route that only some of its devices take, behind a guard (gates.GUARDS): its targets
    are those of all its instances, its gate is the one that admits the kernel.
    """
    wanted = tuple(targets)
    guards = {guard.id for guard in GUARDS}
    entry: dict[str, Any] = {}
    for one in instances:
        compiled_for = [str(target) for target in catalogue.instance_targets(one, wanted)]
        kernel = entry.setdefault(
            one.kernel,
            {
                "targets": compiled_for,
                "instances": [],
                "declares": one.declares,
                "gate": one.gate,
                "evidence": one.evidence,
            },
        )
        kernel["instances"].append(one.name)
        kernel["targets"] += [target for target in compiled_for if target not in kernel["targets"]]
        if kernel["gate"] in guards:
            kernel["gate"] = one.gate
    for kernel in entry.values():
        kernel["targets"] = [str(target) for target in wanted if str(target) in kernel["targets"]]
    return entry


def make_manifest(
    set_name: str,
    targets: Sequence[Target],
    instances: Sequence[Instance],
    *,
    source_hash: dict[str, str],
    nvcc: str,
    toolchain: dict[str, Any],
    library: dict[str, Any],
    functions: list[dict[str, Any]],
) -> dict[str, Any]:
    """The manifest of a finished build as plain data."""
    return {
        "schema": SCHEMA,
        "set": set_name,
        "targets": [str(target) for target in targets],
        "kernels": kernels_entry(instances, targets),
        "source_hash": source_hash,
        "nvcc": nvcc,
        "toolchain": toolchain,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "library": library,
        "verify_key": verify_key(library["sha256"], instances, targets),
        "functions": functions,
    }


def build_root(build_dir: Path | str | None = None) -> Path:
    """The folder that holds one folder per build: the argument, KERNELPKG_BUILD_DIR, or build/ in the
    repository.
    """
    chosen = build_dir or os.environ.get("KERNELPKG_BUILD_DIR") or catalogue.REPOSITORY / "build"
    return Path(chosen).expanduser().absolute()


def build_folder_name(set_name: str, targets: Iterable[Target]) -> str:
    """The folder of one build inside the root: 'test-9.0a-12.0f'."""
    return "-".join((set_name, *map(str, targets)))


def usable_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished build in this folder; None where it is not one that may be loaded."""
    manifest = read_json(folder / MANIFEST_NAME)
    library = folder / catalogue.LIBRARY_NAME
    if manifest is None or manifest.get("schema") != SCHEMA or not library.is_file():
        return None
    if (read_json(folder / STATE_NAME) or {}).get("status") == "failed":
        return None
    stat, recorded = library.stat(), manifest.get("library", {})
    # Making a wheel strips the library and unpacking it changes its date; pip answers for it being whole.
    same = (recorded.get("size"), recorded.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns)
    return manifest if same or folder == WHEEL_FOLDER else None


def find_library(
    capability: Capability | None = None, build_dir: Path | str | None = None
) -> LibraryInfo | None:
    """The library to load: KERNELPKG_LIBRARY if it is set; else the newest finished build that has machine
    code for the capability; else the newest one; else the one an installed wheel carries; else None.

    Raises UsageError where KERNELPKG_LIBRARY names no file.
    """
    named = os.environ.get("KERNELPKG_LIBRARY")
    if named:
        path = Path(named).expanduser().absolute()
        if not path.is_file():
            raise UsageError(
                f"KERNELPKG_LIBRARY={named} is not a file; unset it or name a built {catalogue.LIBRARY_NAME}."
            )
        return LibraryInfo(path, read_json(path.parent / MANIFEST_NAME) or {})
    root = build_root(build_dir)
    folders = [path.parent for path in root.glob(f"*/{MANIFEST_NAME}")]
    found: list[tuple[int, LibraryInfo]] = []
    for folder in folders:
        manifest = usable_manifest(folder)
        if manifest is not None:
            age = (folder / MANIFEST_NAME).stat().st_mtime_ns
            found.append((age, LibraryInfo(folder / catalogue.LIBRARY_NAME, manifest)))
    found.sort(key=lambda pair: pair[0], reverse=True)
    builds = [info for _, info in found]
    wheel = usable_manifest(WHEEL_FOLDER)
    if wheel is not None:
        builds.append(LibraryInfo(WHEEL_FOLDER / catalogue.LIBRARY_NAME, wheel))
    if capability is not None:
        for info in builds:
            if info.serves(capability):
                return info
    return builds[0] if builds else None


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m kernelpkg.build.manifest --library FILE --set S --targets T --out FILE`: reads a linked
    library back and writes its manifest, for a wheel build. Ends with 1 where the read-back finds something
    wrong.
    """
    from kernelpkg.build.sources import source_hashes
    from kernelpkg.build.toolchain import find_toolchain

    parser = argparse.ArgumentParser(prog="python -m kernelpkg.build.manifest")
    for name in ("library", "set", "targets", "out"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args(arguments)
    targets = parse_targets(options.targets)
    library = Path(options.library)
    instances = catalogue.instances_of(options.set, targets)
    functions, problems = read_back(library, instances, targets)
    if problems:
        raise BuildError(f"The library does not hold what it should: {'; '.join(problems)}")
    toolchain = find_toolchain()
    manifest = make_manifest(
        options.set,
        targets,
        instances,
        source_hash=source_hashes(),
        nvcc=toolchain.version,
        toolchain=toolchain.to_json(),
        library=library_identity(library),
        functions=functions,
    )
    write_atomically(Path(options.out), manifest)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BuildError, UsageError) as error:
        sys.exit(f"error: {error}")
