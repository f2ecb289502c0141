"""Operands of a case, the operator's call and the float64 reference."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from kernelpkg.check.cases import Case
from kernelpkg.check.metrics import DTYPES
from kernelpkg.check.microscaled import ALPHA, make_operand
from kernelpkg.check.patterns import amid_nan, signed_scales, structured_scales, structured_zeros
from kernelpkg.ops import reference
from kernelpkg.ops.formats import groups_of
from kernelpkg.ops.kernels import Kernel
from kernelpkg.ops.packed import PackedWeight, pack_marlin_weight
from kernelpkg.ops.quantize import E4M3_MAX, pack_nibbles, to_column_major

Inputs = dict[str, Tensor | None]
_FP8 = torch.float8_e4m3fn
_E5M2 = torch.float8_e5m2

# NVFP4: scales times the first use more of e4m3's range; the global scale brings them back, but for a tenth,
# so that leaving it out shows.
_NVFP4_RANGE = 32.0
_NVFP4_GLOBAL = 1.1 / _NVFP4_RANGE


@dataclass(slots=True)
class Problem:
    """One case, ready to run.

    inputs: the operator's tensors by name (output_scale, alpha: one float64 on the CPU). call: runs the
    operator on such inputs. ref: float64 result.
    spread: float64, the size that the partial sums behind each element reach: their end, without the bias,
    plus sqrt of the sum of the squared products. packed: Marlin's weight.
    """

    kernel: Kernel
    case: Case
    inputs: Inputs
    call: Callable[[Mapping[str, Tensor | None]], Tensor]
    ref: Tensor
    spread: Tensor
    packed: PackedWeight | None = None

    def run(self) -> Tensor:
        """The operator on the unchanged inputs."""
        return self.call(self.inputs)

    @property
    def dtype(self) -> torch.dtype:
        """The output's dtype."""
        return DTYPES[self.case.dtype]


def operator(entry: Kernel) -> Callable[..., Tensor]:
    """The torch operator behind a kernel."""
    namespace, name = entry.operator.split("::")
    return getattr(getattr(torch.ops, namespace), name)


def make_problem(entry: Kernel, case: Case, device: torch.device | str, seed: int = 0) -> Problem:
    """Random operands with structured scales. The same kernel family, case, device type and seed give the
    same ones, under whichever configuration."""
    if case.configuration >= 0:
        kept = _kept(entry, replace(case, configuration=-1), str(device), seed)
        return replace(kept, case=case, call=_scaled_mm_call(entry, case))
    where = torch.device(device)
    generator = torch.Generator(where).manual_seed(zlib.crc32(f"{case.id} {seed}".encode()))
    if entry.family == "marlin":
        return _marlin(entry, case, where, generator)
    if entry.family == "microscaled":
        return _microscaled(entry, case, where, generator)
    return _scaled_mm(entry, case, where, generator)


# A sweep runs a case under one configuration after the other: operands and reference are made once.
@lru_cache(maxsize=1)
def _kept(entry: Kernel, case: Case, device: str, seed: int) -> Problem:
    return make_problem(entry, case, device, seed)


def drop_kept() -> None:
    """Frees the operands that a sweep keeps."""
    _kept.cache_clear()


def _activations(case: Case, fp8: bool, device: torch.device, generator: torch.Generator) -> Tensor:
    dtype = (_E5M2 if case.e5m2 else _FP8) if fp8 else DTYPES[case.dtype]
    values = torch.randn(case.m, case.k, device=device, generator=generator) * (2.0 if fp8 else 1.0)
    if case.kind == "nan":
        values[1 % case.m, 5] = torch.nan
        if dtype != _FP8:  # e4m3fn has no infinity
            values[7 % case.m, case.k - 1] = torch.inf
    a = values.to(dtype)
    return amid_nan(a) if case.kind == "strided" else a


def _weight(entry: Kernel, case: Case, device: torch.device, generator: torch.Generator) -> Tensor:
    """Quantised codes as pack_marlin_weight takes them; all codes of the integer and e2m1 formats occur."""
    shape = (case.k, case.n)
    if entry.weight_format == "e4m3":
        return (1.5 * torch.randn(*shape, device=device, generator=generator)).to(_FP8)
    if entry.weight_format == "u8b128":
        return torch.randint(0, 256, shape, device=device, generator=generator, dtype=torch.uint8)
    return pack_nibbles(torch.randint(0, 16, shape, device=device, generator=generator, dtype=torch.uint8))


