"""Microscaled operands, where every 16 or 32 values of K share a scale, and the GEMMs on them.

    a, a_scales = ops.quantize_mxfp8_rows(x)
    b, b_scales = ops.quantize_mxfp8_rows(weight)  # weight [N, K], as torch.nn.Linear keeps it
    y = ops.mxfp8_scaled_mm(a, b, ops.swizzle_scales(a_scales), ops.swizzle_scales(b_scales))

    a, a_scales, a_global = ops.quantize_nvfp4_rows(x)
    b, b_scales, b_global = ops.quantize_nvfp4_rows(weight)
    swizzled = ops.swizzle_scales(a_scales), ops.swizzle_scales(b_scales)
    y = ops.nvfp4_scaled_mm(a, b, *swizzled, alpha=a_global * b_global)

Both operands are [rows, K]: rows of a are tokens, rows of b are channels. MXFP8 is e4m3 with a power of two
(e8m0) per 32 values, NVFP4 is e2m1 with an e4m3 scale per 16 values and one float32 for the whole tensor. The
GEMMs take scales in the order the tensor cores read them, which `swizzle_scales` makes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernelpkg.errors import UsageError
from kernelpkg.gates import gate
from kernelpkg.ops.functional import device_capability, one_device, require_dtype, require_tensors
from kernelpkg.ops.load import load
from kernelpkg.ops.quantize import E2M1_MAX, E4M3_MAX, e2m1_codes, e8m0_codes
from kernelpkg.ops.reference import E2M1

MXFP8_BLOCK = 32
NVFP4_BLOCK = 16
GATE = "scaled_mm_sm120"
_K = 32  # K must be a multiple: rows of 16 bytes in NVFP4, whole blocks in MXFP8
_E4M3_EXPONENT = 8  # of e4m3's largest value
_SMALLEST = 2.0**-9  # e4m3's smallest positive number
_FP8 = torch.float8_e4m3fn
_TILE_ROWS, _TILE_COLUMNS = 128, 4


def quantize_mxfp8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, K] floats -> (e4m3 [rows, K], uint8 e8m0 exponents [rows, K/32]): OCP MXFP8.

    K must be a multiple of 32.
    """
    values = _rows(x)
    blocks = values.unflatten(1, (values.shape[1] // MXFP8_BLOCK, MXFP8_BLOCK))
    scales = e8m0_codes(blocks.abs().amax(dim=2), _E4M3_EXPONENT)
    scaled = torch.ldexp(blocks, 127 - scales[:, :, None].int()).clamp(-E4M3_MAX, E4M3_MAX)
    return scaled.to(_FP8).reshape(values.shape), scales


def quantize_nvfp4_rows(x: Tensor, global_scale: float | None = None) -> tuple[Tensor, Tensor, float]:
    """[rows, K] floats -> (uint8 [rows, K/2], e4m3 scales [rows, K/16], global scale): value = e2m1 * scale *
    global scale, two codes a byte, the lower K in the low half.

    K must be a multiple of 32. global_scale: None brings the largest block's scale to e4m3's largest value;
    one that is given (positive, finite) is kept, and values that it does not reach saturate.
    """
    values = _rows(x)
    blocks = values.unflatten(1, (values.shape[1] // NVFP4_BLOCK, NVFP4_BLOCK))
    largest = blocks.abs().amax(dim=2)
    if global_scale is None:
        top = float(largest.max()) if largest.numel() else 0.0
        global_scale = top / (E2M1_MAX * E4M3_MAX) or 1.0
    elif not 0 < global_scale < float("inf"):
        raise UsageError(f"global_scale is {global_scale}; it must be positive and finite")
    scales = (largest / (E2M1_MAX * global_scale)).clamp(_SMALLEST, E4M3_MAX).to(_FP8)
    codes = e2m1_codes(blocks / (scales.float() * global_scale)[:, :, None]).reshape(values.shape)
    packed = codes[:, 0::2] | codes[:, 1::2] << 4
    return packed.to(torch.uint8), scales, global_scale


def swizzle_scales(scales: Tensor) -> Tensor:
    """One-byte scales [rows, blocks] -> the same, flat, in the order of the tensor cores.

    Tiles of 128 rows and 4 blocks follow each other along the row, 512 bytes each: within one, the scale of
    row r and block j is byte r % 32 * 16 + r // 32 * 4 + j. What fills rows up to 128 and blocks up to 4 is
    zero bits.
    """
    if scales.dim() != 2 or scales.element_size() != 1:
        raise UsageError(
            f"scales is {scales.dtype} {list(scales.shape)}; it must be [rows, blocks] of one-byte scales"
        )
    rows, blocks = scales.shape
    padding = (0, -blocks % _TILE_COLUMNS, 0, -rows % _TILE_ROWS)
    padded = torch.nn.functional.pad(scales.view(torch.uint8), padding)
    tiles = padded.reshape(padded.shape[0] // _TILE_ROWS, 4, 32, padded.shape[1] // _TILE_COLUMNS, 4)
    return tiles.permute(0, 3, 2, 1, 4).reshape(-1).contiguous().view(scales.dtype)


def unswizzle_scales(scales: Tensor, rows: int, blocks: int) -> Tensor:
    """What `swizzle_scales` made, back to [rows, blocks]."""
    tall, wide = -(-rows // _TILE_ROWS), -(-blocks // _TILE_COLUMNS)
    if scales.element_size() != 1 or scales.numel() != tall * wide * _TILE_ROWS * _TILE_COLUMNS:
        raise UsageError(
            f"scales is {scales.dtype} {list(scales.shape)}; it must have one byte for each of {rows} rows "
            f"and {blocks} blocks, padded to multiples of 128 and 4"
        )
    tiles = scales.contiguous().view(torch.uint8).reshape(tall, wide, 32, 4, 4)
    plain = tiles.permute(0, 3, 2, 1, 4).reshape(tall * _TILE_ROWS, wide * _TILE_COLUMNS)
    return plain[:rows, :blocks].contiguous().view(scales.dtype)


def dequantize_mxfp8_rows(codes: Tensor, scales: Tensor) -> Tensor:
    """e4m3 [rows, K] and e8m0 scales (or their bytes) [rows, K/32], not swizzled -> float64 [rows, K]."""
    exponents = scales.view(torch.uint8).double()
    powers = torch.where(exponents == 255, torch.nan, torch.exp2(exponents - 127))
    return codes.double() * powers.repeat_interleave(MXFP8_BLOCK, dim=1)


def dequantize_nvfp4_rows(packed: Tensor, scales: Tensor, global_scale: float = 1.0) -> Tensor:
    """uint8 [rows, K/2], e4m3 scales [rows, K/16], not swizzled, and global scale -> float64 [rows, K]."""
    table = torch.tensor(E2M1, dtype=torch.float64, device=packed.device)
    codes = torch.stack((packed & 15, packed >> 4), dim=2).flatten(1)
    return table[codes.long()] * scales.double().repeat_interleave(NVFP4_BLOCK, dim=1) * global_scale


def mxfp8_scaled_mm(
    a: Tensor,
    b: Tensor,
    a_scales: Tensor,
    b_scales: Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
    bias: Tensor | None = None,
) -> Tensor:
    """(a_scales * a) @ (b_scales * b).T + bias: [M, N] in out_dtype (bfloat16 or float16).

    a: float8_e4m3fn [M, K], b: float8_e4m3fn [N, K], K a multiple of 32 (`quantize_mxfp8_rows`). a_scales,
    b_scales: uint8 or float8_e8m0fnu as `swizzle_scales` orders them; padding may be any scale but NaN. bias:
    [N] in out_dtype. Rows that do not start on 16 bytes are copied first.

    On CPU tensors the reference runs. Raises kernelpkg.gates.GateRefusal on a device that the gate
    scaled_mm_sm120 does not admit, ValueError for arguments that do not fit, UsageError (a ValueError) where
    no library is built.
    """
    require_tensors("mxfp8_scaled_mm", a=a, b=b, a_scales=a_scales, b_scales=b_scales)
    require_dtype("mxfp8_scaled_mm", out_dtype)
    load()
    if a.is_cuda:
        _admitted(a.device.index or 0)
    return torch.ops.kernelpkg.mxfp8_scaled_mm(a, b, a_scales, b_scales, bias, out_dtype)


def nvfp4_scaled_mm(
    a: Tensor,
    b: Tensor,
    a_scales: Tensor,
    b_scales: Tensor,
    alpha: float,
    out_dtype: torch.dtype = torch.bfloat16,
    bias: Tensor | None = None,
) -> Tensor:
    """alpha * (a_scales * a) @ (b_scales * b).T + bias: [M, N] in out_dtype (bfloat16 or float16).

    a: uint8 [M, K/2], b: uint8 [N, K/2], two e2m1 codes a byte, K a multiple of 32 (`quantize_nvfp4_rows`);
    torch.float4_e2m1fn_x2 tensors go in as .view(torch.uint8). a_scales, b_scales: float8_e4m3fn, none
    negative, as `swizzle_scales` orders them. alpha: the product of both global scales. Otherwise as
    `mxfp8_scaled_mm`.
    """
    require_tensors("nvfp4_scaled_mm", a=a, b=b, a_scales=a_scales, b_scales=b_scales)
    require_dtype("nvfp4_scaled_mm", out_dtype)
    if not isinstance(alpha, int | float):
        raise UsageError(f"nvfp4_scaled_mm: alpha is {alpha!r}; it must be the product of both global scales")
    load()
    if a.is_cuda:
        _admitted(a.device.index or 0)
    return torch.ops.kernelpkg.nvfp4_scaled_mm(a, b, a_scales, b_scales, alpha, bias, out_dtype)


# torch.compile evaluates this while it traces, and keeps the answer: a device's capability does not change.
@torch.compiler.assume_constant_result
def _admitted(device: int) -> bool:
    gate(GATE).require(device_capability(device))
    return True


def _rows(x: Tensor) -> Tensor:
    if x.dim() != 2 or not x.is_floating_point():
        raise UsageError(f"x is {x.dtype} {list(x.shape)}; it must be a floating-point matrix")
    if x.shape[1] % _K or not x.shape[1]:
        raise UsageError(f"x is {list(x.shape)}; K must be a positive multiple of {_K}, pad it with zeros")
    return x.float()


def _mxfp8_fake(
    a: Tensor, b: Tensor, a_scales: Tensor, b_scales: Tensor, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    one_device("scaled_mm", a, b=b, a_scales=a_scales, b_scales=b_scales, bias=bias)
    torch._check(
        a.dim() == 2 and b.dim() == 2,
        lambda: f"a has {a.dim()} and b {b.dim()} dimensions; they must be [M, K] and [N, K]",
    )
    torch._check(a.shape[1] == b.shape[1], lambda: f"a is {list(a.shape)} and b {list(b.shape)}; K differs")
    return a.new_empty((a.shape[0], b.shape[0]), dtype=out_dtype)


def _nvfp4_fake(
    a: Tensor,
    b: Tensor,
    a_scales: Tensor,
    b_scales: Tensor,
    alpha: float,
    bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    return _mxfp8_fake(a, b, a_scales, b_scales, bias, out_dtype)


# Shape-only implementations, which kernelpkg.ops.fakes registers with the others.
FAKES = {
    "kernelpkg::mxfp8_scaled_mm": _mxfp8_fake,
    "kernelpkg::nvfp4_scaled_mm": _nvfp4_fake,
    "kernelpkg_evidence::mxfp8_scaled_mm_standin": _mxfp8_fake,
    "kernelpkg_evidence::nvfp4_scaled_mm_standin": _nvfp4_fake,
}
