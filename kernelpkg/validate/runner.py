"""Run the notebooks, one kernel process each, and write the report.

Everything is written beside the target folder first and moved there file by file when it is complete, so a
reader of the folder never meets half a page, and an interrupted run leaves what was finished.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from platform import machine, platform, python_version
from typing import Any

import nbformat

from kernelpkg.arch import Capability
from kernelpkg.errors import UsageError
from kernelpkg.validate import engine, pages
from kernelpkg.validate.report import ValidateReport, write_junit, write_results
from kernelpkg.validate.workbook import SIZES

NOTEBOOKS = ("01_capability", "02_build", "03_correctness", "04_speed")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Progress:
    """News of a run. notebook.

    Its name; index of count: which one; cell of cells; line: the last line it printed.
    """

    notebook: str
    index: int
    count: int
    cell: int
    cells: int
    line: str
    status: str


OnProgress = Callable[[Progress], None]


def notebooks_folder() -> Path:
    """Where the notebooks are: beside the package in a checkout, else under the current folder."""
    here = [Path(__file__).resolve().parents[2] / "notebooks", Path.cwd() / "notebooks"]
    for folder in here:
        if (folder / f"{NOTEBOOKS[0]}.ipynb").is_file():
            return folder
    raise UsageError("The notebooks are not here: run this in a checkout of the repository.")


def parse_parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """'name=value' texts as a dict.

    A value that reads as JSON (true, 3, ["a"]) is taken as such, else as text.
    """
    parameters: dict[str, Any] = {}
    for pair in pairs:
        name, found, value = pair.partition("=")
        if not found or not name.strip().isidentifier():
            raise UsageError(f"parameter {pair!r}: write it as name=value, such as -p device=12.1.")
        try:
            parameters[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            parameters[name.strip()] = value
        # A capability is a name, not a number: 12.1 must stay '12.1', and 9.0 must not lose its zero.
        if isinstance(parameters[name.strip()], float):
            parameters[name.strip()] = value
    return parameters


def run(
    out: str | os.PathLike[str] = "runs/latest",
    notebooks: Sequence[str | os.PathLike[str]] | None = None,
    parameters: Mapping[str, Any] | None = None,
    size: str = "default",
    on_progress: OnProgress | None = None,
    timeout: float = 3600.0,
) -> ValidateReport:
    """Run the notebooks with papermill; executed notebooks, pages and results go into `out`.

    notebooks: names ('01_capability', also '01' or 'capability') or paths; all four by default. parameters:
    given to every notebook that declares them. size: 'tiny', 'default' or 'full'. timeout: seconds for each.
    A notebook that fails does not stop the others. Ctrl-C stops the run and reports what was finished.
    Raises UsageError for a notebook, size or parameter that does not exist.
    """
    sources = [_find(name) for name in (notebooks or NOTEBOOKS)]
    if size not in SIZES:
        raise UsageError(f"size is {size!r}; it can be {', '.join(SIZES)}.")
    wanted = {"size": size, **(parameters or {})}
    _require_known(wanted, parameters or {}, sources)
    target = Path(out).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    report = ValidateReport(
        parameters=wanted, started=datetime.now().astimezone().isoformat(timespec="seconds"), out=target
    )
    begin = time.monotonic()
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for index, source in enumerate(sources):
            if report.interrupted:
                report.rows.append(_row(source.stem, "not run"))
                continue

            def tell(
                cell: int, cells: int, line: str, status: str, at: int = index, name: str = source.stem
            ) -> None:
                if on_progress is not None:
                    on_progress(Progress(name, at, len(sources), cell, cells, line, status))

            try:
                report.rows.append(_run_one(source, stage, wanted, timeout, tell))
            except KeyboardInterrupt:
                report.interrupted = True
                report.rows.append(_row(source.stem, "not run"))
        report.seconds = time.monotonic() - begin
        report.machine = _machine(stage / "results")
        pages.write(report, stage)
        write_junit(report, stage / "junit.xml")
        write_results(report, stage / "results.json")
        _publish(stage, target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return report


def _run_one(
    source: Path,
    stage: Path,
    wanted: Mapping[str, Any],
    timeout: float,
    tell: Callable[[int, int, str, str], None],
) -> dict[str, Any]:
    """One notebook into the stage; its row."""
    name = source.stem
    results = stage / "results"
    given = {k: v for k, v in wanted.items() if k in declared(source)}
    at = [0, 0]
    tell(0, 0, "", "starting")

    def on_cell(cell: int, cells: int) -> None:
        at[:] = cell, cells
        tell(cell, cells, "", "running")

    begin = time.monotonic()
    problem: dict[str, Any] | None = None
    try:
        engine.execute(
            source,
            stage / f"{name}.ipynb",
            given,
            timeout,
            env={"KERNELPKG_RESULTS_DIR": str(results)},
            on_cell=on_cell,
            on_line=lambda line: tell(at[0], at[1], line, "running"),
        )
    except Exception as error:
        problem = _problem(error, stage / f"{name}.ipynb", timeout)
    seconds = time.monotonic() - begin
    found = _read(results / f"{name}.json")
    if problem is not None and found.get("error"):
        problem["exit_code"] = found["error"]["exit_code"]
    status = "pass" if problem is None else ("unfit" if problem["exit_code"] == 4 else "fail")
    tell(at[1], at[1], "" if problem is None else problem["message"], status)
    return _row(name, status, seconds, problem, found)


def _row(
    name: str,
    status: str,
    seconds: float = 0.0,
    problem: dict[str, Any] | None = None,
    found: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    found = found or {}
    return {
        "notebook": name,
        "status": status,
        "seconds": round(seconds, 1),
        "rungs": found.get("rungs", []),
        "verdicts": found.get("verdicts", []),
        "ran": found.get("ran", 0),
        "gated_out": found.get("gated_out", {}),
        "error": problem,
    }


def _problem(error: Exception, executed: Path, timeout: float) -> dict[str, Any]:
    """What went wrong, for the first page: the notebook's own error where it has one, else the runner's."""
    name = type(error).__name__
    if name == "PapermillExecutionError":
        return {
            "type": error.ename,
            "message": _ANSI.sub("", error.evalue),
            "traceback": _ANSI.sub("", "\n".join(error.traceback)),
            "exit_code": 1,
        }
    if name == "CellTimeoutError":
        message = f"The notebook did not end within {timeout:.0f} s."
        return {"type": "Timeout", "message": message, "traceback": str(error)[:4000], "exit_code": 4}
    if name == "DeadKernelError":
        message = "The notebook's process died: out of memory is the usual reason."
        return {"type": "DeadKernel", "message": message, "traceback": str(error), "exit_code": 4}
    return {
        "type": name,
        "message": _ANSI.sub("", str(error)),
        "traceback": f"while running {executed.name}",
        "exit_code": 1,
    }


def _find(name: str | os.PathLike[str]) -> Path:
    """A notebook by path or by (part of) its name."""
    path = Path(name)
    if path.suffix == ".ipynb":
        if path.is_file():
            return path.resolve()
        raise UsageError(f"{path} is not a file.")
    matches = [n for n in NOTEBOOKS if path.name in (n, *n.split("_", 1))]
    if not matches:
        raise UsageError(f"no notebook is named {str(name)!r}; there are {', '.join(NOTEBOOKS)}.")
    return notebooks_folder() / f"{matches[0]}.ipynb"


def declared(source: Path) -> set[str]:
    """The names that the notebook's cell tagged 'parameters' assigns."""
    import ast

    for cell in nbformat.read(source, as_version=4).cells:
        if "parameters" in cell.metadata.get("tags", []):
            return {
                target.id
                for node in ast.parse(cell.source).body
                if isinstance(node, ast.Assign | ast.AnnAssign)
                for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
                if isinstance(target, ast.Name)
            }
    return set()


