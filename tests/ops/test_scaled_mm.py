"""cutlass_scaled_mm on the CPU: both kinds of scales, both types of a, any shape and stride. About 15 s."""

from __future__ import annotations

import pytest
import torch

from kernelpkg import ops
from kernelpkg.errors import UsageError
from kernelpkg.ops import reference

# (M, N, K): aligned, odd, one block and several, nothing at all.
SHAPES = [(7, 128, 256), (33, 255, 513), (5, 4, 512), (16, 100, 200), (1, 1, 1), (3, 1, 129), (0, 33, 300)]
FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.fixture(autouse=True)
def _library(library):
    return library


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def operands(m: int, n: int, k: int, kind: str, dtype: torch.dtype = torch.float8_e4m3fn):
    """(a, b, scale_a, scale_b) of kind 'block', 'token' or 'tensor'."""
    x, w = randn(m, k), randn(k, n, seed=1)
    if kind == "block":
        a, scale_a = ops.quantize_fp8_per_token_group(x, dtype=dtype)
        b, scale_b = ops.quantize_fp8_blocks(w)
    elif kind == "token":
        a, scale_a = ops.quantize_fp8_per_token(x, dtype)
        b, scale_b = ops.quantize_fp8_per_channel(w)
    else:
        a, scale_a = ops.quantize_fp8_per_tensor(x, dtype)
        b, scale_b = ops.quantize_fp8_per_tensor(w)
    return a, ops.to_column_major(b), scale_a, scale_b


def assert_close(out: torch.Tensor, ref: torch.Tensor) -> None:
    error = (out.double() - ref).abs()
    largest = ref.abs().max() if ref.numel() else 0.0
    assert out.shape == ref.shape and out.is_contiguous()
    assert (error <= ROUNDING[out.dtype] * ref.abs() + 1e-5 * largest + 2.0**-25).all()


def amid_nan(x: torch.Tensor, shift: int) -> torch.Tensor:
    """The same matrix in a larger one of NaN, each row `shift` elements after one that is aligned."""
    wide = torch.full((x.shape[0] + 2, 2 * x.shape[1] + 32), torch.nan).to(x.dtype)
    wide[1:-1, shift : shift + x.shape[1]] = x
    return wide[1:-1, shift : shift + x.shape[1]]


@pytest.mark.parametrize("dtype", FP8, ids=str)
@pytest.mark.parametrize("kind", ["block", "token", "tensor"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape_with_any_scales(shape, kind, dtype):
    a, b, scale_a, scale_b = operands(*shape, kind, dtype)
    for out_dtype in ROUNDING:
        bias = randn(shape[1], seed=3).to(out_dtype)
        for given in (None, bias):
            out = ops.cutlass_scaled_mm(a, b, scale_a, scale_b, out_dtype, given)
            assert out.dtype == out_dtype
            assert_close(out, reference.scaled_mm_reference(a, b, scale_a, scale_b, given))


def test_the_reference_of_blocks_is_the_sum_over_blocks():
    """Written out by hand: what the float64 reference and the operator are to mean."""
    a, b, scale_a, scale_b = operands(5, 300, 400, "block")
    expected = torch.zeros(5, 300, dtype=torch.float64)
    for k0 in range(0, 400, 128):
        for n0 in range(0, 300, 128):
            part = a[:, k0 : k0 + 128].double() @ b[k0 : k0 + 128, n0 : n0 + 128].double()
            factor = scale_a[:, k0 // 128, None].double() * scale_b[k0 // 128, n0 // 128].double()
            expected[:, n0 : n0 + 128] += factor * part
    assert torch.allclose(reference.scaled_mm_reference(a, b, scale_a, scale_b), expected, rtol=1e-12)
    assert_close(ops.cutlass_scaled_mm(a, b, scale_a, scale_b), expected)


@pytest.mark.parametrize("shift", [0, 1, 13, 16])
@pytest.mark.parametrize("kind", ["block", "token"])
def test_operands_lie_anywhere(kind, shift):
    a, b, scale_a, scale_b = operands(9, 131, 333, kind)
    expected = ops.cutlass_scaled_mm(a, b, scale_a, scale_b)
    moved_a, moved_b = amid_nan(a, shift), amid_nan(b.t(), shift).t()
    assert torch.equal(ops.cutlass_scaled_mm(moved_a, moved_b, scale_a, scale_b), expected)
    same = a[:1].expand(9, 333)  # a stride of 0
    assert torch.equal(
        ops.cutlass_scaled_mm(same, b, scale_a, scale_b),
        ops.cutlass_scaled_mm(same.contiguous(), b, scale_a, scale_b),
    )
    if kind == "block":
        scale_a, scale_b = amid_nan(scale_a, shift), amid_nan(scale_b.t(), shift).t()
        assert torch.equal(ops.cutlass_scaled_mm(a, b, scale_a, scale_b), expected)
        packed = ops.cutlass_scaled_mm(a, b, scale_a.contiguous(), scale_b.contiguous())
        assert torch.equal(packed, expected)


def test_a_single_row_and_a_single_column_have_no_stride():
    a, b, scale_a, scale_b = operands(1, 1, 200, "token")
    expected = ops.cutlass_scaled_mm(a, b, scale_a, scale_b)
    row = a.as_strided((1, 200), (7, 1))
    column = b.as_strided((200, 1), (1, 3))
    assert torch.equal(ops.cutlass_scaled_mm(row, column, scale_a, scale_b), expected)


def test_a_shape_that_fits_both_kinds_means_the_same():
    """Up to 128 values of K a block is a row's: strided scales then are blocks, contiguous ones a vector."""
    a, b, scale_a, scale_b = operands(6, 96, 128, "block")
    assert scale_a.shape == (6, 1) and scale_b.shape == (1, 1)
    strided = amid_nan(scale_a, 3)
    assert torch.equal(
        ops.cutlass_scaled_mm(a, b, strided, scale_b), ops.cutlass_scaled_mm(a, b, scale_a, scale_b)
    )


def test_as_many_blocks_as_columns_are_blocks():
    """b_scales [4, 1] has N values: what a_scales is decides."""
    a, b, scale_a, scale_b = operands(5, 4, 512, "block")
    assert scale_b.numel() == b.shape[1] and scale_a.shape == (5, 4)
    assert_close(
        ops.cutlass_scaled_mm(a, b, scale_a, scale_b),
        reference.scaled_mm_reference(a, b, scale_a, scale_b),
    )


def test_one_meta_tensor_among_others_is_refused():
    given = operands(3, 48, 64, "token")
    for place in range(4):
        mixed = [one.to("meta") if at == place else one for at, one in enumerate(given)]
        with pytest.raises(RuntimeError, match="all tensors must be on one device"):
            ops.cutlass_scaled_mm(*mixed)
    assert ops.cutlass_scaled_mm(*(one.to("meta") for one in given)).is_meta
    with pytest.raises(RuntimeError, match=r"a is torch\.bfloat16"):
        ops.cutlass_scaled_mm(given[0].bfloat16().to("meta"), *(one.to("meta") for one in given[1:]))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"a": None}, "a is None; it must be a tensor"),
        ({"a_scales": None}, "a_scales is None; it must be a tensor"),
        ({"b_scales": 1.0}, "b_scales is a float; it must be a tensor"),
        ({"out_dtype": "bf16"}, "out_dtype is 'bf16'; it must be torch.bfloat16"),
        ({"configuration": "stream 16"}, "configuration is 'stream 16'; it must be the place"),
    ],
)
def test_what_is_of_another_type_is_named(changed, says):
    given = dict(zip(("a", "b", "a_scales", "b_scales"), operands(3, 48, 64, "token"), strict=True))
    with pytest.raises(ValueError, match=says):
        ops.cutlass_scaled_mm(**(given | changed))


