"""The packed weight of marlin_gemm: data that says what it is, so that kernel and weight cannot disagree."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernelpkg.errors import UsageError
from kernelpkg.ops.formats import (
    FORMATS,
    Format,
    WeightFormat,
    e4m3_nan_count,
    groups_of,
    packed_shape,
    padded_k,
    padded_n,
    scales_shape,
)
from kernelpkg.ops.load import load

_FP8 = torch.float8_e4m3fn
# Older builds of torch have no such type: exponents then come as uint8, which is taken everywhere.
_E8M0 = getattr(torch, "float8_e8m0fnu", torch.uint8)
_BLOCK = 128

# e8m0 exponents with which every non-zero weight of the format is a normal bfloat16 number (the scale as a
# power of two: code - 127). e2m1 reaches from 2^-1 to 6, e4m3 from 2^-9 to 448.
_E8M0_REACH = {"mxfp4": (2, 252), "e4m3": (10, 245)}

# NVFP4 scales are stored times this power of two (csrc/marlin/layout.h says why): exact in either dtype.
_NVFP4_EXPONENT = {torch.bfloat16: 118, torch.float16: 7}


def _lane_order() -> list[int]:
    """Columns of a 32-column unit in the order of the lanes that use them: position 4 g + tile."""
    return [8 * (g >> 1) + 2 * tile + (g & 1) for g in range(8) for tile in range(4)]


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight:
    """A weight packed by pack_marlin_weight, for 16-bit and FP8 activations alike.

    data: int32 words. scales: float16 or bfloat16, whose dtype is the output's; zeros: uint8 zero points (u4
    alone, else None). All three are padded to whole tiles of K and N, with zero scales, and ordered as the
    kernels read them. format: see kernelpkg.ops.FORMATS. group_size: rows of K to a scale, -1 for one per
    channel. global_scale: NVFP4's, else 1. size_k, size_n: K and N before padding.

    Raises UsageError where these do not fit together.
    """

    data: Tensor
    scales: Tensor
    zeros: Tensor | None
    format: WeightFormat
    group_size: int
    global_scale: float
    size_k: int
    size_n: int

    def __post_init__(self) -> None:
        entry = _format(self.format)
        if self.size_k < 1 or self.size_n < 1:
            raise UsageError(f"the weight is K {self.size_k} x N {self.size_n}; both must be at least 1")
        if self.group_size not in entry.groups:
            raise UsageError(_group_sentence(entry, self.group_size))
        if not math.isfinite(self.global_scale) or (self.format != "nvfp4" and self.global_scale != 1):
            raise UsageError(
                f"global_scale is {self.global_scale}; it must be finite, and 1 for all formats but nvfp4"
            )
        what = f"K {self.size_k} x N {self.size_n} {self.format} weights"
        shape = packed_shape(entry, self.size_k, self.size_n)
        if self.data.dtype != torch.int32 or tuple(self.data.shape) != shape:
            raise UsageError(
                f"data is {self.data.dtype} {list(self.data.shape)}; {what} are int32 {list(shape)}"
            )
        scales = scales_shape(entry, self.size_k, self.size_n, self.group_size)
        if tuple(self.scales.shape) != scales or self.scales.dtype not in entry.dtypes:
            names = " or ".join(str(dtype).removeprefix("torch.") for dtype in entry.dtypes)
            raise UsageError(
                f"scales are {self.scales.dtype} {list(self.scales.shape)}; those of {what} and group_size "
                f"{self.group_size} are {names} {list(scales)}"
            )
        if entry.zeros != (self.zeros is not None):
            raise UsageError(
                f"{'no zeros are given' if entry.zeros else 'zeros are given'} and the weight is "
                f"{self.format}; u4 weights have zero points (pass zeros=), and they alone"
            )
        if self.zeros is not None and (self.zeros.dtype != torch.uint8 or tuple(self.zeros.shape) != scales):
            raise UsageError(
                f"zeros are {self.zeros.dtype} {list(self.zeros.shape)}; those of {what} and group_size "
                f"{self.group_size} are uint8 {list(scales)}"
            )
        others = [self.scales] if self.zeros is None else [self.scales, self.zeros]
        if any(x.device != self.data.device for x in others):
            where = " and ".join(str(x.device) for x in others)
            raise UsageError(f"data is on {self.data.device} and scales on {where}; move them to one device")

    @property
    def device(self) -> torch.device:
        """Where data and scales are."""
        return self.data.device

    @property
    def nbytes(self) -> int:
        """Bytes of data, scales and zero points together."""
        return self.data.nbytes + self.scales.nbytes + (0 if self.zeros is None else self.zeros.nbytes)

    @property
    def format_code(self) -> int:
        """The operators' weight_format."""
        return FORMATS[self.format].code

    def to(self, device: torch.device | str) -> PackedWeight:
        """The same weight on another device. The bits are the same everywhere; nothing is packed again."""
        zeros = None if self.zeros is None else self.zeros.to(device)
        return replace(self, data=self.data.to(device), scales=self.scales.to(device), zeros=zeros)

    def __repr__(self) -> str:
        grouping = "per channel" if self.group_size == -1 else f"group {self.group_size}"
        return (
            f"PackedWeight({self.format}, K {self.size_k} x N {self.size_n}, {grouping}, "
            f"{self.scales.dtype} scales, {self.device})"
        )


