"""Asks all five layers about every capability and says where two differ.

The layers: the host header (C++), the CMake target lists, the device guard (machine code), the
code-generation filter, and Python. Each is asked itself; none is assumed to follow from the table.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernelpkg.arch.capability import CAPABILITIES, Capability
from kernelpkg.arch.loading import Image, best_image, loads
from kernelpkg.arch.target import TOOLKIT_TARGETS, Target
from kernelpkg.errors import CheckFailed, UsageError
from kernelpkg.gates.probes import (
    Cache,
    LayerUnavailable,
    Tools,
    ask_cmake,
    ask_device_guard,
    ask_host_header,
)
from kernelpkg.gates.table import GATES, Gate, instances_for

LAYERS = ("host_header", "cmake", "device_guard", "codegen", "python")

Codegen = Callable[[Gate, Sequence[Target]], Iterable[Target]]
_Answers = dict[tuple[str, Capability], tuple[bool, str]]


@dataclass(frozen=True, slots=True)
class LayerAnswer:
    """What one layer says of one gate and capability. admits is None where the layer could not be asked.

    Fields can be read as keys too, so that a row serves as a mapping.
    """

    gate: str
    layer: str
    capability: str
    admits: bool | None
    reason: str

    def keys(self) -> tuple[str, ...]:
        """The names of the fields."""
        return ("gate", "layer", "capability", "admits", "reason")

    def __getitem__(self, key: str) -> Any:
        return asdict(self)[key]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A gate and capability on which layers differ; `odd` are the layers against the majority."""

    gate: str
    capability: str
    admit: tuple[str, ...]
    refuse: tuple[str, ...]
    odd: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.gate} at {self.capability}: admitted by {', '.join(self.admit)}, "
            f"refused by {', '.join(self.refuse)}; look at {', '.join(self.odd)}"
        )


@dataclass(frozen=True, slots=True)
class Agreement:
    """All answers, where they differ, and the layers that could not be asked with the reason.

    Iterating gives the rows. `agreed` is True only where every layer was asked and none differs.
    """

    rows: tuple[LayerAnswer, ...]
    disagreements: tuple[Disagreement, ...]
    unavailable: Mapping[str, str]
    seconds: float

    def __iter__(self) -> Iterator[LayerAnswer]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def agreed(self) -> bool:
        return not self.disagreements and not self.unavailable

    @property
    def summary(self) -> str:
        """One line, the same on every machine that has the tools: what was asked, how much of it differs."""
        gates = len({row.gate for row in self.rows})
        capabilities = len({row.capability for row in self.rows})
        layers = len({row.layer for row in self.rows if row.admits is not None})
        text = f"{layers} layers asked about {gates} gates and {capabilities} capabilities: "
        text += f"{len(self.disagreements)} disagreements" if self.disagreements else "no disagreement"
        for layer, reason in self.unavailable.items():
            text += f"; {layer} not asked ({reason})"
        return text


def agreement(
    gates: Sequence[Gate] = GATES,
    capabilities: Iterable[object] = CAPABILITIES,
    *,
    layers: Sequence[str] = LAYERS,
    overrides: Mapping[str, Sequence[Gate]] | None = None,
    nvcc: str | os.PathLike[str] | None = None,
    cmake: str | os.PathLike[str] | None = None,
    cxx: str | os.PathLike[str] | None = None,
    disassembler: str | os.PathLike[str] | None = None,
    guard: Path | None = None,
    codegen: Codegen = instances_for,
    tools: Tools | None = None,
    cache: Cache | None = None,
) -> Agreement:
    """Ask every layer about every gate and capability: seconds the first time, far less from the cache.

    overrides: for a layer, the table it is made from in place of `gates`: a broken copy shows that the
    disagreement is found. nvcc, cmake, cxx, disassembler, guard: programs and guard.cuh to use; what is not
    given is looked for (`tools` gives all of them at once, None in it meaning absent). codegen: the code
    generator's target filter. cache: where answers of compiled probes are kept.

    A layer whose tool is missing or fails gets rows with admits None and stands in `unavailable`: it never
    counts as agreeing. Raises UsageError for an unknown layer.
    """
    for layer in (*layers, *(overrides or {})):
        if layer not in LAYERS:
            raise UsageError(f"no layer is called {layer!r}; the layers are {', '.join(LAYERS)}")
    begun = time.monotonic()
    asked = [Capability.parse(one) for one in capabilities]
    tools = tools or Tools.find(cxx=cxx, cmake=cmake, nvcc=nvcc, disassembler=disassembler, guard=guard)
    cache = cache or Cache.default()
    tables = {layer: tuple((overrides or {}).get(layer, gates)) for layer in layers}

    rows: list[LayerAnswer] = []
    unavailable: dict[str, str] = {}
    for layer, table in tables.items():
        try:
            answers = _ask(layer, table, tuple(gates), asked, tools, cache, codegen)
        except LayerUnavailable as error:
            unavailable[layer] = str(error)
            rows += [
                LayerAnswer(gate.id, layer, str(one), None, f"not asked: {error}")
                for gate in table
                for one in asked
            ]
            continue
        rows += [
            LayerAnswer(gate.id, layer, str(one), *answers[gate.id, one]) for gate in table for one in asked
        ]
    return Agreement(tuple(rows), _differences(rows), unavailable, time.monotonic() - begun)


