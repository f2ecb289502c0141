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
from kernelpkg.ops.kernels import Kernel

_STREAMS = 4
_ROUNDS = 3
# Rows of K that a repacked weight is read back in: a product with the identity, whose cost grows as K for
# each.
_ROUND_TRIP_ROWS = 256


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
    bfloat16 number. Both formats, every code (e4m3's two NaN excepted). For the FP8 order the product is made
    on the CPU.
    """
    differences = 0
    generator = torch.Generator().manual_seed(seed)
    for format_code in (0,) if case.fp8 else (0, 1):
        if format_code == 0:
            weight = torch.randint(
                -(2**31), 2**31 - 1, (case.k // 8, case.n), generator=generator, dtype=torch.int64
            ).to(torch.int32)
            levels = torch.stack([(weight >> (4 * j)) & 0xF for j in range(8)], dim=1)
            values = (levels.reshape(case.k, case.n) - 8).float()
        else:
            codes = torch.randint(0, 254, (case.k, case.n), generator=generator)
            weight = (codes + (codes >= 0x7F)).to(torch.uint8)  # skips 0x7f; 0xff is not reached
            values = weight.view(torch.float8_e4m3fn).float()
        repack = torch.ops.kernelpkg.marlin_repack
        on_cpu = repack(weight, format_code, case.k, case.n, case.fp8)
        with poisoned():
            packed = repack(weight.to(device), format_code, case.k, case.n, case.fp8)
        differences += int((packed.cpu() != on_cpu).sum())
        rows = torch.randperm(case.k, generator=generator)[:_ROUND_TRIP_ROWS]
        differences += int((_rows_of(on_cpu, rows, format_code, case) != values[rows]).sum())
    return differences


def _rows_of(packed: Tensor, rows: Tensor, format_code: int, case: Case) -> Tensor:
    """These rows of K back from the packed form: rows of the identity times the weight, by the CPU
    operator."""
    identity = torch.zeros(len(rows), case.k)
    identity[torch.arange(len(rows)), rows] = 1.0
    a = identity.to(torch.float8_e4m3fn if case.fp8 else torch.bfloat16)
    a_scales = torch.ones(len(rows)) if case.fp8 else None
    ones = torch.ones(1, case.n, dtype=torch.bfloat16)
    gemm = torch.ops.kernelpkg.marlin_gemm
    return gemm(a, packed, ones, a_scales, None, format_code, case.n, case.k, -1).float()
