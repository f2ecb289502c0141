"""The catalogue of scaled_mm instances: which tiles are built, for which route and output type.

The tiles of a route are listed from the smallest M to the largest; `wanted_tile` in
csrc/scaled_mm/scaled_mm.cpp chooses by that place. Scales and bias are run-time arguments, so a tile needs
one instance per output type and no more.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelpkg.build.instance import Instance

# C++ element, dispatch type, short name.
OUTPUTS = (("cutlass::bfloat16_t", "kBFloat16", "bf16"), ("cutlass::half_t", "kFloat16", "fp16"))
RELEASE = frozenset({"release"})
TEST = frozenset({"test", "release"})


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of a route.

    label: what people read and what names the file, for example "64x16x256_pingpong_swapped".
    arguments: the template arguments after the output type.
    shared_memory: bytes per block, as the registry entry of the kernel says; its stand-in needs the same.
    test: the outputs ("bf16", "fp16") that belong to the test set.
    standin: the outputs whose 9.0a stand-in is built, a part of which the test set takes.
    """

    label: str
    arguments: str
    shared_memory: int
    test: tuple[str, ...] = ()
    standin: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One gate's tiles, smallest M first, and where its template lives."""

    gate: str
    enumerator: str
    template: str
    header: str
    tiles: tuple[Tile, ...]
    cost_seconds: float
    standin_template: str = ""
    standin_header: str = ""


BOTH = ("bf16", "fp16")

SM89 = Route(
    gate="scaled_mm_sm89",
    enumerator="kSm89",
    template="Sm89Fp8",
    header="scaled_mm/sm89_fp8.cuh",
    standin_template="Sm89Fp8Standin",
    standin_header="scaled_mm/sm89_fp8.cuh",
    cost_seconds=15.0,
    tiles=(
        Tile("16x64x128", "16, 64, 128, 16, 64, 64, 5", 51200, test=("bf16", "fp16"), standin=BOTH),
        Tile("32x64x128", "32, 64, 128, 16, 64, 64, 5", 61440, standin=("bf16",)),
        Tile("64x64x128", "64, 64, 128, 32, 64, 64, 5", 81920, standin=("bf16",)),
        Tile("64x128x128", "64, 128, 128, 64, 64, 64, 3", 73728, standin=("bf16",)),
        Tile("128x128x64", "128, 128, 64, 64, 64, 64, 5", 81920, test=("bf16",), standin=BOTH),
    ),
)

SM90 = Route(
    gate="scaled_mm_sm90",
    enumerator="kSm90",
    template="Sm90Fp8",
    header="scaled_mm/sm90_fp8.cuh",
    cost_seconds=35.0,
    tiles=(
        Tile(
            "64x16x256_pingpong_swapped",
            "64, 16, 256, 1, 1, Sm90Schedule::kPingpong, true",
            229376,
            test=("bf16", "fp16"),
        ),
        Tile("64x64x256_pingpong_swapped", "64, 64, 256, 1, 1, Sm90Schedule::kPingpong, true", 206848),
        Tile("64x128x128_pingpong_swapped", "64, 128, 128, 1, 1, Sm90Schedule::kPingpong, true", 231424),
        Tile(
            "128x128x128_pingpong_cluster2",
            "128, 128, 128, 2, 1, Sm90Schedule::kPingpong, false",
            206336,
            test=("bf16",),
        ),
    ),
)

SM120 = Route(
    gate="scaled_mm_sm120",
    enumerator="kSm120",
    template="Sm120Fp8",
    header="scaled_mm/sm120_fp8.cuh",
    standin_template="Sm120Fp8Standin",
    standin_header="scaled_mm/standin/sm120_standin.cuh",
    cost_seconds=45.0,
    tiles=(
        Tile("64x64x128_pingpong", "64, 64, 128, Sm120Schedule::kPingpong", 92160, test=BOTH, standin=BOTH),
        Tile(
            "128x128x128_cooperative",
            "128, 128, 128, Sm120Schedule::kCooperative",
            75776,
            test=("bf16",),
            standin=BOTH,
        ),
    ),
)

ROUTES = (SM89, SM90, SM120)


def _source(
    header: str, registry: str, name: str, choice: str, route: Route, c_type: str, place: int, type_: str
) -> str:
    return (
        f'#include "{header}"\n\n'
        f"KERNELPKG_SCALED_MM_INSTANCE(\n"
        f'    {name}, {registry}, "{choice}", {route.enumerator}, {c_type}, {place},\n'
        f"    {type_})\n"
    )


def _instances(route: Route) -> list[Instance]:
    made = []
    short = route.gate.removeprefix("scaled_mm_")
    for place, tile in enumerate(route.tiles):
        choice = f"{short} {tile.label.replace('_', ' ')}"
        for element, c_type, output in OUTPUTS:
            kinds = [(None, route.gate, route.template, route.header, "scaled_mm_registry")]
            if output in tile.standin:
                standin = (f"{route.gate}_standin", route.standin_template, route.standin_header)
                kinds.append(("standin", *standin, "scaled_mm_standin_registry"))
            for evidence, kernel, template, header, registry in kinds:
                name = f"{kernel}_{output}_{tile.label}"
                type_ = f"{template}<{element}, {tile.arguments}>"
                text = choice if evidence is None else f"{choice}, stand-in on 9.0a"
                made.append(
                    Instance(
                        name=name,
                        kernel=kernel,
                        gate=route.gate,
                        evidence=evidence,
                        declares="fp8_mma",
                        sets=TEST if output in tile.test else RELEASE,
                        source=_source(header, registry, name, text, route, c_type, place, type_),
                        function=rf"scaled_mm_kernel<kernelpkg::scaled_mm_instances::{name}>",
                        shared_memory=tile.shared_memory,
                        cost_seconds=route.cost_seconds,
                    )
                )
    return made


def instances() -> tuple[Instance, ...]:
    """Every scaled_mm instance, shipped and stand-in, in the order of routes and tiles."""
    return tuple(instance for route in ROUTES for instance in _instances(route))
