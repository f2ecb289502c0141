"""What is timed at a point: our kernels, torch's matmuls and vLLM's operators over the same operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelpkg import ops
from kernelpkg.arch import Capability
from kernelpkg.bench import vllm_ops
from kernelpkg.bench.operands import CHECKED_ROWS, COLUMNS, Expected, Inputs, Layer, rows_of, widen
from kernelpkg.bench.peers import BLOCK_PEERS, COUNTERPARTS, PEER_WORK, TORCH_PEERS
from kernelpkg.bench.shapes import (
    BLOCK,
    STANDS_FOR,
    Point,
    activation_bits,
    group_size,
    weight_bits,
    weight_format,
    work,
)
from kernelpkg.bench.timing import operand_sets
from kernelpkg.ops import reference


@dataclass(frozen=True, slots=True)
class Contender:
    """What is timed at a point: a kernel of ours in one variant, or a peer (kernel None).

    launches: one call per operand set. expected: what the output over a set should hold.
    """

    name: str
    kernel: str | None
    variant: str
    launches: tuple[Callable[[], Tensor], ...]
    expected: Callable[[int], Expected]


@dataclass(frozen=True, slots=True)
class Setting:
    """A point with its operands."""

    point: Point
    layer: Layer
    inputs: Inputs
    l2_bytes: int | None

    def sets(self, kernel: str, variant: str) -> int:
        """How many operand sets a kernel needs for cold weights."""
        shape, m = self.point.shape, self.point.m
        stream = work(kernel, variant, m, shape.n, shape.k).stream_bytes
        return operand_sets(stream + m * shape.k * activation_bits(kernel) // 8, self.l2_bytes)


def contenders(
    point: Point, layer: Layer, l2_bytes: int | None, peers: Sequence[str]
) -> dict[str, Callable[[], Contender]]:
    """Everything timed at `point`, ours first: name -> its making, which may fail where it is refused.

    Peers share activations and scales with ours; vLLM's are timed beside their counterparts.
    """
    setting = Setting(point, layer, Inputs(layer, point.m), l2_bytes)
    found: dict[str, Callable[[], Contender]] = {}
    for kernel, variant in point.kernels:
        build = _marlin if kernel.startswith("marlin") else scaled_mm
        found[f"{kernel}/{variant}"] = lambda k=kernel, v=variant, build=build: build(k, v, setting)
    for name in peers_at(point, peers):
        found[name] = lambda name=name: _PEERS[name](setting)
    return found


def peers_at(point: Point, peers: Sequence[str]) -> tuple[str, ...]:
    """The peers, of those that there are, that are timed at `point`."""
    wanted = {*TORCH_PEERS}
    for kernel, variant in point.kernels:
        wanted |= {*BLOCK_PEERS} if variant == BLOCK else {COUNTERPARTS.get(kernel, "")}
    return tuple(name for name in peers if name in wanted)


def _marlin(kernel: str, variant: str, at: Setting) -> Contender:
    kind = f"{weight_format(kernel)}/{variant}"
    fp8 = activation_bits(kernel) == 8
    emulated = kernel in STANDS_FOR
    count = at.sets(kernel, variant)
    packed = at.layer.sets(kind, count)

    def launch(index: int) -> Callable[[], Tensor]:
        a, scales = at.inputs.quantised(index, "token") if fp8 else (at.inputs.values(index), None)
        weight = packed[index]
        return lambda: ops.marlin_gemm(a, weight, scales, allow_emulation=emulated)

    launches = tuple(launch(index) for index in range(count))
    return Contender(
        f"{kernel}/{variant}",
        kernel,
        variant,
        launches,
        lambda index: _marlin_product(at, kind, fp8, index),
    )


def _marlin_product(at: Setting, kind: str, fp8: bool, index: int) -> Expected:
    made = at.layer.quantised(kind)
    form, variant = kind.split("/")

    def activations(rows: Tensor) -> Tensor:
        if not fp8:
            return rows_of(at.inputs.values(index), rows)
        a, a_scales = at.inputs.quantised(index, "token")
        return rows_of(a, rows) * a_scales[rows].double()

    def weight(columns: slice) -> Tensor:
        return reference.dequantize(
            made.weight[:, columns],
            made.scales[:, columns],
            form,
            group_size(variant),
            zeros=None if made.zeros is None else made.zeros[:, columns],
            global_scale=made.global_scale,
            size_k=at.point.shape.k,
        )

    return at.inputs.expected(f"{kind}/{'fp8' if fp8 else '16bit'}", index, activations, weight)


def scaled_mm(kernel: str, variant: str, at: Setting, configuration: int | None = None) -> Contender:
    """Ours with FP8 activations; `configuration`: a place in the route's table, None for its own choice."""
    forced = {} if configuration is None else {"configuration": configuration}
    if kernel in STANDS_FOR:
        operator = getattr(torch.ops.kernelpkg_evidence, kernel)

        def call(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor) -> Tensor:
            return operator(a, b, scale_a, scale_b, None, torch.bfloat16, **forced)
    else:

        def call(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor) -> Tensor:
            return ops.cutlass_scaled_mm(a, b, scale_a, scale_b, torch.bfloat16, **forced)

    return fp8(f"{kernel}/{variant}", kernel, variant, at, call)


