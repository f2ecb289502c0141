"""Layers out of quantised checkpoints (safetensors), checked and packed for marlin_gemm.

    from kernelpkg import checkpoint, ops

    for layer in checkpoint.inspect_checkpoint("Llama-3.1-8B-AWQ"):
        print(layer.prefix, layer.format, layer.size_k, layer.size_n)
    weight, bias = checkpoint.load_layer("Llama-3.1-8B-AWQ", "model.layers.0.mlp.down_proj", device="cuda")
    y = ops.marlin_gemm(x, weight, bias=bias)

The formats are those of GPTQ, AWQ, compressed-tensors, FP8 with scales of any granularity, ModelOpt NVFP4,
MXFP4 and MXFP8. A tensor that is missing, damaged or of another form is refused by its name.
"""

from kernelpkg.checkpoint.files import Checkpoint, TensorEntry
from kernelpkg.checkpoint.layer import LayerWeight
from kernelpkg.checkpoint.read import FORMATS, LayerInfo, inspect_checkpoint, load_layer, read_layer
from kernelpkg.checkpoint.view import layer_rows

__all__ = [
    "FORMATS",
    "Checkpoint",
    "LayerInfo",
    "LayerWeight",
    "TensorEntry",
    "inspect_checkpoint",
    "layer_rows",
    "load_layer",
    "read_layer",
]
