"""What is inside the build.

Targets asked for and found, functions with their verdicts, the instruction matrix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kernelpkg.binaries.verdict import HALF_FAMILIES, families, mma_counts
from kernelpkg.widgets.view import Column, Markup, View, chip, esc, html_table, symbol, text_table

# Beside the MMAs: the conversions that betray emulation, and the trap that stands for a body.
_TELLING = ("F2FP", "BPT")


def _get(row: Any, key: str) -> Any:
    return row.get(key) if isinstance(row, Mapping) else getattr(row, key, None)


def telling(opcodes: Mapping[str, int] | None) -> str:
    """The opcodes that decide a verdict, summed over their variants, 16-bit MMAs after others: '128 QMMA'."""
    return _tellings([opcodes or {}])


def _tellings(functions: Sequence[Mapping[str, int]]) -> str:
    """The same over several functions: '32 to 128 HMMA'."""
    counted = [families(found) for found in functions]
    mmas = sorted({name for found in functions for name in mma_counts(found)})
    words = []
    for name in (*sorted(mmas, key=HALF_FAMILIES.__contains__), *_TELLING):
        counts = [found.get(name, 0) for found in counted]
        if any(counts):
            low, high = min(counts), max(counts)
            words.append(f"{low if low == high else f'{low} to {high}'} {name}")
    return ", ".join(words) or "no MMA"


def targets(manifest: Mapping[str, Any], found: Iterable[Any]) -> View:
    """Targets asked for against those found in the binary, kernel by kernel.

    manifest: of the build, whose `kernels` say what was asked for. found: functions read back from it.
    """
    built: dict[str, set[str]] = {}
    for row in found:
        if _get(row, "kernel") and _get(row, "kind") == "cubin":
            built.setdefault(str(_get(row, "kernel")), set()).add(str(_get(row, "target")))
    rows = []
    for kernel, entry in manifest["kernels"].items():
        there = built.get(kernel, set())
        status = "pass" if set(entry["targets"]) == there else "fail"
        rows.append(
            {
                "kernel": kernel,
                "gate": entry["gate"],
                "requested": ", ".join(entry["targets"]) or "none of its own",
                "built": ", ".join(sorted(there, key=lambda t: (len(t), t))) or "nothing",
                "instances": len(entry["instances"]),
                "status": status,
                "note": {"emulated": "evidence: emulated", "standin": "evidence: stand-in"}.get(
                    entry["evidence"] or "", ""
                ),
            }
        )
    columns = [
        Column("kernel", "kernel"),
        Column("gate", "gate"),
        Column("instances", "instances", "right"),
        Column("requested", "asked for"),
        Column("built", "found in the binary"),
        Column("verdict", "agree"),
        Column("note", ""),
    ]
    caption = f"Targets of this build ({', '.join(manifest['targets'])}): asked for, and found in the binary"
    text_rows = [row | {"verdict": f"{symbol(row['status'])} {row['status']}"} for row in rows]
    html_rows = [row | {"verdict": chip(row["status"])} for row in rows]
    return View(text_table(columns, text_rows, caption), html_table(columns, html_rows, caption))


def short_name(function: str) -> str:
    """A demangled name without return type, own namespace and arguments, cut at 90 characters."""
    name = function.replace("(anonymous namespace)::", "").replace("kernelpkg::", "")
    depth = 0
    for at, char in enumerate(name):
        depth += (char == "<") - (char == ">")
        if char == "(" and depth == 0:
            name = name[:at]
            break
    name = name.removeprefix("void ")
    return name if len(name) <= 90 else name[:87] + "..."


def functions(rows: Iterable[Any]) -> View:
    """The function table in two steps: a line per kernel and target, and below it every function.

    verdict, registers, spilled bytes, static shared memory and the opcodes that decide.
    """
    plain = [_function_row(row) for row in rows]
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in plain:
        groups.setdefault((row["kernel"], row["target"], row["verdict"]), []).append(row)
    summary = [
        {
            "kernel": kernel,
            "target": target,
            "verdict": verdict,
            "functions": len(members),
            "registers": _span(members, "registers"),
            "spills": _span(members, "spills"),
            "shared_memory": _span(members, "shared_memory"),
            "mma": _tellings([m["opcodes"] for m in members]),
        }
        for (kernel, target, verdict), members in sorted(groups.items())
    ]
    tail = [
        Column("verdict", "verdict"),
        Column("registers", "registers", "right"),
        Column("spills", "spills, B", "right"),
        Column("shared_memory", "static shared, B", "right"),
        Column("mma", "MMA and widening"),
    ]
    head = [Column("kernel", "kernel"), Column("target", "target"), Column("functions", "functions", "right")]
    every = [Column("name", "function"), Column("target", "target"), *tail]
    caption = "Functions in the library, by kernel and target"

    def marked(row: Mapping[str, Any]) -> dict[str, Any]:
        return dict(row) | {"verdict": chip(str(row["verdict"]))}

    def spelled(row: Mapping[str, Any]) -> dict[str, Any]:
        return dict(row) | {"verdict": f"{symbol(str(row['verdict']))} {row['verdict']}"}

    named = [marked(row) | {"name": Markup(f"<code>{esc(row['name'])}</code>")} for row in plain]
    html = html_table([*head, *tail], map(marked, summary), caption) + (
        f"<details><summary>All {len(plain)} functions</summary>{html_table(every, named)}</details>"
    )
    return View(text_table([*head, *tail], list(map(spelled, summary)), caption), Markup(html))


def _function_row(row: Any) -> dict[str, Any]:
    out = {key: _get(row, key) for key in ("target", "verdict", "registers", "spills", "shared_memory")}
    out["kernel"] = str(_get(row, "kernel") or "not in the catalogue")
    opcodes = _get(row, "opcodes") or {}
    return out | {"name": short_name(str(_get(row, "function"))), "mma": telling(opcodes), "opcodes": opcodes}


def _span(rows: Sequence[Mapping[str, Any]], key: str) -> str | None:
    """'64 to 255', one number where all are the same, None where none is known."""
    values = [row[key] for row in rows if row[key] is not None]
    if not values:
        return None
    return str(values[0]) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def instruction_matrix(rows: Iterable[Any]) -> View:
    """One PTX instruction, every target: native, emulated or refused, with what it became."""
    cells: dict[str, dict[str, Any]] = {}
    for row in rows:
        cells.setdefault(str(_get(row, "target")), {})[str(_get(row, "form"))] = row
    forms = list(dict.fromkeys(form for by_form in cells.values() for form in by_form))
    columns = [Column("target", "target")]
    for form in forms:
        columns += [Column(form, f"{form} form"), Column(form + "+", "became")]
    columns.append(Column("gate", "gate marlin_fp8 admits"))

    def became(row: Any) -> str:
        if _get(row, "outcome") != "refused":
            return telling(_get(row, "opcodes"))
        # ptxas says "Feature '...' requires .target sm_89 or higher": the feature is the whole table's.
        return re.sub(r"^Feature '[^']*' |\.target ", "", str(_get(row, "detail") or ""))

    def line(target: str, show: Any) -> dict[str, Any]:
        out: dict[str, Any] = {"target": target}
        for form, row in cells[target].items():
            out[form], out[form + "+"] = show(str(_get(row, "outcome"))), became(row)
            out["gate"] = show("yes" if _get(row, "gate_admits") else "no")
        return out

    caption = "What one FP8 MMA instruction becomes"
    text_rows = [line(t, lambda w: f"{symbol(w)} {w}") for t in cells]
    html_rows = [line(t, chip) for t in cells]
    return View(text_table(columns, text_rows, caption), html_table(columns, html_rows, caption))
