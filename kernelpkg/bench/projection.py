"""Roofline arithmetic for a device that is not here: the least time a call can take, measured by nobody.

The longer of two times: the bytes that must be read over the memory bandwidth of the data sheet, and the
operations over the tensor rate of the data sheet. Real kernels take longer. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kernelpkg import arch
from kernelpkg.arch import devices
from kernelpkg.bench.shapes import BLOCK, VARIANTS, Shape, shape_of, work
from kernelpkg.errors import UsageError

LABEL = "projected (nobody measured)"


@dataclass(frozen=True, slots=True)
class Rates:
    """Dense tensor rates in TFLOP/s with fp32 accumulation; None where the device has no such unit."""

    bf16: float | None
    fp8: float | None
    source: str


# Dense rates: where a data sheet gives them with sparsity, halved. Keys are looked for in the device's name.
TENSOR_RATES: dict[str, Rates] = {
    "A100": Rates(312.0, None, "NVIDIA A100 data sheet"),
    "A10": Rates(125.0, None, "NVIDIA A10 data sheet"),
    "L40S": Rates(362.0, 733.0, "NVIDIA L40S data sheet"),
    "L4": Rates(121.0, 242.0, "NVIDIA L4 data sheet, halved from the sparse rate"),
    "RTX 4090": Rates(165.2, 330.3, "NVIDIA Ada architecture white paper, fp32 accumulation"),
    "H100": Rates(989.4, 1978.9, "NVIDIA H100 SXM data sheet, halved from the sparse rate"),
    "H200": Rates(989.4, 1978.9, "NVIDIA H200 SXM data sheet, halved from the sparse rate"),
    "GH200": Rates(989.4, 1978.9, "NVIDIA GH200 data sheet, halved from the sparse rate"),
    "B200": Rates(2250.0, 4500.0, "NVIDIA DGX B200 data sheet, halved from the sparse rate"),
    "RTX 5090": Rates(209.5, 419.0, "NVIDIA RTX Blackwell white paper, fp32 accumulation"),
    "GB10": Rates(125.0, 250.0, "derived: 1 PFLOP/s sparse FP4 halved for density, then by width"),
}


@dataclass(frozen=True, slots=True)
class Projection:
    """The least time of one call on one device, by arithmetic.

    bytes: what must move; operations: multiplications and additions. microseconds: None where the device's
    rates are unknown. limit: 'memory', 'compute' or None. gigabytes_per_s and teraflops are the rates used.
    label always says that nobody measured this.
    """

    kernel: str
    variant: str
    device: str
    capability: str
    m: int
    n: int
    k: int
    bytes: int
    operations: int
    microseconds: float | None
    memory_us: float | None
    compute_us: float | None
    limit: str | None
    gigabytes_per_s: float | None
    teraflops: float | None
    label: str
    basis: str

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)


def rates_of(name: str) -> Rates | None:
    """The tensor rates of the device called `name`; the longest key found in the name counts."""
    keys = [key for key in TENSOR_RATES if f" {key.lower()} " in f" {name.lower()} "]
    return TENSOR_RATES[max(keys, key=len)] if keys else None


def device_row(device: Any) -> Any:
    """The row of kernelpkg.arch.KNOWN_DEVICES for a device (here or assumed), a name or a capability.

    A device that the table does not know by name gets the first row of its capability. Raises UsageError
    where there is none.
    """
    name = device if isinstance(device, str) else getattr(device, "name", None)
    named = devices.find_device(name) if name else None
    if named is not None:
        return named
    capability = getattr(device, "capability", None)
    if capability is None and isinstance(device, str):
        capability = devices.capability_of_name(device)
    asked = arch.Capability.parse(device if capability is None else capability)
    row = devices.device_for(asked)
    if row is None:
        known = ", ".join(map(str, sorted({row.capability for row in devices.KNOWN_DEVICES})))
        raise UsageError(f"No device of capability {asked} is known to project for; known are {known}.")
    return row


def project(kernel: str, m: int, n: int, k: int, device: Any, variant: str | None = None) -> Projection:
    """The least time of one `kernel` call on `device` (capability, name, or a row of KNOWN_DEVICES).

    Raises UsageError for an unknown kernel or device.
    """
    if kernel not in VARIANTS:
        raise UsageError(f"kernel is {kernel!r}; those that can be projected: {', '.join(VARIANTS)}.")
    variant = variant or VARIANTS[kernel][0]
    row = device if hasattr(device, "memory_bandwidth") else device_row(device)
    need = work(kernel, variant, m, n, k)
    rates = rates_of(row.name)
    tflops = getattr(rates, need.flop_kind) if rates else None
    bandwidth = row.memory_bandwidth
    memory_us = need.total_bytes / bandwidth * 1e6 if bandwidth else None
    compute_us = need.flops / tflops / 1e6 if tflops else None
    known = [value for value in (memory_us, compute_us) if value is not None]
    least = max(known) if known else None
    limit = None if least is None else "memory" if least == memory_us else "compute"
    parts = [
        f"{need.total_bytes / 1e6:.1f} MB at {bandwidth / 1e9:.0f} GB/s"
        if bandwidth
        else "bandwidth unknown",
        f"{need.flops / 1e9:.1f} GFLOP at {tflops:.0f} TFLOP/s ({need.flop_kind}; {rates.source})"
        if rates and tflops
        else f"{need.flop_kind} rate unknown: memory alone",
    ]
    return Projection(
        kernel=kernel,
        variant=variant,
        device=row.name,
        capability=str(row.capability),
        m=m,
        n=n,
        k=k,
        bytes=need.total_bytes,
        operations=need.flops,
        microseconds=least,
        memory_us=memory_us,
        compute_us=compute_us,
        limit=limit,
        gigabytes_per_s=bandwidth / 1e9 if bandwidth else None,
        teraflops=tflops,
        label=LABEL,
        basis="; ".join(parts),
    )


# The two arithmetics of 4-bit weights, and the devices of family 12 for which they are compared.
W4_KERNELS = ("marlin_w4a16", "marlin_w4a8_fp8")
W4_DEVICES = ("RTX 5090", "GB10")


@dataclass(frozen=True, slots=True)
class Crossover:
    """From how many rows on W4A8 with FP8 activations can beat W4A16 on one device and layer, by arithmetic.

    m: the first M at which W4A16 is bound by its multiplications, which FP8 makes faster. Below it both read
    the same weights, and W4A8 saves some bytes of the activations: at most `gain_below` times, at M = m - 1.
    gain_at_4096: W4A16's least time over W4A8's at M = 4096. Quantising the activations, which W4A8 needs
    and W4A16 does not, is not counted.
    """

    device: str
    capability: str
    shape: str
    m: int
    gain_below: float
    gain_at_4096: float
    label: str = LABEL

    @property
    def sentence(self) -> str:
        """The same in words."""
        return (
            f"{self.device}, {self.shape}: W4A8 can beat W4A16 from M = {self.m} on, by "
            f"{self.gain_at_4096:.1f} times at M = 4096; below, by {100 * (self.gain_below - 1):.1f} % at "
            f"most [{self.label}]"
        )


def crossover(device: Any, shape: str | Shape) -> Crossover:
    """Where W4A8 can begin to beat W4A16. Raises UsageError for a device whose rates are not known."""
    row, layer = device_row(device), shape_of(shape)
    rates = rates_of(row.name)
    if rates is None or rates.bf16 is None or rates.fp8 is None or not row.memory_bandwidth:
        raise UsageError(
            f"the bandwidth or the tensor rates of {row.name} are not known, so nothing follows."
        )

    def both(m: int) -> tuple[Projection, Projection]:
        wide, narrow = (project(kernel, m, layer.n, layer.k, row) for kernel in W4_KERNELS)
        return wide, narrow

    def gain(m: int) -> float:
        wide, narrow = both(m)
        assert wide.microseconds and narrow.microseconds
        return wide.microseconds / narrow.microseconds

    # Both sides are linear in M: reading takes read + m * per_row, multiplying m * multiply.
    read, per_row = _line(lambda m: both(m)[0].memory_us)
    _, multiply = _line(lambda m: both(m)[0].compute_us)
    if multiply <= per_row:
        raise UsageError(
            f"{row.name} is never bound by multiplying here: {layer} moves too many bytes a row."
        )
    m = int(read / (multiply - per_row)) + 1
    return Crossover(row.name, str(row.capability), layer.name, m, gain(max(1, m - 1)), gain(4096))


def _line(value: Callable[[int], float | None]) -> tuple[float, float]:
    """Offset and slope of a value that is linear in M."""
    one, two = value(1), value(2)
    assert one is not None and two is not None
    return one - (two - one), two - one


def w4_rows(
    devices: Sequence[str] = W4_DEVICES,
    shapes: Sequence[str | Shape] = ("8B.gate_up", "8B.down"),
    ms: Sequence[int] = (1, 16, 64, 128, 256, 1024, 4096),
) -> list[dict[str, Any]]:
    """W4A16 beside W4A8-FP8: bytes, operations, least time and what binds, per device, layer and M.

    gain: W4A16's least time over W4A8's. Every row is labelled as projected.
    """
    rows = []
    for device in devices:
        for shape in map(shape_of, shapes):
            for m in ms:
                wide, narrow = (project(kernel, m, shape.n, shape.k, device) for kernel in W4_KERNELS)
                assert wide.microseconds and narrow.microseconds
                rows.append(
                    {
                        "device": wide.device,
                        "capability": wide.capability,
                        "shape": shape.name,
                        "m": m,
                        "operations": wide.operations,
                        "w4a16_bytes": wide.bytes,
                        "w4a16_us": wide.microseconds,
                        "w4a16_limit": wide.limit,
                        "w4a8_bytes": narrow.bytes,
                        "w4a8_us": narrow.microseconds,
                        "w4a8_limit": narrow.limit,
                        "gain": wide.microseconds / narrow.microseconds,
                        "label": LABEL,
                    }
                )
    return rows


# The devices for which the waves of scaled_mm's blocks are worked out.
SCALED_MM_DEVICES = ("GB10", "RTX 5090")


def scaled_mm_rows(
    devices: Sequence[str] = SCALED_MM_DEVICES,
    shapes: Sequence[str | Shape] = ("8B.qkv", "8B.o", "8B.gate_up", "8B.down"),
    ms: Sequence[int] = (1, 16, 64),
    kernel: str = "scaled_mm_sm120",
    variant: str = "token_channel",
) -> list[dict[str, Any]]:
    """What dispatch chooses on a device that is not here, how its blocks fill it, and the least time.

    Per device, layer and M: configuration (its name), tiles of c (clusters' worth of them), blocks, slots
    (blocks that the device holds at once), waves (blocks over slots), idle (the part of the slots that the
    last wave leaves empty, in percent), bytes that must move, memory_us at the data sheet's bandwidth, and
    the arithmetic in words. Dispatch chooses among what the library here holds: empty where there is no
    library, or none with such a kernel. Every row is labelled as projected. Imports torch.
    """
    from kernelpkg.ops import dispatch as table

    rows = []
    for row in map(device_row, devices):
        for shape in map(shape_of, shapes):
            for m in ms:
                try:
                    one = table.choose_configuration(
                        kernel,
                        m,
                        shape.n,
                        shape.k,
                        multiprocessors=row.multiprocessors,
                        block_scales=variant == BLOCK,
                    )
                except UsageError:
                    return []
                down, across = -(-m // one.rows), -(-shape.n // one.columns)
                blocks, slots = down * across * one.blocks, row.multiprocessors * one.per_sm
                least = project(kernel, m, shape.n, shape.k, row, variant)
                rows.append(
                    {
                        "device": row.name,
                        "capability": str(row.capability),
                        "multiprocessors": row.multiprocessors,
                        "kernel": kernel,
                        "variant": variant,
                        "shape": shape.name,
                        "m": m,
                        "configuration": one.label,
                        "tiles": down * across,
                        "blocks": blocks,
                        "slots": slots,
                        "waves": blocks / slots,
                        "idle": 100 * (1 - blocks / (-(-blocks // slots) * slots)),
                        "bytes": least.bytes,
                        "memory_us": least.memory_us,
                        "limit": least.limit,
                        "arithmetic": f"{down} x {across} tiles of {one.rows}x{one.columns}, "
                        f"{blocks} blocks / ({row.multiprocessors} SMs x {one.per_sm}); "
                        f"{least.basis.split(';')[0]}",
                        "label": LABEL,
                    }
                )
    return rows


def project_rows(
    kernels: tuple[str, ...], shapes: tuple[str | Shape, ...], ms: tuple[int, ...], device: Any
) -> list[dict[str, Any]]:
    """Projections as rows with the keys of a bench row, for tables and charts of an assumed device.

    Empty where the table knows no device of that capability (12.2, 13.0).
    """
    try:
        device = device_row(device)
    except arch.ArchError:
        raise
    except UsageError:
        return []
    rows = []
    for kernel in kernels:
        for shape in map(shape_of, shapes):
            for m in ms:
                projected = project(kernel, m, shape.n, shape.k, device)
                microseconds = projected.microseconds
                rows.append(
                    {
                        "kernel": kernel,
                        "variant": projected.variant,
                        "shape": shape.name,
                        "m": m,
                        "n": shape.n,
                        "k": shape.k,
                        "microseconds": {"median": microseconds, "p10": None, "p90": None, "n": 0},
                        "peers": {},
                        "ceilings": {
                            "read_gbps": projected.gigabytes_per_s,
                            "tflops": projected.teraflops,
                        },
                        "percent_of_limit": None,
                        "limit": projected.limit,
                        "label": LABEL,
                        "capability": projected.capability,
                        "clocks": None,
                        "basis": projected.basis,
                    }
                )
    return rows
