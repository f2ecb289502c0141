"""Devices this package knows by name, and the shared-memory limit of each capability.

The table serves devices that are not here (assumed ones, projections); a device that is here answers for
itself. A value that no source gives is None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kernelpkg.arch.capability import Capability

KIB = 1024
MIB = 1024 * 1024
GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """One row of the table, with where its figures are from.

    multiprocessors: SMs. l2_bytes: L2 cache. shared_memory_optin: bytes one block may ask for, which the
    capability decides. memory_bandwidth: bytes per second by the data sheet, not measured. aliases: further
    names it is found by.
    """

    name: str
    capability: Capability
    multiprocessors: int | None
    l2_bytes: int | None
    shared_memory_optin: int | None
    memory_bandwidth: int | None
    integrated: bool
    source: str
    aliases: tuple[str, ...] = ()


# Bytes of shared memory a block may opt in to (CUDA programming guide, technical specifications per compute
# capability; 1 KiB under the multiprocessor's shared memory, save for 7.5). 7.5 is from memory: check.
# 11.0 agrees with an owner's report of 228 KiB per multiprocessor.
_SHARED_MEMORY_OPTIN: dict[str, int] = {
    "7.5": 64 * KIB,
    "8.0": 163 * KIB,
    "8.6": 99 * KIB,
    "8.7": 163 * KIB,
    "8.9": 99 * KIB,
    "9.0": 227 * KIB,
    "10.0": 227 * KIB,
    "10.3": 227 * KIB,
    "11.0": 227 * KIB,
    "12.0": 99 * KIB,
    "12.1": 99 * KIB,
}


def shared_memory_optin(capability: Capability) -> int | None:
    """Bytes of shared memory one block may opt in to on this capability; None where nobody has said.

    A minor version that does not exist yet counts as its family where all of the family agree (10 and 12).
    """
    known = _SHARED_MEMORY_OPTIN.get(str(capability))
    if known is None and capability.major in (10, 12):
        return _SHARED_MEMORY_OPTIN[f"{capability.major}.0"]
    return known


def _row(
    name: str,
    capability: str,
    multiprocessors: int | None,
    l2_bytes: int | None,
    memory_bandwidth: int | None,
    source: str,
    *aliases: str,
    integrated: bool = False,
) -> KnownDevice:
    where = Capability.parse(capability)
    optin = shared_memory_optin(where)
    return KnownDevice(
        name, where, multiprocessors, l2_bytes, optin, memory_bandwidth, integrated, source, aliases
    )


# The first row of a capability stands for it where only the capability is known (`device_for`).
KNOWN_DEVICES: tuple[KnownDevice, ...] = (
    _row("T4", "7.5", 40, 4 * MIB, 320 * GB, "NVIDIA T4 product brief; Turing whitepaper"),
    _row(
        "A100", "8.0", 108, 40 * MIB, 2_039 * GB, "NVIDIA A100 80GB SXM data sheet; Ampere GA100 whitepaper"
    ),
    _row("GeForce RTX 3090", "8.6", 82, 6 * MIB, 936 * GB, "NVIDIA Ampere GA102 whitepaper"),
    _row("A10", "8.6", 72, 6 * MIB, 600 * GB, "NVIDIA A10 data sheet; Ampere GA102 whitepaper"),
    _row("A40", "8.6", 84, 6 * MIB, 696 * GB, "NVIDIA A40 data sheet; Ampere GA102 whitepaper"),
    _row(
        "Jetson AGX Orin",
        "8.7",
        16,
        4 * MIB,
        204_800_000_000,
        "Jetson AGX Orin 64GB technical brief (2048 CUDA cores, 4 MB L2, 204.8 GB/s)",
        "Jetson Orin",
        "Orin",
        "AGX Orin",
        integrated=True,
    ),
    _row("GeForce RTX 4090", "8.9", 128, 72 * MIB, 1_008 * GB, "NVIDIA Ada GPU architecture whitepaper"),
    _row("L4", "8.9", 58, 48 * MIB, 300 * GB, "NVIDIA L4 data sheet; Ada GPU architecture whitepaper"),
    _row("L40S", "8.9", 142, 96 * MIB, 864 * GB, "NVIDIA L40S data sheet; Ada GPU architecture whitepaper"),
    _row(
        "H200",
        "9.0",
        132,
        60 * MIB,
        4_800 * GB,
        "NVIDIA H200 data sheet (4.8 TB/s); L2 as the device reports it, from memory: check",
        "H200 SXM",
    ),
    _row(
        "H100 SXM",
        "9.0",
        132,
        50 * MIB,
        3_350 * GB,
        "NVIDIA H100 data sheet; Hopper architecture whitepaper",
        "H100",
        "H100 80GB HBM3",
    ),
    _row(
        "GH200",
        "9.0",
        132,
        None,
        4_000 * GB,
        "NVIDIA GH200 data sheet (96 GB HBM3: 4 TB/s; the 144 GB HBM3e form has more)",
        "GH200 480GB",
        "Grace Hopper",
    ),
    _row(
        "B200",
        "10.0",
        148,
        126 * MIB,
        8_000 * GB,
        "CUDA Blackwell tuning guide (126 MB L2); HGX B200 data sheet; SMs as third parties measured",
        "GB200",
    ),
    _row("B300", "10.3", None, None, 8_000 * GB, "NVIDIA HGX B300 data sheet (8 TB/s per GPU)", "GB300"),
    _row(
        "Jetson AGX Thor",
        "11.0",
        20,
        32 * MIB,
        273 * GB,
        "Jetson Thor data sheet (2560 CUDA cores, 273 GB/s); SMs and L2 as an owner queried them, "
        "NVIDIA developer forum 356355",
        "Jetson Thor",
        "Thor",
        "AGX Thor",
        "Jetson T5000",
        integrated=True,
    ),
    _row(
        "GeForce RTX 5090",
        "12.0",
        170,
        96 * MIB,
        1_792 * GB,
        "NVIDIA RTX Blackwell GPU architecture whitepaper",
    ),
    _row(
        "RTX PRO 6000 Blackwell",
        "12.0",
        188,
        128 * MIB,
        1_792 * GB,
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition data sheet; RTX PRO Blackwell whitepaper",
        "RTX PRO 6000",
        "RTX PRO 6000 Blackwell Workstation Edition",
    ),
    _row(
        "GB10",
        "12.1",
        48,
        24 * MIB,
        273 * GB,
        "NVIDIA DGX Spark data sheet (273 GB/s LPDDR5X); SMs and L2 as owners report them",
        "DGX Spark",
        "Spark",
        "GB10 Superchip",
        integrated=True,
    ),
)

# Names that tell the capability and nothing more (NVIDIA's list of CUDA GPUs).
_CAPABILITY_ONLY: tuple[tuple[str, str], ...] = (
    (r"rtx 20\d\d( super| ti)?", "7.5"),
    (r"rtx 30\d\d( super| ti)?", "8.6"),
    (r"rtx 40\d\d( super| ti)?( super)?", "8.9"),
    (r"rtx 50\d\d( super| ti)?", "12.0"),
    (r"rtx pro \d000( blackwell)?", "12.0"),
    (r"a10g|a16|a2|rtx a[456]000", "8.6"),
    (r"a30|a800|a100 pcie.*|a100.* pcie", "8.0"),
    (r"l20|l40|rtx 6000 ada", "8.9"),
    (r"h20|h800|h100 pcie|h100 nvl|h200 nvl", "9.0"),
)

_DROPPED = re.compile(r"\b(nvidia|geforce|tesla|graphics|gpu|tm|r|generation)\b")


def _plain(name: str) -> str:
    """A name for comparison: lower case, maker and product line dropped, single spaces."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower())
    return " ".join(_DROPPED.sub(" ", words).split())


