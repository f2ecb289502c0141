"""What is inside the build.

Targets asked for and found, functions with their verdicts, the instruction matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kernelpkg.widgets.view import Column, Markup, View, chip, esc, html_table, symbol, text_table

# MMA instructions and the widening conversions that betray emulation, in the order they are worth reading.
_TELLING = ("UTCQMMA", "QGMMA", "QMMA", "HGMMA", "HMMA", "IMMA", "F2FP", "BPT")


def _get(row: Any, key: str) -> Any:
    return row.get(key) if isinstance(row, Mapping) else getattr(row, key, None)


def telling(opcodes: Mapping[str, int] | None) -> str:
    """The opcodes that decide a verdict, summed over their variants: '128 QMMA, 48 F2FP'."""
    counts = {
        name: sum(n for op, n in (opcodes or {}).items() if op.split(".")[0] == name) for name in _TELLING
    }
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n) or "no MMA"


def targets(
    rows: Sequence[Mapping[str, Any]], caption: str = "Targets: asked for, and found in the binary"
) -> View:
    """Requested against built.

    `rows`: kernel, requested, built (texts); a kernel that lacks a target is marked.
    """

    def verdict(row: Mapping[str, Any]) -> str:
        return "pass" if row["requested"] == row["built"] else "fail"

    columns = [
        Column("kernel", "kernel"),
        Column("requested", "asked for"),
        Column("built", "found in the binary"),
        Column("verdict", "agree"),
        Column("note", "note", "wrap"),
    ]
    text_rows = [dict(row) | {"verdict": f"{symbol(verdict(row))} {verdict(row)}"} for row in rows]
    html_rows = [dict(row) | {"verdict": chip(verdict(row))} for row in rows]
    return View(text_table(columns, text_rows, caption), html_table(columns, html_rows, caption))


def short_name(function: str) -> str:
    """A demangled name without namespaces and arguments, cut at 70 characters."""
    head = (
        function.split("(")[0]
        .replace("void ", "")
        .replace("kernelpkg::", "")
        .replace("(anonymous namespace)::", "")
    )
    return head if len(head) <= 70 else head[:67] + "..."


def functions(rows: Iterable[Any], caption: str = "Functions in the library") -> View:
    """The function table: verdict, target, registers, spills, shared memory and the opcodes that decide."""
    columns = [
        Column("name", "function"),
        Column("target", "target"),
        Column("kind", "kind"),
        Column("verdict", "verdict"),
        Column("registers", "registers", "right"),
        Column("spills", "spills B", "right"),
        Column("shared_memory", "static shared B", "right"),
        Column("mma", "MMA and widening"),
    ]
    plain = [
        {key: _get(row, key) for key in ("target", "kind", "verdict", "registers", "spills", "shared_memory")}
        | {"name": short_name(str(_get(row, "function"))), "mma": telling(_get(row, "opcodes"))}
        for row in rows
    ]
    text_rows = [row | {"verdict": f"{symbol(row['verdict'])} {row['verdict']}"} for row in plain]
    html_rows = [
        row
        | {"verdict": chip(str(row["verdict"])), "name": Markup(f"<code>{esc(row['name'])}</code>")}
        | ({"spills": chip("unproved", str(row["spills"]))} if row["spills"] else {})
        for row in plain
    ]
    return View(text_table(columns, text_rows, caption), html_table(columns, html_rows, caption))


def instruction_matrix(rows: Iterable[Any]) -> View:
    """One PTX instruction, every target: native, emulated or refused, with what it became."""
    cells: dict[str, dict[str, Any]] = {}
    for row in rows:
        cells.setdefault(str(_get(row, "target")), {})[str(_get(row, "form"))] = row
    forms = list(dict.fromkeys(form for by_form in cells.values() for form in by_form))
    columns = [Column("target", "target")]
    for form in forms:
        columns += [Column(form, form), Column(form + "+", "became")]

    def became(row: Any) -> str:
        return (
            telling(_get(row, "opcodes"))
            if _get(row, "outcome") != "refused"
            else str(_get(row, "detail") or "")
        )

    def line(target: str, show: Any) -> dict[str, Any]:
        out: dict[str, Any] = {"target": target}
        for form, row in cells[target].items():
            out[form], out[form + "+"] = show(str(_get(row, "outcome"))), became(row)
        return out

    caption = "What one FP8 MMA instruction becomes"
    text_rows = [line(t, lambda w: f"{symbol(w)} {w}") for t in cells]
    html_rows = [line(t, chip) for t in cells]
    return View(text_table(columns, text_rows, caption), html_table(columns, html_rows, caption))
