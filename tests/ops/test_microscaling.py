"""Microscaling: quantisers, the order of scales, the operators on CPU tensors. About 15 s."""

from __future__ import annotations

import pytest
import torch

from kernelpkg import ops
from kernelpkg.errors import UsageError
from kernelpkg.ops import microscaling as ms
from kernelpkg.ops.reference import dequantize_e4m3, dequantize_nvfp4

FORMATS = ("mxfp8", "nvfp4")
DTYPES = (torch.bfloat16, torch.float16)
# The most that rounding to nearest may move a value, and room for the float32 sums.
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
NAN_E8M0 = 255


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uneven(rows: int, k: int, seed: int = 0) -> torch.Tensor:
    """Values whose size differs from block to block and from row to row: a scale in the wrong place shows."""
    powers = torch.randint(-3, 4, (rows, k // 16), generator=torch.Generator().manual_seed(seed + 100))
    return randn(rows, k, seed=seed) * torch.exp2(powers.float()).repeat_interleave(16, dim=1)


class Operand:
    """A quantised [rows, K] matrix: as an operator takes it, and what it stands for in float64."""

    def __init__(self, form: str, x: torch.Tensor) -> None:
        self.alpha = 1.0
        if form == "mxfp8":
            self.codes, self.plain = ms.quantize_mxfp8_rows(x)
            self.meant = ms.dequantize_mxfp8_rows(self.codes, self.plain)
        else:
            self.codes, self.plain, self.alpha = ms.quantize_nvfp4_rows(x)
            self.meant = ms.dequantize_nvfp4_rows(self.codes, self.plain, self.alpha)
        self.scales = ms.swizzle_scales(self.plain)


def multiply(form: str, a: Operand, b: Operand, dtype=torch.bfloat16, bias=None) -> torch.Tensor:
    if form == "mxfp8":
        return ms.mxfp8_scaled_mm(a.codes, b.codes, a.scales, b.scales, dtype, bias)
    return ms.nvfp4_scaled_mm(a.codes, b.codes, a.scales, b.scales, a.alpha * b.alpha, dtype, bias)


def assert_close(out: torch.Tensor, meant: torch.Tensor) -> None:
    error = (out.double() - meant).abs()
    assert (error <= ROUNDING[out.dtype] * meant.abs() + 1e-5 * meant.abs().max()).all()


@pytest.mark.parametrize("form", FORMATS)
def test_quantising_moves_no_value_by_more_than_its_format_does(form: str) -> None:
    x = uneven(33, 192)
    operand = Operand(form, x)
    blocks = 32 if form == "mxfp8" else 16
    largest = x.abs().reshape(33, -1, blocks).amax(2).repeat_interleave(blocks, dim=1).double()
    # e4m3: half a unit of 2^-3 of its value, or saturation below 2^9; e2m1: half a unit between 4 and 6,
    # and a block's largest value off by as much as its e4m3 scale is rounded.
    bound = largest / 8 if form == "mxfp8" else largest * (1 / 6 + 1 / 16)
    error = (operand.meant - x.double()).abs()
    assert (error <= bound).all()
    assert error.norm() / x.double().norm() < (0.05 if form == "mxfp8" else 0.15)


def test_what_is_representable_comes_back_exactly() -> None:
    powers = torch.tensor([-40.0, 0.0, 7.0, 40.0]).exp2().repeat_interleave(32)
    x = torch.tensor([1.0, -1.5, 0.0, 256.0, 448.0, 2.0**-9, 3.0, -416.0]).repeat(16) * powers
    codes, scales = ms.quantize_mxfp8_rows(x[None])
    assert scales.tolist() == [[127 - 40, 127, 134, 167]]
    assert torch.equal(ms.dequantize_mxfp8_rows(codes, scales), x[None].double())

    x = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0] * 8) * torch.tensor([1.0, -1.0]).repeat(32)
    packed, scales, alpha = ms.quantize_nvfp4_rows(x[None], global_scale=0.25)
    assert alpha == 0.25 and scales.float().tolist() == [[4.0] * 4]
    assert packed[0, :4].tolist() == [0x90, 0xB2, 0xD4, 0xF6]
    assert torch.equal(ms.dequantize_nvfp4_rows(packed, scales, alpha), x[None].double())


