"""Capabilities, compilation targets, CUDA's loading rules, known devices and detection. Imports no torch."""

from kernelpkg.arch.capability import CAPABILITIES, ArchError, Capability
from kernelpkg.arch.detect import Detection, Device, assume, available_system_memory, detect
from kernelpkg.arch.devices import (
    KNOWN_DEVICES,
    KnownDevice,
    device_for,
    devices_for,
    find_device,
    shared_memory_optin,
)
from kernelpkg.arch.loading import TEGRA, Image, LoadAnswer, best_image, loads
from kernelpkg.arch.target import TOOLKIT_TARGETS, Target, parse_targets

__all__ = [
    "CAPABILITIES",
    "KNOWN_DEVICES",
    "TEGRA",
    "TOOLKIT_TARGETS",
    "ArchError",
    "Capability",
    "Detection",
    "Device",
    "Image",
    "KnownDevice",
    "LoadAnswer",
    "Target",
    "assume",
    "available_system_memory",
    "best_image",
    "detect",
    "device_for",
    "devices_for",
    "find_device",
    "loads",
    "parse_targets",
    "shared_memory_optin",
]
