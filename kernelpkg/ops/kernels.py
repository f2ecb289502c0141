"""The kernels by the names users see: which operator runs each, which gate admits it, what it multiplies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kernelpkg.errors import UsageError
from kernelpkg.ops.formats import WeightFormat

Family = Literal["marlin", "scaled_mm", "microscaled", "repack"]
Microscaling = Literal["mxfp8", "nvfp4"]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel.

    operator: its torch operator, 'namespace::name'. gate: the gate that admits it (the evidence gate for
    evidence builds). evidence: None, 'emulated' or 'standin'. shown_for: for evidence, the kernel it stands
    for. fp8_mma: whether it multiplies in FP8. weight_format: of the Marlin kernels, one of ops.FORMATS.
    microscaling: of the microscaled kernels, the format of both operands.
    """

    name: str
    operator: str
    gate: str
    family: Family
    fp8_mma: bool
    evidence: Literal["emulated", "standin"] | None = None
    shown_for: str | None = None
    weight_format: WeightFormat | None = None
    microscaling: Microscaling | None = None


def _marlin(name: str, form: WeightFormat) -> Kernel:
    return Kernel(name, "kernelpkg::marlin_gemm", "marlin_16bit", "marlin", False, weight_format=form)


def _marlin_fp8(name: str, form: WeightFormat) -> Kernel:
    return Kernel(name, "kernelpkg::marlin_gemm", "marlin_fp8", "marlin", True, weight_format=form)


def _emulated(entry: Kernel) -> Kernel:
    return Kernel(
        f"{entry.name}_emulated",
        "kernelpkg_evidence::marlin_gemm_emulated",
        "evidence_sm90",
        entry.family,
        True,
        "emulated",
        entry.name,
        entry.weight_format,
    )


def _scaled_mm(name: str) -> Kernel:
    return Kernel(name, "kernelpkg::cutlass_scaled_mm", name, "scaled_mm", True)


def _standin(route: str) -> Kernel:
    name = f"{route}_standin"
    return Kernel(name, f"kernelpkg_evidence::{name}", "evidence_sm90", "scaled_mm", True, "standin", route)


def _microscaled(form: Microscaling, standin: bool = False) -> Kernel:
    name, operator = f"{form}_scaled_mm_sm120", f"{form}_scaled_mm"
    if standin:
        return Kernel(
            f"{name}_standin",
            f"kernelpkg_evidence::{operator}_standin",
            "evidence_sm90",
            "microscaled",
            form == "mxfp8",
            "standin",
            name,
            microscaling=form,
        )
    gate = "scaled_mm_sm120"
    return Kernel(name, f"kernelpkg::{operator}", gate, "microscaled", form == "mxfp8", microscaling=form)


_MARLIN_FP8 = (
    _marlin_fp8("marlin_w4a8_fp8", "u4b8"),
    _marlin_fp8("marlin_w4a8_fp8_zp", "u4"),
    _marlin_fp8("marlin_w4a8_fp8_mxfp4", "mxfp4"),
    _marlin_fp8("marlin_w8a8_fp8", "e4m3"),
)

KERNELS: tuple[Kernel, ...] = (
    Kernel("marlin_repack", "kernelpkg::marlin_repack", "marlin_16bit", "repack", False),
    _marlin("marlin_w8a16", "e4m3"),
    _marlin("marlin_w4a16", "u4b8"),
    _marlin("marlin_w4a16_zp", "u4"),
    _marlin("marlin_w8a16_int8", "u8b128"),
    _marlin("marlin_w4a16_nvfp4", "nvfp4"),
    _marlin("marlin_w4a16_mxfp4", "mxfp4"),
    *_MARLIN_FP8,
    *(_scaled_mm(f"scaled_mm_{route}") for route in ("sm89", "sm90", "sm100", "sm120")),
    _microscaled("mxfp8"),
    _microscaled("nvfp4"),
    *(_emulated(entry) for entry in _MARLIN_FP8),
    *(_standin(route) for route in ("scaled_mm_sm89", "scaled_mm_sm120")),
    _microscaled("mxfp8", standin=True),
    _microscaled("nvfp4", standin=True),
)

_BY_NAME = {entry.name: entry for entry in KERNELS}


def kernel(name: str) -> Kernel:
    """The kernel of this name. Raises UsageError with the known names where there is none."""
    if name not in _BY_NAME:
        raise UsageError(f"no kernel is called {name!r}; the kernels are {', '.join(_BY_NAME)}")
    return _BY_NAME[name]
