"""Quantisers and their independent dequantisers. About 2 s, the import of torch included."""

from __future__ import annotations

import pytest
import torch

from kernelpkg.errors import UsageError
from kernelpkg.ops import (
    E4M3_MAX,
    E5M2_MAX,
    quantize_fp8_blocks,
    quantize_fp8_per_channel,
    quantize_fp8_per_group,
    quantize_fp8_per_tensor,
    quantize_fp8_per_token,
    quantize_fp8_per_token_group,
    quantize_mxfp4,
    quantize_mxfp8,
    quantize_nvfp4,
    quantize_u4,
    quantize_u4b8,
    quantize_u8b128,
    to_column_major,
)
from kernelpkg.ops.quantize import e2m1_codes, pack_nibbles
from kernelpkg.ops.reference import (
    E2M1,
    dequantize_e4m3,
    dequantize_e4m3_blocks,
    dequantize_mxfp4,
    dequantize_nvfp4,
    dequantize_u4,
    dequantize_u4b8,
    dequantize_u8b128,
    marlin_gemm_reference,
    scaled_mm_reference,
)

# Half a step of e4m3's three mantissa bits, relative to the value.
E4M3_ROUNDING = 2.0**-4


@pytest.fixture
def matrix() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(256, 64, generator=generator) * torch.logspace(-2, 2, 64)


@pytest.mark.parametrize(
    "quantize", [quantize_fp8_per_tensor, quantize_fp8_per_token, quantize_fp8_per_channel]
)
def test_fp8_uses_the_whole_range_and_rounds_within_it(quantize, matrix):
    q, scale = quantize(matrix)
    assert q.dtype == torch.float8_e4m3fn and scale.dtype == torch.float32
    assert q.float().abs().max() == E4M3_MAX
    back = q.float() * scale
    smallest_normal = scale * 2.0**-6
    normal = matrix.abs() >= smallest_normal
    error = ((back - matrix).abs() / matrix.abs())[normal]
    assert error.max() <= E4M3_ROUNDING * (1 + 1e-5)


def test_fp8_scale_shapes(matrix):
    assert quantize_fp8_per_tensor(matrix)[1].shape == (1,)
    assert quantize_fp8_per_token(matrix)[1].shape == (256, 1)
    assert quantize_fp8_per_channel(matrix)[1].shape == (1, 64)
    assert quantize_fp8_per_group(matrix, 128)[1].shape == (2, 64)
    assert quantize_fp8_per_group(matrix, -1)[1].shape == (1, 64)


FP8_RANGES = [(torch.float8_e4m3fn, E4M3_MAX, 2.0**-4), (torch.float8_e5m2, E5M2_MAX, 2.0**-3)]


@pytest.mark.parametrize(("dtype", "largest", "rounding"), FP8_RANGES, ids=lambda x: str(x))
def test_activations_in_either_fp8_type(dtype, largest, rounding, matrix):
    assert torch.finfo(dtype).max == largest
    rows = matrix[:33, :50]
    for quantize in (quantize_fp8_per_tensor, quantize_fp8_per_token, quantize_fp8_per_token_group):
        q, scale = quantize(rows, dtype=dtype)
        assert q.dtype == dtype and q.is_contiguous() and scale.dtype == torch.float32
        assert q.float().abs().max() == largest
        error = (q.float() * scale - rows).abs() / rows.abs()
        assert error[rows.abs() >= scale * torch.finfo(dtype).smallest_normal].max() <= rounding * (1 + 1e-5)
        with pytest.raises(UsageError, match=r"dtype is torch\.float16; it must be torch\.float8_e4m3fn"):
            quantize(rows, dtype=torch.float16)


