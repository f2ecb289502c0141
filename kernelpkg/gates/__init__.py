"""The gate table: which kernel is admitted where, and why; the build's five layers are generated from it."""

from kernelpkg.gates.agreement import (
    LAYERS,
    Agreement,
    Disagreement,
    LayerAnswer,
    agreement,
    require_agreement,
)
from kernelpkg.gates.mutations import at_least_89, exact_120, mutated, unbounded
from kernelpkg.gates.runtime import (
    capability_of,
    get_marlin_input_dtype,
    has_device_capability,
    is_device_capability,
    is_device_capability_family,
)
from kernelpkg.gates.table import (
    EVIDENCE,
    GATES,
    GUARDS,
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
    "GUARDS",
    "LAYERS",
    "Agreement",
    "Answer",
    "Disagreement",
    "Gate",
    "GateRefusal",
    "LayerAnswer",
    "Range",
    "Refusal",
    "agreement",
    "at_least_89",
    "between",
    "capability_of",
    "exact",
    "exact_120",
    "family",
    "gate",
    "get_marlin_input_dtype",
    "has_device_capability",
    "instances_for",
    "is_device_capability",
    "is_device_capability_family",
    "mutated",
    "require_agreement",
    "unbounded",
]