def test_the_quantisers_agree_with_those_of_packed_weights() -> None:
    x = uneven(24, 96)
    codes, scales = ops.quantize_mxfp8(x.t())
    assert torch.equal(
        Operand("mxfp8", x).meant, dequantize_e4m3(codes, scales.view(torch.float8_e8m0fnu), 32).t()
    )
    codes, scales, alpha = ops.quantize_nvfp4(x.t())
    assert torch.equal(Operand("nvfp4", x).meant, dequantize_nvfp4(codes, scales, alpha).t())


def test_zeros_and_a_given_global_scale() -> None:
    for form in FORMATS:
        assert Operand(form, torch.zeros(3, 64)).meant.eq(0).all()
    packed, scales, alpha = ms.quantize_nvfp4_rows(torch.full((1, 32), 1e6), global_scale=1.0)
    assert ms.dequantize_nvfp4_rows(packed, scales, alpha).eq(6 * 448).all()  # saturated
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="positive and finite"):
            ms.quantize_nvfp4_rows(torch.ones(1, 32), wrong)


@pytest.mark.parametrize("k", [0, 16, 33])
def test_the_quantisers_refuse_k_that_no_kernel_takes(k: int) -> None:
    for quantize in (ms.quantize_mxfp8_rows, ms.quantize_nvfp4_rows):
        with pytest.raises(UsageError, match="positive multiple of 32"):
            quantize(torch.ones(4, k))


