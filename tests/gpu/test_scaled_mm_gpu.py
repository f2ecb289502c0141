"""scaled_mm on a GPU, its route and the stand-ins: scales, shapes, strides, configurations. About 3 min."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kernelpkg import check, ops
from kernelpkg.gates import gate
from kernelpkg.ops import functional, reference
from kernelpkg.ops.dispatch import Configuration, choose_configuration, configurations

pytestmark = pytest.mark.gpu

FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]
# (M, N, K): aligned; N and K that 16 does not divide; one block of scales and several; one row, one column.
SHAPES = [
    (17, 512, 1024),
    (33, 255, 513),
    (1, 100, 200),
    (64, 576, 384),
    (257, 131, 1000),
    (5, 1, 64),
    (1, 1, 1),
    (66, 7, 3884),
]
KERNELS = ["cutlass_scaled_mm", "scaled_mm_sm89_standin", "scaled_mm_sm120_standin"]


def call_of(name: str) -> Callable[..., torch.Tensor]:
    """The bare operator of a kernel that this device and library serve."""
    if not ops.supports(name, "cuda:0"):
        pytest.skip(ops.supports(name, "cuda:0").reason)
    namespace = torch.ops.kernelpkg if name == "cutlass_scaled_mm" else torch.ops.kernelpkg_evidence
    return getattr(namespace, name)


def served(name: str, kind: str, dtype: torch.dtype) -> bool:
    return bool(ops.supports(name, "cuda:0", block_scales=kind == "block", dtype=dtype))


def table_of(name: str) -> tuple[Configuration, ...]:
    kernel = ops.supports(name, "cuda:0").kernel
    assert kernel is not None
    return configurations(kernel.removesuffix("_standin"), kernel.endswith("_standin"))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).cuda()


def operands(m: int, n: int, k: int, kind: str, dtype: torch.dtype = torch.float8_e4m3fn):
    """(a, b, scale_a, scale_b); kind 'block' or 'token'."""
    x, w = randn(m, k), randn(k, n, seed=1)
    if kind == "block":
        a, scale_a = ops.quantize_fp8_per_token_group(x, dtype=dtype)
        b, scale_b = ops.quantize_fp8_blocks(w)
    else:
        a, scale_a = ops.quantize_fp8_per_token(x, dtype)
        b, scale_b = ops.quantize_fp8_per_channel(w)
    return a, ops.to_column_major(b), scale_a, scale_b


def relative_error(out: torch.Tensor, ref: torch.Tensor) -> float:
    return float((out.double() - ref).norm() / ref.norm())


def same_bits(out: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.equal(out.view(torch.int16), expected.view(torch.int16))


def amid_nan(x: torch.Tensor, shift: int, stride: int) -> torch.Tensor:
    """The same matrix amid NaN, its first element `shift` after an aligned one, rows `stride` apart."""
    wide = torch.full((x.shape[0] + 2, stride), torch.nan, device=x.device).to(x.dtype)
    wide[1:-1, shift : shift + x.shape[1]] = x
    return wide[1:-1, shift : shift + x.shape[1]]


@pytest.mark.parametrize("dtype", FP8, ids=str)
@pytest.mark.parametrize("kind", ["block", "token"])
@pytest.mark.parametrize("name", KERNELS)
def test_any_shape_agrees_with_float64_and_the_cpu(name, kind, dtype):
    op = call_of(name)
    if not served(name, kind, dtype):
        pytest.skip(ops.supports(name, "cuda:0", block_scales=kind == "block", dtype=dtype).reason)
    for shape in SHAPES:
        given = operands(*shape, kind, dtype)
        for out_dtype in (torch.bfloat16, torch.float16):
            bias = randn(shape[1], seed=3).to(out_dtype)
            out = op(*given, bias, out_dtype)
            assert out.shape == (shape[0], shape[1]) and out.is_contiguous() and out.dtype == out_dtype
            ref = reference.scaled_mm_reference(*given, bias)
            # FP8 tensor cores add in about 13 bits: kernelpkg.check.metrics.
            assert relative_error(out, ref) < 6e-3, (shape, out_dtype)
            on_cpu = torch.ops.kernelpkg.cutlass_scaled_mm(*(x.cpu() for x in (*given, bias)), out_dtype)
            # Between two numbers of the output either may be taken: a step where there is one element.
            assert relative_error(out.cpu(), on_cpu.double()) < 8e-3, (shape, out_dtype)


@pytest.mark.parametrize("kind", ["block", "token"])
@pytest.mark.parametrize("name", KERNELS)
def test_operands_that_lie_anywhere_give_the_same_bits(name, kind):
    """Copied inside where they have to be; what lies beside them, NaN here, is no part of the product."""
    op = call_of(name)
    if not served(name, kind, torch.float8_e4m3fn):
        pytest.skip(f"{name} is not built for {kind} scales")
    for m, n, k in ((33, 130, 336), (33, 131, 333), (1, 37, 333)):
        a, b, scale_a, scale_b = operands(m, n, k, kind)
        expected = op(a, b, scale_a, scale_b, None, torch.bfloat16)
        # Aligned; the start is not; the stride is not; neither is.
        for shift, stride in ((16, 2 * 352), (3, 2 * 352), (16, 2 * 352 + 5), (7, 2 * 352 + 1)):
            moved_a, moved_b = amid_nan(a, shift, stride), amid_nan(b.t(), shift, stride).t()
            for one in ((moved_a, b), (a, moved_b), (moved_a, moved_b)):
                out = op(*one, scale_a, scale_b, None, torch.bfloat16)
                assert same_bits(out, expected), (m, n, k, shift, stride)
        padded = ops.pad_scaled_mm_weight(b)
        assert same_bits(op(a, padded, scale_a, scale_b, None, torch.bfloat16), expected)
        same_row = a[:1].expand(m, k)
        out = op(same_row, b, scale_a, scale_b, None, torch.bfloat16)
        assert same_bits(out, op(same_row.contiguous(), b, scale_a, scale_b, None, torch.bfloat16))
        if kind == "block":
            apart = amid_nan(scale_a, 1, 9), amid_nan(scale_b.t(), 2, 11).t()
            assert same_bits(op(a, b, *apart, None, torch.bfloat16), expected)
            packed = scale_a.contiguous(), scale_b.contiguous()
            assert same_bits(op(a, b, *packed, None, torch.bfloat16), expected)


@pytest.mark.parametrize("name", KERNELS)
def test_a_padded_weight_is_read_where_it_lies(name):
    """No copy of the weight at a call: on the route of 8.9, which reads past K, there is one."""
    op = call_of(name)
    m, n, k = 16, 4096, 4093
    a, b, scale_a, scale_b = operands(m, n, k, "token")
    padded_a = ops.pad_scaled_mm_weight(a.t()).t()
    taken = []
    for weight in (b, ops.pad_scaled_mm_weight(b)):
        op(padded_a, weight, scale_a, scale_b, None, torch.bfloat16)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        op(padded_a, weight, scale_a, scale_b, None, torch.bfloat16)
        torch.cuda.synchronize()
        taken.append(torch.cuda.max_memory_allocated() - before)
    assert taken[0] > n * k
    assert (taken[1] > n * k) == (
        name == "scaled_mm_sm89_standin" or str(functional.device_capability(0)) == "8.9"
    )


@pytest.mark.parametrize("name", KERNELS)
def test_every_configuration_computes_the_call(name):
    op = call_of(name)
    found = table_of(name)
    assert found
    for one in found:
        kind = "block" if one.block_scales else "token"
        m = min(one.max_m or 200, 200) if one.max_m else max(one.min_m, 150)
        given = operands(m, 333, 700, kind, one.dtype)
        ref = reference.scaled_mm_reference(*given)
        out = op(*given, None, torch.bfloat16, one.place)
        assert relative_error(out, ref) < 5e-3, one
        assert same_bits(op(*given, None, torch.bfloat16, one.place), out), one


@pytest.mark.parametrize("name", KERNELS)
def test_what_is_dispatched_is_what_the_table_says(name):
    op = call_of(name)
    kernel = ops.supports(name, "cuda:0").kernel
    assert kernel is not None
    route, standin = kernel.removesuffix("_standin"), kernel.endswith("_standin")
    multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    for m, n, k in ((1, 4096, 4096), (48, 1024, 4096), (300, 4096, 1024)):
        given = operands(m, n, k, "token")
        place = choose_configuration(route, m, n, k, multiprocessors=multiprocessors, standin=standin).place
        expected = op(*given, None, torch.bfloat16, place)
        assert same_bits(op(*given, None, torch.bfloat16), expected), (m, n, k, place)


@pytest.mark.parametrize("name", KERNELS)
def test_a_place_that_is_none_is_refused(name):
    op = call_of(name)
    given = operands(4, 64, 64, "token")
    with pytest.raises(RuntimeError, match="configuration is 999; for this call"):
        op(*given, None, torch.bfloat16, 999)
    with pytest.raises(ValueError, match="configuration is -3"):
        op(*given, None, torch.bfloat16, -3)


def test_a_graph_replays_with_copies_inside():
    """Operands that are copied, an output that is cut: all of it belongs to the graph."""
    op = call_of("cutlass_scaled_mm")
    a, b, scale_a, scale_b = operands(9, 131, 333, "token")
    op(a, b, scale_a, scale_b, None, torch.bfloat16)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = op(a, b, scale_a, scale_b, None, torch.bfloat16)
    for seed in (1, 2):
        fresh, fresh_scale = ops.quantize_fp8_per_token(randn(9, 333, seed=seed))
        a.copy_(fresh)
        scale_a.copy_(fresh_scale)
        out.fill_(torch.nan)
        graph.replay()
        assert same_bits(out, op(a, b, scale_a, scale_b, None, torch.bfloat16))


def test_compile_with_blocks_and_any_number_of_rows():
    call_of("cutlass_scaled_mm")
    if not served("cutlass_scaled_mm", "block", torch.float8_e4m3fn):
        pytest.skip("not built for scales in blocks")
    _, b, _, scale_b = operands(1, 131, 333, "block")
    compiled = torch.compile(
        lambda a, scale_a: ops.cutlass_scaled_mm(a, b, scale_a, scale_b), fullgraph=True, dynamic=True
    )
    for m in (3, 16, 65):
        a, scale_a = ops.quantize_fp8_per_token_group(randn(m, 333, seed=m))
        assert same_bits(compiled(a, scale_a), ops.cutlass_scaled_mm(a, b, scale_a, scale_b))


def test_every_configuration_holds_on_the_tiny_cases():
    names = [name for name in KERNELS if ops.supports(name, "cuda:0")]
    if not names:
        pytest.skip("no kernel of scaled_mm serves this device")
    report = check.run(names, size="tiny", device="cuda:0", configurations="all")
    print(report.summary)
    report.raise_for_status()
    forced = {row["case"].rpartition("-cfg")[2] for row in report.rows if "-cfg" in row["case"]}
    assert len(forced) >= max(len({one.place for one in table_of(name)}) for name in names)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_device_is_the_tensor_s_and_its_gate_decides():
    given = operands(5, 64, 128, "token")
    for index in range(torch.cuda.device_count()):
        moved = [x.to(f"cuda:{index}") for x in given]
        capability = functional.device_capability(index)
        if ops.supports("cutlass_scaled_mm", f"cuda:{index}"):
            out = ops.cutlass_scaled_mm(*moved)
            assert out.device.index == index and torch.cuda.current_device() == 0
            assert relative_error(out.cuda(0), reference.scaled_mm_reference(*given)) < 5e-3
        elif not any(
            gate(f"scaled_mm_{route}").ask(capability) for route in ("sm89", "sm90", "sm100", "sm120")
        ):
            with pytest.raises(Exception, match=f"refuses capability {capability}"):
                ops.cutlass_scaled_mm(*moved)
