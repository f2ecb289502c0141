"""Readers of the floating-point formats: FP8, MXFP8, NVFP4 and MXFP4.

Sources: FP8 https://github.com/vllm-project/compressed-tensors (float-quantized), the `weight_scale_inv` of
https://huggingface.co/deepseek-ai/DeepSeek-V3 (README_WEIGHTS.md); NVFP4
https://github.com/NVIDIA/TensorRT-Model-Optimizer (unified Hugging Face checkpoint); MXFP4 and MXFP8: OCP
Microscaling Formats (MX) 1.0; stacked MXFP4 https://huggingface.co/openai/gpt-oss-20b.
"""

from __future__ import annotations

from torch import Tensor

from kernelpkg.checkpoint.files import TensorEntry
from kernelpkg.checkpoint.layer import E8M0, FLOATS, LayerTensors, LayerWeight, expect_shape, group_size_of
from kernelpkg.checkpoint.unpack import byte_pairs_to_words, transpose_bytes
from kernelpkg.errors import UsageError
from kernelpkg.ops.formats import e4m3_nan_count

BLOCK = 128  # rows and columns of one block scale
MX_GROUP = 32
NVFP4_GROUP = 16


def fp8_sizes(layer: LayerTensors) -> tuple[int, int]:
    """(K, N), from the headers alone."""
    weight, scales = _fp8_entries(layer)
    _fp8_scaling(layer, weight, scales)
    return weight.shape[1], weight.shape[0]


def read_fp8(layer: LayerTensors) -> LayerWeight:
    """FP8 with scales of any granularity: weight = q * scale.

    weight float8_e4m3fn [N, K]; weight_scale, or weight_scale_inv (which is a factor too): floats [] or [1]
    per tensor, [N] or [N, 1] per channel, [N, groups], or [ceil(N/128), ceil(K/128)] per block of 128 x 128
    (ModelOpt: [ceil(N/128), 1, ceil(K/128), 1]). Scales of activations are not read. Becomes e4m3; a scale
    per tensor is repeated over the channels.
    """
    weight, entry = _fp8_entries(layer)
    size_n, size_k = weight.shape
    scaling, group_size = _fp8_scaling(layer, weight, entry)
    bias = layer.read_bias(".bias", size_n)
    stored = layer.read_scales(entry)
    if scaling == "tensor":
        scales = stored.reshape(1, 1).expand(1, size_n)
    elif scaling == "channel":
        scales = stored.reshape(1, size_n)
    else:
        scales = stored.reshape(_two_dimensions(entry)).t()
    return LayerWeight(
        qweight=_read_e4m3(layer, weight),
        scales=scales.contiguous(),
        format="e4m3",
        group_size=group_size,
        size_k=size_k,
        size_n=size_n,
        bias=bias,
        blocks=scaling == "block",
    )


def mxfp8_sizes(layer: LayerTensors) -> tuple[int, int]:
    """(K, N), from the headers alone."""
    weight, _ = _mxfp8_entries(layer)
    return weight.shape[1], weight.shape[0]


def read_mxfp8(layer: LayerTensors) -> LayerWeight:
    """MXFP8: weight float8_e4m3fn [N, K], weight_scale e8m0 (uint8 or float8_e8m0fnu) [N, K/32].

    Becomes e4m3 with groups of 32 and uint8 scales.
    """
    weight, entry = _mxfp8_entries(layer)
    size_n, size_k = weight.shape
    bias = layer.read_bias(".bias", size_n)
    return LayerWeight(
        qweight=_read_e4m3(layer, weight),
        scales=transpose_bytes(layer.read_scales(entry)),
        format="e4m3",
        group_size=MX_GROUP,
        size_k=size_k,
        size_n=size_n,
        bias=bias,
    )


def modelopt_nvfp4_sizes(layer: LayerTensors) -> tuple[int, int]:
    """(K, N), from the headers alone."""
    return _fp4_sizes(*_modelopt_nvfp4_entries(layer)[:2])


def read_modelopt_nvfp4(layer: LayerTensors) -> LayerWeight:
    """ModelOpt NVFP4: weight = e2m1 * weight_scale * weight_scale_2.

    weight uint8 [N, K/2], the low nibble is the lower k; weight_scale float8_e4m3fn [N, K/16]; weight_scale_2
    float [] or [1]. input_scale is not read; a pre_quant_scale is refused.
    """
    weight, entry, factor = _modelopt_nvfp4_entries(layer)
    return _nvfp4(layer, weight, entry, _read_factor(layer, factor))


def nvfp4_pack_quantized_sizes(layer: LayerTensors) -> tuple[int, int]:
    """(K, N), from the headers alone."""
    return _fp4_sizes(*_nvfp4_pack_quantized_entries(layer)[:2])


