"""Finding the quantised layers of a checkpoint, reading one, and packing it for marlin_gemm."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernelpkg import ops
from kernelpkg.checkpoint import floats, integers
from kernelpkg.checkpoint.config import QuantConfig, read_config
from kernelpkg.checkpoint.files import Checkpoint
from kernelpkg.checkpoint.layer import E8M0, LayerTensors, LayerWeight
from kernelpkg.errors import UsageError

CheckpointPath = str | os.PathLike[str] | Checkpoint


@dataclass(frozen=True, slots=True)
class _Format:
    sizes: Callable[[LayerTensors], tuple[int, int]]  # checks the headers; (K, N)
    read: Callable[[LayerTensors], LayerWeight]


_READERS = {
    "gptq": _Format(integers.gptq_sizes, integers.read_gptq),
    "gptq_v2": _Format(integers.gptq_sizes, integers.read_gptq),
    "awq": _Format(integers.awq_sizes, integers.read_awq),
    "pack-quantized": _Format(integers.pack_quantized_sizes, integers.read_pack_quantized),
    "fp8": _Format(floats.fp8_sizes, floats.read_fp8),
    "mxfp8": _Format(floats.mxfp8_sizes, floats.read_mxfp8),
    "modelopt-nvfp4": _Format(floats.modelopt_nvfp4_sizes, floats.read_modelopt_nvfp4),
    "nvfp4-pack-quantized": _Format(floats.nvfp4_pack_quantized_sizes, floats.read_nvfp4_pack_quantized),
    "mxfp4": _Format(floats.mxfp4_sizes, floats.read_mxfp4),
    "mxfp4-pack-quantized": _Format(floats.mxfp4_pack_quantized_sizes, floats.read_mxfp4_pack_quantized),
}
FORMATS = tuple(_READERS)

# A tensor with one of these endings belongs to a quantised layer, whatever else of it is missing.
_MARKS = (
    ".qweight",
    ".qzeros",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_scale_2",
    "_blocks",
    "_scales",
)


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A quantised layer of a checkpoint.

    prefix: what its tensors' names start with. format: one of FORMATS. size_k, size_n: of its weight [K, N];
    None where `problem` is set, the sentence that read_layer would refuse it with (headers alone are looked
    at). experts: how many such weights the tensors stack, None for a layer of its own.
    """

    prefix: str
    format: str | None
    size_k: int | None
    size_n: int | None
    experts: int | None = None
    problem: str | None = None


def inspect_checkpoint(path: CheckpointPath, format: str | None = None) -> list[LayerInfo]:
    """The quantised layers of a checkpoint, in order of their names; no weight is read.

    path: a .safetensors file, a folder with model.safetensors.index.json, a folder with one .safetensors
    file, or a Checkpoint, whose headers are then read once for all its layers. format: as for read_layer. A
    layer whose tensors do not fit is listed with its `problem`.

    Raises UsageError for a path or file that cannot be read and for an unknown format.
    """
    checkpoint, config = _open(path, format)
    return [_info(_layer(checkpoint, prefix, config)) for prefix in _prefixes(checkpoint)]


def read_layer(
    path: CheckpointPath,
    prefix: str,
    format: str | None = None,
    *,
    expert: int | None = None,
    device: torch.device | str = "cpu",
) -> LayerWeight:
    """One layer of a checkpoint in the form that pack_marlin_weight takes, on `device`.

    path: as for inspect_checkpoint. prefix: what the layer's tensors' names start with, such as
    'model.layers.0.mlp.down_proj'. format: one of FORMATS; None takes the one that the checkpoint's
    configuration states, else the one its tensors show. expert: which weight of tensors that stack experts
    (format 'mxfp4').

    Raises UsageError, which names the tensor, for one that is missing, of another dtype or shape, or holds a
    NaN or infinite scale; for a group size or zero points that the kernel does not take; for rows in
    act-order; for an unknown prefix or format; and for whatever Checkpoint refuses.
    """
    checkpoint, config = _open(path, format)
    layer = _layer(checkpoint, prefix, config, device)
    if layer.config.format is None:
        raise UsageError(_no_such_layer(checkpoint, prefix))
    reader = _READERS[layer.config.format]
    reader.sizes(layer)  # what is wrong with a tensor is said before what is wrong with `expert`
    experts = _experts(layer)
    if expert is not None and (experts is None or not 0 <= expert < experts):
        holds = "is no stack of experts, leave expert out" if experts is None else f"holds {experts} experts"
        raise UsageError(f"expert is {expert} and layer {prefix!r} {holds}")
    if experts is not None and expert is None:
        raise UsageError(f"layer {prefix!r} stacks {experts} experts; say which, expert=0 to {experts - 1}")
    return reader.read(replace(layer, expert=expert))