@pytest.mark.parametrize("k", [256, 300, 5])
def test_a_scale_per_token_and_group(k):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(7, k, generator=generator) * torch.logspace(-3, 3, k)
    q, scale = quantize_fp8_per_token_group(x)
    assert q.shape == x.shape and scale.shape == (7, -(-k // 128))
    assert scale.stride(0) == 1  # M-major: one column per group
    for group in range(scale.shape[1]):
        part, own = x[:, 128 * group : 128 * (group + 1)], scale[:, group, None]
        expected, expected_scale = quantize_fp8_per_token(part)
        assert torch.equal(own, expected_scale)
        assert torch.equal(q[:, 128 * group : 128 * (group + 1)].float(), expected.float())
    assert quantize_fp8_per_token_group(x, group=64)[1].shape == (7, -(-k // 64))
    assert quantize_fp8_per_token_group(x[:0])[1].shape == (0, -(-k // 128))
    with pytest.raises(UsageError, match="group is 0"):
        quantize_fp8_per_token_group(x, group=0)


def test_a_slice_of_zeros_stays_zero():
    x = torch.zeros(4, 16)
    x[1, 3] = 2.0
    q, scale = quantize_fp8_per_token(x)
    assert torch.equal(scale.flatten() == 1, torch.tensor([True, False, True, True]))
    assert torch.equal(q.float() * scale, x)


def test_a_nan_spoils_its_own_row_and_no_other():
    x = torch.ones(3, 16)
    x[1, 0] = torch.nan
    q, scale = quantize_fp8_per_token(x)
    back = q.float() * scale
    assert back[1].isnan().all() and torch.equal(back[[0, 2]], x[[0, 2]])


def test_an_empty_matrix_quantises():
    q, scale = quantize_fp8_per_token(torch.zeros(0, 16))
    assert q.shape == (0, 16) and scale.shape == (0, 1)
    assert quantize_fp8_per_tensor(torch.zeros(0, 16))[1].item() == 1


@pytest.mark.parametrize("group_size", [-1, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_u4b8_errs_by_half_a_level_at_most(group_size, dtype, matrix):
    q, scales = quantize_u4b8(matrix, group_size, dtype)
    assert q.dtype == torch.int32 and q.shape == (32, 64) and scales.dtype == dtype
    back = dequantize_u4b8(q, scales, group_size)
    rows = 256 if group_size == -1 else group_size
    level = scales.double().repeat_interleave(rows, dim=0)
    # The scale is rounded to 16 bits: the largest value may lie a little above level 7.
    assert ((back - matrix.double()).abs() <= level * (0.5 + 7 * 2.0**-8)).all()


def test_nibble_j_of_a_word_is_row_8r_plus_j():
    levels = torch.zeros(16, 4, dtype=torch.int32)
    levels[13, 2] = 0xA
    levels[15, 1] = 0xF
    words = pack_nibbles(levels)
    assert words.shape == (2, 4)
    assert words[1, 2] == 0xA << (4 * 5)
    assert words[1, 1] == -(2**28)  # 0xF0000000 as int32
    ones = torch.ones(1, 4, dtype=torch.bfloat16)
    back = dequantize_u4b8(words, ones, -1)
    assert torch.equal(back, levels.double() - 8)


def test_group_scales_apply_to_their_rows_of_k():
    q = torch.ones(256, 4).to(torch.float8_e4m3fn)
    scales = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]], dtype=torch.bfloat16)
    back = dequantize_e4m3(q, scales, 128)
    assert torch.equal(back[127], scales[0].double()) and torch.equal(back[128], scales[1].double())
    assert torch.equal(dequantize_e4m3(q.view(torch.uint8), scales, 128), back)


def test_references_by_hand():
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    weight = torch.tensor([[1.0, 0.0], [10.0, 1.0]], dtype=torch.float64)
    scales = torch.tensor([2.0, 0.5])
    bias = torch.tensor([100.0, 200.0])
    expected = torch.tensor([[142.0, 204.0], [121.5, 202.0]], dtype=torch.float64)
    assert torch.equal(marlin_gemm_reference(a, weight, scales, bias), expected)
    one = torch.ones(1)
    assert torch.equal(scaled_mm_reference(a, weight, scales, one, bias), expected)
    assert torch.equal(
        scaled_mm_reference(a, weight, one, torch.tensor([1.0, 3.0])),
        a.double() @ weight * torch.tensor([1.0, 3.0]).double(),
    )


def test_to_column_major_keeps_the_values(matrix):
    moved = to_column_major(matrix)
    assert moved.stride() == (1, 256) and torch.equal(moved, matrix)


@pytest.mark.parametrize("group_size", [-1, 32, 128])
def test_u4_errs_by_half_a_level_and_keeps_zero(group_size, matrix):
    matrix[5] = 0.0
    q, scales, zeros = quantize_u4(matrix + 3 * (matrix != 0), group_size)
    assert zeros.dtype == torch.uint8 and zeros.shape == scales.shape and int(zeros.max()) <= 15
    back = dequantize_u4(q, scales, zeros, group_size)
    assert (back[5] == 0).all()
    level = scales.double().repeat_interleave(256 if group_size == -1 else group_size, dim=0)
    # Rounding the zero point costs another half level at the ends of the range.
    error = (back - (matrix + 3 * (matrix != 0)).double()).abs()
    assert (error <= level * (1.0 + 15 * 2.0**-8)).all()


@pytest.mark.parametrize("group_size", [-1, 64])
def test_u8b128_errs_by_half_a_level_at_most(group_size, matrix):
    q, scales = quantize_u8b128(matrix, group_size, torch.float16)
    assert q.dtype == torch.uint8 and q.shape == matrix.shape and q.is_contiguous()
    back = dequantize_u8b128(q, scales, group_size)
    level = scales.double().repeat_interleave(256 if group_size == -1 else group_size, dim=0)
    assert ((back - matrix.double()).abs() <= level * (0.5 + 127 * 2.0**-11)).all()


def test_blocks_have_one_scale_each_at_the_edges_too(matrix):
    w = matrix.repeat(1, 3)[:200, :130]
    q, scales = quantize_fp8_blocks(w)
    assert q.shape == (200, 130) and scales.shape == (2, 2) and scales.dtype == torch.float32
    assert torch.equal(scales, scales.bfloat16().float())
    back = dequantize_e4m3_blocks(q, scales)
    for rows in (slice(0, 128), slice(128, 200)):
        for columns in (slice(0, 128), slice(128, 130)):
            part, got = w[rows, columns].double(), back[rows, columns]
            assert (got - part).abs().max() <= part.abs().max() * E4M3_ROUNDING


def test_e2m1_rounds_to_nearest_and_ties_to_even():
    values = torch.tensor(E2M1[:8])
    assert torch.equal(e2m1_codes(values), torch.arange(8, dtype=torch.int32))
    assert e2m1_codes(-values[1:]).tolist() == list(range(9, 16))
    middles = (values[1:] + values[:-1]) / 2
    assert e2m1_codes(middles).tolist() == [0, 2, 2, 4, 4, 6, 6]
    assert e2m1_codes(torch.tensor([5.01, 100.0, -100.0])).tolist() == [7, 7, 15]


@pytest.mark.parametrize("rows", [256, 250])
def test_nvfp4_and_mx_forms_stay_close(rows, matrix):
    w = matrix[:rows]
    for q, back in (
        (quantize_nvfp4(w)[0], lambda: dequantize_nvfp4(*quantize_nvfp4(w), size_k=rows)),
        (quantize_mxfp4(w)[0], lambda: dequantize_mxfp4(*quantize_mxfp4(w), size_k=rows)),
    ):
        assert q.shape == (32, 64) and q.dtype == torch.int32
        assert back().shape == (rows, 64)
        assert float((back() - w).norm() / w.norm()) < 0.15
    q8, exponents = quantize_mxfp8(w)
    assert exponents.dtype == torch.uint8 and exponents.shape == (8, 64)
    assert float((dequantize_e4m3(q8, exponents, 32) - w).norm() / w.norm()) < 0.04


def test_mx_exponents_bring_the_largest_value_to_the_format_s_largest_power():
    w = torch.zeros(64, 3)
    w[0], w[40, 0] = torch.tensor([4.0, 7.9, 0.0]), 2.0**-20
    _, exponents = quantize_mxfp4(w)
    assert exponents.tolist() == [[127, 127, 127], [127 - 22, 127, 127]]
    _, exponents = quantize_mxfp8(w)
    assert exponents[0].tolist() == [127 - 6, 127 - 6, 127]


def test_nibbles_past_k_stand_for_zero():
    q, scales = quantize_u4b8(torch.randn(12, 4), -1)
    assert q.shape == (2, 4)
    assert (dequantize_u4b8(q, scales, -1)[12:] == 0).all()
    assert dequantize_u4b8(q, scales, -1, size_k=12).shape == (12, 4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: quantize_fp8_per_token(torch.zeros(3)), "floating-point matrix"),
        (lambda: quantize_fp8_per_tensor(torch.zeros(3, 3, dtype=torch.int8)), "floating-point matrix"),
        (lambda: quantize_u4b8(torch.zeros(12, 8).int(), -1), "floating-point matrix"),
        (lambda: quantize_fp8_per_group(torch.zeros(136, 8), 0), "group_size 0"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(UsageError, match=says):
        call()
