"""nbval runs each notebook for an assumed 12.1 without a GPU and compares its verdict lines.

At most 60 seconds each, with a library that is built already.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernelpkg.build import build_root, find_library
from kernelpkg.build.targets import FALLBACK_TARGETS
from kernelpkg.validate import notebook_format, notebooks_folder
from kernelpkg.validate.runner import NOTEBOOKS

SECONDS = 60


def run_nbval(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-q", "--no-header"]
    command += ["-p", "no:cacheprovider", "-c", os.devnull, "--nbval-cell-timeout", "300"]
    environment = os.environ | notebook_format.TEST_ENVIRONMENT
    return subprocess.run(
        [*command, str(path)], env=environment, cwd=path.parent, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_verdict_lines_are_as_committed(name: str, tmp_path: Path) -> None:
    if name != "01_capability" and find_library() is None:
        pytest.skip(
            f"no library is built in {build_root()}: run `kernelpkg build --arch {FALLBACK_TARGETS}` first"
        )
    copy = tmp_path / f"{name}.ipynb"
    notebook_format.prepare(notebooks_folder() / copy.name, copy)
    begin = time.monotonic()
    done = run_nbval(copy)
    seconds = time.monotonic() - begin
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert seconds < SECONDS, f"{name} took {seconds:.0f} s"


def test_a_changed_verdict_is_seen(tmp_path: Path) -> None:
    """The comparison can fail: a notebook whose stored line says something else."""
    code = {"cell_type": "code", "metadata": {}, "execution_count": None}
    tags = {"tags": ["nbval-check-output"]}
    stored = [{"output_type": "stream", "name": "stdout", "text": "PASS  a: b\n"}]
    for text, code_of in (("PASS  a: b", 0), ("FAIL  a: b", 1)):
        cell = code | {"id": "x", "metadata": tags, "source": f"print({text!r})", "outputs": stored}
        path = tmp_path / f"n{code_of}.ipynb"
        path.write_bytes(notebook_format.canonical({"cells": [cell]}))
        done = run_nbval(path)
        assert done.returncode == code_of, done.stdout
        assert json.loads(path.read_text())["cells"][0]["outputs"]
