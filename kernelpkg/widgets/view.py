"""What every view is made of: one object that shows itself in a notebook, on a code host and in a text log.

A view carries the same content up to three times: as plain text, as HTML (tables and SVG, readable without
a kernel or a script) and, where it helps, as a plotly figure or an ipywidget. The reader's tool picks the
richest form it knows. Colour never stands alone: each verdict has a symbol and a word too.
"""

from __future__ import annotations

import html as _html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLOTLY_MIME = "application/vnd.plotly.v1+json"
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"

# Colours after Okabe and Ito: told apart with every kind of colour vision, on light and on dark.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")

SYMBOLS = {
    "pass": "✓",
    "yes": "✓",
    "native": "✓",
    "fail": "✗",
    "dead": "✗",
    "refused": "✗",
    "no": "–",
    "no claim": "–",
    "unproved": "○",
    "open": "○",
    "emulated": "≈",
    "fp8 widened": "≈",
    "ptx only": "◌",
    "no mma": "·",
}

STYLE = f"<style>{Path(__file__).with_name('view.css').read_text(encoding='utf-8')}</style>"


@dataclass(frozen=True, slots=True)
class View:
    """Something to look at.

    `text` and `html` say the same; `figure` (plotly) or `widget` (ipywidgets) add to it.
    """

    text: str
    html: str
    figure: Any = None
    widget: Any = None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle: dict[str, Any] = {
            "text/plain": self.text,
            "text/html": f'{STYLE}<div class="kp">{self.html}</div>',
        }
        if self.figure is not None:
            bundle[PLOTLY_MIME] = json.loads(self.figure.to_json())
        if self.widget is not None:
            bundle[WIDGET_MIME] = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        return bundle

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class FigureView(View):
    """A plotly figure with the table of its numbers under it.

    Tools that draw the figure do not show its HTML form, so in a notebook the table is an output of its own.
    """

    below: str = ""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return self._bundle(self.html + self.below)

    def _bundle(self, html: str) -> dict[str, Any]:
        whole = View(self.text, html, self.figure)
        return whole._repr_mimebundle_()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self._bundle(self.html), raw=True)
        if self.below:
            display(View("(the same as a table)", self.below)._repr_mimebundle_(), raw=True)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    The row's key, the heading, and how it is set: 'left', 'right', 'centre' or 'wrap'.
    optional: `table` leaves it out where no row has a word for it.
    """

    key: str
    title: str
    align: str = "left"
    hot: bool = False
    optional: bool = False


_CLASS = {"left": "", "right": "kp-r", "centre": "kp-c", "wrap": "kp-w"}


class Markup(str):
    """A string that is HTML already and is not escaped again."""

    __slots__ = ()


def esc(value: object) -> str:
    """The value as HTML text; None is shown as a dash, Markup is left as it is."""
    if isinstance(value, Markup):
        return value
    return "–" if value is None else _html.escape(str(value), quote=True)


def symbol(status: str) -> str:
    """The sign for a status word, '·' where none is known."""
    return SYMBOLS.get(status, "·")


def chip(status: str, text: str | None = None) -> Markup:
    """A verdict as symbol and word on a tinted ground."""
    word = status if text is None else text
    return Markup(f'<span class="kp-v kp-{status.split()[-1]}">{symbol(status)} {esc(word)}</span>')


def html_table(columns: Sequence[Column], rows: Iterable[Mapping[str, object]], caption: str = "") -> Markup:
    """An HTML table that scrolls sideways where it is too wide for the page."""

    def css(column: Column) -> str:
        names = " ".join(name for name in (_CLASS[column.align], "kp-hot" if column.hot else "") if name)
        return f' class="{names}"' if names else ""

    head = "".join(f'<th scope="col"{css(c)}>{esc(c.title)}</th>' for c in columns)
    body = "".join(
        "<tr>" + "".join(f"<td{css(c)}>{esc(row.get(c.key))}</td>" for c in columns) + "</tr>" for row in rows
    )
    title = f"<caption>{esc(caption)}</caption>" if caption else ""
    return Markup(
        f'<div class="kp-scroll"><table class="kp-t">{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def text_table(columns: Sequence[Column], rows: Iterable[Mapping[str, object]], caption: str = "") -> str:
    """The same table for a terminal or a log."""

    def cell(row: Mapping[str, object], column: Column) -> str:
        value = row.get(column.key)
        return "–" if value is None else str(value)

    grid = [[c.title for c in columns], *([cell(row, c) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in grid) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        parts = [
            text.rjust(width) if column.align == "right" else text.ljust(width)
            for text, width, column in zip(cells, widths, columns, strict=True)
        ]
        return "  ".join(parts).rstrip()

    lines = [line(grid[0]), "  ".join("-" * width for width in widths), *map(line, grid[1:])]
    return "\n".join(([caption] if caption else []) + lines)


def table(
    columns: Sequence[Column], rows: Sequence[Mapping[str, object]], caption: str = "", note: str = ""
) -> View:
    """A table as a view: text and HTML from the same rows.

    Cells that are Markup give their text to the text form.
    """
    columns = [c for c in columns if not c.optional or any(row.get(c.key) for row in rows)]
    plain = [{key: strip(value) for key, value in row.items()} for row in rows]
    text = text_table(columns, plain, caption) + (f"\n{note}" if note else "")
    below = f'<p class="kp-note">{esc(note)}</p>' if note else ""
    return View(text, html_table(columns, rows, caption) + below)


def strip(value: object) -> object:
    """Markup without its tags; anything else as it is."""
    if not isinstance(value, Markup):
        return value
    out: list[str] = []
    inside = False
    for char in value:
        if char == "<":
            inside = True
        elif char == ">":
            inside = False
        elif not inside:
            out.append(char)
    return _html.unescape("".join(out))


def stack(*views: View) -> View:
    """Several views as one, below each other; figures and widgets are left to be shown on their own."""
    return View("\n\n".join(v.text for v in views), "".join(v.html for v in views))
