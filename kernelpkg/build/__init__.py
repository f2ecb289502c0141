"""Toolchain, kernel catalogue, generated sources, and the driver that builds the operator library."""

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
