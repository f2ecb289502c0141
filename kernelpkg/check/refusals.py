"""Bad input: every call here must be refused with one sentence that names what was wrong; then nothing was
computed.

A row's value is 0 where the call was refused as it should be and 1 where it was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernelpkg.check.cases import Case
from kernelpkg.check.operands import Problem, make_problem, operator
from kernelpkg.errors import KernelpkgError
from kernelpkg.gates import GateRefusal
from kernelpkg.ops import functional, microscaling
from kernelpkg.ops.formats import FORMATS
from kernelpkg.ops.kernels import Kernel
from kernelpkg.ops.packed import pack_marlin_weight

_FP8 = torch.float8_e4m3fn
_SCALED_MM_INPUTS = ("a", "b", "a_scales", "b_scales", "bias")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that must be refused. expect: what the sentence must say."""

    id: str
    expect: str
    call: Callable[[], Any]


def missed(refusal: Refusal) -> str | None:
    """None where it was refused as it should be, else what happened instead."""
    try:
        refusal.call()
    except (ValueError, RuntimeError, NotImplementedError, KernelpkgError) as error:
        text = str(error)
        if refusal.expect not in text:
            return f"refused without saying {refusal.expect!r}: {text}"
        if "\n" in text:
            return f"the refusal is more than one line: {text}"
        return None
    return "was not refused"


def refusals_for(entry: Kernel, device: torch.device) -> tuple[Refusal, ...]:
    """The bad calls of one kernel."""
    if entry.family == "repack":
        return tuple(_repack(device))
    if entry.family == "marlin":
        return tuple(_marlin(entry, device))
    if entry.family == "microscaled":
        return tuple(_microscaled(entry, device))
    return tuple(_scaled_mm(entry, device))


def gate_refusals(entry: Kernel, device: torch.device) -> tuple[Refusal, ...]:
    """For a kernel whose gate does not admit the device: the function and the bare operator both refuse."""
    problem = make_problem(entry, _base(entry), device)
    inputs = problem.inputs

    def function() -> Tensor:
        if entry.family == "microscaled":
            op = getattr(microscaling, entry.operator.split("::")[1])
            alpha = inputs["alpha"]
            rest = () if alpha is None else (alpha.item(),)
            return op(*(inputs[name] for name in ("a", "b", "a_scales", "b_scales")), *rest)
        if entry.family == "scaled_mm":
            return functional.cutlass_scaled_mm(
                inputs["a"],
                inputs["b"],
                inputs["a_scales"],
                inputs["b_scales"],
                problem.dtype,
                inputs["bias"],
            )
        assert problem.packed is not None
        return functional.marlin_gemm(inputs["a"], problem.packed, inputs["a_scales"], inputs["bias"])

    def only_gate() -> None:
        try:
            function()
        except GateRefusal as refusal:
            raise refusal from None
        except Exception as error:
            raise RuntimeError(f"{type(error).__name__} where a GateRefusal was due: {error}") from error

    return (
        Refusal("gate-function", "refuses capability", only_gate),
        Refusal("gate-operator", str(functional.device_capability(device.index or 0)), problem.run),
    )


def _base(entry: Kernel) -> Case:
    if entry.family == "marlin":
        group = FORMATS[entry.weight_format or "u4b8"].group
        return Case("marlin", 5, 128, 256, "bf16", group, bias=True)
    if entry.family == "microscaled":
        return Case("microscaled", 5, 264, 160, "bf16", bias=True)
    return Case("scaled_mm", 5, 264, 144, "bf16", token=True, channel=True, bias=True)


def _shifted(x: Tensor) -> Tensor:
    """The same values, starting one element past an aligned address."""
    buffer = torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)
    moved = buffer[1:].view(x.shape)
    moved.copy_(x)
    return moved


def _every_other(x: Tensor) -> Tensor:
    """The same values with a stride of 2."""
    return torch.stack([x, x], dim=-1).reshape(*x.shape[:-1], 2 * x.shape[-1])[..., ::2]


def _column_major(x: Tensor) -> Tensor:
    return x.t().contiguous().t()


def _caller(problem: Problem) -> Callable[[str, str, str, Callable[[Tensor], Tensor | None]], Refusal]:
    """make(id, expect, name, change): the problem's call with one input changed."""

    def make(id: str, expect: str, name: str, change: Callable[[Tensor], Tensor | None]) -> Refusal:
        value = problem.inputs[name]
        assert value is not None
        return Refusal(id, expect, lambda: problem.call({**problem.inputs, name: change(value)}))

    return make


