"""The gate table: which kernel is admitted where, and why; the build's five layers are generated from it."""

from kernelpkg.gates.table import (
    EVIDENCE,
    GATES,
    Answer,
    Gate,
    GateRefusal,
    Range,
    Refusal,
    between,
    exact,
    family,
    gate,
    instances_for,
)

__all__ = [
    "EVIDENCE",
    "GATES",
    "Answer",
    "Gate",
    "GateRefusal",
    "Range",
    "Refusal",
    "between",
    "exact",
    "family",
    "gate",
    "instances_for",
]
