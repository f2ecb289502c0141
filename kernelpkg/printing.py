"""How rows reach a person or a program: tables on the terminal, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, is_dataclass
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

out = Console()
err = Console(stderr=True)
# Columns of sentences, which need no name before them.
_PROSE = ("reason", "detail")


def plain(value: Any) -> Any:
    """`value` as JSON types: dataclasses become objects, paths and capabilities their text."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def show(
    rows: Iterable[dict[str, Any]], as_json: bool, columns: tuple[str, ...] = (), title: str = ""
) -> None:
    """Print `rows` as a JSON list, or as a table of `columns` (all of the first row's keys by default)."""
    rows = [plain(row) for row in rows]
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return
    if not rows:
        return
    names = columns or tuple(dict.fromkeys(column for row in rows for column in row))
    table = [_Column(name, [row.get(name) for row in rows]) for name in names]
    if title:
        out.print(title, markup=False, style="italic")
    if sum(column.width + 2 for column in table) <= out.width:
        out.print(_aligned(table))
    else:
        for line in _stacked(table, out.width):
            out.print(line, highlight=False)


class _Column:
    """One column of a table: its cells as text, how wide it is, whether it holds numbers."""

    def __init__(self, name: str, values: list[Any]):
        self.name = name
        self.cells = [Text.from_markup(cell(value)) for value in values]
        self.width = max(len(name), *(text.cell_len for text in self.cells))
        self.justify: Literal["left", "right"] = "left"
        if all(type(value) in (int, float, type(None)) for value in values):
            self.justify = "right"

    def padded(self, index: int | None) -> Text:
        """A cell, or the name for None, as wide as the column."""
        text = Text(self.name, style="bold") if index is None else self.cells[index].copy()
        text.align(self.justify, self.width)
        return text


def _aligned(columns: list[_Column]) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.name, justify=column.justify, overflow="fold")
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    return table


def _stacked(columns: list[_Column], width: int) -> Iterator[Text | Padding]:
    """A table too wide for the terminal: leading columns in line, the others below each row, by their names.

    Folding every column instead makes ribbons of a few letters.
    """
    count = 1
    while sum(column.width + 2 for column in columns[: count + 1]) <= width and count < len(columns):
        count += 1
    front, below = columns[:count], columns[count:]
    sentences = [column for column in below if column.width > width // 2]
    yield Text("  ").join(column.padded(None) for column in front)
    for index in range(len(front[0].cells)):
        yield Text("  ").join(column.padded(index) for column in front)
        short = [(column.name, column.cells[index]) for column in below if column not in sentences]
        parts = [Text.assemble(f"{name} ", text) for name, text in short if text.plain not in ("-", "")]
        if parts:
            yield Padding(Text(", ").join(parts), (0, 0, 0, 4))
        for column in sentences:
            text = column.cells[index]
            if text.plain not in ("-", ""):
                named = text if column.name in _PROSE else Text.assemble(f"{column.name}: ", text)
                yield Padding(named, (0, 0, 0, 4))


def show_devices(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print devices: JSON rows, or one column each, since a device has more fields than a line holds."""
    if as_json or not rows:
        show(rows, as_json)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    for _ in rows:
        table.add_column(overflow="fold")
    for field in rows[0]:
        table.add_row(field.replace("_", " "), *(cell(row[field]) for row in rows))
    out.print(table)


def cell(value: Any) -> str:
    """One table cell: yes and no for booleans, four significant digits, a dash for the unknown."""
    match value:
        case None:
            return "-"
        case bool():
            return "[green]yes[/]" if value else "[red]no[/]"
        case float():
            return f"{value:.4g}"
        case dict():
            return escape(", ".join(f"{key} {item}" for key, item in value.items()))
        case list():
            return escape(", ".join(map(str, value)))
        case "pass" | "native":
            return f"[green]{value}[/]"
        case "fail" | "dead" | "refused":
            return f"[red]{value}[/]"
        case _:
            return escape(str(value))


def function_line(row: dict[str, Any]) -> dict[str, Any]:
    """A function as one line of the table: our instance's name or the demangled one, and what judges it."""
    from kernelpkg import binaries

    named = row["instance"] and row["declares"] != "none"
    name = row["instance"] if named else bare_name(row["function"])
    mma = binaries.mma_counts(row["opcodes"])
    return {
        "function": name if len(name) <= 60 else f"{name[:57]}...",
        "target": row["target"],
        "kind": row["kind"],
        "verdict": row["verdict"],
        "MMA": ", ".join(f"{count} {opcode}" for opcode, count in mma.items()) or "-",
        "regs": row["registers"],
        "spills": row["spills"],
    }


def bare_name(function: str) -> str:
    """A demangled function without its return type, its arguments and the namespaces that say nothing."""
    bare = function.replace("(anonymous namespace)::", "").removeprefix("void ").partition("(")[0]
    return bare.removeprefix("kernelpkg::")


def bench_line(row: dict[str, Any]) -> dict[str, Any]:
    """A bench row as one line: the median, the limit it is near, and how much longer its peers take."""
    line = {name: row[name] for name in ("kernel", "variant", "shape", "m")}
    timing = row["microseconds"] or {}
    line |= {"us": timing.get("median"), "p10": timing.get("p10"), "p90": timing.get("p90")}
    line |= {"% of limit": row["percent_of_limit"], "limit": row["limit"]}
    line |= {"% of reading": row.get("percent_of_read")}
    return line | {f"x {peer}": ratio for peer, ratio in (row["ratios"] or {}).items()}


def peers_left_out(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The peers without a time, one line for each peer and reason, with the points it holds for."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        found.setdefault((row["peer"], row["reason"]), []).append(f"{row['shape']} m={row['m']}")
    return [
        {"peer not timed": peer, "reason": reason, "at": ", ".join(points)}
        for (peer, reason), points in found.items()
    ]


def record_line(row: dict[str, Any]) -> dict[str, Any]:
    """A stored record as one line of the table: the day without the hour, and how many kernels."""
    names = ("kind", "machine", "capability", "date", "kernels", "stale")
    return {name: row[name] for name in names} | {
        "date": str(row["date"])[:10],
        "kernels": len(row["kernels"]),
        "stale": ", ".join(map(str, row["stale"])) or "none",
    }
