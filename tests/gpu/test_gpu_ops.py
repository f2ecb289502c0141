"""The operators on a GPU: opcheck, compile, graphs, streams, devices, gates, repacked bits. About 2 min."""

from __future__ import annotations

import gc

import pytest
import torch

from kernelpkg import ops
from kernelpkg.gates import GateRefusal, gate
from kernelpkg.ops import functional, reference

pytestmark = pytest.mark.gpu
K, N = 1024, 512


@pytest.fixture(autouse=True)
def _library(library):
    return library


@pytest.fixture
def capability():
    return functional.device_capability(0)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).cuda()


def packed(format: str = "u4b8", group_size: int = 128, activation_class: str = "16bit"):
    quantize = ops.quantize_u4b8 if format == "u4b8" else ops.quantize_fp8_per_group
    q, scales = quantize(randn(K, N, seed=7), group_size)
    weight = ops.pack_marlin_weight(q, scales, format, group_size, activation_class)
    return weight, reference.dequantize(q, scales, format, group_size)


def scaled_mm_arguments(m: int = 17):
    a, scale_a = ops.quantize_fp8_per_token(randn(m, K))
    b, scale_b = ops.quantize_fp8_per_channel(randn(K, N, seed=2))
    return a, ops.to_column_major(b), scale_a, scale_b


def relative_error(out: torch.Tensor, ref: torch.Tensor) -> float:
    return float((out.double() - ref).norm() / ref.norm())


def serves_scaled_mm(capability) -> bool:
    return bool(ops.supports("cutlass_scaled_mm", "cuda:0"))


