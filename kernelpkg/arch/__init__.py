"""Capabilities, compilation targets, CUDA's loading rules, known devices and detection. Imports no torch."""

from kernelpkg.arch.capability import CAPABILITIES, ArchError, Capability
from kernelpkg.arch.loading import Image, LoadAnswer, best_image, loads
from kernelpkg.arch.target import Target, parse_targets

__all__ = [
    "CAPABILITIES",
    "ArchError",
    "Capability",
    "Image",
    "LoadAnswer",
    "Target",
    "best_image",
    "loads",
    "parse_targets",
]
