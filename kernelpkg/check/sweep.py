"""scaled_mm under every configuration that the loaded library holds, rather than the dispatched one alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from kernelpkg.check.cases import Case
from kernelpkg.ops.dispatch import Configuration, configurations
from kernelpkg.ops.kernels import Kernel


class Declined(Exception):
    """A configuration refused a shape that the dispatcher would not give it."""


def held(entry: Kernel, device: torch.device) -> tuple[Configuration, ...]:
    """The configurations of a scaled_mm kernel in the loaded library; none for the CPU, which has none."""
    if entry.family != "scaled_mm" or device.type == "cpu":
        return ()
    return configurations(entry.shown_for or entry.name, entry.evidence is not None)


def swept(cases: Iterable[Case], held: Iterable[Configuration]) -> Iterator[Case]:
    """Each case, then the same under every configuration that computes it."""
    for case in cases:
        yield case
        yield from (replace(case, configuration=one.place) for one in held if serves(one, case))


def serves(one: Configuration, case: Case) -> bool:
    """Whether a configuration is of the case's kind of scales and type of a."""
    return one.block_scales == _in_blocks(case) and (one.dtype == torch.float8_e5m2) == case.e5m2


def _in_blocks(case: Case) -> bool:
    """Whether the operator takes the scales for blocks: so few that they are a vector too are one."""
    return case.scales == "block" and max(case.n, case.k) > 128


def not_built(entry: Kernel, case: Case, held: tuple[Configuration, ...]) -> str | None:
    """Why the library has no kernel for a case, None where it has or is no matter of configurations."""
    if not held or any(serves(one, case) for one in held):
        return None
    scales = "scales in blocks" if case.scales == "block" else "vectors of scales"
    return f"{entry.name} is not built for {'e5m2' if case.e5m2 else 'e4m3'} activations with {scales}"


def declines(error: RuntimeError, case: Case, held: Iterable[Configuration]) -> bool:
    """Whether a configuration was asked for rows that the dispatcher does not give it, and said so."""
    chosen = [one for one in held if one.place == case.configuration and serves(one, case)]
    return bool(chosen) and not chosen[0].takes(case.m) and "cannot run this shape" in str(error)
