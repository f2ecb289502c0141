"""Builds the operator library: configure, compile with progress, link, read back, write the manifest."""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernelpkg.arch import Target
from kernelpkg.build import catalogue, manifest, progress
from kernelpkg.build.events import END_KINDS, BuildCancelled, BuildError, BuildEvent, BuildResult, FileResult
from kernelpkg.build.generate import PLAN_NAME
from kernelpkg.build.jobs import job_limit
from kernelpkg.build.lock import build_lock
from kernelpkg.build.process import Session, running_commands
from kernelpkg.build.sources import configure_hash, source_hashes
from kernelpkg.build.targets import resolve_targets
from kernelpkg.build.toolchain import Toolchain, find_toolchain
from kernelpkg.errors import KernelpkgError, MachineUnfit, UsageError

GOES_ON = "what is finished stays, and the next build goes on from there"


def build(
    arch: str | Iterable[object] = "native",
    set: str = "test",
    build_dir: Path | str | None = None,
    jobs: int | None = None,
    on_event: Callable[[BuildEvent], None] | None = None,
    cancel: threading.Event | None = None,
) -> BuildResult:
    """Builds the operator library and returns it with its manifest and a row per file.

    arch: 'native' or targets such as '9.0a,12.0f'. set: 'test' (one instance per template branch) or
    'release' (all). build_dir: the folder of builds (default: KERNELPKG_BUILD_DIR or build/ in the
    repository); each set and list of targets has a folder of its own inside. jobs: compilers at once
    (default: `job_limit()`). on_event: called with each BuildEvent, in this thread. cancel: set it from
    another thread to stop the compilers.

    A build that changes nothing takes well under two seconds. Raises UsageError (targets, set),
    ToolchainMissing, BuildError (a file, the link or the read-back failed; `log` has the tool's words),
    BuildCancelled, MachineUnfit (a compiler was killed for memory, the disk is full). An interrupt (Ctrl-C)
    stops the compilers and is raised again.
    """
    say = on_event or (lambda event: None)
    run: _Run | None = None
    try:
        catalogue.check_set(set)
        if jobs is not None and jobs < 1:
            raise UsageError(
                f"jobs={jobs} starts no compiler; give at least 1, or leave it out for the safe number."
            )
        targets = resolve_targets(arch)
        folder = manifest.build_root(build_dir) / manifest.build_folder_name(set, targets)
        run = _Run(set, targets, folder, jobs, say, cancel)
        return run.build()
    except (BuildCancelled, KeyboardInterrupt) as error:
        message = str(error) or f"The build was interrupted; {GOES_ON}."
        say(run.event("cancelled", message) if run else BuildEvent("cancelled", message=message))
        raise
    except Exception as error:
        message = str(error) or repr(error)
        say(run.event("failed", message) if run else BuildEvent("failed", message=message))
        raise


