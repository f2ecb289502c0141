"""The floors of thresholds.toml, and rows of the bench held against them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kernelpkg.errors import UsageError

FILE = Path(__file__).parent / "thresholds.toml"
METRICS = ("percent_of_read", "percent_of_limit", "ratio_to_peer")


@dataclass(frozen=True, slots=True)
class Floor:
    """One floor; shape, m and variant are None where it speaks of every row. See thresholds.toml."""

    kernel: str
    capability: str
    metric: str
    at_least: float
    why: str
    shape: str | None = None
    m: int | None = None
    variant: str | None = None
    peer: str | None = None

    def speaks_of(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of the bench is one this floor is about; its capability is not looked at."""
        asked = {"kernel": self.kernel, "shape": self.shape, "m": self.m, "variant": self.variant}
        return all(value is None or row.get(name) == value for name, value in asked.items())

    def value(self, row: Mapping[str, Any]) -> float | None:
        """The row's figure for this floor; None where it was not measured."""
        if self.metric != "ratio_to_peer":
            return row.get(self.metric)
        peer = row.get("same_scales") if self.peer == "same_scales" else self.peer
        return (row.get("ratios") or {}).get(peer)

    def __str__(self) -> str:
        where = " ".join(
            part
            for part in (self.variant or "", self.shape or "", f"m={self.m}" if self.m is not None else "")
            if part
        )
        what = f"{self.metric} of {self.peer}" if self.peer else self.metric
        return f"{self.kernel} {where}: {what} at least {self.at_least:g}"


@dataclass(frozen=True, slots=True)
class Held:
    """A floor and the worst row it speaks of. value: None where no row measured it, `passed` is False
    then.
    """

    floor: Floor
    value: float | None
    row: Mapping[str, Any] | None
    rows: int

    @property
    def passed(self) -> bool:
        """Whether every row the floor speaks of, and at least one, reaches it."""
        return self.value is not None and self.value >= self.floor.at_least

    @property
    def measured(self) -> bool:
        """Whether there is a figure at all."""
        return self.value is not None

    def __str__(self) -> str:
        if self.value is None or self.row is None:
            return f"{self.floor}: not measured"
        at = f"{self.row.get('shape')} m={self.row.get('m')}"
        return f"{self.floor}: {self.value:.3g} at {at}, the lowest of {self.rows} row(s)"


@cache
def floors(path: Path = FILE) -> tuple[Floor, ...]:
    """All floors of the file. Raises UsageError naming what is wrong in it."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    found = []
    for index, entry in enumerate(data.get("floor", ())):
        try:
            floor = Floor(**entry)
        except TypeError as error:
            raise UsageError(f"{path.name}, floor {index}: {error}.") from error
        if floor.metric not in METRICS:
            raise UsageError(
                f"{path.name}, floor {index}: metric is {floor.metric!r}, allowed are {METRICS}."
            )
        if floor.metric == "ratio_to_peer" and not floor.peer:
            raise UsageError(f"{path.name}, floor {index}: ratio_to_peer needs a peer.")
        found.append(floor)
    return tuple(found)


def hold(
    rows: Iterable[Mapping[str, Any]],
    capability: Any,
    kernels: Iterable[str] | None = None,
    path: Path = FILE,
) -> tuple[Held, ...]:
    """Every floor of a capability (and kernels) with the worst of `rows` it speaks of."""
    listed = list(rows)
    wanted = None if kernels is None else set(kernels)
    found = []
    for floor in floors(path):
        if floor.capability != str(capability) or (wanted is not None and floor.kernel not in wanted):
            continue
        mine = [row for row in listed if floor.speaks_of(row)]
        known = [(value, row) for row in mine if (value := floor.value(row)) is not None]
        value, row = min(known, key=lambda pair: pair[0]) if known else (None, None)
        found.append(Held(floor, value, row, len(known)))
    return tuple(found)
