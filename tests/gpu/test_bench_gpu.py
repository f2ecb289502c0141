"""The bench on a CUDA device: tiny runs (about a minute on an H200). Skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kernelpkg import bench, ladder
from kernelpkg.bench import records

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none here"),
]


@pytest.fixture(scope="module")
def report() -> Any:
    """One tiny run, shared."""
    return bench.run(size="tiny")


def test_every_row_is_right_and_timed(report: Any) -> None:
    report.raise_for_status()
    assert report.rows and report.not_run == [], report.not_run
    for row in report.rows:
        assert row["correct"]["passed"], row
        spans = row["microseconds"]
        assert spans["p10"] <= spans["median"] <= spans["p90"] and spans["n"] >= 7
        assert spans["launches"] >= 20 and row["peers"]["bf16"] > 0
        assert 0 < row["percent_of_limit"] <= 110, row  # a ceiling that is beaten is no ceiling


def test_ceilings_are_plausible(report: Any) -> None:
    found = report.ceilings
    sheet = bench.projection.device_row(report.machine["name"]).memory_bandwidth / 1e9
    assert 0.5 * sheet < found["read_gbps"] < 1.02 * sheet
    assert 0.4 * sheet < found["copy_gbps"] < 1.02 * sheet
    assert abs(found["read_after_gbps"] / found["read_gbps"] - 1) < 0.15
    assert found["bf16_tflops"] > 0


def test_the_tiny_size_keeps_its_time(report: Any) -> None:
    assert report.seconds < 60


def test_a_record_of_the_run_is_fresh(report: Any, tmp_path: Path) -> None:
    path = records.write("bench", report, tmp_path)
    (record,) = records.read(path)
    assert record.capability == report.machine["capability"]
    assert all(records.stale(record, kernel) is False for kernel in record.kernels)


def test_first_floors_hold_on_hopper(report: Any) -> None:
    if report.machine["capability"] != "9.0":
        pytest.skip("the first floors are about 9.0")
    held = ladder.hold(report.rows, "9.0")
    assert held and all(one.passed for one in held), [str(one) for one in held]


def test_cancel_keeps_the_rows_so_far() -> None:
    rows: list[dict[str, Any]] = []
    found = bench.run(
        kernels=("marlin_w8a16",),
        shapes=("8B.o",),
        ms=(1, 16, 64),
        size="tiny",
        on_row=rows.append,
        cancel=lambda: len(rows) >= 1,
    )
    assert found.cancelled and 1 <= len(found.rows) < 3


def test_live_explain_loads_and_checks() -> None:
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    answers = ladder.by_kernel(ladder.explain(capability, kernels=("marlin_w8a16",), live=True))[
        "marlin_w8a16"
    ]
    assert answers["loads"].status == "pass" and answers["loads"].label.who == "measured here"
    assert answers["correct"].status == "pass" and answers["correct"].label.who == "measured here"