@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (128, 4), (33, 6), (300, 17), (0, 4)])
def test_scales_lie_where_the_formula_says(rows: int, blocks: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    scales = torch.randint(1, 256, (rows, blocks), generator=generator, dtype=torch.uint8)
    flat = ms.swizzle_scales(scales)
    tiles = -(-blocks // 4)
    expected = bytearray(-(-rows // 128) * tiles * 512)
    for row in range(rows):
        for block in range(blocks):
            tile = (row // 128) * tiles + block // 4
            inside = (row % 32) * 16 + (row // 32 % 4) * 4 + block % 4
            expected[tile * 512 + inside] = int(scales[row, block])
    assert bytes(flat.tolist()) == bytes(expected)
    assert torch.equal(ms.unswizzle_scales(flat, rows, blocks), scales)


def test_swizzling_keeps_the_type_and_refuses_others() -> None:
    scales = torch.rand(5, 3).to(torch.float8_e4m3fn)
    flat = ms.swizzle_scales(scales)
    assert flat.dtype == torch.float8_e4m3fn and flat.shape == (512,)
    assert torch.equal(ms.unswizzle_scales(flat, 5, 3).float(), scales.float())
    with pytest.raises(UsageError, match="one-byte scales"):
        ms.swizzle_scales(torch.ones(5, 3))
    with pytest.raises(UsageError, match="one byte for each of 129 rows"):
        ms.unswizzle_scales(flat, 129, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 64, 32), (7, 200, 96), (130, 77, 544), (33, 1, 1056)])
def test_operators_compute_what_float64_does(library, form, m, n, k, dtype) -> None:
    a, b = Operand(form, uneven(m, k)), Operand(form, uneven(n, k, seed=2) / k**0.5)
    bias = randn(n, seed=3).to(dtype)
    meant = a.meant @ b.meant.t()
    assert_close(multiply(form, a, b, dtype), meant)
    out = multiply(form, a, b, dtype, bias)
    assert out.shape == (m, n) and out.dtype == dtype and out.is_contiguous()
    assert_close(out, meant + bias.double())


@pytest.mark.parametrize("form", FORMATS)
def test_stand_ins_run_the_same_reference_on_the_cpu(library, form: str) -> None:
    a, b = Operand(form, uneven(5, 64)), Operand(form, uneven(40, 64, seed=2))
    scaled = (a.alpha * b.alpha,) if form == "nvfp4" else ()
    arguments = (a.codes, b.codes, a.scales, b.scales, *scaled, None, torch.bfloat16)
    standin = getattr(torch.ops.kernelpkg_evidence, f"{form}_scaled_mm_standin")
    assert torch.equal(standin(*arguments), multiply(form, a, b))


@pytest.mark.parametrize("form", FORMATS)
def test_no_rows_is_an_empty_answer(library, form: str) -> None:
    assert multiply(form, Operand(form, torch.ones(0, 64)), Operand(form, torch.ones(8, 64))).shape == (0, 8)


@pytest.mark.parametrize("form", FORMATS)
def test_rows_may_lie_anywhere(library, form: str) -> None:
    a, b = Operand(form, uneven(6, 64)), Operand(form, uneven(40, 64, seed=2))
    expected = multiply(form, a, b)
    for operand in (a, b):
        codes = operand.codes.view(torch.uint8)
        wide = torch.zeros(codes.shape[0], codes.shape[1] + 7, dtype=torch.uint8)
        wide[:, 3 : 3 + codes.shape[1]] = codes
        operand.codes = wide[:, 3 : 3 + codes.shape[1]].view(operand.codes.dtype)
    assert a.codes.stride(0) % 16 != 0
    assert torch.equal(multiply(form, a, b), expected)


def test_scales_of_all_sizes_and_nan(library) -> None:
    a, b = Operand("mxfp8", torch.ones(2, 64)), Operand("mxfp8", torch.ones(3, 64))
    plain = torch.tensor([[0, 254], [127, NAN_E8M0]], dtype=torch.uint8)
    a.scales = ms.swizzle_scales(plain)
    b.scales = ms.swizzle_scales(torch.tensor([[127, 0]] * 3, dtype=torch.uint8))
    codes = a.codes.double() @ b.codes.double().t() / 2  # of each of the two blocks
    out = multiply("mxfp8", a, b)
    assert torch.equal(out[0].double(), codes[0])  # 2^-127 vanishes beside 2^127 * 2^-127
    assert out[1].isnan().all()
    # The type that torch has for these bytes means the same.
    a.scales = a.scales.view(torch.float8_e8m0fnu)
    assert torch.equal(multiply("mxfp8", a, b)[0], out[0])


def _refused(form: str, match: str, **changed) -> None:
    a, b = Operand(form, uneven(5, 64)), Operand(form, uneven(40, 64, seed=2))
    given = dict(a=a.codes, b=b.codes, a_scales=a.scales, b_scales=b.scales, out_dtype=torch.bfloat16)
    given |= {"alpha": 1.0} if form == "nvfp4" else {}
    given |= {name: change(given.get(name)) for name, change in changed.items()}
    operator = ms.mxfp8_scaled_mm if form == "mxfp8" else ms.nvfp4_scaled_mm
    with pytest.raises(ValueError, match=match):
        operator(**given)


@pytest.mark.parametrize("form", FORMATS)
def test_wrong_arguments_are_refused_in_a_sentence(library, form: str) -> None:
    _refused(form, "both must have one K", b=lambda b: b[:, :16].contiguous())
    sixteen = 16 if form == "mxfp8" else 8

    def short(codes: torch.Tensor) -> torch.Tensor:
        return codes[:, :sixteen].contiguous()

    _refused(form, "K is 16; it must be a positive multiple of 32", a=short, b=short)
    _refused(form, "a is float32", a=lambda a: a.float())
    _refused(form, "with its last stride 1", b=lambda b: b.t().contiguous().t())
    _refused(form, "a_scales is .*it must be .* with 512 values", a_scales=lambda s: s[:-1])
    _refused(form, "b_scales is float32", b_scales=lambda s: s.float())
    _refused(form, "must be contiguous", b_scales=lambda s: s.repeat(2)[::2])
    _refused(form, "bfloat16 or float16", out_dtype=lambda _: torch.float32)
    _refused(form, r"bias is bfloat16 \[39\]", bias=lambda _: torch.zeros(39, dtype=torch.bfloat16))
    _refused(form, "bias is float16", bias=lambda _: torch.zeros(40, dtype=torch.float16))
    if form == "nvfp4":
        _refused(form, "alpha is nan; it must be finite", alpha=lambda _: float("nan"))
        _refused(form, "alpha is 1e", alpha=lambda _: 1e40)


@pytest.mark.parametrize("name", ms.FAKES)
def test_the_fake_knows_the_shape_and_type(name: str) -> None:
    scaled = (1.0,) if "nvfp4" in name else ()
    a, b = torch.empty(5, 32, device="meta"), torch.empty(40, 32, device="meta")
    out = ms.FAKES[name](a, b, None, None, *scaled, None, torch.float16)
    assert (out.shape, out.dtype, out.device.type) == ((5, 40), torch.float16, "meta")
    with pytest.raises(RuntimeError, match="K differs"):
        ms.FAKES[name](a, b[:, :16], None, None, *scaled, None, torch.float16)
