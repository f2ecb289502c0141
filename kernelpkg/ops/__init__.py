"""The operators: quantise, pack, multiply; with CPU references, and fakes for torch.compile.

    from kernelpkg import ops

    q, scales = ops.quantize_u4b8(weight, group_size=128)
    packed = ops.pack_marlin_weight(q, scales, "u4b8", group_size=128)
    y = ops.marlin_gemm(x, packed)

On CUDA tensors the gate table is asked first; on CPU tensors a reference with the same semantics runs.
"""

from kernelpkg.ops.dispatch import Configuration, choose_configuration, configurations
from kernelpkg.ops.formats import FORMATS, Format, WeightFormat
from kernelpkg.ops.functional import cutlass_scaled_mm, marlin_gemm
from kernelpkg.ops.kernels import KERNELS, Kernel, kernel
from kernelpkg.ops.load import load, loaded
from kernelpkg.ops.microscaling import (
    dequantize_mxfp8_rows,
    dequantize_nvfp4_rows,
    mxfp8_scaled_mm,
    nvfp4_scaled_mm,
    quantize_mxfp8_rows,
    quantize_nvfp4_rows,
    swizzle_scales,
    unswizzle_scales,
)
from kernelpkg.ops.packed import PackedWeight, pack_marlin_weight
from kernelpkg.ops.quantize import (
    E2M1_MAX,
    E4M3_MAX,
    E5M2_MAX,
    pad_scaled_mm_weight,
    quantize_fp8_blocks,
    quantize_fp8_per_channel,
    quantize_fp8_per_group,
    quantize_fp8_per_tensor,
    quantize_fp8_per_token,
    quantize_fp8_per_token_group,
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
    "E5M2_MAX",
    "FORMATS",
    "KERNELS",
    "Configuration",
    "Format",
    "Kernel",
    "PackedWeight",
    "Support",
    "WeightFormat",
    "choose_configuration",
    "configurations",
    "cutlass_scaled_mm",
    "dequantize_mxfp8_rows",
    "dequantize_nvfp4_rows",
    "kernel",
    "load",
    "loaded",
    "marlin_gemm",
    "mxfp8_scaled_mm",
    "nvfp4_scaled_mm",
    "pack_marlin_weight",
    "pad_scaled_mm_weight",
    "quantize_fp8_blocks",
    "quantize_fp8_per_channel",
    "quantize_fp8_per_group",
    "quantize_fp8_per_tensor",
    "quantize_fp8_per_token",
    "quantize_fp8_per_token_group",
    "quantize_mxfp4",
    "quantize_mxfp8",
    "quantize_mxfp8_rows",
    "quantize_nvfp4",
    "quantize_nvfp4_rows",
    "quantize_u4",
    "quantize_u4b8",
    "quantize_u8b128",
    "supports",
    "swizzle_scales",
    "to_column_major",
    "unswizzle_scales",
    "use_tuning",
]
