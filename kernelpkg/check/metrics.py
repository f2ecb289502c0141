"""The two metrics of a case and their bounds, each derived from the arithmetic of the kernel.

relative_error: ||out - ref|| / ||ref|| (Frobenius), which sees errors spread over the matrix.
worst_element: the largest |out - ref| as a multiple of what that one element is allowed, bound 1, which sees
one wrong tile, one wrong column, one wrong group.

`ref` is float64, from the dequantised operands. NaN and infinities must stand where they stand in the
reference (rounded to the output's dtype); an element that is NaN or infinite where it should not be, or the
reverse, makes both metrics infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelpkg.check.cases import Case
from kernelpkg.ops.kernels import Kernel

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

# Significant bits of the output, the leading one included. Rounding to nearest errs by at most 2^-p of the
# value.
_SIGNIFICANT_BITS = {"bf16": 8, "fp16": 11}
# The smallest subnormal, halved: what rounding errs near zero. bfloat16's is below everything that occurs.
_SMALLEST_STEP = {"bf16": 2.0**-134, "fp16": 2.0**-25}
# Halfway between float16's largest value and the next that would follow: from here on rounding gives
# infinity.
_FP16_OVERFLOW = 65520.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """relative: of relative_error. unit: the output's rounding, as a part of |ref|. sums: the rounding of the
    sums in the worst element, as a part of their spread. step: the smallest step near zero."""

    relative: float
    unit: float
    sums: float
    step: float


@dataclass(frozen=True, slots=True)
class Errors:
    """The two metrics of one output."""

    relative_error: float
    worst_element: float

    def worse(self, other: Errors) -> Errors:
        """The larger of each."""
        return Errors(
            max(self.relative_error, other.relative_error), max(self.worst_element, other.worst_element)
        )


def bounds_for(entry: Kernel, case: Case, device: torch.device) -> Bounds:
    """The bounds of a case.

    Output: rounding to nearest errs by at most 2^-p |ref|. Spread evenly over half a step, the root mean
    square is at most 2^-(p-1) / sqrt(12) of the value (1.66e-3 is what one sees in bfloat16, 2.26e-3 the most
    there can be).

    Sums: the root mean square is `_sum_rounding` of the spread; the largest of `count` such errors is about
    sqrt(2 ln count) times that, and two more for tails heavier than a normal's.

    Weights: see `_rounds_weights`. Rounded as the output is, each product by its own error, they move the sum
    by that root mean square of the products' spread.

    A small output is a small sample, hence three standard deviations of a mean of `count` squares on top of
    the relative error's bound. Scales and bias are applied in float32 and add nothing that shows beside
    these. A scale that is 2 % wrong moves its elements by five bfloat16 roundings and shows in worst_element.
    """
    bits = _SIGNIFICANT_BITS[case.dtype]
    count = max(2, case.m * case.n)
    output = 2.0 ** (1 - bits) / math.sqrt(12)
    sums = _sum_rounding(entry, case, device)
    if _rounds_weights(entry, case, device):
        sums = math.hypot(sums, output)
    relative = math.hypot(output, sums) * (1 + 3 / math.sqrt(2 * count))
    largest = math.sqrt(2 * math.log(count)) + 2
    return Bounds(relative, 2.0**-bits, largest * sums, _SMALLEST_STEP[case.dtype])


def _sum_rounding(entry: Kernel, case: Case, device: torch.device) -> float:
    """Root mean square of the rounding of partial sums, as a part of their spread.

    `spread` is |product| + sqrt(sum of (a w)^2): where the partial sums end, before the bias, plus the size
    that sums of products with random signs reach on the way. A bias may cancel the product and leave a small
    element with the rounding of a large sum.

    Tensor cores truncate each sum below a unit of its largest term. The truncated sums change sign at random,
    so the errors of `steps` MMAs add up as sqrt(steps): 1.5 unit sqrt(steps), where 0.6 to 1.25 was measured
    on an H200 (K from 128 to 28672, wgmma with fast accumulation).

    CPU reference: float32 within 128 products, float64 above; all 128 roundings in one direction.
    16-bit MMA (the emulated FP8 forms too): float32 accumulators, 2^-23 for each 16 along K, and eight steps
    more for the K-split and the scaling.
    FP8 MMA: an adder of about 13 bits, for each 32 along K. Marlin takes the sum out every 128 along K, which
    is four steps whatever K is, and so does scaled_mm where scales come in blocks; without them it leaves the
    sum in for the whole of K, and so do the microscaled kernels, FP4 ones too.
    """
    if device.type == "cpu":
        return 128 * 2.0**-24
    narrow = entry.fp8_mma or entry.family == "microscaled"
    if not narrow or entry.evidence is not None:
        return 1.5 * 2.0**-23 * math.sqrt(case.k / 16 + 8)
    taken_out = entry.family == "marlin" or case.scales == "block"
    steps = 4 if taken_out else max(1, case.k / 32)
    return 1.5 * 2.0**-13 * math.sqrt(steps)


_SMALL_WEIGHT = 20_000_000  # weights; a smaller layer keeps up to 64 rows on the route with mma.sync


def _rounds_weights(entry: Kernel, case: Case, device: torch.device) -> bool:
    """Whether a kernel may round weight times scale to the activations' 16 bits.

    On the mma.sync route no product is rounded: scales multiply float32 sums. Above 64 rows (32, where the
    weight is large) a Hopper route hands whole weights to wgmma, whose sums run over several groups,
    so that the scale has to be in the operand. Per channel it need not be, and with powers of two or e4m3
    scales of e2m1 weights the product has no more bits than the operand. From 1024 rows on a library
    multiplies weights that were widened with every scale they have. The other devices are held to the same
    bounds.
    """
    if device.type == "cpu" or entry.family != "marlin" or entry.fp8_mma:
        return False
    if case.m <= 32 or (case.m <= 64 and case.n * case.k <= _SMALL_WEIGHT):
        return False
    powers_of_two = entry.weight_format == "mxfp4" or case.scales == "mx"
    if case.m >= 1024:
        return not powers_of_two
    return case.group_size != -1 and entry.weight_format != "nvfp4" and not powers_of_two


def compare(out: Tensor, ref: Tensor, spread: Tensor, bounds: Bounds, dtype: torch.dtype) -> Errors:
    """The metrics of `out` against `ref`, float64 of the same shape; spread as in `_sum_rounding`.

    A wrong shape or dtype is an infinite error.
    """
    if out.shape != ref.shape or out.dtype != dtype:
        return Errors(math.inf, math.inf)
    if ref.numel() == 0:
        return Errors(0.0, 0.0)
    allowed = bounds.unit * ref.abs() + bounds.sums * spread + bounds.step
    got = out.double()
    expect_infinite = ref.isinf()
    undecided = torch.zeros_like(expect_infinite)
    if dtype == torch.float16:
        expect_infinite = ref.abs() >= _FP16_OVERFLOW
        undecided = ref.isfinite() & ((ref.abs() - _FP16_OVERFLOW).abs() <= allowed)
    infinite = expect_infinite & (got == torch.where(ref > 0, math.inf, -math.inf))
    as_expected = torch.where(
        ref.isnan(), got.isnan(), torch.where(expect_infinite, infinite, got.isfinite())
    )
    if not bool((as_expected | undecided).all()):
        return Errors(math.inf, math.inf)
    finite = ref.isfinite() & ~expect_infinite & ~undecided & got.isfinite()
    error = torch.where(finite, (got - ref).abs(), 0.0)
    norm = float(torch.where(finite, ref, 0.0).norm())
    total = float(error.norm())
    worst = float(torch.where(finite, error / allowed, 0.0).max())
    return Errors(total / norm if norm else (math.inf if total else 0.0), worst)
