"""Runs one tool in a session of its own, line by line, so that it and everything it started can be stopped.

Ninja puts each compiler in a process group of its own, so a signal to Ninja's group would miss them; what
they share is the session, and that is what is stopped.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

GRACE_SECONDS = 3.0


class Session:
    """A child process that leads a session; a context manager: leaving it stops whatever still runs."""

    def __init__(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str], keep_open: Sequence[int] = ()
    ):
        """keep_open: file descriptors the children inherit (a lock that must outlive this process if they
        do).
        """
        self._process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=dict(env),
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(keep_open),
        )
        self.pid = self._process.pid

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def lines(self, tick_seconds: float = 0.2) -> Iterator[str | None]:
        """The output line by line; None whenever tick_seconds passed without one. Ends with the output."""
        stream = self._process.stdout
        assert stream is not None
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while True:
                if not selector.select(tick_seconds):
                    yield None
                    continue
                chunk = os.read(stream.fileno(), 65536)
                if not chunk:
                    break
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield line.decode(errors="replace")
        if rest:
            yield rest.decode(errors="replace")

    def wait(self) -> int:
        """The exit status, once the output has ended."""
        return self._process.wait()

    def stop(self) -> None:
        """Stops the process and everything in its session: interrupt first (Ninja then removes half-written
        files), then kill. Returns when none of them runs.
        """
        if self._process.poll() is None:
            self._signal(self.pid, signal.SIGINT)
            deadline = time.monotonic() + GRACE_SECONDS
            while self._process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
        deadline = time.monotonic() + GRACE_SECONDS
        while (left := self._alive()) and time.monotonic() < deadline:
            for pid in left:
                self._signal(pid, signal.SIGKILL)
            time.sleep(0.02)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait()

    def _alive(self) -> list[int]:
        own = [self.pid] if self._process.poll() is None else []
        return [*own, *(pid for pid in session_members(self.pid) if pid != self.pid)]

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def session_members(session: int) -> list[int]:
    """The processes of a session that are not zombies, from /proc."""
    members = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields and fields[0] != "Z" and int(fields[3]) == session:
                members.append(int(entry.name))
    return members


def running_commands(parent: int) -> list[str]:
    """The command lines of a process's children: what Ninja is running now."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        children = [
            entry.name
            for entry in os.scandir("/proc")
            if entry.name.isdigit() and (fields := _stat(int(entry.name))) and int(fields[1]) == parent
        ]
    commands = []
    for child in children:
        try:
            commands.append(
                Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except OSError:
            continue
    return commands


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name: state, parent, group, session and so on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()