def _weight_scales(entry: Kernel, case: Case, device: torch.device) -> Tensor:
    """Structured scales in the format's own type."""
    if case.scales == "block":
        blocks = structured_scales(-(-case.k // 128), -(-case.n // 128), device)
        return blocks.to(DTYPES[case.dtype])
    scales = structured_scales(groups_of(case.k, case.group_size), case.n, device)
    if entry.weight_format == "nvfp4":
        return (scales * _NVFP4_RANGE).to(_FP8)
    if entry.weight_format == "mxfp4" or case.scales == "mx":
        return (torch.frexp(scales).exponent - 1 + 127).to(torch.uint8)
    return scales.to(DTYPES[case.dtype])


def _marlin(entry: Kernel, case: Case, device: torch.device, generator: torch.Generator) -> Problem:
    fp8 = entry.fp8_mma
    form = entry.weight_format or "u4b8"
    dtype = DTYPES[case.dtype]
    a = _activations(case, fp8, device, generator)
    qweight = _weight(entry, case, device, generator)
    scales = _weight_scales(entry, case, device)
    zeros = None
    if form == "u4":
        zeros = structured_zeros(groups_of(case.k, case.group_size), case.n, device)
    global_scale = _NVFP4_GLOBAL if form == "nvfp4" else 1.0
    a_scales = structured_scales(case.m, 1, device) if fp8 else None

    def product() -> tuple[Tensor, Tensor]:
        weight = reference.dequantize(
            qweight,
            scales,
            form,
            case.group_size,
            zeros=zeros,
            global_scale=global_scale,
            size_k=case.k,
            blocks=case.scales == "block",
        )
        return _product(a, weight, a_scales)

    ref, spread = product()
    if case.kind == "overflow":
        factor = _overflow_factor(ref)
        if a_scales is not None:
            a_scales = a_scales * factor
        elif form == "nvfp4":
            global_scale *= factor
        else:
            scales = (scales * factor).to(dtype)
        ref, spread = product()
    bias = _bias(case, ref, generator)
    packed = pack_marlin_weight(
        qweight,
        scales,
        form,
        case.group_size,
        zeros=zeros,
        global_scale=global_scale,
        size_k=case.k,
        dtype=dtype,
        blocks=case.scales == "block",
    )
    op = operator(entry)

    def call(inputs: Mapping[str, Tensor | None]) -> Tensor:
        output_scale = inputs["output_scale"]
        assert output_scale is not None
        return op(
            inputs["a"],
            inputs["b_packed"],
            inputs["b_scales"],
            inputs["b_zeros"],
            inputs["a_scales"],
            inputs["bias"],
            packed.format_code,
            case.n,
            case.k,
            case.group_size,
            float(output_scale),
        )

    inputs: Inputs = {
        "a": a,
        "b_packed": packed.data,
        "b_scales": packed.scales,
        "b_zeros": packed.zeros,
        "a_scales": a_scales,
        "bias": bias,
        "output_scale": torch.tensor(packed.global_scale, dtype=torch.float64),
    }
    total = ref if bias is None else ref + bias.double()
    return Problem(entry, case, inputs, call, total, spread, packed)


def _scaled_mm(entry: Kernel, case: Case, device: torch.device, generator: torch.Generator) -> Problem:
    a = _activations(case, True, device, generator)
    values = 2.0 * torch.randn(case.k, case.n, device=device, generator=generator)
    b = to_column_major(values.clamp(-E4M3_MAX, E4M3_MAX).to(_FP8))
    del values
    if case.kind == "strided":
        b = amid_nan(b.t()).t()
    a_scales, b_scales = _scaled_mm_scales(case, device)

    def product(a_scales: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = reference.scaled_operands(a, b, a_scales, b_scales)
        return _product(rows, columns, None)

    ref, spread = product(a_scales)
    if case.kind == "overflow":
        a_scales = a_scales * _overflow_factor(ref)
        ref, spread = product(a_scales)
    bias = _bias(case, ref, generator)
    inputs: Inputs = {"a": a, "b": b, "a_scales": a_scales, "b_scales": b_scales, "bias": bias}
    total = ref if bias is None else ref + bias.double()
    return Problem(entry, case, inputs, _scaled_mm_call(entry, case), total, spread)


def _scaled_mm_scales(case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
    """Vectors, or blocks in each order that callers keep them in."""
    if case.scales != "block":
        a_scales = signed_scales(case.m if case.token else 1, 1, device)
        return a_scales, signed_scales(1, case.n if case.channel else 1, device)
    k_blocks, n_blocks = -(-case.k // 128), -(-case.n // 128)
    a_scales = signed_scales(case.m, k_blocks, device)
    b_scales = signed_scales(k_blocks, n_blocks, device)
    if case.kind == "strided":
        return amid_nan(a_scales), amid_nan(b_scales)
    if case.dtype == "bf16":
        a_scales = to_column_major(a_scales)
    return a_scales, to_column_major(b_scales) if case.bias else b_scales


def _scaled_mm_call(entry: Kernel, case: Case) -> Callable[[Mapping[str, Tensor | None]], Tensor]:
    op, out_dtype = operator(entry), DTYPES[case.dtype]

    def call(inputs: Mapping[str, Tensor | None]) -> Tensor:
        tensors = [inputs[name] for name in ("a", "b", "a_scales", "b_scales", "bias")]
        return op(*tensors, out_dtype, case.configuration)

    return call


def _microscaled(entry: Kernel, case: Case, device: torch.device, generator: torch.Generator) -> Problem:
    form = entry.microscaling or "mxfp8"
    a = make_operand(form, case.m, case, generator, device, is_a=True)
    b = make_operand(form, case.n, case, generator, device, is_a=False)
    alpha = ALPHA if form == "nvfp4" else 1.0

    def product() -> tuple[Tensor, Tensor]:
        return _product(alpha * a.meaning, b.meaning.t(), None)

    ref, spread = product()
    if case.kind == "overflow":
        factor = _overflow_factor(ref)
        if form == "nvfp4":
            alpha *= factor
        else:
            a = a.scaled_up(factor)
        ref, spread = product()
    bias = _bias(case, ref, generator)
    op, out_dtype = operator(entry), DTYPES[case.dtype]

    def call(inputs: Mapping[str, Tensor | None]) -> Tensor:
        tensors = [inputs[name] for name in ("a", "b", "a_scales", "b_scales")]
        given = inputs["alpha"]
        factors = () if given is None else (float(given),)
        return op(*tensors, *factors, inputs["bias"], out_dtype)

    inputs: Inputs = {
        "a": a.codes,
        "b": b.codes,
        "a_scales": a.scales,
        "b_scales": b.scales,
        "alpha": torch.tensor(alpha, dtype=torch.float64) if form == "nvfp4" else None,
        "bias": bias,
    }
    total = ref if bias is None else ref + bias.double()
    return Problem(entry, case, inputs, call, total, spread)


def _product(a: Tensor, weight: Tensor, a_scales: Tensor | None) -> tuple[Tensor, Tensor]:
    """(a_scales * a) @ weight in float64, and the spread of its partial sums. Overwrites `weight`, and a
    float64 `a` without scales."""
    rows = a.double() if a_scales is None else a.double() * a_scales.double()
    ref = rows @ weight
    return ref, (rows.square_() @ weight.square_()).sqrt_().add_(ref.abs())


def _bias(case: Case, ref: Tensor, generator: torch.Generator) -> Tensor | None:
    """As large as the products, so that a bias that is dropped or shifted shows in every element."""
    if not case.bias:
        return None
    finite = ref[ref.isfinite()]
    size = float(finite.square().mean().sqrt()) if finite.numel() else 1.0
    values = size * torch.randn(case.n, device=ref.device, generator=generator)
    return values.clamp(-60000, 60000).to(DTYPES[case.dtype])


def _overflow_factor(ref: Tensor) -> float:
    """What brings the root mean square to float16's largest value, so that about a third of the elements
    overflow."""
    return 65504.0 / float(ref.square().mean().sqrt())
