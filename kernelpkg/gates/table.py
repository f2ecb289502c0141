"""The gate table: which kernel is admitted to which capability, and for which targets it is shipped.

This is the only place where either is written. The C++ header, the device guard, the CMake target lists and
the code-generation filter are generated from it (`kernelpkg.gates.generate`); Python asks it directly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kernelpkg.arch.capability import Capability
from kernelpkg.arch.target import Target, parse_targets
from kernelpkg.errors import KernelpkgError, UsageError


@dataclass(frozen=True, slots=True)
class Range:
    """A half-open range of capabilities [low, high)."""

    low: Capability
    high: Capability

    def __contains__(self, capability: Capability) -> bool:
        return self.low <= capability < self.high


def exact(text: str) -> Range:
    """The range that holds one capability only: exact('8.9')."""
    low = Capability.parse(text)
    return Range(low, Capability(low.major, low.minor + 1) if low.minor < 9 else Capability(low.major + 1, 0))


def family(major: int) -> Range:
    """A whole family, unknown minors included and bounded above: family(12) is [12.0, 13.0)."""
    return Range(Capability(major, 0), Capability(major + 1, 0))


def between(low: str, high: str) -> Range:
    """The range [low, high): between('8.0', '8.9')."""
    return Range(Capability.parse(low), Capability.parse(high))


ANYTHING = Range(Capability(1, 0), Capability(99, 9))


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why capabilities in `where` are refused, and what to do instead. Both read on after a semicolon."""

    where: Range
    why: str
    instead: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gate says of one capability. Truthy where it admits.

    have, need, why and instead are phrases; why and instead are empty where it admits.
    """

    admitted: bool
    gate: str
    capability: Capability
    have: str
    need: str
    why: str
    instead: str

    def __bool__(self) -> bool:
        return self.admitted

    @property
    def short(self) -> str:
        """What it needs and what it was asked about, for lists of what was left out."""
        return f"gate {self.gate} needs {self.need}, this is {self.capability}"

    @property
    def reason(self) -> str:
        """The answer as one sentence."""
        if self.admitted:
            return f"{self.gate} admits {self.have}: it needs {self.need}."
        refused = f"{self.gate} refuses {self.have}: it needs {self.need}, because {self.why}"
        return f"{refused}; instead, {self.instead}."


class GateRefusal(KernelpkgError, NotImplementedError):
    """A gate refused a device. `answer` holds have, need, why and instead, which are attributes here too."""

    exit_code = 2

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.reason)
        self.answer = answer
        self.gate = answer.gate
        self.capability = answer.capability
        self.have = answer.have
        self.need = answer.need
        self.why = answer.why
        self.instead = answer.instead

    def __reduce__(self) -> tuple[type[GateRefusal], tuple[Answer]]:
        return GateRefusal, (self.answer,)


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate.

    id: its name in every layer (a C++ identifier). title: its name in prose.
    operator: the operator whose kernels stand behind it.
    activation: '16bit' or 'fp8', what the kernel's activations are.
    admits: the capabilities it lets in. ships: the targets its machine code is built for.
    proof: the instructions that show its kernels alive, one of them per target (SASS opcodes).
    need: what it needs, as a phrase. refusals: why others are refused; the first that fits speaks.
    """

    id: str
    title: str
    operator: str
    activation: str
    admits: tuple[Range, ...]
    ships: tuple[Target, ...]
    proof: tuple[str, ...]
    need: str
    refusals: tuple[Refusal, ...]

    def __post_init__(self) -> None:
        if not self.refusals or self.refusals[-1].where != ANYTHING:
            raise UsageError(f"gate {self.id}: the last refusal must cover every capability")

    def admitted(self, capability: Capability) -> bool:
        """Whether the gate lets this capability in."""
        return any(capability in part for part in self.admits)

    def ask(self, capability: object) -> Answer:
        """What the gate says of a capability: anything `Capability.parse` reads, or a device that has one."""
        asked = Capability.parse(getattr(capability, "capability", capability))
        name = getattr(capability, "name", None)
        have = f"capability {asked}"
        if isinstance(name, str):
            have = name if have in name else f"{name} ({have})"
        if self.admitted(asked):
            return Answer(True, self.id, asked, have, self.need, "", "")
        refusal = next(refusal for refusal in self.refusals if asked in refusal.where)
        return Answer(False, self.id, asked, have, self.need, refusal.why, refusal.instead)

    def require(self, capability: object) -> Answer:
        """As `ask`, but raises GateRefusal (have, need, why, instead) where the gate does not admit."""
        answer = self.ask(capability)
        if not answer:
            raise GateRefusal(answer)
        return answer