def pack_marlin_weight(
    qweight: Tensor,
    scales: Tensor,
    format: WeightFormat,
    group_size: int | None = None,
    *,
    zeros: Tensor | None = None,
    global_scale: float | Tensor = 1.0,
    size_k: int | None = None,
    dtype: torch.dtype | None = None,
    blocks: bool = False,
) -> PackedWeight:
    """Packs a quantised weight once, for many calls of marlin_gemm.

    qweight: 4-bit formats int32 [ceil(K/8), N], nibble j of word (r, n) being weight (8 r + j, n), as the
    quantisers return it; e4m3 float8_e4m3fn or uint8 [K, N]; u8b128 uint8 [K, N]. Any K and N: padding
    is done here. size_k: K where the last word of a 4-bit weight is not full.
    scales, natural order: float [ceil(K/group), N], or [N] or [1] per channel. nvfp4: float8_e4m3fn
    [ceil(K/16), N]. mxfp4, and e4m3 with group_size 32 (MXFP8): e8m0 exponents [ceil(K/32), N] as uint8 or
    float8_e8m0fnu. blocks: e4m3 with one scale per 128 x 128 block, float [ceil(K/128), ceil(N/128)].
    group_size: None takes 128, 16 for nvfp4, 32 for e8m0 scales. zeros: u4 alone, integers 0 .. 15 of the
    scales' shape. global_scale: nvfp4 alone. dtype: float16 or bfloat16, the output's dtype and what the
    scales are converted to; None keeps theirs (bfloat16 where they are 8 bits wide). The packing runs on
    qweight's device.

    Raises UsageError for a NaN in weights or scales, scales that the dtype cannot hold, and whatever
    PackedWeight refuses; ValueError for what marlin_repack refuses.
    """
    load()
    entry = _format(format)
    if qweight.dim() != 2:
        raise UsageError(f"qweight is {qweight.dtype} {list(qweight.shape)}; it must be a matrix")
    rows, size_n = qweight.shape
    rows *= 8 if entry.bits == 4 else 1
    if size_k is None:
        size_k = rows
    elif not 0 <= rows - size_k < (8 if entry.bits == 4 else 1):
        raise UsageError(f"size_k is {size_k} and qweight {list(qweight.shape)} holds {rows} rows of K")
    exponents = scales.dtype in (torch.uint8, _E8M0)
    if group_size is None:
        group_size = 32 if exponents and format == "e4m3" else entry.group
    if group_size not in entry.groups:
        raise UsageError(_group_sentence(entry, group_size))
    if format == "e4m3":
        _refuse_nan_weights(qweight)

    if blocks:
        scales = _widened(scales, entry, group_size, size_k, size_n)
    matrix = _matrix(scales, "scales", size_k, size_n, group_size)
    if format == "nvfp4":
        converted = _nvfp4_scales(matrix, dtype or torch.bfloat16)
    elif format == "mxfp4" or (format == "e4m3" and exponents):
        converted = _e8m0_scales(matrix, qweight, entry, group_size, dtype)
    else:
        converted = _float_scales(matrix, dtype)
    if zeros is not None:
        zeros = _zero_points(zeros, size_k, size_n, group_size)
    padded = _padded(converted, size_k, size_n, group_size)
    data = torch.ops.kernelpkg.marlin_repack(qweight.contiguous(), entry.code, size_k, size_n)
    return PackedWeight(
        data,
        _nvfp4_order(padded) if format == "nvfp4" else padded,
        zeros,
        format,
        group_size,
        # As the operator takes it: rounded to float32 once, here.
        float(torch.as_tensor(global_scale, dtype=torch.float32).reshape(())),
        size_k,
        size_n,
    )


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise UsageError(f"format is {name!r}; it must be one of {', '.join(FORMATS)}")
    return FORMATS[name]


