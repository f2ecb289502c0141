"""The catalogue of scaled_mm instances: one per configuration of the dispatch table and type of a.

Scales of either kind's pairings, bias and output type are run-time arguments. An instance carries its row of
the table with it, so the dispatcher (csrc/scaled_mm/scaled_mm.cpp) reads the same data as Python.
"""

from __future__ import annotations

from kernelpkg.build.configurations_scaled_mm import ROUTES, Configuration, Route
from kernelpkg.build.instance import Instance

# C++ type, dispatch type.
ACTIVATIONS = {"e4m3": ("E4M3", "kFloat8E4M3"), "e5m2": ("E5M2", "kFloat8E5M2")}
SCALES = {"vector": ("Scales::kVector", "false"), "block": ("Scales::kBlock", "true")}
RELEASE = frozenset({"release"})
TEST = frozenset({"test", "release"})


def _float(value: float) -> str:
    text = f"{value:g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _source(
    name: str, text: str, place: int, one: Configuration, route: Route, act: str, standin: bool
) -> str:
    element, a_type = ACTIVATIONS[act]
    kind, blocks = SCALES[one.scales]
    template, header = route.template_of(one, standin)
    numbers = (place, one.min_m, one.max_m, one.rows, one.columns, one.blocks, one.per_sm)
    costs = (one.round, one.step, one.split)
    row = ", ".join((*map(str, numbers), *map(_float, costs)))
    registry = "scaled_mm_standin_registry" if standin else "scaled_mm_registry"
    return (
        f'#include "{header}"\n\n'
        "namespace {\n"
        f"constexpr kernelpkg::ScaledMmRow kRow{{{row}}};\n"
        "}\n\n"
        "KERNELPKG_SCALED_MM_INSTANCE(\n"
        f'    {name}, {registry}, "{text}", {route.enumerator}, {a_type}, {blocks}, kRow,\n'
        f"    {template}<{element}, {kind}, {one.arguments}>)\n"
    )


def _instance(route: Route, place: int, one: Configuration, act: str, standin: bool) -> Instance:
    kernel = f"{route.gate}_standin" if standin else route.gate
    name = f"{kernel}_{act}_{one.scales}_{one.label}"
    text = one.label.replace("_", " ") + (", stand-in on 9.0a" if standin else "")
    return Instance(
        name=name,
        kernel=kernel,
        gate=route.gate,
        evidence="standin" if standin else None,
        declares="fp8_mma",
        sets=TEST if act in one.test else RELEASE,
        source=_source(name, text, place, one, route, act, standin),
        function=rf"scaled_mm_kernel<kernelpkg::scaled_mm_instances::{name}>",
        shared_memory=one.shared_memory,
        cost_seconds=one.cost_seconds or route.cost_seconds,
    )


def instances() -> tuple[Instance, ...]:
    """Every scaled_mm instance, shipped and stand-in, in the order of routes and of their tables."""
    return tuple(
        _instance(route, place, one, act, standin)
        for route in ROUTES
        for place, one in enumerate(route.configurations)
        for standin in (False, True)
        for act in (one.standins if standin else one.activations)
    )