_NO_KERNEL = "multiply with torch.matmul on 16-bit operands"
_USE_W8A16 = (
    "keep the activations in 16 bits: marlin_gemm with e4m3 weights (W8A16, gate marlin_16bit) "
    "reads no more weight bytes"
)
_UNKNOWN = "no device of this family exists yet, so no code was built or tried for it"
_BELOW_89 = "this device has no FP8 tensor cores: ptxas refuses the FP8 mma.sync below sm_89"
_HOPPER_EMULATES = (
    "mma.sync on e4m3 is emulated here: ptxas turns each one into two 16-bit HMMA and twelve conversions"
)
_BEYOND = Range(Capability(13, 0), Capability(99, 9))
_BELOW_8 = between("1.0", "8.0")
_PRE_ADA = between("8.0", "8.9")
_REST_OF_8 = between("8.9", "9.0")


def _scaled_mm_refusals(*, why_known: str) -> tuple[Refusal, ...]:
    """Refusals of one scaled_mm gate; each names the gate that serves the device, where one has kernels."""
    # Family 10 has a gate of its own, scaled_mm_sm100, but no kernel behind it yet: W8A16 is its way out.
    served = (
        (exact("8.9"), "scaled_mm_sm89"),
        (exact("9.0"), "scaled_mm_sm90"),
        (family(12), "scaled_mm_sm120"),
    )
    return (
        Refusal(_BELOW_8, _BELOW_89, _NO_KERNEL),
        Refusal(_PRE_ADA, _BELOW_89, _USE_W8A16),
        *(
            Refusal(where, why_known, f"call cutlass_scaled_mm, which takes gate {serving} on this device")
            for where, serving in served
        ),
        Refusal(_BEYOND, _UNKNOWN, _NO_KERNEL),
        Refusal(ANYTHING, why_known, _USE_W8A16),
    )


GATES: tuple[Gate, ...] = (
    Gate(
        id="marlin_16bit",
        title="marlin, 16-bit activations",
        operator="marlin_gemm",
        activation="16bit",
        admits=(family(8), family(9), family(10), family(11), family(12)),
        ships=parse_targets("8.0 8.6 8.7 8.9 9.0a 10.0f 11.0 12.0f"),
        proof=("HMMA", "HGMMA"),
        need="families 8 to 12",
        refusals=(
            Refusal(
                _BELOW_8,
                "the kernels rest on cp.async and the bf16 mma.sync, which begin at 8.0",
                _NO_KERNEL,
            ),
            Refusal(ANYTHING, _UNKNOWN, _NO_KERNEL),
        ),
    ),
    Gate(
        id="marlin_fp8",
        title="marlin, FP8 activations",
        operator="marlin_gemm",
        activation="fp8",
        admits=(exact("8.9"), family(12)),
        ships=parse_targets("8.9 12.0f"),
        proof=("QMMA",),
        need="8.9 or family 12",
        refusals=(
            Refusal(_BELOW_8, _BELOW_89, _NO_KERNEL),
            Refusal(_PRE_ADA, _BELOW_89, "keep the activations in 16 bits (W4A16, gate marlin_16bit)"),
            Refusal(
                exact("9.0"),
                _HOPPER_EMULATES,
                "keep the activations in 16 bits (W4A16, gate marlin_16bit), "
                "or say allow_emulation=True to see what emulation costs",
            ),
            Refusal(
                Range(Capability(9, 0), Capability(12, 0)),
                _HOPPER_EMULATES,
                "keep the activations in 16 bits (W4A16, gate marlin_16bit)",
            ),
            Refusal(_BEYOND, _UNKNOWN, _NO_KERNEL),
            Refusal(
                ANYTHING,
                "no code was built or tried for this minor version of family 8",
                "keep the activations in 16 bits (W4A16, gate marlin_16bit)",
            ),
        ),
    ),
    Gate(
        id="scaled_mm_sm89",
        title="scaled_mm sm89",
        operator="cutlass_scaled_mm",
        activation="fp8",
        admits=(exact("8.9"),),
        ships=parse_targets("8.9"),
        proof=("QMMA",),
        need="exactly 8.9",
        refusals=_scaled_mm_refusals(why_known="its code is built for 8.9 and loads on no later family"),
    ),
    Gate(
        id="scaled_mm_sm90",
        title="scaled_mm sm90",
        operator="cutlass_scaled_mm",
        activation="fp8",
        admits=(exact("9.0"),),
        ships=parse_targets("9.0a"),
        proof=("QGMMA",),
        need="exactly 9.0",
        refusals=_scaled_mm_refusals(
            why_known="it uses wgmma, which only 9.0 has and no later generation kept",
        ),
    ),
    Gate(
        id="scaled_mm_sm100",
        title="scaled_mm sm100",
        operator="cutlass_scaled_mm",
        activation="fp8",
        admits=(family(10),),
        ships=parse_targets("10.0f"),
        proof=("UTCQMMA",),
        need="family 10",
        refusals=_scaled_mm_refusals(
            why_known="it uses tcgen05 as family 10 has it, and its code loads on that family alone",
        ),
    ),
    Gate(
        id="scaled_mm_sm120",
        title="scaled_mm sm120",
        operator="cutlass_scaled_mm",
        activation="fp8",
        admits=(family(12),),
        ships=parse_targets("12.0f"),
        proof=("QMMA",),
        need="family 12",
        refusals=_scaled_mm_refusals(
            why_known="it uses mma.sync of kind f8f6f4, native only in the a and f targets of family 12",
        ),
    ),
)

