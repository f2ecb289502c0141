"""Rearranging packed integers. Words are little endian: byte b of a word holds its bits 8 b .. 8 b + 7."""

from __future__ import annotations

import torch
from torch import Tensor


def word_nibbles(words: Tensor, columns: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)) -> Tensor:
    """int32 [R, W] -> uint8 [R, 8 W]: nibble j of a word goes to column columns[j] of its eight."""
    packed = words.contiguous().view(torch.uint8).reshape(words.shape[0], words.shape[1], 4)
    nibbles = torch.empty(*words.shape, 8, dtype=torch.uint8, device=words.device)
    for j, column in enumerate(columns):
        nibbles[:, :, column] = (packed[:, :, j // 2] >> (4 * (j % 2))) & 0xF
    return nibbles.reshape(words.shape[0], -1)


def word_bytes_to_rows(words: Tensor) -> Tensor:
    """int32 [R, N] -> uint8 [4 R, N]: byte b of word (r, n) becomes row 4 r + b."""
    rows, columns = words.shape
    packed = words.contiguous().view(torch.uint8).reshape(rows, columns, 4)
    return packed.transpose(1, 2).reshape(4 * rows, columns).contiguous()


def byte_pairs_to_words(packed: Tensor) -> Tensor:
    """uint8 [N, K/2], two nibbles a byte and the low one first -> int32 [K/8, N]. K must be a multiple of
    8."""
    return packed.contiguous().view(torch.int32).t().contiguous()


def transpose_bytes(matrix: Tensor) -> Tensor:
    """[N, K] of one-byte items -> [K, N], contiguous, same dtype (copied as bytes, which every device
    can)."""
    return matrix.view(torch.uint8).t().contiguous().view(matrix.dtype)
