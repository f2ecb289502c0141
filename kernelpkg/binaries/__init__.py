"""What is inside a binary: device code, machine instructions, verdicts. Needs no GPU and imports no torch."""

from kernelpkg.binaries.fatbin import BrokenBinary, NoDeviceCode
from kernelpkg.binaries.inspection import (
    SHARED_MEMORY_NOTE,
    SPILLS_NOTE,
    UNKNOWN_SUFFIX,
    FunctionCode,
    Inspection,
    inspect,
)
from kernelpkg.binaries.loading import Choice, ImageLoad, LoadReport, choices, load_on_device
from kernelpkg.binaries.matrix import MatrixRow, gate_disagreements, instruction_matrix, toolkit_targets
from kernelpkg.binaries.readback import ReadBack, expected_verdict, read_back, targets_of
from kernelpkg.binaries.tools import ToolMissing, find_assembler, find_tool
from kernelpkg.binaries.verdict import (
    VERDICTS,
    explain_verdict,
    judge,
    mma_counts,
    native_fp8_family,
    widening,
)

__all__ = [
    "SHARED_MEMORY_NOTE",
    "SPILLS_NOTE",
    "UNKNOWN_SUFFIX",
    "VERDICTS",
    "BrokenBinary",
    "Choice",
    "FunctionCode",
    "ImageLoad",
    "Inspection",
    "LoadReport",
    "MatrixRow",
    "NoDeviceCode",
    "ReadBack",
    "ToolMissing",
    "choices",
    "expected_verdict",
    "explain_verdict",
    "find_assembler",
    "find_tool",
    "gate_disagreements",
    "inspect",
    "instruction_matrix",
    "judge",
    "load_on_device",
    "mma_counts",
    "native_fp8_family",
    "read_back",
    "targets_of",
    "toolkit_targets",
    "widening",
]
