"""The sweep of configurations with a made-up dispatch table: who is timed, chosen, best, and what is lost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kernelpkg import bench
from kernelpkg.bench import shapes, sweep
from kernelpkg.errors import NothingRan, UsageError
from kernelpkg.ops import dispatch

SHAPE = shapes.shape_of((256, 192))


def one(place: int, label: str, min_m: int, max_m: int, **more: Any) -> dispatch.Configuration:
    cost = {"rows": 64, "columns": 64, "blocks": 1, "per_sm": 1, "round": 1.0, "step": 1.0, "split": 0.0}
    rest = {
        "dtype": torch.float8_e4m3fn,
        "block_scales": False,
        "shared_memory": 0,
        "standin": False,
    }
    return dispatch.Configuration(
        route="sm90", place=place, name=label, label=label, min_m=min_m, max_m=max_m, **cost | rest | more
    )


TABLE = (
    one(0, "small", 1, 16),
    one(1, "wide", 1, 64),
    one(2, "large", 33, 0),
    one(3, "large", 1, 0, block_scales=True),
    one(2, "large", 1, 0, dtype=torch.float8_e5m2),
)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Dispatch over TABLE: takes `place`, remembers what it was asked."""
    seen = SimpleNamespace(place=0, asked=[])

    def choose(*call: Any, **rest: Any) -> dispatch.Configuration:
        seen.asked.append((*call, rest))
        return next(entry for entry in TABLE if entry.place == seen.place)

    monkeypatch.setattr(dispatch, "configurations", lambda route, standin=False: TABLE)
    monkeypatch.setattr(dispatch, "choose_configuration", choose)
    return seen


def test_each_configuration_that_takes_m_is_timed(table: Any, scaled_mm: Any, stand: Any) -> None:
    scaled_mm.microseconds = lambda m, n, k, configuration, b: {0: 12.0}.get(configuration, 10.0)
    rows = sweep.sweep_point(stand, "scaled_mm_sm90", stand.layer(SHAPE), 16, False)
    assert [(row["configuration"], row["name"], row["microseconds"]) for row in rows] == [
        (0, "small", 12.0),
        (1, "wide", 10.0),
    ]
    assert [(row["chosen"], row["best"]) for row in rows] == [(True, False), (False, True)]
    assert {row["loss"] for row in rows} == {20.0} and rows[0]["label"] == "measured here, this capability"
    rest = {"multiprocessors": 48, "block_scales": False, "standin": False}
    assert table.asked == [("scaled_mm_sm90", 16, 192, 256, rest)]
    table.place = 2
    rows = sweep.sweep_point(stand, "scaled_mm_sm90", stand.layer(SHAPE), 65, False)
    assert [(row["configuration"], row["loss"]) for row in rows] == [(2, 0.0)]


def test_blocks_of_scales_have_configurations_of_their_own(table: Any, scaled_mm: Any, stand: Any) -> None:
    table.place = 3
    (row,) = sweep.sweep_point(stand, "scaled_mm_sm90", stand.layer(SHAPE), 16, True)
    assert (row["configuration"], row["variant"], row["loss"]) == (3, "block", 0.0)
    assert table.asked[0][-1]["block_scales"] is True
    assert sweep.sweep(stand, "scaled_mm_sm89", [("DSV3.o", 64)]) == [], "it takes no blocks"


def test_a_configuration_that_fails_has_a_reason_and_no_time(table: Any, scaled_mm: Any, stand: Any) -> None:
    scaled_mm.error = lambda m, n, place: ValueError("needs more\nmore") if place == 0 else None
    rows = sweep.sweep_point(stand, "scaled_mm_sm90", stand.layer(SHAPE), 16, False)
    assert (rows[0]["microseconds"], rows[0]["reason"], rows[0]["loss"]) == (
        None,
        "refused: needs more",
        None,
    )
    scaled_mm.error, scaled_mm.factor = lambda *_: None, {1: 1.5}
    rows = sweep.sweep_point(stand, "scaled_mm_sm90", stand.layer(SHAPE), 16, False)
    assert rows[1]["microseconds"] is None and rows[1]["reason"].startswith("wrong: relative error 0.5")
    assert rows[0]["best"] and rows[0]["loss"] == 0.0


def test_a_stand_that_ends_is_left(table: Any, scaled_mm: Any, stand: Any) -> None:
    from dataclasses import replace

    assert sweep.sweep(replace(stand, ended=lambda: True), "scaled_mm_sm90", [("8B.o", 16)]) == []


def test_what_cannot_be_swept_is_refused() -> None:
    with pytest.raises(UsageError, match=r"marlin_w8a16.*scaled_mm_sm89, scaled_mm_sm90"):
        bench.sweep_configurations("marlin_w8a16")
    with pytest.raises(UsageError, match="scaled_mm_sm89 takes no blocks of scales"):
        bench.sweep_configurations("scaled_mm_sm89", block_scales=True)
    if not torch.cuda.is_available():
        with pytest.raises(NothingRan, match="Nothing was timed"):
            bench.sweep_configurations()


def test_the_dispatch_table_is_data() -> None:
    rows = bench.dispatch_rows("scaled_mm_sm120")
    assert [row["place"] for row in rows] == list(range(len(rows))) and len(rows) > 1
    assert rows[0]["m"].startswith("1 to ") and rows[0]["rows"] > 0 and rows[0]["round"] > 0
    assert {row["scales"] for row in rows} <= {"vector", "block"}
    with pytest.raises(UsageError, match="those with a dispatch table: scaled_mm_sm89"):
        bench.dispatch_rows("marlin_w8a16")
