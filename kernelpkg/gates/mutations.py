"""Broken copies of the gate table: the faults that shipped in this field, for showing that they are found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kernelpkg.arch.capability import Capability
from kernelpkg.arch.target import Target, parse_targets
from kernelpkg.errors import UsageError
from kernelpkg.gates.table import GATES, Gate, Range, exact


def mutated(
    gate_id: str,
    *,
    admits: Iterable[Range] | None = None,
    ships: Iterable[object] | None = None,
    gates: Sequence[Gate] = GATES,
) -> tuple[Gate, ...]:
    """A copy of the table in which one gate admits or ships something else.

    Raises UsageError for an unknown gate.
    """
    if gate_id not in {gate.id for gate in gates}:
        raise UsageError(
            f"no gate is called {gate_id!r}; the gates are {', '.join(gate.id for gate in gates)}"
        )
    changes: dict[str, tuple[Range, ...] | tuple[Target, ...]] = {}
    if admits is not None:
        changes["admits"] = tuple(admits)
    if ships is not None:
        changes["ships"] = parse_targets(ships)
    return tuple(replace(gate, **changes) if gate.id == gate_id else gate for gate in gates)


def exact_120(gate_id: str = "scaled_mm_sm120", gates: Sequence[Gate] = GATES) -> tuple[Gate, ...]:
    """The fault that shut GB10 out: exactly 12.0 where family 12 was meant, 12.0a code where 12.0f was."""
    gate = next((one for one in gates if one.id == gate_id), gates[0])
    narrowed = [exact("12.0") if Capability(12, 0) in part else part for part in gate.admits]
    ships = [Target.parse("12.0a") if str(target) == "12.0f" else target for target in gate.ships]
    return mutated(gate_id, admits=narrowed, ships=ships, gates=gates)


def unbounded(gate_id: str = "scaled_mm_sm120", gates: Sequence[Gate] = GATES) -> tuple[Gate, ...]:
    """The opposite fault, an unbounded `>= 12.0`: it lets in families that do not exist yet.

    In the lists of targets that is 13.0 code. No toolkit makes it yet, so a guard broken this way cannot
    be compiled: that layer then counts as not asked. `at_least_89` is the fault to show there.
    """
    gate = next((one for one in gates if one.id == gate_id), gates[0])
    widened = [
        Range(part.low, Capability(99, 9)) if Capability(12, 0) in part else part for part in gate.admits
    ]
    return mutated(gate_id, admits=widened, ships=(*gate.ships, "13.0"), gates=gates)


def at_least_89(gate_id: str = "marlin_fp8", gates: Sequence[Gate] = GATES) -> tuple[Gate, ...]:
    """FP8 'from 8.9 up': lets Hopper and family 10 run the emulated form without being asked."""
    return mutated(
        gate_id,
        admits=(Range(Capability(8, 9), Capability(13, 0)),),
        ships=("8.9", "9.0a", "10.0f", "11.0", "12.0f"),
        gates=gates,
    )