def find_device(name: str) -> KnownDevice | None:
    """The row of a device by its name or an alias, None if unknown; case, 'NVIDIA' and 'GeForce' are ignored.

    A name with a form factor behind it, as the driver reports ('NVIDIA A100-SXM4-80GB'), is found too.
    """
    asked = _plain(name)
    best: tuple[int, KnownDevice] | None = None
    for device in KNOWN_DEVICES:
        for alias in (device.name, *device.aliases):
            key = _plain(alias)
            if asked == key:
                return device
            if _is_form_of(asked, key) and (best is None or len(key) > best[0]):
                best = (len(key), device)
    return best[1] if best else None


# What may follow a name without making it another product. PCIe, NVL and laptop forms are other products.
_FORM = re.compile(r"( (sxm\d?|\d+gb|hbm\d?e?|workstation|server|edition|ac|developer|kit))+")


def _is_form_of(asked: str, key: str) -> bool:
    rest = asked.removeprefix(key)
    return rest != asked and _FORM.fullmatch(rest) is not None


def capability_of_name(name: str) -> Capability | None:
    """The capability a device name tells, from the table or from its product line; None if unknown."""
    device = find_device(name)
    if device is not None:
        return device.capability
    asked = _plain(name)
    for pattern, capability in _CAPABILITY_ONLY:
        if re.fullmatch(pattern, asked):
            return Capability.parse(capability)
    return None


def device_for(capability: Capability) -> KnownDevice | None:
    """A device of this capability: the table's first row for it. None where the table has none."""
    return next((device for device in KNOWN_DEVICES if device.capability == capability), None)


def devices_for(capability: Capability) -> tuple[KnownDevice, ...]:
    """All rows of this capability."""
    return tuple(device for device in KNOWN_DEVICES if device.capability == capability)