@dataclass(slots=True)
class _Run:
    """One build in one folder."""

    set_name: str
    targets: tuple[Target, ...]
    folder: Path
    jobs: int | None
    say: Callable[[BuildEvent], None]
    cancel: threading.Event | None
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int = 0
    lock: int = -1

    def event(self, kind: Any, message: str = "", **values: Any) -> BuildEvent:
        return BuildEvent(kind, done=self.done, total=self.total, message=message, **values)

    def build(self) -> BuildResult:
        with build_lock(
            self.folder, lambda text: self.say(self.event("plan", text)), self.cancel
        ) as self.lock:
            try:
                return self._build()
            except BaseException as error:
                if (manifest.read_json(self.folder / manifest.STATE_NAME) or {}).get("status") == "building":
                    ended = isinstance(error, BuildCancelled | KeyboardInterrupt)
                    self._state(status="cancelled" if ended else "failed", message=str(error))
                raise

    def _build(self) -> BuildResult:
        toolchain = find_toolchain()
        self.say(self.event("toolchain", f"Using {toolchain.describe()}."))
        hashes = source_hashes()
        self._configure(toolchain)
        files = self._files()
        pending, links = self._pending(toolchain)
        todo = {name: entry for name, entry in files.items() if entry["output"] in pending}
        self.total = len(todo)
        if todo or links or pending:
            self._state(status="building")
            self._compile(toolchain, files, todo)
        return self._finish(toolchain, hashes, files, set(todo))

    # --- configure ------------------------------------------------------------------------------------------

    def _configure(self, toolchain: Toolchain) -> None:
        """Runs CMake, unless everything it reads is as it was."""
        kept = {key: value for key, value in toolchain.to_json().items() if key not in ("notes", "source")}
        tools = json.dumps(kept | {"csrc": str(catalogue.csrc_folder())})
        listed = ",".join(map(str, self.targets))
        wanted = configure_hash(tools, self.set_name, listed, sys.executable)
        state = manifest.read_json(self.folder / manifest.STATE_NAME) or {}
        ready = (self.folder / "build.ninja").is_file() and (self.folder / "generated" / PLAN_NAME).is_file()
        if ready and state.get("configured") == wanted:
            return
        began = time.monotonic()
        self.say(self.event("configure", f"Configuring set {self.set_name} for {listed} in {self.folder}."))
        command = [toolchain.cmake, "-S", catalogue.csrc_folder(), "-B", self.folder, "-G", "Ninja"]
        if state.get("tools") != tools:
            command.append("--fresh")  # CMake cannot change compiler or sources of a cache
        settings = {
            "CMAKE_MAKE_PROGRAM": toolchain.ninja,
            "CMAKE_CXX_COMPILER": toolchain.cxx,
            "CMAKE_CUDA_COMPILER": toolchain.nvcc,
            "CMAKE_CUDA_HOST_COMPILER": toolchain.cxx,
            "CMAKE_SUPPRESS_REGENERATION": "ON",  # we know when, by content
            "KERNELPKG_DRIVEN": "ON",
            "KERNELPKG_PYTHON": sys.executable,
            "KERNELPKG_SET": self.set_name,
            "KERNELPKG_TARGETS": listed,
            "KERNELPKG_CUDA_INCLUDE": toolchain.cuda_include,
            "KERNELPKG_CUDA_LIB": toolchain.cuda_lib,
            "KERNELPKG_CUTLASS_INCLUDE": toolchain.cutlass_include,
            "KERNELPKG_TORCH_INCLUDE": toolchain.torch_include,
            "KERNELPKG_TORCH_LIB": toolchain.torch_lib,
        }
        command += [f"-D{name}={value}" for name, value in settings.items()]
        self._state(configured=None, tools=None)
        code, output = self._run_tool(command, toolchain)
        if code != 0:
            self._state(status="failed", message="configure")
            if progress.disk_full(output):
                raise MachineUnfit(f"The disk of {self.folder} is full; free some space and build again.")
            raise BuildError(f"CMake could not configure {self.folder}: {_configure_error(output)}", output)
        self._state(configured=wanted, tools=tools)
        took = time.monotonic() - began
        self.say(self.event("configure", f"Configured in {took:.1f} s.", seconds=took))

    def _files(self) -> dict[str, dict[str, Any]]:
        """The plan's files by name, each with the object it becomes ('output', relative to the folder)."""
        generated = self.folder / "generated"
        plan = manifest.read_json(generated / PLAN_NAME) or {"files": []}
        outputs = {
            str(Path(entry["file"])): _relative(entry["output"], self.folder)
            for entry in json.loads((self.folder / "compile_commands.json").read_text(encoding="utf-8"))
        }
        files = {}
        for entry in plan["files"]:
            path = generated / entry["path"] if entry["generated"] else Path(entry["path"])
            files[entry["file"]] = entry | {"output": outputs[str(path)]}
        return files

    def _pending(self, toolchain: Toolchain) -> tuple[set[str], bool]:
        """(objects Ninja would make now, whether it would link)."""
        code, output = self._run_tool([toolchain.ninja, "-n"], toolchain)
        if code != 0:
            raise BuildError(f"Ninja cannot read the build in {self.folder}: {output.strip()[-400:]}", output)
        outputs, links = progress.dry_run_outputs(output)
        return {*outputs}, links

    # --- compile --------------------------------------------------------------------------------------------

    def _compile(
        self, toolchain: Toolchain, files: dict[str, dict[str, Any]], todo: dict[str, dict[str, Any]]
    ) -> None:
        limit = job_limit()
        jobs = self.jobs or limit.jobs
        earlier = progress.ninja_log_seconds(self.folder / ".ninja_log")
        left = progress.TimeLeft(
            {name: entry["cost_seconds"] for name, entry in todo.items()},
            {name: earlier[entry["output"]] for name, entry in todo.items() if entry["output"] in earlier},
            jobs,
        )
        why = f"{jobs} job(s), as asked" if self.jobs else limit.reason
        self.say(
            self.event(
                "plan",
                f"{len(todo)} of {len(files)} files to compile; {why}.",
                seconds_left=left.seconds(),
            )
        )
        by_output = {entry["output"]: name for name, entry in todo.items()}
        started: dict[str, float] = {}
        finished: dict[str, float | None] = {}
        reader = progress.NinjaReader()
        env = toolchain.environment() | {"NINJA_STATUS": progress.NINJA_STATUS}
        command = [str(toolchain.ninja), "-j", str(jobs)]

        def start(name: str) -> None:
            if name not in started:
                started[name] = time.monotonic()
                self.say(
                    self.event("start", file=name, target=todo[name]["target"], seconds_left=remaining())
                )

        def remaining() -> float:
            now = time.monotonic()
            return left.seconds((name, now - at) for name, at in started.items() if name not in finished)

        with Session(command, self.folder, env, keep_open=(self.lock,)) as session:
            for line in itertools.chain(session.lines(), (None,)):
                self._check_cancel()
                running = running_commands(session.pid) if line is None else []
                for text in running:
                    for output, name in by_output.items():
                        if name not in started and f" {output} " in f"{text} ":
                            start(name)
                step = reader.feed(line)
                if step is None or step.output is None:
                    continue
                if step.link:
                    self.say(self.event("link", f"Linked {catalogue.LIBRARY_NAME}.", seconds_left=0.0))
                elif name := by_output.get(step.output):
                    seen = name in started  # a file faster than the polling was never seen running
                    start(name)
                    finished[name] = time.monotonic() - started[name] if seen else None
                    left.finished(name, finished[name])
                    self.done += 1
                    self.say(
                        self.event(
                            "file",
                            file=name,
                            target=todo[name]["target"],
                            seconds=finished[name],
                            seconds_left=remaining(),
                        )
                    )
            code = session.wait()
        self._check_cancel()
        if code != 0:
            raise _compile_error(code, reader, by_output, todo, self.folder)

    # --- finish ---------------------------------------------------------------------------------------------

    def _finish(
        self,
        toolchain: Toolchain,
        hashes: dict[str, str],
        files: dict[str, dict[str, Any]],
        compiled: set[str],
    ) -> BuildResult:
        library = self.folder / catalogue.LIBRARY_NAME
        path = self.folder / manifest.MANIFEST_NAME
        known = manifest.read_json(path) or {}
        instances = catalogue.instances_of(self.set_name, self.targets)
        identity = manifest.library_identity(library, known.get("library"))
        key = manifest.verify_key(identity["sha256"], instances, self.targets)
        functions = known.get("functions")
        if known.get("verify_key") != key or functions is None:
            functions = self._verify(library, instances)
        data = manifest.make_manifest(
            self.set_name,
            self.targets,
            instances,
            source_hash=hashes,
            nvcc=toolchain.version,
            toolchain=toolchain.to_json(),
            library=identity,
            functions=functions,
        )
        if {**known, "date": None} == {**data, "date": None}:
            data = known
            os.utime(path)  # the newest build is the one that was asked for last
        else:
            manifest.write_atomically(path, data)
        self._state(status="done", message="")
        seconds = progress.ninja_log_seconds(self.folder / ".ninja_log")
        rows = tuple(
            FileResult(name, entry["target"], seconds.get(entry["output"], 0.0), name not in compiled)
            for name, entry in files.items()
        )
        took = time.monotonic() - self.began
        message = (
            f"{library.name} for {', '.join(map(str, self.targets))}: {len(compiled)} of {len(rows)} files"
        )
        self.say(self.event("done", f"{message} compiled, {took:.1f} s.", seconds=took, seconds_left=0.0))
        return BuildResult(library, self.folder, data, rows, took)

    def _verify(self, library: Path, instances: tuple[Any, ...]) -> list[dict[str, Any]]:
        """Reads the library back; raises BuildError where a target is missing or a function is dead."""
        self._state(status="building")
        began = time.monotonic()
        self.say(self.event("verify", "Reading the machine code back.", seconds_left=0.0))
        functions, problems = manifest.read_back(library, instances, self.targets)
        if problems:
            raise BuildError(
                f"The library was linked but does not hold what it should: {'; '.join(problems[:8])}"
                + (f"; and {len(problems) - 8} more" if len(problems) > 8 else ""),
                "\n".join(problems),
            )
        took = time.monotonic() - began
        self.say(self.event("verify", f"{len(functions)} functions read back, all alive.", seconds=took))
        return functions

    # --- small things ---------------------------------------------------------------------------------------

    def _check_cancel(self) -> None:
        if self.cancel is not None and self.cancel.is_set():
            raise BuildCancelled(
                f"The build was cancelled after {self.done} of {self.total} files; {GOES_ON}."
            )

    def _run_tool(self, command: list[Any], toolchain: Toolchain) -> tuple[int, str]:
        lines: list[str] = []
        env = toolchain.environment() | {"NINJA_STATUS": progress.NINJA_STATUS}
        with Session([str(part) for part in command], self.folder, env, keep_open=(self.lock,)) as session:
            for line in session.lines():
                self._check_cancel()
                if line is not None:
                    lines.append(line)
            return session.wait(), "\n".join(lines)

    def _state(self, **changes: Any) -> None:
        path = self.folder / manifest.STATE_NAME
        state = (manifest.read_json(path) or {}) | changes
        if state != manifest.read_json(path):
            manifest.write_atomically(path, state)


