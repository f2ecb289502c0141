"""The tensors of a checkpoint on disk: found by name, described from the headers, read one at a time.

File format: https://github.com/huggingface/safetensors#format (8 bytes of header length, a JSON header with
dtype, shape and offsets of every tensor, then the data). The headers are read here, so that a damaged file is
refused by the name of a tensor before anything is loaded; the data are read by the safetensors library.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kernelpkg.errors import UsageError

INDEX = "model.safetensors.index.json"
_MOST_HEADER_BYTES = 100_000_000  # the limit of the file format
_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
# What a user calls them; the rest keep the name of the file format.
_DTYPE_NAMES = {
    "U8": "uint8",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """What a file's header says of one tensor. dtype is the file format's name of it: 'I32', 'F8_E4M3',
    ..."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path

    def __str__(self) -> str:
        return f"tensor {self.name!r} of {self.file.name}"

    @property
    def what(self) -> str:
        """dtype and shape, as messages give them."""
        return f"{dtype_name(self.dtype)} {list(self.shape)}"


def dtype_name(dtype: str) -> str:
    """The file format's dtype as PyTorch calls it."""
    return _DTYPE_NAMES.get(dtype, dtype)


class Checkpoint:
    """A checkpoint's tensors: `entries` by name, from the headers alone; `read` loads one.

    path: a .safetensors file, a folder with model.safetensors.index.json, or a folder with one .safetensors
    file. Raises UsageError for a path that is none of these and for whatever is wrong with a file: no header,
    a header that is no JSON, a tensor whose bytes are missing or do not fit its shape, an index that names a
    file or tensor that is not there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        given = Path(path).expanduser()
        self.folder = given if given.is_dir() else given.parent
        index = given / INDEX
        if given.is_dir() and index.is_file():
            self.entries = _indexed(index)
        else:
            self.entries = read_header(_single_file(given))

    def read(self, name: str, device: torch.device | str = "cpu", part: int | None = None) -> Tensor:
        """One tensor on `device`; with `part`, only the slice of that index along its first dimension."""
        entry = self.entries[name]
        try:
            with safe_open(entry.file, framework="pt", device=str(device)) as file:
                tensor = file.get_tensor(name) if part is None else file.get_slice(name)[part]
                # On the CPU it is a view of the mapped file: at any address, and of bytes that can change.
                return tensor.clone() if tensor.device.type == "cpu" else tensor
        except (SafetensorError, OSError) as error:
            raise UsageError(
                f"{entry} cannot be read ({error}); the file is damaged, fetch it again"
            ) from error


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors that a .safetensors file holds, by name, checked against the length of the file."""
    with path.open("rb") as file:
        length = path.stat().st_size
        start = file.read(8)
        header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if len(start) < 8 or header_bytes > min(length - 8, _MOST_HEADER_BYTES):
            raise UsageError(
                f"{path} is {length} bytes and holds no whole safetensors header; it is truncated or of "
                "another kind, fetch it again"
            )
        raw = file.read(header_bytes)
    described = parse_json(raw, f"the header of {path}", "fetch the file again")
    described.pop("__metadata__", None)
    data_bytes = length - 8 - header_bytes
    entries = {name: _entry(name, said, path, data_bytes) for name, said in described.items()}
    end = max((said["data_offsets"][1] for said in described.values()), default=0)
    if end < data_bytes:
        raise UsageError(
            f"{path} holds {data_bytes - end} bytes after its last tensor; it is damaged, fetch it again"
        )
    return entries


def parse_json(raw: bytes, what: str, advice: str) -> dict[str, Any]:
    """A JSON object, or a UsageError that names `what` and gives `advice`."""
    try:
        parsed = json.loads(raw)
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8 are a ValueError too
        raise UsageError(f"{what} is no JSON ({error}); {advice}") from error
    if not isinstance(parsed, dict):
        raise UsageError(f"{what} is a JSON {type(parsed).__name__}; it must be an object, {advice}")
    return parsed


def _entry(name: str, said: Any, path: Path, data_bytes: int) -> TensorEntry:
    where = f"tensor {name!r} of {path.name}"
    match said:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if (
            all(type(size) is int and size >= 0 for size in shape) and 0 <= begin <= end
        ):
            pass
        case _:
            raise UsageError(
                f"{where} is described by {str(said)[:120]}; it must have a dtype, a shape and two "
                "data_offsets, fetch the file again"
            )
    if end > data_bytes:
        raise UsageError(
            f"{where} ends at byte {end} of the data and the file holds {data_bytes}; it is truncated, fetch "
            "it again"
        )
    needed = math.prod(shape) * _ITEM_BYTES.get(dtype, 0)
    if dtype in _ITEM_BYTES and needed != end - begin:
        raise UsageError(
            f"{where} is {dtype_name(dtype)} {shape}, {needed} bytes, and its data_offsets hold "
            f"{end - begin}; the file is damaged, fetch it again"
        )
    return TensorEntry(name, dtype, tuple(shape), path)


def _single_file(given: Path) -> Path:
    if given.is_file():
        return given
    if not given.is_dir():
        raise UsageError(
            f"{given} is not there; name a .safetensors file or a folder that holds a checkpoint"
        )
    found = sorted(given.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:3]) or "none"
        raise UsageError(
            f"{given} holds {len(found)} .safetensors files ({names}) and no {INDEX}; name one file, or "
            "fetch the index"
        )
    return found[0]


def _indexed(index: Path) -> dict[str, TensorEntry]:
    files = parse_json(index.read_bytes(), str(index), "fetch it again").get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise UsageError(f"{index} has no weight_map of tensor names to file names; fetch it again")
    headers = _headers(index, sorted(set(files.values())), lambda shard: _tensors_of(files, shard))
    for name, shard in files.items():
        if name not in headers[shard]:
            raise UsageError(
                f"tensor {name!r} is in {shard} by {index.name} and not by the file; fetch both again"
            )
    return {name: headers[shard][name] for name, shard in files.items()}


def _headers(
    index: Path, shards: list[str], tensors_of: Callable[[str], str]
) -> dict[str, dict[str, TensorEntry]]:
    headers = {}
    for shard in shards:
        relative = PurePosixPath(shard)
        if relative.is_absolute() or ".." in relative.parts:
            raise UsageError(
                f"{index} names the file {shard!r}; it must lie in the same folder, fetch the index again"
            )
        path = index.parent / relative
        if not path.is_file():
            raise UsageError(
                f"{shard} is not in {index.parent} and {index.name} says it holds {tensors_of(shard)}; fetch "
                "it"
            )
        headers[shard] = read_header(path)
    return headers


def _tensors_of(files: dict[str, str], shard: str) -> str:
    names = [name for name, holder in files.items() if holder == shard]
    return f"tensor {names[0]!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
