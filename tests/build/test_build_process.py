"""Stopping tools, the folder's lock, the handle and the terminal: about 5 s."""

import fcntl
import io
import os
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from kernelpkg.build import BuildCancelled, BuildError, BuildEvent, driver, handle
from kernelpkg.build.lock import LOCK_NAME, build_lock
from kernelpkg.build.process import Session, running_commands, session_members
from kernelpkg.build.terminal import progress

# As Ninja does: a child in a process group of its own, which starts a grandchild.
NINJA_LIKE = """
import subprocess, sys, time
subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60"], process_group=0)
print("started", flush=True)
time.sleep(60)
"""


def test_stop_ends_the_whole_session(tmp_path):
    with Session([sys.executable, "-c", NINJA_LIKE], tmp_path, os.environ) as session:
        assert next(line for line in session.lines() if line) == "started"
        deadline = time.monotonic() + 5
        while len(session_members(session.pid)) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(session_members(session.pid)) == 4
        assert any("sleep 60" in command for command in running_commands(session.pid))
    assert session_members(session.pid) == []


def test_stop_ends_what_ignores_an_interrupt(tmp_path, monkeypatch):
    monkeypatch.setattr("kernelpkg.build.process.GRACE_SECONDS", 0.3)
    code = "import signal, time; signal.signal(2, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    with Session([sys.executable, "-c", code], tmp_path, os.environ) as session:
        assert next(line for line in session.lines() if line) == "on"
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert session_members(session.pid) == []


def test_lines_and_status(tmp_path):
    with Session(["sh", "-c", "echo a; echo b >&2; printf c; exit 3"], tmp_path, os.environ) as session:
        assert [line for line in session.lines() if line is not None] == ["a", "b", "c"]
        assert session.wait() == 3


def test_a_quiet_tool_gives_ticks(tmp_path):
    with Session(["sleep", "0.3"], tmp_path, os.environ) as session:
        assert list(session.lines(0.05)).count(None) >= 2


# --- the lock ---


def holding(folder):
    """Another process that holds the folder's lock until its input ends."""
    code = (
        "import sys; from pathlib import Path; from kernelpkg.build.lock import build_lock\n"
        "with build_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    return other


def test_a_second_build_waits_and_says_so(tmp_path):
    other, said = holding(tmp_path), []
    threading.Timer(0.3, other.stdin.close).start()
    with build_lock(tmp_path, said.append):
        pass
    assert said == [f"Another build (process {other.pid}) is using {tmp_path}; waiting for it to end."]
    other.wait()


def test_waiting_ends_by_cancel_or_time(tmp_path):
    other = holding(tmp_path)
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(BuildCancelled, match=f"process {other.pid}"), build_lock(tmp_path, cancel=cancelled):
        pass
    with (
        pytest.raises(BuildError, match="did not end within 0 s; wait"),
        build_lock(tmp_path, wait_seconds=0.2),
    ):
        pass
    other.communicate()


def test_compilers_keep_the_lock_of_a_killed_build(tmp_path):
    with build_lock(tmp_path) as descriptor:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(descriptor,))
    with (tmp_path / LOCK_NAME).open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    child.kill()
    child.wait()
    with build_lock(tmp_path, wait_seconds=1):
        pass


# --- errors before anything runs ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"arch": "7.5"}, "No gate ships 7.5"),
        ({"arch": "9.0a", "set": "all"}, "'all' is not a set"),
        ({"arch": "9.0a", "jobs": 0}, "jobs=0 starts no compiler"),
        ({"arch": "80f"}, "80f does not exist"),
    ],
)
def test_bad_calls_end_with_a_failed_event(tmp_path, arguments, words):
    events = []
    with pytest.raises(ValueError, match=words):
        driver.build(build_dir=tmp_path, on_event=events.append, **arguments)
    assert [event.kind for event in events] == ["failed"]
    assert words in events[0].message
    assert list(tmp_path.iterdir()) == []


# --- the handle ---


def test_handle_gives_events_result_and_errors(monkeypatch):
    def fake(arch, set, build_dir, jobs, on_event, cancel):
        on_event(BuildEvent("plan", message="one file"))
        if not cancel.wait(5):
            return "never"
        on_event(BuildEvent("cancelled", message="stopped"))
        raise BuildCancelled("stopped")

    monkeypatch.setattr(handle, "build", fake)
    running = handle.start_build("9.0a")
    assert running.events.get(timeout=5).kind == "plan"
    assert running.running and running.result is None
    with pytest.raises(TimeoutError):
        running.wait(0.05)
    running.cancel()
    with pytest.raises(BuildCancelled, match="stopped"):
        running.wait(5)
    assert running.events.get(timeout=5).kind == "cancelled"
    assert running.events.get(timeout=5) is None
    assert isinstance(running.error, BuildCancelled)


def test_handle_result(monkeypatch):
    monkeypatch.setattr(handle, "build", lambda *arguments: "built")
    running = handle.start_build("9.0a")
    assert running.wait(5) == "built" == running.result


# --- the terminal ---


def test_a_log_has_a_line_per_file():
    text = io.StringIO()
    with progress(Console(file=text, width=200)) as on_event:
        on_event(BuildEvent("plan", total=2, message="2 of 2 files to compile; 2 jobs."))
        on_event(BuildEvent("start", "a.cu", "9.0a", 0, 2))
        on_event(BuildEvent("file", "a.cu", "9.0a", 1, 2, 12.34, 200.0))
        on_event(BuildEvent("done", done=2, total=2, message="Done [1/2]."))
    assert text.getvalue().splitlines() == [
        "2 of 2 files to compile; 2 jobs.",
        "[1/2] a.cu (9.0a) 12.3 s, about 3 min left",
        "Done [1/2].",
    ]


def test_a_terminal_has_a_bar():
    text = io.StringIO()
    with progress(Console(file=text, width=120, force_terminal=True)) as on_event:
        on_event(BuildEvent("start", "a.cu", "9.0a", 0, 2, seconds_left=30.0))
    assert "0/2" in text.getvalue()
    assert "about 30 s left" in text.getvalue()