@pytest.mark.parametrize("format", ["u4b8", "e4m3"])
@pytest.mark.parametrize("group_size", [-1, 128])
def test_marlin_gemm_agrees_with_the_cpu_reference(format, group_size):
    weight, dequantised = packed(format, group_size)
    x = randn(33, K).to(torch.bfloat16)
    out = ops.marlin_gemm(x, weight)
    assert out.is_cuda and out.is_contiguous() and out.untyped_storage().nbytes() == out.nbytes
    assert relative_error(out, reference.marlin_gemm_reference(x, dequantised)) < 2.3e-3
    on_cpu = ops.marlin_gemm(x.cpu(), weight.to("cpu"))
    # Sums in another order: where a value lies between two bfloat16 numbers the rounding may go either way.
    assert float((out.cpu() != on_cpu).float().mean()) < 0.02
    assert torch.allclose(out.cpu().float(), on_cpu.float(), rtol=2**-7, atol=1e-2)


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("format_code", [0, 1])
@pytest.mark.parametrize(("k", "n"), [(128, 64), (384, 192), (1408, 832), (256, 2368)])
def test_repack_on_the_gpu_and_on_the_cpu_agree_bit_for_bit(format_code, fp8, k, n):
    if format_code == 1 and fp8:
        pytest.skip("e4m3 weights are not packed for FP8 activations")
    generator = torch.Generator().manual_seed(k)
    if format_code == 0:
        weight = torch.randint(-(2**31), 2**31, (k // 8, n), generator=generator).to(torch.int32)
    else:
        weight = torch.randint(0, 256, (k, n), generator=generator).to(torch.uint8)
    repack = torch.ops.kernelpkg.marlin_repack
    assert torch.equal(
        repack(weight.cuda(), format_code, k, n, fp8).cpu(), repack(weight, format_code, k, n, fp8)
    )


def test_fp8_activations_follow_the_gate(capability):
    weight, dequantised = packed("u4b8", 128, "fp8")
    x, scales = ops.quantize_fp8_per_token(randn(9, K))
    arguments = (x, weight.data, weight.scales, scales, None, 0, N, K, 128)
    ref = reference.marlin_gemm_reference(x, dequantised, scales)
    if gate("marlin_fp8").ask(capability):
        assert relative_error(ops.marlin_gemm(x, weight, scales), ref) < 2.5e-3
        return
    with pytest.raises(GateRefusal, match=f"refuses capability {capability}"):
        ops.marlin_gemm(x, weight, scales)
    with pytest.raises((ValueError, RuntimeError), match=str(capability).replace(".", r"\.")):
        torch.ops.kernelpkg.marlin_gemm(*arguments)
    if gate("evidence_sm90").ask(capability):
        out = ops.marlin_gemm(x, weight, scales, allow_emulation=True)
        assert relative_error(out, ref) < 2.3e-3
        assert torch.equal(out, torch.ops.kernelpkg_evidence.marlin_gemm_emulated(*arguments))
    torch.cuda.synchronize()


def test_scaled_mm_follows_the_gate(capability):
    a, b, scale_a, scale_b = scaled_mm_arguments()
    if not serves_scaled_mm(capability):
        with pytest.raises(GateRefusal):
            ops.cutlass_scaled_mm(a, b, scale_a, scale_b)
        return
    ref = reference.scaled_mm_reference(a, b, scale_a, scale_b)
    assert relative_error(ops.cutlass_scaled_mm(a, b, scale_a, scale_b), ref) < 4e-3


def test_evidence_is_refused_outside_hopper(capability):
    a, b, scale_a, scale_b = scaled_mm_arguments()
    for name in ("scaled_mm_sm89_standin", "scaled_mm_sm120_standin"):
        op = getattr(torch.ops.kernelpkg_evidence, name)
        if gate("evidence_sm90").ask(capability):
            out = op(a, b, scale_a, scale_b, None, torch.bfloat16)
            assert relative_error(out, reference.scaled_mm_reference(a, b, scale_a, scale_b)) < 2.3e-3
        else:
            with pytest.raises((ValueError, RuntimeError), match=r"9\.0"):
                op(a, b, scale_a, scale_b, None, torch.bfloat16)


def test_opcheck(capability):
    weight, _ = packed()
    x = randn(5, K).to(torch.bfloat16)
    gemm = (x, weight.data, weight.scales, None, None, 0, N, K, 128)
    cases = {"marlin_gemm": gemm, "marlin_repack": (ops.quantize_u4b8(randn(K, N))[0], 0, K, N, False)}
    if serves_scaled_mm(capability):
        cases["cutlass_scaled_mm"] = (*scaled_mm_arguments(), None, torch.bfloat16)
    # test_schema compares inputs with allclose, which torch lacks for float8.
    utils = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    for name, arguments in cases.items():
        chosen = utils if name == "cutlass_scaled_mm" else ("test_schema", *utils)
        results = torch.library.opcheck(
            getattr(torch.ops.kernelpkg, name).default, arguments, test_utils=chosen
        )
        assert set(results.values()) == {"SUCCESS"}, (name, results)


def test_compile_in_one_graph_with_any_number_of_rows(capability):
    weight, _ = packed("e4m3", -1)
    compiled = torch.compile(lambda x: ops.marlin_gemm(x * 2, weight), fullgraph=True, dynamic=True)
    for m in (3, 16, 65):
        x = randn(m, K, seed=m).to(torch.bfloat16)
        assert torch.equal(compiled(x), ops.marlin_gemm(x * 2, weight))
    if serves_scaled_mm(capability):
        _, b, _, scale_b = scaled_mm_arguments()
        compiled = torch.compile(
            lambda a, s: ops.cutlass_scaled_mm(a, b, s, scale_b), fullgraph=True, dynamic=True
        )
        for m in (3, 16, 65):
            a, scale_a = ops.quantize_fp8_per_token(randn(m, K, seed=m))
            assert torch.equal(compiled(a, scale_a), ops.cutlass_scaled_mm(a, b, scale_a, scale_b))


def test_a_graph_replays_on_new_operands():
    weight, _ = packed()
    x = randn(7, K).to(torch.bfloat16)
    ops.marlin_gemm(x, weight)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.marlin_gemm(x, weight)
    for seed in (1, 2):
        x.copy_(randn(7, K, seed=seed).to(torch.bfloat16))
        out.fill_(torch.nan)
        graph.replay()
        assert torch.equal(out, ops.marlin_gemm(x, weight))


def test_streams_do_not_share_a_work_space():
    """K splits into many parts here; a work space shared by two streams would mix their partial sums."""
    weight, _ = packed()
    inputs = [randn(4, K, seed=seed).to(torch.bfloat16) for seed in range(4)]
    expected = [ops.marlin_gemm(x, weight) for x in inputs]
    streams = [torch.cuda.Stream() for _ in inputs]
    torch.cuda.synchronize()
    got: list[list[torch.Tensor]] = [[] for _ in inputs]
    for _ in range(50):
        for i, (stream, x) in enumerate(zip(streams, inputs, strict=True)):
            with torch.cuda.stream(stream):
                got[i].append(ops.marlin_gemm(x, weight))
    torch.cuda.synchronize()
    for outs, want in zip(got, expected, strict=True):
        assert all(torch.equal(out, want) for out in outs)


def test_work_runs_on_the_current_stream():
    weight, _ = packed()
    x = randn(4, K).to(torch.bfloat16)
    expected = ops.marlin_gemm(x, weight)
    late = torch.zeros_like(x)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(x)  # a kernel on another stream would read zeros
        out = ops.marlin_gemm(late, weight)
    torch.cuda.synchronize()
    assert torch.equal(out, expected)


def test_tensors_on_different_devices_are_refused():
    weight, _ = packed()
    x = randn(4, K).to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"b_packed is on cpu and a on cuda:0"):
        ops.marlin_gemm(x, weight.to("cpu"))
    with pytest.raises(ValueError, match="one device"):
        ops.marlin_gemm(x.cpu(), weight)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_device_is_the_tensor_s():
    weight, _ = packed()
    x = randn(4, K).to(torch.bfloat16)
    expected = ops.marlin_gemm(x, weight).cpu()
    assert torch.cuda.current_device() == 0
    out = ops.marlin_gemm(x.to("cuda:1"), weight.to("cuda:1"))
    assert out.device.index == 1 and torch.cuda.current_device() == 0
    assert torch.equal(out.cpu(), expected)


def test_nothing_is_kept_after_a_call():
    weight, _ = packed()
    x = randn(64, K).to(torch.bfloat16)
    ops.marlin_gemm(x, weight)
    torch.cuda.synchronize()
    gc.collect()  # what earlier tests left would otherwise go during the count
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        ops.marlin_gemm(x, weight)
    # Less is fine: blocks that earlier tests used on other streams are returned late.
    assert torch.cuda.memory_allocated() <= before


def test_a_refused_call_leaves_the_device_usable():
    weight, _ = packed()
    x = randn(4, K).to(torch.bfloat16)
    expected = ops.marlin_gemm(x, weight)
    with pytest.raises(ValueError, match="aligned"):
        ops.marlin_gemm(randn(5, K).to(torch.bfloat16).flatten()[1 : 1 + 4 * K].view(4, K), weight)
    assert torch.equal(ops.marlin_gemm(x, weight), expected)
    torch.cuda.synchronize()