def _require_known(wanted: Mapping[str, Any], named: Mapping[str, Any], sources: Sequence[Path]) -> None:
    """Refuse before anything runs: a parameter that no chosen notebook has, a device that nobody knows."""
    known = set().union(*map(declared, sources))
    unknown = sorted(set(named) - known)
    if unknown:
        raise UsageError(
            f"no notebook has a parameter {', '.join(unknown)}; there are {', '.join(sorted(known))}."
        )
    if named.get("device", "auto") != "auto":
        Capability.parse(named["device"])


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _machine(results: Path) -> dict[str, str]:
    """What the notebooks saw of the machine, and what this process knows.

    The parent opens no GPU of its own.
    """
    seen = [_read(path) for path in sorted(results.glob("*.json"))]
    facts: dict[str, str] = {}
    for found in seen:
        device = found.get("device", {})
        state = "here" if found.get("live") else "assumed"
        facts["device"] = f"{device.get('name')}, capability {device.get('capability')} ({state})"
        if found.get("live") and device.get("driver"):
            facts["driver"] = str(device["driver"])
        elif found.get("message"):
            facts["GPU here"] = str(found["message"])
        break
    facts["system"] = f"{platform(terse=True)}, {machine()}, {os.cpu_count()} cores"
    facts["Python"] = python_version()
    for package in ("torch", "kernelpkg"):
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def _publish(stage: Path, target: Path) -> None:
    """Move the finished files.

    The first page and the results go last. Pages of an earlier run that this one has not are removed, and
    nothing else is touched.
    """
    target.mkdir(parents=True, exist_ok=True)
    earlier = {row["notebook"] for row in _read(target / "results.json").get("rows", [])}
    files = sorted(p.relative_to(stage) for p in stage.rglob("*") if p.is_file())
    last = [Path("index.html"), Path("results.json")]
    for file in [f for f in files if f not in last] + last:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(stage / file, target / file)
    for name in earlier:
        for file in (Path(f"{name}.ipynb"), Path(f"{name}.html"), Path("results") / f"{name}.json"):
            if file not in files:
                (target / file).unlink(missing_ok=True)
