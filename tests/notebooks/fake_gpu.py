"""Startup of a kernel that believes a Hopper stands here: what needs it is answered from the CPU, or made up.

The figures are no measurements; they exist so that the notebooks' branches for a GPU run where none is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kernelpkg import arch, bench, check
from kernelpkg.bench.runner import BenchReport
from kernelpkg.bench.shapes import shape_of

HERE = replace(arch.assume("H200"), driver="580.0", source="made up by a test")

_run, _map, _prove = check.run, check.error_map, check.prove


def run_check(kernels: Any = None, size: str = "default", device: str = "auto", seed: int = 0) -> Any:
    """The CPU's check, as if the GPU had run it."""
    assert device == "cuda:0"
    report = _run(kernels, size=size, device="cpu", seed=seed)
    for row in report.rows:
        row["device"], row["label"] = device, "measured here, this capability"
    report.label = "measured here, this capability"
    return report


def run_bench(
    kernels: Any = None, shapes: Any = None, size: str = "default", device: str = "auto", **_: Any
) -> Any:
    """Rows in the form of the bench's own."""
    assert device == "cuda:0"
    rows = []
    for kernel in kernels or ("marlin_w8a16", "scaled_mm_sm90"):
        for shape in map(shape_of, shapes or ("8B.gate_up", "8B.o")):
            for m in (1, 16, 4096):
                value = 10.0 + m
                rows.append(
                    {
                        "kernel": kernel,
                        "variant": "channel" if kernel.startswith("marlin") else "token_channel",
                        "shape": shape.name,
                        "m": m,
                        "n": shape.n,
                        "k": shape.k,
                        "microseconds": {"median": value, "p10": value, "p90": value, "n": 9},
                        "peers": {"bf16": 2 * value},
                        "ceilings": {"read_gbps": 4000.0, "tflops": 700.0},
                        "percent_of_limit": 60.0,
                        "correct": {"passed": True},
                        "label": "measured here, this capability",
                    }
                )
    ceilings = {"read_gbps": 4000.0, "bf16_tflops": 700.0, "fp8_tflops": 1200.0}
    return BenchReport(rows=rows, ceilings=ceilings, device=device, size=size, gated_out={"gate": 2})


arch.detect = lambda *_, **__: arch.Detection((HERE,), None)
check.run = run_check
check.error_map = lambda name, case, device, seed: _map(name, case, "cpu", seed)
check.prove = lambda kernels, device, seed: _prove(kernels, "cpu", seed)
bench.run = run_bench
