"""scaled_mm's dispatch as tables: the data it reads, what each configuration takes, what awkward shapes cost,
and how the blocks of a call fill a device that is not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kernelpkg.widgets.speed_panel import Rows, label_of, nothing
from kernelpkg.widgets.svg import number
from kernelpkg.widgets.view import Column, View, chip, table

_SCALES = {"vector": "vectors", "block": "blocks of 128"}
_NO_SWEEP = "No run here or on record has timed the configurations one by one: `kernelpkg bench` does."
_NO_COSTS = "No run here or on record has timed awkward shapes: `kernelpkg bench` does, by default size."


def dispatch(rows: Rows, kernel: str) -> View:
    """The dispatch table as data. rows: `bench.dispatch_rows(kernel)`."""
    columns = [
        Column("place", "place", "right"),
        Column("configuration", "configuration"),
        Column("scales", "scales"),
        Column("m", "M"),
        Column("tile", "rows x columns", "right"),
        Column("blocks", "blocks", "right"),
        Column("per_sm", "per SM", "right"),
        Column("round", "round", "right"),
        Column("step", "step", "right"),
        Column("split", "split", "right"),
    ]
    lines = [
        row
        | {
            "scales": _SCALES[row["scales"]],
            "tile": f"{row['rows']} x {row['columns'] or 'a share'}",
            "round": f"{row['round']:g}",
            "step": f"{row['step']:g}",
            "split": f"{row['split']:g}" if row["split"] else "",
        }
        for row in map(dict, rows)
    ]
    note = (
        "Among the rows that take the call's M and its kind of scales, dispatch takes the one with the "
        "least rounds x (round + step x ceil(K / 128)); a round fills every multiprocessor once. One with a "
        "split may cut a last round that is not full along K into parts, and pays split to add them up. One "
        "whose columns are a share gives each multiprocessor as much of the weight as the others, and pays "
        "step for each 64 columns of it."
    )
    return table(columns, lines, f"Dispatch table of {kernel}", note)


def sweep(rows: Rows, shape: str | None = None) -> View:
    """What each configuration takes and which one dispatch chose. rows: of `bench.sweep_configurations`, or
    `sweep` of a bench report; shape: only that layer.
    """
    rows = [row for row in rows if shape in (None, row["shape"])]
    if not rows:
        return nothing(_NO_SWEEP)
    columns = [
        Column("shape", "shape"),
        Column("m", "M", "right"),
        Column("variant", "scales"),
        Column("name", "configuration"),
        Column("us", "median µs", "right"),
        Column("chosen", "dispatch"),
        Column("loss", "loss of the choice, %", "right"),
        Column("reason", "not timed because", "wrap", optional=True),
    ]

    def line(row: Mapping[str, Any]) -> dict[str, Any]:
        chosen, loss = row["chosen"], row["loss"]
        word = chip("pass" if row["best"] else "no", "chosen") if chosen else "best" if row["best"] else ""
        return dict(row) | {
            "us": None if row["microseconds"] is None else number(row["microseconds"]),
            "chosen": word,
            "loss": f"{loss:.1f}" if chosen and loss is not None else "",
            "reason": row["reason"] or "",
        }

    losses = {(row["shape"], row["m"], row["variant"]): row["loss"] for row in rows}
    known = [loss for loss in losses.values() if loss is not None]
    note = ""
    if known:
        best = sum(loss == 0 for loss in known)
        note = (
            f"Dispatch chose the fastest at {best} of {len(known)} points; the most it lost is "
            f"{max(known):.1f} %."
        )
    return table(columns, list(map(line, rows)), f"Every configuration timed: {label_of(rows)}", note)


def costs(rows: Rows) -> View:
    """What awkward shapes cost: one line for each, beside the worst of the regular shapes compared with.

    rows: `costs` of a bench report.
    """
    if not rows:
        return nothing(_NO_COSTS)
    worst: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("cost", "variant", "shape", "m", "how"))
        if key not in worst or (row["speed"] or 9e9) < (worst[key]["speed"] or 9e9):
            worst[key] = row
    columns = [
        Column("cost", "awkward"),
        Column("call", "M x N x K", "right"),
        Column("variant", "scales"),
        Column("how", "operands, output"),
        Column("us", "median µs", "right"),
        Column("next", "next multiple up", "right"),
        Column("next_us", "its µs", "right"),
        Column("longer", "longer by, %", "right"),
        Column("reason", "not timed because", "wrap", optional=True),
    ]

    def line(row: Mapping[str, Any]) -> dict[str, Any]:
        ours, theirs, up = row["microseconds"], row["next_microseconds"], row["next"]
        return dict(row) | {
            "call": f"{row['m']} x {row['n']} x {row['k']}",
            "next": f"{up['m']} x {up['n']} x {up['k']}",
            "us": None if ours is None else number(ours),
            "next_us": None if theirs is None else number(theirs),
            "longer": f"{100 * (1 / row['speed'] - 1):.1f}" if row["speed"] else None,
            "reason": row["reason"] or "",
        }

    caption = f"What awkward shapes cost: {label_of(rows)}"
    return table(columns, [line(row) for row in worst.values()], caption)


def waves(rows: Sequence[Mapping[str, Any]]) -> View:
    """How the blocks of a call fill a device, and the least time. rows: `bench.scaled_mm_rows()`."""
    if not rows:
        return nothing("No library is here whose dispatch could be asked: run `kernelpkg build`.")
    columns = [
        Column("device", "device"),
        Column("shape", "shape"),
        Column("m", "M", "right"),
        Column("configuration", "configuration"),
        Column("waves", "waves", "right"),
        Column("idle", "% idle", "right"),
        Column("us", "least µs", "right"),
        Column("arithmetic", "arithmetic", "wrap"),
    ]
    lines = [
        dict(row)
        | {
            "device": f"{row['device']} ({row['capability']})",
            "waves": f"{row['waves']:.2f}",
            "idle": f"{row['idle']:.0f}",
            "us": "unknown" if row["memory_us"] is None else number(row["memory_us"]),
        }
        for row in rows
    ]
    note = (
        "Waves: blocks over what the device holds at once; idle: the part of it that the last wave leaves "
        "empty. Least time: the bytes that must move over the data sheet's bandwidth."
    )
    return table(columns, lines, f"{rows[0]['kernel']}, decoding: {label_of(rows)}", note)
