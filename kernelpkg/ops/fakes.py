"""Fake (shape-only) implementations for torch.compile and meta tensors, registered when the library is
loaded.

They know shapes, activation dtypes and devices: scales, values and alignments are refused by the operators
when they run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernelpkg.ops import microscaling
from kernelpkg.ops.formats import FORMATS, packed_shape
from kernelpkg.ops.functional import one_device

_FP8 = torch.float8_e4m3fn
_SCALED_MM_TYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
_BY_CODE = {entry.code: entry for entry in FORMATS.values()}


def _marlin_gemm(
    a: Tensor,
    b_packed: Tensor,
    b_scales: Tensor,
    b_zeros: Tensor | None,
    a_scales: Tensor | None,
    bias: Tensor | None,
    weight_format: int,
    size_n: int,
    size_k: int,
    group_size: int,
    output_scale: float,
) -> Tensor:
    one_device("marlin_gemm", a, b_packed=b_packed, b_scales=b_scales, a_scales=a_scales, bias=bias)
    torch._check(a.dim() == 2, lambda: f"marlin_gemm: a has {a.dim()} dimensions; it must be [M, K]")
    torch._check(
        a.shape[1] == size_k, lambda: f"marlin_gemm: a has K = {a.shape[1]} and the weight K = {size_k}"
    )
    return a.new_empty((a.shape[0], size_n), dtype=b_scales.dtype if a.dtype == _FP8 else a.dtype)


def _marlin_repack(weight: Tensor, weight_format: int, size_k: int, size_n: int) -> Tensor:
    torch._check(
        weight_format in _BY_CODE,
        lambda: f"marlin_repack: weight_format is {weight_format}; it must be from 0 to {len(_BY_CODE) - 1}",
    )
    return weight.new_empty(packed_shape(_BY_CODE[weight_format], size_k, size_n), dtype=torch.int32)


def _scaled_mm(
    a: Tensor,
    b: Tensor,
    a_scales: Tensor,
    b_scales: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
    configuration: int = -1,
) -> Tensor:
    one_device("cutlass_scaled_mm", a, b=b, a_scales=a_scales, b_scales=b_scales, bias=bias)
    torch._check(
        a.dtype in _SCALED_MM_TYPES and b.dtype == _FP8,
        lambda: (
            f"cutlass_scaled_mm: a is {a.dtype} and b {b.dtype}; a must be float8_e4m3fn or float8_e5m2 "
            "and b float8_e4m3fn"
        ),
    )
    torch._check(
        a.dim() == 2 and b.dim() == 2,
        lambda: (
            f"cutlass_scaled_mm: a has {a.dim()} and b {b.dim()} dimensions; they must be [M, K] and [K, N]"
        ),
    )
    torch._check(
        a.shape[1] == b.shape[0], lambda: f"cutlass_scaled_mm: a has K = {a.shape[1]} and b K = {b.shape[0]}"
    )
    return a.new_empty((a.shape[0], b.shape[1]), dtype=out_dtype)


FAKES = {
    "kernelpkg::marlin_gemm": _marlin_gemm,
    "kernelpkg::marlin_repack": _marlin_repack,
    "kernelpkg::cutlass_scaled_mm": _scaled_mm,
    "kernelpkg_evidence::marlin_gemm_emulated": _marlin_gemm,
    "kernelpkg_evidence::scaled_mm_sm89_standin": _scaled_mm,
    "kernelpkg_evidence::scaled_mm_sm120_standin": _scaled_mm,
    **microscaling.FAKES,
}


def register() -> None:
    """Registers every fake. Call once, after the library is loaded."""
    for name, fake in FAKES.items():
        torch.library.register_fake(name, fake)
