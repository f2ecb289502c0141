"""What a notebook opens in its first cell: the device it is about, its verdict lines and its results file.

Verdict lines are the notebook's stable output: plain text that depends on the parameters alone, so that a
test can compare them. Figures and timings are shown beside them and are not compared.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kernelpkg import arch
from kernelpkg.errors import CheckFailed, KernelpkgError, UsageError

# The owner this workbook is written for first; asked about where no device is here and none was named.
DEFAULT_CAPABILITY = "12.1"
SIZES = ("tiny", "default", "full")


@dataclass(slots=True)
class Workbook:
    """One run of one notebook.

    device: the device asked about, found here or assumed. live: it is here, so kernels run on it. found: all
    devices here. message: why none is here, or None. size: 'tiny', 'default' or 'full'.
    """

    name: str
    device: Any
    live: bool
    message: str | None
    size: str
    found: tuple[Any, ...] = ()
    results_dir: Path | None = None
    verdicts: list[dict[str, str]] = field(default_factory=list)
    rungs: list[dict[str, Any]] = field(default_factory=list)
    ran: int = 0
    gated_out: dict[str, int] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    started: float = field(default_factory=time.time)

    @property
    def capability(self) -> arch.Capability:
        """The capability of the device asked about."""
        return arch.Capability.parse(self.device.capability)

    @property
    def torch_device(self) -> str:
        """Where torch runs what this notebook runs.

        'cuda:N' of the device asked about if it is here, else 'cpu'.
        """
        return f"cuda:{self.found.index(self.device)}" if self.live else "cpu"

    @property
    def title(self) -> str:
        """The device in words: 'NVIDIA GB10, capability 12.1 (assumed)'."""
        name = self.device.name
        known = "" if str(self.capability) in name else f", capability {self.capability}"
        return f"{name}{known} ({'here' if self.live else 'assumed'})"

    def hold(self, claim: str, held: bool | None, detail: str) -> None:
        """A verdict: prints PASS or FAIL, the claim and what was seen; a FAIL makes `close()` raise.

        None is a claim that this run could not prove either way, and prints OPEN.
        """
        self._say("open" if held is None else "pass" if held else "fail", claim, detail)

    def _say(self, status: str, claim: str, detail: str) -> None:
        self.verdicts.append({"status": status, "claim": claim, "detail": detail})
        print(f"{status.upper()}  {claim}: {detail}")
        self.save()

    def keep(self, rungs: Iterable[Any], *names: str) -> None:
        """Keep the rungs of these names for the report."""
        self.rungs.extend(row for row in map(_rung_row, rungs) if not names or row["rung"] in names)
        self.save()

    def count(self, ran: int, gated_out: Mapping[str, int] | None = None) -> None:
        """Add to the cases run and gated out (by reason)."""
        self.ran += ran
        for reason, number in (gated_out or {}).items():
            self.gated_out[reason] = self.gated_out.get(reason, 0) + number
        self.save()

    def close(self) -> None:
        """The last line of the notebook; raises CheckFailed where a verdict failed."""
        failed = [verdict["claim"] for verdict in self.verdicts if verdict["status"] == "fail"]
        print(f"{self.name}: {len(self.verdicts)} verdicts, {len(failed)} failed")
        self.save(complete=True)
        if failed:
            raise CheckFailed(f"{len(failed)} of {len(self.verdicts)} verdicts failed: {'; '.join(failed)}.")

    def save(self, complete: bool = False) -> None:
        """Write the results so far as JSON into the results folder, if one was given.

        The file is never half written.
        """
        if self.results_dir is None:
            return
        content = {
            "schema": 1,
            "notebook": self.name,
            "device": _plain(self.device),
            "live": self.live,
            "message": self.message,
            "size": self.size,
            "complete": complete,
            "verdicts": self.verdicts,
            "rungs": self.rungs,
            "ran": self.ran,
            "gated_out": self.gated_out,
            "error": self.error,
        }
        self.results_dir.mkdir(parents=True, exist_ok=True)
        scratch = self.results_dir / f".{self.name}.{os.getpid()}"
        scratch.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        scratch.replace(self.results_dir / f"{self.name}.json")

    def cell_ended(self, result: Any) -> None:
        """Called by IPython after each cell: an exception goes into the results with its exit code."""
        problem = result.error_before_exec or result.error_in_exec
        if problem is None or self.results_dir is None:
            return
        self.error = {"type": type(problem).__name__, "message": str(problem), "exit_code": code_of(problem)}
        self.save()


def code_of(problem: BaseException) -> int:
    """The exit code an exception stands for: the package's own; 4 for memory that ran out; else 1."""
    if isinstance(problem, KernelpkgError):
        return problem.exit_code
    names = {cls.__name__ for cls in type(problem).__mro__}
    return 4 if names & {"MemoryError", "OutOfMemoryError", "KeyboardInterrupt"} else 1


def open_workbook(name: str, device: str = "auto", size: str = "default", results_dir: str = "") -> Workbook:
    """The workbook of notebook `name`.

    device: 'auto' takes the first GPU here and assumes 12.1 where there is none; a capability or a device
    name ('12.1', 'GB10') asks about that one, live if it stands here. size: 'tiny', 'default' or 'full'.
    results_dir: folder of the JSON results ('' takes KERNELPKG_RESULTS_DIR, and writes none where that is
    not set). Raises UsageError for a size or device that does not exist.
    """
    if size not in SIZES:
        raise UsageError(f"size is {size!r}; it can be {', '.join(SIZES)}.")
    detection = arch.detect()
    chosen = _choose(detection.devices, device)
    folder = results_dir or os.environ.get("KERNELPKG_RESULTS_DIR", "")
    book = Workbook(
        name=name,
        device=chosen
        if chosen is not None
        else arch.assume(DEFAULT_CAPABILITY if device == "auto" else device),
        live=chosen is not None,
        message=detection.message,
        size=size,
        found=tuple(detection.devices),
        results_dir=Path(folder) if folder else None,
    )
    _watch_cells(book)
    book.save()
    return book


def _choose(devices: Sequence[Any], wanted: str) -> Any | None:
    """The device here that was asked for, or None."""
    if wanted == "auto":
        return devices[0] if devices else None
    capability = arch.Capability.parse(wanted)
    return next((d for d in devices if arch.Capability.parse(d.capability) == capability), None)


def _watch_cells(book: Workbook) -> None:
    """In a notebook, hear of each cell's end; elsewhere nothing."""
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is not None:
        shell.events.register("post_run_cell", book.cell_ended)


def _plain(value: Any) -> Any:
    """A dataclass as JSON types, whatever is not JSON as its text."""
    row = {one.name: getattr(value, one.name) for one in fields(value)}
    return {k: v if v is None or isinstance(v, bool | int | float | str) else str(v) for k, v in row.items()}


def _rung_row(rung: Any) -> dict[str, Any]:
    from kernelpkg.widgets.ladder_view import rung_row

    return rung_row(rung)
