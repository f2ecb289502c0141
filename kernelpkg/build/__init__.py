"""Toolchain, kernel catalogue, generated sources, and the driver that builds the operator library.

Names are imported when they are first asked for, so that `python -m kernelpkg.build.generate` and its like
start from a package that has not imported them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernelpkg.build.driver import build
    from kernelpkg.build.events import BuildCancelled, BuildError, BuildEvent, BuildResult, FileResult
    from kernelpkg.build.handle import BuildHandle, start_build
    from kernelpkg.build.instance import Instance
    from kernelpkg.build.jobs import JobLimit, device_memory_guard, job_limit
    from kernelpkg.build.manifest import LibraryInfo, build_root, find_library
    from kernelpkg.build.sources import source_hash, source_hashes
    from kernelpkg.build.targets import (
        add_native,
        allowed_targets,
        default_set,
        default_targets,
        native_targets,
        resolve_targets,
    )
    from kernelpkg.build.toolchain import Toolchain, ToolchainMissing, find_toolchain

_HOMES = {
    "BuildCancelled": "events",
    "BuildError": "events",
    "BuildEvent": "events",
    "BuildHandle": "handle",
    "BuildResult": "events",
    "FileResult": "events",
    "Instance": "instance",
    "JobLimit": "jobs",
    "LibraryInfo": "manifest",
    "Toolchain": "toolchain",
    "ToolchainMissing": "toolchain",
    "add_native": "targets",
    "allowed_targets": "targets",
    "build": "driver",
    "build_root": "manifest",
    "default_set": "targets",
    "default_targets": "targets",
    "device_memory_guard": "jobs",
    "find_library": "manifest",
    "find_toolchain": "toolchain",
    "job_limit": "jobs",
    "native_targets": "targets",
    "resolve_targets": "targets",
    "source_hash": "sources",
    "source_hashes": "sources",
    "start_build": "handle",
}

__all__ = [
    "BuildCancelled",
    "BuildError",
    "BuildEvent",
    "BuildHandle",
    "BuildResult",
    "FileResult",
    "Instance",
    "JobLimit",
    "LibraryInfo",
    "Toolchain",
    "ToolchainMissing",
    "add_native",
    "allowed_targets",
    "build",
    "build_root",
    "default_set",
    "default_targets",
    "device_memory_guard",
    "find_library",
    "find_toolchain",
    "job_limit",
    "native_targets",
    "resolve_targets",
    "source_hash",
    "source_hashes",
    "start_build",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"kernelpkg.build.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
