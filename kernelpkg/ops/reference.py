"""Independent references in float64, from the quantised operands as they were before packing.

Nothing here calls the operators or knows the packed layout; it is what they are checked against.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def dequantize_u4b8(qweight: Tensor, scales: Tensor, group_size: int) -> Tensor:
    """int32 [K/8, N] and [groups, N] scales -> float64 [K, N]."""
    nibbles = [(qweight >> (4 * j)) & 0xF for j in range(8)]
    levels = torch.stack(nibbles, dim=1).reshape(qweight.shape[0] * 8, qweight.shape[1])
    return (levels - 8).double() * _expand(scales, group_size, levels.shape[0])


def dequantize_e4m3(qweight: Tensor, scales: Tensor, group_size: int) -> Tensor:
    """float8_e4m3fn or uint8 [K, N] and [groups, N] scales -> float64 [K, N]."""
    values = qweight.view(torch.float8_e4m3fn) if qweight.dtype == torch.uint8 else qweight
    return values.double() * _expand(scales, group_size, values.shape[0])


def dequantize(qweight: Tensor, scales: Tensor, format: Literal["u4b8", "e4m3"], group_size: int) -> Tensor:
    """Either of the two above, by format."""
    return (dequantize_u4b8 if format == "u4b8" else dequantize_e4m3)(qweight, scales, group_size)


def marlin_gemm_reference(
    a: Tensor, weight: Tensor, a_scales: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """float64 [M, N] of a [M, K] and a dequantised weight [K, N]; not rounded to an output dtype."""
    activations = a.double() if a_scales is None else a.double() * a_scales.double().reshape(-1, 1)
    product = activations @ weight
    return product if bias is None else product + bias.double()


def scaled_mm_reference(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None = None
) -> Tensor:
    """float64 [M, N] of e4m3 operands and their scales; not rounded to an output dtype."""
    product = (a.double() * scale_a.double().reshape(-1, 1)) @ (b.double() * scale_b.double().reshape(1, -1))
    return product if bias is None else product + bias.double()


def _expand(scales: Tensor, group_size: int, size_k: int) -> Tensor:
    """[groups, N] scales -> float64 [K, N]."""
    rows = size_k if group_size == -1 else group_size
    return scales.double().reshape(-1, scales.shape[-1]).repeat_interleave(rows, dim=0)
