"""What is in a binary: each kernel for each target, with registers, memory, opcodes, hash and verdict."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from kernelpkg.arch import Image, Target
from kernelpkg.binaries.demangle import demangle
from kernelpkg.binaries.disasm import Opcodes, opcodes_of
from kernelpkg.binaries.elf import Cubin, NotElf, read_cubin
from kernelpkg.binaries.fatbin import BrokenBinary, RawImage, read_images
from kernelpkg.binaries.verdict import explain_verdict

UNKNOWN_SUFFIX = "unknown suffix"
SHARED_MEMORY_NOTE = (
    "shared_memory is the static part: dynamic shared memory is chosen at launch and is not in the binary"
)
SPILLS_NOTE = (
    "spills are bytes of local memory per thread: register spills, and local arrays where a kernel has any"
)
CACHE_NAME = "inspection-cache.json"

_ENTRY = re.compile(r"\.entry\s+([\w$.]+)")
_PTX_TELLING = re.compile(
    r"\b(mma\.sync[\w.:]*|wgmma\.mma_async[\w.:]*|tcgen05\.mma[\w.:]*|cvt[\w.]*\.e[45]m[23]x2[\w.]*)"
)


class Declared(Protocol):
    """What the catalogue says of an instance, as far as a verdict needs it (see kernelpkg.build.instance)."""

    name: str
    kernel: str
    declares: str
    function: str


@dataclass(frozen=True, slots=True)
class FunctionCode:
    """One kernel for one target.

    file: name of the file it was found in. function: demangled name; symbol: as it is in the binary.
    target: '12.0f', or '12.0 unknown suffix' where the binary does not record it. kind: 'cubin' or 'ptx'.
    opcodes: counts of the telling instructions (MMA, FP8 conversion and traps with modifiers; matrix loads,
    asynchronous copies and local memory by family). registers per thread (None for PTX). spills: bytes of
    local memory per thread (SPILLS_NOTE). shared_memory: bytes of static shared memory per block
    (SHARED_MEMORY_NOTE). code_hash: sha256 of the machine code (for PTX, of the text of the entry). verdict,
    reason: see kernelpkg.binaries.verdict. instructions: how many in all. kernel, instance, declares: what
    the catalogue says of it, None for foreign code. failure: why the disassembler could not read it, empty
    if it could.
    """

    file: str
    function: str
    symbol: str
    target: str
    kind: Literal["cubin", "ptx"]
    verdict: str
    reason: str
    opcodes: dict[str, int]
    registers: int | None
    spills: int | None
    shared_memory: int | None
    code_hash: str
    instructions: int = 0
    kernel: str | None = None
    instance: str | None = None
    declares: str | None = None
    failure: str = ""

    @property
    def suffix_known(self) -> bool:
        """Whether the binary records for which exact target (suffix included) this was compiled."""
        return not self.target.endswith(UNKNOWN_SUFFIX)

    @property
    def image(self) -> Image | None:
        """The image it belongs to, for the loading rules; None where the suffix is unknown."""
        return Image(self.kind, Target.parse(self.target)) if self.suffix_known else None

    def judged(
        self, declares: str | None, kernel: str | None = None, instance: str | None = None
    ) -> FunctionCode:
        """The same function with the verdict that follows from a declaration."""
        verdict, reason = explain_verdict(self, declares)
        return replace(
            self, verdict=verdict, reason=reason, declares=declares, kernel=kernel, instance=instance
        )


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file holds: its kernels for each of their targets, and notes on how to read them."""

    file: Path
    functions: tuple[FunctionCode, ...]
    notes: tuple[str, ...] = field(default=(SHARED_MEMORY_NOTE, SPILLS_NOTE))

    @property
    def targets(self) -> tuple[tuple[str, str], ...]:
        """(kind, target) of every image that holds a kernel, sorted."""
        return tuple(sorted({(function.kind, function.target) for function in self.functions}))


def inspect(
    path: str | Path, *, instances: Iterable[Declared] | None = None, cache_path: Path | None = None
) -> Inspection:
    """Reads a library, object, archive, executable, fat binary, bare cubin or PTX file. Needs no GPU.

    instances: catalogue instances that say what the kernels must contain; without them, a file inside one of
    our build folders is judged by our catalogue and any other as foreign. cache_path: JSON file that
    remembers disassembled code; None: beside the library in a build folder, no cache elsewhere.
    Raises NoDeviceCode, BrokenBinary, ToolMissing.
    """
    file = Path(path)
    ours = (file.parent / "manifest.json").is_file()
    if cache_path is None and ours:
        cache_path = file.parent / CACHE_NAME
    if instances is None:
        instances = catalogue() if ours else ()
    found = functions_of(file, read_images(file), cache_path)
    known = tuple(instances)
    notes = [SHARED_MEMORY_NOTE, SPILLS_NOTE]
    if any(not function.suffix_known for function in found):
        notes.append(
            "the note that records the suffix is gone: the code may be portable, family or specific code"
        )
    return Inspection(file, declare(found, known), tuple(notes))


