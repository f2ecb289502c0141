"""The pages of a run: one per executed notebook and a first page, readable offline and without scripts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter

from kernelpkg.build.terminal import duration
from kernelpkg.validate.report import ValidateReport
from kernelpkg.widgets import ladder_view
from kernelpkg.widgets.view import PLOTLY_MIME, STYLE, WIDGET_MIME, chip, esc, symbol

_ASSETS = Path(__file__).parent / "assets"
_CHIPS = {"pass": ("pass", "pass"), "fail": ("fail", "fail"), "open": ("open", "open")}
_STATUS = {"pass": "pass", "fail": "fail", "unfit": "unproved", "not run": "unproved"}
_VERDICT_WORDS = ("PASS  ", "FAIL  ", "OPEN  ")


def write(report: ValidateReport, folder: Path) -> None:
    """A page per executed notebook in `folder`, index.html, and plotly's script once beside them."""
    plots = False
    for row in report.rows:
        source = folder / f"{row['notebook']}.ipynb"
        if source.is_file():
            body, has_plots = notebook_body(nbformat.read(source, as_version=4))
            plots |= has_plots
            page = _page(row["notebook"], body, report, row["notebook"], has_plots)
            source.with_suffix(".html").write_text(page, encoding="utf-8")
    if plots:
        import plotly

        shutil.copyfile(
            Path(plotly.__file__).parent / "package_data" / "plotly.min.js", folder / "plotly.min.js"
        )
    index = _page("Report", first_page(report, folder), report, None, False)
    (folder / "index.html").write_text(index, encoding="utf-8")


def notebook_body(notebook: Any) -> tuple[str, bool]:
    """An executed notebook as HTML without a head, and whether it has plotly figures.

    Widgets are shown in their static form, figures as their SVG with the plotly data beside it, and verdict
    lines as a list.
    """
    notebook = nbformat.from_dict(notebook)
    plots = False
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            figure = data.pop(PLOTLY_MIME, None)
            if data.pop(WIDGET_MIME, None) is not None and "text/html" not in data:
                data["text/html"] = f"<pre>{esc(data.get('text/plain', ''))}</pre>"
            if figure is not None:
                plots = True
                script = json.dumps(figure).replace("</", "<\\/")
                data["text/html"] = (
                    '<div class="figure"><div class="plot"></div>'
                    f'<script type="application/json">{script}</script>{data.get("text/html", "")}</div>'
                )
        cell["outputs"] = [_verdicts_as_list(o) for o in cell["outputs"]] if "outputs" in cell else []
        if cell.cell_type != "code":
            del cell["outputs"]
    notebook.metadata.pop("widgets", None)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    return body, plots


def _verdicts_as_list(output: Any) -> Any:
    """A stream of verdict lines as an HTML list; any other output as it is."""
    lines = output.get("text", "").splitlines() if output.get("output_type") == "stream" else []
    if not any(line.startswith(_VERDICT_WORDS) for line in lines):
        return output
    items = "".join(_verdict_item(line) for line in lines if line.strip())
    html = f'{STYLE}<ul class="verdicts kp">{items}</ul>'
    return nbformat.v4.new_output("display_data", data={"text/html": html, "text/plain": output["text"]})


def _verdict_item(line: str) -> str:
    if not line.startswith(_VERDICT_WORDS):
        return f"<li><span></span><span>{esc(line)}</span></li>"
    status, rest = line.split("  ", 1)
    claim, _, detail = rest.partition(": ")
    return _verdict(status.lower(), claim, detail)


def _verdict(status: str, claim: str, detail: str) -> str:
    return f"<li>{chip(*_CHIPS[status])}<span><b>{esc(claim)}</b>: {esc(detail)}</span></li>"


