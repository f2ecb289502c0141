"""Which GPUs are here: asked of torch and of NVML, never raising, unknown fields None.

Both are imported only when asked. A device can also be assumed, so that questions about hardware that is
not here have an answer.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from kernelpkg.arch.capability import UNNAMED, Capability
from kernelpkg.arch.devices import (
    KnownDevice,
    capability_of_name,
    devices_for,
    find_device,
    shared_memory_optin,
)
from kernelpkg.arch.loading import TEGRA

MEMINFO = Path("/proc/meminfo")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, here or assumed. What is not known is None.

    Sizes in bytes. memory_available_bytes: free device memory; on an integrated GPU what the system has
    available. shared_memory_optin: bytes one block may opt in to. driver: its version. source: who answered.
    """

    name: str
    capability: Capability | None
    sm: str | None
    integrated: bool | None
    memory_bytes: int | None
    memory_available_bytes: int | None
    multiprocessors: int | None
    l2_bytes: int | None
    shared_memory_optin: int | None
    driver: str | None
    source: str

    def row(self) -> dict[str, Any]:
        """The device as a row for JSON; the capability as text."""
        return asdict(self) | {"capability": None if self.capability is None else str(self.capability)}


@dataclass(frozen=True, slots=True)
class Detection:
    """What detection found. `message` is a sentence where something keeps GPUs from use, else None."""

    devices: tuple[Device, ...]
    message: str | None


def available_system_memory(meminfo: Path | None = None) -> int | None:
    """MemAvailable of /proc/meminfo in bytes; None where it cannot be read.

    MemFree, which the CUDA call reports on integrated GPUs, leaves out page cache that the system gives up.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (meminfo or MEMINFO).read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def assume(what: object) -> Device:
    """A device that need not be here: a capability or a device name in any form `Capability.parse` reads.

    A name the table knows gives that row, and so does a capability of which it knows one device only.
    Raises ArchError where it cannot be read.
    """
    capability = Capability.parse(what)
    named = find_device(what) if isinstance(what, str) else None
    known = (named,) if named else devices_for(capability)
    by_name = isinstance(what, str) and capability_of_name(what) is not None
    if len(known) == 1 and not by_name:
        named = known[0]
    name = named.name if named else str(what) if by_name else f"{UNNAMED}{capability}"
    return Device(
        name=name,
        capability=capability,
        sm=capability.sm,
        integrated=named.integrated if named else _integrated_by_all(known),
        memory_bytes=None,
        memory_available_bytes=None,
        multiprocessors=named.multiprocessors if named else None,
        l2_bytes=named.l2_bytes if named else None,
        shared_memory_optin=shared_memory_optin(capability),
        driver=None,
        source=f"assumed: {what}" + (f", taken as {named.name} ({named.source})" if named else ""),
    )


def _integrated_by_all(rows: tuple[KnownDevice, ...]) -> bool | None:
    values = {row.integrated for row in rows}
    return values.pop() if len(values) == 1 else None


def detect(use_torch: bool = True) -> Detection:
    """Every GPU of this machine, and a sentence where there is none or it cannot be used.

    Never raises. CUDA_VISIBLE_DEVICES is respected. Without use_torch only NVML is asked, which saves the
    seconds that importing torch takes and leaves the message at what the driver says.
    """
    try:
        return _detect() if use_torch else _detect_by_nvml()
    except Exception as error:  # a broken driver or wheel may fail in any way, and the caller needs an answer
        return Detection((), f"Detection failed: {type(error).__name__}: {error}.")


def _hidden(visible: str | None) -> Detection | None:
    """The answer where the environment hides every GPU, else None."""
    if visible is None or visible.strip() not in ("", "-1", "NoDevFiles"):
        return None
    return Detection(
        (), f"No GPU is visible: CUDA_VISIBLE_DEVICES is {visible!r}; unset it to see this machine's GPUs."
    )


def _detect_by_nvml() -> Detection:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden := _hidden(visible):
        return hidden
    with _Nvml() as nvml:
        devices = tuple(_from_nvml(handle, nvml) for handle in nvml.visible_handles(visible))
        return Detection(devices, None if devices else nvml.problem)


def _detect() -> Detection:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden := _hidden(visible):
        return hidden
    with _Nvml() as nvml:
        torch, torch_problem = _import_torch()
        if torch is not None:
            count = int(_try(torch.cuda.device_count) or 0)
            if count and _try(torch.cuda.is_available):
                return Detection(tuple(_from_torch(torch, index, nvml) for index in range(count)), None)
        devices = tuple(_from_nvml(handle, nvml) for handle in nvml.visible_handles(visible))
        return Detection(devices, _message(nvml, torch, torch_problem, devices, visible))


def _message(
    nvml: _Nvml, torch: Any, torch_problem: str | None, devices: tuple[Device, ...], visible: str | None
) -> str:
    """Why torch sees no GPU, told from the deepest cause up."""
    # A driver too old, or none, is what torch says first: its words count where NVML is silent.
    said = _torch_failure(torch) if torch is not None and _cuda_of(torch) else ""
    if not devices and nvml.problem is not None:
        if "too old" in said:
            return f"The NVIDIA driver is too old for this torch: {said}."
        return nvml.problem
    if not devices:
        if visible is not None and nvml.count:
            return (
                f"No GPU is visible: CUDA_VISIBLE_DEVICES is {visible!r} and names none of the "
                f"{nvml.count} GPUs here."
            )
        return f"No GPU: the NVIDIA driver {nvml.driver or ''} is here and lists none.".replace("  ", " ")
    names = ", ".join(device.name for device in devices)
    if torch is None:
        return f"{names}: torch cannot be imported ({torch_problem}), so no kernel can be run; install torch."
    version = getattr(torch, "__version__", "")
    built_for = _cuda_of(torch)
    if built_for is None:
        return (
            f"{names}: torch {version} is a CPU build, so no kernel can be run; "
            "install a CUDA build of the same version."
        )
    if "too old" in said or nvml.older_than(built_for):
        return (
            f"{names}: the NVIDIA driver {nvml.driver or 'here'} is too old; it serves CUDA "
            f"{nvml.cuda_text} and torch {version} was built for CUDA {built_for}: update the driver."
        )
    return (
        f"{names}: the driver lists it, but torch {version} cannot use it: {said or 'torch gives no reason'}."
    )


def _import_torch() -> tuple[Any, str | None]:
    try:
        import torch
    except Exception as error:  # a broken wheel raises OSError and others
        return None, f"{type(error).__name__}: {error}"
    return torch, None


def _cuda_of(torch: Any) -> str | None:
    """The CUDA version torch was built for; None for a CPU build."""
    return getattr(getattr(torch, "version", None), "cuda", None)


def _torch_failure(torch: Any) -> str:
    """The first sentence of what torch says when it is told to start CUDA."""
    try:
        torch.cuda.init()
    except Exception as error:
        text = " ".join(str(error).split())
        return text.split(". ")[0].rstrip(".")
    return ""


def _try(function: Callable[..., _T], *arguments: Any) -> _T | None:
    """The call's value, or None where it fails: a field that a driver lacks is no error here."""
    try:
        return function(*arguments)
    except Exception:
        return None


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _available(integrated: bool | None, free: int | None) -> int | None:
    return available_system_memory() if integrated else free