def catalogue() -> tuple[Declared, ...]:
    """Every instance of the catalogue, or none where the catalogue cannot be read."""
    try:
        from kernelpkg.build.catalogue import all_instances
    except ImportError:
        return ()
    return tuple(all_instances())


def functions_of(
    file: Path, images: Sequence[RawImage], cache_path: Path | None = None, *, disassemble: bool = True
) -> tuple[FunctionCode, ...]:
    """The kernels of these images, judged as foreign code; without disassembling, all read 'unreadable'.

    Raises BrokenBinary where a cubin cannot be read.
    """
    cubins: dict[int, Cubin] = {}
    for index, image in enumerate(images):
        if image.kind != "cubin":
            continue
        try:
            cubins[index] = read_cubin(image.data, image.suffix)
        except NotElf as error:
            raise BrokenBinary(f"{file}: image {index + 1} for {image.number}: {error}") from error
    # Only code needs the disassembler: a PTX file is read without one.
    with_code = [index for index, cubin in cubins.items() if cubin.kernels]
    by_image: dict[int, dict[str, Opcodes | str]] = {}
    if with_code and disassemble:
        opcodes = opcodes_of([cubins[index] for index in with_code], cache_path)
        by_image = dict(zip(with_code, opcodes, strict=True))
    rows: list[FunctionCode] = []
    for index, image in enumerate(images):
        if image.kind == "ptx":
            rows += _ptx_functions(file, image)
        else:
            rows += _cubin_functions(file, image, cubins[index], by_image.get(index, {}))
    names = demangle(row.symbol for row in rows)
    return tuple(replace(row, function=names[row.symbol]).judged(None) for row in rows)


def _target(image: RawImage) -> str:
    text = f"{image.number // 10}.{image.number % 10}"
    return f"{text} {UNKNOWN_SUFFIX}" if image.suffix is None else text + image.suffix


def _cubin_functions(
    file: Path, image: RawImage, cubin: Cubin, opcodes: dict[str, Opcodes | str]
) -> list[FunctionCode]:
    rows = []
    for kernel in cubin.kernels:
        read = opcodes.get(kernel.symbol, "it was not disassembled")
        counts = read.counts if isinstance(read, Opcodes) else {}
        local = kernel.stack if isinstance(read, str) or {"STL", "LDL"} & counts.keys() else 0
        rows.append(
            FunctionCode(
                file=file.name,
                function=kernel.symbol,
                symbol=kernel.symbol,
                target=_target(image),
                kind="cubin",
                verdict="",
                reason="",
                opcodes=counts,
                registers=kernel.registers,
                spills=local,
                shared_memory=kernel.shared,
                code_hash=kernel.code_hash,
                instructions=read.instructions if isinstance(read, Opcodes) else 0,
                failure=read if isinstance(read, str) else "",
            )
        )
    return rows


def _ptx_functions(file: Path, image: RawImage) -> list[FunctionCode]:
    text = image.data.rstrip(b"\0").decode(errors="replace")
    marks = list(_ENTRY.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    rows = []
    for mark, end in zip(marks, ends, strict=True):
        body = text[mark.start() : end]
        counts: dict[str, int] = {}
        for opcode in _PTX_TELLING.findall(body):
            counts[opcode] = counts.get(opcode, 0) + 1
        rows.append(
            FunctionCode(
                file=file.name,
                function=mark[1],
                symbol=mark[1],
                target=_target(image),
                kind="ptx",
                verdict="",
                reason="",
                opcodes=dict(sorted(counts.items())),
                registers=None,
                spills=None,
                shared_memory=None,
                code_hash=hashlib.sha256(body.encode()).hexdigest(),
            )
        )
    return rows


def declare(functions: Sequence[FunctionCode], instances: Sequence[Declared]) -> tuple[FunctionCode, ...]:
    """Functions with the verdicts that follow from the instances whose pattern fits their names."""
    patterns = [(re.compile(instance.function), instance) for instance in instances]
    owner: dict[str, Declared | None] = {}
    result = []
    for function in functions:
        name = function.function
        if name not in owner:
            owner[name] = next((one for pattern, one in patterns if pattern.search(name)), None)
        instance = owner[name]
        if instance is None:
            result.append(function)
        else:
            result.append(function.judged(instance.declares, instance.kernel, instance.name))
    return tuple(result)
