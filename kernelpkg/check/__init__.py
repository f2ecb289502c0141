"""Correctness: the kernels on a GPU, the CPU references on a CPU, both against an independent float64
computation."""

from kernelpkg.check.cases import SIZES, Case, cases_for
from kernelpkg.check.metrics import Bounds, Errors, bounds_for, compare
from kernelpkg.check.mutations import MUTATIONS, Proof, prove
from kernelpkg.check.operands import Problem, make_problem
from kernelpkg.check.report import CheckReport
from kernelpkg.check.runner import checkable_kernels, error_map, run
from kernelpkg.check.sanitizer import SanitizerReport, sanitize

__all__ = [
    "MUTATIONS",
    "SIZES",
    "Bounds",
    "Case",
    "CheckReport",
    "Errors",
    "Problem",
    "Proof",
    "SanitizerReport",
    "bounds_for",
    "cases_for",
    "checkable_kernels",
    "compare",
    "error_map",
    "make_problem",
    "prove",
    "run",
    "sanitize",
]
