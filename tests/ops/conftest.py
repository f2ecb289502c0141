"""Shared by the operators' tests: quantised weights of every format."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kernelpkg import ops
from kernelpkg.ops import reference

Made = tuple[ops.PackedWeight, torch.Tensor]


@pytest.fixture(scope="session")
def packed(library) -> Callable[..., Made]:
    """make(form, group_size, dtype, k, n, seed, scales): (packed weight, float64 weight it stands for)."""

    def make(
        form: str,
        group_size: int | None = None,
        dtype: torch.dtype = torch.bfloat16,
        k: int = 256,
        n: int = 128,
        seed: int = 7,
        scales: str = "plain",
    ) -> Made:
        w = torch.randn(k, n, generator=torch.Generator().manual_seed(seed))
        group = group_size or ops.FORMATS[form].group
        given: dict = {"dtype": dtype}
        meant: dict = {}
        if scales == "block":
            q, s = ops.quantize_fp8_blocks(w)
            meant["blocks"] = True
        elif scales == "mx":
            q, s = ops.quantize_mxfp8(w)
        elif form == "u4":
            q, s, meant["zeros"] = ops.quantize_u4(w, group, dtype)
        elif form == "nvfp4":
            q, s, meant["global_scale"] = ops.quantize_nvfp4(w)
        elif form == "mxfp4":
            q, s = ops.quantize_mxfp4(w)
        else:
            quantize = {
                "u4b8": ops.quantize_u4b8,
                "u8b128": ops.quantize_u8b128,
                "e4m3": ops.quantize_fp8_per_group,
            }
            q, s = quantize[form](w, group, dtype)
        weight = ops.pack_marlin_weight(q, s, form, group, size_k=k, **given, **meant)
        return weight, reference.dequantize(q, s, form, group, size_k=k, **meant)

    return make
