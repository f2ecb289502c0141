"""The instruction matrix against the measured table, row by row. About five seconds."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from kernelpkg.binaries import MatrixRow, gate_disagreements, instruction_matrix, toolkit_targets
from kernelpkg.binaries.matrix import KIND, PLAIN, ptx_version, shorten

NATIVE = {"QMMA.16832.F32.E4M3.E4M3": 1}
EMULATED = {"HMMA.16816.F32": 2, "F2FP.F16.E4M3.UNPACK_B": 12}
REFUSED: dict[str, int] = {}

# Measured with ptxas 13.0.88: targets, what the plain form becomes, what the .kind::f8f6f4 form becomes.
TABLE = [
    ("7.5 8.0 8.6 8.7 8.8", REFUSED, REFUSED),
    ("8.9", NATIVE, REFUSED),
    ("9.0 9.0a", EMULATED, REFUSED),
    ("10.0 10.3 11.0", EMULATED, REFUSED),
    ("10.0a 10.0f 10.3a 10.3f 11.0a 11.0f", EMULATED, EMULATED),
    ("12.0 12.1", NATIVE, REFUSED),
    ("12.0a 12.0f 12.1a 12.1f", NATIVE, NATIVE),
]
OUTCOMES = {id(NATIVE): "native", id(EMULATED): "emulated", id(REFUSED): "refused"}
CELLS = [
    (target, form, expected)
    for targets, plain, kind in TABLE
    for target in targets.split()
    for form, expected in ((PLAIN, plain), (KIND, kind))
]


@pytest.fixture(scope="module")
def matrix() -> dict[tuple[str, str], MatrixRow]:
    seen: list[MatrixRow] = []
    start = time.monotonic()
    rows = instruction_matrix(on_row=seen.append)
    assert time.monotonic() - start < 60
    assert tuple(seen) == rows
    return {(row.target, row.form): row for row in rows}


@pytest.mark.parametrize(("target", "form", "expected"), CELLS)
def test_row(
    matrix: dict[tuple[str, str], MatrixRow], target: str, form: str, expected: dict[str, int]
) -> None:
    row = matrix[target, form]
    assert (row.outcome, row.opcodes) == (OUTCOMES[id(expected)], expected)
    if row.outcome == "refused":
        assert ("sm_89 or higher" in row.detail) == (target < "8.9" and len(target) == 3)
        assert row.detail.startswith("Feature") and "/" not in row.detail
    else:
        assert all(f"{count} x {opcode}" in row.detail for opcode, count in expected.items())


def test_every_target_of_the_toolkit_is_in_the_table(matrix: dict[tuple[str, str], MatrixRow]) -> None:
    assert {target for target, _ in matrix} == {str(target) for target in toolkit_targets()}
    assert set(matrix) == {(target, form) for target, form, _ in CELLS}


def test_the_fp8_gate_admits_exactly_where_the_plain_form_is_native(
    matrix: dict[tuple[str, str], MatrixRow],
) -> None:
    rows = list(matrix.values())
    assert gate_disagreements(rows) == ()
    wrong = [replace(row, gate_admits=True) if row.target == "9.0a" else row for row in rows]
    (sentence,) = gate_disagreements(wrong)
    assert sentence.startswith("9.0a: the gate marlin_fp8 admits it, the instruction is emulated")


def test_chosen_targets_only() -> None:
    rows = instruction_matrix(["12.0f", "sm_86"])
    assert [(row.target, row.form, row.outcome) for row in rows] == [
        ("12.0f", PLAIN, "native"),
        ("12.0f", KIND, "native"),
        ("8.6", PLAIN, "refused"),
        ("8.6", KIND, "refused"),
    ]


@pytest.mark.parametrize(("toolkit", "ptx"), [("13.0.88", "9.0"), ("13.2.1", "9.2"), ("12.9.86", "8.8")])
def test_ptx_version(toolkit: str, ptx: str) -> None:
    assert ptx_version(toolkit) == ptx


def test_messages_are_shortened() -> None:
    message = (
        "ptxas /tmp/x/1.ptx, line 13; error   : Feature 'mma' requires .target sm_89 or higher\n"
        "ptxas fatal   : Ptx assembly aborted due to errors\n"
    )
    assert shorten(message) == "Feature 'mma' requires .target sm_89 or higher"
