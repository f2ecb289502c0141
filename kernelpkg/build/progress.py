"""Reads what Ninja says and estimates how long the rest takes. Pure functions and small state; starts
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

NINJA_STATUS = "[%f/%t] "
_STATUS = re.compile(r"^\[(\d+)/(\d+)\] (.*)$")
_OUTPUT = re.compile(r"\b(?:Building|Linking) \w+ (?:object|shared module|shared library) (\S+)")
_FAILED = re.compile(r"^FAILED: (?:\[code=\d+\] )?(\S+)")
_MEMORY = re.compile(
    r"died due to signal 9|Killed\b|out of memory|cannot allocate memory|fatal error: Killed signal",
    re.IGNORECASE,
)
_DISK = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Step:
    """A finished step of Ninja. output: the object or library made, None for another step."""

    done: int
    total: int
    output: str | None
    link: bool


@dataclass(slots=True)
class NinjaReader:
    """Takes Ninja's output line by line; gives steps as they finish and keeps the words of a failure.

    Ninja reports a step and only then says that it failed, so a step is held back until the next line.
    """

    failed: list[str] = field(default_factory=list)  # outputs whose command failed
    log: list[str] = field(default_factory=list)  # what the failed commands printed
    noise: list[str] = field(default_factory=list)  # what commands that did not fail printed, warnings
    _in_failure: bool = False
    _held: Step | None = None

    def feed(self, line: str | None) -> Step | None:
        """The step now known to have succeeded, if one is. None is a pause or the end of the output."""
        held, self._held = self._held, None
        if line is None:
            return held
        line = line.rstrip("\n")
        status = _STATUS.match(line)
        if status:
            self._in_failure = False
            output = _OUTPUT.search(status[3])
            link = status[3].startswith("Linking")
            self._held = Step(int(status[1]), int(status[2]), output[1] if output else None, link)
            return held
        failure = _FAILED.match(line)
        if failure:
            self.failed.append(failure[1])
            self._in_failure = True
            return held if held is not None and held.output != failure[1] else None
        elif line.startswith("ninja: error") or self._in_failure:
            self.log.append(line)
        elif line.startswith("ninja: "):
            pass
        elif line:
            self.noise.append(line)
        return held

    def planned(self) -> str:
        """For a dry run that Ninja refused: its words."""
        return "\n".join(self.log or self.noise)


def dry_run_outputs(text: str) -> tuple[list[str], bool]:
    """(objects that `ninja -n` says it would make, whether it would link)."""
    reader = NinjaReader()
    steps = [step for line in (*text.splitlines(), None) if (step := reader.feed(line))]
    return [s.output for s in steps if s.output and not s.link], any(s.link for s in steps)


def failure_sentence(name: str, target: str, log: str) -> str:
    """One sentence for a failed compile: the file, its targets, and the first line that says error."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror\b|fatal", line, re.IGNORECASE)]
    # The first line of a failure is the command itself, which names -Werror and the like.
    first = next((line for line in errors if not line.startswith(("/", '"')) or ": " in line[:400]), "")
    where = f" for {target}" if target and target != "host" else ""
    said = first or (lines[-1] if lines else "the compiler said nothing")
    return f"Compiling {name}{where} failed: {said[:400]}"


def out_of_memory(log: str) -> bool:
    """Whether a compiler was killed for memory."""
    return bool(_MEMORY.search(log))


def disk_full(log: str) -> bool:
    """Whether the disk had no room."""
    return bool(_DISK.search(log))


def ninja_log_seconds(path: Path) -> dict[str, float]:
    """Seconds each output took when it was last made, from a .ninja_log (milliseconds since the build's
    start).
    """
    seconds: dict[str, float] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return seconds
    for line in lines:
        parts = line.split("\t")
        if len(parts) >= 4 and parts[0].isdigit() and parts[1].isdigit():
            seconds[parts[3]] = (int(parts[1]) - int(parts[0])) / 1000
    return seconds


class TimeLeft:
    """Estimates the seconds left: each file's earlier time where one is known, else its catalogue cost scaled
    by how the finished files compared with theirs; divided over the jobs, and never less than the longest
    file left.
    """

    def __init__(
        self, costs: Mapping[str, float], measured: Mapping[str, float], jobs: int, tail_seconds: float = 3.0
    ):
        self._guesses = {name: cost for name, cost in costs.items() if name not in measured}
        self._left = {name: measured.get(name, cost) for name, cost in costs.items()}
        self._jobs = max(1, jobs)
        self._tail = tail_seconds  # link and read-back
        self._guessed = self._took = 0.0

    def finished(self, name: str, seconds: float | None) -> None:
        """A file is done, in so many seconds where that is known."""
        self._left.pop(name, None)
        if seconds is not None and name in self._guesses:
            self._guessed += self._guesses[name]
            self._took += seconds

    def seconds(self, running: Iterable[tuple[str, float]] = ()) -> float:
        """Seconds left, given the files being compiled and for how long each has been."""
        scale = min(8.0, max(0.125, self._took / self._guessed)) if self._guessed and self._took else 1.0
        left = {name: cost * (scale if name in self._guesses else 1.0) for name, cost in self._left.items()}
        for name, elapsed in running:
            if name in left:
                left[name] = max(1.0, left[name] - elapsed)
        if not left:
            return self._tail
        return max(sum(left.values()) / self._jobs, max(left.values())) + self._tail
