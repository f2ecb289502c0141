"""Third-party figures that travel with the package, as ratios to bf16 of the same row."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from kernelpkg.bench.records import RECORDED


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
