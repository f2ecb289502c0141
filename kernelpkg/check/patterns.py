"""Contents that let a misplaced value show: scales unlike their neighbours, matrices amid NaN."""

from __future__ import annotations

import torch
from torch import Tensor


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


def signed_scales(rows: int, columns: int, device: torch.device) -> Tensor:
    """The same, some of them negative: a sign is lost as easily as a value."""
    row = torch.arange(rows, device=device)[:, None]
    column = torch.arange(columns, device=device)[None, :]
    return structured_scales(rows, columns, device) * (1 - 2 * ((row + column) % 3 == 1).float())


def structured_powers(rows: int, columns: int, device: torch.device) -> Tensor:
    """Whole numbers [rows, columns] from -3 to 3 for exponents: those 1 to 4 columns, or 1, 32, 64, 96 or 128
    rows apart differ, which is how far a wrong order of swizzled scales moves them."""
    row = torch.arange(rows, device=device)[:, None]
    column = torch.arange(columns, device=device)[None, :]
    return (3 * column + row) % 7 - 3


def structured_zeros(rows: int, columns: int, device: torch.device) -> Tensor:
    """uint8 [rows, columns] from 0 to 15, different wherever tiles or shuffles could exchange two."""
    row = torch.arange(rows, device=device)[:, None]
    column = torch.arange(columns, device=device)[None, :]
    return ((7 * column + 4 * row) % 15 + column % 2).to(torch.uint8)


def amid_nan(x: Tensor, offset: int | None = None) -> Tensor:
    """The same matrix in the middle of a larger one of NaN (bytes: of 0xff): a read past a row, or of a row
    that does not exist, shows.

    offset: the column where it starts; None: anywhere if 16 does not divide its columns, else at 16.
    """
    rows, columns = x.shape
    if offset is None:
        offset = 13 if columns % 16 else 16
    fill = 0xFF if x.dtype == torch.uint8 else torch.nan
    kind = torch.uint8 if x.dtype == torch.uint8 else torch.float32
    surroundings = torch.full((rows + 16, 2 * columns + 16), fill, dtype=kind, device=x.device).to(x.dtype)
    surroundings[8 : 8 + rows, offset : offset + columns] = x
    return surroundings[8 : 8 + rows, offset : offset + columns]
