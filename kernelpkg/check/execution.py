"""Ways to run a case: once, replayed from a CUDA graph, on several streams at once; always over poisoned
memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from kernelpkg.check.cases import Case
from kernelpkg.check.metrics import Bounds, Errors, compare
from kernelpkg.check.operands import Problem, make_problem
from kernelpkg.ops import reference
from kernelpkg.ops.formats import FORMATS, Format, groups_of, scales_shape
from kernelpkg.ops.kernels import Kernel

_STREAMS = 4
_ROUNDS = 3
# Rows of K that a repacked weight is read back in: a product with the identity, whose cost grows as K for
# each.
_ROUND_TRIP_ROWS = 64


@contextmanager
def poisoned() -> Iterator[None]:
    """Within it, torch fills every new tensor with NaN (0xff bytes where integer): outputs and work spaces
    too.

    An element that a kernel leaves unwritten, or memory it reads before writing, then shows.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


def run_case(entry: Kernel, case: Case, device: torch.device, seed: int, bounds: Bounds) -> Errors:
    """Makes the operands, runs the case as its kind says, and compares. The worst of each metric over all
    outputs."""
    if case.kind == "graph":
        pairs = _graph(entry, case, device, seed)
    elif case.kind == "streams":
        pairs = _streams(entry, case, device, seed)
    else:
        problem = make_problem(entry, case, device, seed)
        with poisoned():
            pairs = [(problem.run(), problem)]
    errors = Errors(0.0, 0.0)
    for out, problem in pairs:
        errors = errors.worse(compare(out, problem.ref, problem.spread, bounds, problem.dtype))
    return errors


def _graph(entry: Kernel, case: Case, device: torch.device, seed: int) -> list[tuple[Tensor, Problem]]:
    """One capture, replayed on two sets of operands in turn."""
    problems = [make_problem(entry, case, device, seed + turn) for turn in range(2)]
    held = {name: None if x is None else x.clone() for name, x in problems[0].inputs.items()}
    with torch.cuda.device(device), poisoned():
        problems[0].call(held)  # loads the code: that cannot be captured
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = problems[0].call(held)
        pairs = []
        for turn in (1, 0, 1):
            for name, x in problems[turn].inputs.items():
                target = held[name]
                if x is not None and target is not None:
                    target.copy_(x)
            out.fill_(torch.nan)
            graph.replay()
            pairs.append((out.clone(), problems[turn]))
        torch.cuda.synchronize(device)
    return pairs


def _streams(entry: Kernel, case: Case, device: torch.device, seed: int) -> list[tuple[Tensor, Problem]]:
    """Several streams with different operands, calls interleaved, nothing waited for in between."""
    problems = [make_problem(entry, case, device, seed + turn) for turn in range(_STREAMS)]
    streams = [torch.cuda.Stream(device) for _ in problems]
    torch.cuda.synchronize(device)
    pairs = []
    with poisoned():
        for _ in range(_ROUNDS):
            for stream, problem in zip(streams, problems, strict=True):
                with torch.cuda.stream(stream):
                    pairs.append((problem.run(), problem))
    torch.cuda.synchronize(device)
    return pairs


def repack_differences(case: Case, device: torch.device, seed: int) -> int:
    """Words in which the packing on `device` differs from the CPU's, and values that do not survive a round
    trip.

    The trip: the packed weight times the identity gives the weight back, exactly, since every weight is a
    bfloat16 number. All formats, every code (e4m3's two NaN excepted).
    """
    differences = 0
    generator = torch.Generator().manual_seed(seed)
    for entry in FORMATS.values():
        weight = _codes(entry, case, generator)
        repack = torch.ops.kernelpkg.marlin_repack
        on_cpu = repack(weight, entry.code, case.k, case.n)
        with poisoned():
            packed = repack(weight.to(device), entry.code, case.k, case.n)
        differences += int((packed.cpu() != on_cpu).sum())
        rows = torch.randperm(case.k, generator=generator)[:_ROUND_TRIP_ROWS]
        values = _values(entry, case, weight)[rows]
        differences += int((_rows_of(on_cpu, rows, entry, case) != values).sum())
    return differences


def _codes(entry: Format, case: Case, generator: torch.Generator) -> Tensor:
    """A weight of random codes, as marlin_repack takes it."""
    if entry.bits == 4:
        shape = (-(-case.k // 8), case.n)
        words = torch.randint(-(2**31), 2**31 - 1, shape, generator=generator, dtype=torch.int64)
        return words.to(torch.int32)
    codes = torch.randint(0, 254, (case.k, case.n), generator=generator)
    if entry.name == "e4m3":
        codes += codes >= 0x7F  # skips 0x7f; 0xff is not reached
    return codes.to(torch.uint8)


def _values(entry: Format, case: Case, weight: Tensor) -> Tensor:
    """What the codes stand for with scales of 1 and zero points of 0, float32 [K, N]."""
    scales = torch.ones(groups_of(case.k, entry.group), case.n)
    if entry.name in ("nvfp4", "mxfp4"):
        scales = scales.to(torch.float8_e4m3fn) if entry.name == "nvfp4" else 127 * scales.to(torch.uint8)
    zeros = torch.zeros(scales.shape) if entry.zeros else None
    return reference.dequantize(weight, scales, entry.name, entry.group, zeros=zeros, size_k=case.k).float()


def _rows_of(packed: Tensor, rows: Tensor, entry: Format, case: Case) -> Tensor:
    """These rows of K back from the packed form: rows of the identity times the weight, by the CPU
    operator."""
    identity = torch.zeros(len(rows), case.k, dtype=torch.bfloat16)
    identity[torch.arange(len(rows)), rows] = 1.0
    shape = scales_shape(entry, case.k, case.n, entry.group)
    # NVFP4 scales are kept times 2^118 (see kernelpkg.ops.packed).
    ones = torch.full(shape, 2.0**118 if entry.name == "nvfp4" else 1.0, dtype=torch.bfloat16)
    zeros = torch.zeros(shape, dtype=torch.uint8) if entry.zeros else None
    gemm = torch.ops.kernelpkg.marlin_gemm
    arguments = (entry.code, case.n, case.k, entry.group, 1.0)
    return gemm(identity, packed, ones, zeros, None, None, *arguments).float()
