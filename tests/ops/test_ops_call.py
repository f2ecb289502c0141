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


def packed(format: str, group_size: int, activation_class: str = "16bit", dtype=torch.bfloat16):
    """(packed weight, float64 weight it stands for)."""
    quantize = ops.quantize_u4b8 if format == "u4b8" else ops.quantize_fp8_per_group
    q, scales = quantize(randn(K, N, seed=7), group_size, dtype)
    weight = ops.pack_marlin_weight(q, scales, format, group_size, activation_class)
    return weight, reference.dequantize(q, scales, format, group_size)


def assert_close(out: torch.Tensor, ref: torch.Tensor) -> None:
    error = (out.double() - ref).abs()
    assert (error <= ROUNDING[out.dtype] * ref.abs() + 1e-5 * ref.abs().max()).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group_size", [-1, 128])
@pytest.mark.parametrize("format", ["u4b8", "e4m3"])
def test_marlin_gemm_16bit(format, group_size, dtype):
    weight, dequantised = packed(format, group_size, dtype=dtype)
    x, bias = randn(5, K).to(dtype), randn(N, seed=3).to(dtype)
    out = ops.marlin_gemm(x, weight, bias=bias)
    assert out.dtype == dtype and out.shape == (5, N) and out.is_contiguous()
    assert_close(out, reference.marlin_gemm_reference(x, dequantised, bias=bias))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group_size", [-1, 128])
def test_marlin_gemm_fp8_activations(group_size, dtype):
    weight, dequantised = packed("u4b8", group_size, "fp8", dtype)
    x, scales = ops.quantize_fp8_per_token(randn(5, K))
    out = ops.marlin_gemm(x, weight, scales)
    assert out.dtype == dtype
    ref = reference.marlin_gemm_reference(x, dequantised, scales)
    assert_close(out, ref)
    assert torch.equal(out, ops.marlin_gemm(x, weight, scales.flatten()))
    evidence = torch.ops.kernelpkg_evidence.marlin_gemm_emulated
    assert torch.equal(out, evidence(x, weight.data, weight.scales, scales, None, 0, N, K, group_size))


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


def test_no_rows_is_an_empty_answer():
    weight, _ = packed("u4b8", 128)
    assert ops.marlin_gemm(torch.zeros(0, K, dtype=torch.bfloat16), weight).shape == (0, N)
    fp8, _ = packed("u4b8", 128, "fp8")
    x, scales = ops.quantize_fp8_per_token(torch.zeros(0, K))
    assert ops.marlin_gemm(x, fp8, scales).shape == (0, N)
    b = ops.to_column_major(torch.zeros(K, 16).to(torch.float8_e4m3fn))
    assert ops.cutlass_scaled_mm(x, b, torch.ones(1), torch.ones(1)).shape == (0, 16)


def test_a_row_may_lie_anywhere_aligned():
    weight, _ = packed("e4m3", -1)
    wide = randn(12, 2 * K).to(torch.bfloat16)
    view = wide[3:9, 8 : 8 + K]
    assert torch.equal(ops.marlin_gemm(view, weight), ops.marlin_gemm(view.contiguous(), weight))
    one = wide[4:5, 8 : 8 + K]  # a single row: its stride means nothing
    assert torch.equal(ops.marlin_gemm(one, weight), ops.marlin_gemm(one.clone(), weight))


def call_arguments() -> dict[str, tuple]:
    """Arguments of every registered operator."""
    w16, _ = packed("u4b8", 128)
    w8, _ = packed("u4b8", -1, "fp8")
    x, bias = randn(5, K).to(torch.bfloat16), randn(N, seed=3).to(torch.bfloat16)
    fp8, scales = ops.quantize_fp8_per_token(x)
    b, scale_b = ops.quantize_fp8_per_channel(randn(K, N, seed=2))
    q, _ = ops.quantize_u4b8(randn(K, N))
    mm = (fp8, ops.to_column_major(b), scales, scale_b, bias, torch.bfloat16)
    return {
        "kernelpkg::marlin_gemm": (x, w16.data, w16.scales, None, bias, 0, N, K, 128),
        "kernelpkg::marlin_repack": (q, 0, K, N, True),
        "kernelpkg::cutlass_scaled_mm": mm,
        "kernelpkg_evidence::marlin_gemm_emulated": (fp8, w8.data, w8.scales, scales, None, 0, N, K, -1),
        "kernelpkg_evidence::scaled_mm_sm89_standin": mm,
        "kernelpkg_evidence::scaled_mm_sm120_standin": mm,
    }


OPERATORS = (
    "kernelpkg::marlin_gemm",
    "kernelpkg::marlin_repack",
    "kernelpkg::cutlass_scaled_mm",
    "kernelpkg_evidence::marlin_gemm_emulated",
    "kernelpkg_evidence::scaled_mm_sm89_standin",
    "kernelpkg_evidence::scaled_mm_sm120_standin",
)


def overload(name: str):
    namespace, op = name.split("::")
    return getattr(getattr(torch.ops, namespace), op).default


def test_the_list_of_operators_is_complete():
    assert set(call_arguments()) == set(OPERATORS)
    for kernel in ops.KERNELS:
        assert kernel.operator in OPERATORS


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_runs_and_passes_opcheck(name):
    arguments = call_arguments()[name]
    utils = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    if any(isinstance(x, torch.Tensor) and x.dtype == torch.float8_e4m3fn for x in arguments):
        # test_schema compares inputs with allclose, which torch lacks for float8; the next test does.
        utils.remove("test_schema")
    results = torch.library.opcheck(overload(name), arguments, test_utils=utils)
    assert set(results.values()) == {"SUCCESS"}, results


@pytest.mark.parametrize("name", OPERATORS)
def test_no_operator_changes_or_returns_its_inputs(name):
    arguments = call_arguments()[name]
    tensors = [x for x in arguments if isinstance(x, torch.Tensor)]
    before = [
        x.clone().view(torch.uint8) if x.is_contiguous() else x.t().clone().view(torch.uint8) for x in tensors
    ]
    out = overload(name)(*arguments)
    assert out.device.type == "cpu" and out.numel() > 0
    for x, old in zip(tensors, before, strict=True):
        now = x if x.is_contiguous() else x.t()
        assert torch.equal(now.view(torch.uint8), old)
        assert x.untyped_storage().data_ptr() != out.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", OPERATORS)
def test_the_fake_agrees_on_meta_tensors(name):
    arguments = call_arguments()[name]
    out = overload(name)(*arguments)
    meta = [x.to("meta") if isinstance(x, torch.Tensor) else x for x in arguments]
    fake = overload(name)(*meta)
    assert (fake.shape, fake.dtype, fake.stride()) == (out.shape, out.dtype, out.stride())


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_marlin_gemm_in_one_graph(dynamic):
    weight, _ = packed("u4b8", 128)

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


def test_threads_do_not_disturb_each_other():
    from concurrent.futures import ThreadPoolExecutor

    weight, _ = packed("u4b8", 128)
    inputs = [randn(m + 1, K, seed=m).to(torch.bfloat16) for m in range(8)]
    expected = [ops.marlin_gemm(x, weight) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            got = list(pool.map(lambda x: ops.marlin_gemm(x, weight), inputs))
            assert all(torch.equal(g, e) for g, e in zip(got, expected, strict=True))
