"""One layer's tensors, checked as they are asked for, and the canonical form that the readers return."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernelpkg.checkpoint.config import QuantConfig
from kernelpkg.checkpoint.files import Checkpoint, TensorEntry, dtype_name
from kernelpkg.errors import UsageError
from kernelpkg.ops.formats import FORMATS, WeightFormat

FLOATS = ("F16", "BF16", "F32")
E8M0 = ("U8", "F8_E8M0")


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeight:
    """A layer as pack_marlin_weight takes it: y = x [M, K] @ weight [K, N] + bias.

    format: the weight format of `kernelpkg.ops`. qweight: 4-bit formats int32 [ceil(K/8), N], nibble j of
    word r is row 8 r + j; u8b128 uint8 [K, N]; e4m3 float8_e4m3fn [K, N].
    scales: floats [groups, N] as stored; nvfp4 float8_e4m3fn [K/16, N]; mxfp4 and MXFP8 (e4m3, group_size 32)
    uint8 e8m0 [K/32, N]; with `blocks` floats [ceil(K/128), ceil(N/128)].
    zeros: u4 only, uint8 [groups, N], 0 .. 15. global_scale: nvfp4 only, a factor; 1.0 otherwise.
    group_size: rows of K per scale, -1 for one scale per column. bias: [N] as stored, or None.
    """

    qweight: Tensor
    scales: Tensor
    format: WeightFormat
    group_size: int
    size_k: int
    size_n: int
    zeros: Tensor | None = None
    global_scale: float = 1.0
    bias: Tensor | None = None
    blocks: bool = False


@dataclass(frozen=True, slots=True)
class LayerTensors:
    """The tensors whose names start with `prefix`, read on `device`.

    expert: which slice of tensors that stack experts; None for a layer of its own.
    """

    checkpoint: Checkpoint
    prefix: str
    config: QuantConfig
    device: torch.device | str = "cpu"
    expert: int | None = None

    def find(self, suffix: str) -> TensorEntry | None:
        """The tensor of that name, or None."""
        return self.checkpoint.entries.get(self.prefix + suffix)

    def need(self, suffix: str, dtypes: tuple[str, ...], dims: tuple[int, ...]) -> TensorEntry:
        """The tensor of that name; UsageError where it is missing, of another dtype or number of
        dimensions."""
        entry = self.find(suffix)
        if entry is None:
            raise UsageError(
                f"tensor {self.prefix + suffix!r} is missing; a layer in the format {self.config.format!r} "
                "has one, fetch the whole checkpoint or name another format="
            )
        names = " or ".join(dtype_name(dtype) for dtype in dtypes)
        if entry.dtype not in dtypes:
            raise UsageError(
                f"{entry} is {entry.what}; in the format {self.config.format!r} it must be {names}, fetch "
                "the file again or name another format="
            )
        if len(entry.shape) not in dims or 0 in entry.shape:
            wanted = " or ".join(str(d) for d in dims)
            raise UsageError(
                f"{entry} is {entry.what}; in the format {self.config.format!r} it must have {wanted} "
                "dimensions, none of them empty"
            )
        return entry

    def read(self, entry: TensorEntry) -> Tensor:
        """The tensor itself; of a stack, the expert's slice."""
        return self.checkpoint.read(entry.name, self.device, self.expert)

    def read_scales(self, entry: TensorEntry) -> Tensor:
        """A scale tensor without NaN and infinities; e8m0 comes as uint8."""
        scales = self.read(entry)
        if entry.dtype in E8M0:
            exponents = scales.view(torch.uint8)
            bad = int((exponents == 255).sum())
            scales = exponents
        else:
            bad = int((~scales.float().isfinite()).sum())
        if bad:
            raise UsageError(
                f"{entry} holds {bad} NaN or infinite of {scales.numel()} scales; the checkpoint is damaged, "
                "fetch it again or quantise the model again"
            )
        return scales

    def read_bias(self, suffix: str, size_n: int) -> Tensor | None:
        """The bias [N], or None where the layer has none. Raises UsageError for another dtype or shape."""
        entry = self.find(suffix)
        if entry is None:
            return None
        if entry.dtype not in FLOATS or self.slice_shape(entry) != (size_n,):
            raise UsageError(
                f"{entry} is {entry.what}; the bias of this layer must be float16, bfloat16 or float32 "
                f"[{size_n}], fetch the file again"
            )
        return self.read(entry)

    def slice_shape(self, entry: TensorEntry) -> tuple[int, ...]:
        """The shape of what `read` returns."""
        return entry.shape if self.expert is None else entry.shape[1:]


def expect_shape(entry: TensorEntry, shape: tuple[int, ...], beside: TensorEntry) -> None:
    """UsageError unless the tensor has that shape, which follows from the one `beside` it."""
    if entry.shape != shape:
        raise UsageError(
            f"{entry} is {list(entry.shape)} and {beside.name!r} {list(beside.shape)}; it must be "
            f"{list(shape)}, fetch the file again or name another format="
        )


def group_size_of(
    entry: TensorEntry, groups: int, size_k: int, stated: int | None, format: WeightFormat = "u4b8"
) -> int:
    """Rows of K per scale, -1 where there is one group: as the configuration states it, else as K divides.

    entry: the scales, for the message. format: whose group sizes are allowed; every integer format has those
    of u4b8. Raises UsageError where groups, K and the stated size disagree or the kernel does not take the
    size.
    """
    if stated is None:
        if groups == 1:
            return -1
        size, remainder = divmod(size_k, groups)
        if remainder:
            raise UsageError(
                f"{entry} is {list(entry.shape)}: {groups} groups do not divide K {size_k}; state group_size "
                "in config.json, or fetch the file again"
            )
    else:
        size = size_k if stated == -1 else stated
        if size <= 0 or groups != -(-size_k // size):
            raise UsageError(
                f"{entry} is {list(entry.shape)}, {groups} groups over K {size_k}; the configuration says "
                f"group_size {stated}, fetch both again"
            )
        if groups == 1:
            return -1
    allowed = [g for g in FORMATS[format].groups if g != -1]
    if size not in allowed:
        raise UsageError(
            f"{entry} is {list(entry.shape)}, groups of {size}; the kernel takes groups of "
            f"{', '.join(str(g) for g in allowed)} or all of K, quantise the model again with one of them"
        )
    return size
