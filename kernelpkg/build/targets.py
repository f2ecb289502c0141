"""Which targets a build is for: named ones, or those that load natively on the GPUs here."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from kernelpkg.arch import Capability, Detection, Image, Target, best_image, detect, parse_targets
from kernelpkg.build.instance import SETS
from kernelpkg.errors import UsageError
from kernelpkg.gates import GATES

# What is built where no GPU is: Hopper, whose runners CI and the stand-ins need, and the family of the DGX
# Spark.
FALLBACK_TARGETS = "9.0a,12.0f"


def allowed_targets() -> tuple[Target, ...]:
    """Every target that some gate ships, in order."""
    return tuple(sorted({target for gate in GATES for target in gate.ships}))


# Without one of these no driver serves a GPU here; with one, what NVML cannot tell is worth importing torch
# for.
DRIVER_FILES = (
    "/dev/nvidiactl",
    "/dev/nvidia0",
    "/dev/nvgpu",
    "/dev/nvmap",
    "/dev/dxg",
    "/proc/driver/nvidia",
)


def quick_detect() -> Detection:
    """`arch.detect` without the seconds of importing torch wherever NVML's answer is enough."""
    found = detect(use_torch=False)
    if any(device.capability for device in found.devices) or not any(Path(p).exists() for p in DRIVER_FILES):
        return found
    return detect()


def capabilities_of(detection: Detection) -> tuple[Capability, ...]:
    """The capabilities of the devices found; a device that did not tell its own is left out."""
    return tuple(device.capability for device in detection.devices if device.capability is not None)


def native_targets(capability: Capability) -> tuple[Target, ...]:
    """The shipped targets a device of this capability runs as they are: per gate that admits it the nearest
    one, so 12.1 gives 12.0f and 9.0 gives 9.0a. Empty where no gate admits it or none of its code loads.
    """
    found: set[Target] = set()
    for gate in GATES:
        if gate.ask(capability).admitted:
            image, answer = best_image(tuple(Image("cubin", target) for target in gate.ships), capability)
            if image is not None and answer.native:
                found.add(image.target)
    return tuple(sorted(found))


def resolve_targets(arch: str | Iterable[object], detection: Detection | None = None) -> tuple[Target, ...]:
    """The targets of `arch`: 'native', or a list such as '9.0a,12.0f' (a string or several values).

    detection: what `kernelpkg.arch.detect()` found; asked for when None and 'native' is wanted. Raises
    UsageError where 'native' finds no GPU, or one that no gate serves, and where a target is asked for that
    no gate ships.
    """
    listed = _listing(allowed_targets())
    if isinstance(arch, str) and arch.strip().lower() == "native":
        found = quick_detect() if detection is None else detection
        if not found.devices:
            why = f" ({found.message.rstrip('.')})" if found.message else ""
            raise UsageError(
                f"'native' needs a GPU and none is here{why}; name the targets instead, for example "
                f"`kernelpkg build --arch {FALLBACK_TARGETS}`. Targets with kernels: {listed}."
            )
        targets = sorted({target for one in capabilities_of(found) for target in native_targets(one)})
        if not targets:
            have = ", ".join(f"{device.name} ({device.capability})" for device in found.devices)
            raise UsageError(
                f"No gate admits the GPUs here: {have}; kernels exist for {listed}. Name targets with --arch "
                "to build them for another machine."
            )
        return tuple(targets)
    targets = parse_targets(arch)
    unknown = [target for target in targets if target not in allowed_targets()]
    if unknown:
        raise UsageError(
            f"No gate ships {_listing(unknown)}: the targets with kernels are {listed}{_advice(unknown[0])}."
        )
    return tuple(sorted(targets))


def _advice(target: Target) -> str:
    loading = native_targets(target.capability)
    if not loading:
        return ""
    return f"; on a {target.capability} device {_listing(loading)} runs as it is"


def _listing(targets: Iterable[Target]) -> str:
    return ", ".join(str(target) for target in targets)


def native_or_none(detection: Detection | None = None) -> tuple[Target, ...]:
    """The targets of the GPUs here that a gate serves; empty where there are none. Never raises."""
    found = quick_detect() if detection is None else detection
    return tuple(sorted({target for one in capabilities_of(found) for target in native_targets(one)}))


def default_targets(detection: Detection | None = None) -> str:
    """What is built when nobody says: the GPUs' own targets where a GPU is here, else '9.0a,12.0f'."""
    native = native_or_none(detection)
    return ",".join(map(str, native)) if native else FALLBACK_TARGETS


def add_native(targets: str | Iterable[object], detection: Detection | None = None) -> str:
    """The named targets and those of the GPUs here, as one list such as '9.0a,12.0f'."""
    if isinstance(targets, str) and targets.strip().lower() == "native":
        return ",".join(map(str, resolve_targets(targets, detection)))
    named = parse_targets(targets)
    return ",".join(map(str, sorted({*named, *native_or_none(detection)})))


def default_set(detection: Detection | None = None) -> str:
    """The set that is built when nobody says: KERNELPKG_SET where it is given, 'release' where a GPU that a
    gate serves is here (its tiles are what makes kernels fast), else 'test'.
    """
    asked = os.environ.get("KERNELPKG_SET", "").strip()
    if asked and asked not in SETS:
        raise UsageError(
            f"KERNELPKG_SET={asked} is not a set of kernel instances; choose one of {', '.join(SETS)}."
        )
    return asked or ("release" if native_or_none(detection) else "test")
