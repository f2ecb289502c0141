"""The operators on CPU tensors: called, opchecked, compiled, compared with float64. About 40 s."""

from __future__ import annotations

import pytest
import torch

from kernelpkg import ops
from kernelpkg.ops import reference

K, N = 256, 128
DTYPES = [torch.bfloat16, torch.float16]
# The most that rounding to nearest may move a value, and room for the float32 sums.
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.fixture(autouse=True)
def _library(library):
    return library


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_close(out: torch.Tensor, ref: torch.Tensor) -> None:
    error = (out.double() - ref).abs()
    assert (error <= ROUNDING[out.dtype] * ref.abs() + 1e-5 * ref.abs().max()).all()


VARIANTS = [
    (entry.name, group, dtype, "plain")
    for entry in ops.FORMATS.values()
    for group in entry.groups
    for dtype in entry.dtypes
] + [("e4m3", 32, torch.bfloat16, "mx"), ("e4m3", 128, torch.float16, "block")]


@pytest.mark.parametrize(("form", "group_size", "dtype", "scales"), VARIANTS)
def test_marlin_gemm_16bit(packed, form, group_size, dtype, scales):
    weight, dequantised = packed(form, group_size, dtype, scales=scales)
    x, bias = randn(5, K).to(dtype), randn(N, seed=3).to(dtype)
    out = ops.marlin_gemm(x, weight, bias=bias)
    assert out.dtype == dtype and out.shape == (5, N) and out.is_contiguous()
    assert_close(out, reference.marlin_gemm_reference(x, dequantised, bias=bias))


@pytest.mark.parametrize(
    ("form", "group_size", "dtype", "scales"), [v for v in VARIANTS if ops.FORMATS[v[0]].fp8]
)
def test_marlin_gemm_fp8_activations(packed, form, group_size, dtype, scales):
    weight, dequantised = packed(form, group_size, dtype, scales=scales)
    x, a_scales = ops.quantize_fp8_per_token(randn(5, K))
    out = ops.marlin_gemm(x, weight, a_scales)
    assert out.dtype == dtype
    ref = reference.marlin_gemm_reference(x, dequantised, a_scales)
    assert_close(out, ref)
    assert torch.equal(out, ops.marlin_gemm(x, weight, a_scales.flatten()))
    evidence = torch.ops.kernelpkg_evidence.marlin_gemm_emulated
    assert torch.equal(out, evidence(*arguments_of(weight, x, a_scales)))


def arguments_of(weight: ops.PackedWeight, a, a_scales=None, bias=None) -> tuple:
    """The operator's arguments."""
    tensors = (a, weight.data, weight.scales, weight.zeros, a_scales, bias)
    numbers = (weight.format_code, weight.size_n, weight.size_k, weight.group_size, weight.global_scale)
    return *tensors, *numbers


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize("channel", [False, True])
def test_scaled_mm(token, channel, dtype):
    a, scale_a = (ops.quantize_fp8_per_token if token else ops.quantize_fp8_per_tensor)(randn(7, K))
    b, scale_b = (ops.quantize_fp8_per_channel if channel else ops.quantize_fp8_per_tensor)(
        randn(K, 48, seed=2)
    )
    b, bias = ops.to_column_major(b), randn(48, seed=3).to(dtype)
    out = ops.cutlass_scaled_mm(a, b, scale_a, scale_b, dtype, bias)
    assert out.dtype == dtype and out.shape == (7, 48)
    assert_close(out, reference.scaled_mm_reference(a, b, scale_a, scale_b, bias))
    for name in ("scaled_mm_sm89_standin", "scaled_mm_sm120_standin"):
        evidence = getattr(torch.ops.kernelpkg_evidence, name)
        assert torch.equal(out, evidence(a, b, scale_a, scale_b, bias, dtype))


def test_no_rows_is_an_empty_answer(packed):
    weight, _ = packed("u4b8")
    assert ops.marlin_gemm(torch.zeros(0, K, dtype=torch.bfloat16), weight).shape == (0, N)
    x, scales = ops.quantize_fp8_per_token(torch.zeros(0, K))
    assert ops.marlin_gemm(x, weight, scales).shape == (0, N)
    b = ops.to_column_major(torch.zeros(K, 16).to(torch.float8_e4m3fn))
    assert ops.cutlass_scaled_mm(x, b, torch.ones(1), torch.ones(1)).shape == (0, 16)


