"""Device images inside a file: fat binaries in libraries, objects and archives, bare cubins, PTX.

The container is read here, byte by byte, because its entry headers are what keeps the exact suffix: the
usual listing prints 120f as 120. Flags and layout were measured on what nvcc 13.0 writes and agree with the
`arch =` header of `cuobjdump -elf` (a test compares the two). Compressed images are unpacked by cuobjdump.
"""

from __future__ import annotations

import re
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kernelpkg.binaries.elf import MACHINE_CUDA, Elf, NotElf, capability_number, noted_suffix
from kernelpkg.binaries.tools import find_tool, run_tool
from kernelpkg.errors import KernelpkgError, UsageError

MAGIC = 0xBA55ED50
_MAGIC_BYTES = struct.pack("<I", MAGIC)
KIND_PTX, KIND_ELF = 1, 2
FLAG_SPECIFIC = 0x0010_0000  # suffix a
FLAG_FAMILY = 0x0020_0000  # suffix f
FLAG_COMPRESSED = 0x2000 | 0x8000  # LZ4 (older toolkits), zstd
# Where linkers keep executable fat binaries; code that still waits for device linking is in the second.
SECTIONS = (".nv_fatbin", "__nv_relfatbin")
AR_MAGIC = b"!<arch>\n"


class NoDeviceCode(UsageError):
    """The file is none of the kinds that can hold device code, or holds none."""


class BrokenBinary(KernelpkgError):
    """A container or an image in it could not be read."""


@dataclass(frozen=True, slots=True)
class RawImage:
    """One image: kind 'cubin' or 'ptx', capability number (120), suffix ('', 'a', 'f' or None), its bytes.

    suffix None: the file does not record it. `bare` is True for a file that is itself the image.
    """

    kind: str
    number: int
    suffix: str | None
    data: bytes
    bare: bool = False


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: int
    number: int
    flags: int
    header: bytes
    payload: memoryview

    @property
    def suffix(self) -> str:
        return "a" if self.flags & FLAG_SPECIFIC else "f" if self.flags & FLAG_FAMILY else ""

    @property
    def compressed(self) -> bool:
        return bool(self.flags & FLAG_COMPRESSED)


def read_images(path: Path) -> tuple[RawImage, ...]:
    """Every device image of `path`, in file order.

    Reads shared libraries, objects, executables, static archives, .fatbin files, bare cubins and PTX text.
    Raises NoDeviceCode where there is none, BrokenBinary where a container cannot be read.
    """
    if not path.is_file():
        raise UsageError(
            f"{path} is not a file: name a library, an object, a cubin, a fat binary or a PTX file"
        )
    data = path.read_bytes()
    if data.startswith(b"\x7fELF"):
        try:
            elf = Elf(data)
        except NotElf as error:
            raise BrokenBinary(f"{path}: {error}") from error
        if elf.machine == MACHINE_CUDA:
            number = capability_number(elf)
            return (RawImage("cubin", number, noted_suffix(elf, number), data, bare=True),)
    elif not data.startswith((AR_MAGIC, _MAGIC_BYTES)):
        return (_bare_ptx(path, data),)
    images = _from_containers(path, data)
    if not images:
        raise NoDeviceCode(f"{path} holds no device code: no cubin and no PTX was found in it")
    return images


def _bare_ptx(path: Path, data: bytes) -> RawImage:
    text = data.decode(errors="replace")
    target = re.search(r"^\s*\.target\s+(?:sm|compute)_(\d+)([af]?)", text, re.MULTILINE)
    if target is None or not re.search(r"^\s*\.version\s", text, re.MULTILINE):
        raise NoDeviceCode(
            f"{path} is no ELF file, archive, fat binary, cubin or PTX: only those can hold device code"
        )
    return RawImage("ptx", int(target[1]), target[2], data, bare=True)


def _from_containers(path: Path, data: bytes) -> tuple[RawImage, ...]:
    entries = [entry for entry in _entries(path, _regions(data)) if entry.kind in (KIND_PTX, KIND_ELF)]
    packed = [entry for entry in entries if entry.compressed]
    unpacked = iter(_unpack(path, packed)) if packed else iter(())
    return tuple(
        RawImage(
            "cubin" if entry.kind == KIND_ELF else "ptx",
            entry.number,
            entry.suffix,
            next(unpacked) if entry.compressed else bytes(entry.payload),
        )
        for entry in entries
    )


