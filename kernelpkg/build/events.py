"""What a build says while it runs, what it returns, and how it fails."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kernelpkg.errors import KernelpkgError

EventKind = Literal[
    "toolchain", "configure", "plan", "start", "file", "link", "verify", "done", "failed", "cancelled"
]
END_KINDS = ("done", "failed", "cancelled")


class BuildError(KernelpkgError):
    """The build failed. The message names the file or function; `log` has the tool's own words."""

    def __init__(self, message: str, log: str = ""):
        super().__init__(message)
        self.log = log


class BuildCancelled(BuildError):
    """The build was cancelled. What was finished stays; the next build goes on from there."""


@dataclass(frozen=True, slots=True)
class BuildEvent:
    """One step of a build.

    kind: 'toolchain', 'configure', 'plan', 'start' (a compiler began), 'file' (a file is finished), 'link',
    'verify', and one of 'done', 'failed', 'cancelled' as the last. file and target: what it is about, where
    it is about a file. done and total: files finished and to compile in this build. seconds: what the step
    took. seconds_left: estimate, None where there is none. message: one sentence, empty for 'start' and
    'file'.
    """

    kind: EventKind
    file: str | None = None
    target: str | None = None
    done: int = 0
    total: int = 0
    seconds: float | None = None
    seconds_left: float | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class FileResult:
    """One compiled file. target: its targets ('9.0a,12.0f'), or 'host' for C++. seconds: what compiling it
    took, now or (cached) when it was last compiled. cached: it was up to date and nothing was done.
    """

    file: str
    target: str
    seconds: float
    cached: bool


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A finished build: the library, its folder, its manifest, a row per file, and wall seconds in total."""

    library: Path
    build_dir: Path
    manifest: dict[str, Any]
    files: tuple[FileResult, ...]
    seconds: float
