"""A build as it happens: progress by file, time left, and a cancel that works while it builds.

The build runs in a thread of its own, so the cell that starts it returns at once and the button is alive. A
later cell says `await panel.finished()`: while it waits, ipykernel (7.4 and newer) still delivers the click.
With an older kernel, and for a plain `wait()`, the stop button of the notebook does the same: an interrupt is
handed on to the compilers.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from kernelpkg.build.terminal import duration, file_line, left_in_words
from kernelpkg.widgets.view import Column, Markup, View, chip, esc, html_table, text_table

_POLL_SECONDS = 0.2
_ENDS = {"done": "done", "failed": "failed", "cancelled": "cancelled"}


class Handle(Protocol):
    """What the panel needs of a build under way: `kernelpkg.build.start_build` returns one."""

    events: queue.Queue[Any]

    def cancel(self) -> None:
        """Stop the compilers."""

    def wait(self) -> Any:
        """The result, or the build's own error."""


@dataclass(slots=True)
class Progress:
    """The events so far, added up."""

    started: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    status: str = "starting"
    last: str = ""
    lines: list[str] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    elapsed: float = 0.0

    def add(self, event: Any) -> None:
        """Take one BuildEvent in."""
        self.elapsed = time.monotonic() - self.started
        self.done = max(self.done, event.done or 0)
        self.total = max(self.total, event.total or 0)
        self.seconds_left = event.seconds_left
        self.status = _ENDS.get(event.kind, "building")
        line = file_line(event) if event.kind == "file" else event.message
        if line:
            self.last = line
            self.lines.append(line)
        if event.kind == "file":
            self.files.append({"file": event.file, "target": event.target, "seconds": event.seconds})

    def left(self) -> str:
        """', about 3 min left', or nothing where it is not known or over."""
        words = "" if self.status in _ENDS.values() else left_in_words(self.seconds_left)
        return f", {words}" if words else ""

    def view(self) -> View:
        """Where the build stands, as text and as a bar; once files are there, the slowest of them."""
        share = self.done / self.total if self.total else float(self.status == "done")
        tally = f"{self.done} of {self.total} files" if self.total else "nothing to compile"
        status = {"done": "pass", "failed": "fail", "cancelled": "fail"}.get(self.status, "unproved")
        line = f"{tally}, {duration(self.elapsed)} so far{self.left()}"
        if self.status in _ENDS.values():
            line = f"{tally}, {duration(self.elapsed)}"
        columns = [Column("file", "file"), Column("target", "target"), Column("seconds", "seconds", "right")]
        slowest = sorted((f for f in self.files if f["seconds"] is not None), key=lambda f: -f["seconds"])[:8]
        rows = [f | {"seconds": f"{f['seconds']:.1f}"} for f in slowest]
        caption = "The slowest files"
        text = f"Build {self.status}: {line}" + (f"\n{self.last}" if self.last else "")
        text += "\n\n" + text_table(columns, rows, caption) if rows else ""
        html = (
            f'<p>{chip(status, self.status)} {esc(line)}</p><div class="kp-bar" role="progressbar" '
            f'aria-valuenow="{share * 100:.0f}" aria-valuemin="0" aria-valuemax="100" aria-label="build">'
            f'<i style="width:{share * 100:.0f}%"></i></div><p class="kp-note kp-m">{esc(self.last)}</p>'
        )
        return View(text, Markup(html) + (html_table(columns, rows, caption) if rows else ""))


class BuildPanel:
    """A running build with its view. Display the object to see it; `cancel()` is what the button calls."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.progress = Progress()
        self._lock = threading.Lock()
        self._said = 0
        self._display: Any = None
        self._widget: Any = None
        self._parts: dict[str, Any] = {}
        self._follower = threading.Thread(target=self._follow, name="build-panel", daemon=True)
        self._follower.start()

    def _follow(self) -> None:
        while self.progress.status not in _ENDS.values():
            event = self.handle.events.get()
            if event is None:
                break
            with self._lock:
                self.progress.add(event)
            self._refresh()

    def cancel(self) -> None:
        """Stop the compilers now; the next build goes on from what is finished."""
        if self._parts:
            self._parts["cancel"].disabled = True
            self._parts["cancel"].description = "Cancelling"
        self.handle.cancel()

    def wait(self, say: Callable[[str], None] = print) -> Any:
        """Say each finished file until the build ends; then its result, or its error.

        An interrupt cancels the build.
        """
        try:
            while self._say_news(say):
                self._follower.join(_POLL_SECONDS)
        except KeyboardInterrupt:
            self.cancel()
            raise
        finally:
            self._show_end()
        return self.handle.wait()

    async def finished(self, say: Callable[[str], None] = print) -> Any:
        """The same for a notebook cell: what else the kernel has to do, a click for one, goes on."""
        try:
            while self._say_news(say):
                await asyncio.sleep(_POLL_SECONDS)
        except (KeyboardInterrupt, asyncio.CancelledError):
            self.cancel()
            raise
        finally:
            self._show_end()
        return self.handle.wait()

    def _say_news(self, say: Callable[[str], None]) -> bool:
        """Say the lines that are new; whether more may come."""
        alive = self._follower.is_alive()
        with self._lock:
            fresh, self._said = self.progress.lines[self._said :], len(self.progress.lines)
        for line in fresh:
            say(line)
        return alive

    def _show_end(self) -> None:
        if self._display is not None:
            self._display.update(self.view())

    def view(self) -> View:
        """The panel now: bar, button and text; the widget is made on first use."""
        with self._lock:
            shown = self.progress.view()
        if self._widget is None:
            self._make()
        return View(shown.text, shown.html, widget=self._widget)

    def _make(self) -> None:
        import ipywidgets as widgets

        bar = widgets.FloatProgress(min=0, max=1, description="Build", layout={"width": "34rem"})
        button = widgets.Button(description="Cancel", icon="stop", tooltip="Stop the compilers now")
        button.on_click(lambda _: self.cancel())
        note = widgets.HTML()
        self._parts = {"bar": bar, "cancel": button, "note": note}
        self._widget = widgets.VBox([widgets.HBox([bar, button]), note])
        self._refresh()

    def _refresh(self) -> None:
        if not self._parts:
            return
        with self._lock:
            progress = self.progress
            over = progress.status in _ENDS.values()
            share = progress.done / progress.total if progress.total else float(progress.status == "done")
            html = progress.view()._repr_mimebundle_()["text/html"]
        self._parts["bar"].value = share
        self._parts["bar"].bar_style = {"done": "success", "failed": "danger", "cancelled": "warning"}.get(
            progress.status, "info"
        )
        self._parts["note"].value = html
        if over:
            self._parts["cancel"].disabled = True
            self._parts["cancel"].description = "Cancel"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        self._display = display(self.view(), display_id=True)


def start(handle: Handle) -> BuildPanel:
    """The panel of a build that was just started with `kernelpkg.build.start_build`."""
    return BuildPanel(handle)