def test_a_row_may_lie_anywhere(packed):
    weight, _ = packed("e4m3", -1)
    wide = randn(12, 2 * K + 3).to(torch.bfloat16)
    for start in (0, 1, 8, 13):
        view = wide[3:9, start : start + K]
        assert torch.equal(ops.marlin_gemm(view, weight), ops.marlin_gemm(view.contiguous(), weight))
        one = wide[4:5, start : start + K]  # a single row: its stride means nothing
        assert torch.equal(ops.marlin_gemm(one, weight), ops.marlin_gemm(one.clone(), weight))
    same = wide[:1, :K].expand(4, K)  # a stride of 0
    assert torch.equal(ops.marlin_gemm(same, weight), ops.marlin_gemm(same.contiguous(), weight))


@pytest.fixture(scope="module")
def call_arguments(packed) -> dict[str, tuple]:
    """Arguments of every registered operator."""
    w16, w8 = packed("nvfp4", k=250, n=100)[0], packed("u4", -1)[0]
    x, bias = randn(5, K).to(torch.bfloat16), randn(100, seed=3).to(torch.bfloat16)
    fp8, scales = ops.quantize_fp8_per_token(x)
    b, scale_b = ops.quantize_fp8_per_channel(randn(K, N, seed=2))
    q, _ = ops.quantize_u4b8(randn(250, 100))
    mm = (fp8, ops.to_column_major(b), scales, scale_b, None, torch.bfloat16)
    x8, x8_scales = ops.quantize_mxfp8_rows(randn(5, 96))
    w8_rows, w8_scales = ops.quantize_mxfp8_rows(randn(40, 96, seed=2))
    mx_scales = (ops.swizzle_scales(x8_scales), ops.swizzle_scales(w8_scales))
    mx = (x8, w8_rows, *mx_scales, None, torch.bfloat16)
    x4, x4_scales, x4_global = ops.quantize_nvfp4_rows(randn(5, 96))
    w4, w4_scales, w4_global = ops.quantize_nvfp4_rows(randn(40, 96, seed=2))
    nv_scales = (ops.swizzle_scales(x4_scales), ops.swizzle_scales(w4_scales))
    nv = (x4, w4, *nv_scales, x4_global * w4_global, bias[:40], torch.bfloat16)
    return {
        "kernelpkg::marlin_gemm": arguments_of(w16, x[:, :250], None, bias),
        "kernelpkg::marlin_repack": (q, 0, 250, 100),
        "kernelpkg::cutlass_scaled_mm": mm,
        "kernelpkg_evidence::marlin_gemm_emulated": arguments_of(w8, fp8, scales),
        "kernelpkg_evidence::scaled_mm_sm89_standin": mm,
        "kernelpkg_evidence::scaled_mm_sm120_standin": mm,
        "kernelpkg::mxfp8_scaled_mm": mx,
        "kernelpkg::nvfp4_scaled_mm": nv,
        "kernelpkg_evidence::mxfp8_scaled_mm_standin": mx,
        "kernelpkg_evidence::nvfp4_scaled_mm_standin": nv,
    }


OPERATORS = (
    "kernelpkg::marlin_gemm",
    "kernelpkg::marlin_repack",
    "kernelpkg::cutlass_scaled_mm",
    "kernelpkg_evidence::marlin_gemm_emulated",
    "kernelpkg_evidence::scaled_mm_sm89_standin",
    "kernelpkg_evidence::scaled_mm_sm120_standin",
    "kernelpkg::mxfp8_scaled_mm",
    "kernelpkg::nvfp4_scaled_mm",
    "kernelpkg_evidence::mxfp8_scaled_mm_standin",
    "kernelpkg_evidence::nvfp4_scaled_mm_standin",
)


def overload(name: str):
    namespace, op = name.split("::")
    return getattr(getattr(torch.ops, namespace), op).default


