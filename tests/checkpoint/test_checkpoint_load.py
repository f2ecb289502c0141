"""A layer from a checkpoint multiplies as its weight says, by the CPU operator. About 10 s."""

from __future__ import annotations

import pytest
import torch

from kernelpkg import checkpoint, ops
from kernelpkg.errors import UsageError

PREFIX = "model.layers.0.mlp.down_proj"

CASES = [
    ("gptq", {"size_k": 200, "size_n": 40}),
    ("gptq", {"symmetric": False, "group": 32, "size_n": 56}),
    ("gptq", {"bits": 8, "group": 64}),
    ("awq", {"group": -1, "size_k": 100}),
    ("pack-quantized", {"size_k": 203, "size_n": 13, "group": 64}),
    ("pack-quantized", {"symmetric": False, "size_n": 27}),
    ("pack-quantized", {"bits": 8, "group": -1, "size_k": 131, "size_n": 7}),
    ("fp8", {"scaling": "scalar", "size_k": 33, "size_n": 7}),
    ("fp8", {"scaling": "channel"}),
    ("fp8", {"scaling": "group"}),
    ("fp8", {"scaling": "block", "ending": ".weight_scale_inv", "size_k": 300, "size_n": 257}),
    ("mxfp8", {}),
    ("modelopt-nvfp4", {}),
    ("nvfp4-pack-quantized", {"size_n": 5}),
    ("mxfp4", {}),
    ("mxfp4-pack-quantized", {"size_n": 9}),
]
E8M0 = ("mxfp8", "mxfp4", "mxfp4-pack-quantized")


@pytest.fixture(autouse=True)
def _library(library):
    return library


def name(value) -> str:
    if isinstance(value, tuple):
        return f"{value[0]}-" + ",".join(f"{key}={option}" for key, option in value[1].items())
    return str(value).removeprefix("torch.")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=name)
@pytest.mark.parametrize("case", CASES, ids=name)
def test_the_product_is_the_weights(case, dtype, make, write):
    if case[0] in E8M0 and dtype == torch.float16:
        pytest.skip("e8m0 scales need the range of bfloat16")
    sample = make[case[0]](**case[1])
    path = write(sample.named(), sample.config)
    weight, bias = checkpoint.load_layer(path, PREFIX, dtype, expert=sample.expert)
    assert (weight.size_k, weight.size_n) == sample.weight.shape and weight.format == sample.packed_format
    assert weight.scales.dtype == dtype and (bias is None) == (sample.bias is None)

    generator = torch.Generator().manual_seed(0)
    a = (torch.randn(3, weight.size_k, generator=generator) / 64).to(dtype)
    out = ops.marlin_gemm(a, weight, bias=bias)
    assert out.dtype == dtype and out.shape == (3, weight.size_n)
    expected = a.double() @ torch.from_numpy(sample.weight.copy())
    magnitude = a.double().abs() @ torch.from_numpy(sample.weight.copy()).abs()
    if sample.bias is not None:
        expected += torch.from_numpy(sample.bias)
        magnitude += torch.from_numpy(sample.bias).abs()
    # One rounding of every scale, of the bias and of the result to `dtype`, and float32 sums between.
    bound = 2 * torch.finfo(dtype).eps * magnitude + 1e-6
    assert bool(((out.double() - expected).abs() <= bound).all())


@pytest.mark.parametrize("format", E8M0)
def test_exponents_are_refused_in_float16_by_the_layer(format, make, write):
    sample = make[format]()
    path = write(sample.named(), sample.config)
    with pytest.raises(UsageError, match=f"layer '{PREFIX}': .*bfloat16"):
        checkpoint.load_layer(path, PREFIX, torch.float16, expert=sample.expert)


def test_scales_beyond_float16_are_refused_by_the_layer(make, write):
    sample = make["fp8"]()
    scales = sample.tensors[".weight_scale"] * 1e8
    path = write({**sample.named(), PREFIX + ".weight_scale": scales}, sample.config)
    with pytest.raises(UsageError, match=f"layer '{PREFIX}': .*infinity after conversion"):
        checkpoint.load_layer(path, PREFIX, torch.float16)
    assert checkpoint.load_layer(path, PREFIX)[0].scales.dtype == torch.bfloat16


def test_a_packed_weight_does_not_hang_on_the_file(make, write):
    sample = make["gptq"]()
    path = write(sample.named(), sample.config)
    weight, _ = checkpoint.load_layer(path, PREFIX)
    before = weight.data.clone(), weight.scales.clone()
    (path / "model.safetensors").write_bytes(b"")
    assert torch.equal(weight.data, before[0]) and torch.equal(weight.scales, before[1])
