"""The state of the GPU while it is timed: clocks, power, temperature and throttle reasons, through NVML.

A field that NVML does not give is None (GB10 lacks several); without NVML every field is None and no sample
is discarded for its clock. Nothing here sets a clock, locks one or resets anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

# A sample taken under this part of the expected clock does not count (field practice: nvbench's 75 %).
SLOW_BELOW = 0.75

# Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h, nvmlClocksEventReason*).
_REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
    0x100: "display clock",
}


@dataclass(frozen=True, slots=True)
class ClockSample:
    """One reading. MHz, watts, degrees Celsius; None where NVML did not say."""

    sm_mhz: int | None = None
    memory_mhz: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    reasons: tuple[str, ...] | None = None


def reason_names(bits: int | None) -> tuple[str, ...] | None:
    """Throttle reasons as words; a bit without a name as its hexadecimal value."""
    if bits is None:
        return None
    known = [name for bit, name in _REASONS.items() if bits & bit]
    rest = bits & ~sum(_REASONS)
    return (*known, hex(rest)) if rest else tuple(known)


def is_slow(sample: ClockSample, expected_mhz: int | None) -> bool:
    """Whether a sample does not count: its SM clock is under 75 % of the expected one.

    A card held down by its power cap *alone* counts: that is how a GPU runs a long dense GEMM (an H200 goes
    to 1395 of 1980 MHz), not a fault. Rows say how many of their samples were so.
    """
    if sample.sm_mhz is None or not expected_mhz:
        return False
    return sample.sm_mhz < SLOW_BELOW * expected_mhz and not power_capped(sample)


def power_capped(sample: ClockSample) -> bool:
    """Whether the power cap is the one reason NVML gives for the clock."""
    return sample.reasons == ("power cap",)


class Sampler:
    """Reads the clocks of one device. `read` may be any callable that returns a ClockSample."""

    def __init__(self, read: Callable[[], ClockSample], expected_mhz: int | None, static: dict[str, Any]):
        self.read = read
        self.expected_mhz = expected_mhz
        self.static = static


def silent_sampler() -> Sampler:
    """A sampler where NVML is not to be had: every field None, nothing discarded."""
    return Sampler(lambda: ClockSample(), None, {})


def open_sampler(uuid: str | None, index: int = 0) -> Sampler:
    """The sampler of the device with NVML identifier `uuid` ('GPU-...'), else of NVML's device `index`.

    Never raises for a missing library, driver or field.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = _handle(pynvml, uuid, index)
    except Exception:  # NVML raises its own errors, ctypes' OSError, and import errors: none may stop a bench
        return silent_sampler()

    def ask(name: str, *arguments: Any) -> Any:
        try:
            return getattr(pynvml, name)(handle, *arguments)
        except Exception:
            return None

    def read() -> ClockSample:
        power = ask("nvmlDeviceGetPowerUsage")
        bits = ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:
            bits = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return ClockSample(
            sm_mhz=ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM),
            memory_mhz=ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM),
            power_w=None if power is None else power / 1000,
            temperature_c=ask("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
            reasons=reason_names(bits),
        )

    limit = ask("nvmlDeviceGetEnforcedPowerLimit")
    static = {
        "sm_mhz_max": ask("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_SM),
        "memory_mhz_max": ask("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_MEM),
        "power_limit_w": None if limit is None else limit / 1000,
    }
    return Sampler(read, static["sm_mhz_max"], static)


def _handle(pynvml: Any, uuid: str | None, index: int) -> Any:
    if uuid:
        try:
            return pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError:
            pass
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def summarise(samples: Sequence[ClockSample], expected_mhz: int | None, discarded: int) -> dict[str, Any]:
    """One row's clocks: medians of the samples that counted, all reasons seen, and what was discarded."""

    def middle(name: str) -> float | None:
        values = [value for sample in samples if (value := asdict(sample)[name]) is not None]
        return median(values) if values else None

    reasons = {reason for sample in samples for reason in sample.reasons or ()}
    known = any(sample.reasons is not None for sample in samples)
    return {
        "sm_mhz": middle("sm_mhz"),
        "memory_mhz": middle("memory_mhz"),
        "power_w": middle("power_w"),
        "temperature_c": middle("temperature_c"),
        "reasons": sorted(reasons) if known else None,
        "expected_sm_mhz": expected_mhz,
        "power_capped": sum(power_capped(sample) for sample in samples),
        "discarded": discarded,
    }
