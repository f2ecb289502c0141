"""One kernel instance: one generated .cu file, what it must contain and where it belongs."""

from __future__ import annotations

from dataclasses import dataclass

EVIDENCE_KINDS = ("emulated", "standin")
DECLARATIONS = ("fp8_mma", "mma16", "none")
SETS = ("test", "release")


@dataclass(frozen=True, slots=True)
class Instance:
    """A kernel instance of the catalogue.

    name: stem of the generated file, unique over the whole catalogue. kernel: the kernel as users name it,
    for example ``marlin_w8a16``. gate: the gate that ships it, for example ``marlin_16bit``. evidence: None
    for shipped code; 'emulated' or 'standin' for evidence kernels (target 9.0a only). declares: what its
    machine code must contain: 'fp8_mma', 'mma16' or 'none'. sets: the sets it belongs to: 'test', 'release'
    or both. source: full text of the generated .cu file. function: regular expression searched in the
    demangled names of its device functions. shared_memory: dynamic shared memory per block in bytes, None
    where the kernel has none. cost_seconds: a guess of the compile time per target in seconds, used for
    progress until a measured time is known.

    Raises ValueError for a value outside these lists.
    """

    name: str
    kernel: str
    gate: str
    evidence: str | None
    declares: str
    sets: frozenset[str]
    source: str
    function: str
    shared_memory: int | None = None
    cost_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"instance name {self.name!r} is not an identifier; it becomes a file name")
        if self.evidence is not None and self.evidence not in EVIDENCE_KINDS:
            raise ValueError(f"{self.name}: evidence {self.evidence!r} is none of None, {EVIDENCE_KINDS}")
        if self.declares not in DECLARATIONS:
            raise ValueError(f"{self.name}: declares {self.declares!r} is none of {DECLARATIONS}")
        if not self.sets or not self.sets <= set(SETS):
            raise ValueError(f"{self.name}: sets {sorted(self.sets)} must be a non-empty part of {SETS}")
