"""The self-describing packed weight. About 2 s."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from kernelpkg import ops
from kernelpkg.errors import UsageError

K, N = 256, 128


@pytest.fixture(autouse=True)
def _library(library):
    return library


def u4b8(group_size: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    return ops.quantize_u4b8(torch.randn(K, N, generator=torch.Generator().manual_seed(0)), group_size)


def test_it_says_what_it_is():
    weight = ops.pack_marlin_weight(*u4b8(), "u4b8", 128, "fp8")
    assert (weight.size_k, weight.size_n, weight.group_size, weight.format) == (K, N, 128, "u4b8")
    assert weight.activation_class == "fp8" and weight.device.type == "cpu"
    assert weight.data.shape == (K // 32, N * 32 * 4 // 32)
    assert weight.nbytes == K * N // 2 + 2 * N * 2
    assert "K 256 x N 128, group 128, fp8 activations" in repr(weight)


def test_the_two_activation_classes_differ_in_bits_and_shape():
    a = ops.pack_marlin_weight(*u4b8(), "u4b8", 128, "16bit").data
    b = ops.pack_marlin_weight(*u4b8(), "u4b8", 128, "fp8").data
    assert a.shape != b.shape and a.numel() == b.numel()
    assert not torch.equal(a.flatten(), b.flatten())


def test_scales_are_converted_and_reshaped():
    q, scales = ops.quantize_fp8_per_channel(torch.randn(K, N))
    for given in (scales, scales.flatten()):
        weight = ops.pack_marlin_weight(q, given, "e4m3", -1, dtype=torch.float16)
        assert weight.scales.shape == (1, N) and weight.scales.dtype == torch.float16


def test_moving_keeps_the_bits():
    weight = ops.pack_marlin_weight(*u4b8(), "u4b8", 128)
    moved = weight.to("cpu")
    assert torch.equal(moved.data, weight.data) and moved.group_size == 128
    assert weight.to("meta").device.type == "meta"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "u8"}, "format is 'u8'"),
        ({"activation_class": "int8"}, "activation_class is 'int8'"),
        ({"activation_class": "fp8"}, "packed for fp8 activations"),
        ({"group_size": 64}, "group_size is 64"),
        ({"group_size": -1}, r"scales are .*\[1, 128\]"),
        ({"size_n": 192}, "N 192"),
        ({"format": "e4m3", "activation_class": "fp8"}, "cannot be packed for FP8"),
        ({"scales": torch.ones(2, N)}, "float16 or bfloat16"),
        ({"data": torch.zeros(3, dtype=torch.int32)}, "data is"),
        ({"data": torch.zeros(16, 256, dtype=torch.int32, device="meta")}, "one device"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, says):
    weight = ops.pack_marlin_weight(*u4b8(), "u4b8", 128)
    with pytest.raises(UsageError, match=says):
        dataclasses.replace(weight, **change)


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_nan_weights_are_refused(code):
    q = torch.zeros(K, N, dtype=torch.uint8)
    q[3, 4] = code
    with pytest.raises(UsageError, match="holds 1 NaN"):
        ops.pack_marlin_weight(q, torch.ones(1, N, dtype=torch.bfloat16), "e4m3", -1)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e6])
def test_scales_that_are_not_finite_in_their_dtype_are_refused(bad):
    q, scales = u4b8(-1)
    scales = scales.float()
    scales[0, 5] = bad
    with pytest.raises(UsageError, match="NaN or an infinity"):
        ops.pack_marlin_weight(q, scales, "u4b8", -1, dtype=torch.float16)


def test_the_kernel_and_the_weight_cannot_disagree():
    x = torch.zeros(4, K, dtype=torch.bfloat16)
    for_fp8 = ops.pack_marlin_weight(*u4b8(), "u4b8", 128, "fp8")
    with pytest.raises(ValueError, match="packed for FP8 activations and a is bfloat16"):
        ops.marlin_gemm(x, for_fp8)
    for_16 = ops.pack_marlin_weight(*u4b8(), "u4b8", 128)
    with pytest.raises(ValueError, match="packed for 16-bit activations and a is float8_e4m3fn"):
        ops.marlin_gemm(x.to(torch.float8_e4m3fn), for_16, torch.ones(4))