def test_the_cpu_passes_over_configurations_and_refuses_what_is_none():
    a, b, scale_a, scale_b = operands(3, 48, 64, "token")
    expected = ops.cutlass_scaled_mm(a, b, scale_a, scale_b)
    assert torch.equal(ops.cutlass_scaled_mm(a, b, scale_a, scale_b, configuration=7), expected)
    for wrong in (-2, 2**31):
        with pytest.raises(ValueError, match=f"configuration is {wrong}; it must be a place"):
            ops.cutlass_scaled_mm(a, b, scale_a, scale_b, configuration=wrong)


def test_scales_that_fit_no_kind_are_refused_with_both_shapes():
    a, b, scale_a, _ = operands(5, 300, 400, "block")
    with pytest.raises(ValueError) as refusal:
        ops.cutlass_scaled_mm(a, b, scale_a, torch.ones(3, 3))
    text = str(refusal.value)
    assert "a_scales is [5, 4] and b_scales [3, 3]" in text and "[5, 4] and [4, 3]" in text
    assert "\n" not in text


@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_infinities_and_nan_of_a_stay_in_their_rows(dtype):
    a, b, scale_a, scale_b = operands(4, 40, 300, "block", dtype)
    clean = ops.cutlass_scaled_mm(a, b, scale_a, scale_b)
    values = a.float()
    values[1, 7] = torch.nan
    values[2, 299] = torch.inf
    out = ops.cutlass_scaled_mm(values.to(dtype), b, scale_a, scale_b)
    assert out[1].isnan().all()
    assert torch.equal(out[[0, 3]], clean[[0, 3]])
    if dtype == torch.float8_e5m2:
        assert not out[2].isfinite().any()


def test_a_padded_weight_is_the_same_matrix_and_aligned():
    b = operands(1, 37, 333, "token")[1]
    padded = ops.pad_scaled_mm_weight(b)
    assert padded.shape == b.shape and padded.stride() == (1, 336) and padded.data_ptr() % 16 == 0
    assert torch.equal(padded.float(), b.float())
    whole = padded.as_strided((336, 37), (1, 336))
    assert (whole[333:].float() == 0).all()
    assert ops.pad_scaled_mm_weight(padded) is padded
    aligned = operands(1, 16, 64, "token")[1]
    assert ops.pad_scaled_mm_weight(aligned) is aligned
    row_major = ops.pad_scaled_mm_weight(aligned.contiguous())
    assert row_major.stride() == (1, 64) and torch.equal(row_major.float(), aligned.float())
    with pytest.raises(UsageError, match="it must be an FP8 matrix"):
        ops.pad_scaled_mm_weight(torch.zeros(16, 16))


@pytest.mark.parametrize("kind", ["block", "token"])
@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_opcheck(kind, dtype):
    arguments = (*operands(5, 67, 203, kind, dtype), None, torch.bfloat16, 2)
    utils = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    results = torch.library.opcheck(
        torch.ops.kernelpkg.cutlass_scaled_mm.default, arguments, test_utils=utils
    )
    assert set(results.values()) == {"SUCCESS"}, results


def test_compile_with_blocks_in_one_graph():
    _, b, _, scale_b = operands(1, 67, 203, "block")

    def layer(x: torch.Tensor) -> torch.Tensor:
        a, scale_a = ops.quantize_fp8_per_token_group(x)
        return ops.cutlass_scaled_mm(a, b, scale_a, scale_b)

    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for m in (3, 8):
        x = randn(m, 203, seed=m)
        error = (compiled(x).float() - layer(x).float()).norm() / layer(x).float().norm()
        assert error < 0.01
