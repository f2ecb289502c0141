"""Whether a kernel or operator would run on a device, answered without calling it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernelpkg.arch import Capability, Image, Target, best_image
from kernelpkg.build import LibraryInfo, find_library
from kernelpkg.build.configurations_scaled_mm import ROUTES
from kernelpkg.build.targets import native_targets
from kernelpkg.errors import UsageError
from kernelpkg.gates import GateRefusal, gate
from kernelpkg.ops.dispatch import configurations
from kernelpkg.ops.functional import device_capability, scaled_mm_gate
from kernelpkg.ops.kernels import KERNELS, Kernel, kernel
from kernelpkg.ops.load import loaded

_BY_NAME = {entry.name: entry for entry in KERNELS}
# Operators with one kernel each.
_MICROSCALED = {
    entry.operator.split("::")[1]: entry
    for entry in KERNELS
    if entry.family == "microscaled" and entry.evidence is None
}


@dataclass(frozen=True, slots=True)
class Support:
    """The answer. Truthy where the call would run.

    op: what was asked. kernel: the kernel that would run, None where no gate admits the device. capability:
    None for the CPU. admitted: the gate's answer. built: whether the library at hand has code that loads
    there, None where there is no library to ask. reason: one sentence. library: the file asked.
    """

    op: str
    kernel: str | None
    capability: Capability | None
    admitted: bool
    built: bool | None
    reason: str
    library: str | None = None

    def __bool__(self) -> bool:
        return self.admitted and self.built is True


def supports(
    op: str,
    device_or_capability: object,
    library: LibraryInfo | None = None,
    *,
    block_scales: bool = False,
    dtype: torch.dtype = torch.float8_e4m3fn,
) -> Support:
    """Whether `op` would run on a device, and why.

    op: a kernel ('marlin_w4a8_fp8', 'scaled_mm_sm120', 'scaled_mm_sm89_standin', ...) or an operator
    ('marlin_gemm', meaning its 16-bit kernels; 'marlin_repack'; 'mxfp8_scaled_mm'; 'nvfp4_scaled_mm';
    'cutlass_scaled_mm', whose kernel the device decides).
    device_or_capability: 'cpu', a torch device, or anything Capability.parse reads ('12.1', 'DGX Spark').
    library: whose contents to ask; None: the loaded one, else the one that would be loaded.
    block_scales, dtype: of cutlass_scaled_mm, whether scales come in blocks of 128, and the type of a
    (float8_e4m3fn or float8_e5m2). A loaded library is asked for the kernel itself; the manifest of one that
    is not knows kernels of any such kind together.

    No kernel is run. Raises UsageError for an unknown op or dtype.
    """
    _known(op, block_scales, dtype)
    capability = _capability(device_or_capability)
    at_hand = library or loaded() or find_library(capability)
    path = str(at_hand.path) if at_hand else None
    if capability is None:
        built = at_hand is not None
        reason = (
            f"{op} runs on the CPU as a reference."
            if built
            else f"{op} has a CPU reference; run `kernelpkg build` first."
        )
        return Support(op, None, None, True, built or None, reason, path)
    try:
        entry = _kernel_for(op, capability)
    except GateRefusal as refusal:
        return Support(op, None, capability, False, None, str(refusal), path)

    answer = gate(entry.gate).ask(capability)
    if not answer:
        return Support(op, entry.name, capability, False, None, answer.reason, path)
    if at_hand is None:
        reason = f"{answer.reason} No library is built yet: run {_build_for(capability)}."
        return Support(op, entry.name, capability, True, None, reason)
    built, why = _holds(at_hand, entry, capability, block_scales, dtype)
    word = {True: "Built", False: "Not built", None: "Unknown whether built"}[built]
    reason = f"{answer.reason} {word}: {why}."
    return Support(op, entry.name, capability, True, built, reason, path)


def _holds(
    library: LibraryInfo, entry: Kernel, capability: Capability, block_scales: bool, dtype: torch.dtype
) -> tuple[bool | None, str]:
    """Whether the library has machine code of this kernel that loads on the capability, and why.

    Which targets a kernel was compiled for stands in the manifest, which a build reads back from the machine
    code; which kernels of scaled_mm there are, a loaded library says itself.
    """
    targets = library.manifest.get("kernels", {}).get(entry.name, {}).get("targets", [])
    asked = entry.family == "scaled_mm" and library == loaded()
    if entry.family == "scaled_mm" and not _made(entry, block_scales, dtype):
        instead = (
            "give scales per tensor, token or channel, or take marlin_gemm for weights in 128x128 blocks"
            if block_scales
            else "take float8_e4m3fn"
        )
        return False, f"no build of {entry.name} takes {_kind(block_scales, dtype)}; {instead}"
    if asked and not _registered(entry, block_scales, dtype):
        kind, whole = _kind(block_scales, dtype), _build_for(capability, "--set release ")
        return False, f"{library.path} holds no {entry.name} for {kind}; run {whole}"
    if not library.manifest:
        if not asked:
            return None, f"{library.path} has no manifest beside it; `kernelpkg inspect` reads what it holds"
        # A gate's kernels are compiled for the targets it ships and for no other.
        targets = [str(target) for target in gate(entry.gate).ships]
        if len(targets) != 1:
            return None, f"{library.path} holds {entry.name}, and no manifest that says for which target"
    if not targets:
        return False, f"{library.path} holds no {entry.name}; run {_build_for(capability)}"
    if entry.family == "scaled_mm" and not asked and (block_scales or dtype != torch.float8_e4m3fn):
        kind = _kind(block_scales, dtype)
        return None, f"{library.path} is not loaded, and its manifest does not say which kernels take {kind}"
    _, load_answer = best_image(tuple(Image("cubin", Target.parse(target)) for target in targets), capability)
    again = "" if load_answer.native else f"; run {_build_for(capability)}"
    return load_answer.native, f"{load_answer.reason}{again}"


def _made(entry: Kernel, block_scales: bool, dtype: torch.dtype) -> bool:
    """Whether a release build has a kernel of scaled_mm for this kind of call."""
    scales = "block" if block_scales else "vector"
    element = str(dtype).removeprefix("torch.float8_").removesuffix("fn")
    return any(
        one.scales == scales and element in (one.standins if entry.evidence else one.activations)
        for route in ROUTES
        if route.gate == (entry.shown_for or entry.name)
        for one in route.configurations
    )


def _registered(entry: Kernel, block_scales: bool, dtype: torch.dtype) -> bool:
    """Whether the loaded library has a kernel of scaled_mm for this kind of call."""
    standin = entry.evidence is not None
    route = entry.shown_for or entry.name
    return any(
        one.block_scales == block_scales and one.dtype == dtype for one in configurations(route, standin)
    )


def _kind(block_scales: bool, dtype: torch.dtype) -> str:
    """'float8_e5m2 activations with scales in blocks'"""
    return f"{str(dtype).removeprefix('torch.')} activations" + " with scales in blocks" * block_scales


def _build_for(capability: Capability, chosen_set: str = "") -> str:
    """The command that builds what a device of this capability runs."""
    return f"`kernelpkg build {chosen_set}--arch {','.join(map(str, native_targets(capability)))}`"


def _known(op: str, block_scales: bool, dtype: torch.dtype) -> None:
    names = {entry.name for entry in KERNELS} | {"marlin_gemm", "cutlass_scaled_mm", *_MICROSCALED}
    if op not in names:
        raise UsageError(f"no operator or kernel is called {op!r}; there are {', '.join(sorted(names))}")
    if dtype not in (torch.float8_e4m3fn, torch.float8_e5m2):
        raise UsageError(f"dtype is {dtype}; it must be torch.float8_e4m3fn or torch.float8_e5m2")
    kinds = op == "cutlass_scaled_mm" or (op in _BY_NAME and _BY_NAME[op].family == "scaled_mm")
    if not kinds and (block_scales or dtype != torch.float8_e4m3fn):
        raise UsageError(
            f"{op} is no cutlass_scaled_mm: block_scales and dtype say nothing of it, leave them out"
        )


def _kernel_for(op: str, capability: Capability) -> Kernel:
    if op == "cutlass_scaled_mm":
        return kernel(scaled_mm_gate(capability))  # each gate's kernel has its name
    return _MICROSCALED.get(op) or kernel("marlin_w8a16" if op == "marlin_gemm" else op)


def _capability(asked: object) -> Capability | None:
    """None means the CPU."""
    if isinstance(asked, torch.device) or (isinstance(asked, str) and asked.split(":")[0] in ("cpu", "cuda")):
        device = torch.device(asked)
        if device.type == "cpu":
            return None
        if device.type != "cuda" or not torch.cuda.is_available():
            raise UsageError(
                f"there is no device {device} here; name a capability such as '12.1' to ask about one"
            )
        index = torch.cuda.current_device() if device.index is None else device.index
        return device_capability(index)
    return Capability.parse(getattr(asked, "capability", asked))
