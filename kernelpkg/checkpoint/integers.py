"""Readers of the integer formats: GPTQ, AWQ and compressed-tensors pack-quantized.

Sources: GPTQ https://github.com/AutoGPTQ/AutoGPTQ and https://github.com/ModelCloud/GPTQModel (`gptq_v2`);
AWQ https://github.com/casper-hansen/AutoAWQ (version "gemm"); pack-quantized
https://github.com/vllm-project/compressed-tensors (compressors/pack_quantized).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernelpkg.checkpoint.files import TensorEntry
from kernelpkg.checkpoint.layer import FLOATS, LayerTensors, LayerWeight, expect_shape, group_size_of
from kernelpkg.checkpoint.unpack import transpose_bytes, word_bytes_to_rows, word_nibbles
from kernelpkg.errors import UsageError
from kernelpkg.ops.quantize import pack_nibbles

# Nibble j of an AWQ word holds column AWQ_COLUMNS[j] of its eight.
AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)


def gptq_sizes(layer: LayerTensors) -> tuple[int, int]:
    """(K, N), from the headers alone."""
    qweight, _, scales, bits = _gptq_entries(layer)
    size_k = qweight.shape[0] * 32 // bits
    group_size_of(scales, scales.shape[0], size_k, layer.config.group_size)
    return size_k, qweight.shape[1]


def read_gptq(layer: LayerTensors) -> LayerWeight:
    """GPTQ, 4 or 8 bits.

    qweight int32 [K bits/32, N], the lowest bits of a word are the lowest row; qzeros int32 [groups, N
    bits/32], the lowest bits are the lowest column; scales [groups, N]; g_idx int32 [K], the group of each
    row, may be missing. weight = (q - zero) * scale. The form 'gptq' stores zero - 1, 'gptq_v2' stores zero.

    4 bits become u4b8 where every zero point is 8, else u4; 8 bits become u8b128, and zero points other than
    128 are refused, as is a g_idx other than k // group_size.
    """
    qweight, qzeros, scales, bits = _gptq_entries(layer)
    size_k, size_n = qweight.shape[0] * 32 // bits, qweight.shape[1]
    group_size = group_size_of(scales, scales.shape[0], size_k, layer.config.group_size)
    _refuse_reordered(layer, ".g_idx", size_k, group_size)
    bias = layer.read_bias(".bias", size_n)
    zeros = _gptq_zeros(layer, qzeros, bits, size_n)
    words = layer.read(qweight)
    return LayerWeight(
        qweight=words if bits == 4 else word_bytes_to_rows(words),
        scales=layer.read_scales(scales),
        format="u8b128" if bits == 8 else "u4b8" if zeros is None else "u4",
        group_size=group_size,
        size_k=size_k,
        size_n=size_n,
        zeros=zeros,
        bias=bias,
    )


def awq_sizes(layer: LayerTensors) -> tuple[int, int]:
    """(K, N), from the headers alone."""
    qweight, _, scales = _awq_entries(layer)
    group_size_of(scales, scales.shape[0], qweight.shape[0], layer.config.group_size)
    return qweight.shape[0], qweight.shape[1] * 8


def read_awq(layer: LayerTensors) -> LayerWeight:
    """AWQ, 4 bits, version "gemm".

    qweight int32 [K, N/8] and qzeros int32 [groups, N/8], nibble j of a word is column AWQ_COLUMNS[j] of its
    eight; scales [groups, N]. weight = (q - zero) * scale. Becomes u4.
    """
    qweight, qzeros, scales = _awq_entries(layer)
    size_k, size_n = qweight.shape[0], qweight.shape[1] * 8
    group_size = group_size_of(scales, scales.shape[0], size_k, layer.config.group_size)
    bias = layer.read_bias(".bias", size_n)
    return LayerWeight(
        qweight=pack_nibbles(word_nibbles(layer.read(qweight), AWQ_COLUMNS)),
        scales=layer.read_scales(scales),
        format="u4",
        group_size=group_size,
        size_k=size_k,
        size_n=size_n,
        zeros=word_nibbles(layer.read(qzeros), AWQ_COLUMNS),
        bias=bias,
    )


def pack_quantized_sizes(layer: LayerTensors) -> tuple[int, int]:
    """(K, N); reads weight_shape."""
    _, scales, size_k, size_n, _ = _pack_quantized_entries(layer)
    group_size_of(scales, scales.shape[1], size_k, layer.config.group_size)
    return size_k, size_n


def read_pack_quantized(layer: LayerTensors) -> LayerWeight:
    """compressed-tensors pack-quantized, 4 or 8 bits.

    weight_packed int32 [N, ceil(K bits/32)] of q + 2^(bits-1), the lowest bits of a word are the lowest k;
    weight_scale [N, groups]; weight_shape integers [2] = (N, K); asymmetric: weight_zero_point int32
    [ceil(N bits/32), groups] of zero + 2^(bits-1), the lowest bits are the lowest n. weight = (q - zero) *
    scale. weight_g_idx int32 [K] may be there, and is refused unless it is k // group_size.

    4 bits become u4b8, asymmetric u4; 8 bits become u8b128 and must be symmetric.
    """
    packed, scales, size_k, size_n, bits = _pack_quantized_entries(layer)
    group_size = group_size_of(scales, scales.shape[1], size_k, layer.config.group_size)
    _refuse_reordered(layer, ".weight_g_idx", size_k, group_size)
    bias = layer.read_bias(".bias", size_n)
    zeros = _pack_quantized_zeros(layer, packed, scales, bits)
    words = layer.read(packed)
    return LayerWeight(
        qweight=words.t().contiguous() if bits == 4 else transpose_bytes(words.view(torch.uint8)[:, :size_k]),
        scales=layer.read_scales(scales).t().contiguous(),
        format="u8b128" if bits == 8 else "u4b8" if zeros is None else "u4",
        group_size=group_size,
        size_k=size_k,
        size_n=size_n,
        zeros=zeros,
        bias=bias,
    )


def _gptq_entries(layer: LayerTensors) -> tuple[TensorEntry, TensorEntry, TensorEntry, int]:
    """qweight, qzeros, scales and the bits per weight, which follow from the width of qzeros."""
    qweight = layer.need(".qweight", ("I32",), (2,))
    qzeros = layer.need(".qzeros", ("I32",), (2,))
    scales = layer.need(".scales", FLOATS, (2,))
    size_n = qweight.shape[1]
    bits = _bits_of(qzeros.shape[1], size_n)
    if bits is None:
        raise UsageError(
            f"{qzeros} is {list(qzeros.shape)} and {qweight.name!r} {list(qweight.shape)}; with 4 bits it "
            f"must have {-(-size_n // 8)} columns and with 8 bits {-(-size_n // 4)}, other widths cannot be "
            "read"
        )
    expect_shape(scales, (qzeros.shape[0], size_n), qzeros)
    return qweight, qzeros, scales, bits


def _bits_of(words: int, count: int) -> int | None:
    """How wide `count` numbers are that fill so many words: 4, 8, or None for neither."""
    return next((bits for bits in (4, 8) if words == -(-count * bits // 32)), None)


def _gptq_zeros(layer: LayerTensors, entry: TensorEntry, bits: int, size_n: int) -> Tensor | None:
    """None where all zero points are the middle, else uint8 [groups, N] (4 bits)."""
    words = layer.read(entry)
    stored = (word_nibbles(words) if bits == 4 else words.view(torch.uint8))[:, :size_n]
    middle = 1 << (bits - 1)
    version = layer.config.format
    if layer.config.source is None and not bool((stored == middle - 1).all()):
        raise UsageError(
            f"{entry} holds zero points and no configuration says in which form; name format='gptq' (zero - "
            "1 is stored) or format='gptq_v2' (zero is)"
        )
    offset = 1 if version == "gptq" else 0
    if bool((stored == middle - offset).all()):
        return None
    if layer.config.symmetric:
        raise UsageError(
            f"{entry} holds zero points other than {middle} and {layer.config.source} says sym; correct "
            "checkpoint_format ('gptq' stores zero - 1, 'gptq_v2' zero) or sym there"
        )
    if bits == 8:
        raise UsageError(
            f"{entry} holds zero points other than {middle}; 8-bit weights must be symmetric, quantise the "
            "model again with sym=True"
        )
    if offset and bool((stored == 15).any()):
        # Writers differ: 0 - 1 wraps within its nibble in some and borrows from the next nibble in others.
        raise UsageError(
            f"{entry} holds 15, which in the form 'gptq' (zero - 1) may be the zero point 16 or 0; save the "
            "model with checkpoint_format 'gptq_v2'"
        )
    return (stored + offset).contiguous()


def _awq_entries(layer: LayerTensors) -> tuple[TensorEntry, TensorEntry, TensorEntry]:
    qweight = layer.need(".qweight", ("I32",), (2,))
    qzeros = layer.need(".qzeros", ("I32",), (2,))
    scales = layer.need(".scales", FLOATS, (2,))
    expect_shape(scales, (scales.shape[0], 8 * qweight.shape[1]), qweight)
    expect_shape(qzeros, (scales.shape[0], qweight.shape[1]), scales)
    return qweight, qzeros, scales


def _pack_quantized_entries(layer: LayerTensors) -> tuple[TensorEntry, TensorEntry, int, int, int]:
    """weight_packed, weight_scale, K, N and the bits per weight."""
    packed = layer.need(".weight_packed", ("I32",), (2,))
    scales = layer.need(".weight_scale", FLOATS, (2,))
    shape = layer.need(".weight_shape", ("I32", "I64"), (1,))
    stated = layer.read(shape).tolist()
    if len(stated) != 2 or stated[0] != packed.shape[0] or stated[1] < 1:
        raise UsageError(
            f"{shape} says {stated} and {packed.name!r} is {list(packed.shape)}; it must say "
            f"[{packed.shape[0]}, K], fetch the file again"
        )
    size_n, size_k = stated
    bits = _bits_of(packed.shape[1], size_k)
    if bits is None:
        raise UsageError(
            f"{packed} is {list(packed.shape)} and {shape.name!r} says {stated}; with 4 bits it must have "
            f"{-(-size_k // 8)} columns and with 8 bits {-(-size_k // 4)}, other widths cannot be read"
        )
    expect_shape(scales, (size_n, scales.shape[1]), packed)
    return packed, scales, size_k, size_n, bits


def _pack_quantized_zeros(
    layer: LayerTensors, packed: TensorEntry, scales: TensorEntry, bits: int
) -> Tensor | None:
    if layer.find(".weight_zero_point") is None:
        return None
    entry = layer.need(".weight_zero_point", ("I32",), (2,))
    if bits == 8:
        raise UsageError(
            f"{entry} gives 8-bit weights zero points; they must be symmetric, quantise the model again with "
            "symmetric weights"
        )
    size_n = packed.shape[0]
    expect_shape(entry, (-(-size_n // 8), scales.shape[1]), scales)
    return word_nibbles(layer.read(entry).t().contiguous())[:, :size_n].contiguous()


def _refuse_reordered(layer: LayerTensors, suffix: str, size_k: int, group_size: int) -> None:
    if layer.find(suffix) is None:
        return
    entry = layer.need(suffix, ("I32", "I64"), (1,))
    if entry.shape != (size_k,):
        raise UsageError(f"{entry} is {list(entry.shape)}; it must be [{size_k}], fetch the file again")
    groups = layer.read(entry)
    rows = torch.arange(size_k, device=groups.device)
    expected = torch.zeros_like(rows) if group_size == -1 else rows // group_size
    if not torch.equal(groups.long(), expected):
        raise UsageError(
            f"{entry} puts rows out of order into groups (act-order); the kernel takes groups of consecutive "
            "rows, quantise the model again with desc_act=False (compressed-tensors: actorder 'weight' or "
            "none)"
        )
