"""The machine a bench ran on, and the guard that keeps it from being filled up."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from kernelpkg.errors import MachineUnfit, NothingRan, UsageError

# Of a discrete card's free memory, this part may be used.
USABLE_PART = 0.9


def require_cuda(device: str) -> None:
    """Raise NothingRan, saying what is missing, where `device` ('cuda:0') is not here; UsageError where it
    names no device.
    """
    import torch

    from kernelpkg import arch

    try:
        where = torch.device(device)
    except RuntimeError:
        raise UsageError(f"device is {device!r}; name one as cuda:0.") from None
    advice = "Nothing was timed; the notebook 04_speed shows recorded figures."
    if where.type != "cuda":
        raise NothingRan(f"The bench times CUDA kernels and was given the device {device!r}. {advice}")
    if not torch.cuda.is_available():
        message = arch.detect().message or "torch sees no CUDA device here."
        raise NothingRan(f"{message} {advice}")
    if index_of(device) >= torch.cuda.device_count():
        raise NothingRan(f"{device} is not here: torch sees {torch.cuda.device_count()} device(s). {advice}")


def index_of(device: str) -> int:
    """The number of a CUDA device: 1 for 'cuda:1', 0 for 'cuda'."""
    import torch

    return torch.device(device).index or 0


def describe(device: str) -> dict[str, Any]:
    """Facts about the machine and one CUDA device; what cannot be known is None. No host or user names."""
    import torch

    index = index_of(device)
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
    """Bytes free for a bench: of the card, or on an integrated GPU what the system has available.

    What CUDA calls free leaves out the page cache there. Memory that torch keeps for reuse counts as free.
    """
    import torch

    from kernelpkg import build

    where = torch.device(device)
    free = build.available_memory()[0] if integrated else torch.cuda.mem_get_info(where)[0]
    return free + max(0, torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where))


def shortage(needed: int, available: int, integrated: bool, name: str = "This GPU") -> str | None:
    """The sentence that refuses `needed` bytes where `available` are too few; None where they fit.

    An integrated GPU leaves 8 GB to its host; of a discrete card 90 % may be used.
    """
    if integrated:
        from kernelpkg import build

        try:
            shared = SimpleNamespace(name=name, integrated=True)
            build.device_memory_guard(shared, needed, available_bytes=available)
        except MachineUnfit as refusal:
            return str(refusal)
        return None
    usable = USABLE_PART * available
    if needed <= usable:
        return None
    return (
        f"{needed / 2**30:.1f} GiB are needed and {usable / 2**30:.1f} GiB of {name}'s memory may be used; "
        "close other programs on the GPU or choose smaller shapes."
    )
