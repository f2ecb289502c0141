"""Quantisers: FP8 e4m3 per tensor, token, channel or group; u4b8 (GPTQ symmetric) per channel or group.

All return (quantised, scales) with value = quantised * scale. A slice of zeros gets scale 1, so that no scale
is zero. NaN and infinities are not hidden: they make their slice's scale, and so its results, NaN or
infinite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernelpkg.errors import UsageError

E4M3_MAX = 448.0  # largest finite e4m3fn value: 1.75 * 2**8 (OCP OFP8 1.0, table 1)
_U4B8_MAX = 7  # symmetric range used: -7 .. 7; the code for -8 stays unused
_GROUP = 128
_FP8 = torch.float8_e4m3fn


def _matrix(x: Tensor, what: str) -> Tensor:
    if x.dim() != 2 or not x.is_floating_point():
        raise UsageError(f"{what} is {x.dtype} {list(x.shape)}; it must be a floating-point matrix")
    return x.float()


def _scale(amax: Tensor, largest: float) -> Tensor:
    return torch.where(amax == 0, torch.ones_like(amax), amax / largest)


def _to_e4m3(x: Tensor, scale: Tensor) -> Tensor:
    # torch's conversion turns what lies above 448 into NaN; a quotient may exceed it by one rounding.
    return (x / scale).clamp(-E4M3_MAX, E4M3_MAX).to(_FP8)


def quantize_fp8_per_tensor(x: Tensor) -> tuple[Tensor, Tensor]:
    """[M, K] floats -> (e4m3 [M, K], float32 [1])."""
    values = _matrix(x, "x")
    amax = values.abs().max().reshape(1) if values.numel() else values.new_zeros(1)
    scale = _scale(amax, E4M3_MAX)
    return _to_e4m3(values, scale), scale


def quantize_fp8_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """[M, K] floats -> (e4m3 [M, K], float32 [M, 1]): one scale per row."""
    values = _matrix(x, "x")
    scale = _scale(values.abs().amax(dim=1, keepdim=True), E4M3_MAX)
    return _to_e4m3(values, scale), scale


def quantize_fp8_per_channel(w: Tensor) -> tuple[Tensor, Tensor]:
    """[K, N] floats -> (e4m3 [K, N] row-major, float32 [1, N]): one scale per column."""
    values = _matrix(w, "w")
    scale = _scale(values.abs().amax(dim=0, keepdim=True), E4M3_MAX)
    return _to_e4m3(values, scale).contiguous(), scale


def quantize_fp8_per_group(
    w: Tensor, group_size: int = _GROUP, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor]:
    """[K, N] floats -> (e4m3 [K, N] row-major, `dtype` [groups, N]), for W8A16; group_size -1 means per
    channel.

    The weight is divided by the scale as rounded to `dtype`, so the rounding of the scale costs no accuracy.
    """
    values = _matrix(w, "w")
    groups = _grouped(values, group_size)
    scale = _scale(groups.abs().amax(dim=1), E4M3_MAX).to(dtype)
    quantised = _to_e4m3(groups, scale.float()[:, None, :]).reshape(values.shape)
    return quantised.contiguous(), scale


def quantize_u4b8(
    w: Tensor, group_size: int = _GROUP, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor]:
    """[K, N] floats -> (int32 [K/8, N], `dtype` [groups, N]): GPTQ's symmetric 4-bit form.

    Nibble j of word (r, n) holds weight (8 r + j, n) plus 8. group_size: 128, or -1 for one scale per
    channel. K must be a multiple of 8 and of the group. The scale is max|w| / 7 of its group, rounded to
    `dtype` first.
    """
    values = _matrix(w, "w")
    if values.shape[0] % 8:
        raise UsageError(f"w is {list(values.shape)}; K must be a multiple of 8, pad it with zeros")
    groups = _grouped(values, group_size)
    scale = _scale(groups.abs().amax(dim=1), _U4B8_MAX).to(dtype)
    levels = (groups / scale.float()[:, None, :]).round().clamp(-8, 7) + 8
    return pack_nibbles(levels.reshape(values.shape).to(torch.int32)), scale


def pack_nibbles(levels: Tensor) -> Tensor:
    """int32 [K, N] of 0 .. 15 -> int32 [K/8, N], nibble j of word (r, n) from row 8 r + j."""
    rows, columns = levels.shape
    shifts = 4 * torch.arange(8, dtype=torch.int64, device=levels.device)
    words = (levels.to(torch.int64).reshape(rows // 8, 8, columns) << shifts[None, :, None]).sum(dim=1)
    return words.to(torch.int32)  # the conversion keeps the low 32 bits


def to_column_major(w: Tensor) -> Tensor:
    """The same matrix with stride(0) == 1, as cutlass_scaled_mm takes its second operand."""
    return w.t().contiguous().t()


def _grouped(values: Tensor, group_size: int) -> Tensor:
    """[K, N] -> [groups, group, N]."""
    rows, columns = values.shape
    group = rows if group_size == -1 else group_size
    if group <= 0 or rows % group:
        raise UsageError(
            f"w is {list(values.shape)} and group_size {group_size}; K must be a multiple of it, or it -1"
        )
    return values.reshape(rows // group, group, columns)