def _from_torch(torch: Any, index: int, nvml: _Nvml) -> Device:
    """One device as torch sees it; NVML adds the driver and the free memory."""
    properties = _try(torch.cuda.get_device_properties, index)

    def field(name: str) -> Any:
        return getattr(properties, name, None)

    pair = _try(torch.cuda.get_device_capability, index)
    if pair is None and field("major") is not None:
        pair = (field("major"), field("minor"))
    capability = _try(Capability.parse, tuple(pair)) if pair is not None else None
    name = field("name") or _try(torch.cuda.get_device_name, index) or f"GPU {index}"
    known = find_device(name)
    integrated = (
        bool(field("is_integrated")) if field("is_integrated") is not None else _integrated(known, capability)
    )
    handle = nvml.handle_of(properties)
    memory = nvml.ask("nvmlDeviceGetMemoryInfo", handle)
    free = getattr(memory, "free", None)
    if free is None and not integrated:
        pair = _try(torch.cuda.mem_get_info, index)
        free = pair[0] if pair else None
    return Device(
        name=name,
        capability=capability,
        sm=capability.sm if capability else None,
        integrated=integrated,
        memory_bytes=field("total_memory"),
        memory_available_bytes=_available(integrated, free),
        multiprocessors=field("multi_processor_count"),
        l2_bytes=field("L2_cache_size"),
        shared_memory_optin=field("shared_memory_per_block_optin"),
        driver=nvml.driver,
        source="torch and NVML" if nvml.problem is None else "torch",
    )


def _from_nvml(handle: Any, nvml: _Nvml) -> Device:
    """One device as NVML sees it. What NVML cannot tell comes from the table, and the source says so."""
    name = _text(nvml.ask("nvmlDeviceGetName", handle)) or "unnamed GPU"
    pair = nvml.ask("nvmlDeviceGetCudaComputeCapability", handle)
    known = find_device(name)
    capability = _try(Capability.parse, tuple(pair)) if pair is not None else None
    capability = capability or capability_of_name(name)
    memory = nvml.ask("nvmlDeviceGetMemoryInfo", handle)
    integrated = _integrated(known, capability)
    return Device(
        name=name,
        capability=capability,
        sm=capability.sm if capability else None,
        integrated=integrated,
        memory_bytes=getattr(memory, "total", None),
        memory_available_bytes=_available(integrated, getattr(memory, "free", None)),
        multiprocessors=known.multiprocessors if known else None,
        l2_bytes=known.l2_bytes if known else None,
        shared_memory_optin=shared_memory_optin(capability) if capability else None,
        driver=nvml.driver,
        source="NVML, and the table of known devices",
    )