def _group_sentence(entry: Format, group_size: int) -> str:
    allowed = ", ".join(map(str, entry.groups))
    channel = " (-1: per channel)" if -1 in entry.groups else ""
    return f"group_size is {group_size}; {entry.name} weights take {allowed}{channel}"


def _matrix(x: Tensor, what: str, size_k: int, size_n: int, group_size: int) -> Tensor:
    """[groups, N] from that, or from [N] or [1] per channel."""
    if group_size == -1 and x.numel() == 1:
        x = x.reshape(1, 1).expand(1, size_n)
    elif x.dim() == 1:
        x = x.reshape(1, -1)
    shape = (groups_of(size_k, group_size), size_n)
    if tuple(x.shape) != shape:
        raise UsageError(
            f"{what} are {x.dtype} {list(x.shape)}; for K {size_k}, N {size_n} and group_size {group_size} "
            f"they must be {list(shape)}"
        )
    return x


def _padded(x: Tensor, size_k: int, size_n: int, group_size: int) -> Tensor:
    """Zeros added up to the padded extents; contiguous."""
    rows = groups_of(padded_k(size_k), group_size)
    out = x.new_zeros(rows, padded_n(size_n))
    out[: x.shape[0], :size_n] = x
    return out


def _float_scales(scales: Tensor, dtype: torch.dtype | None) -> Tensor:
    if not scales.is_floating_point() or scales.element_size() < 2:
        raise UsageError(f"scales are {scales.dtype}; they must be float16, bfloat16 or float32")
    if dtype is None and scales.element_size() > 2:
        raise UsageError(
            f"scales are {scales.dtype}; say dtype=torch.bfloat16 or torch.float16, which they are converted "
            "to and which the output will have"
        )
    converted = scales.to(dtype or scales.dtype)
    if not bool(converted.isfinite().all()):
        raise UsageError(
            f"the scales hold a NaN or an infinity after conversion to {converted.dtype}; quantise the "
            "weight again, or keep bfloat16 scales"
        )
    if bool(((converted == 0) & (scales != 0)).any()):
        raise UsageError(f"some scales are too small for {converted.dtype} and became 0; use bfloat16 scales")
    return converted


