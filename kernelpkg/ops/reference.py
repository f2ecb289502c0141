"""Independent references in float64, from the quantised operands as they were before packing.

Nothing here calls the operators or knows the packed layout; it is what they are checked against.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernelpkg.ops.formats import WeightFormat

# The sixteen e2m1 numbers by code (OCP Microscaling Formats 1.0, table 5).
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def dequantize_u4b8(qweight: Tensor, scales: Tensor, group_size: int, size_k: int | None = None) -> Tensor:
    """int32 [ceil(K/8), N] and [groups, N] scales -> float64 [K, N]: (code - 8) * scale."""
    levels = _nibbles(qweight, size_k)
    return (levels - 8).double() * _expand(scales, group_size, levels.shape[0])


def dequantize_u4(
    qweight: Tensor, scales: Tensor, zeros: Tensor, group_size: int, size_k: int | None = None
) -> Tensor:
    """int32 [ceil(K/8), N], [groups, N] scales and zero points -> float64 [K, N]: (code - zero) * scale."""
    levels = _nibbles(qweight, size_k)
    rows = levels.shape[0]
    return (levels.double() - _expand(zeros, group_size, rows)) * _expand(scales, group_size, rows)


def dequantize_u8b128(qweight: Tensor, scales: Tensor, group_size: int) -> Tensor:
    """uint8 [K, N] and [groups, N] scales -> float64 [K, N]: (code - 128) * scale."""
    return (qweight.double() - 128) * _expand(scales, group_size, qweight.shape[0])


def dequantize_e4m3(qweight: Tensor, scales: Tensor, group_size: int) -> Tensor:
    """float8_e4m3fn or uint8 [K, N] and [groups, N] scales (e8m0: MXFP8) -> float64 [K, N]."""
    values = qweight.view(torch.float8_e4m3fn) if qweight.dtype == torch.uint8 else qweight
    return values.double() * _expand(_e8m0(scales), group_size, values.shape[0])


def dequantize_e4m3_blocks(qweight: Tensor, scales: Tensor) -> Tensor:
    """float8_e4m3fn or uint8 [K, N] and one scale per 128 x 128 block -> float64 [K, N]."""
    columns = scales.repeat_interleave(128, dim=1)[:, : qweight.shape[1]]
    return dequantize_e4m3(qweight, columns, 128)


def dequantize_nvfp4(
    qweight: Tensor, scales: Tensor, global_scale: float = 1.0, size_k: int | None = None
) -> Tensor:
    """int32 [ceil(K/8), N], e4m3 scales (float8_e4m3fn or uint8) per 16 rows, global scale -> float64
    [K, N]."""
    values = _e2m1(qweight, size_k)
    return values * _expand(scales.view(torch.float8_e4m3fn), 16, values.shape[0]) * global_scale


def dequantize_mxfp4(qweight: Tensor, scales: Tensor, size_k: int | None = None) -> Tensor:
    """int32 [ceil(K/8), N] and e8m0 scales per 32 rows -> float64 [K, N]."""
    values = _e2m1(qweight, size_k)
    return values * _expand(_e8m0(scales), 32, values.shape[0])


def dequantize(
    qweight: Tensor,
    scales: Tensor,
    format: WeightFormat,
    group_size: int,
    *,
    zeros: Tensor | None = None,
    global_scale: float = 1.0,
    size_k: int | None = None,
    blocks: bool = False,
) -> Tensor:
    """One of the above, from what pack_marlin_weight takes."""
    if format == "u4b8":
        return dequantize_u4b8(qweight, scales, group_size, size_k)
    if format == "u4":
        assert zeros is not None
        return dequantize_u4(qweight, scales, zeros, group_size, size_k)
    if format == "u8b128":
        return dequantize_u8b128(qweight, scales, group_size)
    if format == "nvfp4":
        return dequantize_nvfp4(qweight, scales, global_scale, size_k)
    if format == "mxfp4":
        return dequantize_mxfp4(qweight, scales, size_k)
    return dequantize_e4m3_blocks(qweight, scales) if blocks else dequantize_e4m3(qweight, scales, group_size)


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
    """float64 [M, N] of FP8 operands and their scales, of either kind that cutlass_scaled_mm takes; not
    rounded to an output dtype."""
    rows, columns = scaled_operands(a, b, scale_a, scale_b)
    product = rows @ columns
    return product if bias is None else product + bias.double()


def scaled_operands(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor) -> tuple[Tensor, Tensor]:
    """float64 a [M, K] and b [K, N], times their scales: vectors, or blocks where either is none."""
    if scale_a.numel() in (1, a.shape[0]) and scale_b.numel() in (1, b.shape[1]):
        return a.double() * scale_a.double().reshape(-1, 1), b.double() * scale_b.double().reshape(1, -1)
    rows = scale_a.double().repeat_interleave(128, dim=1)[:, : a.shape[1]]
    return a.double() * rows, dequantize_e4m3_blocks(b, scale_b)


def _nibbles(qweight: Tensor, size_k: int | None) -> Tensor:
    """int32 [ceil(K/8), N] -> int32 [K, N] of 0 .. 15."""
    nibbles = [(qweight >> (4 * j)) & 0xF for j in range(8)]
    return torch.stack(nibbles, dim=1).reshape(qweight.shape[0] * 8, qweight.shape[1])[:size_k]


def _e2m1(qweight: Tensor, size_k: int | None) -> Tensor:
    """int32 [ceil(K/8), N] -> float64 [K, N]."""
    table = torch.tensor(E2M1, dtype=torch.float64, device=qweight.device)
    return table[_nibbles(qweight, size_k).long()]


def _e8m0(scales: Tensor) -> Tensor:
    """Exponent codes as float64 powers of two; other scales as they are."""
    if scales.dtype not in (torch.uint8, getattr(torch, "float8_e8m0fnu", None)):
        return scales
    return torch.exp2(scales.view(torch.uint8).double() - 127)


def _expand(scales: Tensor, group_size: int, size_k: int) -> Tensor:
    """[groups, N] scales -> float64 [K, N]; the last group as short as K leaves it."""
    rows = size_k if group_size == -1 else group_size
    return scales.double().reshape(-1, scales.shape[-1]).repeat_interleave(rows, dim=0)[:size_k]