def _regions(data: bytes) -> list[memoryview]:
    """Where containers lie: the fat binary sections of each ELF, or the whole file."""
    view = memoryview(data)
    if data.startswith(AR_MAGIC):
        return [region for member in _members(view) for region in _elf_regions(member)]
    return _elf_regions(view)


def _members(view: memoryview) -> Iterator[memoryview]:
    position = len(AR_MAGIC)
    while position + 60 <= len(view):
        size = int(bytes(view[position + 48 : position + 58]).strip() or b"0")
        yield view[position + 60 : position + 60 + size]
        position += 60 + size + size % 2


def _elf_regions(view: memoryview) -> list[memoryview]:
    if bytes(view[:4]) != b"\x7fELF":
        return [view]
    try:
        elf = Elf(view)
    except NotElf:
        return [view]
    for name in SECTIONS:
        found = [elf.bytes_of(section) for section in elf.sections if section.name == name]
        if any(len(region) for region in found):
            return found
    return [] if elf.sections else [view]  # without section headers, look everywhere


def _entries(path: Path, regions: list[memoryview]) -> Iterator[_Entry]:
    for region in regions:
        data = bytes(region)
        position = data.find(_MAGIC_BYTES)
        while position >= 0:
            if position + 16 > len(data):
                break
            _, version, header_size, size = struct.unpack_from("<IHHQ", data, position)
            start, end = position + header_size, position + header_size + size
            if version != 1 or header_size != 16 or end > len(data):
                # Four equal bytes inside other data, or a container that is cut off: the section tells which.
                if region.nbytes == len(data) and position == 0:
                    raise BrokenBinary(
                        f"{path}: the fat binary is cut off or of an unknown version ({version})"
                    )
                position = data.find(_MAGIC_BYTES, position + 4)
                continue
            yield from _container(path, data, start, end)
            position = data.find(_MAGIC_BYTES, end)


def _container(path: Path, data: bytes, start: int, end: int) -> Iterator[_Entry]:
    view = memoryview(data)
    while start + 64 <= end:
        kind, _, header_size, padded = struct.unpack_from("<HHIQ", data, start)
        (number,) = struct.unpack_from("<I", data, start + 28)
        (flags,) = struct.unpack_from("<Q", data, start + 40)
        body = start + header_size
        if header_size < 64 or body + padded > end:
            raise BrokenBinary(f"{path}: an entry of the fat binary is longer than its container")
        yield _Entry(kind, number, flags, data[start:body], view[body : body + padded])
        start = body + padded


def _unpack(path: Path, entries: list[_Entry]) -> list[bytes]:
    """The plain bytes of compressed entries: one container with all of them, given to cuobjdump."""
    body = b"".join(entry.header + bytes(entry.payload) for entry in entries)
    with tempfile.TemporaryDirectory(prefix="kernelpkg-") as name:
        folder = Path(name)
        packed = folder / "packed.fatbin"
        packed.write_bytes(struct.pack("<IHHQ", MAGIC, 1, 16, len(body)) + body)
        kinds = {entry.kind for entry in entries}
        found: dict[int, Iterator[bytes]] = {}
        for kind, option, suffix in ((KIND_ELF, "-xelf", "cubin"), (KIND_PTX, "-xptx", "ptx")):
            if kind not in kinds:
                continue
            done = run_tool(["env", "-C", folder, find_tool("cuobjdump"), option, "all", packed])
            # packed.<ordinal>.<target>.cubin: the ordinal counts entries of this kind in file order.
            files = sorted(folder.glob(f"packed.*.{suffix}"), key=lambda file: int(file.name.split(".")[1]))
            expected = sum(entry.kind == kind for entry in entries)
            if len(files) != expected:
                message = (done.stderr or done.stdout).strip().splitlines()
                raise BrokenBinary(
                    f"{path}: cuobjdump unpacked {len(files)} of {expected} compressed {suffix} images"
                    + (f": {message[-1]}" if message else "")
                )
            found[kind] = iter([file.read_bytes() for file in files])
        return [next(found[entry.kind]) for entry in entries]
