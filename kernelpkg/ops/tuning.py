"""How marlin_gemm computes a call: by its heuristics, or as a measurement on this device has said.

    kernelpkg tune --m 1,16,64        # measures, and keeps what it found for this device

    from kernelpkg import ops
    ops.use_tuning()                  # in the process that should run so

A tuning is off until it is asked for: another choice of tile and split adds in another order, so that results
may differ in their last bits from those of an untuned process. Choices are made for one device, by its name
and its number of multiprocessors, and for one build of the kernels.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from kernelpkg.build.manifest import write_atomically
from kernelpkg.errors import UsageError

ENVIRONMENT = "KERNELPKG_TUNING"
SCHEMA = 1
# csrc/marlin/choice.h and csrc/marlin/wgmma.h, in the order of their numbers.
ROUTES = ("any", "mma", "wgmma", "library")
ADDING = ("any", "clusters", "workspace")
_TYPES = ("float16", "bfloat16", "float8_e4m3fn")  # csrc/common/dtypes.h
_MOST = 256  # candidates of one call


@dataclass(frozen=True, slots=True)
class Call:
    """A call of marlin_gemm by its shapes and types. a_type, c_type: 'float16', 'bfloat16' or, for
    activations, 'float8_e4m3fn'. rows: M. group_size: -1 for one scale per channel."""

    weight_format: str
    a_type: str
    c_type: str
    rows: int
    size_n: int
    size_k: int
    group_size: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to compute it. route: 'mma' (mma.sync), 'wgmma' (9.0a), 'library' (widen, then torch's GEMM),
    or 'any', which leaves it to the heuristics. rows: of a tile. parts: how many parts of K are added. added:
    'clusters' or 'workspace' where wgmma adds parts."""

    route: str
    rows: int = 0
    parts: int = 0
    added: str = "any"

    def __str__(self) -> str:
        if self.route in ("library", "any"):
            return self.route
        where = f" by {self.added}" if self.parts > 1 and self.route == "wgmma" else ""
        return f"{self.route} {self.rows} rows, {self.parts} part{'s' * (self.parts > 1)}{where}"


class _Call(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int)
        for name in ("device", "a_type", "weight_format", "c_type", "m", "n", "k", "group_size")
    )


class _Choice(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int) for name in ("route", "rows", "parts", "added"))


def candidates(call: Call, device: int = 0) -> tuple[Choice, ...]:
    """The choices worth timing for `call` on cuda:`device`; the first is what the heuristics take.

    Raises UsageError for a call that the device or the build does not take.
    """
    found = (_Choice * _MOST)()
    count = ctypes.c_int()
    _ask("candidates", _plain(call, device), found, _MOST, ctypes.byref(count))
    return tuple(map(_choice, found[: min(count.value, _MOST)]))


def plan(call: Call, device: int = 0) -> Choice:
    """How `call` would be computed on cuda:`device` now. Raises UsageError as `candidates` does."""
    found = _Choice()
    _ask("plan", _plain(call, device), ctypes.byref(found))
    return _choice(found)


def choose(call: Call, choice: Choice, device: int = 0) -> None:
    """From now on, in this process, compute calls like `call` so.

    Like it: the same types, weight shape and group size on that device, and rows up to the same power of two
    (8 at least). Raises UsageError where `choice` cannot compute it.
    """
    wish = _Choice(
        _number(ROUTES, choice.route, "route"),
        choice.rows,
        choice.parts,
        _number(ADDING, choice.added, "added"),
    )
    _ask("choose", _plain(call, device), ctypes.byref(wish))


def forget() -> None:
    """Back to the heuristics for every call."""
    _library().kernelpkg_marlin_forget()


def tuning_path(name: str, multiprocessors: int) -> Path:
    """Where the tuning of a device is kept: in the folder KERNELPKG_TUNING, else the platform's cache."""
    slug = "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
    if named := os.environ.get(ENVIRONMENT):
        folder = Path(named).expanduser()
    else:
        from platformdirs import user_cache_path

        folder = user_cache_path("kernelpkg") / "tuning"
    return folder / f"{slug}-{multiprocessors}sm.json"


