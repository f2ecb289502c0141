"""The build panel with builds that are none: progress, cancel and failure. About eight seconds."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from kernelpkg.build.events import BuildCancelled, BuildError, BuildEvent
from kernelpkg.build.terminal import duration
from kernelpkg.widgets import build_panel
from kernelpkg.widgets.view import WIDGET_MIME


class FakeBuild:
    """Finishes a file every 20 ms, until it is cancelled."""

    def __init__(self, files: int = 3, error: BaseException | None = None) -> None:
        self.events: queue.Queue[BuildEvent | None] = queue.Queue()
        self.stop = threading.Event()
        self.files = files
        self.error = error
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.events.put(BuildEvent("plan", total=self.files, message=f"{self.files} files to compile"))
        for i in range(self.files):
            if self.stop.wait(0.02):
                self.error = BuildCancelled("The build was cancelled.")
                self.events.put(BuildEvent("cancelled", message="cancelled"))
                break
            left = float(self.files - i - 1)
            event = BuildEvent("file", f"f{i}.cu", "9.0a", i + 1, self.files, 1.0 + i, left)
            self.events.put(event)
        else:
            kind = "failed" if self.error else "done"
            self.events.put(BuildEvent(kind, done=self.files, total=self.files, message=kind))
        self.events.put(None)

    def cancel(self) -> None:
        self.stop.set()

    def wait(self) -> Any:
        self.thread.join()
        if self.error is not None:
            raise self.error
        return "library"


def test_a_build_is_followed_to_its_end() -> None:
    panel = build_panel.start(FakeBuild())
    said: list[str] = []
    assert panel.wait(said.append) == "library"
    assert said[0] == "3 files to compile" and said[-1] == "done"
    assert said[1] == "[1/3] f0.cu (9.0a) 1.0 s, about 2 s left"
    assert said[3] == "[3/3] f2.cu (9.0a) 3.0 s"
    view = panel.view()
    assert "Build done: 3 of 3 files" in view.text and "f2.cu" in view.text
    assert WIDGET_MIME in view._repr_mimebundle_() and 'aria-valuenow="100"' in view.html


def test_the_button_stops_the_build_while_somebody_waits() -> None:
    panel = build_panel.start(FakeBuild(files=10_000))
    button = panel.view().widget.children[0].children[1]
    assert button.description == "Cancel"
    threading.Timer(0.3, button.click).start()
    begin = time.monotonic()
    with pytest.raises(BuildCancelled):
        panel.wait(lambda line: None)
    assert time.monotonic() - begin < 5
    assert "Build cancelled" in panel.view().text and button.disabled


def test_an_interrupt_reaches_the_compilers() -> None:
    build = FakeBuild(files=10_000)
    panel = build_panel.start(build)

    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        panel.wait(interrupted)
    assert build.stop.is_set()


def test_a_failure_is_raised_where_it_is_waited_for() -> None:
    panel = build_panel.start(FakeBuild(1, BuildError("f0.cu: expected a semicolon")))
    with pytest.raises(BuildError, match="semicolon"):
        panel.wait(lambda line: None)
    assert "Build failed" in panel.view().text and "✗" in panel.view().html


def test_nothing_to_compile_is_a_full_bar() -> None:
    panel = build_panel.start(FakeBuild(0))
    panel.wait(lambda line: None)
    assert "nothing to compile" in panel.view().text
    assert panel.view().widget.children[0].children[0].value == 1.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0.4 s"), (42, "42 s"), (200, "3 min"), (7500, "2 h 05 min")]
)
def test_durations_read_as_a_person_says_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_cell_that_awaits_sees_the_same() -> None:
    said: list[str] = []
    panel = build_panel.start(FakeBuild())
    assert asyncio.run(panel.finished(said.append)) == "library"
    assert len(said) == 5


def test_a_cancelled_cell_cancels_the_build() -> None:
    build = FakeBuild(files=10_000)

    async def cell() -> None:
        task = asyncio.create_task(build_panel.start(build).finished(lambda line: None))
        await asyncio.sleep(0.3)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cell())
    assert build.stop.is_set()


CELL = """
import sys
sys.path.insert(0, {folder!r})
from test_build_panel import FakeBuild
from kernelpkg.widgets import build_panel
panel = build_panel.start(FakeBuild(files=100_000))
panel.view()
print(panel._parts["cancel"].comm.comm_id)
"""
WAIT = """
try:
    await panel.finished(lambda line: None)
except Exception as error:
    print(type(error).__name__)
"""


def test_in_a_kernel_the_button_works_while_a_cell_waits() -> None:
    """The click as a front end sends it, into a real kernel that is in the middle of the waiting cell."""
    version = tuple(int(part) for part in metadata.version("ipykernel").split(".")[:2])
    if version < (7, 4):
        pytest.skip("before ipykernel 7.4 a waiting cell hears no click: there the stop button cancels")
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(extra_arguments=["--log-level=ERROR"])
    client = manager.client()
    client.start_channels()
    printed: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"].strip())

    try:
        client.wait_for_ready(timeout=60)
        folder = str(Path(__file__).parent)
        client.execute_interactive(CELL.format(folder=folder), output_hook=hear, timeout=60)
        waiting = client.execute(WAIT)
        time.sleep(1.0)
        click = {"comm_id": printed[-1], "data": {"method": "custom", "content": {"event": "click"}}}
        client.shell_channel.send(client.session.msg("comm_msg", click))
        while client.get_shell_msg(timeout=30)["parent_header"].get("msg_id") != waiting:
            pass
        while "BuildCancelled" not in printed:
            hear(client.get_iopub_msg(timeout=30))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
