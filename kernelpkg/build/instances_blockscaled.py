"""The catalogue of microscaled GEMM instances: MXFP8 and NVFP4 on the SM12x family, and their stand-ins.

One tile each: scales come in tiles of 128 rows, which CUTLASS does not split, and of what fits 99 KiB then,
128x128x128 leaves room for two stages (MXFP8) or four (NVFP4). Bias and output type are run-time arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelpkg.build.instance import Instance

GATE = "scaled_mm_sm120"
TILE_K = 128
RELEASE = frozenset({"release"})
TEST = frozenset({"test", "release"})


@dataclass(frozen=True, slots=True)
class Format:
    """One format. name: as users write it, which begins the operator's and the kernel's name. type,
    enumerator: in C++. shared_memory: bytes per block, as the registry entry of the kernel says; its stand-in
    needs the same.
    """

    name: str
    type: str
    enumerator: str
    shared_memory: int


FORMATS = (
    Format("mxfp8", "Mxfp8", "kMxfp8", 77824),
    Format("nvfp4", "Nvfp4", "kNvfp4", 83968),
)


def _instance(form: Format, standin: bool) -> Instance:
    suffix = "_standin" if standin else ""
    kernel = f"{form.name}_{GATE}{suffix}"
    name = f"{kernel}_128x128x{TILE_K}"
    header = f"standin/sm120_blockscaled{suffix}" if standin else "sm120_blockscaled"
    text = f"128x128x{TILE_K} cooperative" + (", stand-in on 9.0a" if standin else "")
    template = "Sm120BlockScaledStandin" if standin else "Sm120BlockScaled"
    return Instance(
        name=name,
        kernel=kernel,
        gate=GATE,
        evidence="standin" if standin else None,
        declares="fp8_mma",
        # A stand-in takes two minutes to compile, and runs on a Hopper device alone.
        sets=RELEASE if standin else TEST,
        source=(
            f'#include "scaled_mm/{header}.cuh"\n\n'
            "KERNELPKG_BLOCKSCALED_INSTANCE(\n"
            f'    {name}, blockscaled{suffix}_registry, "{text}", {form.enumerator},\n'
            f"    {template}<{form.type}, {TILE_K}>)\n"
        ),
        function=rf"scaled_mm_kernel<kernelpkg::scaled_mm_instances::{name}>",
        shared_memory=form.shared_memory,
        cost_seconds=60.0,
    )


def instances() -> tuple[Instance, ...]:
    """Every microscaled instance, shipped and stand-in."""
    return tuple(_instance(form, standin) for form in FORMATS for standin in (False, True))
