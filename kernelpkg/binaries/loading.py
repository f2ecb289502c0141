"""Which code of a binary a device would run by the loading rules; on a device, whether it really loads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernelpkg.arch import Capability, Image, Target, best_image, loads
from kernelpkg.binaries.fatbin import RawImage, read_images
from kernelpkg.binaries.inspection import FunctionCode, Inspection, functions_of, inspect


@dataclass(frozen=True, slots=True)
class Choice:
    """What a device of a capability runs of one kernel function.

    how: 'cubin' (machine code as it is), 'jit' (the driver compiles PTX: neither ok nor broken) or 'no'.
    image: the image it takes, None for 'no'. code: that function, with its verdict. reason: one sentence.
    """

    function: str
    kernel: str | None
    how: str
    image: Image | None
    code: FunctionCode | None
    reason: str


def choices(
    source: Inspection | str | Path, capability: Capability, kernel: str | None = None
) -> tuple[Choice, ...]:
    """For each kernel function of a binary, the image that a device of `capability` would run, by the rules.

    kernel: only the functions of this kernel of the catalogue. An image of unknown suffix is never chosen: it
    may or may not load, and the reason says so.
    """
    inspection = source if isinstance(source, Inspection) else inspect(source)
    grouped: dict[str, list[FunctionCode]] = {}
    for function in inspection.functions:
        if kernel is None or function.kernel == kernel:
            grouped.setdefault(function.function, []).append(function)
    return tuple(_choose(codes, capability) for codes in grouped.values())


def _choose(codes: Sequence[FunctionCode], capability: Capability) -> Choice:
    known = {code.image: code for code in codes if code.image is not None}
    image, answer = best_image(tuple(known), capability)
    reason = answer.reason
    unknown = [code for code in codes if code.image is None]
    if image is None and unknown:
        reason = f"{unknown[0].target}: whether it loads on {capability} cannot be told"
    return Choice(
        codes[0].function, codes[0].kernel, answer.how, image, known.get(image) if image else None, reason
    )


@dataclass(frozen=True, slots=True)
class ImageLoad:
    """One image given to the driver: what the loading rule says of it and what the driver did.

    kernels: how many functions the driver found in it. error: the driver's error name, empty if it loaded.
    """

    target: str
    kind: str
    expected: str
    loaded: bool
    kernels: int
    error: str

    @property
    def agrees(self) -> bool:
        """Whether the driver did what the loading rule says."""
        return self.loaded == (self.expected != "no")


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A real load on a device. status: 'pass', 'fail', or 'unproved' where there is no device to ask."""

    status: str
    reason: str
    capability: Capability | None = None
    device: str | None = None
    images: tuple[ImageLoad, ...] = ()


class _Driver:
    """The few driver calls needed, through libcuda.so.1; nothing is linked against it."""

    MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")

    def call(self, name: str, *arguments: object) -> str:
        """Calls a function; the error's name, or '' for success."""
        code = getattr(self.library, name)(*arguments)
        if code == 0:
            return ""
        text = ctypes.c_char_p()
        self.library.cuGetErrorName(code, ctypes.byref(text))
        return text.value.decode() if text.value else f"error {code}"