def require_agreement(found: Agreement) -> None:
    """Raises CheckFailed with gates, capabilities and layers, unless every layer was asked and all agree."""
    if found.agreed:
        return
    problems = [str(entry) for entry in found.disagreements]
    problems += [f"{layer} could not be asked: {reason}" for layer, reason in found.unavailable.items()]
    raise CheckFailed("the gate layers do not agree: " + "; ".join(problems) + ".")


def _ask(
    layer: str,
    table: tuple[Gate, ...],
    shipped: tuple[Gate, ...],
    asked: Sequence[Capability],
    tools: Tools,
    cache: Cache,
    codegen: Codegen,
) -> _Answers:
    if layer == "python":
        python = {(gate.id, one): gate.ask(one) for gate in table for one in asked}
        return {key: (answer.admitted, answer.reason) for key, answer in python.items()}
    if layer == "host_header":
        return ask_host_header(table, asked, tools, cache)
    # The targets of both tables: what the build ships, and what a broken copy would add.
    ships = tuple(dict.fromkeys(target for gate in (*shipped, *table) for target in gate.ships))
    if layer == "device_guard":
        # Code that loads on none of the devices asked about cannot change an answer.
        wanted = [one for one in ships if any(loads(Image("cubin", one), device).native for device in asked)]
        return _judge_guard(table, shipped, asked, ask_device_guard(table, wanted, tools, cache))
    requested = tuple(dict.fromkeys((*TOOLKIT_TARGETS, *ships)))
    if layer == "cmake":
        lists = ask_cmake(table, requested, tools)
    else:
        lists = {gate.id: tuple(codegen(gate, requested)) for gate in table}
    return {(gate.id, one): _judge_list(layer, lists[gate.id], one) for gate in table for one in asked}


def _judge_list(layer: str, targets: Sequence[Target], capability: Capability) -> tuple[bool, str]:
    """Whether machine code for one of these targets loads on the capability."""
    image, answer = best_image(tuple(Image("cubin", target) for target in targets), capability)
    reason = answer.reason if image else f"none of it loads on {capability}"
    return answer.native, f"{layer} lists {', '.join(map(str, targets)) or 'nothing'}: {reason}"


def _judge_guard(
    table: tuple[Gate, ...],
    shipped: tuple[Gate, ...],
    asked: Sequence[Capability],
    verdicts: Mapping[Target, Mapping[str, str]],
) -> _Answers:
    """The guard admits where some compiled code both loads on the capability and is alive in it."""
    real = {gate.id: gate.ships for gate in shipped}
    answers: _Answers = {}
    for gate in table:
        for one in asked:
            loading = [target for target in verdicts if loads(Image("cubin", target), one).native]
            alive = [target for target in loading if verdicts[target][gate.id] == "alive"]
            silent = [target for target in loading if verdicts[target][gate.id] == "silent"]
            dead = [target for target in loading if target in real.get(gate.id, ())]
            if alive:
                reason = f"the {alive[-1]} code loads here and holds the kernel's body"
            elif silent:
                reason = (
                    f"the {silent[0]} code loads here and holds neither body nor trap: it returns silently"
                )
            elif dead:
                reason = f"the {dead[-1]} code loads here but the guard left only its trap"
            else:
                reason = "no shipped code loads here"
            answers[gate.id, one] = (bool(alive), reason)
    return answers


def _differences(rows: Sequence[LayerAnswer]) -> tuple[Disagreement, ...]:
    grouped: dict[tuple[str, str], dict[str, bool]] = {}
    for row in rows:
        if row.admits is not None:
            grouped.setdefault((row.gate, row.capability), {})[row.layer] = row.admits
    found = []
    for (gate, capability), said in grouped.items():
        admit = tuple(layer for layer, admits in said.items() if admits)
        refuse = tuple(layer for layer, admits in said.items() if not admits)
        if admit and refuse:
            # Without a majority nobody can say who is wrong.
            tied = len(admit) == len(refuse)
            odd = (*admit, *refuse) if tied else min(admit, refuse, key=len)
            found.append(Disagreement(gate, capability, admit, refuse, odd))
    return tuple(found)