def test_the_list_of_operators_is_complete(call_arguments):
    assert set(call_arguments) == set(OPERATORS)
    for kernel in ops.KERNELS:
        assert kernel.operator in OPERATORS


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_runs_and_passes_opcheck(call_arguments, name):
    arguments = call_arguments[name]
    utils = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    if any(isinstance(x, torch.Tensor) and x.dtype == torch.float8_e4m3fn for x in arguments):
        # test_schema compares inputs with allclose, which torch lacks for float8; the next test does.
        utils.remove("test_schema")
    results = torch.library.opcheck(overload(name), arguments, test_utils=utils)
    assert set(results.values()) == {"SUCCESS"}, results


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("form", ops.FORMATS)
def test_every_format_passes_opcheck(packed, form, fp8):
    if fp8 and not ops.FORMATS[form].fp8:
        pytest.skip(f"{form} weights do not go with FP8 activations")
    weight, _ = packed(form, k=203, n=67)
    x, a_scales = randn(3, 203).to(torch.bfloat16), None
    utils = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    if fp8:
        x, a_scales = ops.quantize_fp8_per_token(x)
        utils.remove("test_schema")
    arguments = arguments_of(weight, x, a_scales)
    results = torch.library.opcheck(overload("kernelpkg::marlin_gemm"), arguments, test_utils=utils)
    assert set(results.values()) == {"SUCCESS"}, results


@pytest.mark.parametrize("name", OPERATORS)
def test_no_operator_changes_or_returns_its_inputs(call_arguments, name):
    arguments = call_arguments[name]
    tensors = [x for x in arguments if isinstance(x, torch.Tensor)]
    before = [x.contiguous().clone().view(torch.uint8) for x in tensors]
    out = overload(name)(*arguments)
    assert out.device.type == "cpu" and out.numel() > 0
    for x, old in zip(tensors, before, strict=True):
        assert torch.equal(x.contiguous().view(torch.uint8), old)
        assert x.untyped_storage().data_ptr() != out.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", OPERATORS)
def test_the_fake_agrees_on_meta_tensors(call_arguments, name):
    arguments = call_arguments[name]
    out = overload(name)(*arguments)
    meta = [x.to("meta") if isinstance(x, torch.Tensor) else x for x in arguments]
    fake = overload(name)(*meta)
    assert (fake.shape, fake.dtype, fake.stride()) == (out.shape, out.dtype, out.stride())


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_marlin_gemm_in_one_graph(packed, dynamic):
    weight, _ = packed("u4", 32, n=77)

    def layer(x: torch.Tensor) -> torch.Tensor:
        return ops.marlin_gemm(x * 2, weight) + 1

    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic)
    for m in (3, 8, 17) if dynamic else (3,):
        x = randn(m, K, seed=m).to(torch.bfloat16)
        assert torch.equal(compiled(x), layer(x))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_scaled_mm_in_one_graph(dynamic):
    b, scale_b = ops.quantize_fp8_per_channel(randn(K, N, seed=2))
    b = ops.to_column_major(b)

    def layer(x: torch.Tensor) -> torch.Tensor:
        a, scale_a = ops.quantize_fp8_per_token(x)
        return ops.cutlass_scaled_mm(a, b, scale_a, scale_b, torch.float16)

    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic)
    for m in (3, 8, 17) if dynamic else (3,):
        x = randn(m, K, seed=m)
        # The compiled quantiser may divide by multiplying: one e4m3 value in many moves by a step.
        error = (compiled(x).float() - layer(x).float()).norm() / layer(x).float().norm()
        assert error < 0.01


def test_threads_do_not_disturb_each_other(packed):
    from concurrent.futures import ThreadPoolExecutor

    weight, _ = packed("u4b8")
    inputs = [randn(m + 1, K, seed=m).to(torch.bfloat16) for m in range(8)]
    expected = [ops.marlin_gemm(x, weight) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            got = list(pool.map(lambda x: ops.marlin_gemm(x, weight), inputs))
            assert all(torch.equal(g, e) for g, e in zip(got, expected, strict=True))
