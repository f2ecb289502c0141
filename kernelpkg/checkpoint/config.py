"""What a checkpoint's configuration files say of its quantisation.

Sources, the first that is there: `quantization_config` (or the older `compression_config`) of config.json,
also inside its `text_config`; quantize_config.json (GPTQ tools); hf_quant_config.json (ModelOpt). Field
names: https://huggingface.co/docs/transformers/main_classes/quantization and
https://github.com/NVIDIA/TensorRT-Model-Optimizer (unified Hugging Face checkpoint).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kernelpkg.checkpoint.files import parse_json
from kernelpkg.errors import UsageError

# compressed-tensors' `format` (its CompressionFormat) -> ours. None: layer by layer, from the tensors.
_COMPRESSED = {
    "pack-quantized": "pack-quantized",
    "float-quantized": "fp8",
    "nvfp4-pack-quantized": "nvfp4-pack-quantized",
    "mxfp4-pack-quantized": "mxfp4-pack-quantized",
    "mxfp8-quantized": "mxfp8",
    "mixed-precision": None,
}
_MODELOPT = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_PB_WO": "fp8",
    "MXFP8": "mxfp8",
    "NVFP4": "modelopt-nvfp4",
    "NVFP4_AWQ": "modelopt-nvfp4",
    "W4A16_NVFP4": "modelopt-nvfp4",
    "MIXED_PRECISION": None,
}
_METHODS = ("gptq", "awq", "compressed-tensors", "fp8", "modelopt", "mxfp4")


@dataclass(frozen=True, slots=True)
class QuantConfig:
    """format: one of FORMATS, or None where it is not said or differs between layers. group_size: where one
    holds for all layers (-1: per channel), else None. symmetric: GPTQ's `sym`, None where it is not said.
    source: the file, for messages."""

    format: str | None = None
    group_size: int | None = None
    symmetric: bool | None = None
    source: str | None = None


def read_config(folder: Path) -> QuantConfig:
    """The quantisation that the files in `folder` state; an empty QuantConfig where they state none.

    Raises UsageError for a file that is no JSON object and for a quantisation that no reader takes.
    """
    for name in ("config.json", "quantize_config.json", "hf_quant_config.json"):
        path = folder / name
        if path.is_file():
            stated = _stated(parse_json(path.read_bytes(), str(path), "fetch it again"), name)
            if stated is not None:
                return _parse(stated, name, str(path))
    return QuantConfig()


def _stated(config: dict[str, Any], name: str) -> dict[str, Any] | None:
    if name == "quantize_config.json":
        return {"quant_method": "gptq", **config}
    if name == "hf_quant_config.json":
        return {"quant_method": "modelopt", **config}
    nested = config.get("text_config")
    for holder in (config, nested if isinstance(nested, dict) else {}):
        for key in ("quantization_config", "compression_config"):
            if isinstance(holder.get(key), dict):
                return holder[key]
    return None


def _parse(stated: dict[str, Any], name: str, path: str) -> QuantConfig:
    method = str(stated.get("quant_method", "")).lower()
    readers = {
        "gptq": _gptq,
        "awq": _awq,
        "compressed-tensors": _compressed,
        "fp8": _fp8,
        "modelopt": _modelopt,
        "modelopt_fp4": _modelopt,
        "mxfp4": lambda _stated, _path: QuantConfig("mxfp4", 32),
    }
    if method not in readers:
        raise UsageError(
            f"{path} says quant_method {method!r}; {', '.join(_METHODS)} can be read, or name the format of "
            "the tensors with format="
        )
    return replace(readers[method](stated, path), source=name)


def _gptq(stated: dict[str, Any], path: str) -> QuantConfig:
    kind = stated.get("checkpoint_format") or "gptq"
    if kind not in ("gptq", "gptq_v2"):
        raise UsageError(
            f"{path} says checkpoint_format {kind!r}; 'gptq' and 'gptq_v2' can be read, save the model in "
            "one of them"
        )
    # GPTQModel's `dynamic` gives single layers other sizes.
    group_size = None if stated.get("dynamic") else _integer(stated, "group_size")
    symmetric = stated.get("sym")
    return QuantConfig(kind, group_size, symmetric if isinstance(symmetric, bool) else None)


def _awq(stated: dict[str, Any], path: str) -> QuantConfig:
    version = str(stated.get("version", "gemm")).lower()
    if version != "gemm":
        raise UsageError(
            f"{path} says AWQ version {version!r}; 'gemm' can be read, save the model with version='gemm'"
        )
    group_size = _integer(stated, "group_size")
    return QuantConfig("awq", _integer(stated, "q_group_size") if group_size is None else group_size)


def _compressed(stated: dict[str, Any], path: str) -> QuantConfig:
    groups = stated.get("config_groups")
    groups = [g for g in groups.values() if isinstance(g, dict)] if isinstance(groups, dict) else []
    kind = stated.get("format")
    kinds = {group.get("format") or kind for group in groups} or {kind}
    unknown = sorted(str(k) for k in kinds if k not in _COMPRESSED)
    if len(unknown) == len(kinds):
        raise UsageError(
            f"{path} says compressed-tensors format {', '.join(unknown)!r}; {', '.join(_COMPRESSED)} can be "
            "read, compress the model to one of them"
        )
    weights = [group.get("weights") or {} for group in groups]
    sizes = {_integer(args, "group_size") for args in weights}
    return QuantConfig(
        _COMPRESSED[kinds.pop()] if len(kinds) == 1 else None, sizes.pop() if len(sizes) == 1 else None
    )


def _fp8(stated: dict[str, Any], path: str) -> QuantConfig:
    block = stated.get("weight_block_size")
    if block is not None and block != [128, 128]:
        raise UsageError(
            f"{path} says weight_block_size {block}; the kernel takes [128, 128], quantise the model again "
            "with it"
        )
    return QuantConfig("fp8")


def _modelopt(stated: dict[str, Any], path: str) -> QuantConfig:
    inner = stated.get("quantization")
    inner = inner if isinstance(inner, dict) else stated
    algorithm = str(inner.get("quant_algo", "")).upper()
    if algorithm not in _MODELOPT:
        raise UsageError(
            f"{path} says quant_algo {algorithm!r}; {', '.join(_MODELOPT)} can be read, export the model in "
            "one of them"
        )
    return QuantConfig(_MODELOPT[algorithm])


def _integer(stated: dict[str, Any], key: str) -> int | None:
    value = stated.get(key)
    return value if type(value) is int else None
