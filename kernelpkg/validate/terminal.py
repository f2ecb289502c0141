"""Progress of a validation run in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kernelpkg.widgets.view import symbol

if TYPE_CHECKING:
    from kernelpkg.validate.runner import OnProgress
    from kernelpkg.validate.runner import Progress as News

_COLOURS = {"pass": "green", "fail": "red", "unfit": "yellow"}


@contextmanager
def progress(console: Console) -> Iterator[OnProgress]:
    """One bar per notebook with its last printed line.

    Where the output is no terminal, one line per notebook.
    """
    bars = Progress(
        TextColumn("{task.fields[mark]} {task.description:16}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[line]}[/]", markup=True),
        console=console,
        disable=not console.is_terminal,
    )
    tasks: dict[str, int] = {}

    def on_progress(news: News) -> None:
        if news.notebook not in tasks:
            tasks[news.notebook] = bars.add_task(news.notebook, total=None, mark=" ", line="starting")
        task = tasks[news.notebook]
        ended = news.status in _COLOURS
        line = news.line.replace("[", "\\[")[: max(20, console.width - 62)]
        if ended:
            mark = f"[{_COLOURS[news.status]}]{symbol('pass' if news.status == 'pass' else 'fail')}[/]"
            bars.update(task, total=1, completed=1, mark=mark, line=line)
            bars.stop_task(task)
            if not console.is_terminal:
                console.print(
                    f"{news.notebook}: {news.status} {news.line}".rstrip(), markup=False, highlight=False
                )
        elif line or news.cells:
            bars.update(
                task, total=news.cells or None, completed=news.cell, **({"line": line} if line else {})
            )

    with bars:
        yield on_progress