def load_layer(
    path: CheckpointPath,
    prefix: str,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    *,
    format: str | None = None,
    expert: int | None = None,
) -> tuple[ops.PackedWeight, Tensor | None]:
    """One layer of a checkpoint packed for marlin_gemm on `device`, and its bias in `dtype` or None.

    dtype: float16 or bfloat16, the output's. The rest as for read_layer, which says what is refused; also
    raises what pack_marlin_weight refuses, such as float16 for MXFP4 and MXFP8.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"torch sees no CUDA device here, so nothing can be loaded to {device}; use device='cpu'"
        )
    layer = read_layer(path, prefix, format, expert=expert, device=device)
    try:
        packed = ops.pack_marlin_weight(
            layer.qweight,
            layer.scales,
            layer.format,
            layer.group_size,
            zeros=layer.zeros,
            global_scale=layer.global_scale,
            size_k=layer.size_k,
            dtype=dtype,
            blocks=layer.blocks,
        )
    except UsageError as error:
        raise UsageError(f"layer {prefix!r}: {error}") from error
    return packed, None if layer.bias is None else layer.bias.to(dtype)


def _open(path: CheckpointPath, format: str | None) -> tuple[Checkpoint, QuantConfig]:
    if format is not None and format not in _READERS:
        raise UsageError(f"format is {format!r}; it must be one of {', '.join(FORMATS)}")
    checkpoint = path if isinstance(path, Checkpoint) else Checkpoint(path)
    config = read_config(checkpoint.folder) if format is None else QuantConfig(format, source="format=")
    return checkpoint, config


def _layer(
    checkpoint: Checkpoint, prefix: str, config: QuantConfig, device: torch.device | str = "cpu"
) -> LayerTensors:
    """The layer, with the format that its tensors show where the configuration states none for all layers."""
    layer = LayerTensors(checkpoint, prefix, config, device)
    weight = layer.find(".weight")
    quantised = any(layer.find(mark) for mark in _MARKS) or (weight and weight.dtype in ("F8_E4M3", "U8"))
    if config.format is not None and quantised:
        return layer
    return LayerTensors(checkpoint, prefix, replace(config, format=_format_of(layer)), device)


def _prefixes(checkpoint: Checkpoint) -> list[str]:
    found = {name.removesuffix(mark) for name in checkpoint.entries for mark in _MARKS if name.endswith(mark)}
    found |= {
        name.removesuffix(".weight")
        for name, entry in checkpoint.entries.items()
        if name.endswith(".weight") and entry.dtype == "F8_E4M3"
    }
    return sorted(found, key=_natural)


def _natural(prefix: str) -> list[tuple[int, str]]:
    """Orders 'layers.2' before 'layers.10'."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in prefix.split(".")]


def _format_of(layer: LayerTensors) -> str | None:
    """The format that a layer's tensors show by their names and dtypes; None where it is not quantised."""
    qweight, scales = layer.find(".qweight"), layer.find(".scales")
    if qweight or layer.find(".qzeros"):
        by_columns = qweight and scales and qweight.shape[-1:] != scales.shape[-1:]
        return "awq" if by_columns and not layer.find(".g_idx") else "gptq"
    scale = layer.find(".weight_scale")
    packed = layer.find(".weight_packed")
    if packed:
        if packed.dtype != "U8":
            return "pack-quantized"
        nvfp4 = layer.find(".weight_global_scale") or (scale and scale.dtype == "F8_E4M3")
        return "nvfp4-pack-quantized" if nvfp4 else "mxfp4-pack-quantized"
    if layer.find("_blocks") or layer.find("_scales"):
        return "mxfp4"
    if layer.find(".weight_shape") or layer.find(".weight_zero_point"):
        return "pack-quantized"
    if layer.find(".weight_global_scale"):
        return "nvfp4-pack-quantized"
    weight = layer.find(".weight")
    if layer.find(".weight_scale_2") or (weight and weight.dtype == "U8" and scale):
        return "modelopt-nvfp4"
    if scale and scale.dtype in E8M0:
        return "mxfp8"
    eight_bits = weight and weight.dtype == "F8_E4M3"
    return "fp8" if eight_bits or scale or layer.find(".weight_scale_inv") else None


def _experts(layer: LayerTensors) -> int | None:
    blocks = layer.find("_blocks") if layer.config.format == "mxfp4" else None
    return blocks.shape[0] if blocks and len(blocks.shape) == 4 else None


def _info(layer: LayerTensors) -> LayerInfo:
    name = layer.config.format
    experts = _experts(layer)
    try:
        size_k, size_n = _READERS[name].sizes(layer)
    except UsageError as error:
        return LayerInfo(layer.prefix, name, None, None, experts, str(error))
    return LayerInfo(layer.prefix, name, size_k, size_n, experts)


def _no_such_layer(checkpoint: Checkpoint, prefix: str) -> str:
    prefixes = _prefixes(checkpoint)
    if any(name.startswith(prefix + ".") for name in checkpoint.entries):
        problem = f"layer {prefix!r} is not quantised in a format that can be read"
    else:
        problem = f"the checkpoint has no layer {prefix!r}"
    some = ", ".join(repr(p) for p in prefixes[:3]) + (", ..." if len(prefixes) > 3 else "")
    return f"{problem}; its {len(prefixes)} quantised layers are {some}" if prefixes else problem
