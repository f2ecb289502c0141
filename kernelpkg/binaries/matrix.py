"""What one FP8 MMA instruction becomes on every target the assembler knows, measured on the spot.

One PTX line, `mma.sync.aligned.m16n8k32 ... e4m3`, in its plain form and with `.kind::f8f6f4`, is assembled
for each target and disassembled again. No GPU and no C++ compiler are needed.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kernelpkg.arch import Target
from kernelpkg.binaries.disasm import opcodes_of, workers
from kernelpkg.binaries.elf import read_cubin
from kernelpkg.binaries.tools import find_assembler, run_tool, tool_version
from kernelpkg.binaries.verdict import FP8_FAMILIES, families, mma_counts, widening
from kernelpkg.errors import KernelpkgError
from kernelpkg.gates import gate

PLAIN, KIND = "plain", ".kind::f8f6f4"
FORMS = (PLAIN, KIND)
GATE = "marlin_fp8"  # the gate that this table justifies

_PROBE = """\
.version {version}
.target sm_{target}
.address_size 64
.visible .entry probe(.param .u64 pointer)
{{
  .reg .b64 %p;
  .reg .b32 %a<4>, %b<2>;
  .reg .f32 %d<4>;
  ld.param.u64 %p, [pointer];
  ld.global.v4.b32 {{%a0, %a1, %a2, %a3}}, [%p];
  ld.global.v2.b32 {{%b0, %b1}}, [%p+16];
  ld.global.v4.f32 {{%d0, %d1, %d2, %d3}}, [%p+32];
  mma.sync.aligned.m16n8k32.row.col{kind}.f32.e4m3.e4m3.f32
    {{%d0, %d1, %d2, %d3}}, {{%a0, %a1, %a2, %a3}}, {{%b0, %b1}}, {{%d0, %d1, %d2, %d3}};
  st.global.v4.f32 [%p+32], {{%d0, %d1, %d2, %d3}};
  ret;
}}
"""


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """One target and form. outcome: 'native' (FP8 tensor cores), 'emulated' (16-bit MMA and conversions) or
    'refused' by the assembler. opcodes: the MMA and conversion instructions it became, empty where refused.
    detail: one sentence. gate_admits: whether gate marlin_fp8 admits a device of this capability.
    """

    target: str
    form: str
    outcome: str
    opcodes: dict[str, int]
    detail: str
    gate_admits: bool

    @property
    def agrees(self) -> bool | None:
        """Whether the gate admits exactly where the plain form is native; None for the other form."""
        return self.gate_admits == (self.outcome == "native") if self.form == PLAIN else None


def toolkit_targets(ptxas: Path | None = None) -> tuple[Target, ...]:
    """Every target that the assembler lists in its help, a and f variants included, in order."""
    listing = run_tool([ptxas or find_assembler(), "--help"], timeout=60).stdout
    found = {Target.parse(name) for name in re.findall(r"'(sm_\d+[af]?)'", listing)}
    if not found:
        raise KernelpkgError(f"{ptxas} lists no target in its help: it is no ptxas of CUDA 12 or 13")
    return tuple(sorted(found))


def ptx_version(ptxas_version: str) -> str:
    """The newest PTX version of a toolkit: 13.0 has 9.0, 12.9 has 8.8, 12.8 has 8.7 (PTX release notes)."""
    major, minor = (int(part) for part in ptxas_version.split(".")[:2])
    return f"{major - 4}.{minor}" if major >= 13 else f"8.{max(minor - 1, 0)}"


def instruction_matrix(
    targets: Iterable[object] | None = None, on_row: Callable[[MatrixRow], None] | None = None
) -> tuple[MatrixRow, ...]:
    """Assembles both forms for each target and says what each became. A few seconds on two cores.

    targets: anything `Target.parse` reads; None: every target the assembler knows. on_row is called with each
    row, in order. Raises ToolMissing where ptxas or nvdisasm is not installed.
    """
    ptxas = find_assembler()
    chosen = toolkit_targets(ptxas) if targets is None else tuple(Target.parse(one) for one in targets)
    probes = [(target, form) for target in chosen for form in FORMS]
    version = ptx_version(tool_version(ptxas))
    with tempfile.TemporaryDirectory(prefix="kernelpkg-") as name:
        folder = Path(name)

        def assemble(item: tuple[int, tuple[Target, str]]) -> bytes | str:
            index, (target, form) = item
            source, result = folder / f"{index}.ptx", folder / f"{index}.cubin"
            kind = "" if form == PLAIN else form
            source.write_text(_PROBE.format(version=version, target=target.number, kind=kind))
            done = run_tool([ptxas, f"-arch=sm_{target.number}", source, "-o", result], timeout=120)
            return result.read_bytes() if done.returncode == 0 else shorten(done.stderr or done.stdout)

        with ThreadPoolExecutor(max_workers=workers()) as pool:
            answers = list(pool.map(assemble, enumerate(probes)))
    code = [read_cubin(answer) for answer in answers if isinstance(answer, bytes)]
    opcodes = iter(opcodes_of(code))
    rows = []
    for (target, form), answer in zip(probes, answers, strict=True):
        admits = gate(GATE).ask(target.capability).admitted
        if isinstance(answer, str):
            row = MatrixRow(str(target), form, "refused", {}, answer, admits)
        else:
            row = _row(target, form, next(opcodes)["probe"], admits)
        rows.append(row)
        if on_row is not None:
            on_row(row)
    return tuple(rows)


def _row(target: Target, form: str, read: object, admits: bool) -> MatrixRow:
    if isinstance(read, str):
        raise KernelpkgError(f"the probe for {target} could not be read back: {read}")
    counts: dict[str, int] = read.counts  # type: ignore[attr-defined]
    kept = {
        opcode: count
        for opcode, count in counts.items()
        if mma_counts({opcode: count}) or opcode.startswith("F2FP")
    }
    present = families(kept)
    if present.keys() & FP8_FAMILIES:
        outcome = "native"
    elif mma_counts(kept) and widening(kept):
        outcome = "emulated"
    else:
        raise KernelpkgError(f"the probe for {target} became neither FP8 MMA nor its emulation: {counts}")
    shown = sorted(kept.items(), key=lambda item: item[0].startswith("F2FP"))
    detail = " + ".join(f"{count} x {opcode}" for opcode, count in shown)
    return MatrixRow(str(target), form, outcome, kept, f"{detail} ({outcome})", admits)


def shorten(message: str) -> str:
    """The assembler's own sentence without the program, the file and the line: what it requires."""
    lines = [line for line in message.splitlines() if "error" in line or "fatal" in line]
    text = lines[0] if lines else message.strip()
    text = re.sub(r"^ptxas\s.*?(?:error|fatal)\s*:\s*", "", text)
    return text.strip() or "ptxas refused it without a message"


def gate_disagreements(rows: Sequence[MatrixRow]) -> tuple[str, ...]:
    """Targets where gate marlin_fp8 and the plain form differ, one sentence each; empty where they agree."""
    return tuple(
        f"{row.target}: the gate {GATE} {'admits' if row.gate_admits else 'refuses'} it, "
        f"the instruction is {row.outcome} ({row.detail})"
        for row in rows
        if row.agrees is False
    )
