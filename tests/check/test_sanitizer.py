"""What compute-sanitizer's output is read as: clean only where it ran, saw cases and found nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kernelpkg.binaries import find_tool
from kernelpkg.check import sanitizer
from kernelpkg.errors import CheckFailed, NothingRan, UsageError

WORKLOAD = "WORKLOAD " + json.dumps(
    {"ran": {"marlin_w8a16": 7}, "passed": True, "summary": "ran 7, gated out 0", "machine": {"name": "X"}}
)


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [
        (f"========= COMPUTE-SANITIZER\n{WORKLOAD}\n========= ERROR SUMMARY: 0 errors\n", 0, "clean"),
        (
            f"========= COMPUTE-SANITIZER\n{WORKLOAD}\n========= RACECHECK SUMMARY: 0 hazards displayed\n",
            0,
            "clean",
        ),
        (
            f"{WORKLOAD}\n========= Invalid __global__ read of size 4\n========= ERROR SUMMARY: 3 errors\n",
            86,
            "errors",
        ),
        (f"{WORKLOAD}\n========= RACECHECK SUMMARY: 1 hazard displayed (1 error)\n", 86, "errors"),
        ("========= COMPUTE-SANITIZER\n========= Error: Device not supported\n", 1, "not run"),
        # It watched nothing: the workload never said what it ran.
        ("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n", 0, "not run"),
        # The cases ran, but not under the tool.
        (f"========= Error: cannot attach\n{WORKLOAD}\n", 0, "not run"),
        ("", -11, "not run"),
    ],
)
def test_reading(text: str, code: int, status: str):
    assert sanitizer.read_output(text, code)[0] == status


def test_wrong_numbers_are_not_clean():
    text = WORKLOAD.replace('"passed": true', '"passed": false') + "\n========= ERROR SUMMARY: 0 errors\n"
    assert sanitizer.read_output(text, 0)[0] == "errors"


def fake_tool(folder: Path, script: str) -> Path:
    tool = folder / "bin" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n" + script)
    tool.chmod(0o755)
    return tool


def test_a_tool_that_refuses_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool = fake_tool(tmp_path, "echo '========= Error: the driver refused'; exit 1\n")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert find_tool("compute-sanitizer") == tool
    report = sanitizer.sanitize(kernels=["marlin_w8a16"])
    assert [(row["tool"], row["status"]) for row in report.rows] == [
        ("memcheck", "not run"),
        ("racecheck", "not run"),
    ]
    with pytest.raises(NothingRan, match="the driver refused"):
        report.raise_for_status()


def test_errors_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake_tool(tmp_path, f"echo '{WORKLOAD}'; echo '========= ERROR SUMMARY: 2 errors'; exit 86\n")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    report = sanitizer.sanitize(tools=["memcheck"], kernels=["marlin_w8a16", "scaled_mm_sm89"])
    assert [row["kernel"] for row in report.rows] == ["marlin_w8a16"]
    with pytest.raises(CheckFailed):
        report.raise_for_status()


def test_an_unknown_tool_is_refused():
    with pytest.raises(UsageError, match="memcheck"):
        sanitizer.sanitize(tools=["valgrind"])