def _relative(output: str, folder: Path) -> str:
    path = Path(output)
    return path.relative_to(folder).as_posix() if path.is_absolute() else path.as_posix()


def _configure_error(output: str) -> str:
    """CMake's own first error, on one line."""
    _, found, rest = output.partition("CMake Error")
    lines = [line.strip() for line in (rest if found else output[-600:]).splitlines()[1 if found else 0 :]]
    return " ".join(line for line in lines if line)[:600] or "it said nothing"


def _compile_error(
    code: int,
    reader: progress.NinjaReader,
    by_output: dict[str, str],
    todo: dict[str, dict[str, Any]],
    folder: Path,
) -> KernelpkgError:
    """The error for a Ninja that ended with `code`."""
    log = "\n".join(reader.log)
    if progress.disk_full(log):
        return MachineUnfit(f"The disk of {folder} is full; free some space and build again: {GOES_ON}.")
    name = by_output.get(reader.failed[0]) if reader.failed else None
    if code < 0 or progress.out_of_memory(log):
        what = name or "Ninja"
        return MachineUnfit(
            f"Compiling {what} was killed, usually for lack of memory; build with fewer jobs (--jobs 1) or "
            f"close other programs: {GOES_ON}."
        )
    if name:
        return BuildError(progress.failure_sentence(name, todo[name]["target"], log), log)
    if reader.failed:
        return BuildError(f"Linking {catalogue.LIBRARY_NAME} failed: {log.strip()[-400:]}", log)
    return BuildError(
        f"Ninja ended with {code} in {folder}: {(log or 'it said nothing').strip()[-400:]}", log
    )


def ended(event: BuildEvent) -> bool:
    """Whether this is a build's last event."""
    return event.kind in END_KINDS