def first_page(report: ValidateReport, folder: Path) -> str:
    """The body of index.html: what held, errors first, the ladder, the notebooks, the machine."""
    when = datetime.fromisoformat(report.started)
    parts = [
        f"<h1>{symbol('pass' if report.exit_code == 0 else 'fail')} {esc(report.headline)}</h1>",
        f'<p class="lead">{esc(report.machine.get("device", "The device is not known"))}. '
        f"{when:%d %B %Y, %H:%M %Z}, {duration(report.seconds)}. {esc(_cases(report))}</p>",
    ]
    wrong = [row for row in report.rows if row["error"] or row["status"] != "pass"]
    if wrong:
        parts.append("<h2>What went wrong</h2>" + "".join(_error_card(row, folder) for row in wrong))
    rungs = [rung for row in report.rows for rung in row["rungs"]]
    if rungs:
        asked = ", ".join(dict.fromkeys(str(r["capability"]) for r in rungs))
        parts.append(
            f"<h2>The ladder for {esc(asked)}</h2><p>A claim about a kernel stands on five rungs, and each "
            "has its own evidence. <i>Unproved</i>: nothing here or on record shows it either way.</p>"
            + ladder_view.grid(rungs).html
            + "<details><summary>Reasons and labels</summary>"
            + ladder_view.reasons(rungs).html
            + "</details>"
        )
    parts.append("<h2>The notebooks</h2>" + "".join(_card(row, folder) for row in report.rows))
    facts = report.machine | {
        "parameters": ", ".join(f"{k} = {v}" for k, v in report.parameters.items()),
        "exit code": str(report.exit_code),
    }
    parts.append(
        '<h2>Where this was run</h2><dl class="facts">'
        + "".join(f"<dt>{esc(k)}</dt><dd>{esc(v)}</dd>" for k, v in facts.items() if v)
        + "</dl>"
    )
    return f'{STYLE}<div class="kp" style="font:inherit">' + "".join(parts) + "</div>"


def _cases(report: ValidateReport) -> str:
    return f"Cases: {report.summary}." if report.ran or report.gated_out else ""


def _link(name: str, folder: Path) -> str:
    """The notebook's name, leading to its page where it has one."""
    return f'<a href="{esc(name)}.html">{esc(name)}</a>' if (folder / f"{name}.html").is_file() else esc(name)


def _error_card(row: Mapping[str, Any], folder: Path) -> str:
    problem = row["error"]
    name = _link(row["notebook"], folder)
    if problem is None:
        why = "It was not run: the run was interrupted before it ended." if row["status"] == "not run" else ""
        return f'<div class="card wrong"><h3>{name}</h3><p>{esc(why)}</p></div>'
    failed = "".join(
        _verdict(v["status"], v["claim"], v["detail"]) for v in row["verdicts"] if v["status"] == "fail"
    )
    hint = " The machine gave up, so another try may go through." if row["status"] == "unfit" else ""
    return (
        f'<div class="card wrong"><h3>{chip("fail", problem["type"])} {name}</h3>'
        f"<p>{esc(problem['message'])}{hint}</p>"
        + (f'<ul class="verdicts">{failed}</ul>' if failed else "")
        + f"<details><summary>Traceback</summary><pre>{esc(problem['traceback'])}</pre></details></div>"
    )


def _card(row: Mapping[str, Any], folder: Path) -> str:
    title = _link(row["notebook"], folder)
    took = f'<span class="soft">{duration(row["seconds"])}</span>' if row["seconds"] else ""
    verdicts = "".join(_verdict(v["status"], v["claim"], v["detail"]) for v in row["verdicts"])
    mark = chip(_STATUS[row["status"]], row["status"])
    listed = f'<ul class="verdicts">{verdicts}</ul>' if verdicts else ""
    return f'<div class="card"><h3>{mark} {title} {took}</h3>{listed}</div>'


def _page(title: str, body: str, report: ValidateReport, current: str | None, plots: bool) -> str:
    """A whole HTML page around a body, with links to its siblings."""
    links = "".join(
        f'<a href="{esc(r["notebook"])}.html"{" aria-current=page" if r["notebook"] == current else ""}>'
        f"{esc(r['notebook'])}</a>"
        for r in report.rows
        if r["status"] != "not run"
    )
    css = (_ASSETS / "page.css").read_text(encoding="utf-8")
    scripts = ""
    if plots:
        script = (_ASSETS / "page.js").read_text(encoding="utf-8")
        scripts = f'<script src="plotly.min.js"></script><script>{script}</script>'
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{esc(title)}: kernelpkg validate</title><style>{css}</style></head><body>"
        f'<nav><div><b><a href="index.html"{" aria-current=page" if current is None else ""}>Report</a></b>'
        f"{links}</div></nav><main>{body}</main>"
        f"<footer>kernelpkg validate, {esc(report.started)}. {esc(report.headline)}</footer>"
        f"{scripts}</body></html>\n"
    )