def read_nvfp4_pack_quantized(layer: LayerTensors) -> LayerWeight:
    """compressed-tensors NVFP4: weight = e2m1 * weight_scale / weight_global_scale (a divisor).

    weight_packed uint8 [N, K/2], the low nibble is the lower k; weight_scale float8_e4m3fn [N, K/16];
    weight_global_scale float [] or [1]. input_global_scale is not read.
    """
    weight, entry, divisor = _nvfp4_pack_quantized_entries(layer)
    return _nvfp4(layer, weight, entry, 1.0 / _read_factor(layer, divisor))


def mxfp4_pack_quantized_sizes(layer: LayerTensors) -> tuple[int, int]:
    """(K, N), from the headers alone."""
    return _fp4_sizes(*_mxfp4_pack_quantized_entries(layer))


def read_mxfp4_pack_quantized(layer: LayerTensors) -> LayerWeight:
    """compressed-tensors MXFP4: weight_packed uint8 [N, K/2], the low nibble is the lower k; weight_scale
    e8m0 (uint8 or float8_e8m0fnu) [N, K/32]."""
    weight, entry = _mxfp4_pack_quantized_entries(layer)
    return _mxfp4(layer, weight, entry, ".bias")


def mxfp4_sizes(layer: LayerTensors) -> tuple[int, int]:
    """(K, N) of one expert, from the headers alone."""
    blocks, _ = _mxfp4_entries(layer)
    *_, size_n, groups, _ = blocks.shape
    return groups * MX_GROUP, size_n


def read_mxfp4(layer: LayerTensors) -> LayerWeight:
    """MXFP4 as in gpt-oss: PREFIX_blocks uint8 [experts, N, K/32, 16], the low nibble is the lower k;
    PREFIX_scales uint8 e8m0 [experts, N, K/32]; PREFIX_bias [experts, N]. `layer.expert` says which; without
    the first dimension it is None."""
    return _mxfp4(layer, *_mxfp4_entries(layer), "_bias")


def _fp8_entries(layer: LayerTensors) -> tuple[TensorEntry, TensorEntry]:
    """The weight and its scales."""
    weight = layer.need(".weight", ("F8_E4M3",), (2,))
    inverse = layer.find(".weight_scale_inv")
    if inverse is not None and layer.find(".weight_scale") is not None:
        raise UsageError(
            f"{inverse} stands beside {layer.prefix + '.weight_scale'!r}; a layer has one of them, fetch the "
            "checkpoint again"
        )
    suffix = ".weight_scale" if inverse is None else ".weight_scale_inv"
    return weight, layer.need(suffix, FLOATS, (0, 1, 2, 4))


