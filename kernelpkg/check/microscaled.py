"""Operands of the microscaled GEMMs: codes, swizzled scales amid poisoned padding, what they stand for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernelpkg.check.cases import Case
from kernelpkg.check.patterns import amid_nan, structured_powers, structured_scales
from kernelpkg.ops.kernels import Microscaling
from kernelpkg.ops.microscaling import (
    MXFP8_BLOCK,
    NVFP4_BLOCK,
    dequantize_mxfp8_rows,
    dequantize_nvfp4_rows,
    swizzle_scales,
    unswizzle_scales,
)

# NVFP4: scales times the first use more of e4m3's range; alpha brings those of both operands back, but for a
# tenth, so that leaving it out shows.
_RANGE = 32.0
ALPHA = 1.1 / _RANGE**2
# Scales of rows, and of blocks of K, that do not exist. No result has the former; the latter multiply zeros,
# and may be anything but NaN.
_PADDING = {"mxfp8": (0xFF, 0xFE), "nvfp4": (0x7F, 0x7E)}
_BIAS_OF_E8M0 = 127


@dataclass(slots=True)
class Operand:
    """A matrix [rows, K]. codes: e4m3 [rows, K] or uint8 [rows, K/2]. plain: its scales [rows, blocks]."""

    form: Microscaling
    codes: Tensor
    plain: Tensor

    @property
    def meaning(self) -> Tensor:
        """float64 [rows, K], without alpha."""
        dequantize = dequantize_mxfp8_rows if self.form == "mxfp8" else dequantize_nvfp4_rows
        return dequantize(self.codes, self.plain)

    @property
    def scales(self) -> Tensor:
        """As the operators take them, the padding poisoned."""
        rows, blocks = self.plain.shape
        of_rows, of_blocks = _PADDING[self.form]
        tall, wide = -(-rows // 128) * 128, -(-blocks // 4) * 4
        full = unswizzle_scales(swizzle_scales(self.plain).view(torch.uint8), tall, wide)
        full[:, blocks:] = of_blocks
        full[rows:] = of_rows
        return swizzle_scales(full).view(self.plain.dtype)

    def scaled_up(self, factor: float) -> Operand:
        """The same with its scales times the power of two nearest to `factor`; of MXFP8 alone."""
        exponent = round(torch.tensor(factor).log2().item())
        return Operand(self.form, self.codes, (self.plain.int() + exponent).clamp(0, 254).to(torch.uint8))


def make_operand(
    form: Microscaling, rows: int, case: Case, generator: torch.Generator, device: torch.device, is_a: bool
) -> Operand:
    """Random codes, structured scales; of kind 'nan' with NaN scales and, where e4m3 has it, a NaN code; of
    kind 'strided' amid other bytes, in place where N is even and starting anywhere where it is odd."""
    if form == "mxfp8":
        values = 2.0 * torch.randn(rows, case.k, device=device, generator=generator)
        if case.kind == "nan" and is_a:
            values[1 % rows, 5] = torch.nan
        codes = values.to(torch.float8_e4m3fn)
        powers = structured_powers(rows, case.k // MXFP8_BLOCK, device)
        plain = (powers + _BIAS_OF_E8M0).to(torch.uint8)
    else:
        shape = (rows, case.k // 2)
        codes = torch.randint(0, 256, shape, device=device, generator=generator, dtype=torch.uint8)
        plain = (_RANGE * structured_scales(rows, case.k // NVFP4_BLOCK, device)).to(torch.float8_e4m3fn)
    if case.kind == "nan":
        plain.view(torch.uint8)[7 % rows, -1] = _PADDING[form][0]
    if case.kind == "strided":
        codes = amid_nan(codes, 13 if case.n % 2 else 16)
    return Operand(form, codes, plain)


def blocks_of(codes: Tensor) -> int:
    """Scales of a row of codes."""
    return codes.shape[1] // 8 if codes.dtype == torch.uint8 else codes.shape[1] // MXFP8_BLOCK
