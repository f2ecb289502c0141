"""What machine code says of a kernel, held against what the kernel was declared to contain.

Families of SASS opcodes, measured with ptxas 13.0: FP8 MMA is QMMA on 8.9 and 12.x (mma.sync), QGMMA on 9.0a
(wgmma), UTCQMMA on 10.x and 11.0 (tcgen05); 16-bit MMA is HMMA, HGMMA, UTCHMMA. The block-scaled mma.sync of
12.x is QMMA.SF for MXFP8 and OMMA.SF for FP4 operands. Emulated FP8 MMA is HMMA with F2FP...UNPACK
conversions, which a weight-only kernel shows as well: only a declaration tells the two apart.
kernelpkg.binaries.matrix measures the mma.sync part again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

VERDICTS = ("native", "emulated", "dead", "no mma", "fp8 widened", "ptx only", "unreadable")

FP8_FAMILIES = frozenset({"QMMA", "QGMMA", "UTCQMMA"})
FP4_FAMILIES = frozenset({"OMMA"})
HALF_FAMILIES = frozenset({"HMMA", "HGMMA", "UTCHMMA"})
_MMA = re.compile(r"[A-Z]*MMA$")
_WIDENING = re.compile(r"F2FP\..*E[45]M[23].*UNPACK")


class Judged(Protocol):
    """What a verdict needs to know of a function."""

    kind: str
    target: str
    opcodes: Mapping[str, int]
    instructions: int
    failure: str


def families(opcodes: Mapping[str, int]) -> dict[str, int]:
    """Counts by family: {'QMMA.16832.F32.E4M3.E4M3': 8} becomes {'QMMA': 8}."""
    total: dict[str, int] = {}
    for opcode, count in opcodes.items():
        family = opcode.split(".")[0]
        total[family] = total.get(family, 0) + count
    return total


def mma_counts(opcodes: Mapping[str, int]) -> dict[str, int]:
    """The MMA families of a function with their counts, block-scaled and integer ones included."""
    return {family: count for family, count in families(opcodes).items() if _MMA.match(family)}


def widening(opcodes: Mapping[str, int]) -> int:
    """How many conversions widen FP8 to 16 bits (F2FP...E4M3.UNPACK and the e5m2 kind)."""
    return sum(count for opcode, count in opcodes.items() if _WIDENING.match(opcode))


def native_fp8_family(number: int) -> str | None:
    """The FP8 MMA opcode of a capability number (89, 120); None where no tensor core of it does FP8."""
    major = number // 10
    if number == 89 or major == 12:
        return "QMMA"
    return {9: "QGMMA", 10: "UTCQMMA", 11: "UTCQMMA"}.get(major)


def judge(function: Judged, declares: str | None = None) -> str:
    """The verdict on one function: 'native', 'emulated', 'dead', 'no mma', 'fp8 widened' or 'ptx only'.

    declares: 'fp8_mma' (operands of 8 bits or fewer), 'mma16', 'none', or None for a foreign function of
    which nothing is known.
    'unreadable' where the disassembler failed. Raises ValueError for another declaration.
    """
    return explain_verdict(function, declares)[0]


def explain_verdict(function: Judged, declares: str | None = None) -> tuple[str, str]:
    """The verdict as `judge` gives it, and one sentence that says why."""
    if declares not in (None, "fp8_mma", "mma16", "none"):
        raise ValueError(f"declares {declares!r} is none of 'fp8_mma', 'mma16', 'none', None")
    if function.kind == "ptx":
        return "ptx only", (
            f"PTX for {function.target}: the driver compiles it at load; the device decides what it becomes"
        )
    if function.failure:
        return "unreadable", function.failure
    mma, widened = mma_counts(function.opcodes), widening(function.opcodes)
    fp8 = {family: count for family, count in mma.items() if family in FP8_FAMILIES | FP4_FAMILIES}
    half = {family: count for family, count in mma.items() if family in HALF_FAMILIES}
    if declares is None:
        return _foreign(mma, fp8, half, widened)
    if declares == "none":
        return "no mma", f"{_say(mma)}; none is declared" if mma else "no MMA, and none is declared"
    native = native_fp8_family(_number(function.target))
    fp4 = FP4_FAMILIES if _number(function.target) // 10 == 12 else frozenset()
    if declares == "fp8_mma" and fp8 and (native is None or native in fp8 or fp4 & fp8.keys()):
        return "native", f"{_say(fp8)}: the {_operands(fp8)} tensor cores of {function.target}"
    if declares == "fp8_mma" and half and widened:
        return (
            "emulated",
            f"FP8 MMA is declared, the code has {_say(half)} and {widened} F2FP that widen FP8 instead",
        )
    if declares == "mma16" and half:
        return "native", f"{_say(half)}: 16-bit tensor cores"
    wanted = "16-bit MMA"
    if declares == "fp8_mma":
        wanted = f"FP8 MMA ({native} on {function.target})" if native else "FP8 MMA"
    have = _say(mma) if mma else "no MMA"
    return "dead", f"{wanted} is declared, the code has {have}{_trap(function.opcodes)}"


def _number(target: str) -> int:
    """120 of '12.0f' or '12.0 unknown suffix'."""
    found = re.match(r"(\d+)\.(\d)", target)
    return int(found[1]) * 10 + int(found[2]) if found else 0


def _foreign(mma: dict[str, int], fp8: dict[str, int], half: dict[str, int], widened: int) -> tuple[str, str]:
    if fp8:
        return "native", f"{_say(fp8)}: {_operands(fp8)} tensor cores"
    if half and widened:
        return "fp8 widened", (
            f"{_say(half)} and {widened} F2FP: FP8 widened to 16 bits, emulated FP8 MMA or weight-only, "
            "the code cannot tell"
        )
    if mma:
        return "native", f"{_say(mma)}: tensor cores, no FP8"
    return "no mma", "no MMA in the code"


def _operands(counts: Mapping[str, int]) -> str:
    kinds = (("FP8", FP8_FAMILIES), ("FP4", FP4_FAMILIES))
    return " and ".join(name for name, of_kind in kinds if of_kind & counts.keys())


def _say(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {family}" for family, count in sorted(counts.items()))


def _trap(opcodes: Mapping[str, int]) -> str:
    traps = sum(count for opcode, count in opcodes.items() if opcode.startswith("BPT.TRAP"))
    if traps:
        return f" and {traps} BPT.TRAP: a call fails"
    return " and no trap: a call may return over unwritten output"
