"""The operators on a GPU: opcheck, compile, graphs, streams, devices, gates, repacked bits. About 3 min."""

from __future__ import annotations

import gc
import random
import time

import pytest
import torch

from kernelpkg import check, ops
from kernelpkg.errors import UsageError
from kernelpkg.gates import GateRefusal, gate
from kernelpkg.ops import functional, reference, tuning

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


def packed(form: str = "u4b8", group_size: int | None = None, k: int = K, n: int = N):
    """(packed weight, float64 weight it stands for); bfloat16."""
    w = randn(k, n, seed=7)
    group = group_size or ops.FORMATS[form].group
    meant: dict = {}
    if form == "u4":
        q, scales, meant["zeros"] = ops.quantize_u4(w, group)
    elif form == "nvfp4":
        q, scales, meant["global_scale"] = ops.quantize_nvfp4(w)
    elif form == "mxfp4":
        q, scales = ops.quantize_mxfp4(w)
    else:
        quantize = {
            "u4b8": ops.quantize_u4b8,
            "u8b128": ops.quantize_u8b128,
            "e4m3": ops.quantize_fp8_per_group,
        }
        q, scales = quantize[form](w, group)
    weight = ops.pack_marlin_weight(q, scales, form, group, size_k=k, **meant)
    return weight, reference.dequantize(q, scales, form, group, size_k=k, **meant)


def arguments_of(weight: ops.PackedWeight, a, a_scales=None, bias=None) -> tuple:
    """The operator's arguments."""
    tensors = (a, weight.data, weight.scales, weight.zeros, a_scales, bias)
    numbers = (weight.format_code, weight.size_n, weight.size_k, weight.group_size, weight.global_scale)
    return *tensors, *numbers


def scaled_mm_arguments(m: int = 17):
    a, scale_a = ops.quantize_fp8_per_token(randn(m, K))
    b, scale_b = ops.quantize_fp8_per_channel(randn(K, N, seed=2))
    return a, ops.to_column_major(b), scale_a, scale_b


def relative_error(out: torch.Tensor, ref: torch.Tensor) -> float:
    return float((out.double() - ref).norm() / ref.norm())


def serves_scaled_mm(capability) -> bool:
    return bool(ops.supports("cutlass_scaled_mm", "cuda:0"))


FORMATS_AND_GROUPS = [(entry.name, group) for entry in ops.FORMATS.values() for group in entry.groups]


@pytest.mark.parametrize(("k", "n"), [(K, N), (K - 3, N - 1)])
@pytest.mark.parametrize(("form", "group_size"), FORMATS_AND_GROUPS)
def test_marlin_gemm_agrees_with_the_cpu_reference(form, group_size, k, n):
    weight, dequantised = packed(form, group_size, k, n)
    x = randn(33, k).to(torch.bfloat16)
    out = ops.marlin_gemm(x, weight)
    assert out.is_cuda and out.is_contiguous() and out.untyped_storage().nbytes() == out.nbytes
    assert relative_error(out, reference.marlin_gemm_reference(x, dequantised)) < 2.3e-3
    on_cpu = ops.marlin_gemm(x.cpu(), weight.to("cpu"))
    # Sums in another order: where a value lies between two bfloat16 numbers the rounding may go either way.
    assert float((out.cpu() != on_cpu).float().mean()) < 0.02
    assert torch.allclose(out.cpu().float(), on_cpu.float(), rtol=2**-7, atol=1e-2)