def _fp8_scaling(layer: LayerTensors, weight: TensorEntry, entry: TensorEntry) -> tuple[str, int]:
    """'tensor', 'channel', 'block' or 'group', and the group size of K."""
    size_n, size_k = weight.shape
    shape = _two_dimensions(entry)
    if shape in ((), (1,), (1, 1)):
        return "tensor", -1
    if shape in ((size_n,), (size_n, 1)):
        return "channel", -1
    block = (-(-size_n // BLOCK), -(-size_k // BLOCK))
    if shape == block:
        return "block", BLOCK
    if len(shape) == 2 and shape[0] == size_n:
        return "group", group_size_of(entry, shape[1], size_k, layer.config.group_size, "e4m3")
    raise UsageError(
        f"{entry} is {list(entry.shape)} and {weight.name!r} {list(weight.shape)}; it must be [1] per "
        f"tensor, [{size_n}] per channel, [{size_n}, groups] or {list(block)} per block of 128 x 128"
    )


def _two_dimensions(entry: TensorEntry) -> tuple[int, ...]:
    """The shape without the two ones that ModelOpt puts into its block scales."""
    shape = entry.shape
    return (shape[0], shape[2]) if len(shape) == 4 and shape[1] == shape[3] == 1 else shape


def _mxfp8_entries(layer: LayerTensors) -> tuple[TensorEntry, TensorEntry]:
    weight = layer.need(".weight", ("F8_E4M3",), (2,))
    entry = layer.need(".weight_scale", E8M0, (2,))
    size_n, size_k = weight.shape
    _refuse_partial_group(weight, size_k, MX_GROUP)
    expect_shape(entry, (size_n, size_k // MX_GROUP), weight)
    return weight, entry


def _modelopt_nvfp4_entries(layer: LayerTensors) -> tuple[TensorEntry, TensorEntry, TensorEntry]:
    smoothed = layer.find(".pre_quant_scale")
    if smoothed is not None:
        raise UsageError(
            f"{smoothed} scales the activations of this layer before the product, which marlin_gemm does not "
            "do; export the model as NVFP4 without AWQ"
        )
    weight = layer.need(".weight", ("U8",), (2,))
    entry = layer.need(".weight_scale", ("F8_E4M3",), (2,))
    _check_fp4_scales(weight, entry, NVFP4_GROUP)
    return weight, entry, _factor_entry(layer, ".weight_scale_2")


def _nvfp4_pack_quantized_entries(layer: LayerTensors) -> tuple[TensorEntry, TensorEntry, TensorEntry]:
    weight = layer.need(".weight_packed", ("U8",), (2,))
    entry = layer.need(".weight_scale", ("F8_E4M3",), (2,))
    _check_fp4_scales(weight, entry, NVFP4_GROUP)
    return weight, entry, _factor_entry(layer, ".weight_global_scale")


def _mxfp4_pack_quantized_entries(layer: LayerTensors) -> tuple[TensorEntry, TensorEntry]:
    weight = layer.need(".weight_packed", ("U8",), (2,))
    entry = layer.need(".weight_scale", E8M0, (2,))
    _check_fp4_scales(weight, entry, MX_GROUP)
    return weight, entry


def _mxfp4_entries(layer: LayerTensors) -> tuple[TensorEntry, TensorEntry]:
    blocks = layer.need("_blocks", ("U8",), (3, 4))
    scales = layer.need("_scales", E8M0, (2, 3))
    if blocks.shape[-1] != MX_GROUP // 2:
        raise UsageError(
            f"{blocks} is {list(blocks.shape)}; its last dimension must be 16, the bytes of 32 values, fetch "
            "the file again"
        )
    expect_shape(scales, blocks.shape[:-1], blocks)
    return blocks, scales


def _check_fp4_scales(weight: TensorEntry, entry: TensorEntry, group: int) -> None:
    size_n, half = weight.shape
    _refuse_partial_group(weight, 2 * half, group)
    expect_shape(entry, (size_n, 2 * half // group), weight)


def _refuse_partial_group(weight: TensorEntry, size_k: int, group: int) -> None:
    if size_k % group:
        raise UsageError(
            f"{weight} is {list(weight.shape)}, K {size_k}; K must be a multiple of {group} in this format, "
            "fetch the file again or name another format="
        )


def _factor_entry(layer: LayerTensors, suffix: str) -> TensorEntry:
    entry = layer.need(suffix, FLOATS, (0, 1))
    if entry.shape not in ((), (1,)):
        raise UsageError(
            f"{entry} is {list(entry.shape)}; it must be one number, split a fused layer into its parts"
        )
    return entry


def _read_factor(layer: LayerTensors, entry: TensorEntry) -> float:
    value = float(layer.read_scales(entry))
    if value <= 0:
        raise UsageError(f"{entry} is {value}; it must be positive, quantise the model again")
    return value


def _fp4_sizes(weight: TensorEntry, _entry: TensorEntry) -> tuple[int, int]:
    return 2 * weight.shape[1], weight.shape[0]


def _nvfp4(layer: LayerTensors, weight: TensorEntry, entry: TensorEntry, factor: float) -> LayerWeight:
    size_k, size_n = _fp4_sizes(weight, entry)
    bias = layer.read_bias(".bias", size_n)
    return LayerWeight(
        qweight=byte_pairs_to_words(layer.read(weight)),
        scales=transpose_bytes(layer.read_scales(entry)),
        format="nvfp4",
        group_size=NVFP4_GROUP,
        size_k=size_k,
        size_n=size_n,
        global_scale=factor,
        bias=bias,
    )


def _mxfp4(layer: LayerTensors, weight: TensorEntry, entry: TensorEntry, bias_suffix: str) -> LayerWeight:
    scales = layer.read_scales(entry)
    size_n, groups = scales.shape
    bias = layer.read_bias(bias_suffix, size_n)
    return LayerWeight(
        qweight=byte_pairs_to_words(layer.read(weight).reshape(size_n, groups * MX_GROUP // 2)),
        scales=transpose_bytes(scales),
        format="mxfp4",
        group_size=MX_GROUP,
        size_k=groups * MX_GROUP,
        size_n=size_n,
        bias=bias,
    )


def _read_e4m3(layer: LayerTensors, entry: TensorEntry) -> Tensor:
    """The weight [N, K] as [K, N], without NaN."""
    weight = layer.read(entry)
    found = e4m3_nan_count(weight)
    if found:
        raise UsageError(
            f"{entry} holds {found} NaN of {weight.numel()} values; a NaN makes its whole column NaN, fetch "
            "the file again or quantise the model again"
        )
    return transpose_bytes(weight)
