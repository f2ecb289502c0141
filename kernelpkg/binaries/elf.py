"""A small reader of 64-bit ELF files: host libraries that carry GPU code, and cubins, which are ELF too."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MACHINE_CUDA = 190  # EM_CUDA
TYPE_RELOCATABLE = 1  # ET_REL
SECTION_NOBITS = 8  # SHT_NOBITS: a size in memory, no bytes in the file
SYMBOL_FUNCTION = 2  # STT_FUNC
OTHER_ENTRY = 0x10  # STO_CUDA_ENTRY in st_other: a kernel, not a device function

# Attributes of .nv.info, as `cuobjdump -elf` names them: EIATTR_FRAME_SIZE, _MIN_STACK_SIZE, _REGCOUNT.
ATTRIBUTE_FRAME = 0x11
ATTRIBUTE_STACK = 0x12
ATTRIBUTE_REGISTERS = 0x2F
FORMAT_SIZED = 4  # EIFMT_SVAL: two bytes of size, then the value

# From 9.0 on the linked shared section of a kernel counts the kilobyte that the system keeps for itself.
# Measured with ptxas 13.0: the same kernel has 400 B on 8.9 and 1424 B on 9.0a and 12.0f.
RESERVED_SHARED = 1024
RESERVED_SHARED_FROM = 90


class NotElf(ValueError):
    """The bytes are not a 64-bit little-endian ELF file that can be read."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section: name, ELF type, where its bytes are, its size, and the link/info words."""

    name: str
    kind: int
    offset: int
    size: int
    link: int
    info: int


@dataclass(frozen=True, slots=True)
class Symbol:
    """One symbol of the symbol table, with its index there."""

    index: int
    name: str
    kind: int
    other: int
    section: int


class Elf:
    """The sections and symbols of one ELF image. Raises NotElf."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)
        if len(self.data) < 64 or bytes(self.data[:6]) != b"\x7fELF\x02\x01":
            raise NotElf("not a 64-bit little-endian ELF file")
        try:
            self.type, self.machine = struct.unpack_from("<HH", self.data, 16)
            (table,) = struct.unpack_from("<Q", self.data, 40)
            (self.flags,) = struct.unpack_from("<I", self.data, 48)
            entry, count, names = struct.unpack_from("<HHH", self.data, 58)
            if table and not count:  # more than 65,279 sections: the count is in the first section's size
                (count,) = struct.unpack_from("<Q", self.data, table + 32)
            if names == 0xFFFF:
                (names,) = struct.unpack_from("<I", self.data, table + 40)
            raw = [
                struct.unpack_from("<IIQQQQII", self.data, table + index * entry) for index in range(count)
            ]
            text = self.data[raw[names][4] : raw[names][4] + raw[names][5]] if count else memoryview(b"")
            self.sections = [
                Section(_string(text, row[0]), row[1], row[4], row[5], row[6], row[7]) for row in raw
            ]
        except (struct.error, IndexError) as error:
            raise NotElf(f"broken ELF headers: {error}") from error

    def bytes_of(self, section: Section) -> memoryview:
        """The section's bytes in the file (none for a NOBITS section)."""
        if section.kind == SECTION_NOBITS:
            return memoryview(b"")
        return self.data[section.offset : section.offset + section.size]

    def named(self, name: str) -> Section | None:
        """The first section of that name."""
        return next((section for section in self.sections if section.name == name), None)

    def symbols(self) -> Iterator[Symbol]:
        """The symbols of .symtab, in order."""
        table = self.named(".symtab")
        if table is None:
            return
        names = self.bytes_of(self.sections[table.link])
        for index, row in enumerate(struct.iter_unpack("<IBBHQQ", self.bytes_of(table))):
            yield Symbol(index, _string(names, row[0]), row[1] & 0xF, row[2], row[3])


