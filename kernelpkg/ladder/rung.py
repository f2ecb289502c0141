"""A rung's answer: status, one sentence of reason, the evidence, and a label of two parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

RUNGS = ("admitted", "built", "loads", "correct", "fast")
STATUSES = ("pass", "fail", "unproved")

MEASURED = "measured here"
PROJECTED = "nobody (projected)"
GATE_TABLE = "nobody (gate table)"
LOADING_RULE = "nobody (loading rule)"
THIS = "this capability"
STANDIN = "stand-in"


@dataclass(frozen=True, slots=True)
class Label:
    """Who measured, and on what.

    who: 'measured here', 'recorded (MACHINE, DATE)', or 'nobody (...)' where it is arithmetic alone. on_what:
    'this capability', 'sibling X.Y' running the same code, or 'stand-in' (Hopper running another generation's
    source).
    """

    who: str
    on_what: str

    def __str__(self) -> str:
        return f"{self.who}, {self.on_what}"

    @property
    def level(self) -> int:
        """How near it is to the device asked about: 3 this capability, 2 sibling, 1 stand-in, 0 nobody
        measured.
        """
        if self.who.startswith("nobody"):
            return 0
        return {THIS: 3, STANDIN: 1}.get(self.on_what, 2)


@dataclass(frozen=True, slots=True)
class Rung:
    """One answer of the ladder for (kernel, capability, rung). capability reads like '12.1'.

    status: 'pass', 'fail' or 'unproved'. reason: one sentence. evidence: what it rests on, JSON types only.
    """

    kernel: str
    capability: str
    rung: str
    status: str
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)
    label: Label = Label(PROJECTED, THIS)

    def __post_init__(self) -> None:
        if self.rung not in RUNGS or self.status not in STATUSES:
            raise ValueError(
                f"rung {self.rung!r} with status {self.status!r}: not one of {RUNGS}, {STATUSES}"
            )

    def as_row(self) -> dict[str, Any]:
        """The row of `explain --json`: kernel, capability, rung, status, label, reason."""
        return {
            "kernel": self.kernel,
            "capability": self.capability,
            "rung": self.rung,
            "status": self.status,
            "label": str(self.label),
            "reason": self.reason,
        }


def word(rung: str, status: str) -> str:
    """A status as people read it: a gate that does not admit a device has refused it."""
    return "refused" if (rung, status) == ("admitted", "fail") else status


def elsewhere(status: str, label: Label | str) -> str | None:
    """'stand-in' or 'sibling' where a rung passed on another device's run, which no table may hide."""
    on_what = str(label).rpartition(", ")[2]
    return on_what.partition(" ")[0] if status == "pass" and on_what != THIS else None


def by_kernel(rungs: Iterable[Rung]) -> dict[str, dict[str, Rung]]:
    """kernel -> rung name -> rung, in the order given."""
    found: dict[str, dict[str, Rung]] = {}
    for rung in rungs:
        found.setdefault(rung.kernel, {})[rung.rung] = rung
    return found
