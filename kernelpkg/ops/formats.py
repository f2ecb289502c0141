"""The weight formats of marlin_gemm: which groups, scales and activations go with each, and packed shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

WeightFormat = Literal["u4b8", "e4m3", "u4", "u8b128", "nvfp4", "mxfp4"]

# Extents a weight is padded to when it is packed (csrc/marlin/layout.h).
PAD_K = 128
PAD_N = 64


@dataclass(frozen=True, slots=True)
class Format:
    """One format. code: the operators' weight_format. bits: of one weight. groups: the group sizes it takes,
    -1 being one scale per channel. group: the one taken where none is named. fp8: whether float8_e4m3fn
    activations go with it. zeros: whether groups have zero points. dtypes: of its scales, and so of the
    output."""

    name: WeightFormat
    code: int
    bits: Literal[4, 8]
    groups: tuple[int, ...]
    group: int
    fp8: bool
    zeros: bool = False
    dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)


_INTEGER_GROUPS = (-1, 32, 64, 128)

FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format("u4b8", 0, 4, _INTEGER_GROUPS, 128, fp8=True),
        Format("e4m3", 1, 8, (-1, 32, 128), 128, fp8=True),
        Format("u4", 2, 4, _INTEGER_GROUPS, 128, fp8=True, zeros=True),
        Format("u8b128", 3, 8, _INTEGER_GROUPS, 128, fp8=False),
        Format("nvfp4", 4, 4, (16,), 16, fp8=False),
        Format("mxfp4", 5, 4, (32,), 32, fp8=True, dtypes=(torch.bfloat16,)),
    )
}


def padded_k(size_k: int) -> int:
    """K as packed."""
    return -(-size_k // PAD_K) * PAD_K


def padded_n(size_n: int) -> int:
    """N as packed."""
    return -(-size_n // PAD_N) * PAD_N


def groups_of(size_k: int, group_size: int) -> int:
    """Groups along a K that no group need divide."""
    return 1 if group_size == -1 else -(-size_k // group_size)


def e4m3_nan_count(values: torch.Tensor) -> int:
    """How many of some float8_e4m3fn values, or their codes in uint8, are NaN (0x7f and 0xff)."""
    return int(((values.view(torch.uint8) & 0x7F) == 0x7F).sum())


def packed_shape(entry: Format, size_k: int, size_n: int) -> tuple[int, int, int]:
    """Shape of the packed words: strips of 64 columns, blocks of 32 rows of K, the words of a block."""
    return padded_n(size_n) // PAD_N, padded_k(size_k) // 32, 64 * entry.bits


def scales_shape(entry: Format, size_k: int, size_n: int, group_size: int) -> tuple[int, ...]:
    """Shape of the packed scales (and of the zero points, where the format has them)."""
    if entry.name == "nvfp4":
        return padded_k(size_k) // 32 * (padded_n(size_n) // 32), 2, 32
    return groups_of(padded_k(size_k), group_size), padded_n(size_n)