def _activation_refusals(problem: Problem) -> Iterator[Refusal]:
    make = _caller(problem)
    yield make("a-float32", "float32", "a", lambda a: a.float())
    yield make("a-rank-3", "[M, ", "a", lambda a: a[None])
    yield make("a-short-k", "[", "a", lambda a: a[:, :-16])
    yield make("a-column-major", "last stride must be 1", "a", _column_major)
    yield make("bias-float32", "bias is float32", "bias", lambda x: x.float())
    yield make("bias-short", "bias is", "bias", lambda x: x[:-1])
    yield make("bias-strided", "contiguous", "bias", _every_other)
    if problem.inputs["bias"] is not None and problem.inputs["bias"].is_cuda:
        yield make("bias-other-device", "one device", "bias", lambda x: x.cpu())


def _marlin(entry: Kernel, device: torch.device) -> Iterator[Refusal]:
    problem = make_problem(entry, _base(entry), device)
    case, inputs, packed = problem.case, problem.inputs, problem.packed
    assert packed is not None
    make = _caller(problem)
    yield from _activation_refusals(problem)
    yield make("packed-short", "b_packed is", "b_packed", lambda x: x[:-1])
    yield make("packed-flat", "b_packed is", "b_packed", lambda x: x.view(x.shape[0], -1))
    yield make("packed-int64", "b_packed is int64", "b_packed", lambda x: x.long())
    yield make("packed-strided", "contiguous", "b_packed", _every_other)
    yield make("packed-misaligned", "aligned to 16 bytes", "b_packed", _shifted)
    yield make("scales-float32", "b_scales is float32", "b_scales", lambda x: x.float())
    yield make("scales-one-group", "b_scales is", "b_scales", lambda x: x[:1])
    yield make("scales-not-padded", "b_scales is", "b_scales", lambda x: x[..., :-1].contiguous())
    yield make("scales-strided", "contiguous", "b_scales", _every_other)
    yield make("bias-misaligned", "aligned to 16 bytes", "bias", _shifted)
    form = FORMATS[entry.weight_format or "u4b8"]
    ones = torch.ones(case.m, device=device)
    if form.zeros:
        yield make("zeros-missing", "b_zeros is missing", "b_zeros", lambda x: None)
        yield make("zeros-int32", "b_zeros is int32", "b_zeros", lambda x: x.int())
        yield make("zeros-one-group", "b_zeros is", "b_zeros", lambda x: x[:1])
        yield make("zeros-strided", "contiguous", "b_zeros", _every_other)
    else:
        zeros = torch.zeros(2, case.n, dtype=torch.uint8, device=device)
        yield Refusal(
            "zeros-unexpected", "b_zeros was given", lambda: problem.call({**inputs, "b_zeros": zeros})
        )
    if entry.fp8_mma:
        yield make("a-scales-missing", "a_scales is missing", "a_scales", lambda x: None)
        yield make("a-scales-short", "a_scales is", "a_scales", lambda x: x[:-1])
        yield make("a-scales-float64", "a_scales is float64", "a_scales", lambda x: x.double())
    else:
        yield make("scales-other-16bit", "one dtype", "b_scales", lambda x: x.half())
        yield Refusal(
            "a-scales-unexpected", "leave it out", lambda: problem.call({**inputs, "a_scales": ones})
        )
    if not form.fp8:
        fp8 = {**inputs, "a": torch.zeros(case.m, case.k, device=device).to(_FP8), "a_scales": ones}
        yield Refusal("a-fp8", "FP8 activations go with", lambda: problem.call(fp8))
    if torch.float16 not in form.dtypes:
        halves = {**inputs, "b_scales": torch.ones_like(packed.scales, dtype=torch.float16)}
        if not entry.fp8_mma:
            halves["a"] = torch.zeros(case.m, case.k, dtype=torch.float16, device=device)
        halves["bias"] = None
        yield Refusal("float16", "range of bfloat16", lambda: problem.call(halves))
    op = operator(entry)
    names = ("a", "b_packed", "b_scales", "b_zeros", "a_scales", "bias")
    tensors = [inputs[name] for name in names]
    n, k, group = case.n, case.k, case.group_size
    factor = packed.global_scale

    def with_numbers(id: str, expect: str, *numbers: float) -> Refusal:
        return Refusal(id, expect, lambda: op(*tensors, *numbers))

    yield with_numbers("weight-format-7", "weight_format is 7", 7, n, k, group, factor)
    yield with_numbers("n-0", "size_n is 0", form.code, 0, k, group, factor)
    yield with_numbers("n-other", "b_packed is", form.code, n + 1, k, group, factor)
    yield with_numbers("k-0", "size_k is 0", form.code, n, 0, group, factor)
    yield with_numbers("k-huge", "size_k is 4294967296", form.code, n, 2**32, group, factor)
    yield with_numbers("k-other", "it must be [M, 257]", form.code, n, k + 1, group, factor)
    yield with_numbers("group-48", "group_size is 48", form.code, n, k, 48, factor)
    yield with_numbers("group-0", "group_size is 0", form.code, n, k, 0, factor)
    yield with_numbers("scale-nan", "output_scale is nan", form.code, n, k, group, math.nan)
    if form.name != "nvfp4":
        yield with_numbers("scale-2", "only nvfp4", form.code, n, k, group, 2.0)


