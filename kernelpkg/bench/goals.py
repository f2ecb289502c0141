"""The speed goals of the Marlin kernels, and how far the rows of a bench reach them. Imports no torch.

A goal speaks of one kernel and its default scales, of some layers and some numbers of rows M. It names a
figure that each row has (percent of the read ceiling over the same bytes, ratio to a peer of the same run)
and the value that figure must reach: in the worst row, or in the geometric mean of all.

The reference is vLLM's operator of the same work. Where it was timed in the run, its own time counts. Where
it was not, its time is inferred: its recorded ratio to bf16 (`peers.peer_table`) times the bf16 time of the
same row. That holds for the device the ratios are of, and is labelled so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kernelpkg.bench.peers import COUNTERPARTS, peer_ratios, peer_table
from kernelpkg.bench.shapes import VARIANTS

Figure = Literal["ceiling", "reference", "bf16"]
Row = Mapping[str, Any]

DECODE = 4096 * 28672  # weights of the smallest layer that counts as large
SMALL = {(4096, 4096), (4096, 6144)}  # K, N


@dataclass(frozen=True, slots=True)
class Goal:
    """What one kernel is to reach.

    figure: 'ceiling' (percent_of_read), 'reference' or 'bf16' (the peer's time over ours). worst: the worst
    row counts, else the geometric mean. layers: of which K and N, with the words for them. ms: the first and
    the last M.
    """

    kernel: str
    figure: Figure
    wanted: float
    worst: bool
    layers: Callable[[int, int], bool]
    layers_text: str
    ms: tuple[int, int]

    @property
    def variant(self) -> str:
        """The scales it speaks of."""
        return VARIANTS[self.kernel][0]

    @property
    def text(self) -> str:
        """The goal as a row names it."""
        first, last = self.ms
        rows = f"M {last}" if first == last else f"M <= {last}" if first == 1 else f"M {first} to {last}"
        return f"{self.kernel} {self.variant}, {rows}, {self.layers_text}"

    @property
    def wanted_text(self) -> str:
        """The value with what it is a value of."""
        return f">= {self.say(f'{self.wanted:g}')}{'' if self.worst else ', geometric mean'}"

    def say(self, value: str) -> str:
        """A value with its unit."""
        return {
            "ceiling": f"{value} % of the read ceiling",
            "reference": f"{value} x vLLM",
            "bf16": f"{value} of bf16",
        }[self.figure]


def _every(k: int, n: int) -> bool:
    return True


def _large(k: int, n: int) -> bool:
    return k * n >= DECODE


def _small(k: int, n: int) -> bool:
    return (k, n) in SMALL


_LARGE, _SMALL, _ALL = "4096x28672 and larger", "4096x4096 and 4096x6144", "all layers"

GOALS: tuple[Goal, ...] = (
    Goal("marlin_w8a16", "ceiling", 90.0, True, _large, _LARGE, (1, 16)),
    Goal("marlin_w4a16", "ceiling", 80.0, True, _large, _LARGE, (1, 16)),
    *(
        Goal(kernel, "reference", 1.5, True, _small, _SMALL, (1, 16))
        for kernel in ("marlin_w8a16", "marlin_w4a16")
    ),
    Goal("marlin_w8a16", "reference", 1.25, False, _every, _ALL, (1, 64)),
    Goal("marlin_w4a16", "reference", 1.35, False, _every, _ALL, (1, 64)),
    *(
        Goal(kernel, "bf16", wanted, True, _every, _ALL, ms)
        for wanted, ms in ((0.75, (128, 1024)), (0.9, (4096, 4096)))
        for kernel in ("marlin_w8a16", "marlin_w4a16")
    ),
)


def evaluate(rows: Iterable[Row], machine: str = "", goals: Sequence[Goal] = GOALS) -> list[dict[str, Any]]:
    """One row for each goal of a kernel that `rows` have: goal, wanted, reached, at, on, basis, met.

    machine: the device's name. reached: the value in words, and in `value` as a number; None where no row
    speaks of the goal. at: the layer and M of the worst row. on: how many rows, of which layers and M. basis:
    where a reference's time is from. met: None where nothing was reached.
    """
    rows = list(rows)
    known = {row["kernel"] for row in rows}
    return [_judge(goal, rows, machine) for goal in goals if goal.kernel in known]


def _judge(goal: Goal, rows: Sequence[Row], machine: str) -> dict[str, Any]:
    spoken = [
        row
        for row in rows
        if row["kernel"] == goal.kernel
        and row.get("variant") == goal.variant
        and goal.ms[0] <= row["m"] <= goal.ms[1]
        and goal.layers(row["k"], row["n"])
    ]
    figures, basis = _figures(goal, spoken, machine)
    found: dict[str, Any] = {"goal": goal.text, "wanted": goal.wanted_text}
    none: dict[str, Any] = {"reached": None, "value": None, "at": None, "basis": None, "met": None}
    if wrong := [row for row in spoken if row.get("correct") and not row["correct"]["passed"]]:
        at = f"{wrong[0]['shape']} M={wrong[0]['m']}"
        return found | none | {"reached": "wrong result", "at": at, "on": _places(wrong), "met": False}
    if not figures:
        return found | none | {"on": basis if spoken else "no row of these layers and M"}
    worst, value = min(figures, key=lambda pair: pair[1])
    if not goal.worst:
        value = math.exp(math.fsum(math.log(one) for _, one in figures) / len(figures))
    return found | {
        # Digits enough that what misses a goal by little does not read like it.
        "reached": goal.say(f"{value:.1f}" if goal.figure == "ceiling" else f"{value:.3f}"),
        "value": float(f"{value:.6g}"),
        "at": f"{worst['shape']} M={worst['m']}",
        "on": _places([row for row, _ in figures]),
        "basis": basis,
        "met": value >= goal.wanted,
    }


def _figures(goal: Goal, rows: Sequence[Row], machine: str) -> tuple[list[tuple[Row, float]], str]:
    """(the rows with their figure, where it is from, or why there is none)."""
    if goal.figure == "ceiling":
        found = [(row, row.get("percent_of_read")) for row in rows]
        return [(row, value) for row, value in found if value], "read ceiling over the same bytes, same run"
    name = "bf16" if goal.figure == "bf16" else COUNTERPARTS[goal.kernel]
    live = [(row, value) for row in rows if (value := (row.get("ratios") or {}).get(name))]
    if live or name == "bf16":
        return live, "timed in the same run"
    table = peer_table()
    if table["machine"] not in machine:
        return [], f"{name} was not timed, and its recorded ratios are of {table['machine']}"
    inferred = []
    for row in rows:
        base = (row.get("ratios") or {}).get("bf16")  # bf16 over ours
        theirs = peer_ratios(row["k"], row["n"], row["m"]).get(name)  # theirs over bf16
        if base and theirs:
            inferred.append((row, base * theirs))
    return inferred, f"inferred from vLLM {table['vllm']}'s recorded ratios to bf16, not of this run"


def _places(rows: Sequence[Row]) -> str:
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    ms = sorted({row["m"] for row in rows})
    return f"{len(rows)} row(s): {', '.join(shapes)}; M {', '.join(map(str, ms))}"
