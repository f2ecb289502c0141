"""Compute capabilities: which generation of GPU a device is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kernelpkg.errors import UsageError


class ArchError(UsageError):
    """A capability, target or device name that cannot be read."""


_DOTTED = re.compile(r"(\d{1,2})\.(\d)[af]?")
_NUMBER = re.compile(r"(?:sm_|compute_)?(\d{2,3})[af]?")
# All capabilities that were ever given two digits. A number that is none of them is a slip, not an unknown
# minor: the families that still grow have three.
_TWO_DIGITS = (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 88, 89, 90)
# How an assumed device is called of which only the capability is known; read back as that capability.
UNNAMED = "device of capability "
_EXAMPLES = "write it as 12.1, 121, sm_121, (12, 1) or a device name such as GB10 or H200"


@dataclass(frozen=True, slots=True, order=True)
class Capability:
    """A compute capability, for example 12.1; ordered by major, then minor.

    Raises ArchError where major or minor is not a plausible number.
    """

    major: int
    minor: int

    def __post_init__(self) -> None:
        for value in (self.major, self.minor):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ArchError(
                    f"capability ({self.major!r}, {self.minor!r}) is not two whole numbers; {_EXAMPLES}"
                )
        if not 1 <= self.major <= 99 or not 0 <= self.minor <= 9:
            raise ArchError(
                f"capability {self.major}.{self.minor} is out of range, major is 1 to 99 and minor 0 to 9; "
                f"{_EXAMPLES}"
            )

    @classmethod
    def parse(cls, value: object) -> Capability:
        """Read a capability from '12.1', '121', 'sm_121', (12, 1), 121, a device name or a Capability.

        A suffix ('121a', '120f') is accepted and dropped: it belongs to a target, not to a device.
        Device names are looked up in `kernelpkg.arch.KNOWN_DEVICES`. Raises ArchError for anything else.
        """
        if isinstance(value, Capability):
            return value
        if isinstance(value, bool) or value is None:
            raise ArchError(f"{value!r} is not a capability; {_EXAMPLES}")
        if isinstance(value, (tuple, list)):
            if len(value) != 2:
                raise ArchError(f"{value!r} has {len(value)} numbers, a capability has two; {_EXAMPLES}")
            return cls(value[0], value[1])
        if isinstance(value, int):
            return cls._from_number(value)
        if isinstance(value, float):
            # A YAML or papermill parameter 12.1 arrives as a float; its text is exact for one decimal.
            value = str(value)
        if not isinstance(value, str):
            raise ArchError(f"{value!r} is not a capability; {_EXAMPLES}")
        text = value.strip().lower().removeprefix(UNNAMED)
        if match := _DOTTED.fullmatch(text):
            return cls(int(match[1]), int(match[2]))
        if match := _NUMBER.fullmatch(text):
            return cls._from_number(int(match[1]))
        # Imported late: the device table is made of capabilities.
        from kernelpkg.arch.devices import capability_of_name

        known = capability_of_name(value)
        if known is None:
            raise ArchError(f"{value!r} is neither a capability nor a device this package knows; {_EXAMPLES}")
        return known

    @classmethod
    def _from_number(cls, number: int) -> Capability:
        # 12 would read as 1.2, and whoever writes it means the family.
        if not 50 <= number <= 999:
            raise ArchError(f"{number} is not a capability number such as 90 or 121; {_EXAMPLES}")
        if number < 100 and number not in _TWO_DIGITS:
            near = [f"{one // 10}.{one % 10}" for one in _TWO_DIGITS if one // 10 == number // 10]
            raise ArchError(
                f"{number} would be capability {number // 10}.{number % 10}, which no GPU has; that "
                f"generation has {', '.join(near)}, and generations from 10 on take three digits; {_EXAMPLES}"
            )
        return cls(*divmod(number, 10))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def sm(self) -> str:
        """The name a compiler uses: 'sm_121'."""
        return f"sm_{self.number}"

    @property
    def number(self) -> int:
        """The capability as one number: 121 for 12.1."""
        return self.major * 10 + self.minor

    @property
    def family(self) -> int:
        """The family: its major number. Family 12 is [12.0, 13.0)."""
        return self.major


# The capabilities every gate is asked about. 12.2 and 13.0 do not exist: they are the boundary cases
# (an unknown minor of a known family, and an unknown major).
CAPABILITIES: tuple[Capability, ...] = tuple(
    Capability(*divmod(number, 10)) for number in (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121, 122, 130)
)
