"""Speed: our kernels beside torch's, against the ceilings of the same machine in the same run; and the
records.

Importing it imports no torch: `run` does, where it runs.
"""

from kernelpkg.bench import projection, records
from kernelpkg.bench.peers import peer_table
from kernelpkg.bench.projection import project, project_rows
from kernelpkg.bench.records import Record, load_records
from kernelpkg.bench.runner import BenchReport, recorded_report, run
from kernelpkg.bench.shapes import MS, SHAPES, SIZES, Shape, work

__all__ = [
    "MS",
    "SHAPES",
    "SIZES",
    "BenchReport",
    "Record",
    "Shape",
    "load_records",
    "peer_table",
    "project",
    "project_rows",
    "projection",
    "recorded_report",
    "records",
    "run",
    "work",
]
