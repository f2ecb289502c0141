"""The one form in which notebooks are committed, so that a change to one reads as a small diff.

`python -m kernelpkg.validate.notebook_format` checks; `--fix` rewrites; `--refresh` runs every notebook as
the tests do and stores the verdict lines that they compare.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from kernelpkg.build.targets import FALLBACK_TARGETS

PARAMETERS = "parameters"
CHECKED = "nbval-check-output"
TAGS = (PARAMETERS, CHECKED)
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CODE_LINES = 14

# What the tests run the notebooks with: the same on every machine.
TEST_PARAMETERS: dict[str, Any] = {
    "device": "12.1",
    "size": "tiny",
    "targets": FALLBACK_TARGETS,
    "instances": "test",
}
TEST_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": ""}


def canonical(notebook: Mapping[str, Any]) -> bytes:
    """A notebook as it is committed: format 4.5, sorted keys, one space, one metadata policy.

    Outputs are dropped, save the standard output of cells tagged 'nbval-check-output'.
    """
    cells = []
    for cell in notebook["cells"]:
        tags = [tag for tag in cell["metadata"].get("tags", []) if tag in TAGS]
        out: dict[str, Any] = {
            "cell_type": cell["cell_type"],
            "id": cell["id"],
            "metadata": {"tags": tags} if tags else {},
            "source": "".join(cell["source"]).strip("\n").splitlines(keepends=True),
        }
        if cell["cell_type"] == "code":
            text = (
                "".join("".join(o["text"]) for o in cell["outputs"] if _is_stdout(o))
                if CHECKED in tags
                else ""
            )
            lines = text.splitlines(keepends=True)
            stream = {"name": "stdout", "output_type": "stream", "text": lines}
            # nbval takes stored outputs for stale where the cell has no execution count.
            out |= {"execution_count": 1 if lines else None, "outputs": [stream] if lines else []}
        cells.append(out)
    whole = {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return (json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _is_stdout(output: Mapping[str, Any]) -> bool:
    return output["output_type"] == "stream" and output["name"] == "stdout"


def problems(path: Path) -> list[str]:
    """What is wrong with a committed notebook, as sentences; empty where it is in order."""
    raw = path.read_bytes()
    notebook = json.loads(raw)
    found = [] if canonical(notebook) == raw else ["it is not in the canonical form: run with --fix"]
    cells = notebook["cells"]
    if len({cell["id"] for cell in cells}) != len(cells):
        found.append("two cells share an id")
        return found
    try:
        nbformat.validate(nbformat.from_dict(notebook))
    except nbformat.ValidationError as error:
        found.append(f"it is not a valid notebook: {error.message}")
    if cells[0]["cell_type"] != "markdown" or not "".join(cells[0]["source"]).startswith("# "):
        found.append("its first cell is not a title")
    if sum(PARAMETERS in cell["metadata"].get("tags", []) for cell in cells) != 1:
        found.append("it must have exactly one cell tagged 'parameters'")
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        lines = len(cell["source"])
        if lines > CODE_LINES:
            found.append(f"cell {cell['id']} has {lines} lines, {CODE_LINES} are allowed: call the package")
        text = "".join("".join(output.get("text", [])) for output in cell["outputs"])
        if any(output["output_type"] == "error" for output in cell["outputs"]) or "FAIL" in text:
            found.append(f"cell {cell['id']} holds a failure")
        if CHECKED in cell["metadata"].get("tags", []) and not text:
            found.append(f"cell {cell['id']} has no verdict lines to compare: run with --refresh")
    return found


def prepare(source: Path, target: Path) -> None:
    """A copy with the tests' parameters, set as papermill does; not executed, its stored outputs kept."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    notebook = parameterize_notebook(load_notebook_node(str(source)), _given(source))
    nbformat.write(notebook, target)


def _given(path: Path) -> dict[str, Any]:
    """The tests' parameters that this notebook has."""
    from kernelpkg.validate.runner import declared

    return {name: value for name, value in TEST_PARAMETERS.items() if name in declared(path)}


def refresh(path: Path) -> None:
    """Run a notebook with the tests' parameters and store its verdict lines. Raises what the run raises."""
    from kernelpkg.validate import engine

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / path.name
        engine.execute(path, run, _given(path), seconds=600, env=TEST_ENVIRONMENT)
        executed = {cell["id"]: cell for cell in json.loads(run.read_text(encoding="utf-8"))["cells"]}
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = executed[cell["id"]]["outputs"]
    path.write_bytes(canonical(notebook))


def main(arguments: list[str] | None = None) -> int:
    """Check, fix or refresh the notebooks named (all in the notebooks folder by default).

    1 where one is wrong.
    """
    from kernelpkg.validate.runner import notebooks_folder

    parser = argparse.ArgumentParser(description="Check the form of the committed notebooks.")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--fix", action="store_true", help="rewrite them in the canonical form")
    parser.add_argument("--refresh", action="store_true", help="run them and store their verdict lines")
    asked = parser.parse_args(arguments)
    wrong = 0
    for path in asked.files or sorted(notebooks_folder().glob("*.ipynb")):
        if asked.fix:
            path.write_bytes(canonical(json.loads(path.read_text(encoding="utf-8"))))
        if asked.refresh:
            refresh(path)
        for problem in problems(path):
            print(f"{path.name}: {problem}")
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
