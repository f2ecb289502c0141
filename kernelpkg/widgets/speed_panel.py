"""Bench rows as figures: latency against M, speed-up over bf16, and the roofline under measured ceilings.

Each figure has its table below it, so nothing is said by a curve alone. `rows` are bench rows, measured,
recorded or projected; the label of the rows is part of each title.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from kernelpkg.bench.goals import evaluate
from kernelpkg.bench.peers import COUNTERPARTS
from kernelpkg.bench.shapes import MAIN, MEANINGS, VARIANTS, weight_format, work
from kernelpkg.widgets.svg import Series, chart, number, ticks
from kernelpkg.widgets.view import (
    COLOURS,
    Column,
    FigureView,
    Markup,
    View,
    chip,
    esc,
    html_table,
    table,
    text_table,
)

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_MARKS = ("circle", "square", "triangle-up", "diamond", "cross", "x")

Rows = Sequence[Mapping[str, Any]]


def median(value: Any) -> float | None:
    """Microseconds of a timing, given as a number or as median, p10 and p90."""
    return value.get("median") if isinstance(value, Mapping) else value


def label_of(rows: Rows) -> str:
    """The labels of the rows, each once."""
    return "; ".join(dict.fromkeys(str(row["label"]) for row in rows if row.get("label")))


def _name(row: Mapping[str, Any], rows: Rows) -> str:
    """The kernel, with its variant where the rows have more than one."""
    variants = {r.get("variant") for r in rows if r["kernel"] == row["kernel"]}
    return row["kernel"] if len(variants) == 1 else f"{row['kernel']} ({row.get('variant')})"


def _shapes(rows: Rows) -> list[str]:
    return list(dict.fromkeys(str(row["shape"]) for row in rows))


def _lines(rows: Rows, shape: str) -> dict[str, list[tuple[int, float, Mapping[str, Any] | None]]]:
    """Name to (m, microseconds, spread) for the kernels of one shape, then for their peers."""
    lines: dict[str, list[tuple[int, float, Mapping[str, Any] | None]]] = {}
    peers: dict[str, dict[int, float]] = {}
    for row in sorted((r for r in rows if str(r["shape"]) == shape), key=lambda r: r["m"]):
        value = median(row["microseconds"])
        if value is not None:
            spread = row["microseconds"] if isinstance(row["microseconds"], Mapping) else None
            lines.setdefault(_name(row, rows), []).append((row["m"], value, spread))
        for peer, timing in (row.get("peers") or {}).items():
            if median(timing) is not None:
                peers.setdefault(peer, {})[row["m"]] = median(timing)
    for peer, points in peers.items():
        lines[peer] = [(m, value, None) for m, value in sorted(points.items())]
    return lines


def latency(rows: Rows, title: str = "Time per call") -> View:
    """Microseconds against M, one line per kernel and peer, a menu for the weight shape.

    P10 to p90 as bars.
    """
    if not rows:
        return nothing(NO_RECORD)
    per_shape = {shape: _lines(rows, shape) for shape in _shapes(rows)}
    figure, drawn = _figure(f"{title}: {label_of(rows)}", "rows of activations, M", "microseconds"), {}
    for shape, lines in per_shape.items():
        for i, (name, points) in enumerate(lines.items()):
            figure.add_trace(_trace(name, [p[0] for p in points], [p[1] for p in points], i, _bars(points)))
            drawn[len(figure.data) - 1] = shape
    _menu(figure, drawn, list(per_shape))
    _ticks(figure, rows)
    static = _first(per_shape, title, "microseconds", rows, True)
    return _with_table(figure, static, _time_rows(rows), _TIME, f"{title}: {label_of(rows)}")


def speedup(rows: Rows, peer: str, title: str = "Speed-up") -> View:
    """How many times faster than `peer` of the same row; 1 is as fast. Kernels and the other peers."""
    if not rows:
        return nothing(NO_RECORD)
    per_shape: dict[str, dict[str, list[tuple[int, float, None]]]] = {}
    for shape in _shapes(rows):
        lines = _lines(rows, shape)
        base = {m: value for m, value, _ in lines.get(peer, [])}
        ratios = {
            name: [(m, base[m] / value, None) for m, value, _ in points if m in base]
            for name, points in lines.items()
            if name != peer
        }
        per_shape[shape] = {name: points for name, points in ratios.items() if points}
    y_title = f"times as fast as {peer}"
    figure, drawn = _figure(f"{title} over {peer}: {label_of(rows)}", "rows of activations, M", y_title), {}
    for shape, lines in per_shape.items():
        for i, (name, points) in enumerate(lines.items()):
            figure.add_trace(_trace(name, [p[0] for p in points], [p[1] for p in points], i))
            drawn[len(figure.data) - 1] = shape
    _menu(figure, drawn, list(per_shape))
    figure.add_hline(y=1, line={"width": 1.2, "color": "#8c8c8c"})
    _ticks(figure, rows, log_y=False)
    figure.update_yaxes(rangemode="tozero")
    static = _first(per_shape, f"{title} over {peer}", y_title, rows, False)
    table = [
        {"shape": shape, "name": name, "m": m, "ratio": f"{ratio:.2f}"}
        for shape, lines in per_shape.items()
        for name, points in lines.items()
        for m, ratio, _ in points
    ]
    columns = [
        Column("shape", "shape"),
        Column("name", "kernel"),
        Column("m", "M", "right"),
        Column("ratio", f"times {peer}", "right"),
    ]
    return _with_table(figure, static, table, columns, f"{title} over {peer}: {label_of(rows)}")


def roofline(rows: Rows, ceilings: Mapping[str, Any], title: str = "Roofline") -> View:
    """TFLOP/s against operations per byte, under the ceilings of the same run.

    ceilings: read_gbps, and bf16_tflops or fp8_tflops (None where not known). Bytes and operations of a
    call are the least it must do, as `bench.shapes.work` counts them.
    """
    if not rows:
        return nothing(NO_RECORD)
    points: dict[str, list[tuple[float, float, Mapping[str, Any]]]] = {}
    for row in rows:
        value = median(row["microseconds"])
        if value:
            need = work(row["kernel"], row.get("variant") or "", row["m"], row["n"], row["k"])
            at = (need.flops / need.total_bytes, need.flops / value / 1e6, row)
            points.setdefault(_name(row, rows), []).append(at)
    if ceilings.get("read_gbps"):
        title = f"{title} (reading {number(ceilings['read_gbps'])} GB/s)"
    figure = _figure(f"{title}: {label_of(rows)}", "operations per byte that must move", "TFLOP/s")
    series: list[Series] = []
    everything = [x for line in points.values() for x, _, _ in line]
    for name, x, y in _roofs(ceilings, everything):
        style = {"color": "#8c8c8c", "width": 1.5, "dash": _DASHES[len(series) % len(_DASHES)]}
        figure.add_trace(go.Scatter(x=x, y=y, name=name, mode="lines", line=style, hoverinfo="name+y"))
        series.append(Series(name, x, y, "rule"))
    for i, (name, line) in enumerate(points.items()):
        x, y = [p[0] for p in line], [p[1] for p in line]
        trace = _trace(name, x, y, i)
        hover = [f"{p[2]['shape']}, M = {p[2]['m']}" for p in line]
        figure.add_trace(trace.update(mode="markers", text=hover, hoverinfo="name+text+y"))
        series.append(Series(name, x, y, "marks"))
    _ticks(figure)
    static = chart(title, series, "operations per byte that must move", "TFLOP/s")
    return _with_table(figure, static, _time_rows(rows), _TIME, f"{title}: {label_of(rows)}")


def _roofs(ceilings: Mapping[str, Any], xs: Sequence[float]) -> list[tuple[str, list[float], list[float]]]:
    """The slanted and the flat part of each roof, over the span of the points; only what was measured."""
    read = ceilings.get("read_gbps")
    low, high = (min(xs) / 2, max(xs) * 2) if xs else (1.0, 4096.0)
    peaks = {kind: peak for kind in ("bf16", "fp8") if (peak := ceilings.get(f"{kind}_tflops"))}
    roofs = []
    for kind, peak in peaks.items():
        knee = peak * 1e3 / read if read else low
        x = [low, knee, high] if low < knee < high else [low, high]
        y = [min(read * at / 1e3, peak) if read else peak for at in x]
        roofs.append((f"{kind}: {number(peak)} TFLOP/s", x, y))
    if read and not peaks:
        roofs.append(("reading", [low, high], [read * low / 1e3, read * high / 1e3]))
    return roofs


def peers(rows: Rows, table: Mapping[str, Any]) -> View:
    """Our times and vLLM's as parts of the bf16 time of their own run: the only way two runs compare.

    table: `bench.peer_table()`, whose rows have shape, m, n, k and ratio_to_bf16. Where vLLM's operator was
    timed beside ours, `speedup(rows, "vllm_marlin_w8a16")` compares directly.
    """
    theirs = {(r["k"], r["n"], r["m"]): r["ratio_to_bf16"] for r in table["rows"]}
    out = []
    for row in rows:
        ours, base = median(row["microseconds"]), median((row.get("peers") or {}).get("bf16"))
        same_work = row.get("variant") in (None, VARIANTS[row["kernel"]][0])
        name = COUNTERPARTS.get(row["kernel"], "") if same_work else ""
        other = theirs.get((row["k"], row["n"], row["m"]), {}).get(name)
        if ours and base and other:
            out.append(
                {
                    "shape": row["shape"],
                    "kernel": _name(row, rows),
                    "m": row["m"],
                    "ours": f"{ours / base:.2f}",
                    "theirs": f"{other:.2f}",
                    "label": row.get("label"),
                }
            )
    if not out:
        return nothing("No row here has a counterpart in the table of peers.")
    layers = list(dict.fromkeys(line["shape"] for line in out))
    out.sort(key=lambda line: (layers.index(line["shape"]), line["kernel"], line["m"]))
    columns = [
        Column("shape", "shape"),
        Column("kernel", "kernel"),
        Column("m", "M", "right"),
        Column("ours", "ours / bf16", "right"),
        Column("theirs", "vLLM / bf16", "right"),
    ]
    caption = (
        f"Time as a part of the bf16 time of the same run; ours: {label_of(out)}; vLLM: "
        f"{table.get('label', 'NVIDIA H200')}"
    )
    html = f"<details open><summary>{esc(caption)}</summary>{html_table(columns, out)}</details>"
    return View(text_table(columns, out, caption), Markup(html))


def formats(rows: Rows) -> View:
    """Every weight format side by side, at the layers and M where one outside `bench.MAIN` was timed."""
    places = {(row["shape"], row["m"]) for row in rows if row["kernel"] not in MAIN}
    lines = []
    for row in sorted(rows, key=lambda row: row["m"]):
        value, form = median(row["microseconds"]), weight_format(row["kernel"])
        if (row["shape"], row["m"]) not in places or value is None or form is None:
            continue
        need = work(row["kernel"], row.get("variant") or "", row["m"], row["n"], row["k"])
        read, base = row.get("percent_of_read"), (row.get("ratios") or {}).get("bf16")
        lines.append(
            {
                "m": row["m"],
                "shape": row["shape"],
                "kernel": row["kernel"],
                "variant": row.get("variant"),
                "weight": MEANINGS[form],
                "bits": f"{8 * need.stream_bytes / (row['n'] * row['k']):.3g}",
                "us": number(value),
                "read": None if read is None else f"{read:.0f}",
                "base": None if base is None else f"{base:.2f}",
                "label": row.get("label"),
            }
        )
    if not lines:
        return nothing("No row here is of a format beyond the main ones: `kernelpkg bench` times them.")
    columns = [
        Column("shape", "shape"),
        Column("m", "M", "right"),
        Column("kernel", "kernel"),
        Column("variant", "scales"),
        Column("weight", "weight", "wrap"),
        Column("bits", "bits with scales", "right"),
        Column("us", "median µs", "right"),
        Column("read", "% of reading", "right"),
        Column("base", "times bf16", "right"),
        Column("label", "label", "wrap"),
    ]
    caption = f"Weight formats: {label_of(rows)}"
    return View(text_table(columns, lines, caption), html_table(columns, lines, caption))


def goals(rows: Rows, machine: str = "", costs: Rows = ()) -> View:
    """The speed goals of the kernels that the rows have, each with what was reached, where and on what basis.

    machine: the name of the device the rows are of. costs: what awkward shapes cost, of the same report.
    """
    judged = evaluate(rows, machine, costs=costs)
    if not judged:
        return nothing("No row here is of a kernel that has a goal.")

    def verdict(row: Mapping[str, Any]) -> tuple[str, str]:
        if row["met"] is None:
            return "unproved", "not judged" if row["reached"] is None else "reported"
        return ("pass", "met") if row["met"] else ("fail", "missed")

    columns = [
        Column("goal", "goal", "wrap"),
        Column("wanted", "wanted", "wrap"),
        Column("reached", "reached", "wrap"),
        Column("verdict", "met?"),
        Column("at", "worst row"),
        Column("on", "on", "wrap"),
        Column("basis", "basis", "wrap"),
    ]
    lines = [row | {"verdict": chip(*verdict(row))} for row in judged]
    return table(columns, lines, f"Goals: {label_of(rows)}")


def w4_arithmetic(rows: Rows) -> View:
    """W4A16 beside W4A8-FP8 by arithmetic: what moves, what is multiplied, which limit binds each.

    rows: `bench.w4_rows()`.
    """
    columns = [
        Column("device", "device"),
        Column("shape", "shape"),
        Column("m", "M", "right"),
        Column("operations", "GFLOP", "right"),
        Column("w4a16", "W4A16: MB, µs, limit", "right"),
        Column("w4a8", "W4A8: MB, µs, limit", "right"),
        Column("gain", "W4A16 / W4A8", "right"),
    ]

    def least(row: Mapping[str, Any], which: str) -> str:
        moved, time = row[f"{which}_bytes"] / 1e6, row[f"{which}_us"]
        return f"{moved:.1f}, {number(time)}, {row[f'{which}_limit']}"

    lines = [
        {
            "device": f"{row['device']} ({row['capability']})",
            "shape": row["shape"],
            "m": row["m"],
            "operations": number(row["operations"] / 1e9),
            "w4a16": least(row, "w4a16"),
            "w4a8": least(row, "w4a8"),
            "gain": f"{row['gain']:.2f}",
        }
        for row in rows
    ]
    caption = f"Least time of 4-bit weights: {label_of(rows)}"
    return View(text_table(columns, lines, caption), html_table(columns, lines, caption))


def nothing(sentence: str) -> View:
    """A view that says why there is nothing to see."""
    return View(sentence, Markup(f"<p>{chip('unproved', 'nothing to show')}: {esc(sentence)}</p>"))


NO_RECORD = "No bench on a GPU is on record yet. `kernelpkg bench --record FOLDER` on a GPU makes one."


# ------------------------------------------------------------------------------------------- the parts


_TIME = [
    Column("shape", "shape"),
    Column("kernel", "kernel"),
    Column("m", "M", "right"),
    Column("us", "median µs", "right"),
    Column("spread", "p10 to p90", "right"),
    Column("peers", "peers, µs"),
    Column("percent", "% of limit", "right"),
    Column("label", "label", "wrap"),
]


def _time_rows(rows: Rows) -> list[dict[str, Any]]:
    def line(row: Mapping[str, Any]) -> dict[str, Any]:
        timing = row["microseconds"]
        value = median(timing)
        spread = None
        if isinstance(timing, Mapping) and timing.get("p10") is not None and timing.get("p90") is not None:
            spread = f"{number(timing['p10'])} to {number(timing['p90'])}"
        percent = row.get("percent_of_limit")
        peers = [f"{k} {number(v)}" for k, t in (row.get("peers") or {}).items() if (v := median(t))]
        return {
            "shape": row["shape"],
            "kernel": _name(row, rows),
            "m": row["m"],
            "us": None if value is None else number(value),
            "spread": spread,
            "peers": ", ".join(peers) or None,
            "percent": None if percent is None else f"{percent:.0f}",
            "label": row.get("label"),
        }

    return [line(row) for row in rows]


# Buttons that these figures have no use for; with all of them the bar hides the end of the title.
_UNUSED_BUTTONS = ("select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "pan2d")


def _figure(title: str, x_title: str, y_title: str) -> go.Figure:
    """An empty figure that reads well on a light and on a dark page.

    What follows the title's first colon, the label, gets a line of its own.
    """
    name, _, label = title.partition(": ")
    axis = {"gridcolor": "rgba(128,128,128,.28)", "linecolor": "rgba(128,128,128,.6)", "zeroline": False}
    return go.Figure(
        layout={
            "template": "none",
            "title": {
                "text": f"{esc(name)}<br><sub>{esc(label)}</sub>" if label else esc(name),
                "font": {"size": 15},
                "x": 0,
                "xanchor": "left",
                "y": 0.97,
                "yanchor": "top",
            },
            "modebar": {"remove": list(_UNUSED_BUTTONS), "bgcolor": "rgba(0,0,0,0)"},
            "xaxis": {"title": {"text": x_title}, "type": "log", **axis},
            "yaxis": {"title": {"text": y_title}, **axis},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": "#767676", "size": 13},
            "legend": {"orientation": "v", "x": 1.02, "y": 1},
            "margin": {"l": 70, "r": 20, "t": 112, "b": 56},
            "height": 496,
            "hovermode": "closest",
        }
    )


def _ticks(figure: go.Figure, rows: Rows | None = None, log_y: bool = True) -> None:
    """Round values on logarithmic axes; on the M axis the values of M that there are."""
    if rows is not None:
        ms = sorted({row["m"] for row in rows})
        figure.update_xaxes(tickmode="array", tickvals=ms, ticktext=[str(m) for m in ms])
    else:
        xs = [x for trace in figure.data for x in trace.x]
        marks = ticks(min(xs), max(xs), True) if xs else []
        figure.update_xaxes(tickmode="array", tickvals=marks, ticktext=[number(x) for x in marks])
    if log_y:
        ys = [y for trace in figure.data for y in trace.y]
        marks = ticks(min(ys) / 1.3, max(ys) * 1.3, True) if ys else []
        figure.update_yaxes(type="log", tickmode="array", tickvals=marks, ticktext=[number(y) for y in marks])


def _trace(
    name: str, x: Sequence[float], y: Sequence[float], i: int, bars: Mapping[str, Any] | None = None
) -> Any:
    colour = COLOURS[i % len(COLOURS)]
    return go.Scatter(
        x=list(x),
        y=list(y),
        name=name,
        mode="lines+markers",
        line={"color": colour, "dash": _DASHES[i % len(_DASHES)], "width": 2},
        marker={"symbol": _MARKS[i % len(_MARKS)], "size": 8, "color": colour},
        error_y=bars,
    )


def _bars(points: Sequence[tuple[int, float, Mapping[str, Any] | None]]) -> dict[str, Any] | None:
    """p10 to p90 as error bars, where every point has them."""
    if not all(s and s.get("p10") is not None and s.get("p90") is not None for _, _, s in points):
        return None
    up = [s["p90"] - value for _, value, s in points if s]
    down = [value - s["p10"] for _, value, s in points if s]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1}


def _menu(figure: go.Figure, drawn: Mapping[int, str], shapes: Sequence[str]) -> None:
    """A menu that shows one weight shape at a time; it works without a kernel."""
    for index, trace in enumerate(figure.data):
        trace.visible = drawn[index] == shapes[0]
    if len(shapes) < 2:
        return
    buttons = [
        {
            "label": shape,
            "method": "update",
            "args": [{"visible": [drawn[i] == shape for i in range(len(figure.data))]}],
        }
        for shape in shapes
    ]
    where = {"x": 0, "xanchor": "left", "y": 1.14, "yanchor": "top", "direction": "down"}
    figure.update_layout(
        updatemenus=[{"buttons": buttons, "showactive": True, "bgcolor": "rgba(160,160,160,.2)", **where}]
    )


def _first(
    per_shape: Mapping[str, Mapping[str, Any]], title: str, y_title: str, rows: Rows, log_y: bool
) -> Markup:
    """The static chart of the first shape that has lines."""
    shape = next((s for s, lines in per_shape.items() if lines), None)
    if shape is None:
        return Markup(f"<p>{esc(title)}: nothing to draw.</p>")
    series = [Series(name, [p[0] for p in ps], [p[1] for p in ps]) for name, ps in per_shape[shape].items()]
    if not log_y:
        ms = [x for s in series for x in s.x]
        series.append(Series("as fast", [min(ms), max(ms)], [1.0, 1.0], "rule"))
    return chart(f"{title}, {shape}", series, "rows of activations, M", y_title, log_y=log_y)


def _with_table(
    figure: go.Figure,
    static: Markup,
    table: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    caption: str,
) -> View:
    below = f"<details><summary>{esc(caption)}, as a table</summary>{html_table(columns, table)}</details>"
    html = f'<div class="kp-static">{static}</div>'
    return FigureView(text_table(columns, table, caption), Markup(html), figure=figure, below=below)
