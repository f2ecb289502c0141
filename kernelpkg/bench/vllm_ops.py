"""vLLM's Marlin and CUTLASS GEMMs, called without importing vLLM: a bench's peers of the same run.

They are torch operators of the namespace `_C`, in two shared objects of the wheel, which
torch.ops.load_library loads beside a torch of the release they were built for. Weights and scales are brought
here into the form these operators read. What is known of that form is for vLLM 0.22.1; a release that reads
another one gives wrong products, and the bench times no peer whose product is wrong.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernelpkg.errors import UsageError

# In the order of loading; the operators each brings.
LIBRARIES = {
    "_C.abi3.so": ("marlin_gemm", "gptq_marlin_repack"),
    "_C_stable_libtorch.abi3.so": ("cutlass_scaled_mm",),
}
# What a peer calls.
NEEDS = {
    "vllm_marlin_w8a16": LIBRARIES["_C.abi3.so"],
    "vllm_marlin_w4a16_g128": LIBRARIES["_C.abi3.so"],
    "vllm_cutlass": LIBRARIES["_C_stable_libtorch.abi3.so"],
    "vllm_cutlass_block": LIBRARIES["_C_stable_libtorch.abi3.so"],
}
# The SHA-256 of released files (manylinux x86-64), for shared objects that lie outside their wheel.
_RELEASES = {
    "1540a319bb8c8db8f4f05490e4b8d45dd2e127fd19dfc33433ba0d51491b51bc": "0.22.1",
    "ea3992481b4cfeb9d02fb55c7bdf1f6f159fb59b96f9574d19beea14513d3bc5": "0.22.1",
}
_GROUPED = 64  # columns within which the order of group scales changes
_CHANNEL = 32  # and that of scales per channel


@dataclass(frozen=True, slots=True)
class Loaded:
    """What can be called in this process.

    peers: names out of NEEDS. problems: a sentence for each file or operator that is not to be had.
    provenance: version (None where unknown), origin ('named', 'installed'), files: name -> SHA-256.
    """

    peers: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)


def locate(named: Sequence[Path | str] = ()) -> tuple[Path, ...]:
    """The shared objects to load: those named (files, or folders that hold them), else an installed vLLM's.

    Empty where none is named and vLLM is not installed. Raises UsageError for a path that holds none.
    """
    found: dict[str, Path] = {}
    for given in map(Path, named):
        if given.is_dir():
            inside = _within(given)
            if not inside:
                raise UsageError(f"{given} holds none of {', '.join(LIBRARIES)}.")
            found |= inside
        elif given.is_file():
            found[given.name] = given
        else:
            raise UsageError(f"there is no file or folder {given}; name a shared object, or its folder.")
    if not named and (spec := _installed()) is not None:
        for folder in spec.submodule_search_locations or ():
            found |= _within(Path(folder))
    order = [*LIBRARIES, *found]
    return tuple(found[name] for name in sorted(found, key=order.index))


def _within(folder: Path) -> dict[str, Path]:
    places = (folder, folder / "vllm")  # a wheel that was unpacked has them one level down
    return {
        name: place / name for place in reversed(places) for name in LIBRARIES if (place / name).is_file()
    }


def _installed() -> Any:
    """The import spec of vLLM, which is looked up and not imported; None without it."""
    try:
        return importlib.util.find_spec("vllm")
    except (ImportError, ValueError):
        return None


def load(named: Sequence[Path | str] = ()) -> Loaded:
    """Load the shared objects that `locate` finds and say which peers can be called.

    Raises UsageError for a path that is not there; a library that does not load is a problem, not an error.
    """
    files = locate(named)
    if not files and not any(map(_has, LIBRARIES["_C.abi3.so"])):
        return Loaded()
    problems = []
    for file in files:
        brought = LIBRARIES.get(file.name, tuple(name for names in LIBRARIES.values() for name in names))
        if all(map(_has, brought)):
            continue  # an operator can be registered once in a process: by vLLM itself, or by us before
        try:
            torch.ops.load_library(str(file.resolve()))
        except (OSError, RuntimeError) as error:
            problems.append(f"{file.name} does not load beside torch {torch.__version__}: {_reason(error)}")
    peers = tuple(peer for peer, operators in NEEDS.items() if all(map(_has, operators)))
    for peer in NEEDS:
        if peer not in peers:
            missing = ", ".join(f"_C::{name}" for name in NEEDS[peer] if not _has(name))
            problems.append(f"{peer} is not timed: no loaded library has {missing}")
    digests = {file.name: _digest(file) for file in files}
    provenance = {
        "version": _version(digests.values(), bool(named)),
        "origin": "named" if named else "installed",
        "files": digests,
    }
    return Loaded(peers, tuple(problems), provenance)


def _has(operator: str) -> bool:
    return hasattr(torch.ops._C, operator)


def _reason(error: BaseException) -> str:
    # torch wraps the loader's sentence; the cause says what is missing.
    text = str(error.__cause__ or error).strip()
    return (text.splitlines() or [type(error).__name__])[0][:300]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _version(digests: Any, named: bool) -> str | None:
    known = {_RELEASES.get(digest) for digest in digests}
    if len(known) == 1 and None not in known:
        return known.pop()
    if named:
        return None
    try:
        return importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return None


# ------------------------------------------------------------------------------------------- operands


def scalar_type(exponent: int, mantissa: int, signed: bool, bias: int = 0, finite: bool = False) -> int:
    """vLLM's number for an element type: its fields side by side, from the lowest bit up.

    8 bits of exponent width, 8 of mantissa width, the sign, 32 of bias, whether there are no infinities, and
    the kind of NaN: 1 as in IEEE 754, 2 the all-ones pattern alone.
    """
    number, at = 0, 0
    for value, width in ((exponent, 8), (mantissa, 8), (signed, 1), (bias, 32), (finite, 1), (1 + finite, 8)):
        number |= int(value) << at
        at += width
    return number


# format -> (element type, bits)
_TYPES = {
    "u4b8": (scalar_type(0, 4, False, bias=8), 4),
    "e4m3": (scalar_type(4, 3, True, finite=True), 8),
}


@dataclass(frozen=True, slots=True)
class MarlinWeight:
    """A weight as vLLM's marlin_gemm reads it."""

    data: Tensor
    scales: Tensor
    element: int
    size_k: int
    size_n: int

    def clone(self) -> MarlinWeight:
        """The same weight elsewhere in memory."""
        return MarlinWeight(self.data.clone(), self.scales.clone(), self.element, self.size_k, self.size_n)


