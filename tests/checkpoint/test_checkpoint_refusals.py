"""What is wrong with a checkpoint is said by the name of the tensor, and nothing is returned. About 3 s."""

from __future__ import annotations

import json
import random
import struct

import pytest
import torch
from safetensors.torch import save_file

from kernelpkg import checkpoint
from kernelpkg.errors import UsageError

PREFIX = "model.layers.0.mlp.down_proj"
FORMATS = (
    "gptq",
    "awq",
    "pack-quantized",
    "fp8",
    "mxfp8",
    "modelopt-nvfp4",
    "nvfp4-pack-quantized",
    "mxfp4",
    "mxfp4-pack-quantized",
)
OPTIONAL = {".bias", "_bias", ".g_idx", ".input_scale"}


def refuse(path, says: str, prefix: str = PREFIX, **options) -> str:
    with pytest.raises(UsageError, match=says) as refused:
        checkpoint.read_layer(path, prefix, **options)
    return str(refused.value)


def changed(sample, ending: str, tensor: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The sample's tensors with one replaced or, with None, left out."""
    tensors = sample.named()
    tensors.pop(PREFIX + ending, None)
    return tensors if tensor is None else {**tensors, PREFIX + ending: tensor}


def problem_of(path) -> str | None:
    [info] = checkpoint.inspect_checkpoint(path)
    return info.problem


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("configured", [True, False])
def test_each_missing_tensor_is_named(format, configured, make, write):
    sample = make[format]()
    config = sample.config if configured else None
    for ending in set(sample.tensors) - OPTIONAL:
        path = write(changed(sample, ending, None), config)
        says = f"tensor '{PREFIX}{ending}' is missing"
        if ending == ".weight_packed" and format == "mxfp4-pack-quantized" and not configured:
            says = f"tensor '{PREFIX}.weight' is missing; a layer in the format 'mxfp8'"  # the scales alone
        refuse(path, says, expert=sample.expert)
        assert problem_of(path).startswith(says)


@pytest.mark.parametrize("format", FORMATS)
def test_each_wrong_dtype_is_named(format, make, write):
    sample = make[format]()
    for ending in set(sample.tensors) - {".input_scale"}:
        wrong = torch.zeros_like(sample.tensors[ending], dtype=torch.int16)
        path = write(changed(sample, ending, wrong), sample.config)
        says = f"tensor '{PREFIX}{ending}' of model.safetensors is I16 .* must be (float|uint|int|bfloat)"
        refuse(path, says, expert=sample.expert)


@pytest.mark.parametrize("format", FORMATS)
def test_each_wrong_shape_is_named(format, make, write):
    options = {"scaling": "block"} if format == "fp8" else {}  # scales per channel fit any K
    sample = make[format](size_k=384, size_n=40, **options)
    for ending in set(sample.tensors) - {".input_scale"}:
        tensor = sample.tensors[ending]
        # One more along the last dimension; two numbers for one.
        wrong = tensor.reshape(1).repeat(2) if not tensor.dim() else torch.cat([tensor, tensor[..., :1]], -1)
        path = write(changed(sample, ending, wrong.contiguous()), sample.config)
        refuse(path, PREFIX + ending.replace(".", r"\."), expert=sample.expert)
        empty = write(changed(sample, ending, tensor.reshape(-1)[:0]), sample.config)
        refuse(empty, PREFIX + ending, expert=sample.expert)


@pytest.mark.parametrize(
    ("format", "ending"),
    [
        ("gptq", ".scales"),
        ("awq", ".scales"),
        ("pack-quantized", ".weight_scale"),
        ("fp8", ".weight_scale"),
        ("modelopt-nvfp4", ".weight_scale"),
        ("modelopt-nvfp4", ".weight_scale_2"),
        ("nvfp4-pack-quantized", ".weight_global_scale"),
    ],
)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_scales_that_are_not_finite_are_named(format, ending, bad, make, write):
    sample = make[format]()
    scales = sample.tensors[ending].clone()
    if scales.dtype == torch.float8_e4m3fn:
        scales.view(torch.uint8).flatten()[3] = 0x7F  # e4m3 has no infinity
    else:
        scales.view(-1)[-1] = bad
    path = write(changed(sample, ending, scales), sample.config)
    refuse(path, f"tensor '{PREFIX}{ending}' of .* holds 1 NaN or infinite")


@pytest.mark.parametrize(
    ("format", "ending"),
    [("mxfp8", ".weight_scale"), ("mxfp4", "_scales"), ("mxfp4-pack-quantized", ".weight_scale")],
)
def test_a_nan_exponent_is_named(format, ending, make, write):
    sample = make[format]()
    scales = sample.tensors[ending].clone()
    scales.view(-1)[-1] = 255
    path = write(changed(sample, ending, scales), sample.config)
    refuse(path, f"tensor '{PREFIX}{ending}' .* 1 NaN", expert=sample.expert)


@pytest.mark.parametrize("format", ["fp8", "mxfp8"])
def test_nan_weights_are_named(format, make, write):
    sample = make[format]()
    weight = sample.tensors[".weight"].clone()
    weight.view(torch.uint8)[1, 2] = 0xFF
    path = write(changed(sample, ".weight", weight), sample.config)
    refuse(path, f"tensor '{PREFIX}.weight' .* holds 1 NaN")


@pytest.mark.parametrize("ending", [".weight_scale_2", ".weight_global_scale"])
def test_a_global_scale_must_be_positive(ending, make, write):
    sample = make["modelopt-nvfp4" if ending.endswith("2") else "nvfp4-pack-quantized"]()
    path = write(changed(sample, ending, torch.zeros(1)), sample.config)
    refuse(path, f"{ending}' .* it must be positive")


def test_rows_in_act_order_are_refused_with_what_to_do(make, write):
    sample = make["gptq"]()
    g_idx = sample.tensors[".g_idx"].flip(0).contiguous()
    path = write(changed(sample, ".g_idx", g_idx), {**sample.config, "desc_act": True})
    assert "desc_act=False" in refuse(path, f"tensor '{PREFIX}.g_idx' .* out of order")
    packed = make["pack-quantized"]()
    path = write(changed(packed, ".weight_g_idx", g_idx), packed.config)
    refuse(path, r"weight_g_idx' .* out of order")


def test_a_trivial_g_idx_with_desc_act_is_taken(make, write):
    sample = make["gptq"]()
    path = write(sample.named(), {**sample.config, "desc_act": True})
    assert checkpoint.read_layer(path, PREFIX).group_size == 128


def test_zero_points_that_do_not_fit_are_refused(make, write):
    asymmetric = make["gptq"](symmetric=False)
    path = write(asymmetric.named(), {**asymmetric.config, "sym": True})
    refuse(path, r"qzeros' .* config.json says sym; correct checkpoint_format")
    refuse(write(asymmetric.named(), None), r"qzeros' .* name format='gptq' .* or format='gptq_v2'")
    second = make["gptq"](version="gptq_v2")
    refuse(write(second.named(), None), r"qzeros' .* name format='gptq'")
    stored = torch.full_like(asymmetric.tensors[".qzeros"], 0x7777777F)
    refuse(write(changed(asymmetric, ".qzeros", stored), asymmetric.config), r"qzeros' .* holds 15")
    eight = make["gptq"](bits=8)
    stored = torch.full_like(eight.tensors[".qzeros"], 0x7F7F7F7E)
    path = write(changed(eight, ".qzeros", stored), {**eight.config, "sym": False})
    refuse(path, r"qzeros' .* 8-bit weights must be symmetric")
    packed = make["pack-quantized"](bits=8, symmetric=False)
    refuse(write(packed.named(), packed.config), r"weight_zero_point' .* must be symmetric")


@pytest.mark.parametrize("group", [16, 256])
def test_groups_that_the_kernel_does_not_take_are_refused(group, make, write):
    for format in ("gptq", "awq", "pack-quantized"):
        sample = make[format](size_k=512, group=group)
        path = write(sample.named(), sample.config)
        refuse(path, f"groups of {group}; the kernel takes groups of 32, 64")
        assert f"groups of {group}" in problem_of(path)


def test_groups_other_than_the_configuration_says_are_refused(make, write):
    sample = make["awq"](size_k=256, group=64)
    path = write(sample.named(), {**sample.config, "group_size": 128})
    refuse(path, r"scales' .* 4 groups over K 256; the configuration says group_size 128")


def test_other_bit_widths_are_refused(make, write):
    sample = make["pack-quantized"]()
    packed = torch.zeros(24, 24, dtype=torch.int32)  # 3 bits
    path = write(changed(sample, ".weight_packed", packed), sample.config)
    refuse(path, r"weight_packed' .* other widths cannot be read")


def test_weight_shape_must_agree(make, write):
    sample = make["pack-quantized"]()
    for shape in ([25, 256], [24, 0], [24]):
        path = write(changed(sample, ".weight_shape", torch.tensor(shape)), sample.config)
        refuse(path, rf"weight_shape' .* says \[{shape[0]}")


def test_smoothed_nvfp4_is_refused(make, write):
    sample = make["modelopt-nvfp4"]()
    path = write(changed(sample, ".pre_quant_scale", torch.ones(80)), sample.config)
    refuse(path, r"pre_quant_scale' .* scales the activations")


def test_two_scales_of_one_weight_are_refused(make, write):
    sample = make["fp8"]()
    path = write(changed(sample, ".weight_scale_inv", torch.ones(2, 2)), sample.config)
    refuse(path, r"weight_scale_inv' .* stands beside")


def test_experts_are_asked_for(make, write):
    sample = make["mxfp4"](experts=3)
    path = write(sample.named(), sample.config)
    refuse(path, "stacks 3 experts; say which, expert=0 to 2")
    refuse(path, "expert is 3 .* holds 3 experts", expert=3)
    alone = make["awq"]()
    refuse(write(alone.named(), alone.config), "is no stack of experts", expert=0)


def test_unknown_layers_and_formats_are_refused(make, write):
    sample = make["awq"]()
    tensors = {**sample.named(), "model.norm.weight": torch.ones(4)}
    path = write(tensors, sample.config)
    refuse(path, f"no layer 'model.layers.7'; its 1 quantised layers are '{PREFIX}'", prefix="model.layers.7")
    refuse(path, "layer 'model.norm' is not quantised", prefix="model.norm")
    refuse(path, "format is 'int4'; it must be one of gptq, gptq_v2, awq", format="int4")
    refuse(path, "must be|must have", format="gptq")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"quant_method": "bitsandbytes"}, "quant_method 'bitsandbytes'; gptq, awq"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ({"quant_method": "awq", "version": "gemv"}, "AWQ version 'gemv'"),
        ({"quant_method": "compressed-tensors", "format": "int-quantized"}, "format 'int-quantized'"),
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, r"weight_block_size \[64, 64\]"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "quant_algo 'W4A8_AWQ'"),
    ],
)
def test_configurations_that_no_reader_takes_are_refused(config, says, make, write):
    refuse(write(make["awq"]().named(), config), says)


