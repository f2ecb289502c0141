"""The speed goals over rows that are made up: which rows count, the worst, the mean, where a peer is from."""

from __future__ import annotations

from typing import Any

import pytest

from kernelpkg import bench
from kernelpkg.bench import goals
from kernelpkg.bench.peers import COUNTERPARTS, peer_ratios
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
    peers = {"vLLM": (COUNTERPARTS[kernel],), "bf16": ("bf16",)}.get(figure, ())
    figure = "peers" if peers else figure
    said = [(g.figure, g.kernel, g.ms, g.peers) for g in goals.MARLIN_GOALS]
    goal = goals.MARLIN_GOALS[said.index((figure, kernel, ms, peers))]
    [found] = bench.evaluate(rows, machine, [goal])
    return found


def test_the_goals_are_those_of_the_issue() -> None:
    said = {(g.kernel, g.figure, g.peers, g.ms, g.worst): g.wanted for g in goals.MARLIN_GOALS}
    w8, w4 = ("vllm_marlin_w8a16",), ("vllm_marlin_w4a16_g128",)
    assert said == {
        ("marlin_w8a16", "read", (), (1, 16), True): 90.0,
        ("marlin_w4a16", "read", (), (1, 16), True): 80.0,
        ("marlin_w8a16", "peers", w8, (1, 16), True): 1.5,
        ("marlin_w4a16", "peers", w4, (1, 16), True): 1.5,
        ("marlin_w8a16", "peers", w8, (1, 64), False): 1.25,
        ("marlin_w4a16", "peers", w4, (1, 64), False): 1.35,
        ("marlin_w8a16", "peers", ("bf16",), (128, 1024), True): 0.75,
        ("marlin_w4a16", "peers", ("bf16",), (128, 1024), True): 0.75,
        ("marlin_w8a16", "peers", ("bf16",), (4096, 4096), True): 0.9,
        ("marlin_w4a16", "peers", ("bf16",), (4096, 4096), True): 0.9,
    }
    texts = {(g.text.removeprefix("scaled_mm_sm90 "), g.wanted_text) for g in goals.SCALED_MM_GOALS}
    best = "the best of scaled_mm_row, vLLM"
    assert texts == {
        (
            "token_channel, M <= 64, all layers",
            ">= 1.05 x the best of scaled_mm_tensor, scaled_mm_row, vLLM, geometric mean",
        ),
        ("token_channel, M <= 64, 4096x28672 and larger", ">= 90 % of the read ceiling"),
        ("token_channel, M >= 128, all layers", f">= 1 x {best}, geometric mean"),
        ("token_channel, M >= 128, all layers", f">= 0.95 x {best}"),
        ("tensor, all M, all layers", ">= 1 x scaled_mm_tensor, geometric mean"),
        ("block, M 4096, DeepSeek-V3, K >= 2048", ">= 1050 TFLOP/s, geometric mean"),
        ("block, M 4096, DeepSeek-V3, K < 2048", "reported: % of the write limit"),
        ("all scales, all M, odd M and N % 128", ">= 0.95 of the speed at the next multiple up"),
        ("all scales, all M, K % 16 and N % 16", "reported: of the speed at the next multiple up"),
    }


def test_the_worst_large_layer_counts() -> None:
    rows = [
        row("marlin_w8a16", "8B.gate_up", 16, 92.0),
        row("marlin_w8a16", "70B.down", 1, 90.5),
        row("marlin_w8a16", "8B.o", 1, 40.0),  # small
        row("marlin_w8a16", "8B.gate_up", 64, 20.0),  # many rows
        row("marlin_w8a16", "8B.gate_up", 1, 30.0, "g128"),  # other scales
    ]
    found = one(rows, "read", "marlin_w8a16", (1, 16))
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
    assert one(rows, "read", "marlin_w8a16", (1, 16))["met"] is False


def test_the_mean_is_geometric() -> None:
    rows = [
        row("marlin_w4a16", "8B.o", 1, vllm_marlin_w4a16_g128=2.0),
        row("marlin_w4a16", "8B.down", 64, vllm_marlin_w4a16_g128=1.0),
        row("marlin_w4a16", "8B.down", 128, vllm_marlin_w4a16_g128=0.1),
    ]
    found = one(rows, "vLLM", "marlin_w4a16", (1, 64))
    assert found["value"] == pytest.approx(2**0.5, rel=1e-5) and found["met"] is True
    assert found["at"] == "8B.down M=64" and found["basis"] == "timed in the same run"
    assert found["wanted"] == ">= 1.35 x vLLM, geometric mean"


def test_a_reference_that_was_not_timed_is_inferred_and_says_so() -> None:
    rows = [row("marlin_w8a16", "8B.o", 16, bf16=1.6)]
    found = one(rows, "vLLM", "marlin_w8a16", (1, 16), "NVIDIA H200")
    ratio = peer_ratios(4096, 4096, 16)["vllm_marlin_w8a16"]
    assert found["value"] == pytest.approx(1.6 * ratio, rel=1e-5)
    assert found["basis"] == "inferred from vLLM 0.22.1's recorded ratios to bf16, not of this run"
    live = [*rows, row("marlin_w8a16", "8B.qkv", 1, bf16=1.6, vllm_marlin_w8a16=1.7)]
    found = one(live, "vLLM", "marlin_w8a16", (1, 16), "NVIDIA H200")
    assert found["value"] == 1.7 and found["on"] == "1 row(s): 8B.qkv; M 1", "live rows alone"
    spark = one(rows, "vLLM", "marlin_w8a16", (1, 16), "NVIDIA GB10")
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
    found = one(rows, "read", "marlin_w8a16", (1, 16))
    assert (found["reached"], found["at"], found["met"]) == ("wrong result", "8B.gate_up M=1", False)


