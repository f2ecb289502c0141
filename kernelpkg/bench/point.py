"""One point of a bench: capture, check, time in turn, check again, and the rows that come of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kernelpkg.bench import verify
from kernelpkg.bench.ceilings import Ceilings, limit_of
from kernelpkg.bench.contenders import Contender, contenders
from kernelpkg.bench.operands import Layer
from kernelpkg.bench.peers import PEER_WORK, SAME_SCALES
from kernelpkg.bench.shapes import Point, Work, on_what, work
from kernelpkg.bench.timing import Graph, Timing, launch_count, time_host, time_interleaved


def time_point(run: Any, point: Point, layer: Layer) -> Iterator[dict[str, Any]]:
    """The rows of `point`. `run` has clock, sampler, meter, limits, peers, facts, report and cancelled.

    A kernel of ours that cannot be launched or captured is left out and named in the report's `not_run`; one
    whose result is wrong is not timed, and gets a row that says so. A peer of which either holds is left out
    with the reason, in `peer_reasons` of the rows and in the report's `peers_left_out`.
    """
    makers = contenders(point, layer, run.facts["l2_bytes"], run.peers)
    entries, graphs, refused = _capture(run, point, makers)
    verifiers = {name: verify.Verifier(entries[name], graph, point) for name, graph in graphs.items()}
    before = {name: verifier.check(run.clock) for name, verifier in verifiers.items()}
    timed = {name: graph for name, graph in graphs.items() if before[name].passed}
    timings, clocks = time_interleaved(
        timed, run.clock, run.sampler, run.limits.per_contender_seconds, run.cancelled
    )
    after = {name: verifiers[name].check(run.clock) for name in timed}
    ours = [name for name in graphs if entries[name].kernel is not None]
    reasons = {name: reason for name, reason in refused.items() if name not in entries}
    for name in graphs.keys() - set(ours):
        if wrong := next((v for v in (before[name], after.get(name)) if v and not v.passed), None):
            reasons[name] = f"wrong: {wrong.fault}"
    run.report.peers_left_out += [
        {"peer": name, "shape": point.shape.name, "m": point.m, "reason": reason}
        for name, reason in reasons.items()
    ]
    extras = _extras(run, {name: entries[name] for name in ours if name in timed})
    peers = {name: timing for name, timing in timings.items() if name not in ours and name not in reasons}
    for name in ours:
        entry = entries[name]
        assert entry.kernel is not None
        need = work(entry.kernel, entry.variant, point.m, point.shape.n, point.shape.k)
        run.meter.read_for(need.stream_bytes)
        yield bench_row(
            point=point,
            kernel=entry.kernel,
            variant=entry.variant,
            capability=str(run.capability),
            need=need,
            timing=timings.get(name),
            peers=peers,
            peer_reasons=reasons,
            ceilings=run.meter.ceilings,
            clocks=clocks,
            correct=verify.as_row(before[name], after.get(name)),
            extras=extras.get(name, {}),
        )


def _capture(
    run: Any, point: Point, makers: Mapping[str, Callable[[], Contender]]
) -> tuple[dict[str, Contender], dict[str, Graph], dict[str, str]]:
    """(contenders, their graphs, name -> why a peer has none). Ours without a graph are in `not_run`."""
    entries: dict[str, Contender] = {}
    graphs: dict[str, Graph] = {}
    refused: dict[str, str] = {}
    ours = {f"{kernel}/{variant}" for kernel, variant in point.kernels}
    for name, make in makers.items():
        try:
            entry = make()
            count = launches_of(entry, point, run.meter.ceilings)
            graphs[name] = run.clock.capture(entry.launches, count)
            entries[name] = entry
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError":
                raise
            line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            if name in ours:
                run.report.not_run.append(f"{point.shape} m={point.m} {name}: {line}")
            else:
                refused[name] = f"refused: {line}"
    return entries, graphs, refused


def launches_of(entry: Contender, point: Point, found: Ceilings) -> int:
    """Launches in the graph of a contender, from the time that the ceilings let expect."""
    kernel = entry.kernel or PEER_WORK.get(entry.name)
    n, k = point.shape.n, point.shape.k
    if kernel is None:
        streamed, flops, kind = 2 * n * k, 2 * point.m * n * k, "bf16"
    else:
        need = work(kernel, entry.variant, point.m, n, k)
        streamed, flops, kind = need.stream_bytes, need.flops, need.flop_kind
    expected, _ = limit_of(streamed, flops, found.read_gbps, found.tflops_for(kind))
    return launch_count(len(entry.launches), expected or 100.0)


def _extras(run: Any, entries: Mapping[str, Contender]) -> dict[str, dict[str, Any]]:
    """Two labelled columns beside the figure: with the weights in the L2 (one operand set), and the host
    included.
    """
    found: dict[str, dict[str, Any]] = {}
    if not run.limits.extras:
        return found
    warm = {}
    for name, entry in entries.items():
        if run.cancelled():
            return {}
        warm[name] = run.clock.capture(entry.launches[:1], 20)
        found[name] = {"host_microseconds": time_host(entry.launches[0], run.clock, time.perf_counter)}
    if warm:
        timings, _ = time_interleaved(warm, run.clock, run.sampler, 0.02, run.cancelled)
        for name, timing in timings.items():
            found[name]["warm_l2_microseconds"] = timing.median
    return found


def bench_row(
    *,
    point: Point,
    kernel: str,
    variant: str,
    capability: str,
    need: Work,
    timing: Timing | None,
    peers: Mapping[str, Timing],
    peer_reasons: Mapping[str, str],
    ceilings: Ceilings,
    clocks: Mapping[str, Any],
    correct: Mapping[str, Any],
    extras: Mapping[str, Any],
) -> dict[str, Any]:
    """One row, JSON types only.

    microseconds: median, p10, p90, n, discarded, launches of one cold call. peers: medians of the same run
    in microseconds; ratios: the peer's time over ours (above 1: ours is faster); peer_reasons: why a peer
    has no time; same_scales: the peer that multiplies with the same scales. ceilings: GB/s of reading as
    many bytes as the weights and scales have (read_gbps), of 512 MiB and of writing, TFLOP/s of the library
    GEMM (of this row, where that is faster). percent_of_limit: the least time under the ceilings of reading
    and multiplying over ours, in percent; limit: the one that binds, 'memory' or 'compute'. percent_of_read:
    the bandwidth at which the weights were streamed, over read_gbps. percent_of_write: the least time of
    writing the output over ours.
    """
    median = timing.median if timing else None
    read, tflops = ceilings.read_for(need.stream_bytes), ceilings.tflops_for(need.flop_kind)
    # A GPU that has run hot for the ceiling may multiply faster beside this row: the better of both binds.
    beside = [
        need.flops / peer.median / 1e6
        for name, peer in peers.items()
        if peer.median and PEER_WORK.get(name) == ("scaled_mm" if need.flop_kind == "fp8" else None)
    ]
    tflops = max([tflops, *beside]) if tflops else None
    least, limit = limit_of(need.stream_bytes, need.flops, read, tflops)
    gbps = need.stream_bytes / median / 1e3 if median else None
    written = 2 * point.m * point.shape.n / median / 1e3 if median else None
    medians = {name: peer.median for name, peer in peers.items()}
    row = {
        "kernel": kernel,
        "variant": variant,
        "shape": point.shape.name,
        "m": point.m,
        "n": point.shape.n,
        "k": point.shape.k,
        "microseconds": (timing or Timing(None, None, None, 0, 0, 0)).as_dict(),
        "peers": medians,
        "peer_spread": {name: [peer.p10, peer.p90, peer.n] for name, peer in peers.items()},
        "ratios": {name: value / median if median and value else None for name, value in medians.items()},
        "peer_reasons": dict(peer_reasons),
        "same_scales": SAME_SCALES.get(variant) if kernel.startswith("scaled_mm") else None,
        "ceilings": {
            "read_gbps": read,
            "read_large_gbps": ceilings.read_gbps,
            "write_gbps": ceilings.write_gbps,
            "tflops": tflops,
            "tflops_of": need.flop_kind,
        },
        "percent_of_limit": 100 * least / median if least and median else None,
        "limit": limit,
        "percent_of_read": 100 * gbps / read if gbps and read else None,
        "percent_of_write": 100 * written / ceilings.write_gbps if written and ceilings.write_gbps else None,
        "gbps": gbps,
        "tflops": need.flops / median / 1e6 if median else None,
        "bytes": need.stream_bytes,
        "flops": need.flops,
        "correct": dict(correct),
        "label": f"measured here, {on_what(kernel)}",
        "capability": capability,
        "clocks": dict(clocks),
        **extras,
    }
    return rounded(row)


def rounded(value: Any) -> Any:
    """Floats to six significant digits: more is noise, and makes records long."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value
