"""Every format, read from a file made by its description and compared exactly in float64. About 3 s."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kernelpkg import checkpoint
from kernelpkg.errors import UsageError

PREFIX = "model.layers.0.mlp.down_proj"
E2M1 = np.array((0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0))

CASES = [
    ("gptq", {}),
    ("gptq", {"size_k": 96, "size_n": 40, "group": 32}),
    ("gptq", {"size_k": 200, "size_n": 8}),  # K is no multiple of the group
    ("gptq", {"group": -1, "g_idx": False}),
    ("gptq", {"group": 64, "symmetric": False}),
    ("gptq", {"version": "gptq_v2"}),
    ("gptq", {"version": "gptq_v2", "symmetric": False, "size_n": 56}),
    ("gptq", {"bits": 8}),
    ("gptq", {"bits": 8, "version": "gptq_v2", "size_k": 132, "size_n": 12, "group": -1}),
    ("awq", {}),
    ("awq", {"group": 32, "size_k": 96, "size_n": 72}),
    ("awq", {"group": -1, "size_k": 100}),  # K is no multiple of 8
    ("pack-quantized", {}),
    ("pack-quantized", {"size_k": 203, "size_n": 13, "group": 64}),
    ("pack-quantized", {"group": -1, "size_n": 1}),
    ("pack-quantized", {"symmetric": False, "group": 32, "size_n": 27}),
    ("pack-quantized", {"bits": 8}),
    ("pack-quantized", {"bits": 8, "group": -1, "size_k": 131, "size_n": 7}),
    ("fp8", {"scaling": "scalar"}),
    ("fp8", {"scaling": "tensor", "size_n": 7, "size_k": 33}),
    ("fp8", {"scaling": "channel"}),
    ("fp8", {"scaling": "vector"}),
    ("fp8", {"scaling": "group"}),
    ("fp8", {"scaling": "block"}),
    ("fp8", {"scaling": "block", "ending": ".weight_scale_inv", "size_k": 300, "size_n": 257}),
    ("fp8", {"scaling": "block", "ending": ".weight_scale_inv", "size_k": 64, "size_n": 32}),
    ("fp8", {"scaling": "modelopt", "size_k": 384}),
    ("mxfp8", {}),
    ("mxfp8", {"dtype": torch.float8_e8m0fnu, "size_n": 5}),
    ("modelopt-nvfp4", {}),
    ("modelopt-nvfp4", {"size_k": 16, "size_n": 3}),
    ("nvfp4-pack-quantized", {}),
    ("mxfp4", {}),
    ("mxfp4", {"experts": None, "size_n": 5}),
    ("mxfp4-pack-quantized", {"size_n": 9}),
    ("mxfp4-pack-quantized", {"dtype": torch.float8_e8m0fnu}),
]


def name(case) -> str:
    return f"{case[0]}-" + ",".join(f"{key}={value}" for key, value in case[1].items())


def dequantise(layer: checkpoint.LayerWeight) -> np.ndarray:
    """float64 [K, N] of the canonical form."""
    if layer.qweight.dtype == torch.int32:
        words = layer.qweight.numpy().view(np.uint32)
        assert words.shape == (-(-layer.size_k // 8), layer.size_n)
        codes = np.stack([(words >> np.uint32(4 * j)) & 15 for j in range(8)], axis=1)
        codes = codes.reshape(-1, layer.size_n)[: layer.size_k].astype(int)
    else:
        assert layer.qweight.shape == (layer.size_k, layer.size_n)
        codes = layer.qweight.view(torch.uint8).numpy().astype(int)
    if layer.format in ("nvfp4", "mxfp4"):
        values = np.where(codes & 8, -1, 1) * E2M1[codes & 7]
    elif layer.format == "e4m3":
        values = layer.qweight.double().numpy()
    else:
        values = codes - {"u4b8": 8, "u4": 0, "u8b128": 128}[layer.format]
    scales = layer.scales
    numbers = 2.0 ** (scales.numpy() - 127.0) if scales.dtype == torch.uint8 else scales.double().numpy()
    if layer.blocks:
        numbers = np.repeat(numbers, 128, axis=1)[:, : layer.size_n]
    if layer.zeros is not None:
        assert layer.zeros.dtype == torch.uint8
        values = values - per_row(layer.zeros.numpy().astype(int), layer)
    return values * per_row(numbers, layer) * layer.global_scale


def per_row(groups: np.ndarray, layer: checkpoint.LayerWeight) -> np.ndarray:
    rows = layer.size_k if layer.group_size == -1 else layer.group_size
    assert groups.shape == (-(-layer.size_k // rows), layer.size_n)
    return np.repeat(groups, rows, axis=0)[: layer.size_k]


def same(layer: checkpoint.LayerWeight, sample) -> None:
    assert layer.format == sample.packed_format
    assert (layer.size_k, layer.size_n) == sample.weight.shape
    if layer.format == "nvfp4":  # three factors: the order of the products may cost the last bit
        np.testing.assert_allclose(dequantise(layer), sample.weight, rtol=3e-16, atol=0)
    else:
        np.testing.assert_array_equal(dequantise(layer), sample.weight)
    tensors = (layer.qweight, layer.scales, layer.zeros)
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    if sample.bias is None:
        assert layer.bias is None
    else:
        np.testing.assert_array_equal(layer.bias.double().numpy(), sample.bias)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_the_weight_is_what_the_format_says(case, make, write):
    sample = make[case[0]](**case[1])
    path = write(sample.named(), sample.config)
    layer = checkpoint.read_layer(path, PREFIX, expert=sample.expert)
    same(layer, sample)
    small_blocks = layer.format == "e4m3" and layer.scales.numel() == layer.size_n
    assert layer.group_size == (-1 if small_blocks and not layer.blocks else sample.group_size)
    [info] = checkpoint.inspect_checkpoint(path)
    assert info.problem is None and info.prefix == PREFIX and info.format == sample.format
    assert (info.size_k, info.size_n) == sample.weight.shape


@pytest.mark.parametrize("case", CASES, ids=name)
def test_names_and_dtypes_are_enough_without_a_configuration(case, make, write):
    sample = make[case[0]](**case[1])
    path = write(sample.named(), None) / "model.safetensors"
    format = sample.format if sample.format in ("gptq", "gptq_v2") else None  # tensors do not show which
    if sample.weight.shape[0] in (200, 203):  # the last group is not full
        with pytest.raises(UsageError, match=r"groups of 100|4 groups do not divide K 203"):
            checkpoint.read_layer(path, PREFIX, format)
        return
    same(checkpoint.read_layer(path, PREFIX, format, expert=sample.expert), sample)
    [info] = checkpoint.inspect_checkpoint(path)
    assert info.format.removesuffix("_v2") == sample.format.removesuffix("_v2")


def test_symmetric_gptq_needs_no_configuration(make, write):
    sample = make["gptq"]()
    same(checkpoint.read_layer(write(sample.named(), None), PREFIX), sample)


def test_format_overrides_the_configuration(make, write):
    sample = make["awq"]()
    path = write(sample.named(), {"quant_method": "bitsandbytes"})
    with pytest.raises(UsageError, match="quant_method 'bitsandbytes'"):
        checkpoint.read_layer(path, PREFIX)
    same(checkpoint.read_layer(path, PREFIX, "awq"), sample)


@pytest.mark.parametrize("where", ["text_config", "quantize_config.json", "hf_quant_config.json"])
def test_the_configuration_is_found_where_tools_put_it(where, make, write):
    sample = make["modelopt-nvfp4" if where.startswith("hf") else "gptq"](size_n=24)
    path = write(sample.named(), None)
    if where == "text_config":
        (path / "config.json").write_text(json.dumps({"text_config": {"quantization_config": sample.config}}))
    elif where == "quantize_config.json":
        (path / "config.json").write_text("{}")
        stated = {key: value for key, value in sample.config.items() if key != "quant_method"}
        (path / where).write_text(json.dumps(stated))
    else:
        (path / where).write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    same(checkpoint.read_layer(path, PREFIX), sample)


def test_mixed_precision_goes_by_each_layer(make, write):
    one, other = make["pack-quantized"](), make["fp8"]()
    config = {"quant_method": "compressed-tensors", "format": "mixed-precision"}
    path = write({**one.named("a.b"), **other.named("a.c")}, config)
    same(checkpoint.read_layer(path, "a.b"), one)
    same(checkpoint.read_layer(path, "a.c"), other)


def test_shards_are_read_by_the_index(make, tmp_path):
    sample = make["gptq"]()
    tensors = sample.named()
    shards = {f"model-{i:05}-of-00002.safetensors": {} for i in (1, 2)}
    files = {}
    for i, (key, tensor) in enumerate(tensors.items()):
        shard = list(shards)[i % 2]
        shards[shard][key] = tensor
        files[key] = shard
    for shard, held in shards.items():
        save_file(held, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": sample.config}))
    same(checkpoint.read_layer(tmp_path, PREFIX), sample)
    assert len(checkpoint.inspect_checkpoint(tmp_path)) == 1
    opened = checkpoint.Checkpoint(tmp_path)
    assert opened.entries.keys() == tensors.keys()
    same(checkpoint.read_layer(opened, PREFIX), sample)


def test_every_expert_of_a_stack_can_be_read(make, write):
    sample = make["mxfp4"](experts=3)
    path = write(sample.named("experts.gate_up_proj"), sample.config)
    [info] = checkpoint.inspect_checkpoint(path)
    assert info.experts == 3 and info.prefix == "experts.gate_up_proj"
    layers = [checkpoint.read_layer(path, info.prefix, expert=i) for i in range(3)]
    same(layers[2], sample)
    assert not torch.equal(layers[0].qweight, layers[1].qweight)
    assert not layers[0].bias.any()


def test_layers_are_listed_in_order_and_the_rest_is_left_out(make, write):
    sample = make["awq"]()
    tensors = {"model.norm.weight": torch.ones(4), "lm_head.weight": torch.ones(4, 4)}
    for layer in (10, 2):
        named = sample.named(f"model.layers.{layer}.q_proj")
        tensors |= {key: tensor.clone() for key, tensor in named.items()}
    path = write(tensors, sample.config)
    rows = checkpoint.layer_rows(path)
    assert [row["layer"] for row in rows] == ["model.layers.2.q_proj", "model.layers.10.q_proj"]
    assert rows[0] == {
        "layer": "model.layers.2.q_proj",
        "format": "awq",
        "K": 256,
        "N": 24,
        "experts": None,
        "problem": None,
    }
