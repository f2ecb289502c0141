"""The operators as functions: the gate is asked, then the operator of the tensor's device runs.

What the arguments must be is checked by the operators themselves, on every device alike
(csrc/bindings/checks.cpp); they raise ValueError with one sentence.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from kernelpkg.arch import Capability
from kernelpkg.errors import UsageError
from kernelpkg.gates import gate
from kernelpkg.ops.load import load
from kernelpkg.ops.packed import PackedWeight

_FP8 = torch.float8_e4m3fn
_SCALED_MM_GATES = ("scaled_mm_sm89", "scaled_mm_sm90", "scaled_mm_sm100", "scaled_mm_sm120")


def marlin_gemm(
    a: Tensor,
    weight: PackedWeight,
    a_scales: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    allow_emulation: bool = False,
) -> Tensor:
    """a [M, K] times the packed weight [K, N], plus bias [N]: [M, N] in the dtype of weight.scales.

    a: float16 or bfloat16, the scales' dtype; or float8_e4m3fn with a_scales, float32 [M] or [M, 1] (u4b8,
    u4, mxfp4 and e4m3 weights). Rows may be strided; where they do not start on 16 bytes, or K is no multiple
    of 16 bytes, a padded copy is made first. bias: [N] in the output's dtype.

    FP8 activations on a device that emulates FP8 MMA are refused (GateRefusal) unless allow_emulation is
    True: then the emulated evidence build runs, slowly. On CPU tensors the reference runs and no gate is
    asked.

    Raises kernelpkg.gates.GateRefusal on a device that no gate of it admits, ValueError for arguments that do
    not fit, UsageError (a ValueError) where no library is built.
    """
    if not isinstance(weight, PackedWeight):
        raise UsageError(
            f"marlin_gemm: weight is a {type(weight).__name__}; it must be a PackedWeight, as "
            "ops.pack_marlin_weight or checkpoint.load_layer makes it"
        )
    require_tensors("marlin_gemm", a=a)
    load()
    arguments = (
        a,
        weight.data,
        weight.scales,
        weight.zeros,
        a_scales,
        bias,
        weight.format_code,
        weight.size_n,
        weight.size_k,
        weight.group_size,
        weight.global_scale,
    )
    if a.is_cuda and _marlin_emulated(a.device.index or 0, a.dtype == _FP8, allow_emulation):
        return torch.ops.kernelpkg_evidence.marlin_gemm_emulated(*arguments)
    return torch.ops.kernelpkg.marlin_gemm(*arguments)


def cutlass_scaled_mm(
    a: Tensor,
    b: Tensor,
    a_scales: Tensor,
    b_scales: Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
    bias: Tensor | None = None,
    configuration: int = -1,
) -> Tensor:
    """(a_scales * a) @ (b_scales * b) + bias: [M, N] in out_dtype (bfloat16 or float16).

    a: float8_e4m3fn or float8_e5m2 [M, K] row-major; b: float8_e4m3fn [K, N] column-major
    (`to_column_major`). Any M, also 0; any N and K from 1 on.

    Scales are float32, of one of two kinds. Either a_scales is one value or M (`quantize_fp8_per_token`) and
    b_scales one value or N (`quantize_fp8_per_channel`), in any pairing; or both come in blocks of 128:
    a_scales [M, ceil(K/128)] (`quantize_fp8_per_token_group`) and b_scales [ceil(K/128), ceil(N/128)]
    (`quantize_fp8_blocks`), with any strides. bias: [N] in out_dtype.

    Rows of a and columns of b that do not start on 16 bytes are copied first, at every call: for a weight
    whose K is no multiple of 16, `pad_scaled_mm_weight` does that once.

    configuration: a place in the table of the device's route (`ops.configurations`); -1 leaves the choice to
    the dispatcher. The CPU has no configurations and passes over it.

    On CPU tensors the reference runs. Raises kernelpkg.gates.GateRefusal on a device that no scaled_mm gate
    admits, ValueError for arguments that do not fit, UsageError (a ValueError) where no library is built.
    """
    require_tensors("cutlass_scaled_mm", a=a, b=b, a_scales=a_scales, b_scales=b_scales)
    require_dtype("cutlass_scaled_mm", out_dtype)
    if not isinstance(configuration, int):
        raise UsageError(
            f"cutlass_scaled_mm: configuration is {configuration!r}; it must be the place of a row of "
            "ops.configurations, or -1 for the dispatcher's choice"
        )
    load()
    if a.is_cuda:
        _scaled_mm_admitted(a.device.index or 0)
    return torch.ops.kernelpkg.cutlass_scaled_mm(a, b, a_scales, b_scales, bias, out_dtype, configuration)


def require_tensors(op: str, **given: object) -> None:
    """Raises UsageError for what is no tensor, which torch would refuse without the argument's name."""
    for name, value in given.items():
        if not isinstance(value, Tensor):
            what = "None" if value is None else f"a {type(value).__name__}"
            raise UsageError(f"{op}: {name} is {what}; it must be a tensor")


def one_device(op: str, a: Tensor, **others: Tensor | None) -> None:
    """For the fakes. One meta tensor among others leads torch to the fake, whose output would then lie on a's
    device and hold nothing. Raises RuntimeError.
    """
    for name, other in others.items():
        torch._check(
            other is None or other.device == a.device,
            lambda name=name, other=other: (
                f"{op}: {name} is on {other.device} and a on {a.device}; all tensors must be on one device, "
                "move them with .to()"
            ),
        )


def require_dtype(op: str, out_dtype: object) -> None:
    """Raises UsageError for what is no dtype at all; which dtypes may be is the operator's to say."""
    if not isinstance(out_dtype, torch.dtype):
        raise UsageError(f"{op}: out_dtype is {out_dtype!r}; it must be torch.bfloat16 or torch.float16")


# torch.compile evaluates these two while it traces, and keeps the answer: a device's capability does not
# change.
@torch.compiler.assume_constant_result
def _marlin_emulated(device: int, fp8: bool, allow_emulation: bool) -> bool:
    """True where the emulated build must run, False for the shipped one. Raises GateRefusal."""
    return marlin_route(device_capability(device), fp8, allow_emulation) == "emulated"


@torch.compiler.assume_constant_result
def _scaled_mm_admitted(device: int) -> bool:
    scaled_mm_gate(device_capability(device))
    return True


def marlin_route(capability: Capability, fp8: bool, allow_emulation: bool) -> str:
    """'shipped' or 'emulated'. Raises GateRefusal where neither may run on this capability."""
    asked = gate("marlin_fp8" if fp8 else "marlin_16bit")
    if fp8 and allow_emulation and not asked.ask(capability) and gate("evidence_sm90").ask(capability):
        return "emulated"
    asked.require(capability)
    return "shipped"


def scaled_mm_gate(capability: Capability) -> str:
    """The id of the scaled_mm gate that admits this capability. Raises GateRefusal where none does."""
    for name in _SCALED_MM_GATES:
        if gate(name).ask(capability):
            return name
    gate(_SCALED_MM_GATES[-1]).require(capability)
    raise AssertionError("unreachable: the gate refused above")


@cache
def device_capability(device: int) -> Capability:
    """Capability of a CUDA device of this process, by its index."""
    return Capability(*torch.cuda.get_device_capability(device))
