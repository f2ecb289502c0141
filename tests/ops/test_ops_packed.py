"""The self-describing packed weight. About 5 s."""

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
    weight = ops.pack_marlin_weight(*u4b8(), "u4b8", 128)
    assert (weight.size_k, weight.size_n, weight.group_size, weight.format) == (K, N, 128, "u4b8")
    assert weight.zeros is None and weight.global_scale == 1 and weight.device.type == "cpu"
    assert weight.data.shape == (N // 64, K // 32, 256)
    assert weight.nbytes == K * N // 2 + 2 * N * 2
    assert "K 256 x N 128, group 128" in repr(weight)


@pytest.mark.parametrize("entry", ops.FORMATS.values(), ids=lambda entry: entry.name)
def test_every_format_moves_and_counts_its_bytes(entry, packed):
    weight, _ = packed(entry.name, k=250, n=100)
    assert (weight.size_k, weight.size_n, weight.group_size) == (250, 100, entry.group)
    assert (weight.zeros is not None) == entry.zeros and weight.format_code == entry.code
    moved = weight.to("meta")
    assert moved.device.type == "meta" and moved.nbytes == weight.nbytes
    scale_bytes = 2 * 256 * 128 // entry.group
    assert weight.nbytes == 256 * 128 * entry.bits // 8 + scale_bytes + entry.zeros * scale_bytes // 2


def test_a_format_has_its_own_group_where_none_is_named():
    w = torch.randn(K, N)
    q, exponents = ops.quantize_mxfp8(w)
    assert ops.pack_marlin_weight(q, exponents, "e4m3").group_size == 32
    assert ops.pack_marlin_weight(*ops.quantize_mxfp4(w), "mxfp4").group_size == 32
    q, scales, factor = ops.quantize_nvfp4(w)
    weight = ops.pack_marlin_weight(q, scales, "nvfp4", global_scale=torch.tensor([factor]))
    assert weight.group_size == 16 and weight.global_scale == pytest.approx(factor)
    assert ops.pack_marlin_weight(*u4b8(), "u4b8").group_size == 128


def test_one_scale_for_the_whole_weight_is_one_per_channel():
    q, scale = ops.quantize_fp8_per_tensor(torch.randn(K, N))
    one = ops.pack_marlin_weight(q, scale, "e4m3", -1, dtype=torch.bfloat16)
    many = ops.pack_marlin_weight(q, scale.expand(1, N), "e4m3", -1, dtype=torch.bfloat16)
    assert torch.equal(one.scales, many.scales)


def test_exponents_come_as_bytes_or_as_their_own_type():
    q, exponents = ops.quantize_mxfp4(torch.randn(K, N))
    weight = ops.pack_marlin_weight(q, exponents, "mxfp4")
    assert torch.equal(weight.scales.double(), 2.0 ** (exponents.double() - 127))
    if hasattr(torch, "float8_e8m0fnu"):
        typed = ops.pack_marlin_weight(q, exponents.view(torch.float8_e8m0fnu), "mxfp4")
        assert torch.equal(typed.scales, weight.scales)


@pytest.mark.parametrize("code", [0, 1, 253, 254])
def test_exponents_out_of_reach_are_taken_for_zeros_alone(code):
    q, exponents = ops.quantize_mxfp4(torch.randn(K, N))
    exponents[3, 5] = code
    with pytest.raises(UsageError, match=f"from {code} to {code} are out of reach"):
        ops.pack_marlin_weight(q, exponents, "mxfp4")
    q[12:16, 5] = 0
    assert ops.pack_marlin_weight(q, exponents, "mxfp4").scales[3, 5] == 0
    q, exponents = ops.quantize_mxfp8(torch.randn(250, N))
    exponents[7, 5] = 1
    with pytest.raises(UsageError, match="out of reach"):
        ops.pack_marlin_weight(q, exponents, "e4m3")
    q.view(torch.uint8)[224:, 5] = 0x80  # minus zero
    assert ops.pack_marlin_weight(q, exponents, "e4m3").scales[7, 5] == 0


def test_every_bfloat16_power_of_two_is_exact():
    exponents = torch.arange(10, 246, dtype=torch.uint8).repeat(1, 1)
    weight = ops.pack_marlin_weight(torch.zeros(32, 236, dtype=torch.uint8), exponents, "e4m3")
    assert torch.equal(weight.scales[0, :236].double(), 2.0 ** (exponents[0].double() - 127))


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
        ({"group_size": 16}, "group_size is 16; u4b8 weights take -1, 32, 64, 128"),
        ({"group_size": -1}, r"scales are .*\[1, 128\]"),
        ({"group_size": 64}, r"scales are .*\[4, 128\]"),
        ({"size_n": 192}, "N 192"),
        ({"size_k": 0}, "at least 1"),
        ({"format": "u4"}, "no zeros are given"),
        ({"zeros": torch.zeros(2, N, dtype=torch.uint8)}, "zeros are given and the weight is u4b8"),
        ({"format": "u8b128"}, "data is"),
        ({"format": "u4", "zeros": torch.zeros(1, N, dtype=torch.uint8)}, "zeros are torch.uint8"),
        ({"global_scale": 2.0}, "1 for all formats but nvfp4"),
        ({"scales": torch.ones(2, N)}, "float16 or bfloat16"),
        ({"data": torch.zeros(3, dtype=torch.int32)}, "data is"),
        ({"data": torch.zeros(2, 8, 256, dtype=torch.int32, device="meta")}, "one device"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, says):
    weight = ops.pack_marlin_weight(*u4b8(), "u4b8", 128)
    with pytest.raises(UsageError, match=says):
        dataclasses.replace(weight, **change)


Q4 = torch.zeros(K // 8, N, dtype=torch.int32)
Q8 = torch.zeros(K, N, dtype=torch.uint8)
ONES = torch.ones(2, N, dtype=torch.bfloat16)
ZEROS = torch.zeros(2, N, dtype=torch.uint8)
EXPONENTS = torch.full((8, N), 127, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("arguments", "keywords", "says"),
    [
        ((Q4, ONES, "u4b9"), {}, "format is 'u4b9'"),
        ((Q4[0], ONES, "u4b8"), {}, "must be a matrix"),
        ((Q4, ONES[:1], "u4b8"), {}, r"must be \[2, 128\]"),
        ((Q4, ONES, "u4b8", 48), {}, "group_size is 48"),
        ((Q4, ONES, "u4b8"), {"size_k": K - 8}, "holds 256 rows"),
        ((Q8, ONES, "u8b128"), {"size_k": K - 1}, "holds 256 rows"),
        ((Q4, ONES, "u4b8"), {"zeros": ZEROS}, "zeros are given"),
        ((Q4, ONES, "u4"), {}, "no zeros are given"),
        ((Q4, ONES, "u4"), {"zeros": ZEROS + 16}, "must be from 0 to 15"),
        ((Q4, ONES, "u4"), {"zeros": ZEROS[:1]}, r"zeros are .* \[2, 128\]"),
        ((Q4, ONES, "u4"), {"zeros": ZEROS.float()}, "integers from 0 to 15"),
        ((Q4, ONES, "u4b8"), {"global_scale": 2.0}, "1 for all formats but nvfp4"),
        ((Q4, ONES.float(), "u4b8"), {}, "say dtype="),
        ((Q4, ZEROS, "u4b8"), {}, "scales are torch.uint8"),
        ((Q4, ONES.float() * 1e-10, "u4b8"), {"dtype": torch.float16}, "too small for torch.float16"),
        ((Q4, EXPONENTS, "mxfp4"), {"dtype": torch.float16}, "range of bfloat16"),
        ((Q4, EXPONENTS[:1].bfloat16().expand(8, N), "mxfp4"), {}, "e8m0 exponents"),
        ((Q8, EXPONENTS[:2], "e4m3", 128), {}, "one per 32 rows"),
        ((Q4, torch.ones(16, N), "nvfp4"), {}, "float8_e4m3fn scales"),
        ((Q4, torch.full((16, N), 0x7F, dtype=torch.uint8), "nvfp4"), {}, "NaN"),
        ((Q4, torch.ones(16, N).to(torch.float8_e4m3fn), "nvfp4"), {"global_scale": float("inf")}, "finite"),
        ((Q8, torch.ones(2, 2), "e4m3", -1), {"blocks": True}, "128 x 128 blocks"),
        ((Q8, torch.ones(2, 2), "e4m3"), {"blocks": True}, r"scales \[2, 1\] here"),
        ((Q8, torch.ones(2, 2), "u8b128"), {"blocks": True}, "blocks are e4m3"),
    ],
)
def test_what_cannot_be_packed_is_refused(arguments, keywords, says):
    with pytest.raises(UsageError, match=says):
        ops.pack_marlin_weight(*arguments, **keywords)


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


def test_one_copy_serves_16_bit_and_fp8_activations():
    weight = ops.pack_marlin_weight(*u4b8(), "u4b8", 128)
    x = torch.randn(4, K).to(torch.float8_e4m3fn)
    ones = torch.ones(4)
    assert torch.equal(ops.marlin_gemm(x, weight, ones), ops.marlin_gemm(x.to(torch.bfloat16), weight))


@pytest.mark.parametrize("form", ["u8b128", "nvfp4"])
def test_formats_without_fp8_activations_say_so(form, packed):
    weight, _ = packed(form)
    with pytest.raises(ValueError, match=f"and the weight {form}; FP8 activations go with u4b8, u4"):
        ops.marlin_gemm(torch.zeros(4, K).to(torch.float8_e4m3fn), weight, torch.ones(4))


def test_float32_scales_ask_for_the_output_s_dtype(library):
    q, scales = ops.quantize_fp8_per_channel(torch.randn(128, 64))
    assert scales.dtype == torch.float32
    with pytest.raises(UsageError, match=r"say dtype=torch\.bfloat16 or torch\.float16"):
        ops.pack_marlin_weight(q, scales, "e4m3", -1)
    assert ops.pack_marlin_weight(q, scales, "e4m3", -1, dtype=torch.float16).scales.dtype == torch.float16