def load_on_device(library: str | Path, device: int = 0) -> LoadReport:
    """Gives every image of `library` to the driver of GPU `device` and compares with the loading rules.

    Machine code is loaded image by image and each of its kernels looked up; PTX is compiled only for kernels
    that no machine code serves. Without a driver or device the report is 'unproved'. Raises as `inspect`.
    """
    path = Path(library)
    images = read_images(path)
    try:
        driver = _Driver()
    except OSError:
        return LoadReport(
            "unproved", "No NVIDIA driver is here (libcuda.so.1 was not found): nothing was loaded."
        )
    error = driver.call("cuInit", 0)
    count = ctypes.c_int()
    error = error or driver.call("cuDeviceGetCount", ctypes.byref(count))
    if error:
        return LoadReport("unproved", f"The NVIDIA driver does not start ({error}): nothing was loaded.")
    if device >= count.value:
        return LoadReport(
            "unproved", f"GPU {device} is not here, the driver shows {count.value}: nothing was loaded."
        )
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    error = driver.call("cuDeviceGet", ctypes.byref(handle), device)
    name = ctypes.create_string_buffer(256)
    driver.call("cuDeviceGetName", name, 256, handle)
    major, minor = ctypes.c_int(), ctypes.c_int()
    driver.call("cuDeviceGetAttribute", ctypes.byref(major), _Driver.MAJOR, handle)
    driver.call("cuDeviceGetAttribute", ctypes.byref(minor), _Driver.MINOR, handle)
    capability, title = Capability(major.value, minor.value), name.value.decode(errors="replace")
    error = error or driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
    if error:
        return LoadReport(
            "unproved", f"{title} gives no context ({error}): nothing was loaded.", capability, title
        )
    try:
        error = driver.call("cuCtxPushCurrent_v2", context)
        if error:
            return LoadReport(
                "unproved", f"{title} gives no context ({error}): nothing was loaded.", capability, title
            )
        try:
            results = _load_all(driver, path, images, capability)
        finally:
            driver.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
    finally:
        driver.call("cuDevicePrimaryCtxRelease_v2", handle)
    return _report(path, results, capability, title)


def _load_all(
    driver: _Driver, path: Path, images: Sequence[RawImage], capability: Capability
) -> tuple[ImageLoad, ...]:
    results: list[ImageLoad] = []
    served: set[str] = set()
    # Machine code first: PTX is compiled only where none serves.
    for image in sorted(images, key=lambda image: image.kind):
        symbols = [function.symbol for function in _kernels(path, image)]
        if not symbols or (image.kind == "ptx" and set(symbols) <= served):
            continue
        suffix = image.suffix
        target = f"{image.number // 10}.{image.number % 10}{suffix or ''}"
        expected = (
            "unknown" if suffix is None else loads(Image(image.kind, Target.parse(target)), capability).how
        )
        module = ctypes.c_void_p()
        error = driver.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(image.data + b"\0"))
        found = 0
        if not error:
            for symbol in symbols:
                function = ctypes.c_void_p()
                missing = driver.call(
                    "cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(symbol.encode())
                )
                found += not missing
                error = error or (f"{symbol}: {missing}" if missing else "")
            driver.call("cuModuleUnload", module)
        loaded = not error
        if loaded and image.kind == "cubin":
            served.update(symbols)
        if expected == "unknown":
            expected = "cubin" if loaded else "no"
        results.append(ImageLoad(target, image.kind, expected, loaded, found, error))
    return tuple(results)


def _kernels(path: Path, image: RawImage) -> tuple[FunctionCode, ...]:
    """The kernels of one image, without disassembling them."""
    return functions_of(path, (image,), disassemble=False)


def _report(path: Path, results: tuple[ImageLoad, ...], capability: Capability, title: str) -> LoadReport:
    wrong = [result for result in results if not result.agrees]
    native = [result for result in results if result.loaded and result.kind == "cubin"]
    jit = [result for result in results if result.loaded and result.kind == "ptx"]
    where = f"{title} ({capability})"
    if wrong:
        first = wrong[0]
        rule = "should load" if first.expected != "no" else "should be refused"
        did = "loaded" if first.loaded else f"was refused ({first.error})"
        text = f"{where}: the {first.kind} for {first.target} {rule} by the rules and {did}."
        return LoadReport("fail", text, capability, title, results)
    if native:
        kernels = sum(result.kernels for result in native)
        targets = ", ".join(sorted({result.target for result in native}))
        text = f"The driver of {where} loaded {kernels} kernels of {path.name} as machine code for {targets}."
        return LoadReport("pass", text, capability, title, results)
    if jit:
        kernels = sum(result.kernels for result in jit)
        text = (
            f"The driver of {where} compiled {kernels} kernels of {path.name} from PTX; no machine code fits."
        )
        return LoadReport("unproved", text, capability, title, results)
    return LoadReport("fail", f"Nothing in {path.name} loads on {where}.", capability, title, results)