def save_tuning(path: Path, device: Mapping[str, Any], entries: Iterable[tuple[Call, Choice]]) -> Path:
    """Write choices beside those that the file has for other calls of the same device and build.

    device: name, multiprocessors and capability. A choice of route 'any' says that the heuristics' own was
    the fastest. The file is replaced whole, or not at all.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name the file of a tuning")
    build = _build()
    kept: dict[Call, tuple[Call, Choice]] = {}
    if path.is_file():
        there, other, known = _read(path)
        if other == build and _who(there) == _who(device):
            kept = {_key(call): (call, choice) for call, choice in known}
    kept |= {_key(call): (call, choice) for call, choice in entries}
    choices = [{"call": asdict(call), "choice": asdict(choice)} for call, choice in kept.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, {"schema": SCHEMA, "device": dict(device), "build": build, "choices": choices})
    return path


def use_tuning(path: Path | str | None = None, device: int = 0) -> int:
    """Apply a tuning file to cuda:`device` in this process; how many of its choices are not the default's.

    A choice measured with bfloat16 is taken for float16 as well: the tiles are the same. path: None for the
    file that `kernelpkg tune` keeps for this device. Raises UsageError where there is none, and where it is
    of another device or another build of the kernels; then nothing is applied.
    """
    import torch

    if not 0 <= device < torch.cuda.device_count():
        raise UsageError(f"there is no cuda:{device} here; a tuning is of one CUDA device")
    properties = torch.cuda.get_device_properties(device)
    here = {"name": properties.name, "multiprocessors": properties.multi_processor_count}
    file = tuning_path(**here) if path is None else Path(path)
    if not file.is_file():
        raise UsageError(f"there is no tuning at {file}; `kernelpkg tune` makes one")
    there, build, known = _read(file)
    if _who(there) != _who(here):
        raise UsageError(
            f"{file} is of {there.get('name')} with {there.get('multiprocessors')} multiprocessors; this is "
            f"{here['name']} with {here['multiprocessors']}: run `kernelpkg tune` here"
        )
    if build != _build():
        raise UsageError(f"{file} was measured with another build of the kernels: run `kernelpkg tune` again")
    applied = 0
    try:
        for call, choice in known:
            for one in (call, *_with_float16(call)):
                choose(one, choice, device)
            applied += choice.route != "any"
    except UsageError as error:
        forget()
        raise UsageError(f"{file} holds a choice that does not fit ({error}); nothing is in use") from None
    return applied


def _with_float16(call: Call) -> tuple[Call, ...]:
    import torch

    from kernelpkg.ops.formats import FORMATS

    if call.c_type != "bfloat16" or torch.float16 not in FORMATS[call.weight_format].dtypes:
        return ()
    return (replace(call, c_type="float16", a_type="float16" if call.a_type == "bfloat16" else call.a_type),)


def _who(device: Mapping[str, Any]) -> tuple[Any, Any]:
    return device.get("name"), device.get("multiprocessors")


def _key(call: Call) -> Call:
    """The call that stands for all that share a choice: rows up to the same power of two, 8 at least."""
    return replace(call, rows=max(8, 1 << (call.rows - 1).bit_length()))


def _read(path: Path) -> tuple[dict[str, Any], str, list[tuple[Call, Choice]]]:
    """(device, build, choices) of a file. Raises UsageError for one that cannot be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']}, and {SCHEMA} is read")
        known = [
            (_typed(Call(**entry["call"])), _typed(Choice(**entry["choice"]))) for entry in data["choices"]
        ]
        return dict(data["device"]), str(data["build"]), known
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not a tuning that can be read ({error}); delete it") from None


def _typed(entry: Any) -> Any:
    """`entry`, all of whose fields are of their declared types. Raises ValueError for another one."""
    kinds = {"str": str, "int": int}
    for one in fields(entry):
        value = getattr(entry, one.name)
        if type(value) is not kinds[str(one.type)]:
            raise ValueError(f"{one.name} is {value!r}, which is no {one.type}")
    return entry


def _build() -> str:
    """What tells the loaded kernels from another build: the set, the targets, the sources."""
    from kernelpkg.ops.load import load

    manifest = load().manifest
    named = {name: manifest.get(name) for name in ("set", "targets", "source_hash")}
    return hashlib.sha256(json.dumps(named, sort_keys=True, default=str).encode()).hexdigest()


@cache
def _library() -> ctypes.CDLL:
    from kernelpkg.ops.load import load

    library = ctypes.CDLL(str(load().path))  # the one torch has loaded: a second dlopen returns the same
    for name in ("candidates", "plan", "choose"):
        getattr(library, f"kernelpkg_marlin_{name}").restype = ctypes.c_char_p
    return library


def _ask(name: str, call: _Call, *arguments: Any) -> None:
    if fault := getattr(_library(), f"kernelpkg_marlin_{name}")(ctypes.byref(call), *arguments):
        raise UsageError(fault.decode())


def _plain(call: Call, device: int) -> _Call:
    from kernelpkg.ops.formats import FORMATS

    if call.weight_format not in FORMATS:
        raise UsageError(f"weight_format is {call.weight_format!r}; it is one of {', '.join(FORMATS)}")
    for what in ("rows", "size_n", "size_k", "group_size"):
        if abs(number := getattr(call, what)) >= 2**31:
            raise UsageError(f"{what} is {number}; it must be less than 2^31")
    return _Call(
        device,
        _number(_TYPES, call.a_type, "a_type"),
        FORMATS[call.weight_format].code,
        _number(_TYPES, call.c_type, "c_type"),
        call.rows,
        call.size_n,
        call.size_k,
        call.group_size,
    )


def _choice(found: _Choice) -> Choice:
    return Choice(ROUTES[found.route], found.rows, found.parts, ADDING[found.added])


def _number(names: tuple[str, ...], name: str, what: str) -> int:
    if name not in names:
        raise UsageError(f"{what} is {name!r}; it is one of {', '.join(names)}")
    return names.index(name)
