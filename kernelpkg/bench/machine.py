"""The machine a bench ran on, and the guard that keeps it from being filled up."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

from kernelpkg.errors import MachineUnfit, NothingRan

# Of an integrated GPU's memory, which is the system's, this much stays free.
RESERVE_BYTES = 8 * 2**30
# Of a discrete card's free memory, this part may be used.
USABLE_PART = 0.9


def require_cuda(device: str) -> None:
    """Raise NothingRan, saying what is missing, where `device` ('cuda:0') is not here."""
    import torch

    from kernelpkg import arch

    where = torch.device(device)
    advice = (
        "Nothing was timed; recorded figures are shown by `kernelpkg records` and `bench.recorded_report()`."
    )
    if where.type != "cuda":
        raise NothingRan(f"The bench times CUDA kernels and was given the device {device!r}. {advice}")
    if not torch.cuda.is_available():
        message = arch.detect().message or "torch sees no CUDA device here."
        raise NothingRan(f"{message} {advice}")
    if (where.index or 0) >= torch.cuda.device_count():
        raise NothingRan(f"{device} is not here: torch sees {torch.cuda.device_count()} device(s). {advice}")


def describe(device: str) -> dict[str, Any]:
    """Facts about the machine and one CUDA device; what cannot be known is None. No host or user names."""
    import torch

    index = torch.device(device).index or 0
    properties = torch.cuda.get_device_properties(index)
    major, minor = torch.cuda.get_device_capability(index)
    found = detected(index)
    uuid = getattr(properties, "uuid", None)
    return {
        "name": properties.name,
        "capability": f"{major}.{minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": getattr(properties, "L2_cache_size", None) or getattr(found, "l2_bytes", None),
        "memory_bytes": properties.total_memory,
        "integrated": bool(
            getattr(properties, "is_integrated", False) or getattr(found, "integrated", False)
        ),
        "driver": getattr(found, "driver", None),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "uuid": f"GPU-{uuid}" if uuid else None,
    }


def detected(index: int) -> Any:
    """The row of kernelpkg.arch.detect() for CUDA device `index`; None where it is not listed."""
    from kernelpkg import arch

    devices = arch.detect().devices
    return devices[index] if index < len(devices) else None


def facts(given: Mapping[str, Any]) -> dict[str, Any]:
    """name, capability, driver, torch, cuda for a record: from `given`, the rest from the process as it
    is.
    """
    wanted = {name: given.get(name) for name in ("name", "capability", "driver", "torch", "cuda")}
    wanted["name"] = wanted["name"] or given.get("device") or given.get("gpu")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and not all(wanted.values()):
        here = describe(f"cuda:{torch.cuda.current_device()}")
        if wanted["name"] in (None, here["name"]):
            wanted = {name: value or here[name] for name, value in wanted.items()}
    return {name: None if value is None else str(value) for name, value in wanted.items()}


def available_bytes(device: str, integrated: bool) -> int:
    """Bytes a bench may take: what is free on a discrete card, what the system has available on another.

    An integrated GPU shares the system's memory, and what CUDA calls free leaves out the page cache there.
    """
    import torch

    if integrated:
        found = detected(torch.device(device).index or 0)
        available = getattr(found, "memory_available_bytes", None)
        if available is None:
            raise MachineUnfit(
                "The available memory of this machine cannot be read, so no bench is run on it."
            )
        return available - RESERVE_BYTES
    return int(torch.cuda.mem_get_info(torch.device(device))[0] * USABLE_PART)


def shortage(needed: int, usable: int, integrated: bool) -> str | None:
    """The sentence that refuses `needed` bytes where `usable` are; None where they fit."""
    if needed <= usable:
        return None
    gib = 2**30
    if integrated:
        left = (usable + RESERVE_BYTES - needed) / gib
        return (
            f"it needs {needed / gib:.1f} GiB and would leave {left:.1f} GiB of the system's memory; at "
            f"least {RESERVE_BYTES // gib} GiB stay free on an integrated GPU, so close other programs or "
            "take smaller shapes"
        )
    return (
        f"it needs {needed / gib:.1f} GiB and {max(usable, 0) / gib:.1f} GiB of the card may be used, so "
        "close other programs on the GPU or take smaller shapes"
    )
