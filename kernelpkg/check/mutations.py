"""Proof that the metrics see what they should: one fault at a time is put into a case, and must exceed a
bound.

A fault goes into the operator's inputs or its output, never into the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelpkg.check.cases import Case, DType
from kernelpkg.check.execution import poisoned
from kernelpkg.check.metrics import bounds_for, compare
from kernelpkg.check.operands import Inputs, Problem, make_problem
from kernelpkg.ops.formats import FORMATS
from kernelpkg.ops.kernels import Kernel, kernel


@dataclass(frozen=True, slots=True)
class Mutation:
    """A fault. applies: whether a problem has what it breaks. inputs, output: what they become."""

    name: str
    what: str
    applies: Callable[[Problem], bool]
    inputs: Callable[[Inputs], Inputs] = lambda inputs: inputs
    output: Callable[[Tensor], Tensor] = lambda out: out


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of one fault: the metrics it gave, and whether one of them exceeded its bound."""

    kernel: str
    case: str
    mutation: str
    relative_error: float
    relative_bound: float
    worst_element: float
    caught: bool


def _changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Inputs], Inputs]:
    def apply(inputs: Inputs) -> Inputs:
        old = inputs[name]
        assert old is not None
        return {**inputs, name: change(old.clone())}

    return apply


def _swap_columns(x: Tensor) -> Tensor:
    x[..., [2, 3]] = x[..., [3, 2]]
    return x


def _two_percent(x: Tensor) -> Tensor:
    """One scale 2 % too large: one group of one channel where there are groups, the largest of the last
    channel, since a group of small scale is a small part of its sum."""
    last = x.view(-1, x.shape[-1])[:, -1] if x.dim() else x.view(1)
    last[last.argmax()] *= 1.02
    return x


def _one_more(x: Tensor) -> Tensor:
    x[-1, -1] += 1
    return x


def _roll_groups(x: Tensor) -> Tensor:
    return x.roll(1, dims=0)


def _swap_rows(x: Tensor) -> Tensor:
    x[[0, 1]] = x[[1, 0]]
    return x


def _zero_tile(out: Tensor) -> Tensor:
    out = out.clone()
    out[-16:, -16:] = 0
    return out


def _stale_row(out: Tensor) -> Tensor:
    out = out.clone()
    out[-1] = torch.nan
    return out


def _many(problem: Problem, name: str, dim: int) -> bool:
    x = problem.inputs.get(name)
    return x is not None and x.dim() > 1 and x.shape[dim] > 3


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "swap-two-scales",
        "two neighbouring channels' scales exchanged",
        lambda p: _many(p, "b_scales", -1),
        _changed("b_scales", _swap_columns),
    ),
    Mutation(
        "scale-2-percent",
        "one scale of one channel (of one group) 2 % too large",
        lambda p: True,
        _changed("b_scales", _two_percent),
    ),
    Mutation(
        "shift-groups",
        "every group takes the scales of the one before",
        lambda p: p.case.group_size != -1 and p.case.k > p.case.group_size,
        _changed("b_scales", _roll_groups),
    ),
    Mutation(
        "swap-two-zeros",
        "two neighbouring channels' zero points exchanged",
        lambda p: _many(p, "b_zeros", -1),
        _changed("b_zeros", _swap_columns),
    ),
    Mutation(
        "zero-plus-one",
        "one zero point of one channel (of one group) one too large",
        lambda p: _many(p, "b_zeros", -1),
        _changed("b_zeros", _one_more),
    ),
    Mutation(
        "global-scale-2-percent",
        "the weight's global scale 2 % too large",
        lambda p: p.packed is not None and p.packed.format == "nvfp4",
        _changed("output_scale", _two_percent),
    ),
    Mutation(
        "swap-two-tokens",
        "two rows' activation scales exchanged",
        lambda p: p.case.m > 1 and p.inputs.get("a_scales") is not None and p.inputs["a_scales"].numel() > 1,
        _changed("a_scales", _swap_rows),
    ),
    Mutation(
        "drop-bias",
        "the bias left out",
        lambda p: p.inputs["bias"] is not None,
        lambda inputs: {**inputs, "bias": None},
    ),
    Mutation("zero-tile", "one 16 x 16 tile of the output zero", lambda p: p.case.m > 0, output=_zero_tile),
    Mutation("unwritten-row", "the last row left as it was", lambda p: p.case.m > 0, output=_stale_row),
)


# Every arithmetic once: floats, integers, zero points, two kinds of scale, FP8 activations.
PROOF_KERNELS = (
    "marlin_w8a16",
    "marlin_w4a16",
    "marlin_w4a16_zp",
    "marlin_w4a16_nvfp4",
    "marlin_w4a16_mxfp4",
    "marlin_w4a8_fp8",
    "scaled_mm_sm90",
)


def _proof_cases(entry: Kernel) -> tuple[Case, ...]:
    """Enough rows that a fault in one channel meets elements small enough to show it."""
    if entry.family == "scaled_mm":
        return (
            Case("scaled_mm", 129, 208, 272, "bf16", token=True, channel=True, bias=True),
            Case("scaled_mm", 65, 128, 1024, "fp16", token=True, channel=False, bias=True),
            Case("scaled_mm", 257, 832, 1408, "bf16", token=True, channel=True, bias=True),
        )
    form = FORMATS[entry.weight_format or "u4b8"]
    other = form.groups[0]  # -1 where the format has scales per channel
    half: DType = "fp16" if torch.float16 in form.dtypes else "bf16"
    return (
        # Above 64 rows weights with group scales may be rounded, and 2 % of a group would not show.
        Case("marlin", 64, 192, 384, "bf16", form.group, bias=True),
        Case("marlin", 65, 320, 256, half, other, bias=True),
        Case("marlin", 257, 448, 640, "bf16", other, bias=True),
    )


def prove(
    kernels: Iterable[str] = PROOF_KERNELS,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> tuple[Proof, ...]:
    """Puts every fault that applies into a few cases of each kernel. A proof that was not caught is a hole in
    the check.

    On the CPU the references run; on a GPU, name kernels that its gates admit. The unbroken case must pass:
    where it does not, it appears as the mutation 'none', caught.
    """
    where = torch.device(device)
    proofs: list[Proof] = []
    for name in kernels:
        entry = kernel(name)
        for case in _proof_cases(entry):
            problem = make_problem(entry, case, where, seed)
            bounds = bounds_for(entry, case, where)
            none = Mutation("none", "unbroken", lambda p: True)
            for mutation in (none, *MUTATIONS):
                if not mutation.applies(problem):
                    continue
                with poisoned():
                    out = mutation.output(problem.call(mutation.inputs(problem.inputs)))
                errors = compare(out, problem.ref, problem.spread, bounds, problem.dtype)
                caught = errors.relative_error > bounds.relative or errors.worst_element > 1
                if mutation is none and not caught:
                    continue
                proofs.append(
                    Proof(
                        name,
                        case.id,
                        mutation.name,
                        errors.relative_error,
                        bounds.relative,
                        errors.worst_element,
                        caught,
                    )
                )
    return tuple(proofs)
