"""The packed weight of marlin_gemm: data that says what it is, so that kernel and weight cannot disagree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from kernelpkg.errors import UsageError
from kernelpkg.ops.load import load

WeightFormat = Literal["u4b8", "e4m3"]
ActivationClass = Literal["16bit", "fp8"]

# The operators' integer codes and the bits per weight.
FORMATS: dict[str, tuple[int, int]] = {"u4b8": (0, 4), "e4m3": (1, 8)}
ACTIVATION_CLASSES = ("16bit", "fp8")
GROUP_SIZES = (-1, 128)


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight:
    """A weight packed by marlin_repack, with its scales.

    data: int32, [K/16, N*16*bits/32] for 16-bit activations, [K/32, N*32*bits/32] for FP8 ones.
    scales: float16 or bfloat16 [groups, N], natural order; their dtype is the output's.
    format: 'u4b8' or 'e4m3'. group_size: 128, or -1 for one scale per channel.
    activation_class: '16bit' or 'fp8' (u4b8 only). size_k, size_n: K and N.

    Raises UsageError where these do not fit together.
    """

    data: Tensor
    scales: Tensor
    format: WeightFormat
    group_size: int
    activation_class: ActivationClass
    size_k: int
    size_n: int

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UsageError(f"format is {self.format!r}; it must be one of {', '.join(FORMATS)}")
        if self.activation_class not in ACTIVATION_CLASSES:
            raise UsageError(f"activation_class is {self.activation_class!r}; it must be '16bit' or 'fp8'")
        if self.group_size not in GROUP_SIZES:
            raise UsageError(f"group_size is {self.group_size}; it must be -1 (per channel) or 128")
        if self.format == "e4m3" and self.activation_class == "fp8":
            raise UsageError(
                "an e4m3 weight cannot be packed for FP8 activations; use activation_class='16bit', or "
                "cutlass_scaled_mm for FP8 x FP8"
            )
        rows = 32 if self.activation_class == "fp8" else 16
        shape = (self.size_k // rows, self.size_n * rows * FORMATS[self.format][1] // 32)
        if self.data.dtype != torch.int32 or tuple(self.data.shape) != shape:
            raise UsageError(
                f"data is {self.data.dtype} {list(self.data.shape)}; a {self.format} weight of K "
                f"{self.size_k} and N {self.size_n} packed for {self.activation_class} activations is "
                f"int32 {list(shape)}"
            )
        groups = 1 if self.group_size == -1 else self.size_k // self.group_size
        if tuple(self.scales.shape) != (groups, self.size_n) or self.scales.dtype not in (
            torch.float16,
            torch.bfloat16,
        ):
            raise UsageError(
                f"scales are {self.scales.dtype} {list(self.scales.shape)}; they must be float16 or bfloat16 "
                f"[{groups}, {self.size_n}]"
            )
        if self.scales.device != self.data.device:
            raise UsageError(
                f"data is on {self.data.device} and scales on {self.scales.device}; move them to one device"
            )

    @property
    def device(self) -> torch.device:
        """Where data and scales are."""
        return self.data.device

    @property
    def nbytes(self) -> int:
        """Bytes of data and scales together."""
        return self.data.nbytes + self.scales.nbytes

    @property
    def format_code(self) -> int:
        """The operators' weight_format: 0 for u4b8, 1 for e4m3."""
        return FORMATS[self.format][0]

    def to(self, device: torch.device | str) -> PackedWeight:
        """The same weight on another device. The bits are the same everywhere; nothing is packed again."""
        return replace(self, data=self.data.to(device), scales=self.scales.to(device))

    def __repr__(self) -> str:
        grouping = "per channel" if self.group_size == -1 else f"group {self.group_size}"
        return (
            f"PackedWeight({self.format}, K {self.size_k} x N {self.size_n}, {grouping}, "
            f"{self.activation_class} activations, {self.scales.dtype} scales, {self.device})"
        )


def pack_marlin_weight(
    qweight: Tensor,
    scales: Tensor,
    format: WeightFormat,
    group_size: int = 128,
    activation_class: ActivationClass = "16bit",
    dtype: torch.dtype | None = None,
) -> PackedWeight:
    """Packs a quantised weight once, for many calls of marlin_gemm.

    qweight: u4b8: int32 [K/8, N] as quantize_u4b8 returns it; e4m3: float8_e4m3fn or uint8 [K, N] row-major.
    scales: [groups, N] ([1, N] or [N] per channel), natural order. dtype: float16 or bfloat16, the output's
    dtype and what the scales are converted to; None keeps theirs. The packing runs on qweight's device.

    Raises UsageError for a NaN in weights or scales, an infinite scale, and whatever PackedWeight refuses;
    ValueError for what marlin_repack refuses.
    """
    load()
    if format not in FORMATS:
        raise UsageError(f"format is {format!r}; it must be one of {', '.join(FORMATS)}")
    if qweight.dim() != 2:
        raise UsageError(f"qweight is {qweight.dtype} {list(qweight.shape)}; it must be a matrix")
    size_k = qweight.shape[0] * (8 if format == "u4b8" else 1)
    size_n = qweight.shape[1]
    if format == "e4m3":
        _refuse_nan_weights(qweight)
    converted = _scales(scales, dtype)
    data = torch.ops.kernelpkg.marlin_repack(
        qweight.contiguous(), FORMATS[format][0], size_k, size_n, activation_class == "fp8"
    )
    return PackedWeight(data, converted, format, group_size, activation_class, size_k, size_n)


def _scales(scales: Tensor, dtype: torch.dtype | None) -> Tensor:
    matrix = scales.reshape(1, -1) if scales.dim() == 1 else scales
    converted = matrix.to(dtype or scales.dtype).contiguous()
    if not bool(converted.isfinite().all()):
        raise UsageError(
            f"the scales hold a NaN or an infinity after conversion to {converted.dtype}; quantise the "
            "weight again, or keep bfloat16 scales"
        )
    return converted


def _refuse_nan_weights(qweight: Tensor) -> None:
    if qweight.dtype not in (torch.float8_e4m3fn, torch.uint8):
        return  # marlin_repack says what is wrong
    found = int(((qweight.view(torch.uint8) & 0x7F) == 0x7F).sum())
    if found:
        raise UsageError(
            f"the weight holds {found} NaN of {qweight.numel()} values (0x7f or 0xff); a NaN weight makes "
            "its whole column NaN, quantise it again from finite values"
        )
