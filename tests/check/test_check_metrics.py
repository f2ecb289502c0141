"""The two metrics and their bounds. About 2 s."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from kernelpkg.check import Bounds, Case, bounds_for, cases_for, compare
from kernelpkg.check.operands import structured_scales
from kernelpkg.ops import kernel

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BOUNDS = Bounds(relative=2e-3, unit=2.0**-8, sums=1e-5, step=0.0)
BF16, FP16 = torch.bfloat16, torch.float16


def ref(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("dtype", "name"), [(BF16, "bf16"), (FP16, "fp16")])
def test_plain_rounding_is_within_the_bounds(dtype, name):
    case = Case("marlin", 257, 832, 1408, name)
    bounds = bounds_for(kernel("marlin_w8a16"), case, CPU)
    exact = ref(257, 832)
    errors = compare(exact.to(dtype), exact, torch.ones_like(exact), bounds, dtype)
    assert errors.relative_error < bounds.relative
    assert 0.9 < errors.worst_element <= 1  # the bound is as tight as rounding allows


def test_one_wrong_element_shows_in_the_worst_element_alone():
    exact = ref(257, 832)
    out = exact.to(BF16)
    out[200, 700] = out[200, 700] * 1.02
    errors = compare(out, exact, torch.ones_like(exact), BOUNDS, BF16)
    assert errors.relative_error < BOUNDS.relative and errors.worst_element > 2


def test_a_small_error_everywhere_shows_in_the_relative_error():
    exact = ref(257, 832)
    errors = compare((exact * 1.002).to(BF16), exact, torch.ones_like(exact), BOUNDS, BF16)
    assert errors.relative_error > BOUNDS.relative


def test_nan_and_infinity_must_stand_where_the_reference_has_them():
    exact = ref(4, 8)
    spread = torch.ones_like(exact)
    exact[1, 2], exact[2, 3], exact[3, 4] = math.nan, math.inf, -math.inf
    assert compare(exact.to(BF16), exact, spread, BOUNDS, BF16).worst_element <= 1
    for position, wrong in (((1, 2), 0.0), ((2, 3), -math.inf), ((3, 4), math.nan), ((0, 0), math.nan)):
        out = exact.to(BF16)
        out[position] = wrong
        errors = compare(out, exact, spread, BOUNDS, BF16)
        assert errors.relative_error == math.inf and errors.worst_element == math.inf


def test_float16_overflows_to_infinity_and_not_to_its_largest_value():
    exact = torch.tensor([[70000.0, -1e6, 65000.0, 65519.0]], dtype=torch.float64)
    spread = torch.ones_like(exact)
    assert compare(exact.to(FP16), exact, spread, BOUNDS, FP16).worst_element <= 1
    saturated = exact.clamp(-65504, 65504).to(FP16)
    assert compare(saturated, exact, spread, BOUNDS, FP16).worst_element == math.inf


def test_shape_and_dtype_count():
    exact = ref(4, 8)
    assert compare(exact[:3].to(BF16), exact, exact, BOUNDS, BF16).relative_error == math.inf
    assert compare(exact.to(FP16), exact, exact, BOUNDS, BF16).relative_error == math.inf
    empty = exact[:0]
    assert compare(empty.to(BF16), empty, empty, BOUNDS, BF16).relative_error == 0


def test_bounds_catch_two_percent():
    """A scale wrong by 2 % moves an element by 0.02 of its value; what is allowed there is far less. Not so
    where weights may be rounded: there the same scales are seen with fewer rows."""
    for name in ("marlin_w8a16", "marlin_w4a16", "scaled_mm_sm120_standin", "marlin_w4a8_fp8"):
        for case in cases_for(name, "default"):
            for device in (CPU, CUDA):
                bounds = bounds_for(kernel(name), case, device)
                many = case.m > 64 or (case.m > 32 and case.n * case.k > 20_000_000)
                rounded = case.m >= 1024 or (many and case.group_size != -1)
                if not (rounded and device is CUDA and name in ("marlin_w8a16", "marlin_w4a16")):
                    assert bounds.unit + 2 * bounds.sums < 0.01, (name, case.id, bounds)


def test_weights_may_be_rounded_above_64_rows_where_scales_are_grouped_and_no_power_of_two():
    case = Case("marlin", 65, 256, 1024, group_size=32)
    tight = {
        "marlin_w4a16": replace(case, m=64),
        "marlin_w8a16_int8": replace(case, group_size=-1),
        "marlin_w8a16": replace(case, scales="mx"),
        "marlin_w4a16_mxfp4": case,
        "marlin_w4a16_nvfp4": replace(case, group_size=16),
        "marlin_w4a8_fp8_emulated": case,
    }
    for name, exact in tight.items():
        assert bounds_for(kernel(name), exact, CUDA).sums < 1e-4, name
    widened = replace(case, m=1024, group_size=-1)  # a library's turn: every scale is in the weights
    assert bounds_for(kernel("marlin_w8a16_int8"), widened, CUDA).sums > 1e-4
    assert bounds_for(kernel("marlin_w8a16"), replace(widened, scales="mx"), CUDA).sums < 1e-4
    for name in ("marlin_w4a16", "marlin_w4a16_zp", "marlin_w8a16_int8", "marlin_w8a16"):
        for dtype, bits in (("bf16", 8), ("fp16", 11)):
            bounds = bounds_for(kernel(name), replace(case, dtype=dtype), CUDA)
            plain = bounds_for(kernel(name), replace(case, dtype=dtype, group_size=-1), CUDA)
            assert 1.3 < bounds.relative / plain.relative < 1.45
            assert bounds.sums < 8 * 2.0**-bits
        assert bounds_for(kernel(name), case, CPU).sums < 1e-4


def test_native_fp8_accumulation_is_the_only_wide_bound():
    long = Case("scaled_mm", 3, 64, 28672, token=True, channel=True)
    short = Case("scaled_mm", 3, 64, 256, token=True, channel=True)
    native, standin = kernel("scaled_mm_sm90"), kernel("scaled_mm_sm120_standin")
    # Measured on an H200 at K = 28672: root mean square 4.4e-3, worst element 2.0e-2 of |ref| + spread.
    assert 4.4e-3 < bounds_for(native, long, CUDA).relative < 9e-3
    assert 2.0e-2 < bounds_for(native, long, CUDA).sums < 4e-2
    assert bounds_for(native, short, CUDA).sums < 4e-3
    assert bounds_for(standin, long, CUDA).sums < 1e-4
    # Scales in blocks take the sum out every 128 values of K: any K is as good as a short one.
    blocks = replace(long, scales="block")
    assert (
        bounds_for(native, blocks, CUDA).sums == bounds_for(native, replace(blocks, k=256), CUDA).sums < 4e-3
    )
    assert bounds_for(native, long, CPU).sums < 1e-4


def test_no_two_scales_that_a_kernel_could_exchange_are_alike():
    scales = structured_scales(8, 512, CPU)
    for distance in (1, 2, 4, 7, 8, 16, 32, 64, 128, 256):
        ratio = scales[:, distance:] / scales[:, :-distance]
        assert ((ratio - 1).abs() > 0.02).all(), distance
    for distance in range(1, 8):
        assert ((scales[distance:] / scales[:-distance] - 1).abs() > 0.02).all(), distance
