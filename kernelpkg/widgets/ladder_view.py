"""The ladder as a picture: kernels down, five rungs across, a reason and a label under every answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kernelpkg import ladder
from kernelpkg.widgets.view import Column, View, chip, html_table, symbol, text_table


def rung_row(rung: Any) -> dict[str, Any]:
    """A rung as a plain row.

    Kernel, capability, rung, status, label, reason (what `explain --json` prints too).
    """
    if isinstance(rung, Mapping):
        return dict(rung)
    return {
        "kernel": rung.kernel,
        "capability": str(rung.capability),
        "rung": rung.rung,
        "status": rung.status,
        "label": str(rung.label),
        "reason": rung.reason,
    }


def grid(rungs: Sequence[Any], caption: str = "") -> View:
    """One line per kernel, one column per rung; behind a refusing gate nothing is claimed."""
    rows = [rung_row(r) for r in rungs]
    kernels = list(dict.fromkeys(r["kernel"] for r in rows))
    names = [n for n in ladder.RUNGS if any(r["rung"] == n for r in rows)]
    at = {(r["kernel"], r["rung"]): r["status"] for r in rows}
    passed_on = {(r["kernel"], r["rung"]): ladder.elsewhere(r["status"], r["label"]) for r in rows}

    def word(kernel: str, name: str) -> str:
        if at.get((kernel, "admitted")) == "fail" and name != "admitted":
            return "no claim"
        return ladder.word(name, at.get((kernel, name), "unproved"))

    def shown(kernel: str, name: str) -> str:
        kind = passed_on.get((kernel, name))
        return f"{word(kernel, name)} ({kind})" if kind else word(kernel, name)

    columns = [Column("kernel", "kernel")] + [Column(n, n, "centre") for n in names]
    html_rows = [{"kernel": k} | {n: chip(word(k, n), shown(k, n)) for n in names} for k in kernels]
    text_rows = [{"kernel": k} | {n: f"{symbol(word(k, n))} {shown(k, n)}" for n in names} for k in kernels]
    return View(text_table(columns, text_rows, caption), html_table(columns, html_rows, caption))


def reasons(rungs: Sequence[Any], caption: str = "", rung: str | None = None) -> View:
    """The same rungs with their one sentence of reason and their label; `rung` keeps one rung only."""
    rows = [row for row in map(rung_row, rungs) if rung is None or row["rung"] == rung]
    columns = [
        Column("kernel", "kernel"),
        *([Column("rung", "rung")] if rung is None else []),
        Column("verdict", "status"),
        Column("label", "label", "wrap"),
        Column("reason", "reason", "wrap"),
    ]
    words = [ladder.word(row["rung"], row["status"]) for row in rows]
    text_rows = [row | {"verdict": f"{symbol(said)} {said}"} for row, said in zip(rows, words, strict=True)]
    html_rows = [row | {"verdict": chip(said)} for row, said in zip(rows, words, strict=True)]
    return View(text_table(columns, text_rows, caption), html_table(columns, html_rows, caption))