def _integrated(known: KnownDevice | None, capability: Capability | None) -> bool | None:
    if known is not None:
        return known.integrated
    return True if capability in TEGRA else None


class _Nvml:
    """NVML for the time of one detection: every question answers None where it cannot be answered.

    problem: a sentence where NVML does not work at all. driver: its version. count: the GPUs it lists.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self.driver: str | None = None
        self.cuda: int | None = None
        self.count = 0
        self._module: Any = None

    def __enter__(self) -> _Nvml:
        try:
            import pynvml
        except Exception as error:
            self.problem = (
                f"The driver cannot be asked: nvidia-ml-py cannot be imported ({error}); install it."
            )
            return self
        try:
            pynvml.nvmlInit()
        except Exception as error:
            self.problem = self._why_not(pynvml, error)
            return self
        self._module = pynvml
        self.driver = _text(self.ask("nvmlSystemGetDriverVersion"))
        self.cuda = self.ask("nvmlSystemGetCudaDriverVersion_v2") or self.ask(
            "nvmlSystemGetCudaDriverVersion"
        )
        self.count = int(self.ask("nvmlDeviceGetCount") or 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._module is not None:
            _try(self._module.nvmlShutdown)

    @staticmethod
    def _why_not(pynvml: Any, error: Exception) -> str:
        code = getattr(error, "value", None)
        if code is not None and code == getattr(pynvml, "NVML_ERROR_LIBRARY_NOT_FOUND", None):
            return "No NVIDIA driver is installed on this machine, so it has no GPU that CUDA could use."
        if code is not None and code == getattr(pynvml, "NVML_ERROR_DRIVER_NOT_LOADED", None):
            return "The NVIDIA driver is installed but not loaded: load its module or restart the machine."
        if code is not None and code == getattr(pynvml, "NVML_ERROR_LIB_RM_VERSION_MISMATCH", None):
            return "The NVIDIA driver was updated and the old one is still loaded: restart the machine."
        return f"The NVIDIA driver does not answer: {error}."

    def ask(self, function: str, *arguments: Any) -> Any:
        """The value of one NVML call; None where the library, the device or the driver lacks it."""
        call = getattr(self._module, function, None)
        if call is None or any(argument is None for argument in arguments):
            return None
        return _try(call, *arguments)

    @property
    def cuda_text(self) -> str:
        return "an older version" if not self.cuda else f"{self.cuda // 1000}.{self.cuda % 1000 // 10}"

    def older_than(self, cuda: str) -> bool:
        """Whether the driver serves an older major version of CUDA than `cuda` ('13.0')."""
        major = _try(int, cuda.split(".")[0])
        return bool(self.cuda and major and self.cuda // 1000 < major)

    def visible_handles(self, visible: str | None) -> Iterator[Any]:
        """The handles CUDA_VISIBLE_DEVICES names, in its order; a bad entry ends the list, as in CUDA."""
        if visible is None:
            entries = [str(index) for index in range(self.count)]
        else:
            entries = [entry.strip() for entry in visible.split(",")]
        for entry in entries:
            if entry.isdigit():
                handle = (
                    self.ask("nvmlDeviceGetHandleByIndex", int(entry)) if int(entry) < self.count else None
                )
            else:
                handle = self._by_uuid(entry)
            if handle is None:
                return
            yield handle

    def _by_uuid(self, entry: str) -> Any:
        # CUDA takes an abbreviated UUID; NVML's own lookup wants all of it.
        for index in range(self.count):
            handle = self.ask("nvmlDeviceGetHandleByIndex", index)
            if entry and (_text(self.ask("nvmlDeviceGetUUID", handle)) or "").startswith(entry):
                return handle
        return None

    def handle_of(self, properties: Any) -> Any:
        """The handle of a torch device, by UUID or PCI address: the two count devices in different orders."""
        uuid = getattr(properties, "uuid", None)
        if uuid is not None:
            text = str(uuid)
            handle = self._by_uuid(text if text.startswith(("GPU-", "MIG-")) else f"GPU-{text}")
            if handle is not None:
                return handle
        bus = getattr(properties, "pci_bus_id", None)
        if isinstance(bus, int):
            domain = getattr(properties, "pci_domain_id", 0) or 0
            device = getattr(properties, "pci_device_id", 0) or 0
            return self.ask(
                "nvmlDeviceGetHandleByPciBusId", f"{domain:08x}:{bus:02x}:{device:02x}.0".encode()
            )
        return None
