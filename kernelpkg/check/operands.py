"""Operands of a case, the operator's call and the float64 reference."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelpkg.check.cases import Case
from kernelpkg.check.metrics import DTYPES
from kernelpkg.ops import reference
from kernelpkg.ops.formats import groups_of
from kernelpkg.ops.kernels import Kernel
from kernelpkg.ops.packed import PackedWeight, pack_marlin_weight
from kernelpkg.ops.quantize import E4M3_MAX, pack_nibbles, to_column_major

Inputs = dict[str, Tensor | None]
_FP8 = torch.float8_e4m3fn

# NVFP4: scales times the first use more of e4m3's range; the global scale brings them back, but for a tenth,
# so that leaving it out shows.
_NVFP4_RANGE = 32.0
_NVFP4_GLOBAL = 1.1 / _NVFP4_RANGE


@dataclass(slots=True)
class Problem:
    """One case, ready to run.

    inputs: the operator's tensors by name (output_scale: one float64 on the CPU). call: runs the operator on
    such inputs. ref: float64 result.
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
    same ones."""
    where = torch.device(device)
    generator = torch.Generator(where).manual_seed(zlib.crc32(f"{case.id} {seed}".encode()))
    if entry.family == "marlin":
        return _marlin(entry, case, where, generator)
    return _scaled_mm(entry, case, where, generator)


def structured_scales(rows: int, columns: int, device: torch.device) -> Tensor:
    """float32 [rows, columns] between 2^-6 and 2^-1, no two neighbours alike.

    Equal scales, or random ones of one size, would hide a permuted scale. Columns differ by the exponent
    (period 5) and the mantissa (period 13), so two are alike only where they are 65 apart, which no tile or
    shuffle is.
    """
    row = torch.arange(rows, device=device)[:, None]
    column = torch.arange(columns, device=device)[None, :]
    mantissa = 1 + ((7 * column + 11 * row) % 13) / 13
    return mantissa * torch.exp2((3 * column + row) % 5 - 6)


def _activations(case: Case, fp8: bool, device: torch.device, generator: torch.Generator) -> Tensor:
    dtype = _FP8 if fp8 else DTYPES[case.dtype]
    values = torch.randn(case.m, case.k, device=device, generator=generator) * (2.0 if fp8 else 1.0)
    if case.kind == "nan":
        values[1 % case.m, 5] = torch.nan
        if not fp8:  # e4m3fn has no infinity
            values[7 % case.m, case.k - 1] = torch.inf
    a = values.to(dtype)
    if case.kind != "strided":
        return a
    # The middle of a larger matrix of NaN: a read past a row, or of a row that does not exist, shows.
    offset = 16
    surroundings = torch.full((case.m + 16, 2 * case.k), torch.nan, device=device).to(dtype)
    surroundings[8 : 8 + case.m, offset : offset + case.k] = a
    return surroundings[8 : 8 + case.m, offset : offset + case.k]


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


def structured_zeros(rows: int, columns: int, device: torch.device) -> Tensor:
    """uint8 [rows, columns] from 0 to 15, different wherever tiles or shuffles could exchange two."""
    row = torch.arange(rows, device=device)[:, None]
    column = torch.arange(columns, device=device)[None, :]
    return ((7 * column + 4 * row) % 15 + column % 2).to(torch.uint8)


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
    a_scales = structured_scales(case.m if case.token else 1, 1, device)
    b_scales = structured_scales(1, case.n if case.channel else 1, device)

    def product(a_scales: Tensor) -> tuple[Tensor, Tensor]:
        return _product(a, b.double() * b_scales.double(), a_scales)

    ref, spread = product(a_scales)
    if case.kind == "overflow":
        a_scales = a_scales * _overflow_factor(ref)
        ref, spread = product(a_scales)
    bias = _bias(case, ref, generator)
    op, out_dtype = operator(entry), DTYPES[case.dtype]

    def call(inputs: Mapping[str, Tensor | None]) -> Tensor:
        return op(inputs["a"], inputs["b"], inputs["a_scales"], inputs["b_scales"], inputs["bias"], out_dtype)

    inputs: Inputs = {"a": a, "b": b, "a_scales": a_scales, "b_scales": b_scales, "bias": bias}
    return Problem(entry, case, inputs, call, ref if bias is None else ref + bias.double(), spread)


def _product(a: Tensor, weight: Tensor, a_scales: Tensor | None) -> tuple[Tensor, Tensor]:
    """(a_scales * a) @ weight in float64, and the spread of its partial sums. Overwrites `weight`."""
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
