"""Which image runs on which device: the CUDA loading rules as one function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kernelpkg.arch.capability import ArchError, Capability
from kernelpkg.arch.target import Target

# Integrated parts of the Jetson line. Machine code never crosses between them and desktop parts,
# nor from one to another. 10.1 is what Jetson Thor was called before CUDA 13.
TEGRA = frozenset({Capability(7, 2), Capability(8, 7), Capability(10, 1), Capability(11, 0)})


@dataclass(frozen=True, slots=True)
class Image:
    """One piece of device code: machine code ('cubin') or PTX ('ptx'), and what it was compiled for."""

    kind: Literal["cubin", "ptx"]
    target: Target

    def __post_init__(self) -> None:
        if self.kind not in ("cubin", "ptx"):
            raise ArchError(f"image kind {self.kind!r} is neither 'cubin' nor 'ptx'")

    def __str__(self) -> str:
        return f"{self.target.sm} cubin" if self.kind == "cubin" else f"{self.target.compute} PTX"


@dataclass(frozen=True, slots=True)
class LoadAnswer:
    """Whether an image loads: 'cubin' as it is, 'jit' compiled by the driver from PTX, or 'no'."""

    how: Literal["cubin", "jit", "no"]
    reason: str

    @property
    def native(self) -> bool:
        """True where machine code loads as it is; compilation by the driver does not count."""
        return self.how == "cubin"

    @property
    def ok(self) -> bool:
        """True where the device runs the image at all, by machine code or through the driver's compiler."""
        return self.how != "no"


def loads(image: Image, capability: Capability) -> LoadAnswer:
    """Whether `image` loads on a device of `capability`, and why (CUDA's binary compatibility rules).

    cubin X.Y: same major, device minor at least Y, never across the border of the Jetson parts.
    cubin X.Yf: same family, device minor at least Y. cubin X.Ya: exactly X.Y.
    PTX X.Y: X.Y and all newer, by the driver's compiler; X.Yf and X.Ya as their cubins.
    """
    target = image.target
    built = target.capability
    yes: Literal["cubin", "jit"] = "cubin" if image.kind == "cubin" else "jit"
    by = "" if yes == "cubin" else ", compiled by the driver when it loads"

    if target.suffix == "a":
        if built == capability:
            return LoadAnswer(yes, f"the {image} is for exactly {built}, which this device is{by}")
        return LoadAnswer("no", f"the {image} runs on exactly {built}; this device is {capability}")

    if target.suffix == "" and image.kind == "ptx":
        if capability >= built:
            return LoadAnswer("jit", f"the {image} runs on {built} and newer{by}")
        return LoadAnswer("no", f"the {image} needs {built} or newer; this device is {capability}")

    word = "family" if target.suffix == "f" else "major version"
    if built.major != capability.major:
        return LoadAnswer("no", f"the {image} stays within {word} {built.major}; this device is {capability}")
    if built != capability and (built in TEGRA or capability in TEGRA):
        return LoadAnswer(
            "no", f"the {image} does not cross between {built} and {capability}: one of them is a Jetson part"
        )
    if capability.minor < built.minor:
        return LoadAnswer("no", f"the {image} needs {built} or a newer minor; this device is {capability}")
    return LoadAnswer(yes, f"the {image} runs in {word} {built.major} from {built} up{by}")


def best_image(images: tuple[Image, ...], capability: Capability) -> tuple[Image | None, LoadAnswer]:
    """The image the driver takes (nearest machine code first, then the newest PTX), and the answer for it."""
    answers = [(image, loads(image, capability)) for image in images]
    ranked = sorted(
        (pair for pair in answers if pair[1].ok),
        # Exact code before family code before portable code of the same number.
        key=lambda pair: (pair[1].native, pair[0].target.capability, "fa".find(pair[0].target.suffix or "-")),
    )
    if ranked:
        return ranked[-1]
    have = ", ".join(str(image) for image in images) or "no device code at all"
    return None, LoadAnswer("no", f"nothing here loads on {capability}: the binary has {have}")
