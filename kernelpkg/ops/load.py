"""Loads the operator library into this process, once."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kernelpkg.build import LibraryInfo, find_library
from kernelpkg.build.manifest import WHEEL_FOLDER, library_identity
from kernelpkg.errors import UsageError


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What tells a library file from another one that was later written under its name."""

    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> _Stamp:
        status = path.stat()
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


_loaded: tuple[LibraryInfo, _Stamp] | None = None


def loaded() -> LibraryInfo | None:
    """The library this process has loaded, None before the first `load`."""
    return _loaded[0] if _loaded else None


def load(path: str | Path | None = None) -> LibraryInfo:
    """Loads libkernelpkg_ops.so and registers the fakes; the second and later calls do nothing.

    path: a library file. None: the one already loaded, else the one `kernelpkg.build.find_library` chooses
    for this machine. The operators then are torch.ops.kernelpkg.* and torch.ops.kernelpkg_evidence.*.

    Raises UsageError where there is no library, and where another one is loaded already: torch registers an
    operator once per process.
    """
    global _loaded
    if path is None:
        if _loaded is not None:
            return _loaded[0]
        info = find_library(_capability())
        if info is None:
            raise UsageError(
                "No kernel library is here yet: run `kernelpkg build`, or set KERNELPKG_LIBRARY to one."
            )
    else:
        info = _describe(Path(path))

    file = Path(info.path).resolve()
    if not file.is_file():
        raise UsageError(f"There is no library at {file}: run `kernelpkg build`, or name another file.")
    stamp = _Stamp.of(file)
    if _loaded is not None:
        _refuse_second(file, stamp)
        return _loaded[0]

    try:
        torch.ops.load_library(str(file))
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"The library {file} does not load under torch {torch.__version__}: {error}"
        ) from error
    from kernelpkg.ops import fakes

    fakes.register()
    _loaded = (_verified(info), stamp)
    return _loaded[0]


def _refuse_second(file: Path, stamp: _Stamp) -> None:
    """Raises UsageError unless `file` is, byte for byte as far as the file system tells, the loaded
    library."""
    assert _loaded is not None
    present = Path(_loaded[0].path).resolve()
    if file != present and stamp != _loaded[1]:
        raise UsageError(
            f"This process has loaded {present} and cannot load {file} too, because torch registers an "
            "operator once; start a new process (in a notebook, restart the kernel) for the other library."
        )
    if stamp != _loaded[1]:
        raise UsageError(
            f"The library {present} was built again after this process loaded it; start a new process (in "
            "a notebook, restart the kernel) to run the new code."
        )


def _describe(path: Path) -> LibraryInfo:
    manifest = path.parent / "manifest.json"
    return LibraryInfo(path, json.loads(manifest.read_text()) if manifest.is_file() else {})


def _verified(info: LibraryInfo) -> LibraryInfo:
    """`info`, without its manifest where that is of another file: a library put in its place later would be
    described by it."""
    recorded = info.manifest.get("library", {})
    # Making a wheel strips the library: pip answers for it being whole.
    if not recorded or info.path.parent == WHEEL_FOLDER:
        return info
    same = library_identity(info.path, recorded).get("sha256") == recorded.get("sha256")
    return info if same else replace(info, manifest={})


def _capability() -> object | None:
    """The capability of the current CUDA device, None without one."""
    if not torch.cuda.is_available():
        return None
    from kernelpkg.arch import Capability

    return Capability(*torch.cuda.get_device_capability())