def _scaled_mm(entry: Kernel, device: torch.device) -> Iterator[Refusal]:
    problem = make_problem(entry, _base(entry), device)
    inputs, make, op = problem.inputs, _caller(problem), operator(entry)
    m, n, k = problem.case.m, problem.case.n, problem.case.k
    yield from (refusal for refusal in _activation_refusals(problem) if refusal.id != "a-rank-3")
    yield make("bias-misaligned", "aligned to 16 bytes", "bias", _shifted)
    yield make("b-bfloat16", "float8_e4m3fn", "b", lambda b: b.to(torch.bfloat16))
    yield make("b-e5m2", "b float8_e4m3fn", "b", lambda b: b.to(torch.float8_e5m2))
    yield make("b-row-major", "column-major", "b", lambda b: b.contiguous())
    yield make("b-short-k", "one K", "b", lambda b: b[:-1])
    yield make("a-rank-3", "[M, K]", "a", lambda a: a[None])
    yield make("a-scales-short", "a_scales is", "a_scales", lambda x: x[:-1])
    yield make("a-scales-bfloat16", "a_scales is bfloat16", "a_scales", lambda x: x.to(torch.bfloat16))
    yield make("a-scales-strided", "contiguous", "a_scales", lambda x: _every_other(x.flatten()))
    yield make("b-scales-short", "b_scales [1, 263]", "b_scales", lambda x: x[:, :-1])
    yield make("b-scales-float64", "b_scales is float64", "b_scales", lambda x: x.double())
    yield make("b-scales-strided", "contiguous", "b_scales", _every_other)
    a, b, a_scales, b_scales, bias = tensors = [inputs[name] for name in _SCALED_MM_INPUTS]
    assert a is not None and b is not None and b_scales is not None
    yield Refusal("out-float32", "out_dtype is float32", lambda: op(*tensors, torch.float32))
    no_k = (a[:, :0], b[:0], a_scales, b_scales, bias, torch.bfloat16)
    yield Refusal("k-0", "K is 0", lambda: op(*no_k))
    no_n = (a, b[:, :0], a_scales, b_scales[:, :0], None, torch.bfloat16)
    yield Refusal("n-0", "N is 0", lambda: op(*no_n))
    yield Refusal("configuration-2", "configuration is -2", lambda: op(*tensors, torch.bfloat16, -2))
    if device.type == "cuda":
        yield make("b-scales-other-device", "one device", "b_scales", lambda x: x.cpu())
        yield Refusal("configuration-999", "configuration is 999", lambda: op(*tensors, torch.bfloat16, 999))

    def with_blocks(id: str, rows: tuple[int, int], columns: tuple[int, int]) -> Refusal:
        scales = torch.ones(rows, device=device), torch.ones(columns, device=device)
        return Refusal(id, said, lambda: op(a, b, *scales, None, torch.bfloat16))

    k_blocks, n_blocks = -(-k // 128), -(-n // 128)
    said = f"[{m}, {k_blocks}] and [{k_blocks}, {n_blocks}]"
    yield with_blocks("a-blocks-short", (m - 1, k_blocks), (k_blocks, n_blocks))
    yield with_blocks("a-blocks-transposed", (k_blocks, m), (k_blocks, n_blocks))
    yield with_blocks("b-blocks-long", (m, k_blocks), (k_blocks, n_blocks + 1))
    yield with_blocks("b-blocks-transposed", (m, k_blocks), (n_blocks, k_blocks))
    yield with_blocks("blocks-of-a-alone", (m, k_blocks), (1, n))


def _microscaled(entry: Kernel, device: torch.device) -> Iterator[Refusal]:
    problem = make_problem(entry, _base(entry), device)
    inputs, make, op = problem.inputs, _caller(problem), operator(entry)
    nvfp4 = entry.microscaling == "nvfp4"
    yield make("a-float32", "a is float32", "a", lambda a: a.float())
    yield make("a-e5m2", "a is float8_e5m2", "a", lambda a: a.view(torch.float8_e5m2))
    yield make("a-rank-3", "[M, ", "a", lambda a: a[None])
    yield make("a-column-major", "with its last stride 1", "a", _column_major)
    yield make("a-short-k", "both must have one K", "a", lambda a: a[:, :-16])
    yield make("b-bfloat16", "b is bfloat16", "b", lambda b: b.to(torch.bfloat16))
    yield make("b-transposed", "both must have one K", "b", lambda b: b.t().contiguous())
    yield make("b-column-major", "with its last stride 1", "b", _column_major)
    for name in ("a", "b"):
        scales = f"{name}_scales"
        yield make(f"{name}-scales-short", f"{scales} is", scales, lambda x: x[:-1])
        yield make(f"{name}-scales-long", f"{scales} is", scales, lambda x: x.repeat(2))
        yield make(f"{name}-scales-float32", f"{scales} is float32", scales, lambda x: x.float())
        yield make(f"{name}-scales-strided", "contiguous", scales, _every_other)
        yield make(f"{name}-scales-misaligned", "aligned to 16 bytes", scales, _shifted)
    other = torch.uint8 if nvfp4 else _FP8
    yield make("scales-of-another-format", "a_scales is", "a_scales", lambda x: x.view(other))
    yield make("bias-float32", "bias is float32", "bias", lambda x: x.float())
    yield make("bias-short", "bias is", "bias", lambda x: x[:-1])
    yield make("bias-strided", "contiguous", "bias", _every_other)
    yield make("bias-misaligned", "aligned to 16 bytes", "bias", _shifted)
    a, b, a_scales, b_scales, bias = (inputs[name] for name in _SCALED_MM_INPUTS)
    assert a is not None and b is not None and b_scales is not None
    alpha = (1.0,) if nvfp4 else ()

    def with_operands(id: str, expect: str, a: Tensor, b: Tensor) -> Refusal:
        arguments = (a, b, a_scales, b_scales, *alpha, None, torch.bfloat16)
        return Refusal(id, expect, lambda: op(*arguments))

    half = 8 if nvfp4 else 16
    yield with_operands("k-0", "K is 0", a[:, :0], b[:, :0])
    yield with_operands("k-16", "K is 16; it must be a positive multiple of 32", a[:, :half], b[:, :half])
    yield with_operands("n-0", "N is 0", a, b[:0])
    arguments = (a, b, a_scales, b_scales, *alpha, bias, torch.float32)
    yield Refusal("out-float32", "out_dtype is float32", lambda: op(*arguments))
    if nvfp4:
        yield make("alpha-nan", "alpha is nan", "alpha", lambda x: x * torch.nan)
        yield make("alpha-huge", "it must be finite", "alpha", lambda x: x * 1e60)
    if device.type == "cuda":
        for name in ("b", "a_scales", "b_scales", "bias"):
            yield make(f"{name.replace('_', '-')}-other-device", "one device", name, lambda x: x.cpu())


def _repack(device: torch.device) -> Iterator[Refusal]:
    op = torch.ops.kernelpkg.marlin_repack
    u4 = torch.zeros(32, 128, dtype=torch.int32, device=device)
    u8 = torch.zeros(256, 128, dtype=torch.uint8, device=device)
    yield Refusal("u4b8-uint8", "weight is uint8", lambda: op(u8, 0, 256, 128))
    yield Refusal("u4b8-short", "weight is int32", lambda: op(u4[:-1], 0, 256, 128))
    yield Refusal("e4m3-int32", "weight is int32", lambda: op(u4, 1, 256, 128))
    yield Refusal("u8b128-e4m3", "weight is float8_e4m3fn", lambda: op(u8.view(_FP8), 3, 256, 128))
    yield Refusal("format-6", "weight_format is 6", lambda: op(u4, 6, 256, 128))
    yield Refusal("strided", "contiguous", lambda: op(_column_major(u4), 0, 256, 128))
    yield Refusal("misaligned", "aligned to 16 bytes", lambda: op(_shifted(u4), 0, 256, 128))
    yield Refusal("n-96", "[32, 96]", lambda: op(u4, 0, 256, 96))
    yield Refusal("k-0", "size_k is 0", lambda: op(u4[:0], 0, 0, 128))
    yield Refusal("k-264", "[33, 128]", lambda: op(u4, 0, 257, 128))
    nan = u8.clone()
    nan[3, 5] = 0x7F
    scales = torch.ones(1, 128, dtype=torch.bfloat16, device=device)
    yield Refusal("nan-weight", "NaN", lambda: pack_marlin_weight(nan, scales, "e4m3", -1))
    yield Refusal("nan-scale", "NaN", lambda: pack_marlin_weight(u4, scales * torch.nan, "u4b8", -1))
    exponents = torch.full((8, 128), 127, dtype=torch.uint8, device=device)
    exponents[2, 3] = 255
    yield Refusal("nan-e8m0", "NaN", lambda: pack_marlin_weight(u4, exponents, "mxfp4"))
    zeros = torch.full((1, 128), 16, dtype=torch.uint8, device=device)
    yield Refusal("zeros-16", "from 0 to 15", lambda: pack_marlin_weight(u4, scales, "u4", -1, zeros=zeros))
