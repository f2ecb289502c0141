"""Quantisers and their independent dequantisers. About 2 s, the import of torch included."""

from __future__ import annotations

import pytest
import torch

from kernelpkg.errors import UsageError
from kernelpkg.ops import (
    E4M3_MAX,
    quantize_fp8_per_channel,
    quantize_fp8_per_group,
    quantize_fp8_per_tensor,
    quantize_fp8_per_token,
    quantize_u4b8,
    to_column_major,
)
from kernelpkg.ops.quantize import pack_nibbles
from kernelpkg.ops.reference import (
    dequantize_e4m3,
    dequantize_u4b8,
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


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: quantize_fp8_per_token(torch.zeros(3)), "floating-point matrix"),
        (lambda: quantize_fp8_per_tensor(torch.zeros(3, 3, dtype=torch.int8)), "floating-point matrix"),
        (lambda: quantize_u4b8(torch.zeros(12, 8), -1), "multiple of 8"),
        (lambda: quantize_u4b8(torch.zeros(136, 8), 128), "group_size 128"),
        (lambda: quantize_fp8_per_group(torch.zeros(136, 8), 0), "group_size 0"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(UsageError, match=says):
        call()