def header_of(raw: bytes) -> tuple[dict, bytes]:
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def with_header(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_a_truncated_file_is_refused_by_the_tensor_that_is_cut(make, write):
    sample = make["awq"]()
    file = write(sample.named(), sample.config) / "model.safetensors"
    raw = file.read_bytes()
    header, _ = header_of(raw)
    last = max(header, key=lambda name: header[name]["data_offsets"][1])
    file.write_bytes(raw[:-1])
    refuse(file, f"tensor '{last}' of model.safetensors ends at byte .* truncated, fetch it again")
    with pytest.raises(UsageError, match=last):
        checkpoint.inspect_checkpoint(file)
    for length in (0, 5, 8, 40):
        file.write_bytes(raw[:length])
        refuse(file, f"is {length} bytes and holds no whole safetensors header")
    file.write_bytes(raw + b"rest")
    refuse(file, "4 bytes after its last tensor")


@pytest.mark.parametrize("text", [b"not json", b"[]", b"\xff\xfe{}", b"[" * 100_000])
def test_a_header_that_is_no_json_object_is_refused(text, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    refuse(file, "header of .* (is no JSON|must be an object)")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (3, "described by 3"),
        ({"dtype": "I32", "shape": [2]}, "must have a dtype, a shape and two data_offsets"),
        ({"dtype": "I32", "shape": [-2], "data_offsets": [0, 8]}, "must have a dtype"),
        ({"dtype": "I32", "shape": [2], "data_offsets": [8, 0]}, "must have a dtype"),
        ({"dtype": "I32", "shape": [3], "data_offsets": [0, 8]}, "12 bytes, and its data_offsets hold 8"),
        ({"dtype": "I32", "shape": [2], "data_offsets": [0, 800]}, "ends at byte 800"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused_by_the_tensor(entry, says, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(with_header({PREFIX + ".qweight": entry}, bytes(8)))
    refuse(file, f"tensor '{PREFIX}.qweight' of model.safetensors .*{says}")


def test_no_damage_of_a_header_ends_otherwise(make, write):
    sample = make["awq"](size_k=64, size_n=8)
    file = write(sample.named(), sample.config) / "model.safetensors"
    raw = file.read_bytes()
    size = 8 + struct.unpack("<Q", raw[:8])[0]
    generator = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(raw)
        for _ in range(generator.randint(1, 3)):
            damaged[generator.randrange(size)] = generator.choice(b'0129"{}[]:,-.eIU F')
        file.write_bytes(damaged)
        try:
            layer = checkpoint.read_layer(file, PREFIX)
        except UsageError:
            refused += 1
        else:
            assert layer.qweight.shape == (8, 8) and layer.scales.shape == (1, 8)
    assert refused > 150


def test_what_the_library_refuses_is_named_too(make, write):
    sample = make["awq"]()
    file = write(sample.named(), sample.config) / "model.safetensors"
    header, data = header_of(file.read_bytes())
    offsets = header[PREFIX + ".qzeros"]["data_offsets"]
    header[PREFIX + ".qzeros"]["data_offsets"] = [0, offsets[1] - offsets[0]]  # two tensors share bytes
    file.write_bytes(with_header(header, data))
    refuse(file, f"tensor '{PREFIX}.q.*cannot be read .* the file is damaged")


def test_paths_that_hold_no_checkpoint_are_refused(make, write, tmp_path):
    refuse(tmp_path / "nowhere", "is not there; name a .safetensors file")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", "holds 0 .safetensors files")
    sample = make["awq"]()
    path = write(sample.named(), sample.config)
    save_file({"a": torch.ones(1)}, path / "second.safetensors")
    refuse(path, r"holds 2 .safetensors files \(model.safetensors, second.safetensors\) and no model.safe")
    (path / "config.json").write_text("{")
    refuse(path / "model.safetensors", "config.json is no JSON")


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("{", "is no JSON"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"a.qweight": 3}}', "has no weight_map of tensor names"),
        ('{"weight_map": {"a.qweight": "x.safetensors"}}', "x.safetensors is not in .* 'a.qweight'; fetch"),
        ('{"weight_map": {"a.qweight": "../x.safetensors"}}', "must lie in the same folder"),
        ('{"weight_map": {"a.qweight": "model.safetensors"}}', "'a.qweight' is in model.safetensors by"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(index, says, make, write):
    sample = make["awq"]()
    path = write(sample.named(), sample.config)
    (path / "model.safetensors.index.json").write_text(index)
    refuse(path, says)


def test_a_damaged_layer_is_listed_with_its_problem(make, write):
    sample = make["awq"]()
    broken = {key.replace("layers.0", "layers.1"): tensor.clone() for key, tensor in sample.named().items()}
    del broken["model.layers.1.mlp.down_proj.scales"]
    path = write({**sample.named(), **broken}, sample.config)
    good, bad = checkpoint.layer_rows(path)
    assert good["problem"] is None and bad["K"] is None
    assert bad["problem"].startswith("tensor 'model.layers.1.mlp.down_proj.scales' is missing")
