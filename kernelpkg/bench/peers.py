"""The peers by name, and third-party figures that travel with the package, as ratios to bf16 of the same row.

Imports no torch: the peers' operators are in `contenders`.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from kernelpkg.bench.records import RECORDED

# torch's own, timed at every point.
TORCH_PEERS = ("bf16", "scaled_mm_tensor", "scaled_mm_row")
# Those that multiply with blocks of scales, timed where a kernel of ours does.
BLOCK_PEERS = ("scaled_mm_block", "vllm_cutlass_block")
# kernel -> the operator of vLLM that does the same work, timed beside it where it can be loaded.
COUNTERPARTS = {
    "marlin_w8a16": "vllm_marlin_w8a16",
    "marlin_w4a16": "vllm_marlin_w4a16_g128",
    "scaled_mm_sm89": "vllm_cutlass",
    "scaled_mm_sm90": "vllm_cutlass",
    "scaled_mm_sm120": "vllm_cutlass",
}
# peer -> the kernel of ours whose work it does; bf16 has none.
PEER_WORK = {
    "scaled_mm_tensor": "scaled_mm",
    "scaled_mm_row": "scaled_mm",
    "scaled_mm_block": "scaled_mm",
    "vllm_cutlass": "scaled_mm",
    "vllm_cutlass_block": "scaled_mm",
    "vllm_marlin_w8a16": "marlin_w8a16",
    "vllm_marlin_w4a16_g128": "marlin_w4a16",
}
# The peer of torch that multiplies with the very scales of a scaled_mm variant.
SAME_SCALES = {"token_channel": "scaled_mm_row", "tensor": "scaled_mm_tensor", "block": "scaled_mm_block"}


@cache
def peer_table(name: str = "h200") -> dict[str, Any]:
    """The peers measured on an NVIDIA H200: label, method, columns, and rows of shape, m, n, k,
    ratio_to_bf16.

    A ratio is a time over torch.mm's bf16 time of the same row: compare it with the same ratio of your own
    run.
    """
    return json.loads((RECORDED / f"peers_{name}.json").read_text(encoding="utf-8"))


def peer_ratios(k: int, n: int, m: int, name: str = "h200") -> dict[str, float]:
    """column -> ratio to bf16 of one row; empty where the table has no such row."""
    for row in peer_table(name)["rows"]:
        if (row["k"], row["n"], row["m"]) == (k, n, m):
            return dict(row["ratio_to_bf16"])
    return {}
