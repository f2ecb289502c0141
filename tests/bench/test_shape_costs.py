"""What awkward shapes cost, over kernels whose times are made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from kernelpkg import ops
from kernelpkg.bench import shape_costs


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The same comparisons on layers that a CPU multiplies at once."""
    monkeypatch.setattr(shape_costs, "ODD_MS", (1, 17))
    monkeypatch.setattr(shape_costs, "ODD_MS_AT", (128, 64))
    monkeypatch.setattr(shape_costs, "COLUMNS", (((128, 112), (128, 128)),))
    monkeypatch.setattr(shape_costs, "UNALIGNED_N", (((128, 58), (128, 64)),))
    monkeypatch.setattr(shape_costs, "UNALIGNED_K", (((122, 64), (128, 64)),))
    monkeypatch.setattr(shape_costs, "MS", (8,))
    return monkeypatch


def test_the_shapes_are_those_of_the_goal() -> None:
    found = shape_costs.comparisons()
    rows = [one for one in found if one.cost == "rows"]
    assert [one.awkward[0].m for one in rows] == [1, 17, 33, 65, 127, 255, 1001, 4095]
    assert [[call.m for call in one.regular] for one in rows[:2]] == [[4, 8, 16], [20, 24, 32]]
    columns = {(one.awkward[0].shape.n, one.regular[0].shape.n) for one in found if one.cost == "columns"}
    assert columns == {(4080, 4096), (576, 640), (2112, 2176)}
    assert all(up % 128 == 0 and n % 16 == 0 for n, up in columns)
    assert {one.awkward[0].shape.n for one in found if one.cost == "columns % 16"} == {4090}
    unaligned = [one for one in found if one.cost == "K % 16"]
    assert {call.shape.k for one in unaligned for call in one.awkward} == {4090}
    assert [call.how for call in unaligned[0].awkward] == ["copied per call", "weight padded once"]


def test_each_is_compared_with_the_next_multiple_up(small: Any, scaled_mm: Any, stand: Any) -> None:
    def microseconds(m: int, n: int, k: int, configuration: int, b: torch.Tensor) -> float:
        if k == 122:
            return 40.0 if b.stride(1) == 122 else 25.0
        return 20.0 + (m == 17) + 5 * (n == 112) + 20 * (n == 58)

    scaled_mm.microseconds = microseconds
    rows = list(shape_costs.measure(stand, "scaled_mm_sm90"))
    assert {row["variant"] for row in rows} == {"token_channel", "block"}
    assert all(row["correct"]["passed"] and row["reason"] is None for row in rows)
    mine = [row for row in rows if row["variant"] == "block"]
    speeds = {(row["cost"], row["m"], row["next"]["m"], row["how"]): row["speed"] for row in mine}
    assert speeds == {
        ("rows", 1, 4, "in place"): 1.0,
        ("rows", 1, 8, "in place"): 1.0,
        ("rows", 1, 16, "in place"): 1.0,
        ("rows", 17, 20, "in place"): pytest.approx(20 / 21, rel=1e-5),
        ("rows", 17, 24, "in place"): pytest.approx(20 / 21, rel=1e-5),
        ("rows", 17, 32, "in place"): pytest.approx(20 / 21, rel=1e-5),
        ("columns", 8, 8, "in place"): 0.8,
        ("columns % 16", 8, 8, "output copied"): 0.5,
        ("K % 16", 8, 8, "copied per call"): 0.5,
        ("K % 16", 8, 8, "weight padded once"): 0.8,
    }
    last = mine[-1]
    assert (last["n"], last["k"], last["next"]) == (64, 122, {"m": 8, "n": 64, "k": 128})
    only = {row["variant"] for row in shape_costs.measure(stand, "scaled_mm_sm89")}
    assert only == {"token_channel"}


def test_a_weight_is_padded_before_and_not_at_the_call(small: Any, scaled_mm: Any, stand: Any) -> None:
    padded = []
    pad = ops.pad_scaled_mm_weight
    small.setattr(ops, "pad_scaled_mm_weight", lambda b: padded.append(len(scaled_mm.calls)) or pad(b))
    small.setattr(shape_costs, "ODD_MS", ())
    rows = list(shape_costs.measure(stand, "scaled_mm_sm89"))
    assert padded and len([row for row in rows if row["how"] == "weight padded once"]) == 1
    sets = stand.setting(stand.layer(shape_costs.shape_of((122, 64))), 8).sets("scaled_mm", "token_channel")
    assert len(padded) == sets


def test_what_is_refused_or_wrong_has_no_speed(small: Any, scaled_mm: Any, stand: Any) -> None:
    small.setattr(shape_costs, "ODD_MS", (1,))
    scaled_mm.error = lambda m, n, place: ValueError("no such N") if n == 58 else None
    rows = {row["cost"]: row for row in shape_costs.measure(stand, "scaled_mm_sm89")}
    assert rows["columns % 16"]["speed"] is None and rows["columns % 16"]["reason"] == "refused: no such N"
    assert rows["columns % 16"]["correct"]["passed"], "a refusal is no wrong result"
    scaled_mm.error, scaled_mm.factor = lambda *_: None, {-1: 2.0}
    rows = list(shape_costs.measure(stand, "scaled_mm_sm89"))
    assert not any(row["correct"]["passed"] or row["speed"] for row in rows)


def test_it_ends_when_time_does(small: Any, scaled_mm: Any, stand: Any) -> None:
    left = iter([False, False, True])
    ending = replace(stand, ended=lambda: next(left, True))
    rows = list(shape_costs.measure(ending, "scaled_mm_sm89"))
    assert {row["m"] for row in rows} == {1, 17}
