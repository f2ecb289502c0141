"""Proof that the metrics see what they should: one fault at a time is put into a case, and must exceed a
bound.

A fault goes into the operator's inputs or its output, never into the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelpkg.check import sweep
from kernelpkg.check.cases import Case, DType
from kernelpkg.check.execution import poisoned
from kernelpkg.check.metrics import bounds_for, compare
from kernelpkg.check.microscaled import blocks_of
from kernelpkg.check.operands import Inputs, Problem, make_problem
from kernelpkg.ops.formats import FORMATS
from kernelpkg.ops.kernels import Kernel, kernel
from kernelpkg.ops.microscaling import swizzle_scales, unswizzle_scales


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
    if x.dim() == 0:
        return x * 1.02
    last = x.select(-1, -1)
    last[torch.unravel_index(last.abs().argmax(), last.shape)] *= 1.02
    return x


def _two_percent_of_a_row(x: Tensor) -> Tensor:
    """The same for the last row of a, whose scales lie side by side."""
    last = x[-1]
    last[last.abs().argmax()] *= 1.02
    return x


def _one_more(x: Tensor) -> Tensor:
    x[-1, -1] += 1
    return x


def _roll(dim: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.roll(1, dims=dim)


def _swap_along_k(x: Tensor) -> Tensor:
    """The first two blocks of K exchanged, in the last column of blocks alone."""
    x[[0, 1], -1] = x[[1, 0], -1]
    return x


def _swap_in_a_row(x: Tensor) -> Tensor:
    """The first two blocks of K exchanged, in the last row of a alone."""
    x[-1, [0, 1]] = x[-1, [1, 0]]
    return x


def _shift_last_row(x: Tensor) -> Tensor:
    x[-1] = x[-1].roll(1)
    return x


def _swap_rows(x: Tensor) -> Tensor:
    x[[0, 1]] = x[[1, 0]]
    return x


def _changed_micro(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Inputs], Inputs]:
    """`change` on the bytes of swizzled scales as [rows, blocks]."""

    def apply(inputs: Inputs) -> Inputs:
        codes, old = inputs[name.removesuffix("_scales")], inputs[name]
        assert codes is not None and old is not None
        plain = unswizzle_scales(old.view(torch.uint8), codes.shape[0], blocks_of(codes))
        return {**inputs, name: swizzle_scales(change(plain)).view(old.dtype)}

    return apply


def _one_step_larger(x: Tensor) -> Tensor:
    """The largest scale of the last row one code larger: twice as large (e8m0), or by an eighth at most."""
    x[-1, x[-1].argmax()] += 1
    return x


def _in_rows(inputs: Inputs) -> Inputs:
    """Scales of b row after row, as they are before they are swizzled."""
    b, scales = inputs["b"], inputs["b_scales"]
    assert b is not None and scales is not None
    rows, blocks = -(-b.shape[0] // 128) * 128, -(-blocks_of(b) // 4) * 4
    return {**inputs, "b_scales": unswizzle_scales(scales, rows, blocks).flatten()}


def _swap_nibbles(x: Tensor) -> Tensor:
    x[-1] = x[-1] << 4 | x[-1] >> 4
    return x


def _micro(problem: Problem) -> bool:
    return problem.case.family == "microscaled"


def _nvfp4(problem: Problem) -> bool:
    return problem.kernel.microscaling == "nvfp4"


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


def _blocks(problem: Problem) -> bool:
    """Several blocks of scales along K and N."""
    case = problem.case
    return case.family == "scaled_mm" and case.scales == "block" and case.n > 128 and case.k > 128


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
        lambda p: not _micro(p),
        _changed("b_scales", _two_percent),
    ),
    Mutation(
        "shift-groups",
        "every group takes the scales of the one before",
        lambda p: _blocks(p) or (p.case.group_size != -1 and p.case.k > p.case.group_size),
        _changed("b_scales", _roll(0)),
    ),
    Mutation(
        "shift-blocks-along-n",
        "every block of columns takes the scales of the one before",
        _blocks,
        _changed("b_scales", _roll(1)),
    ),
    Mutation(
        "swap-two-blocks-of-b",
        "two neighbouring blocks of K exchanged in one block of columns",
        _blocks,
        _changed("b_scales", _swap_along_k),
    ),
    Mutation(
        "shift-blocks-of-a",
        "every block of K takes the activation scales of the one before",
        _blocks,
        _changed("a_scales", _roll(1)),
    ),
    Mutation(
        "swap-two-blocks-of-a",
        "two neighbouring blocks of K exchanged in one row's activation scales",
        _blocks,
        _changed("a_scales", _swap_in_a_row),
    ),
    Mutation(
        "a-scale-2-percent",
        "one activation scale of one row (of one block) 2 % too large",
        lambda p: not _micro(p) and p.case.m > 0 and p.inputs.get("a_scales") is not None,
        _changed("a_scales", _two_percent_of_a_row),
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
        lambda p: not _micro(p) and p.case.m > 1 and getattr(p.inputs["a_scales"], "ndim", 0) > 1,
        _changed("a_scales", _swap_rows),
    ),
    Mutation(
        "micro-swap-two-blocks",
        "two neighbouring blocks' scales exchanged in one channel",
        _micro,
        _changed_micro("b_scales", _swap_in_a_row),
    ),
    Mutation(
        "micro-swap-two-channels",
        "two neighbouring channels' scales exchanged",
        _micro,
        _changed_micro("b_scales", _swap_rows),
    ),
    Mutation(
        "micro-swap-two-tokens",
        "two neighbouring rows' scales exchanged",
        _micro,
        _changed_micro("a_scales", _swap_rows),
    ),
    Mutation(
        "micro-shift-blocks",
        "every block of one channel takes the scale of the one before",
        _micro,
        _changed_micro("b_scales", _shift_last_row),
    ),
    Mutation(
        "micro-shift-blocks-of-a",
        "every block of one row takes the scale of the one before",
        _micro,
        _changed_micro("a_scales", _shift_last_row),
    ),
    Mutation(
        "micro-shift-tiles",
        "every tile of 128 channels and 4 blocks takes the scales of the one before",
        _micro,
        # Bytes: CUDA does not roll float8.
        _changed("b_scales", lambda x: x.view(torch.uint8).roll(512).view(x.dtype)),
    ),
    Mutation("micro-not-swizzled", "the weight's scales in rows, not in tiles", _micro, _in_rows),
    Mutation(
        "micro-scale-one-step",
        "one scale of one channel one code too large",
        _micro,
        _changed_micro("b_scales", _one_step_larger),
    ),
    Mutation(
        "swap-nibbles",
        "the two codes of each byte exchanged in one channel",
        _nvfp4,
        _changed("b", _swap_nibbles),
    ),
    Mutation("alpha-2-percent", "the global scales 2 % too large", _nvfp4, _changed("alpha", _two_percent)),
    Mutation(
        "drop-bias",
        "the bias left out",
        lambda p: p.inputs["bias"] is not None,
        lambda inputs: {**inputs, "bias": None},
    ),
    Mutation("zero-tile", "one 16 x 16 tile of the output zero", lambda p: p.case.m > 0, output=_zero_tile),
    Mutation("unwritten-row", "the last row left as it was", lambda p: p.case.m > 0, output=_stale_row),
)


# Every arithmetic once: floats, integers, zero points, two kinds of scale, FP8 activations, microscaling.
PROOF_KERNELS = (
    "marlin_w8a16",
    "marlin_w4a16",
    "marlin_w4a16_zp",
    "marlin_w4a16_nvfp4",
    "marlin_w4a16_mxfp4",
    "marlin_w4a8_fp8",
    "scaled_mm_sm90",
    "mxfp8_scaled_mm_sm120",
    "nvfp4_scaled_mm_sm120",
)


def _proof_cases(entry: Kernel) -> tuple[Case, ...]:
    """Enough rows that a fault in one channel meets elements small enough to show it."""
    if entry.family == "scaled_mm":
        return (
            Case("scaled_mm", 129, 208, 272, "bf16", token=True, channel=True, bias=True),
            Case("scaled_mm", 65, 128, 1024, "fp16", token=True, channel=False, bias=True),
            Case("scaled_mm", 257, 832, 1408, "bf16", token=True, channel=True, bias=True),
            Case("scaled_mm", 257, 131, 517, "bf16", token=True, channel=True, bias=True, e5m2=True),
            Case("scaled_mm", 129, 576, 656, "bf16", bias=True, scales="block"),
            Case("scaled_mm", 83, 520, 1000, "fp16", bias=True, scales="block", e5m2=True),
        )
    if entry.family == "microscaled":
        return (
            # No padding scales: a fault must not show by their poison alone.
            Case("microscaled", 128, 256, 512, "bf16", bias=True),
            Case("microscaled", 129, 264, 992, "fp16", bias=True),
            Case("microscaled", 257, 832, 1408, "bf16", bias=True),
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
        held = sweep.held(entry, where)
        for case in _proof_cases(entry):
            if sweep.not_built(entry, case, held):
                continue
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
