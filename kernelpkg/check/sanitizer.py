"""compute-sanitizer over the check: memory and race errors in the kernels, or why it could not run.

The tool watches a process of its own that runs the tiny cases. Some virtual machines refuse it; a tool that
did not run is recorded as *not run*, never as clean.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernelpkg.binaries import find_tool
from kernelpkg.check.runner import checkable_kernels
from kernelpkg.errors import CheckFailed, NothingRan, UsageError

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
DEFAULT_TOOLS = ("memcheck", "racecheck")
_ERROR_CODE = 86  # any code that Python does not end with by itself

_WORKLOAD = """
import json, sys
from kernelpkg import check
kernels, size, device = json.loads(sys.argv[1])
report = check.run(kernels=kernels, size=size, device=device, graphs=False)
ran = {}
for row in report.rows:
    ran.setdefault(row["kernel"], set()).add(row["case"])
print("WORKLOAD " + json.dumps({
    "ran": {kernel: len(cases) for kernel, cases in ran.items()},
    "passed": report.passed, "summary": report.summary, "machine": report.machine}))
"""


@dataclass(slots=True)
class SanitizerReport:
    """Rows, one per kernel and tool: kernel, tool, status ('clean', 'errors', 'not run'), cases, seconds,
    device, detail."""

    device: str
    label: str
    machine: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """How many of the rows are clean, have errors, were not run."""
        counts = {status: 0 for status in ("clean", "errors", "not run")}
        for row in self.rows:
            counts[row["status"]] += 1
        return ", ".join(f"{count} {status}" for status, count in counts.items())

    def raise_for_status(self) -> None:
        """Raises CheckFailed where a tool found errors, NothingRan where no tool ran."""
        bad = [row for row in self.rows if row["status"] == "errors"]
        if bad:
            raise CheckFailed(f"{bad[0]['tool']} found errors in {bad[0]['kernel']}: {bad[0]['detail']}")
        if all(row["status"] == "not run" for row in self.rows):
            reason = self.rows[0]["detail"] if self.rows else "there was no kernel to run"
            raise NothingRan(f"compute-sanitizer did not run: {reason}")


def sanitize(
    tools: Iterable[str] = DEFAULT_TOOLS,
    kernels: Iterable[str] | None = None,
    size: str = "tiny",
    device: str = "cuda:0",
    timeout: float = 900.0,
    on_row: Callable[[dict[str, Any]], None] | None = None,
) -> SanitizerReport:
    """Run each tool over the cases of `kernels` (all where None) on `device`; `timeout` in seconds per tool.

    Raises UsageError for an unknown tool, and where compute-sanitizer is not installed.
    """
    tools = tuple(tools)
    for tool in tools:
        if tool not in TOOLS:
            raise UsageError(f"no sanitizer tool is called {tool!r}; the tools are {', '.join(TOOLS)}")
    names = [entry.name for entry in checkable_kernels(kernels)]
    program = find_tool("compute-sanitizer")
    report = SanitizerReport(device, "measured here, this capability")
    for tool in tools:
        for row in _one_tool(program, tool, names, size, device, timeout, report):
            report.rows.append(row)
            if on_row is not None:
                on_row(row)
    return report


def _one_tool(
    program: Path,
    tool: str,
    kernels: list[str],
    size: str,
    device: str,
    timeout: float,
    report: SanitizerReport,
) -> list[dict[str, Any]]:
    command = [str(program), "--tool", tool, "--error-exitcode", str(_ERROR_CODE)]
    command += ["--target-processes", "all"]
    command += [sys.executable, "-c", _WORKLOAD, json.dumps([kernels, size, device])]
    # torch's allocator carves many tensors out of one block: without it each tensor has bounds of its own,
    # but no graph can be captured.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    started = time.perf_counter()
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
        text, code = run.stdout + run.stderr, run.returncode
    except subprocess.TimeoutExpired as late:
        text, code = _text(late.stdout) + _text(late.stderr), None
    seconds = round(time.perf_counter() - started, 1)
    status, detail, done = read_output(text, code)
    if code is None:
        status, detail = "not run", f"stopped after {timeout:.0f} s"
    report.machine = report.machine or done.get("machine", {})
    ran = done.get("ran", {})
    rows = []
    for kernel in kernels:
        cases = ran.get(kernel, 0)
        if status != "not run" and not cases:
            continue  # gated out on this device
        row = {"kernel": kernel, "tool": tool, "status": status, "cases": cases, "seconds": seconds}
        rows.append(row | {"device": device, "detail": detail})
    return rows


def read_output(text: str, code: int | None) -> tuple[str, str, dict[str, Any]]:
    """Status, detail and the workload's own figures, from what compute-sanitizer and the workload printed."""
    found = re.search(r"^WORKLOAD (\{.*\})$", text, re.MULTILINE)
    done = json.loads(found[1]) if found else {}
    lines = [line.removeprefix("=========").strip() for line in text.splitlines() if line.startswith("=====")]
    counts = [int(n) for n in re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:errors?|hazards?)", text)]
    if any(counts) or (code == _ERROR_CODE and counts):
        said = next((line for line in lines if line and not line.startswith("COMPUTE-SANITIZER")), "")
        return "errors", f"{sum(counts)} errors; first: {said}", done
    if counts and done.get("ran"):
        if not done["passed"]:
            return "errors", f"the tool is clean, the numbers are not: {done['summary']}", done
        return "clean", done["summary"], done
    said = [line for line in lines if line and not line.startswith("COMPUTE-SANITIZER")]
    said = said or [line for line in text.splitlines() if line.strip()][-1:]
    return "not run", (said[0] if said else f"no output, exit code {code}")[:300], done


def _text(output: str | bytes | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