def fp8(
    name: str,
    kernel: str | None,
    variant: str,
    at: Setting,
    call: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    prepare: Callable[[Tensor], Tensor] = lambda weight: weight,
) -> Contender:
    """FP8 x FP8 by `call`(a, b, scale_a, scale_b). prepare: what is done to a weight once, before."""
    kind = f"fp8/{'channel' if variant == 'token_channel' else variant}"
    count = at.sets("scaled_mm", variant)
    weights, scale_b = at.layer.sets(kind, count), at.layer.quantised(kind).scales
    prepared = [prepare(weight) for weight in weights]

    def launch(index: int) -> Callable[[], Tensor]:
        (a, scale_a), b = at.inputs.quantised(index, variant), prepared[index]
        return lambda: call(a, b, scale_a, scale_b)

    def expected(index: int) -> Expected:
        a, scale_a = at.inputs.quantised(index, variant)
        return at.inputs.expected(
            f"fp8/{variant}",
            index,
            lambda rows: rows_of(a, rows) * _row_scales(scale_a, variant, rows, a.shape[1]),
            lambda columns: (
                weights[0][:, columns].double() * _column_scales(scale_b, variant, columns, weights[0].shape)
            ),
        )

    return Contender(name, kernel, variant, tuple(launch(index) for index in range(count)), expected)


def _row_scales(scales: Tensor, variant: str, rows: Tensor, k: int) -> Tensor:
    """float64 scales of some rows of the activations, to be multiplied with them."""
    if variant == BLOCK:
        return widen(scales[rows], 1, 0, k)
    return (scales if variant == "tensor" else scales[rows]).double()


def _column_scales(scales: Tensor, variant: str, columns: slice, shape: Sequence[int]) -> Tensor:
    """float64 scales of some columns of the weight [K, N], to be multiplied with them."""
    if variant == BLOCK:
        k, n = shape
        count = min(columns.stop, n) - columns.start
        return widen(widen(scales, 0, 0, k), 1, columns.start, count)
    return (scales if variant == "tensor" else scales[:, columns]).double()


# ---------------------------------------------------------------------------------------------- peers


def _bf16(at: Setting) -> Contender:
    """torch.mm."""
    shape, m = at.point.shape, at.point.m
    count = operand_sets(2 * shape.n * shape.k + 2 * m * shape.k, at.l2_bytes)
    weights = at.layer.sets("bf16", count)
    pairs = [(at.inputs.values(index), b) for index, b in enumerate(weights)]
    launches = tuple(lambda a=a, b=b: torch.mm(a, b) for a, b in pairs)

    def expected(index: int) -> Expected:
        a = at.inputs.values(index)
        return at.inputs.expected(
            "bf16", index, lambda rows: rows_of(a, rows), lambda columns: weights[0][:, columns].double()
        )

    return Contender("bf16", None, "", launches, expected)