def pack(quantised: Tensor, scales: Tensor, form: str) -> MarlinWeight:
    """Pack by vLLM's own operator. quantised: int32 [K/8, N] (u4b8) or e4m3 [K, N]; scales: bf16 [groups, N],
    one group for scales per channel.
    """
    element, bits = _TYPES[form]
    words = quantised if bits == 4 else bytes_to_words(quantised)
    size_k, size_n = words.shape[0] * 32 // bits, words.shape[1]
    no_order = torch.empty(0, dtype=torch.int32, device=words.device)
    data = torch.ops._C.gptq_marlin_repack(words, no_order, size_k, size_n, bits, False)
    return MarlinWeight(data, marlin_scales(scales, form), element, size_k, size_n)


def bytes_to_words(quantised: Tensor) -> Tensor:
    """e4m3 [K, N] -> int32 [K/4, N], byte j of word (r, n) from row 4 r + j."""
    rows, columns = quantised.shape
    fours = quantised.view(torch.uint8).reshape(rows // 4, 4, columns).transpose(1, 2).contiguous()
    return fours.view(torch.int32).squeeze(-1)


def marlin_scales(scales: Tensor, form: str) -> Tensor:
    """bf16 [groups, N] in the order in which the threads of vLLM's kernel load them.

    Group scales: every 64 columns as an 8 x 8 matrix, transposed. Channel scales: every 32 columns as 4 rows
    of 4 pairs, transposed by pairs. e4m3 is widened to bf16 by moving its bits, which leaves the exponent
    127 - 7 = 120 too small; the scales make up for it.
    """
    count, columns = scales.shape
    if count == 1:
        ordered = scales.reshape(-1, _CHANNEL // 8, 4, 2).transpose(1, 2)
    else:
        ordered = scales.reshape(-1, _GROUPED // 8, 8).transpose(1, 2)
    ordered = ordered.reshape(count, columns)
    return (ordered * 2.0**120 if form == "e4m3" else ordered).contiguous()


def workspace(device: torch.device) -> Tensor:
    """The locks of marlin_gemm, one per multiprocessor; the kernel leaves them at zero."""
    count = torch.cuda.get_device_properties(device).multi_processor_count
    return torch.zeros(count, dtype=torch.int32, device=device)


# ---------------------------------------------------------------------------------------------- calls


def marlin_gemm(a: Tensor, weight: MarlinWeight, locks: Tensor) -> Tensor:
    """a @ weight in bf16, as vLLM's linear layers call it: no atomics, reductions in float32."""
    return torch.ops._C.marlin_gemm(
        a,
        None,  # c
        weight.data,
        None,  # bias
        weight.scales,
        None,  # activation scales
        None,  # global scale
        None,  # zero points
        None,  # group indices
        None,  # permutation
        locks,
        weight.element,
        a.shape[0],
        weight.size_n,
        weight.size_k,
        True,  # K is whole
        False,  # atomic additions
        True,  # float32 reductions
        False,  # zero points in floating point
    )


def scaled_mm(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor) -> Tensor:
    """(scale_a * a) @ (scale_b * b) in bf16; a row-major and b column-major e4m3, float32 scales.

    Blocks of scales are [M, K/128] with stride(0) == 1 and [K/128, N/128] with stride(0) == 1; it wants M a
    multiple of 4 and N one of 128.
    """
    out = torch.empty((a.shape[0], b.shape[1]), dtype=torch.bfloat16, device=a.device)
    torch.ops._C.cutlass_scaled_mm(out, a, b, scale_a, scale_b, None)
    return out
