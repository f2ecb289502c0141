"""A checkpoint's layers as rows for the command line."""

from __future__ import annotations

from typing import Any

from kernelpkg.checkpoint.read import CheckpointPath, inspect_checkpoint

COLUMNS = ("layer", "format", "K", "N", "experts", "problem")


def layer_rows(path: CheckpointPath, format: str | None = None) -> list[dict[str, Any]]:
    """One row of COLUMNS for each quantised layer; `problem` is None where the layer can be read.

    Raises what inspect_checkpoint raises.
    """
    return [
        {
            "layer": layer.prefix,
            "format": layer.format,
            "K": layer.size_k,
            "N": layer.size_n,
            "experts": layer.experts,
            "problem": layer.problem,
        }
        for layer in inspect_checkpoint(path, format)
    ]