def _torch_scaled_mm(name: str, variant: str) -> Callable[[Setting], Contender]:
    """torch._scaled_mm with fast accumulation, the fastest that torch offers; with blocks of scales sums are
    taken out every 128 along K anyway.
    """
    fast = variant != BLOCK

    def call(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor) -> Tensor:
        return torch._scaled_mm(
            a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16, use_fast_accum=fast
        )

    return lambda at: fp8(name, None, variant, at, call)


def _vllm_cutlass(name: str, variant: str) -> Callable[[Setting], Contender]:
    return lambda at: fp8(name, None, variant, at, vllm_ops.scaled_mm)


def _vllm_marlin(name: str, kind: str) -> Callable[[Setting], Contender]:
    variant = kind.partition("/")[2]

    def build(at: Setting) -> Contender:
        weights = at.layer.sets(f"vllm/{kind}", at.sets(PEER_WORK[name], variant))
        locks = vllm_ops.workspace(at.layer.device)

        def launch(index: int) -> Callable[[], Tensor]:
            a, weight = at.inputs.values(index), weights[index]
            return lambda: vllm_ops.marlin_gemm(a, weight, locks)

        launches = tuple(map(launch, range(len(weights))))
        return Contender(name, None, variant, launches, lambda index: _marlin_product(at, kind, False, index))

    return build


_PEERS: dict[str, Callable[[Setting], Contender]] = {
    "bf16": _bf16,
    "scaled_mm_tensor": _torch_scaled_mm("scaled_mm_tensor", "tensor"),
    "scaled_mm_row": _torch_scaled_mm("scaled_mm_row", "token_channel"),
    "scaled_mm_block": _torch_scaled_mm("scaled_mm_block", BLOCK),
    "vllm_cutlass": _vllm_cutlass("vllm_cutlass", "token_channel"),
    "vllm_cutlass_block": _vllm_cutlass("vllm_cutlass_block", BLOCK),
    "vllm_marlin_w8a16": _vllm_marlin("vllm_marlin_w8a16", "e4m3/channel"),
    "vllm_marlin_w4a16_g128": _vllm_marlin("vllm_marlin_w4a16_g128", "u4b8/g128"),
}


def available(capability: Capability, vllm: Sequence[str] = ()) -> tuple[str, ...]:
    """The peers on `capability`: torch's, which multiplies e4m3 from 8.9 on, and vLLM's as loaded.

    Which torch takes blocks of scales where is not foretold: it is asked, and its refusal is a reason.
    """
    if (capability.major, capability.minor) < (8, 9):
        return (*TORCH_PEERS[:1], *vllm)
    return (*TORCH_PEERS, BLOCK_PEERS[0], *vllm)


def bytes_needed(point: Point, l2_bytes: int | None, peers: Sequence[str]) -> int:
    """A bound on the device memory a point takes, in bytes: operand sets, outputs, and the making of both."""
    n, k, m = point.shape.n, point.shape.k, point.m
    # The bf16 weight and its making, a quantiser at work, the references.
    total = 6 * n * k + 48 * k * min(n, COLUMNS) + 8 * CHECKED_ROWS * (n + k)
    kinds = [(weight_bits(kernel), activation_bits(kernel)) for kernel, _ in point.kernels]
    like = [PEER_WORK.get(peer) for peer in peers_at(point, peers)]
    kinds += [(weight_bits(kernel), activation_bits(kernel)) if kernel else (16, 16) for kernel in like]
    for weight, activation in kinds:
        each = n * k * weight // 8 + m * k * activation // 8
        # The sets, the unpacked form they were made from, and the outputs a graph keeps and reuses.
        total += operand_sets(each, l2_bytes) * each + n * k * weight // 8 + 4 * m * n * 2
        total += 4 * 8 * min(m, CHECKED_ROWS) * n  # two references and two spreads
    return total + 256 * 2**20
