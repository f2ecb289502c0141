"""Compilation targets: a capability and the suffix that says how far the code travels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from kernelpkg.arch.capability import ArchError, Capability

_TARGET = re.compile(r"(?:sm_|compute_)?(?:(\d{1,2})\.(\d)|(\d{2,3}))([af]?)")
_EXAMPLES = "write it as 8.9, 9.0a, 90a, sm_120f or compute_120f"

FIRST_SPECIFIC = Capability(9, 0)
FIRST_FAMILY = Capability(10, 0)


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """What one image is compiled for, for example 9.0a or 12.0f.

    suffix '' is portable code, 'a' code for exactly this capability, 'f' code for the rest of its family.
    Raises ArchError for 'a' below 9.0 and 'f' below 10.0, which no toolkit has.
    """

    capability: Capability
    suffix: str = ""

    def __post_init__(self) -> None:
        if self.suffix not in ("", "a", "f"):
            raise ArchError(f"target suffix {self.suffix!r} is none of '', 'a', 'f'; {_EXAMPLES}")
        number = self.capability.number
        if self.suffix == "a" and self.capability < FIRST_SPECIFIC:
            raise ArchError(
                f"target {number}a does not exist: architecture-specific targets (suffix a) begin at 9.0; "
                f"use {number}"
            )
        if self.suffix == "f" and self.capability < FIRST_FAMILY:
            alternative = "90a for Hopper's own instructions or 90" if number == 90 else str(number)
            raise ArchError(
                f"target {number}f does not exist: family targets (suffix f) begin at 10.0; use {alternative}"
            )

    @classmethod
    def parse(cls, value: object) -> Target:
        """Read a target from '90a', '9.0a', 'sm_90a', 'compute_120f', '120f-real' or a Capability."""
        if isinstance(value, Target):
            return value
        if isinstance(value, Capability):
            return cls(value)
        if not isinstance(value, str):
            raise ArchError(f"{value!r} is not a target; {_EXAMPLES}")
        match = _TARGET.fullmatch(value.strip().lower().removesuffix("-real"))
        if match is None:
            raise ArchError(f"{value!r} is not a target; {_EXAMPLES}")
        number = int(match[1]) * 10 + int(match[2]) if match[1] else int(match[3])
        return cls(Capability(*divmod(number, 10)), match[4])

    def __str__(self) -> str:
        return f"{self.capability}{self.suffix}"

    @property
    def number(self) -> str:
        """The target without dots: '90a'."""
        return f"{self.capability.number}{self.suffix}"

    @property
    def sm(self) -> str:
        """The name of its machine code: 'sm_90a'."""
        return f"sm_{self.number}"

    @property
    def compute(self) -> str:
        """The name of its PTX: 'compute_90a'."""
        return f"compute_{self.number}"

    @property
    def cmake(self) -> str:
        """Its entry in CMAKE_CUDA_ARCHITECTURES, machine code only: '90a-real'."""
        return f"{self.number}-real"


# Every target nvcc 13.0 knows, plain, a and f (`nvcc --list-gpu-code`); 12.2 and 13.0 are not among them.
TOOLKIT_TARGETS: tuple[Target, ...] = (
    *(Target(Capability(*divmod(number, 10))) for number in (75, 80, 86, 87, 88, 89, 90)),
    Target(Capability(9, 0), "a"),
    *(
        Target(Capability(*divmod(number, 10)), suffix)
        for number in (100, 103, 110, 120, 121)
        for suffix in ("", "a", "f")
    ),
)


def parse_targets(value: str | Iterable[object]) -> tuple[Target, ...]:
    """Read targets from '9.0a,12.0f' or from several values; order kept, doubles dropped.

    Commas, semicolons and spaces separate. Raises ArchError where one cannot be read or none is given.
    """
    parts: Iterable[object] = re.split(r"[\s,;]+", value.strip()) if isinstance(value, str) else value
    targets = tuple(dict.fromkeys(Target.parse(part) for part in parts if part != ""))
    if not targets:
        raise ArchError(f"no target given; {_EXAMPLES}, several separated by commas")
    return targets