@pytest.mark.parametrize("entry", ops.FORMATS.values(), ids=lambda entry: entry.name)
@pytest.mark.parametrize(("k", "n"), [(128, 64), (384, 192), (1408, 832), (256, 2368), (1, 1), (333, 97)])
def test_repack_on_the_gpu_and_on_the_cpu_agree_bit_for_bit(entry, k, n):
    generator = torch.Generator().manual_seed(k)
    if entry.bits == 4:
        weight = torch.randint(-(2**31), 2**31, (-(-k // 8), n), generator=generator).to(torch.int32)
    else:
        weight = torch.randint(0, 256, (k, n), generator=generator).to(torch.uint8)
    repack = torch.ops.kernelpkg.marlin_repack
    assert torch.equal(repack(weight.cuda(), entry.code, k, n).cpu(), repack(weight, entry.code, k, n))


@pytest.mark.parametrize("k", [K, 1001])
def test_rows_that_start_anywhere_are_copied_and_agree(k):
    weight, _ = packed("u4", 64, k=k)
    wide = randn(40, 2 * k + 5).to(torch.bfloat16)
    for start in (0, 1, 8, 13):
        view = wide[2:35, start : start + k]
        aligned = torch.zeros(33, -(-k // 8) * 8, dtype=torch.bfloat16, device="cuda")
        aligned[:, :k] = view
        expected = ops.marlin_gemm(view.contiguous(), weight)
        assert torch.equal(ops.marlin_gemm(view, weight), expected)
        # Columns beside the weight's K are no part of the product, whatever they hold.
        aligned[:, k:] = torch.nan
        assert torch.equal(ops.marlin_gemm(aligned[:, :k], weight), expected)
    x, scales = ops.quantize_fp8_per_token(wide[:, :k])
    if ops.supports("marlin_w4a8_fp8_zp", "cuda:0") or ops.supports("marlin_w4a8_fp8_zp_emulated", "cuda:0"):
        padded = torch.zeros(40, k + 1, device="cuda").to(torch.float8_e4m3fn)
        padded[:, 1:] = x
        expected = ops.marlin_gemm(x, weight, scales, allow_emulation=True)
        assert torch.equal(ops.marlin_gemm(padded[:, 1:], weight, scales, allow_emulation=True), expected)


@pytest.mark.parametrize("m", [0, 1, 65, 4097, 65536])
def test_any_number_of_rows(m):
    weight, dequantised = packed("u4b8", 128, k=131, n=67)
    x = randn(m, 131).to(torch.bfloat16)
    out = ops.marlin_gemm(x, weight)
    assert out.shape == (m, 67)
    if m:
        # Above 64 rows weights may be rounded to 16 bits (kernelpkg.check.metrics).
        assert relative_error(out, reference.marlin_gemm_reference(x, dequantised)) < 3.3e-3


@pytest.mark.parametrize("form", [entry.name for entry in ops.FORMATS.values() if entry.fp8])
def test_fp8_activations_follow_the_gate(capability, form):
    weight, dequantised = packed(form)
    x, scales = ops.quantize_fp8_per_token(randn(9, K))
    arguments = arguments_of(weight, x, scales)
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
    x = randn(5, K).to(torch.bfloat16)
    cases = {"marlin_repack": (ops.quantize_u4b8(randn(K, N))[0], 0, K, N)}
    for entry in ops.FORMATS.values():
        cases[f"marlin_gemm {entry.name}"] = arguments_of(packed(entry.name)[0], x)
    if serves_scaled_mm(capability):
        cases["cutlass_scaled_mm"] = (*scaled_mm_arguments(), None, torch.bfloat16)
    # test_schema compares inputs with allclose, which torch lacks for float8.
    utils = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    for name, arguments in cases.items():
        chosen = utils if name == "cutlass_scaled_mm" else ("test_schema", *utils)
        results = torch.library.opcheck(
            getattr(torch.ops.kernelpkg, name.split()[0]).default, arguments, test_utils=chosen
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


@pytest.mark.parametrize(("rows", "k", "n"), [(5, 2048, 1536), (40, 3072, 2048), (300, 1024, 1280)])
@pytest.mark.parametrize("form", ["u4b8", "e4m3", "nvfp4"])
def test_every_choice_of_a_call_computes_it(form, rows, k, n):
    weight, dequantised = packed(form, None, k, n)
    x = randn(rows, k).to(torch.bfloat16)
    ref = reference.marlin_gemm_reference(x, dequantised)
    group = weight.group_size
    call = tuning.Call(form, "bfloat16", "bfloat16", rows, n, k, group)
    try:
        found = tuning.candidates(call)
        assert found[0] == tuning.plan(call)
        assert len(found) > 3 and len(set(found)) == len(found)
        for choice in found:
            tuning.choose(call, choice)
            assert tuning.plan(call) == choice
            assert tuning.candidates(call)[0] == found[0]  # the heuristics', whatever was chosen
            out = ops.marlin_gemm(x, weight)
            assert relative_error(out, ref) < 3.5e-3, choice
            assert torch.equal(out, ops.marlin_gemm(x, weight)), choice
    finally:
        tuning.forget()
    assert tuning.plan(call) == found[0]


def test_a_choice_that_cannot_run_is_refused():
    call = tuning.Call("u4b8", "bfloat16", "bfloat16", 4, 256, 256, 128)
    with pytest.raises(UsageError, match="no kernel"):
        tuning.choose(call, tuning.Choice("mma", 24, 1))
    with pytest.raises(UsageError, match=r"16-bit activations|marlin_fp8"):
        fp8 = tuning.Call("u4b8", "float8_e4m3fn", "bfloat16", 4, 256, 256, 128)
        tuning.choose(fp8, tuning.Choice("library"))


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
    with pytest.raises(ValueError, match="last stride must be 1"):
        ops.marlin_gemm(x.t().contiguous().t(), weight)
    assert torch.equal(ops.marlin_gemm(x, weight), expected)
    torch.cuda.synchronize()


def test_mixed_calls_on_four_streams_for_a_while():
    """Every format that runs here, many shapes, aligned and not, in an order that differs from stream to
    stream; each weight is used from all four at once, and nothing is waited for in between."""
    generator = random.Random(3)
    calls = []
    for entry in check.checkable_kernels():
        if entry.family != "marlin" or not ops.supports(entry.name, "cuda:0"):
            continue
        for case in check.cases_for(entry.name, "tiny"):
            if case.kind in ("plain", "strided") and case.m:
                calls.append(check.make_problem(entry, case, "cuda:0"))
        for m in (1, 16, 64, 300):
            case = check.Case("marlin", m, 1024, 4096, group_size=ops.FORMATS[entry.weight_format].group)
            calls.append(check.make_problem(entry, case, "cuda:0"))
    assert calls
    # One stream alone gives what every stream must give, bit for bit.
    expected = [problem.run() for problem in calls]
    for problem, out in zip(calls, expected, strict=True):
        bounds = check.bounds_for(problem.kernel, problem.case, torch.device("cuda:0"))
        errors = check.compare(out, problem.ref, problem.spread, bounds, problem.dtype)
        assert errors.worst_element <= 1, (problem.kernel.name, problem.case.id)
    streams = [torch.cuda.Stream() for _ in range(4)]
    torch.cuda.synchronize()
    counts = [torch.zeros((), dtype=torch.int64, device="cuda") for _ in streams]
    torch.cuda.synchronize()
    started = time.monotonic()
    rounds = 0
    while rounds < 3 or (time.monotonic() - started < 10 and rounds < 100):
        orders = [generator.sample(range(len(calls)), len(calls)) for _ in streams]
        for step in range(len(calls)):
            for stream, order, count in zip(streams, orders, counts, strict=True):
                with torch.cuda.stream(stream):
                    out, want = calls[order[step]].run(), expected[order[step]]
                    count += (out.view(torch.int16) != want.view(torch.int16)).sum()
        rounds += 1
    torch.cuda.synchronize()
    print(f"{rounds * len(calls) * len(streams)} calls of {len(calls)} kinds on {len(streams)} streams")
    assert sum(int(count) for count in counts) == 0