def test_the_recorded_bench_can_be_judged() -> None:
    report = bench.recorded_report("9.0")
    assert report is not None
    found = bench.evaluate(report.rows, report.machine["name"])
    assert len(found) == len(goals.GOALS)
    assert all(isinstance(one["met"], bool) for one in found if "marlin" in one["goal"])


def of_sm90(shape: str, m: int, variant: str = "token_channel", **more: Any) -> dict[str, Any]:
    """A row of scaled_mm_sm90, all peers twice as slow but those given."""
    ratios = {"scaled_mm_tensor": 2.0, "scaled_mm_row": 2.0, "vllm_cutlass": 2.0} | more.pop("ratios", {})
    return row("scaled_mm_sm90", shape, m, variant=variant) | {"ratios": ratios} | more


def judged(rows: list[dict], costs: Any = (), machine: str = "") -> list[dict[str, Any]]:
    return bench.evaluate(rows, machine, goals.SCALED_MM_GOALS, costs)


def test_the_fastest_peer_of_each_row_counts() -> None:
    rows = [
        of_sm90("8B.o", 16, ratios={"scaled_mm_tensor": 0.5}),
        of_sm90("8B.o", 64, ratios={"vllm_cutlass": 0.72}),
        of_sm90("8B.o", 128, ratios={"scaled_mm_tensor": 0.1, "scaled_mm_row": 0.96}),
        of_sm90("8B.o", 4096, ratios={"vllm_cutlass": 1.5}),
        of_sm90("8B.o", 16, "tensor", ratios={"scaled_mm_tensor": 0.9}),
        of_sm90("8B.o", 4096, "tensor", ratios={"scaled_mm_tensor": 1.6}),
    ]
    decode, _, prefill, floor, tensor, *_ = judged(rows)
    assert decode["value"] == pytest.approx(0.6) and decode["at"] == "8B.o M=16" and decode["met"] is False
    assert prefill["value"] == pytest.approx(1.2) and prefill["met"] is True
    assert floor["value"] == 0.96 and floor["at"] == "8B.o M=128" and floor["met"] is True
    assert tensor["value"] == pytest.approx(1.2) and tensor["on"] == "2 row(s): 8B.o; M 16, 4096"


def test_a_best_of_peers_needs_them_all() -> None:
    absent = [of_sm90("8B.o", 16, ratios={"vllm_cutlass": None, "bf16": 1.7, "scaled_mm_tensor": 1.0})]
    assert judged(absent)[0]["reached"] is None
    assert judged(absent)[0]["on"] == "vllm_cutlass was not timed, and its recorded ratios are of NVIDIA H200"
    inferred = judged(absent, machine="NVIDIA H200")[0]
    theirs = 1.7 * peer_ratios(4096, 4096, 16)["vllm_cutlass"]
    assert inferred["value"] == pytest.approx(min(1.0, theirs), rel=1e-5)
    assert inferred["basis"].startswith("vLLM inferred from") and "timed in it" in inferred["basis"]
    missing = [of_sm90("8B.o", 16, "tensor", ratios={"scaled_mm_tensor": None})]
    assert judged(missing)[4]["on"] == "scaled_mm_tensor was not timed"


def test_blocks_are_judged_by_what_binds_them() -> None:
    rows = [
        of_sm90("DSV3.o", 4096, "block", tflops=1000.0, percent_of_write=3.0),
        of_sm90("DSV3.down", 4096, "block", tflops=1210.0),
        of_sm90("DSV3.o", 64, "block", tflops=10.0),
        of_sm90("DSV3.kv_b", 4096, "block", tflops=200.0, percent_of_write=64.2),
        of_sm90("8B.o", 4096, "block", tflops=1.0),
    ]
    *_, blocks, written, _, _ = judged(rows)
    assert blocks["value"] == pytest.approx(1100.0) and blocks["met"] is True
    assert blocks["reached"] == "1100.0 TFLOP/s" and blocks["on"].startswith("2 row(s): DSV3.o, DSV3.down")
    assert (written["reached"], written["at"]) == ("64.2 % of the write limit", "DSV3.kv_b M=4096")
    assert written["met"] is None, "it is reported, not judged"


def test_what_awkward_shapes_cost_is_judged_where_a_goal_is_set() -> None:
    def cost(kind: str, speed: float | None, variant: str = "block") -> dict[str, Any]:
        return of_sm90("8B.o", 17, variant, cost=kind, speed=speed)

    costs = [cost("rows", 0.99), cost("columns", 0.94, "token_channel"), cost("K % 16", 0.5)]
    *_, regular, copied = judged([of_sm90("8B.o", 16)], [*costs, cost("rows", None)])
    assert regular["value"] == 0.94 and regular["met"] is False
    assert regular["on"] == "2 row(s): 8B.o; M 17"
    assert copied["reached"] == "0.500 of the speed at the next multiple up" and copied["met"] is None
    costs[0]["correct"] = {"passed": False}
    assert judged([of_sm90("8B.o", 16)], costs)[-2]["reached"] == "wrong result"
