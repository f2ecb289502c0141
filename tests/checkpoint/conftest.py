"""Small checkpoints made by the published descriptions of the formats, with the weight they stand for.

Nothing here uses the package: the codes are packed nibble by nibble in NumPy and the weight is computed in
float64 from the codes, so that a reader is compared with the description and not with itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # OCP MX 1.0, table 5; bit 3 is the sign
PREFIX = "model.layers.0.mlp.down_proj"


@dataclass
class Sample:
    """tensors: by their endings. weight: float64 [K, N]. config: quantization_config of config.json."""

    tensors: dict[str, torch.Tensor]
    weight: np.ndarray
    config: dict[str, Any] | None
    format: str  # of the checkpoint
    packed_format: str  # of kernelpkg.ops
    group_size: int
    expert: int | None = None
    bias: np.ndarray | None = None

    def named(self, prefix: str = PREFIX) -> dict[str, torch.Tensor]:
        return {prefix + ending: tensor for ending, tensor in self.tensors.items()}


@dataclass
class Writer:
    """Writes checkpoints into a folder."""

    folder: Path
    made: list[Path] = field(default_factory=list)

    def __call__(
        self, tensors: dict[str, torch.Tensor], config: dict[str, Any] | None, name: str = "model.safetensors"
    ) -> Path:
        folder = self.folder / f"checkpoint{len(self.made)}"
        folder.mkdir()
        self.made.append(folder)
        save_file(tensors, folder / name)
        if config is not None:
            (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
        return folder


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


@pytest.fixture
def make() -> dict[str, Callable[..., Sample]]:
    """Format -> what makes a sample of it."""
    return {
        "gptq": gptq,
        "awq": awq,
        "pack-quantized": pack_quantized,
        "fp8": fp8,
        "mxfp8": mxfp8,
        "modelopt-nvfp4": nvfp4,
        "nvfp4-pack-quantized": lambda **sizes: nvfp4(compressed=True, **sizes),
        "mxfp4": mxfp4,
        "mxfp4-pack-quantized": mxfp4_packed,
    }


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def pack(values: np.ndarray, bits: int, axis: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """Non-negative integers -> int32 words along `axis`; position j of a word is element order[j] of its
    run."""
    per_word = 32 // bits
    moved = np.moveaxis(values, axis, -1).astype(np.uint64)
    short = -moved.shape[-1] % per_word
    moved = np.concatenate([moved, np.zeros((*moved.shape[:-1], short), np.uint64)], axis=-1)
    words = np.zeros((*moved.shape[:-1], moved.shape[-1] // per_word), np.uint64)
    for j in range(per_word):
        words |= moved[..., (order[j] if order else j) :: per_word] << np.uint64(bits * j)
    back = np.moveaxis(words, -1, axis).astype(np.uint32).view(np.int32)
    return torch.from_numpy(np.ascontiguousarray(back))


def spread(scales: np.ndarray, group: int, size_k: int) -> np.ndarray:
    """[groups, N] -> [K, N]; group -1 is all of K."""
    return np.repeat(scales, size_k if group == -1 else group, axis=0)[:size_k]


def float_scales(
    generator: np.random.Generator, shape: tuple[int, ...], dtype=torch.float16
) -> tuple[torch.Tensor, np.ndarray]:
    scales = torch.from_numpy(generator.uniform(0.001, 0.02, shape)).to(dtype)
    return scales, scales.double().numpy()


def bias_of(generator: np.random.Generator, size_n: int) -> torch.Tensor:
    return torch.from_numpy(generator.normal(size=size_n)).to(torch.float16)


def groups_of(size_k: int, group: int) -> int:
    return 1 if group == -1 else -(-size_k // group)


def gptq(
    size_k: int = 256,
    size_n: int = 24,
    bits: int = 4,
    group: int = 128,
    symmetric: bool = True,
    version: str = "gptq",
    g_idx: bool = True,
) -> Sample:
    generator = rng(1, size_k, size_n, bits)
    middle = 1 << (bits - 1)
    levels = generator.integers(0, 1 << bits, (size_k, size_n))
    groups = groups_of(size_k, group)
    zeros = np.full((groups, size_n), middle)
    if not symmetric:
        zeros = generator.integers(1, 15, (groups, size_n))
    scales, scale_values = float_scales(generator, (groups, size_n))
    bias = bias_of(generator, size_n)
    tensors = {
        ".qweight": pack(levels, bits, axis=0),
        ".qzeros": pack(zeros - (version == "gptq"), bits, axis=1),
        ".scales": scales,
        ".bias": bias,
    }
    if g_idx:
        size = size_k if group == -1 else group
        tensors[".g_idx"] = torch.tensor([k // size for k in range(size_k)], dtype=torch.int32)
    weight = (levels - spread(zeros, group, size_k)) * spread(scale_values, group, size_k)
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": symmetric, "desc_act": False}
    config["checkpoint_format"] = version
    packed_format = "u8b128" if bits == 8 else "u4b8" if symmetric else "u4"
    shown = -1 if groups == 1 else group
    return Sample(tensors, weight, config, version, packed_format, shown, bias=bias.double().numpy())


def awq(size_k: int = 256, size_n: int = 24, group: int = 128) -> Sample:
    generator = rng(2, size_k, size_n)
    groups = groups_of(size_k, group)
    levels = generator.integers(0, 16, (size_k, size_n))
    zeros = generator.integers(0, 16, (groups, size_n))
    scales, scale_values = float_scales(generator, (groups, size_n))
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    tensors = {
        ".qweight": pack(levels, 4, axis=1, order=order),
        ".qzeros": pack(zeros, 4, axis=1, order=order),
        ".scales": scales,
    }
    weight = (levels - spread(zeros, group, size_k)) * spread(scale_values, group, size_k)
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    return Sample(tensors, weight, config, "awq", "u4", -1 if groups == 1 else group)


def pack_quantized(
    size_k: int = 256, size_n: int = 24, bits: int = 4, group: int = 128, symmetric: bool = True
) -> Sample:
    generator = rng(3, size_k, size_n, bits)
    half = 1 << (bits - 1)
    groups = groups_of(size_k, group)
    signed = generator.integers(-half, half, (size_n, size_k))
    scales, scale_values = float_scales(generator, (size_n, groups), torch.bfloat16)
    zeros = np.zeros((size_n, groups), np.int64)
    tensors = {
        ".weight_packed": pack(signed + half, bits, axis=1),
        ".weight_scale": scales,
        ".weight_shape": torch.tensor([size_n, size_k]),
    }
    if not symmetric:
        zeros = generator.integers(-half, half, (size_n, groups))
        tensors[".weight_zero_point"] = pack(zeros + half, bits, axis=0)
    weight = (signed.T - spread(zeros.T, group, size_k)) * spread(scale_values.T, group, size_k)
    strategy = {"strategy": "channel", "group_size": None}
    if group != -1:
        strategy = {"strategy": "group", "group_size": group}
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, **strategy}
    packed_format = "u8b128" if bits == 8 else "u4b8" if symmetric else "u4"
    shown = -1 if groups == 1 else group
    config = compressed_config("pack-quantized", weights)
    return Sample(tensors, weight, config, "pack-quantized", packed_format, shown)


def compressed_config(format: str, weights: dict[str, Any]) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": groups}


def e4m3(generator: np.random.Generator, shape: tuple[int, ...]) -> tuple[torch.Tensor, np.ndarray]:
    """Random finite e4m3 codes and what they are worth: OCP OFP8 1.0, bias 7, no infinities."""
    codes = generator.integers(0, 256, shape).astype(np.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0x7E
    exponent, mantissa = ((codes >> 3) & 15).astype(int), (codes & 7) / 8
    values = np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7.0))
    return torch.from_numpy(codes).view(torch.float8_e4m3fn), np.where(codes & 0x80, -values, values)


def fp8(
    size_k: int = 256, size_n: int = 136, scaling: str = "channel", ending: str = ".weight_scale"
) -> Sample:
    generator = rng(4, size_k, size_n)
    weight, values = e4m3(generator, (size_n, size_k))
    blocks = (-(-size_n // 128), -(-size_k // 128))
    shape = {
        "scalar": (),
        "tensor": (1,),
        "channel": (size_n, 1),
        "vector": (size_n,),
        "group": (size_n, size_k // 128),
        "block": blocks,
        "modelopt": (blocks[0], 1, blocks[1], 1),
    }[scaling]
    scales, numbers = float_scales(generator, shape, torch.float32)
    if scaling in ("block", "modelopt"):
        full = np.repeat(np.repeat(numbers.reshape(blocks), 128, 0)[:size_n], 128, 1)[:, :size_k]
    elif scaling == "group":
        full = np.repeat(numbers, 128, 1)
    else:
        full = numbers.reshape(-1, 1)
    config: dict[str, Any] = compressed_config("float-quantized", {"num_bits": 8, "type": "float"})
    if ending == ".weight_scale_inv":
        config = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
    if scaling == "modelopt":
        config = {"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"}
    group_size = 128 if scaling in ("group", "block", "modelopt") else -1
    tensors = {".weight": weight, ending: scales, ".input_scale": torch.tensor(1.0)}
    return Sample(tensors, (values * full).T, config, "fp8", "e4m3", group_size)


def e8m0(generator: np.random.Generator, shape: tuple[int, ...]) -> tuple[torch.Tensor, np.ndarray]:
    """Random e8m0 scales near 1: 2 ** (code - 127)."""
    codes = generator.integers(117, 137, shape).astype(np.uint8)
    return torch.from_numpy(codes), 2.0 ** (codes.astype(float) - 127)


def mxfp8(size_k: int = 96, size_n: int = 24, dtype: torch.dtype = torch.uint8) -> Sample:
    generator = rng(5, size_k, size_n)
    weight, values = e4m3(generator, (size_n, size_k))
    scales, numbers = e8m0(generator, (size_n, size_k // 32))
    tensors = {".weight": weight, ".weight_scale": scales.view(dtype)}
    config = {"quant_method": "modelopt", "quant_algo": "MXFP8"}
    return Sample(tensors, (values * np.repeat(numbers, 32, 1)).T, config, "mxfp8", "e4m3", 32)


def e2m1(generator: np.random.Generator, shape: tuple[int, ...]) -> tuple[torch.Tensor, np.ndarray]:
    """Random e2m1 codes, two to a byte along the last dimension and the first in the low half; their
    values."""
    codes = generator.integers(0, 16, shape)
    values = np.where(codes & 8, -1.0, 1.0) * np.array(E2M1)[codes & 7]
    return torch.from_numpy((codes[..., 0::2] | (codes[..., 1::2] << 4)).astype(np.uint8)), values


def nvfp4(size_k: int = 80, size_n: int = 24, compressed: bool = False) -> Sample:
    generator = rng(6, size_k, size_n)
    packed, values = e2m1(generator, (size_n, size_k))
    scales, numbers = e4m3(generator, (size_n, size_k // 16))
    scales, numbers = scales.view(torch.uint8).bitwise_and(0x7F).view(torch.float8_e4m3fn), np.abs(numbers)
    weight = (values * np.repeat(numbers, 16, 1)).T
    if compressed:
        divisor = torch.tensor([384.0])
        tensors = {".weight_packed": packed, ".weight_scale": scales, ".weight_global_scale": divisor}
        config = compressed_config("nvfp4-pack-quantized", {"num_bits": 4, "type": "float", "group_size": 16})
        return Sample(tensors, weight * (1 / 384.0), config, "nvfp4-pack-quantized", "nvfp4", 16)
    factor = torch.tensor(0.0123)
    tensors = {".weight": packed, ".weight_scale": scales, ".weight_scale_2": factor}
    tensors[".input_scale"] = torch.tensor(1.0)
    config = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    return Sample(tensors, weight * factor.double().item(), config, "modelopt-nvfp4", "nvfp4", 16)


def mxfp4(size_k: int = 96, size_n: int = 24, experts: int | None = 3) -> Sample:
    generator = rng(7, size_k, size_n)
    stack = (size_n,) if experts is None else (experts, size_n)
    packed, values = e2m1(generator, (*stack, size_k))
    scales, numbers = e8m0(generator, (*stack, size_k // 32))
    weight = values * np.repeat(numbers, 32, -1)
    bias = bias_of(generator, size_n).expand(stack).contiguous()
    chosen = None if experts is None else experts - 1
    if chosen is not None:
        bias = bias * torch.arange(experts)[:, None]
        weight = weight[chosen]
    tensors = {"_blocks": packed.reshape(*stack, size_k // 32, 16), "_scales": scales, "_bias": bias}
    expected = bias if chosen is None else bias[chosen]
    config = {"quant_method": "mxfp4"}
    return Sample(
        tensors, weight.T, config, "mxfp4", "mxfp4", 32, expert=chosen, bias=expected.double().numpy()
    )


def mxfp4_packed(size_k: int = 96, size_n: int = 24, dtype: torch.dtype = torch.uint8) -> Sample:
    generator = rng(8, size_k, size_n)
    packed, values = e2m1(generator, (size_n, size_k))
    scales, numbers = e8m0(generator, (size_n, size_k // 32))
    tensors = {".weight_packed": packed, ".weight_scale": scales.view(dtype)}
    config = compressed_config("mxfp4-pack-quantized", {"num_bits": 4, "type": "float", "group_size": 32})
    weight = (values * np.repeat(numbers, 32, 1)).T
    return Sample(tensors, weight, config, "mxfp4-pack-quantized", "mxfp4", 32)
