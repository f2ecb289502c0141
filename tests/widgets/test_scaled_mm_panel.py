"""The tables of scaled_mm's dispatch say what the rows say, and why there is nothing where there is none."""

from __future__ import annotations

from typing import Any

from kernelpkg import bench
from kernelpkg.widgets import scaled_mm_panel, speed_panel


def swept(place: int, microseconds: float | None, **more: Any) -> dict[str, Any]:
    return {
        "kernel": "scaled_mm_sm90",
        "variant": "block",
        "shape": "DSV3.o",
        "m": 64,
        "name": f"tile {place}",
        "configuration": place,
        "microseconds": microseconds,
        "reason": None,
        "chosen": False,
        "best": False,
        "loss": 4.2,
        "label": "recorded (Card, 2026-01-02), this capability",
    } | more


def lines(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if word in line]


def test_the_choice_and_the_best_are_marked() -> None:
    refused = swept(2, None, reason="refused: too large")
    rows = [swept(0, 20.84, chosen=True), swept(1, 20.0, best=True), refused]
    text = scaled_mm_panel.sweep(rows).text
    (chosen,) = lines(text, "tile 0")
    assert "– chosen" in chosen and "4.2" in chosen and "20.8" in chosen
    assert "best" in lines(text, "tile 1")[0] and "4.2" not in lines(text, "tile 1")[0]
    assert "refused: too large" in lines(text, "tile 2")[0]
    assert "recorded (Card, 2026-01-02)" in text
    assert "chose the fastest at 0 of 1 points; the most it lost is 4.2 %" in text
    both = scaled_mm_panel.sweep([swept(0, 20.0, chosen=True, best=True, loss=0.0)]).text
    assert "✓ chosen" in both and "at 1 of 1 points" in both
    assert "nothing to show" in scaled_mm_panel.sweep(rows, "8B.o").html


def test_the_dispatch_table_is_shown_as_it_is() -> None:
    rows = bench.dispatch_rows("scaled_mm_sm120")
    text = scaled_mm_panel.dispatch(rows, "scaled_mm_sm120").text
    for row in rows:
        (line,) = [found for found in text.splitlines() if found.split()[:1] == [str(row["place"])]]
        assert row["configuration"] in line and f"{row['rows']} x {row['columns']}" in line
        assert f"{row['round']:g}" in line.split() and f"{row['step']:g}" in line.split()


def cost(up: int, speed: float | None, **more: Any) -> dict[str, Any]:
    return {
        "kernel": "scaled_mm_sm90",
        "variant": "token_channel",
        "cost": "rows",
        "shape": "8B.o",
        "m": 17,
        "n": 4096,
        "k": 4096,
        "how": "in place",
        "next": {"m": up, "n": 4096, "k": 4096},
        "microseconds": 10.0,
        "next_microseconds": speed and 10.0 * speed,
        "speed": speed,
        "reason": None,
        "label": "measured here, this capability",
    } | more


def test_an_awkward_shape_stands_beside_its_worst_comparison() -> None:
    unknown = cost(4090, None, cost="K % 16", reason="refused: no K")
    text = scaled_mm_panel.costs([cost(20, 1.0), cost(24, 0.8), cost(32, 0.9), unknown]).text
    (line,) = [found for found in lines(text, "17 x 4096 x 4096") if found.startswith("rows")]
    assert "24 x 4096 x 4096" in line and "25.0" in line
    assert "refused: no K" in lines(text, "K % 16")[0]
    assert "by default size" in scaled_mm_panel.costs([]).text


def test_waves_are_labelled_as_projected() -> None:
    row = {
        "device": "GB10",
        "capability": "12.1",
        "kernel": "scaled_mm_sm120",
        "shape": "8B.o",
        "m": 16,
        "configuration": "32x64x128 pingpong",
        "waves": 64 / 48,
        "idle": 33.3,
        "memory_us": 61.8,
        "arithmetic": "1 x 64 tiles of 32x64",
        "label": bench.projection.LABEL,
    }
    text = scaled_mm_panel.waves([row]).text
    assert "projected (nobody measured)" in text and "GB10 (12.1)" in text
    assert " 1.33 " in text and " 33 " in text and "61.8" in text
    assert "run `kernelpkg build`" in scaled_mm_panel.waves([]).text


def test_a_figure_without_a_goal_is_reported() -> None:
    row = {
        "kernel": "scaled_mm_sm90",
        "variant": "block",
        "shape": "DSV3.kv_b",
        "m": 4096,
        "n": 32768,
        "k": 512,
        "percent_of_write": 71.3,
        "label": "measured here, this capability",
    }
    costs = [row | {"cost": "K % 16", "speed": 0.5}, row | {"cost": "rows", "speed": 0.97}]
    text = speed_panel.goals([row], costs=costs).text
    assert "○ reported" in lines(text, "71.3 % of the write limit")[0]
    assert "✓ met" in lines(text, "0.970 of the speed")[0] and "reported" in lines(text, "0.500 of")[0]
