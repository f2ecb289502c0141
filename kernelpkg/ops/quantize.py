"""Quantisers, one or more for every weight format, and for FP8 activations.

All return (quantised, scales), some of them a third thing, with value = quantised * scale as the format says.
A slice of zeros gets scale 1, so that no scale is zero. NaN and infinities are not hidden: they make their
slice's scale, and so its results, NaN or infinite (the integer formats cannot carry them: their scale does).

Any K: the last group is as short as K leaves it, and words of eight 4-bit codes are filled with zero weights
(then pass size_k to pack_marlin_weight).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernelpkg.errors import UsageError
from kernelpkg.ops.formats import groups_of

E4M3_MAX = 448.0  # largest finite e4m3fn value: 1.75 * 2**8 (OCP OFP8 1.0, table 1)
E5M2_MAX = 57344.0  # largest finite e5m2 value: 1.75 * 2**15 (the same)
E2M1_MAX = 6.0  # 1.5 * 2**2 (OCP Microscaling Formats 1.0, table 5)
_U4B8_MAX = 7  # symmetric range used: -7 .. 7; the code for -8 stays unused
_U8B128_MAX = 127  # the same in eight bits
_GROUP = 128
_BLOCK = 128
_FP8 = torch.float8_e4m3fn
_LARGEST = {torch.float8_e4m3fn: E4M3_MAX, torch.float8_e5m2: E5M2_MAX}


def _some_k(what: str, x: Tensor, k: int) -> None:
    if k == 0:
        raise UsageError(f"{what} is {list(x.shape)}; K must be at least 1")


def _matrix(x: Tensor, what: str) -> Tensor:
    if x.dim() != 2 or not x.is_floating_point():
        raise UsageError(f"{what} is {x.dtype} {list(x.shape)}; it must be a floating-point matrix")
    return x.float()


def _scale(amax: Tensor, largest: float) -> Tensor:
    return torch.where(amax == 0, torch.ones_like(amax), amax / largest)


def _largest(dtype: torch.dtype) -> float:
    """The largest finite value of an FP8 dtype."""
    if dtype not in _LARGEST:
        raise UsageError(f"dtype is {dtype}; it must be torch.float8_e4m3fn or torch.float8_e5m2")
    return _LARGEST[dtype]


def _to_fp8(x: Tensor, scale: Tensor, dtype: torch.dtype = _FP8) -> Tensor:
    # torch's conversion turns what lies above 448 into NaN (57344 in e5m2: infinity); a quotient may exceed
    # it by one rounding.
    largest = _LARGEST[dtype]
    return (x / scale).clamp(-largest, largest).to(dtype)


def quantize_fp8_per_tensor(x: Tensor, dtype: torch.dtype = _FP8) -> tuple[Tensor, Tensor]:
    """[M, K] floats -> (FP8 [M, K], float32 [1]). dtype: float8_e4m3fn, or float8_e5m2 for activations."""
    values, largest = _matrix(x, "x"), _largest(dtype)
    amax = values.abs().max().reshape(1) if values.numel() else values.new_zeros(1)
    scale = _scale(amax, largest)
    return _to_fp8(values, scale, dtype), scale


def quantize_fp8_per_token(x: Tensor, dtype: torch.dtype = _FP8) -> tuple[Tensor, Tensor]:
    """[M, K] floats -> (FP8 [M, K], float32 [M, 1]): one scale per row. dtype: as per tensor."""
    values, largest = _matrix(x, "x"), _largest(dtype)
    _some_k("x", x, x.shape[1])
    scale = _scale(values.abs().amax(dim=1, keepdim=True), largest)
    return _to_fp8(values, scale, dtype), scale


def quantize_fp8_per_token_group(
    x: Tensor, group: int = _GROUP, dtype: torch.dtype = _FP8
) -> tuple[Tensor, Tensor]:
    """[M, K] floats -> (FP8 [M, K], float32 [M, ceil(K/group)], column-major): one scale per row and `group`
    values of K. cutlass_scaled_mm takes groups of 128, beside the weight of `quantize_fp8_blocks`.
    """
    values, largest = _matrix(x, "x"), _largest(dtype)
    if group < 1:
        raise UsageError(f"group is {group}; it must be at least 1")
    rows, columns = values.shape
    padded = torch.nn.functional.pad(values, (0, -columns % group))
    groups = padded.reshape(rows, padded.shape[1] // group, group)
    scale = _scale(groups.abs().amax(dim=2), largest)
    quantised = _to_fp8(groups, scale[:, :, None], dtype).reshape(padded.shape)
    return quantised[:, :columns].contiguous(), to_column_major(scale)


def quantize_fp8_per_channel(w: Tensor) -> tuple[Tensor, Tensor]:
    """[K, N] floats -> (e4m3 [K, N] row-major, float32 [1, N]): one scale per column."""
    values = _matrix(w, "w")
    _some_k("w", w, w.shape[0])
    scale = _scale(values.abs().amax(dim=0, keepdim=True), E4M3_MAX)
    return _to_fp8(values, scale).contiguous(), scale


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
    return _ungrouped(_to_fp8(groups, scale.float()[:, None, :]), values).contiguous(), scale


def quantize_fp8_blocks(w: Tensor) -> tuple[Tensor, Tensor]:
    """[K, N] floats -> (e4m3 [K, N] row-major, float32 [ceil(K/128), ceil(N/128)]): one scale per block of
    128 x 128; pack with blocks=True, or give cutlass_scaled_mm its column-major form.

    The scales are bfloat16 numbers, so that packing does not round them.
    """
    values = _matrix(w, "w")
    rows, columns = values.shape
    padded = torch.nn.functional.pad(values, (0, -columns % _BLOCK, 0, -rows % _BLOCK))
    blocks = padded.reshape(padded.shape[0] // _BLOCK, _BLOCK, padded.shape[1] // _BLOCK, _BLOCK)
    scale = _scale(blocks.abs().amax(dim=(1, 3)), E4M3_MAX).bfloat16().float()
    quantised = _to_fp8(blocks, scale[:, None, :, None]).reshape(padded.shape)
    return quantised[:rows, :columns].contiguous(), scale


def quantize_u4b8(
    w: Tensor, group_size: int = _GROUP, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor]:
    """[K, N] floats -> (int32 [ceil(K/8), N], `dtype` [groups, N]): GPTQ's symmetric 4-bit form.

    Nibble j of word (r, n) holds weight (8 r + j, n) plus 8. group_size: 32, 64, 128, or -1 for one scale per
    channel. The scale is max|w| / 7 of its group, rounded to `dtype` first.
    """
    values = _matrix(w, "w")
    groups = _grouped(values, group_size)
    scale = _scale(groups.abs().amax(dim=1), _U4B8_MAX).to(dtype)
    levels = (groups / scale.float()[:, None, :]).round().clamp(-8, 7) + 8
    return pack_nibbles(_codes(levels, values), fill=8), scale


def quantize_u4(
    w: Tensor, group_size: int = _GROUP, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor, Tensor]:
    """[K, N] floats -> (int32 [ceil(K/8), N], `dtype` scales [groups, N], uint8 zero points [groups, N]): the
    asymmetric 4-bit form of AWQ, value = (code - zero) * scale.

    A group's range is widened to hold 0, which then is a code exactly.
    """
    values = _matrix(w, "w")
    groups = _grouped(values, group_size)
    low, high = groups.amin(dim=1).clamp(max=0), groups.amax(dim=1).clamp(min=0)
    scale = _scale(high - low, 15).to(dtype)
    step = scale.float()
    zeros = (-low / step).round().clamp(0, 15)
    levels = ((groups / step[:, None, :]).round() + zeros[:, None, :]).clamp(0, 15)
    return pack_nibbles(_codes(levels, values)), scale, zeros.nan_to_num().to(torch.uint8)


def quantize_u8b128(
    w: Tensor, group_size: int = _GROUP, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor]:
    """[K, N] floats -> (uint8 [K, N], `dtype` [groups, N]): GPTQ's symmetric 8-bit form, value = (code - 128)
    * scale."""
    values = _matrix(w, "w")
    groups = _grouped(values, group_size)
    scale = _scale(groups.abs().amax(dim=1), _U8B128_MAX).to(dtype)
    levels = (groups / scale.float()[:, None, :]).round().clamp(-128, 127) + 128
    return _codes(levels, values).to(torch.uint8).contiguous(), scale


def quantize_nvfp4(w: Tensor) -> tuple[Tensor, Tensor, float]:
    """[K, N] floats -> (int32 [ceil(K/8), N], e4m3 scales [ceil(K/16), N], global scale): value = e2m1 *
    scale * global scale.

    The global scale brings the largest block's scale to e4m3's largest value.
    """
    values = _matrix(w, "w")
    groups = _grouped(values, 16)
    amax = groups.abs().amax(dim=1)
    top = float(amax.max()) if amax.numel() else 0.0
    global_scale = top / (E2M1_MAX * E4M3_MAX) or 1.0
    # Blocks far below the largest one would have scale 0; the smallest e4m3 number keeps their zeros zero.
    smallest = 2.0**-9
    scale = (amax / (E2M1_MAX * global_scale)).clamp(smallest, E4M3_MAX).to(_FP8)
    codes = e2m1_codes(groups / (scale.float() * global_scale)[:, None, :])
    return pack_nibbles(_ungrouped(codes, values)), scale, global_scale


def quantize_mxfp4(w: Tensor) -> tuple[Tensor, Tensor]:
    """[K, N] floats -> (int32 [ceil(K/8), N], uint8 e8m0 exponents [ceil(K/32), N]): OCP MXFP4."""
    values = _matrix(w, "w")
    groups = _grouped(values, 32)
    scale = e8m0_codes(groups.abs().amax(dim=1), 2)
    codes = e2m1_codes(torch.ldexp(groups, 127 - scale[:, None, :].int()))
    return pack_nibbles(_ungrouped(codes, values)), scale


def quantize_mxfp8(w: Tensor) -> tuple[Tensor, Tensor]:
    """[K, N] floats -> (e4m3 [K, N] row-major, uint8 e8m0 exponents [ceil(K/32), N]): OCP MXFP8."""
    values = _matrix(w, "w")
    groups = _grouped(values, 32)
    scale = e8m0_codes(groups.abs().amax(dim=1), 8)
    scaled = torch.ldexp(groups, 127 - scale[:, None, :].int()).clamp(-E4M3_MAX, E4M3_MAX)
    return _ungrouped(scaled.to(_FP8), values).contiguous(), scale


def e2m1_codes(x: Tensor) -> Tensor:
    """Floats -> int32 codes of the nearest e2m1 numbers, ties to even, saturating at 6."""
    size = x.abs()
    # Between code c and c + 1 the tie goes to the even one of the two.
    ties = ((0.25, False), (0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True), (5.0, False))
    codes = torch.zeros_like(x, dtype=torch.int32)
    for tie, up in ties:
        codes += (size >= tie) if up else (size > tie)
    return codes + 8 * (x < 0)


def pack_nibbles(levels: Tensor, fill: int = 0) -> Tensor:
    """Integers [K, N] of 0 .. 15 -> int32 [ceil(K/8), N], nibble j of word (r, n) from row 8 r + j; `fill`
    beyond K."""
    levels = torch.nn.functional.pad(levels, (0, 0, 0, -levels.shape[0] % 8), value=fill)
    rows, columns = levels.shape
    words = levels.new_zeros(rows // 8, columns, dtype=torch.int32)
    for j in range(8):
        words |= levels[j::8].to(torch.int32) << (4 * j)  # the last shift fills the sign bit
    return words


def to_column_major(w: Tensor) -> Tensor:
    """The same matrix with stride(0) == 1, as cutlass_scaled_mm takes its second operand."""
    return w.t().contiguous().t()


def pad_scaled_mm_weight(b: Tensor) -> Tensor:
    """The FP8 weight [K, N] with columns that cutlass_scaled_mm reads where they lie: column-major, each on
    16 bytes, zeros between them. `b` itself where it is so already.

    For a constant weight whose K is no multiple of 16: done once at load, nothing is copied at a call.
    (Capability 8.9 reads up to a multiple of 16 in both operands, and copies them where K is none.)
    """
    if b.dim() != 2 or b.dtype not in _LARGEST:
        raise UsageError(f"b is {b.dtype} {list(b.shape)}; it must be an FP8 matrix [K, N]")
    rows, columns = b.shape
    lies_well = b.stride(0) == 1 and b.stride(1) >= rows and b.stride(1) % 16 == 0 and b.data_ptr() % 16 == 0
    if lies_well:
        return b
    padded = b.new_zeros(columns, -(-rows // 16) * 16)
    padded[:, :rows] = b.t()
    return padded[:, :rows].t()


def e8m0_codes(amax: Tensor, largest_exponent: int) -> Tensor:
    """The exponent codes that bring each largest value's exponent to the format's largest; 127 for zeros."""
    exponents = torch.frexp(amax).exponent - 1  # floor(log2)
    codes = (exponents - largest_exponent + 127).clamp(0, 254)
    codes = torch.where(amax == 0, torch.full_like(codes, 127), codes)
    return torch.where(amax.isfinite(), codes, torch.full_like(codes, 255)).to(torch.uint8)


def _grouped(values: Tensor, group_size: int) -> Tensor:
    """[K, N] -> [groups, group, N], the last group filled with zeros."""
    rows, columns = values.shape
    group = rows if group_size == -1 else group_size
    if group <= 0:
        raise UsageError(
            f"w is {list(values.shape)} and group_size {group_size}; it must be positive, or -1 for one "
            "scale per channel"
        )
    padded = torch.nn.functional.pad(values, (0, 0, 0, -rows % group))
    return padded.reshape(groups_of(rows, group), group, columns)


def _ungrouped(groups: Tensor, values: Tensor) -> Tensor:
    """[groups, group, N] -> [K, N] of `values`."""
    return groups.reshape(-1, values.shape[1])[: values.shape[0]]


def _codes(levels: Tensor, values: Tensor) -> Tensor:
    """Levels as int32 [K, N]; a NaN, whose scale carries it, becomes code 0."""
    return _ungrouped(levels, values).nan_to_num().to(torch.int32)
