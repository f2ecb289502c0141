"""What a notebook opens: the device it is about, its verdict lines, its results. Under a second."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kernelpkg import arch
from kernelpkg.errors import CheckFailed, NothingRan, UsageError
from kernelpkg.validate import open_workbook, workbook


@pytest.fixture(autouse=True)
def no_results_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERNELPKG_RESULTS_DIR", raising=False)


def here(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """A machine with these devices and no other."""
    found = tuple(arch.assume(name) for name in names)
    answer = SimpleNamespace(devices=found, message=None if found else "No driver.")
    monkeypatch.setattr(workbook.arch, "detect", lambda: answer)


def test_without_a_gpu_a_spark_is_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch)
    book = open_workbook("n")
    assert (str(book.capability), book.live, book.message) == ("12.1", False, "No driver.")
    assert book.title == "GB10, capability 12.1 (assumed)" and book.torch_device == "cpu"


def test_the_device_asked_about_need_not_be_the_one_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, "H200", "GB10")
    assert (open_workbook("n").device.name, open_workbook("n").torch_device) == ("H200", "cuda:0")
    spark = open_workbook("n", "12.1")
    assert spark.live and spark.torch_device == "cuda:1"
    assert not open_workbook("n", "8.9").live


def test_arguments_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch)
    with pytest.raises(UsageError, match="tiny, default, full"):
        open_workbook("n", size="big")
    with pytest.raises(UsageError):
        open_workbook("n", "Voodoo 2")


def test_verdict_lines_and_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    here(monkeypatch)
    book = open_workbook("n", results_dir=str(tmp_path / "results"))
    book.hold("a", True, "yes")
    book.hold("b", None, "who knows")
    book.count(2, {"r": 1})
    book.count(3, {"r": 1})
    book.keep([{"rung": "built", "kernel": "k"}, {"rung": "fast", "kernel": "k"}], "fast")
    book.close()
    assert capsys.readouterr().out == "PASS  a: yes\nOPEN  b: who knows\nn: 2 verdicts, 0 failed\n"
    content = json.loads((tmp_path / "results" / "n.json").read_text())
    assert (content["ran"], content["gated_out"], content["complete"]) == (5, {"r": 2}, True)
    assert content["rungs"] == [{"rung": "fast", "kernel": "k"}]
    assert content["device"]["capability"] == "12.1"
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["n.json"]


def test_a_failed_verdict_fails_the_notebook_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch)
    book = open_workbook("n")
    book.hold("a", False, "no")
    book.hold("b", True, "yes")
    with pytest.raises(CheckFailed, match="1 of 2 verdicts failed: a"):
        book.close()


def test_without_the_notebook_packages_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['papermill'] = None; sys.modules['papermill.clientwrap'] = None\n"
        "from kernelpkg import validate\n"
        "from kernelpkg.validate import terminal\n"
        "try: validate.run()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("UsageError Running the notebooks needs papermill")


def test_exceptions_have_exit_codes() -> None:
    class OutOfMemoryError(RuntimeError):
        """Named as torch's."""

    problems = [UsageError("x"), NothingRan("x"), MemoryError(), OutOfMemoryError(), ValueError()]
    assert [workbook.code_of(problem) for problem in problems] == [2, 3, 4, 4, 1]
