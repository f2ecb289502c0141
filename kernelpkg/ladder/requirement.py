"""`--require RUNG@CAPABILITY:LABEL`: a rung that must be proved, and how near the proof must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kernelpkg.arch import Capability
from kernelpkg.errors import CheckFailed, NothingRan, UsageError
from kernelpkg.ladder.answers import explain
from kernelpkg.ladder.rung import RUNGS, Rung

# The weakest label that satisfies, by its name; see Label.level. 'any' asks for no measurement, which is
# what the rungs admitted, built and loads rest on where no GPU is here.
LEVELS = {"any": 0, "stand-in": 1, "standin": 1, "sibling": 2, "this": 3, "this capability": 3}
WHO = {"measured": "measured here", "measured here": "measured here", "recorded": "recorded"}
_FORM = "RUNG@CAPABILITY[:LABEL], such as correct@12.1:stand-in"


@dataclass(frozen=True, slots=True)
class Requirement:
    """A parsed wish. level: the least `Label.level` that satisfies it; who: the beginning of the label's
    `who`.
    """

    rung: str
    capability: Capability
    level: int
    who: str | None
    text: str

    def satisfied_by(self, rung: Rung) -> bool:
        """Whether a passing rung is near enough."""
        near = rung.label.level >= self.level
        return rung.status == "pass" and near and (self.who is None or rung.label.who.startswith(self.who))


def parse_requirement(text: str) -> Requirement:
    """Read 'correct@12.1:stand-in'. LABEL: this, sibling, stand-in (or nearer), measured, recorded, any.

    Without a label any measurement of this capability, a sibling or a stand-in satisfies the rungs correct
    and fast, and the static evidence the others. Raises UsageError for what cannot be read.
    """
    rung, at, rest = text.partition("@")
    where, _, label = rest.partition(":")
    rung, label = rung.strip().lower(), label.strip().lower()
    if not at or rung not in RUNGS or not where.strip():
        raise UsageError(f"--require {text!r}: write {_FORM}; the rungs are {', '.join(RUNGS)}.")
    capability = Capability.parse(where.strip())
    static = rung in ("admitted", "built", "loads")
    if not label:
        return Requirement(rung, capability, 0 if static else 1, None, text)
    if label in WHO:
        return Requirement(rung, capability, 1, WHO[label], text)
    if label in LEVELS:
        return Requirement(rung, capability, LEVELS[label], None, text)
    known = ", ".join(("this", "sibling", "stand-in", "measured", "recorded", "any"))
    raise UsageError(
        f"--require {text!r}: label {label!r} is unknown; write {_FORM}, with a label of {known}."
    )


def require(
    wish: str | Requirement,
    kernels: Sequence[str] | None = None,
    rungs: Sequence[Rung] | None = None,
    explained: Callable[..., Sequence[Rung]] = explain,
    **arguments: Any,
) -> tuple[Rung, ...]:
    """Raise unless the rung is proved for every kernel (of `kernels`) that its gate admits; the rungs that
    prove it.

    rungs: answers already at hand; those of another capability are not looked at, and where none fits
    `explain` is asked with `arguments`. Raises CheckFailed (exit code 1) where one failed, NothingRan (3)
    where one is unproved, too far from the device, or where no kernel is admitted.
    """
    asked = parse_requirement(wish) if isinstance(wish, str) else wish
    capability = str(asked.capability)
    mine = [rung for rung in rungs or () if rung.capability == capability]
    if not mine:
        mine = list(explained(capability, kernels=kernels, **arguments))
    admitted = {rung.kernel for rung in mine if rung.rung == "admitted" and rung.status == "pass"}
    named = None if kernels is None else set(kernels)
    chosen = [
        rung
        for rung in mine
        if rung.rung == asked.rung and rung.kernel in admitted and (named is None or rung.kernel in named)
    ]
    if not chosen:
        raise NothingRan(f"--require {asked.text}: no kernel asked about is admitted to {capability}.")
    if failed := [rung for rung in chosen if rung.status == "fail"]:
        raise CheckFailed(f"--require {asked.text}: {failed[0].kernel} failed. {failed[0].reason}")
    for rung in chosen:
        if not asked.satisfied_by(rung):
            why = rung.reason if rung.status != "pass" else f"It is proved by {rung.label} only."
            raise NothingRan(f"--require {asked.text}: {rung.kernel} is unproved. {why}")
    return tuple(chosen)
