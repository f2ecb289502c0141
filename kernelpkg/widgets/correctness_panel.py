"""Check rows as tables and figures: the margin of every case to its bound, and the error map of one case."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from kernelpkg.bench.shapes import MEANINGS, activation_bits, weight_format
from kernelpkg.widgets.svg import heatmap, number
from kernelpkg.widgets.view import (
    COLOURS,
    Column,
    FigureView,
    Markup,
    View,
    chip,
    esc,
    html_table,
    symbol,
    text_table,
)

Rows = Sequence[Mapping[str, Any]]
# How a case's id names its scales.
_SCALES = re.compile(r"channel|(g|mx|block)\d+(x\d+)?")


def worst(rows: Rows, caption: str = "The worst case of each kernel and metric") -> View:
    """Per kernel and metric: cases, the worst value, its bound, how much room is left, and the verdict."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kernel"], row["metric"]), []).append(row)
    columns = [
        Column("kernel", "kernel"),
        Column("metric", "metric"),
        Column("cases", "cases", "right"),
        Column("value", "worst", "right"),
        Column("bound", "bound", "right"),
        Column("share", "of the bound", "right"),
        Column("verdict", "verdict"),
        Column("case", "in the case"),
        Column("label", "label", "wrap"),
    ]
    text_rows, html_rows = [], []
    for (kernel, metric), cases in groups.items():
        top = max(
            cases, key=lambda r: (not r["passed"], r["value"] / r["bound"] if r["bound"] else r["value"])
        )
        status = "pass" if all(r["passed"] for r in cases) else "fail"
        line = {
            "kernel": kernel,
            "metric": metric,
            "cases": len(cases),
            "value": number(top["value"]),
            "bound": number(top["bound"]),
            "share": f"{top['value'] / top['bound']:.0%}" if top["bound"] else None,
            "case": top["case"],
            "label": top.get("label"),
        }
        text_rows.append(line | {"verdict": f"{symbol(status)} {status}"})
        html_rows.append(line | {"verdict": chip(status)})
    return View(text_table(columns, text_rows, caption), html_table(columns, html_rows, caption))


def formats(rows: Rows, caption: str = "Weight formats, as they were checked") -> View:
    """Per Marlin kernel: what its weights stand for, the scales of its cases, and the worst of them."""
    columns = [
        Column("kernel", "kernel"),
        Column("weight", "weight", "wrap"),
        Column("activations", "activations"),
        Column("groups", "scales"),
        Column("cases", "cases", "right"),
        Column("value", "worst relative error", "right"),
        Column("verdict", "verdict"),
    ]
    text_rows, html_rows = [], []
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        form = weight_format(kernel)
        mine = [r for r in rows if r["kernel"] == kernel and r["metric"] == "relative_error"]
        if form is None or not mine:
            continue
        scales = {part for r in mine for part in r["case"].split("-") if _SCALES.fullmatch(part)}
        status = "pass" if all(r["passed"] for r in rows if r["kernel"] == kernel) else "fail"
        line = {
            "kernel": kernel,
            "weight": MEANINGS[form],
            "activations": "16 bits" if activation_bits(kernel) == 16 else "e4m3",
            "groups": ", ".join(sorted(scales, key=lambda s: (s != "channel", len(s), s))) or None,
            "cases": len({r["case"] for r in mine}),
            "value": number(max(r["value"] for r in mine)),
        }
        text_rows.append(line | {"verdict": f"{symbol(status)} {status}"})
        html_rows.append(line | {"verdict": chip(status)})
    return View(text_table(columns, text_rows, caption), html_table(columns, html_rows, caption))


def margins(rows: Rows, title: str = "Error of every case, as a part of its bound") -> View:
    """A mark per case: error over bound, the bound being 1, one row per kernel.

    The table of `worst` is its text.
    """
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    figure = go.Figure()
    for i, metric in enumerate(metrics):
        mine = [r for r in rows if r["metric"] == metric and r["bound"] and r["value"] > 0]
        figure.add_trace(
            go.Scatter(
                x=[r["value"] / r["bound"] for r in mine],
                y=[r["kernel"] for r in mine],
                text=[f"{r['case']}: {number(r['value'])} (bound {number(r['bound'])})" for r in mine],
                hoverinfo="text",
                mode="markers",
                name=metric,
                marker={
                    "color": COLOURS[i % len(COLOURS)],
                    "size": 10,
                    "symbol": ["circle-open", "x-thin-open"][i % 2],
                    "line": {"width": 2, "color": COLOURS[i % len(COLOURS)]},
                },
            )
        )
    axis = {"gridcolor": "rgba(128,128,128,.28)", "linecolor": "rgba(128,128,128,.6)", "zeroline": False}
    figure.add_vline(x=1, line={"width": 2, "color": COLOURS[1]})
    highest = max((r["value"] / r["bound"] for r in rows if r["bound"]), default=1.0)
    scale = "log" if highest > 3 else "linear"  # one gross fault would press all others together
    figure.add_annotation(
        x=0 if scale == "log" else 1, y=1.0, yref="paper", yanchor="bottom", text="bound", showarrow=False
    )
    figure.update_layout(
        template="none",
        title={"text": title, "font": {"size": 15}, "x": 0, "xanchor": "left"},
        xaxis={"type": scale, "rangemode": "tozero", "title": {"text": "error / bound"}, **axis},
        yaxis={"automargin": True, "autorange": "reversed", **axis},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#767676", "size": 13},
        legend={"orientation": "h", "x": 0, "y": -0.28},
        margin={"l": 20, "r": 20, "t": 60, "b": 80},
        height=220 + 34 * len(kernels),
    )
    table = worst(rows)
    return FigureView(table.text, "", figure=figure, below=table.html)


