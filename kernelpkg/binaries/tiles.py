"""The Marlin tiles of a build: what each needs, and how many blocks a multiprocessor holds of it.

Registers come from the machine code, shared memory from the catalogue; the limits are those of the CUDA
programming guide (technical specifications per compute capability).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kernelpkg.arch import Capability
from kernelpkg.arch.devices import shared_memory_optin
from kernelpkg.build.instances_marlin import FORMAT_NUMBERS, instances, wgmma_stages

REGISTERS = 65536  # of a multiprocessor, on every capability that Marlin runs on
_RESERVED = 1024  # bytes of shared memory that the system keeps per block
_ALLOCATION = 256  # registers are given out to warps in these steps
_THREADS = {"8.0": 2048, "9.0": 2048, "10.0": 2048}  # of a multiprocessor; 1536 elsewhere
# One capability for each target: the smallest device that loads it as it is.
_DEVICES = ("8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "11.0", "12.0")
_TILE = re.compile(r"::Tile<.*?(\d+), (\d+), (\d+), (\d+), (\d+)>")
_WGMMA_TILE = re.compile(r"::WgmmaTile<.*?WeightFormat\)(\d+), (\d+)>")
_FORMATS = {number: name for name, number in FORMAT_NUMBERS.items()}


def blocks_per_multiprocessor(
    capability: str, threads: int, registers: int, shared_memory: int
) -> int | None:
    """Resident blocks of a kernel; threads per block, registers per thread, shared memory per block in bytes.

    None where the capability's shared memory is not known.
    """
    optin = shared_memory_optin(Capability.parse(capability))
    if optin is None:
        return None
    warps = threads // 32
    per_warp = -(-registers * 32 // _ALLOCATION) * _ALLOCATION
    # Each of the four schedulers has a quarter of the registers for its own warps.
    by_registers = REGISTERS // 4 // per_warp * 4 // (-(-warps // 4) * 4)
    by_memory = (optin + _RESERVED) // (shared_memory + _RESERVED) if shared_memory <= optin else 0
    return min(by_registers, by_memory, _THREADS.get(capability, 1536) // threads)


def tile_rows(functions: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per Marlin tile and target among `functions` (of a manifest or an inspection): rows and columns
    of the tile, stages, threads, registers, spills and shared memory in bytes, blocks per multiprocessor.
    """
    memory = {instance.name: instance.shared_memory for instance in instances()}
    found = []
    for function in functions:
        name = function.get("instance")
        if (shape := _shape(function["function"], memory.get(name))) is None:
            continue
        tile, stages, threads, shared = shape
        number = str(function["target"]).rstrip("af")
        found.append(
            {
                "instance": name,
                "target": function["target"],
                "tile": tile,
                "stages": stages,
                "threads": threads,
                "registers": function["registers"],
                "spills": function["spills"],
                "shared_memory": shared,
                "blocks_per_sm": blocks_per_multiprocessor(number, threads, function["registers"], shared)
                if number in _DEVICES
                else None,
            }
        )
    return sorted(found, key=lambda row: (str(row["target"]), str(row["instance"])))


def _shape(function: str, memory: int | None) -> tuple[str, str, int, int] | None:
    """(tile, stages, threads, bytes of shared memory) of a GEMM kernel, by the arguments of its template.

    memory: the catalogue's bytes for its instance. None for another function.
    """
    if memory is not None and (match := _TILE.search(function)):
        rows, stage_k, sets, stages, _ = map(int, match.groups())
        return f"{rows} x 128", f"{sets} x {stages} of {stage_k}", sets * 128, memory
    if match := _WGMMA_TILE.search(function):
        stages, stage_k, threads, shared = wgmma_stages(_FORMATS[int(match[1])], int(match[2]))
        return f"{match[2]} x 256", f"{stages} of {stage_k}", threads, shared
    return None
