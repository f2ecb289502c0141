"""The kernels by the names users see: which operator runs each, which gate admits it, what it multiplies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kernelpkg.errors import UsageError

Family = Literal["marlin", "scaled_mm", "repack"]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel.

    operator: its torch operator, 'namespace::name'. gate: the gate that admits it (the evidence gate for
    evidence builds). evidence: None, 'emulated' or 'standin'. shown_for: for evidence, the kernel it stands
    for. fp8_mma: whether it multiplies in FP8. weight_format: 'u4b8' or 'e4m3' for the Marlin kernels.
    """

    name: str
    operator: str
    gate: str
    family: Family
    fp8_mma: bool
    evidence: Literal["emulated", "standin"] | None = None
    shown_for: str | None = None
    weight_format: Literal["u4b8", "e4m3"] | None = None


KERNELS: tuple[Kernel, ...] = (
    Kernel("marlin_repack", "kernelpkg::marlin_repack", "marlin_16bit", "repack", False),
    Kernel("marlin_w8a16", "kernelpkg::marlin_gemm", "marlin_16bit", "marlin", False, weight_format="e4m3"),
    Kernel("marlin_w4a16", "kernelpkg::marlin_gemm", "marlin_16bit", "marlin", False, weight_format="u4b8"),
    Kernel("marlin_w4a8_fp8", "kernelpkg::marlin_gemm", "marlin_fp8", "marlin", True, weight_format="u4b8"),
    Kernel("scaled_mm_sm89", "kernelpkg::cutlass_scaled_mm", "scaled_mm_sm89", "scaled_mm", True),
    Kernel("scaled_mm_sm90", "kernelpkg::cutlass_scaled_mm", "scaled_mm_sm90", "scaled_mm", True),
    Kernel("scaled_mm_sm100", "kernelpkg::cutlass_scaled_mm", "scaled_mm_sm100", "scaled_mm", True),
    Kernel("scaled_mm_sm120", "kernelpkg::cutlass_scaled_mm", "scaled_mm_sm120", "scaled_mm", True),
    Kernel(
        "marlin_w4a8_fp8_emulated",
        "kernelpkg_evidence::marlin_gemm_emulated",
        "evidence_sm90",
        "marlin",
        True,
        "emulated",
        "marlin_w4a8_fp8",
        "u4b8",
    ),
    Kernel(
        "scaled_mm_sm89_standin",
        "kernelpkg_evidence::scaled_mm_sm89_standin",
        "evidence_sm90",
        "scaled_mm",
        True,
        "standin",
        "scaled_mm_sm89",
    ),
    Kernel(
        "scaled_mm_sm120_standin",
        "kernelpkg_evidence::scaled_mm_sm120_standin",
        "evidence_sm90",
        "scaled_mm",
        True,
        "standin",
        "scaled_mm_sm120",
    ),
)

_BY_NAME = {entry.name: entry for entry in KERNELS}


def kernel(name: str) -> Kernel:
    """The kernel of this name. Raises UsageError with the known names where there is none."""
    if name not in _BY_NAME:
        raise UsageError(f"no kernel is called {name!r}; the kernels are {', '.join(_BY_NAME)}")
    return _BY_NAME[name]
