"""The operators: quantise, pack, multiply; with CPU references, and fakes for torch.compile.

    from kernelpkg import ops

    q, scales = ops.quantize_u4b8(weight, group_size=128)
    packed = ops.pack_marlin_weight(q, scales, "u4b8", group_size=128)
    y = ops.marlin_gemm(x, packed)

On CUDA tensors the gate table is asked first; on CPU tensors a reference with the same semantics runs.
"""

from kernelpkg.ops.formats import FORMATS, Format, WeightFormat
from kernelpkg.ops.functional import cutlass_scaled_mm, marlin_gemm
from kernelpkg.ops.kernels import KERNELS, Kernel, kernel
from kernelpkg.ops.load import load, loaded
from kernelpkg.ops.packed import PackedWeight, pack_marlin_weight
from kernelpkg.ops.quantize import (
    E2M1_MAX,
    E4M3_MAX,
    quantize_fp8_blocks,
    quantize_fp8_per_channel,
    quantize_fp8_per_group,
    quantize_fp8_per_tensor,
    quantize_fp8_per_token,
    quantize_mxfp4,
    quantize_mxfp8,
    quantize_nvfp4,
    quantize_u4,
    quantize_u4b8,
    quantize_u8b128,
    to_column_major,
)
from kernelpkg.ops.support import Support, supports
from kernelpkg.ops.tuning import use_tuning

__all__ = [
    "E2M1_MAX",
    "E4M3_MAX",
    "FORMATS",
    "KERNELS",
    "Format",
    "Kernel",
    "PackedWeight",
    "Support",
    "WeightFormat",
    "cutlass_scaled_mm",
    "kernel",
    "load",
    "loaded",
    "marlin_gemm",
    "pack_marlin_weight",
    "quantize_fp8_blocks",
    "quantize_fp8_per_channel",
    "quantize_fp8_per_group",
    "quantize_fp8_per_tensor",
    "quantize_fp8_per_token",
    "quantize_mxfp4",
    "quantize_mxfp8",
    "quantize_nvfp4",
    "quantize_u4",
    "quantize_u4b8",
    "quantize_u8b128",
    "supports",
    "to_column_major",
    "use_tuning",
]
