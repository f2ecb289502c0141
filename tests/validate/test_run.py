"""Runs of tiny notebooks, one of them failing: rows, exit codes, pages and files. About 40 seconds."""

from __future__ import annotations

import html
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kernelpkg import validate
from kernelpkg.errors import UsageError
from kernelpkg.validate.runner import Progress, declared

OPEN = (
    "from kernelpkg.validate import open_workbook\nbook = open_workbook({name!r}, '12.1', size, results_dir)"
)
GOOD = [
    "book.hold('one is one', 1 == 1, 'equal')",
    "book.count(3, {'needs a GPU': 2})\n"
    "book.keep([{'kernel': 'k', 'capability': '12.1', 'rung': 'admitted', 'status': 'pass',"
    " 'label': 'nobody', 'reason': 'so'}])",
    "from kernelpkg.widgets import speed_panel\n"
    "row = {'kernel': 'marlin_w8a16', 'shape': 's', 'm': 1, 'n': 64, 'k': 128, 'microseconds': 2.0}\n"
    "speed_panel.latency([row])",
    "book.hold('two is open', None, 'nobody looked')",
    "book.close()",
]
BAD = ["book.hold('one is two', 1 == 2, '<not> equal')", "book.close()", "print('never reached')"]


def notebook(
    folder: Path, name: str, cells: list[str], parameters: str = "size = 'x'\nresults_dir = ''"
) -> Path:
    path = folder / f"{name}.ipynb"
    head = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    sources = [new_code_cell(source) for source in [OPEN.format(name=name), *cells]]
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title"), head, *sources]), path)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    """A run of a failing notebook, then of one that holds; into a folder that already has other files."""
    folder = tmp_path_factory.mktemp("run")
    out = folder / "out"
    (out / "results").mkdir(parents=True)
    (out / "mine.txt").write_text("keep me")
    (out / "old.html").write_text("of an earlier run")
    (out / "results.json").write_text(json.dumps({"rows": [{"notebook": "old"}]}))
    news: list[Progress] = []
    sources = [notebook(folder, "a_bad", BAD), notebook(folder, "b_good", GOOD)]
    report = validate.run(out, sources, {}, size="tiny", on_progress=news.append)
    return report, out, news


def test_one_failure_does_not_stop_the_others(finished) -> None:
    report, _, _ = finished
    assert [(row["notebook"], row["status"]) for row in report.rows] == [
        ("a_bad", "fail"),
        ("b_good", "pass"),
    ]
    assert report.exit_code == 1
    assert report.headline == "1 of 2 notebooks held."
    assert report.summary == "ran 3, gated out 2 (2: needs a GPU)"
    assert (
        report.rows[0]["error"]["type"] == "CheckFailed"
        and "one is two" in report.rows[0]["error"]["message"]
    )
    assert [v["status"] for v in report.rows[1]["verdicts"]] == ["pass", "open"]


def test_results_are_plain_json_by_notebook(finished) -> None:
    report, out, _ = finished
    content = json.loads((out / "results.json").read_text())
    assert (
        content["exit_code"] == 1 and content["ran"] == 3 and content["machine"]["device"].startswith("GB10")
    )
    assert {"notebook", "status", "seconds", "rungs"} <= content["rows"][1].keys()
    assert (
        content["rows"][1]["rungs"] == report.rows[1]["rungs"]
        and content["rows"][1]["rungs"][0]["kernel"] == "k"
    )
    own = json.loads((out / "results" / "b_good.json").read_text())
    assert own["complete"] and own["size"] == "tiny"
    assert json.loads((out / "results" / "a_bad.json").read_text())["error"]["exit_code"] == 1


def test_the_first_page_has_the_error_first_and_links_that_lead_somewhere(finished) -> None:
    _, out, _ = finished
    page = (out / "index.html").read_text()
    assert page.index("What went wrong") < page.index("The ladder") < page.index("The notebooks")
    assert (
        "one is two" in page
        and "&lt;not&gt; equal" in page
        and "Traceback" in page
        and "ran 3, gated out 2" in page
    )
    for target in set(re.findall(r'href="([^"#]+)"', page)):
        assert (out / target).is_file(), target


def test_pages_work_offline_and_without_scripts(finished) -> None:
    _, out, _ = finished
    good = (out / "b_good.html").read_text()
    for page in out.glob("*.html"):
        assert not re.findall(r'(?:src|href)="(?:https?:)?//', page.read_text()), page.name
    assert 'src="plotly.min.js"' in good and (out / "plotly.min.js").stat().st_size > 1_000_000
    assert "<svg" in good and '<script type="application/json">' in good
    assert "✓ pass" in good and "one is one" in good
    assert "plotly.min.js" not in (out / "a_bad.html").read_text()


def test_files_of_others_stay_and_pages_of_earlier_runs_go(finished) -> None:
    _, out, _ = finished
    assert (out / "mine.txt").read_text() == "keep me"
    assert not (out / "old.html").exists()
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


def test_junit_counts_verdicts(finished) -> None:
    _, out, _ = finished
    suites = ElementTree.parse(out / "junit.xml").getroot().findall("testsuite")
    found = {s.get("name"): [s.get(k) for k in ("tests", "failures", "errors", "skipped")] for s in suites}
    assert found == {"a_bad": ["2", "1", "1", "0"], "b_good": ["3", "0", "0", "1"]}


def test_progress_tells_cells_and_lines(finished) -> None:
    _, _, news = finished
    assert [n.status for n in news if n.status in ("pass", "fail")] == ["fail", "pass"]
    assert any(n.line.startswith("PASS  one is one") and n.notebook == "b_good" for n in news)
    cells = [(n.cell, n.cells) for n in news if n.notebook == "b_good" and n.cells]
    assert cells == sorted(cells) and len({total for _, total in cells}) == 1


def test_executed_notebooks_are_valid_and_have_their_parameters(finished) -> None:
    _, out, _ = finished
    executed = nbformat.read(out / "b_good.ipynb", as_version=4)
    nbformat.validate(executed)
    injected = next(c for c in executed.cells if "injected-parameters" in c.metadata.get("tags", []))
    assert 'size = "tiny"' in injected.source and "x" not in injected.source.replace("tiny", "")
    assert all(c.execution_count for c in executed.cells if c.cell_type == "code")


@pytest.mark.parametrize(
    ("cell", "code", "status"),
    [
        ("from kernelpkg.errors import UsageError\nraise UsageError('so')", 2, "fail"),
        ("from kernelpkg.errors import MachineUnfit\nraise MachineUnfit('so')", 4, "unfit"),
        ("from kernelpkg.errors import NothingRan\nraise NothingRan('so')", 3, "fail"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", 4, "unfit"),
        ("import time\ntime.sleep(600)", 4, "unfit"),
    ],
)
def test_exit_codes_say_what_kind_of_failure(tmp_path: Path, cell: str, code: int, status: str) -> None:
    begin = time.monotonic()
    report = validate.run(tmp_path / "out", [notebook(tmp_path, "n", [cell])], timeout=8)
    assert (report.exit_code, report.rows[0]["status"]) == (code, status)
    assert time.monotonic() - begin < 40
    message = report.rows[0]["error"]["message"]
    assert html.escape(message) in (tmp_path / "out" / "index.html").read_text()


def test_a_timeout_interrupts_what_the_cell_was_doing(tmp_path: Path) -> None:
    mark = tmp_path / "interrupted"
    stopped = f"open({str(mark)!r}, 'w').close()"
    cell = f"import time\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    {stopped}"
    report = validate.run(tmp_path / "out", [notebook(tmp_path, "n", [cell])], timeout=6)
    assert report.exit_code == 4 and mark.exists()


RUN = """
import signal, sys
from kernelpkg import validate
# A shell starts its background jobs, and so perhaps these tests, with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
report = validate.run(sys.argv[1], sys.argv[2:])
print(report.exit_code, report.interrupted, [row["status"] for row in report.rows])
"""


def press_ctrl_c(process: subprocess.Popen[str]) -> str:
    """What the process prints when it is interrupted; as a person would, press again if nothing happens."""
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=30)[0]
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    raise AssertionError("Ctrl-C was pressed three times and the run went on")


def test_ctrl_c_keeps_what_is_finished_and_says_so(tmp_path: Path) -> None:
    quick = notebook(tmp_path, "a", GOOD)
    slow = notebook(
        tmp_path, "b", [f"open({str(tmp_path / 'here')!r}, 'w').close()", "import time\ntime.sleep(600)"]
    )
    command = [sys.executable, "-c", RUN, str(tmp_path / "out"), str(quick), str(slow), str(quick)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "here").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    said = press_ctrl_c(process)
    assert said.strip() == "4 True ['pass', 'not run', 'not run']"
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Interrupted" in page and (tmp_path / "out" / "a.html").is_file()


def test_what_is_not_there_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = notebook(tmp_path, "n", GOOD)
    assert declared(path) == {"size", "results_dir"}
    with pytest.raises(UsageError, match="parameter sise; there are"):
        validate.run(tmp_path / "out", [path], {"sise": "tiny"})
    with pytest.raises(UsageError, match="no notebook is named '07'"):
        validate.run(tmp_path / "out", ["07"])
    with pytest.raises(UsageError, match="is not a file"):
        validate.run(tmp_path / "out", [tmp_path / "none.ipynb"])
    with pytest.raises(UsageError, match="tiny, default, full"):
        validate.run(tmp_path / "out", [path], size="huge")
    assert not (tmp_path / "out").exists()


def test_parameters_from_the_command_line() -> None:
    pairs = ["device=12.1", "seed=3", "deep=true", "kernels=a,b", 'shapes=["8B.o"]', "empty="]
    found = validate.parse_parameters(pairs)
    assert found == {
        "device": "12.1",
        "seed": 3,
        "deep": True,
        "kernels": "a,b",
        "shapes": ["8B.o"],
        "empty": "",
    }
    for bad in ("device", "=3", "a b=3"):
        with pytest.raises(UsageError, match="name=value"):
            validate.parse_parameters([bad])
