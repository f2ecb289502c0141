"""The ladder: for each kernel and device, five rungs and the evidence each stands on.

Importing it imports no torch; `explain(..., live=True)` does.
"""

from kernelpkg.ladder.answers import KERNELS, brief, explain
from kernelpkg.ladder.requirement import Requirement, parse_requirement, require
from kernelpkg.ladder.rung import RUNGS, STATUSES, Label, Rung, by_kernel, elsewhere, word
from kernelpkg.ladder.thresholds import Floor, Held, floors, hold

__all__ = [
    "KERNELS",
    "RUNGS",
    "STATUSES",
    "Floor",
    "Held",
    "Label",
    "Requirement",
    "Rung",
    "brief",
    "by_kernel",
    "elsewhere",
    "explain",
    "floors",
    "hold",
    "parse_requirement",
    "require",
    "word",
]