def error_map(tiles: Sequence[Sequence[float]], case: str, tile: int, label: str = "") -> View:
    """The worst error in each tile of the output, M down and N across, as a multiple of what is allowed.

    tiles: rows of such multiples, 1 being the bound; a tile above it carries a cross. tile: elements along
    each side of a tile.
    """
    rows = [[float(value) for value in row] for row in tiles]
    flat = [value for row in rows for value in row]
    over = sum(value > 1 for value in flat)
    title = f"Error by tile: {case}" + (f" [{label}]" if label else "")
    said = (
        f"{len(flat)} tiles of {tile} x {tile}; the worst element reaches {number(max([*flat, 0.0]))} of "
        f"what it is allowed, {over or 'none'} of the tiles above 1."
    )
    x_title, y_title = f"output columns N, {tile} to a tile", f"rows M, {tile} to a tile"
    figure = go.Figure(
        go.Heatmap(
            z=rows,
            zmin=0,
            zmax=1,
            colorscale=[[0, "rgba(0,114,178,.06)"], [1, "#0072b2"]],
            colorbar={"title": {"text": "of the<br>bound"}},
            hovertemplate="tile %{y}, %{x}: %{z:.2f} of the bound<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    crosses = [(c, r) for r, row in enumerate(rows) for c, value in enumerate(row) if value > 1]
    if crosses:
        figure.add_trace(
            go.Scatter(
                x=[c for c, _ in crosses],
                y=[r for _, r in crosses],
                mode="markers",
                name="above the bound",
                marker={"symbol": "x", "color": COLOURS[1], "size": 9},
            )
        )
    figure.update_layout(
        template="none",
        title={"text": title, "font": {"size": 15}, "x": 0, "xanchor": "left"},
        xaxis={"title": {"text": x_title}, "showgrid": False, "zeroline": False},
        yaxis={"title": {"text": y_title}, "autorange": "reversed", "showgrid": False, "zeroline": False},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#767676", "size": 13},
        margin={"l": 70, "r": 20, "t": 60, "b": 60},
        height=max(280, min(560, 160 + 22 * len(rows))),
    )
    svg = heatmap(title, rows, x_title, y_title, 0.0, 1.0, 1.0)
    below = Markup(f'<p class="kp-note">{esc(said)}</p>')
    html = Markup(f'<div class="kp-static">{svg}</div>')
    return FigureView(f"{title}\n{said}", html, figure=figure, below=below)


def proofs(found: Sequence[Any]) -> View:
    """Faults put in on purpose, one line each: in how many cases it was put, in how many it was seen.

    found: the proofs of `check.prove`, with mutation, relative_error, relative_bound, worst_element and
    caught.
    """
    groups: dict[str, list[Any]] = {}
    for proof in found:
        groups.setdefault(proof.mutation, []).append(proof)
    columns = [
        Column("fault", "fault put in"),
        Column("cases", "cases", "right"),
        Column("relative", "seen by the relative error", "right"),
        Column("worst", "seen by the worst element", "right"),
        Column("verdict", "caught"),
    ]
    text_rows, html_rows = [], []
    for fault, members in groups.items():
        status = "pass" if all(m.caught for m in members) else "fail"
        caught = f"{sum(m.caught for m in members)} of {len(members)}"
        line = {
            "fault": fault,
            "cases": len(members),
            "relative": sum(m.relative_error > m.relative_bound for m in members),
            "worst": sum(m.worst_element > 1 for m in members),
        }
        text_rows.append(line | {"verdict": f"{symbol(status)} {caught}"})
        html_rows.append(line | {"verdict": chip(status, caught)})
    caption = "Faults put in on purpose"
    return View(text_table(columns, text_rows, caption), html_table(columns, html_rows, caption))


def recorded(records: Iterable[Any], kernels: Sequence[str] | None = None) -> View:
    """The newest recorded check.

    Its worst cases, labelled with machine and date; in words where there is none.
    """
    record = next((r for r in records if r.kind == "check"), None)
    rows = []
    if record is not None:
        rows = [
            dict(row) | {"label": str(row.get("label", "")).replace("measured here", record.source)}
            for row in record.rows
            if kernels is None or row["kernel"] in kernels
        ]
    if not rows:
        said = "No check on a GPU is on record yet. `kernelpkg check --record FOLDER` on a GPU makes one."
        return View(said, Markup(f"<p>{chip('unproved', 'no record')}: {esc(said)}</p>"))
    failed = sum(not row["passed"] for row in rows)
    caption = f"{record.source}: {len(rows)} rows, {failed or 'none'} outside its bound"
    return worst(rows, caption)
