"""Every configuration of scaled_mm timed at one point, beside the one that dispatch chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from kernelpkg.bench import machine as machines
from kernelpkg.bench.runner import choose as choose_kernels
from kernelpkg.bench.runner import is_cancelled, not_built
from kernelpkg.bench.shapes import (
    BLOCK,
    BLOCKED,
    STANDS_FOR,
    VARIANTS,
    Shape,
    on_what,
    shape_of,
)
from kernelpkg.errors import NothingRan, UsageError

SECONDS = 0.02  # of timing for each configuration


def sweep_configurations(
    kernel: str = "scaled_mm_sm90",
    shapes: Sequence[str | Shape | Sequence[int]] = ("8B.o",),
    ms: Sequence[int] = (16,),
    block_scales: bool = False,
    device: str = "cuda:0",
    *,
    on_row: Callable[[dict[str, Any]], None] | None = None,
    cancel: Any = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Time each configuration that takes the M, cold weights, per token and channel or with blocks of scales.

    A row has kernel, variant, shape, m, n, k; configuration (its place in the route's table) and name;
    microseconds, None where `reason` says why; chosen and best; loss: how much longer the chosen one takes
    than the best, in percent, the same in all rows of a point; label.

    Raises UsageError for a wrong argument, NothingRan without a CUDA device or where a gate refuses.
    """
    if kernel not in VARIANTS or not kernel.startswith("scaled_mm"):
        known = ", ".join(name for name in VARIANTS if name.startswith("scaled_mm"))
        raise UsageError(f"kernel is {kernel!r}; those with a table of configurations: {known}.")
    if block_scales and BLOCK not in VARIANTS[kernel]:
        raise UsageError(f"{kernel} takes no blocks of scales; sweep it with block_scales=False.")
    layers = [shape_of(shape) for shape in shapes]
    machines.require_cuda(device)
    import torch

    from kernelpkg import ops
    from kernelpkg.arch import Capability
    from kernelpkg.bench import clocks, timing
    from kernelpkg.bench.ceilings import Ceilings
    from kernelpkg.bench.stand import Stand

    ops.load()
    facts = machines.describe(device)
    capability = Capability.parse(facts["capability"])
    chosen, out = choose_kernels((kernel,), capability, lambda name: not_built(name, capability))
    if not chosen:
        raise NothingRan(f"{kernel} cannot be swept here: {'; '.join(out)}.")
    sampler = clocks.open_sampler(facts.pop("uuid"), machines.index_of(device))
    clock, ended = timing.CudaClock(device), is_cancelled(cancel)
    stand = Stand(device, clock, sampler, facts, Ceilings(), seed, ended)
    found = []
    with torch.cuda.device(torch.device(device)):
        for row in _rows(stand, kernel, [(shape, m, block_scales) for shape in layers for m in ms]):
            found.append(row)
            (on_row or (lambda row: None))(row)
    return found


def dispatch_rows(kernel: str = "scaled_mm_sm90") -> list[dict[str, Any]]:
    """The dispatch table of a route as rows: place, configuration, scales, m, rows, columns, blocks,
    per_sm, round, step, split. It is the data that the dispatcher reads, of everything that can be built.

    Raises UsageError for a kernel that has no table.
    """
    from kernelpkg.build.instances_scaled_mm import ROUTES

    tables = {route.gate: route.configurations for route in ROUTES}
    if kernel not in tables:
        raise UsageError(f"kernel is {kernel!r}; those with a dispatch table: {', '.join(tables)}.")
    names = ("scales", "rows", "columns", "blocks", "per_sm", "round", "step", "split")
    return [
        {
            "place": place,
            "configuration": one.label.replace("_", " "),
            "m": f"{one.min_m} to {one.max_m}" if one.max_m else f"from {one.min_m}",
            **{name: getattr(one, name) for name in names},
        }
        for place, one in enumerate(tables[kernel])
    ]


def sweep(stand: Any, kernel: str, points: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    """The rows of `sweep_configurations` for layers by name, with the scales of their checkpoints; points
    with blocks of scales are left out where the kernel takes none.
    """
    known = [(shape_of(name), m, name in BLOCKED) for name, m in points]
    return list(_rows(stand, kernel, [at for at in known if not at[2] or BLOCK in VARIANTS[kernel]]))


def _rows(stand: Any, kernel: str, points: Iterable[tuple[Shape, int, bool]]) -> Iterator[dict[str, Any]]:
    layer = None
    for shape, m, block_scales in points:
        if stand.ended():
            return
        if layer is None or layer.shape != shape:
            layer = None  # its memory is free before the next one is made
            layer = stand.layer(shape)
        yield from sweep_point(stand, kernel, layer, m, block_scales)


def sweep_point(stand: Any, kernel: str, layer: Any, m: int, block_scales: bool) -> list[dict[str, Any]]:
    """One row for each configuration that takes M; see `sweep_configurations`."""
    import torch

    from kernelpkg.bench.contenders import scaled_mm
    from kernelpkg.bench.point import rounded
    from kernelpkg.bench.stand import time_together
    from kernelpkg.ops import dispatch as table

    shape, variant = layer.shape, BLOCK if block_scales else VARIANTS[kernel][0]
    route, standin = STANDS_FOR.get(kernel, kernel), kernel in STANDS_FOR
    at = stand.setting(layer, m)
    usable = [
        one
        for one in table.configurations(route, standin)
        if one.dtype == torch.float8_e4m3fn and one.block_scales == block_scales and one.takes(m)
    ]
    if not usable:
        return []
    makers = {
        str(one.place): (at.point, lambda place=one.place: scaled_mm(kernel, variant, at, place))
        for one in usable
    }
    outcomes = time_together(stand, makers, SECONDS)
    processors = stand.facts["multiprocessors"]
    choice = table.choose_configuration(
        route, m, shape.n, shape.k, multiprocessors=processors, block_scales=block_scales, standin=standin
    )
    times = {place: out.microseconds for place, out in outcomes.items() if out.microseconds}
    best = min(times, key=times.__getitem__, default=None)
    chosen = times.get(str(choice.place))
    loss = None if chosen is None or best is None else 100 * (chosen / times[best] - 1)
    return [
        rounded(
            {
                "kernel": kernel,
                "variant": variant,
                "shape": shape.name,
                "m": m,
                "n": shape.n,
                "k": shape.k,
                "configuration": one.place,
                "name": one.label,
                "microseconds": outcomes[str(one.place)].microseconds,
                "reason": outcomes[str(one.place)].reason,
                "chosen": one.place == choice.place,
                "best": str(one.place) == best,
                "loss": loss,
                "label": f"measured here, {on_what(kernel)}",
            }
        )
        for one in usable
    ]
