"""How many compilers may run at once, and how much memory a run on the device may take.

Two nvcc on a CUTLASS SM120 kernel fill 8 GB, so both cores and *available* memory bound the number of jobs.
Available is MemAvailable or the cgroup's limit less its use, whichever is less; never the total. On an
integrated GPU the same memory serves the device, so checks and benches ask `device_memory_guard` before they
allocate.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kernelpkg.errors import MachineUnfit

GB = 10**9
RESERVED_BYTES = 8 * GB  # what stays free for the rest of the machine
BYTES_PER_JOB = 4 * GB  # peak of nvcc on a CUTLASS SM120 collective: 3.9 GB measured
_UNLIMITED = 1 << 60  # cgroup v1 writes a number near 2**63 where there is no limit


@dataclass(frozen=True, slots=True)
class JobLimit:
    """jobs: compilers at once, at least 1. reason: one sentence. cores and available_bytes: what it was made
    of.
    """

    jobs: int
    reason: str
    cores: int
    available_bytes: int


class MemoryDevice(Protocol):
    """What the guard needs to know of a device (kernelpkg.arch.Device has it)."""

    @property
    def name(self) -> str: ...
    @property
    def integrated(self) -> bool | None: ...


def job_limit(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> JobLimit:
    """min(cores allowed, (available memory - 8 GB) / 4 GB), at least 1; GB is 10**9 bytes.

    Cores allowed: the CPU affinity, and the cgroup's CPU quota where there is one. proc and cgroup stand in
    for this machine's folders in tests.
    """
    cores, cores_why = allowed_cores(proc, cgroup)
    available, memory_why = available_memory(proc, cgroup)
    by_memory = (available - RESERVED_BYTES) // BYTES_PER_JOB
    jobs = max(1, min(cores, by_memory))
    if by_memory < 1:
        reason = (
            f"1 job: {available / GB:.1f} GB {memory_why} leave no 4 GB for a compiler beside the 8 GB kept "
            "free, and one must run"
        )
    elif by_memory < cores:
        reason = (
            f"{jobs} job(s): {available / GB:.1f} GB {memory_why}, less 8 GB kept free, at 4 GB a compiler"
        )
    else:
        reason = (
            f"{jobs} job(s): {cores_why}, and {available / GB:.1f} GB {memory_why} would allow {by_memory}"
        )
    return JobLimit(jobs, reason, cores, available)


def allowed_cores(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> tuple[int, str]:
    """(cores this process may use, why)."""
    cores = len(os.sched_getaffinity(0))
    why = f"{cores} core(s) allowed by the CPU affinity"
    for folder in _cgroup_folders("cpu", proc, cgroup):
        quota = _cpu_quota(folder)
        if quota is not None and quota < cores:
            cores = max(1, int(quota))
            why = f"{cores} core(s) allowed by the cgroup's quota of {quota:g}"
    return cores, why


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> tuple[int, str]:
    """(bytes available now, which limit said so): MemAvailable or the tightest cgroup limit less its use."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _read(proc / "meminfo"), re.MULTILINE)
    available = int(match.group(1)) * 1024 if match else None
    why = "available (MemAvailable)"
    for folder in _cgroup_folders("memory", proc, cgroup):
        room = _cgroup_room(folder)
        if room is not None and (available is None or room < available):
            available, why = room, "available in this cgroup (its limit less its use)"
    return max(0, available or 0), why


def _cgroup_folders(controller: str, proc: Path, cgroup: Path) -> list[Path]:
    """The cgroup folders whose limits bind this process: its own and every one above it, v1 and v2."""
    found: list[Path] = []
    for line in _read(proc / "self" / "cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        _, controllers, path = parts
        if controllers == "":
            roots = [cgroup, cgroup / "unified"]
        elif controller in controllers.split(","):
            roots = [cgroup / controllers, cgroup / controller]
        else:
            continue
        for root in roots:
            # Inside a container the path may name folders that only the host sees; the root is then our own.
            own = root / path.strip("/")
            chain = [own, *own.parents]
            found += [folder for folder in chain[: chain.index(root) + 1] if folder.is_dir()]
    return list(dict.fromkeys(found))


def _cgroup_room(folder: Path) -> int | None:
    """Limit less use in bytes, None where there is no limit. File cache that can go counts as free."""
    limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
    if limit is None or limit >= _UNLIMITED:
        return None
    usage = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
    stat = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
    cache = int(
        stat.get("total_inactive_file", stat.get("inactive_file", "0"))
    )  # total_ is v1's, with children
    return limit - max(0, usage - cache)


def _cpu_quota(folder: Path) -> float | None:
    parts = _read(folder / "cpu.max").split()
    if len(parts) == 2 and parts[0] != "max":
        return int(parts[0]) / int(parts[1])
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and quota > 0 and period else None


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def device_memory_guard(
    device: MemoryDevice, needed_bytes: int, *, available_bytes: int | None = None
) -> None:
    """Refuses work that would leave an integrated GPU's machine with under 8 GB.

    device: any object with name and integrated (kernelpkg.arch.Device). needed_bytes: what the work
    allocates. available_bytes: what is available, read from the system when None. Discrete GPUs have memory
    of their own and pass. Raises MachineUnfit with one sentence.
    """
    if not device.integrated:
        return
    available = available_memory()[0] if available_bytes is None else available_bytes
    left = available - needed_bytes
    if left < RESERVED_BYTES:
        raise MachineUnfit(
            f"{device.name} shares memory with its host: {needed_bytes / GB:.1f} GB are needed and "
            f"{available / GB:.1f} GB are available, which would leave {max(0, left) / GB:.1f} GB where 8 GB "
            "must stay free; close other programs or choose smaller shapes."
        )


if __name__ == "__main__":
    print(job_limit().jobs)