def _string(table: memoryview, offset: int) -> str:
    end = offset
    size = len(table)
    step = 256
    while end < size:
        piece = bytes(table[end : end + step])
        zero = piece.find(0)
        if zero >= 0:
            return bytes(table[offset : end + zero]).decode(errors="replace")
        end += step
    return bytes(table[offset:]).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of a cubin as its headers tell it; instructions come from the disassembler.

    `spans` are offset and size of the text sections that make up the kernel (its own, then separately
    compiled callees), `registers` per thread, `stack` bytes of local memory per thread, `shared` bytes of
    static shared memory without the system's own kilobyte, `code_hash` sha256 of the text bytes.
    """

    symbol: str
    spans: tuple[tuple[int, int], ...]
    registers: int | None
    stack: int
    shared: int
    code_hash: str


@dataclass(frozen=True, slots=True)
class Cubin:
    """One image of machine code: capability number (120), suffix ('', 'a', 'f'; None: unknown), kernels."""

    number: int
    suffix: str | None
    kernels: tuple[Kernel, ...]
    data: bytes


def capability_number(elf: Elf) -> int:
    """90 for sm_90: bits 8 to 15 of e_flags (ABI 8), else the low byte, as CUDA 12 wrote it."""
    middle, low = elf.flags >> 8 & 0xFF, elf.flags & 0xFF
    abi = elf.data[8]
    return middle if abi >= 8 or not low else low


def noted_suffix(elf: Elf, number: int) -> str | None:
    """The suffix that the .note.nv.tkinfo section records ('-arch sm_120f'); None where the note is gone.

    e_flags and the dump header of a bare cubin keep no suffix. Below 9.0 no suffix exists, so '' is certain.
    """
    if number < 90:
        return ""
    note = elf.named(".note.nv.tkinfo")
    found = (
        re.search(rb"-arch[= ](?:sm|compute)_%d([af]?)\b" % number, bytes(elf.bytes_of(note)))
        if note
        else None
    )
    return found.group(1).decode() if found else None


def read_cubin(data: bytes | memoryview, suffix: str | None = None) -> Cubin:
    """Reads the headers of a cubin. `suffix` is what its container says; None: its note section is asked.

    Raises NotElf.
    """
    elf = Elf(data)
    if elf.machine != MACHINE_CUDA:
        raise NotElf(f"ELF machine {elf.machine} is not CUDA ({MACHINE_CUDA})")
    number = capability_number(elf)
    symbols = list(elf.symbols())
    functions = {
        symbol.index: symbol
        for symbol in symbols
        if symbol.kind == SYMBOL_FUNCTION and 0 < symbol.section < len(elf.sections)
    }
    registers, frames, stacks = _info(elf)
    calls = _calls(elf)
    by_name = {section.name: section for section in elf.sections}
    kernels = []
    for symbol in functions.values():
        if not symbol.other & OTHER_ENTRY:
            continue
        parts = [functions[index] for index in _reached(symbol.index, calls, functions)]
        texts = [elf.sections[section] for section in dict.fromkeys(part.section for part in parts)]
        digest = hashlib.sha256()
        for text in texts:
            digest.update(elf.bytes_of(text))
        shared = by_name.get(f".nv.shared.{symbol.name}")
        size = shared.size if shared else 0
        if number >= RESERVED_SHARED_FROM and elf.type != TYPE_RELOCATABLE and size >= RESERVED_SHARED:
            size -= RESERVED_SHARED
        count = registers.get(symbol.index)
        if count is None:  # before .nv.info held it, the text section's info word did, in its top byte
            count = (texts[0].info >> 24) or None
        frame = sum(frames.get(part.index, 0) for part in parts)
        kernels.append(
            Kernel(
                symbol=symbol.name,
                spans=tuple((text.offset, text.size) for text in texts),
                registers=count,
                stack=max(stacks.get(symbol.index, 0), frame),
                shared=size,
                code_hash=digest.hexdigest(),
            )
        )
    known = suffix if suffix is not None else noted_suffix(elf, number)
    return Cubin(number, known, tuple(kernels), bytes(elf.data))


def _info(elf: Elf) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
    """Registers, frame and smallest stack per symbol index, from .nv.info."""
    found: dict[int, dict[int, int]] = {ATTRIBUTE_REGISTERS: {}, ATTRIBUTE_FRAME: {}, ATTRIBUTE_STACK: {}}
    section = elf.named(".nv.info")
    data = elf.bytes_of(section) if section else memoryview(b"")
    position = 0
    while position + 4 <= len(data):
        form, attribute, value = struct.unpack_from("<BBH", data, position)
        position += 4
        if form != FORMAT_SIZED:
            continue
        if attribute in found and value >= 8 and position + 8 <= len(data):
            index, amount = struct.unpack_from("<II", data, position)
            found[attribute][index] = amount
        position += value
    return found[ATTRIBUTE_REGISTERS], found[ATTRIBUTE_FRAME], found[ATTRIBUTE_STACK]


def _calls(elf: Elf) -> dict[int, list[int]]:
    """Callees by caller, as symbol indices, from .nv.callgraph (needed for code compiled with -rdc=true)."""
    section = elf.named(".nv.callgraph")
    calls: dict[int, list[int]] = {}
    data = bytes(elf.bytes_of(section)) if section else b""
    for caller, callee in struct.iter_unpack("<II", data[: len(data) // 8 * 8]):
        if caller and callee < 0xFFFFFFF0:  # the highest values mark unknown callers and callees
            calls.setdefault(caller, []).append(callee)
    return calls


def _reached(start: int, calls: dict[int, list[int]], functions: dict[int, Symbol]) -> list[int]:
    """`start`, then every function it can call that has code in this image."""
    order, waiting = [start], [start]
    while waiting:
        for callee in calls.get(waiting.pop(), ()):
            if callee in functions and callee not in order:
                order.append(callee)
                waiting.append(callee)
    return order
