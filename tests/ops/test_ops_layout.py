"""The packed words against the layout as written down, and any shape there and back. About 15 s."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelpkg import ops
from kernelpkg.ops import reference

FORMATS = tuple(ops.FORMATS.values())
# The most that rounding to nearest may move a value, and room for the float32 sums.
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.fixture(autouse=True, scope="module")
def _library(library):
    return library


def unpacked(data: torch.Tensor, bits: int, k: int, n: int) -> torch.Tensor:
    """Codes [K_pad, N_pad] from packed words, one at a time and from the description alone: strips of 64
    columns along K, units of 32 x 32, lane 4 g + t with rows 8 t .. 8 t + 7, four tiles of column pairs."""
    strips, blocks, words = data.shape
    assert (strips, blocks, words) == (-(-n // 64), 4 * -(-k // 128), 64 * bits)
    codes = torch.full((32 * blocks, 64 * strips), -1)
    unsigned = data.to(torch.int64) & 0xFFFFFFFF
    # The nibble or byte of row i (of the lane's eight, or of its four in one half).
    place = {4: [0, 4, 1, 5, 2, 6, 3, 7], 8: [1, 3, 0, 2]}[bits]
    shaped = unsigned.reshape(strips, blocks, 2, bits // 4, 8, 4, 4)  # unit, half, g, t, tile
    for unit in range(2):
        for half in range(bits // 4):
            for g in range(8):
                for t in range(4):
                    for tile in range(4):
                        column = 32 * unit + 8 * (g // 2) + 2 * tile + g % 2
                        for i, at in enumerate(place):
                            row = 8 * t + 4 * half + i
                            found = (shaped[:, :, unit, half, g, t, tile] >> (bits * at)) & (2**bits - 1)
                            codes[row::32, column::64] = found.t()
    return codes


def source_codes(weight: torch.Tensor, bits: int, k: int) -> torch.Tensor:
    if bits == 8:
        return weight.to(torch.int64)
    return torch.stack([(weight >> (4 * j)) & 15 for j in range(8)], dim=1).reshape(-1, weight.shape[1])[:k]


def random_weight(bits: int, k: int, n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if bits == 8:
        return torch.randint(0, 256, (k, n), generator=generator).to(torch.uint8)
    return torch.randint(-(2**31), 2**31, (-(-k // 8), n), generator=generator).to(torch.int32)


@pytest.mark.parametrize("entry", FORMATS, ids=lambda entry: entry.name)
@settings(max_examples=12, deadline=None)
@given(k=st.integers(1, 300), n=st.integers(1, 200), seed=st.integers(0, 99))
def test_every_code_is_where_the_layout_says_and_padding_is_zero(entry, k, n, seed):
    weight = random_weight(entry.bits, k, n, seed)
    data = torch.ops.kernelpkg.marlin_repack(weight, entry.code, k, n)
    codes = unpacked(data, entry.bits, k, n)
    assert torch.equal(codes[:k, :n], source_codes(weight, entry.bits, k))
    nothing = {"u4b8": 8, "u8b128": 128}.get(entry.name, 0)
    codes[:k, :n] = nothing
    assert (codes == nothing).all()


@settings(max_examples=20, deadline=None)
@given(k=st.integers(1, 300), n=st.integers(1, 200))
def test_scales_and_zero_points_keep_their_places(k, n):
    groups = -(-k // 32)
    scales = torch.arange(1, groups * n + 1).reshape(groups, n).float()
    zeros = torch.arange(groups * n).reshape(groups, n) % 16
    weight = ops.pack_marlin_weight(
        torch.zeros(-(-k // 8), n, dtype=torch.int32),
        (scales % 251 + 1).to(torch.bfloat16),
        "u4",
        32,
        zeros=zeros,
        size_k=k,
    )
    n_pad, rows = 64 * -(-n // 64), 4 * -(-k // 128)
    assert weight.scales.shape == weight.zeros.shape == (rows, n_pad)
    expected = torch.zeros(rows, n_pad)
    expected[:groups, :n] = scales % 251 + 1
    assert torch.equal(weight.scales.float(), expected)
    for column in range(n_pad):
        c = column % 32
        at = column - c + 4 * (2 * (c // 8) + c % 2) + c % 8 // 2
        want = zeros[:, column] if column < n else torch.zeros(groups)
        assert torch.equal(weight.zeros[:groups, at].long(), want.long())
        assert (weight.zeros[groups:, at] == 0).all()


@settings(max_examples=20, deadline=None)
@given(k=st.integers(1, 200), n=st.integers(1, 150), half=st.booleans())
def test_nvfp4_scales_lie_by_units_times_a_power_of_two(k, n, half):
    groups = -(-k // 16)
    generator = torch.Generator().manual_seed(k)
    scales = torch.randint(1, 0x7F, (groups, n), generator=generator).to(torch.uint8)
    dtype = torch.float16 if half else torch.bfloat16
    q = torch.zeros(-(-k // 8), n, dtype=torch.int32)
    weight = ops.pack_marlin_weight(q, scales, "nvfp4", size_k=k, dtype=dtype)
    units_n, units_k = 2 * -(-n // 64), 4 * -(-k // 128)
    assert weight.scales.shape == (units_k * units_n, 2, 32) and weight.scales.dtype == dtype
    values = scales.view(torch.float8_e4m3fn).double() * 2.0 ** (7 if half else 118)
    filled = torch.zeros(2 * units_k, 32 * units_n, dtype=torch.float64)
    filled[:groups, :n] = values
    for column in range(32 * units_n):
        c = column % 32
        at = 4 * (2 * (c // 8) + c % 2) + c % 8 // 2
        got = weight.scales.reshape(units_k, units_n, 2, 32)[:, column // 32, :, at].reshape(-1)
        assert torch.equal(got.double(), filled[:, column])


@st.composite
def calls(draw):
    entry = draw(st.sampled_from(FORMATS))
    scales = draw(st.sampled_from(["plain", "block", "mx"] if entry.name == "e4m3" else ["plain"]))
    group = {"plain": draw(st.sampled_from(entry.groups)), "block": 128, "mx": 32}[scales]
    dtype = torch.bfloat16 if scales == "mx" else draw(st.sampled_from(entry.dtypes))
    return {
        "form": entry.name,
        "group_size": group,
        "dtype": dtype,
        "k": draw(st.integers(1, 400)),
        "n": draw(st.integers(1, 200)),
        "seed": draw(st.integers(0, 99)),
        "scales": scales,
    }, {
        "m": draw(st.integers(0, 9)),
        "fp8": entry.fp8 and draw(st.booleans()),
        "bias": draw(st.booleans()),
        "gap": draw(st.integers(0, 5)),
    }


@settings(max_examples=120, deadline=None)
@given(call=calls())
def test_any_shape_agrees_with_float64(packed, call):
    what, how = call
    weight, dequantised = packed(**what)
    k, n, m, dtype = what["k"], what["n"], how["m"], what["dtype"]
    generator = torch.Generator().manual_seed(what["seed"] + 1)
    a, a_scales = torch.randn(m, k, generator=generator), None
    if how["fp8"]:
        a, a_scales = ops.quantize_fp8_per_token(a)
    else:
        a = a.to(dtype)
    # Rows of a wider matrix of NaN: whatever stands beside them is no part of them.
    wide = torch.full((m, k + how["gap"]), torch.nan).to(a.dtype)
    wide[:, :k] = a
    bias = torch.randn(n, generator=generator).to(dtype) if how["bias"] else None
    out = ops.marlin_gemm(wide[:, :k], weight, a_scales, bias)
    assert out.shape == (m, n) and out.dtype == dtype and out.is_contiguous()
    ref = reference.marlin_gemm_reference(a, dequantised, a_scales, bias)
    size = float(ref.abs().max()) if m else 0.0
    assert ((out.double() - ref).abs() <= ROUNDING[dtype] * ref.abs() + 1e-5 * size + 2.0**-24).all()
