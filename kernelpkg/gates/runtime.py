"""The questions a running program asks of a device, under the names the field uses for them."""

from __future__ import annotations

import sys
from typing import Any

from kernelpkg.arch.capability import ArchError, Capability
from kernelpkg.arch.detect import detect
from kernelpkg.errors import UsageError
from kernelpkg.gates.table import EVIDENCE, gate

_FP8_NAMES = frozenset({"fp8", "e4m3", "float8_e4m3fn"})
_16BIT_NAMES = {
    "fp16": "float16",
    "half": "float16",
    "float16": "float16",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
}


def capability_of(device: Any) -> Capability:
    """The capability of a Device, a capability in any form, a tensor, or a torch device such as 'cuda:1'.

    A tensor answers for the device it is on. Raises ArchError where there is no such GPU or it is a CPU.
    """
    if isinstance(device, Capability):
        return device
    own = getattr(device, "capability", None)
    if own is not None:
        return Capability.parse(own)
    where = getattr(device, "device", device)
    text = str(where)
    if text == "cuda" or text.startswith("cuda:"):
        index = _index_of(text)
        torch = sys.modules.get("torch")
        if torch is not None and index < torch.cuda.device_count():
            return Capability(*torch.cuda.get_device_capability(index))
        found = detect()
        if index >= len(found.devices):
            raise ArchError(
                f"there is no device {text} here, {len(found.devices)} GPUs were found"
                + (f" ({found.message})" if found.message else "")
                + "; give a capability such as 12.1 to ask about a device that is not here"
            )
        capability = found.devices[index].capability
        if capability is None:
            raise ArchError(f"the capability of {text} could not be read; give it, for example 12.1")
        return capability
    if text == "cpu" or text.startswith("cpu:"):
        raise ArchError(
            "a CPU has no compute capability; give a GPU such as 'cuda:0' or a capability such as 12.1"
        )
    return Capability.parse(where)


def _index_of(text: str) -> int:
    _, _, index = text.partition(":")
    if not index:
        # 'cuda' means the current device, which only torch knows.
        try:
            import torch

            return int(torch.cuda.current_device())
        except Exception as error:
            raise ArchError("'cuda' names the current device and torch has none; write 'cuda:0'") from error
    if not index.isdigit():
        raise ArchError(f"{text!r} is not a device; write it as 'cuda:0'")
    return int(index)


def is_device_capability(capability: object, device: Any) -> bool:
    """Whether the device has exactly this capability: is_device_capability(120, 'cuda:0')."""
    return capability_of(device) == Capability.parse(capability)


def is_device_capability_family(capability: object, device: Any) -> bool:
    """Whether the device is of this capability's family: is_device_capability_family(120, '12.1') is True.

    A family is bounded: 120 means [12.0, 13.0).
    """
    return capability_of(device).family == Capability.parse(capability).family


def has_device_capability(capability: object, device: Any) -> bool:
    """Whether the device has at least this capability.

    Newer does not mean the same instructions: for FP8 ask a gate, or `is_device_capability_family`.
    """
    return capability_of(device) >= Capability.parse(capability)


def get_marlin_input_dtype(requested: Any, device: Any, allow_emulation: bool = False) -> Any:
    """The activation dtype marlin_gemm takes on this device, given the one asked for.

    requested: None (the layer's own 16-bit type), 'fp16', 'bf16', 'fp8', 'e4m3', torch's names for them, or a
    torch dtype. device: as in `capability_of`.
    Returns None for None, the same torch dtype for a torch dtype, else torch's name for it as text.

    FP8 on a device that would emulate it is refused with GateRefusal (have, need, why, instead);
    allow_emulation=True lets it through on 9.0, for which the emulated build is kept as evidence. Raises
    UsageError for another dtype.
    """
    where = capability_of(device)
    name = None if requested is None else str(requested).removeprefix("torch.").lower()
    if name is not None and name not in _FP8_NAMES and name not in _16BIT_NAMES:
        raise UsageError(
            f"{requested!r} is not an activation dtype of marlin_gemm; it takes float16, bfloat16 and "
            "float8_e4m3fn (fp16, bf16, fp8), or None for the layer's own"
        )
    if name in _FP8_NAMES:
        if not (allow_emulation and EVIDENCE.ask(where)):
            gate("marlin_fp8").require(where)
        name = "float8_e4m3fn"
    else:
        gate("marlin_16bit").require(where)
        name = None if name is None else _16BIT_NAMES[name]
    return name if requested is None or isinstance(requested, str) else requested