def _widened(scales: Tensor, entry: Format, group_size: int, size_k: int, size_n: int) -> Tensor:
    """One scale per 128 x 128 block -> one per 128 rows of every column."""
    shape = (-(-size_k // _BLOCK), -(-size_n // _BLOCK))
    if entry.name != "e4m3" or group_size != _BLOCK or tuple(scales.shape) != shape:
        raise UsageError(
            f"blocks: the weight is {entry.name}, group_size {group_size}, scales {list(scales.shape)}; "
            f"128 x 128 blocks are e4m3 with group_size 128 and scales {list(shape)} here"
        )
    return scales.repeat_interleave(_BLOCK, dim=1)[:, :size_n]


def _e8m0_scales(
    scales: Tensor, qweight: Tensor, entry: Format, group_size: int, dtype: torch.dtype | None
) -> Tensor:
    """Powers of two in bfloat16, exactly."""
    if scales.dtype not in (torch.uint8, _E8M0):
        raise UsageError(f"scales are {scales.dtype}; {entry.name} weights have e8m0 exponents as uint8")
    if group_size != 32:
        raise UsageError(
            f"group_size is {group_size} and the scales are e8m0, which are one per 32 rows of K"
        )
    if dtype not in (None, torch.bfloat16):
        raise UsageError(f"dtype is {dtype}; e8m0 scales need the range of bfloat16")
    codes = scales.view(torch.uint8).int()
    if bool((codes == 255).any()):
        raise UsageError("the scales hold a NaN (e8m0 255); quantise the weight again")
    low, high = _E8M0_REACH[entry.name]
    outside = (codes < low) | (codes > high)
    values = torch.ldexp(torch.ones_like(codes, dtype=torch.float32), codes - 127)
    if bool(outside.any()):
        # Blocks of zeros may carry any scale (2^-127 is usual).
        if bool((outside & _nonzero_groups(qweight, entry)).any()):
            found = codes[outside]
            raise UsageError(
                f"e8m0 scales from {int(found.min())} to {int(found.max())} are out of reach of bfloat16 "
                f"times {entry.name}; it must be from {low} to {high}, rescale the weight"
            )
        values = values.masked_fill(outside, 0.0)
    return values.to(torch.bfloat16)


def _nonzero_groups(qweight: Tensor, entry: Format) -> Tensor:
    """Whether a group of 32 rows holds anything but zeros, [groups, N]."""
    if entry.bits == 4:
        present, rows = (qweight & 0x77777777) != 0, 4
    else:
        present, rows = (qweight.view(torch.uint8) & 0x7F) != 0, 32
    missing = -present.shape[0] % rows
    padded = torch.nn.functional.pad(present, (0, 0, 0, missing))
    return padded.reshape(-1, rows, present.shape[1]).any(dim=1)


def _nvfp4_scales(scales: Tensor, dtype: torch.dtype) -> Tensor:
    if scales.dtype not in (_FP8, torch.uint8):
        raise UsageError(
            f"scales are {scales.dtype}; nvfp4 weights have float8_e4m3fn scales, one per 16 of K"
        )
    if dtype not in _NVFP4_EXPONENT:
        raise UsageError(f"dtype is {dtype}; it must be float16 or bfloat16")
    values = scales.view(_FP8).float()
    if bool(values.isnan().any()):
        raise UsageError("the scales hold a NaN (e4m3 0x7f or 0xff); quantise the weight again")
    return (values * 2.0 ** _NVFP4_EXPONENT[dtype]).to(dtype)


def _nvfp4_order(scales: Tensor) -> Tensor:
    """[K/16, N] -> [units, 2, 32]: the 64 scales of a unit of 32 rows and columns together."""
    rows, columns = scales.shape
    units = scales.reshape(rows // 2, 2, columns // 32, 32)[..., _lane_order()]
    return units.permute(0, 2, 1, 3).reshape(-1, 2, 32).contiguous()


def _zero_points(zeros: Tensor, size_k: int, size_n: int, group_size: int) -> Tensor:
    matrix = _matrix(zeros, "zeros", size_k, size_n, group_size)
    if matrix.is_floating_point() or matrix.dtype == torch.bool:
        raise UsageError(f"zeros are {zeros.dtype}; they must be integers from 0 to 15")
    if bool(((matrix < 0) | (matrix > 15)).any()):
        raise UsageError(
            f"zeros reach from {int(matrix.min())} to {int(matrix.max())}; they must be from 0 to 15"
        )
    padded = _padded(matrix.to(torch.uint8), size_k, size_n, group_size)
    groups, columns = padded.shape
    return padded.reshape(groups, columns // 32, 32)[..., _lane_order()].reshape(groups, columns).contiguous()


def _refuse_nan_weights(qweight: Tensor) -> None:
    if qweight.dtype not in (_FP8, torch.uint8):
        return  # marlin_repack says what is wrong
    found = e4m3_nan_count(qweight)
    if found:
        raise UsageError(
            f"the weight holds {found} NaN of {qweight.numel()} values (0x7f or 0xff); a NaN weight makes "
            "its whole column NaN, quantise it again from finite values"
        )
