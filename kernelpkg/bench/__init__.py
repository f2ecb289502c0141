"""Speed: our kernels beside torch's, against the ceilings of the same machine in the same run; and the
records.

Importing it imports no torch: `run` does, where it runs.
"""

from kernelpkg.bench import projection, records
from kernelpkg.bench.goals import GOALS, Goal, evaluate
from kernelpkg.bench.peers import peer_table
from kernelpkg.bench.projection import (
    Crossover,
    crossover,
    project,
    project_rows,
    scaled_mm_rows,
    w4_rows,
)
from kernelpkg.bench.records import Record, load_records
from kernelpkg.bench.report import BenchReport, recorded_report
from kernelpkg.bench.runner import run
from kernelpkg.bench.shapes import DEEPSEEK, MAIN, MS, SHAPES, SIZES, Shape, work
from kernelpkg.bench.sweep import dispatch_rows, sweep_configurations
from kernelpkg.bench.tuner import TuneReport, tune

__all__ = [
    "DEEPSEEK",
    "GOALS",
    "MAIN",
    "MS",
    "SHAPES",
    "SIZES",
    "BenchReport",
    "Crossover",
    "Goal",
    "Record",
    "Shape",
    "TuneReport",
    "crossover",
    "dispatch_rows",
    "evaluate",
    "load_records",
    "peer_table",
    "project",
    "project_rows",
    "projection",
    "recorded_report",
    "records",
    "run",
    "scaled_mm_rows",
    "sweep_configurations",
    "tune",
    "w4_rows",
    "work",
]
