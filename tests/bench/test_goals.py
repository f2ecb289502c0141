"""The speed goals over rows that are made up: which rows count, the worst, the mean, where a peer is from."""

from __future__ import annotations

from typing import Any

import pytest

from kernelpkg import bench
from kernelpkg.bench import goals
from kernelpkg.bench.peers import peer_ratios
from kernelpkg.bench.shapes import VARIANTS, shape_of


def row(kernel: str, shape: str, m: int, percent: float = 95.0, variant: str = "", **ratios: float) -> dict:
    at = shape_of(shape)
    return {
        "kernel": kernel,
        "variant": variant or VARIANTS[kernel][0],
        "shape": at.name,
        "m": m,
        "n": at.n,
        "k": at.k,
        "percent_of_read": percent,
        "ratios": ratios,
        "correct": {"passed": True},
        "label": "measured here, this capability",
    }


def one(rows: list[dict], figure: str, kernel: str, ms: tuple[int, int], machine: str = "") -> dict[str, Any]:
    [goal] = [g for g in goals.GOALS if (g.figure, g.kernel, g.ms) == (figure, kernel, ms)]
    [found] = bench.evaluate(rows, machine, [goal])
    return found


def test_the_goals_are_those_of_the_issue() -> None:
    said = {(g.kernel, g.figure, g.ms, g.worst): g.wanted for g in goals.GOALS}
    assert said == {
        ("marlin_w8a16", "ceiling", (1, 16), True): 90.0,
        ("marlin_w4a16", "ceiling", (1, 16), True): 80.0,
        ("marlin_w8a16", "reference", (1, 16), True): 1.5,
        ("marlin_w4a16", "reference", (1, 16), True): 1.5,
        ("marlin_w8a16", "reference", (1, 64), False): 1.25,
        ("marlin_w4a16", "reference", (1, 64), False): 1.35,
        ("marlin_w8a16", "bf16", (128, 1024), True): 0.75,
        ("marlin_w4a16", "bf16", (128, 1024), True): 0.75,
        ("marlin_w8a16", "bf16", (4096, 4096), True): 0.9,
        ("marlin_w4a16", "bf16", (4096, 4096), True): 0.9,
    }


def test_the_worst_large_layer_counts() -> None:
    rows = [
        row("marlin_w8a16", "8B.gate_up", 16, 92.0),
        row("marlin_w8a16", "70B.down", 1, 90.5),
        row("marlin_w8a16", "8B.o", 1, 40.0),  # small
        row("marlin_w8a16", "8B.gate_up", 64, 20.0),  # many rows
        row("marlin_w8a16", "8B.gate_up", 1, 30.0, "g128"),  # other scales
    ]
    found = one(rows, "ceiling", "marlin_w8a16", (1, 16))
    assert found == {
        "goal": "marlin_w8a16 channel, M <= 16, 4096x28672 and larger",
        "wanted": ">= 90 % of the read ceiling",
        "reached": "90.5 % of the read ceiling",
        "value": 90.5,
        "at": "70B.down M=1",
        "on": "2 row(s): 8B.gate_up, 70B.down; M 1, 16",
        "basis": "read ceiling over the same bytes, same run",
        "met": True,
    }
    rows[1]["percent_of_read"] = 89.9
    assert one(rows, "ceiling", "marlin_w8a16", (1, 16))["met"] is False


def test_the_mean_is_geometric() -> None:
    rows = [
        row("marlin_w4a16", "8B.o", 1, vllm_marlin_w4a16_g128=2.0),
        row("marlin_w4a16", "8B.down", 64, vllm_marlin_w4a16_g128=1.0),
        row("marlin_w4a16", "8B.down", 128, vllm_marlin_w4a16_g128=0.1),
    ]
    found = one(rows, "reference", "marlin_w4a16", (1, 64))
    assert found["value"] == pytest.approx(2**0.5, rel=1e-5) and found["met"] is True
    assert found["at"] == "8B.down M=64" and found["basis"] == "timed in the same run"
    assert found["wanted"] == ">= 1.35 x vLLM, geometric mean"


def test_a_reference_that_was_not_timed_is_inferred_and_says_so() -> None:
    rows = [row("marlin_w8a16", "8B.o", 16, bf16=1.6)]
    found = one(rows, "reference", "marlin_w8a16", (1, 16), "NVIDIA H200")
    ratio = peer_ratios(4096, 4096, 16)["vllm_marlin_w8a16"]
    assert found["value"] == pytest.approx(1.6 * ratio, rel=1e-5)
    assert found["basis"] == "inferred from vLLM 0.22.1's recorded ratios to bf16, not of this run"
    live = [*rows, row("marlin_w8a16", "8B.qkv", 1, bf16=1.6, vllm_marlin_w8a16=1.7)]
    found = one(live, "reference", "marlin_w8a16", (1, 16), "NVIDIA H200")
    assert found["value"] == 1.7 and found["on"] == "1 row(s): 8B.qkv; M 1", "live rows alone"
    spark = one(rows, "reference", "marlin_w8a16", (1, 16), "NVIDIA GB10")
    assert spark["met"] is None and spark["reached"] is None
    assert spark["on"] == "vllm_marlin_w8a16 was not timed, and its recorded ratios are of NVIDIA H200"


def test_goals_without_a_row_are_not_judged_and_others_not_named() -> None:
    found = bench.evaluate([row("marlin_w8a16", "8B.gate_up", 4096, bf16=0.95)])
    assert len(found) == 5 and all("marlin_w8a16" in one["goal"] for one in found)
    judged = {one["goal"]: one["met"] for one in found}
    assert judged["marlin_w8a16 channel, M 4096, all layers"] is True
    assert list(judged.values()).count(None) == 4
    assert bench.evaluate([]) == []


def test_a_wrong_result_misses_its_goal() -> None:
    rows = [row("marlin_w8a16", "8B.gate_up", 16, 95.0), row("marlin_w8a16", "8B.gate_up", 1, 95.0)]
    rows[1]["correct"]["passed"] = False
    found = one(rows, "ceiling", "marlin_w8a16", (1, 16))
    assert (found["reached"], found["at"], found["met"]) == ("wrong result", "8B.gate_up M=1", False)


def test_the_recorded_bench_can_be_judged() -> None:
    report = bench.recorded_report("9.0")
    assert report is not None
    found = bench.evaluate(report.rows, report.machine["name"])
    assert len(found) == len(goals.GOALS) and all(isinstance(one["met"], bool) for one in found)
