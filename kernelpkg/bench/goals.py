"""The speed goals of the kernels, and how far the rows of a bench reach them. Imports no torch.

A goal speaks of one kernel with one kind of scales, of some layers and some numbers of rows M. It names a
figure that each row has (percent of a ceiling, ratio to the best of some peers, TFLOP/s, the cost of an
awkward shape) and the value that figure must reach: in the worst row, or in the geometric mean of all.

A peer is timed in the same run. vLLM's operators may not be at hand: their time then is inferred, the
recorded ratio to bf16 (`peers.peer_table`) times the bf16 time of the same row. That holds for the device the
ratios are of, and is labelled so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kernelpkg.bench.peers import COUNTERPARTS, SAME_SCALES, peer_ratios, peer_table
from kernelpkg.bench.shapes import BLOCK, BLOCKED, VARIANTS, shape_of

# read, write: percent of that ceiling. peers: the time of the fastest of them over ours. cost: the time at
# the next multiple up over that at the awkward shape.
Figure = Literal["read", "write", "peers", "tflops", "cost"]
Row = Mapping[str, Any]

DECODE = 4096 * 28672  # weights of the smallest layer that counts as large
SMALL = {(4096, 4096), (4096, 6144)}  # K, N
LONG = 2048  # K from which a layer with blocks of scales is bound by multiplying, not by writing
ANY_M = (1, 1 << 30)


@dataclass(frozen=True, slots=True)
class Goal:
    """What one kernel is to reach.

    figure: see `Figure`; peers: whose times count for 'peers'. wanted: the value, None where the figure is
    reported alone. worst: the worst row counts, else the geometric mean. layers: of which K and N, with the
    words for them. ms: the first and the last M. scales: the variant it speaks of, the kernel's default where
    it is empty, all of them for 'any'. costs: of 'cost', the kinds of shape that count.
    """

    kernel: str
    figure: Figure
    wanted: float | None
    worst: bool
    layers: Callable[[int, int], bool]
    layers_text: str
    ms: tuple[int, int]
    peers: tuple[str, ...] = ()
    scales: str = ""
    costs: tuple[str, ...] = ()

    @property
    def variant(self) -> str:
        """The scales it speaks of."""
        return self.scales or VARIANTS[self.kernel][0]

    @property
    def text(self) -> str:
        """The goal as a row names it."""
        first, last = self.ms
        rows = f"M {last}" if first == last else f"M <= {last}" if first == 1 else f"M {first} to {last}"
        if last == ANY_M[1]:
            rows = "all M" if first == 1 else f"M >= {first}"
        scales = "all scales" if self.variant == "any" else self.variant
        return f"{self.kernel} {scales}, {rows}, {self.layers_text}"

    @property
    def wanted_text(self) -> str:
        """The value with what it is a value of."""
        if self.wanted is None:
            return f"reported: {self.say('').strip()}"
        return f">= {self.say(f'{self.wanted:g}')}{'' if self.worst else ', geometric mean'}"

    def say(self, value: str) -> str:
        """A value with its unit."""
        if self.figure == "peers":
            return f"{value} of bf16" if self.peers == ("bf16",) else f"{value} x {_best_of(self.peers)}"
        return {
            "read": f"{value} % of the read ceiling",
            "write": f"{value} % of the write limit",
            "tflops": f"{value} TFLOP/s",
            "cost": f"{value} of the speed at the next multiple up",
        }[self.figure]

    def speaks_of(self, row: Row) -> bool:
        """Whether a row is one this goal is about."""
        return (
            row["kernel"] == self.kernel
            and self.variant in ("any", row.get("variant"))
            and self.ms[0] <= row["m"] <= self.ms[1]
            and self.layers(row["k"], row["n"])
            and (self.figure != "cost" or row["cost"] in self.costs)
        )


def _best_of(peers: Sequence[str]) -> str:
    names = ["vLLM" if name.startswith("vllm") else name for name in peers]
    return names[0] if len(names) == 1 else f"the best of {', '.join(names)}"


def _every(k: int, n: int) -> bool:
    return True


def _large(k: int, n: int) -> bool:
    return k * n >= DECODE


def _small(k: int, n: int) -> bool:
    return (k, n) in SMALL


def _deepseek(k: int, n: int) -> bool:
    return shape_of((k, n)).name in BLOCKED


def _long(k: int, n: int) -> bool:
    return k >= LONG and _deepseek(k, n)


def _short(k: int, n: int) -> bool:
    return k < LONG and _deepseek(k, n)


_LARGE, _SMALL, _ALL = "4096x28672 and larger", "4096x4096 and 4096x6144", "all layers"

_MARLIN = ("marlin_w8a16", "marlin_w4a16")
MARLIN_GOALS: tuple[Goal, ...] = (
    *(
        Goal(kernel, "read", wanted, True, _large, _LARGE, (1, 16))
        for kernel, wanted in zip(_MARLIN, (90.0, 80.0), strict=True)
    ),
    *(Goal(name, "peers", 1.5, True, _small, _SMALL, (1, 16), (COUNTERPARTS[name],)) for name in _MARLIN),
    *(
        Goal(kernel, "peers", wanted, False, _every, _ALL, (1, 64), (COUNTERPARTS[kernel],))
        for kernel, wanted in zip(_MARLIN, (1.25, 1.35), strict=True)
    ),
    *(
        Goal(kernel, "peers", wanted, True, _every, _ALL, ms, ("bf16",))
        for wanted, ms in ((0.75, (128, 1024)), (0.9, (4096, 4096)))
        for kernel in _MARLIN
    ),
)

_SM90 = "scaled_mm_sm90"
_ROW_AND_VLLM = ("scaled_mm_row", "vllm_cutlass")
_DECODE, _PREFILL = (1, 64), (128, ANY_M[1])
SCALED_MM_GOALS: tuple[Goal, ...] = (
    Goal(_SM90, "peers", 1.05, False, _every, _ALL, _DECODE, ("scaled_mm_tensor", *_ROW_AND_VLLM)),
    Goal(_SM90, "read", 90.0, True, _large, _LARGE, _DECODE),
    Goal(_SM90, "peers", 1.0, False, _every, _ALL, _PREFILL, _ROW_AND_VLLM),
    Goal(_SM90, "peers", 0.95, True, _every, _ALL, _PREFILL, _ROW_AND_VLLM),
    Goal(_SM90, "peers", 1.0, False, _every, _ALL, ANY_M, (SAME_SCALES["tensor"],), "tensor"),
    Goal(_SM90, "tflops", 1050.0, False, _long, "DeepSeek-V3, K >= 2048", (4096, 4096), scales=BLOCK),
    Goal(_SM90, "write", None, True, _short, "DeepSeek-V3, K < 2048", (4096, 4096), scales=BLOCK),
    Goal(
        *(_SM90, "cost", 0.95, True, _every, "odd M and N % 128", ANY_M),
        scales="any",
        costs=("rows", "columns"),
    ),
    Goal(
        *(_SM90, "cost", None, True, _every, "K % 16 and N % 16", ANY_M),
        scales="any",
        costs=("columns % 16", "K % 16"),
    ),
)

GOALS: tuple[Goal, ...] = (*MARLIN_GOALS, *SCALED_MM_GOALS)


def evaluate(
    rows: Iterable[Row], machine: str = "", goals: Sequence[Goal] = GOALS, costs: Iterable[Row] = ()
) -> list[dict[str, Any]]:
    """One row for each goal of a kernel that `rows` have: goal, wanted, reached, at, on, basis, met.

    machine: the device's name. costs: the rows of `shape_costs`. reached: the value in words, and in `value`
    as a number; None where no row speaks of the goal. at: the layer and M of the worst row. on: how many
    rows, of which layers and M. basis: where a peer's time is from. met: None where nothing was reached, or
    nothing is wanted.
    """
    rows, costs = list(rows), list(costs)
    known = {row["kernel"] for row in rows}
    return [
        _judge(goal, costs if goal.figure == "cost" else rows, machine)
        for goal in goals
        if goal.kernel in known
    ]


def _judge(goal: Goal, rows: Sequence[Row], machine: str) -> dict[str, Any]:
    spoken = [row for row in rows if goal.speaks_of(row)]
    figures, basis = _figures(goal, spoken, machine)
    found: dict[str, Any] = {"goal": goal.text, "wanted": goal.wanted_text}
    none: dict[str, Any] = {"reached": None, "value": None, "at": None, "basis": None, "met": None}
    if wrong := [row for row in spoken if row.get("correct") and not row["correct"]["passed"]]:
        return (
            found
            | none
            | {"reached": "wrong result", "at": _at(wrong[0]), "on": _places(wrong), "met": False}
        )
    if not figures:
        return found | none | {"on": basis if spoken else "no row of these layers and M"}
    worst, value = min(figures, key=lambda pair: pair[1])
    if not goal.worst:
        value = math.exp(math.fsum(math.log(one) for _, one in figures) / len(figures))
    return found | {
        # Digits enough that what misses a goal by little does not read like it.
        "reached": goal.say(f"{value:.3f}" if goal.figure in ("peers", "cost") else f"{value:.1f}"),
        "value": float(f"{value:.6g}"),
        "at": _at(worst),
        "on": _places([row for row, _ in figures]),
        "basis": basis,
        "met": None if goal.wanted is None else value >= goal.wanted,
    }


_SAME_RUN = {
    "read": ("percent_of_read", "read ceiling over the same bytes, same run"),
    "write": ("percent_of_write", "write ceiling of the same run"),
    "tflops": ("tflops", "2 M N K over the time"),
    "cost": ("speed", "both timed in turn, same run"),
}


def _figures(goal: Goal, rows: Sequence[Row], machine: str) -> tuple[list[tuple[Row, float]], str]:
    """(the rows with their figure, where it is from, or why there is none)."""
    if goal.figure == "peers":
        return _ratios(goal.peers, rows, machine)
    name, basis = _SAME_RUN[goal.figure]
    return [(row, value) for row in rows if (value := row.get(name))], basis


def _ratios(peers: Sequence[str], rows: Sequence[Row], machine: str) -> tuple[list[tuple[Row, float]], str]:
    """The rows with the ratio to the fastest of `peers`, each of which has to have a time."""
    ratios = [(row, {name: _ratio(row, name) for name in peers}) for row in rows]
    live = [(row, min(found.values())) for row, found in ratios if all(found.values())]
    absent = [name for name in peers if not any(found[name] for _, found in ratios)]
    if live or not absent or any(name not in COUNTERPARTS.values() for name in absent):
        return live, "timed in the same run" if live else f"{' and '.join(absent or peers)} was not timed"
    table = peer_table()
    if table["machine"] not in machine:
        return [], f"{' and '.join(absent)} was not timed, and its recorded ratios are of {table['machine']}"
    inferred = []
    for row, found in ratios:
        base = _ratio(row, "bf16")  # bf16 over ours
        theirs = peer_ratios(row["k"], row["n"], row["m"])  # over bf16
        if base:
            found = found | {name: base * theirs[name] for name in absent if name in theirs}
        if all(found.values()):
            inferred.append((row, min(found.values())))
    basis = f"inferred from vLLM {table['vllm']}'s recorded ratios to bf16, not of this run"
    return inferred, basis if len(absent) == len(peers) else f"vLLM {basis}; the others timed in it"


def _ratio(row: Row, name: str) -> float | None:
    return (row.get("ratios") or {}).get(name)


def _at(row: Row) -> str:
    return f"{row['shape']} M={row['m']}"


def _places(rows: Sequence[Row]) -> str:
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    ms = sorted({row["m"] for row in rows})
    return f"{len(rows)} row(s): {', '.join(shapes)}; M {', '.join(map(str, ms))}"
