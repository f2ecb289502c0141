"""A build's events as a progress bar in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kernelpkg.build.events import END_KINDS, BuildEvent


def duration(seconds: float, tenths: bool = True) -> str:
    """Seconds as a person says them: 0.4 s, 12 s, 3 min, 1 h 05 min. tenths: of seconds, under ten."""
    if seconds < 90:
        return f"{seconds:.1f} s" if tenths and seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"


def left_in_words(seconds: float | None) -> str:
    """'about 3 min left', or nothing where it is unknown or over."""
    return f"about {duration(seconds, tenths=False)} left" if seconds else ""


def file_line(event: BuildEvent) -> str:
    """One finished file as a line: place, name, targets, seconds, time left."""
    took = "" if event.seconds is None else f" {event.seconds:.1f} s"
    left = left_in_words(event.seconds_left)
    return f"[{event.done}/{event.total}] {event.file} ({event.target}){took}{', ' + left if left else ''}"


@contextmanager
def progress(console: Console | None = None) -> Iterator[Callable[[BuildEvent], None]]:
    """Gives the callback for `build(on_event=...)`. In a terminal a bar with what is being compiled;
    elsewhere a line per finished file, so that a log of a build can be read.
    """
    out = console or Console(stderr=True)
    running: dict[str, None] = {}
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[now]}", style="dim"),
        console=out,
        transient=True,
        disable=not out.is_terminal,
    )
    task = bar.add_task("build", total=None, left="", now="")

    def on_event(event: BuildEvent) -> None:
        if event.kind == "start" and event.file:
            running[event.file] = None
        elif event.kind == "file" and event.file:
            running.pop(event.file, None)
            if not out.is_terminal:
                out.print(file_line(event), markup=False, highlight=False, soft_wrap=True)
        elif event.kind in END_KINDS:
            if event.kind != "failed":  # a failure is raised, and said by who catches it
                out.print(event.message, markup=False, highlight=False, soft_wrap=True, style="dim")
        elif event.message:
            out.print(event.message, markup=False, highlight=False, soft_wrap=True, style="dim")
        bar.update(
            task,
            completed=event.done,
            total=event.total or None,
            left=left_in_words(event.seconds_left),
            now=", ".join(list(running)[:2])[:60],
        )

    with bar:
        yield on_event