# Not a gate: the guard of evidence kernels (emulated forms, Hopper stand-ins). Dispatch never leads here.
EVIDENCE = Gate(
    id="evidence_sm90",
    title="evidence kernels on Hopper",
    operator="kernelpkg_evidence",
    activation="fp8",
    admits=(exact("9.0"),),
    ships=parse_targets("9.0a"),
    proof=("HMMA",),
    need="exactly 9.0",
    refusals=(
        Refusal(
            ANYTHING,
            "emulated forms and stand-ins are built for 9.0a alone, to be run on Hopper as evidence",
            "call the shipped operator (marlin_gemm or cutlass_scaled_mm)",
        ),
    ),
)

# Not a gate either: where marlin_gemm, admitted by its own gate, may take the route with wgmma. A device that
# this does not admit takes the other route, so nothing is refused for its sake.
WGMMA = Gate(
    id="marlin_wgmma",
    title="marlin, many rows by wgmma",
    operator="marlin_gemm",
    activation="16bit",
    admits=(exact("9.0"),),
    ships=parse_targets("9.0a"),
    proof=("HGMMA",),
    need="exactly 9.0",
    refusals=(
        Refusal(
            ANYTHING,
            "it uses wgmma, which only 9.0 has and no later generation kept",
            "call marlin_gemm, which then takes the route with mma.sync",
        ),
    ),
)

# What is generated beside the gates, by the same rules, and asked by no user.
GUARDS = (EVIDENCE, WGMMA)


def gate(gate_id: str, gates: Iterable[Gate] = GATES) -> Gate:
    """The gate of this id. Raises UsageError with the known ids where there is none."""
    known = (*gates, *GUARDS)
    for entry in known:
        if entry.id == gate_id:
            return entry
    raise UsageError(f"no gate is called {gate_id!r}; the gates are {', '.join(entry.id for entry in known)}")


def instances_for(
    gate_id: str | Gate, requested: Iterable[object], gates: Iterable[Gate] = GATES
) -> tuple[Target, ...]:
    """The code-generation filter: those of the requested targets that this gate ships, in the table's order.

    `requested` holds targets in any form `Target.parse` reads. Nothing is substituted: what a device's
    capability maps to is the build's decision.
    """
    entry = gate_id if isinstance(gate_id, Gate) else gate(gate_id, gates)
    wanted = {Target.parse(target) for target in requested}
    return tuple(target for target in entry.ships if target in wanted)
