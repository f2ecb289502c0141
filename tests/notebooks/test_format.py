"""The committed notebooks are in the one form, and the check that says so can fail. About two seconds."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from kernelpkg.validate import notebook_format, notebooks_folder
from kernelpkg.validate.runner import NOTEBOOKS, declared

PATHS = sorted(notebooks_folder().glob("*.ipynb"))


def test_all_notebooks_are_here() -> None:
    assert {path.stem for path in PATHS} >= set(NOTEBOOKS)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_committed_form(path: Path) -> None:
    assert notebook_format.problems(path) == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_parameters_are_literals_and_the_common_ones_are_there(path: Path) -> None:
    assert declared(path) >= {"device", "size", "results_dir"}
    cells = json.loads(path.read_text())["cells"]
    source = next("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
    for node in ast.parse(source).body:
        assert isinstance(node, ast.Assign)
        ast.literal_eval(node.value)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_claims_predicts_and_ends_with_its_verdicts(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    for part in ("**Claim.**", "Predict", "What would change my mind?", "**Try it.**"):
        assert part in prose, part
    assert "".join(cells[-1]["source"]).rstrip().endswith("book.close()")
    assert "verdicts, 0 failed" in "".join(cells[-1]["outputs"][0]["text"])


def small(**changes: Any) -> dict[str, Any]:
    """A notebook in order, or with something changed in its last cell."""
    code = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    cells = [
        {"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# T"},
        {**code, "id": "parameters", "metadata": {"tags": ["parameters"]}, "source": "size = 'x'"},
        {**code, "id": "last", "source": "1", **changes},
    ]
    return {"cells": cells}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"id": "title"}, "two cells share an id"),
        ({"source": "\n".join("a" * 30)}, "lines"),
        ({"metadata": {"tags": ["parameters"]}}, "exactly one cell"),
        ({"metadata": {"tags": ["nbval-check-output"]}}, "no verdict lines"),
    ],
)
def test_the_check_can_fail(tmp_path: Path, changes: dict[str, Any], problem: str | None) -> None:
    path = tmp_path / "n.ipynb"
    path.write_bytes(notebook_format.canonical(small(**changes)))
    found = notebook_format.problems(path)
    assert found == [] if problem is None else any(problem in one for one in found)


def test_outputs_are_dropped_save_the_verdict_lines(tmp_path: Path) -> None:
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": "PASS  a: b\n"},
        {"output_type": "stream", "name": "stderr", "text": "noise"},
        {"output_type": "error", "ename": "E", "evalue": "v", "traceback": []},
        {"output_type": "display_data", "data": {"text/html": "<b>"}, "metadata": {}},
    ]
    kept = notebook_format.canonical(small(outputs=outputs, metadata={"tags": ["nbval-check-output", "x"]}))
    last = json.loads(kept)["cells"][-1]
    assert last["outputs"] == [{"name": "stdout", "output_type": "stream", "text": ["PASS  a: b\n"]}]
    assert last["metadata"] == {"tags": ["nbval-check-output"]}
    assert json.loads(notebook_format.canonical(small(outputs=outputs)))["cells"][-1]["outputs"] == []
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps(small(outputs=outputs)))
    assert any("canonical" in one for one in notebook_format.problems(path))
    assert notebook_format.main([str(path)]) == 1 and notebook_format.main([str(path), "--fix"]) == 0
    path.write_bytes(kept.replace(b"PASS", b"FAIL"))
    assert any("holds a failure" in one for one in notebook_format.problems(path))
