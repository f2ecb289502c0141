"""Runs the check: which kernels a device admits, their cases, one row per metric."""

from __future__ import annotations

import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch

from kernelpkg import arch
from kernelpkg.build import device_memory_guard
from kernelpkg.check import sweep
from kernelpkg.check.cases import Case, cases_for
from kernelpkg.check.execution import poisoned, repack_differences, run_case
from kernelpkg.check.metrics import Errors, bounds_for
from kernelpkg.check.operands import drop_kept, make_problem
from kernelpkg.check.refusals import Refusal, gate_refusals, missed, refusals_for
from kernelpkg.check.report import CheckReport, Row
from kernelpkg.errors import MachineUnfit, UsageError
from kernelpkg.gates import gate
from kernelpkg.ops.dispatch import Configuration
from kernelpkg.ops.functional import device_capability
from kernelpkg.ops.kernels import KERNELS, Kernel, kernel
from kernelpkg.ops.load import load
from kernelpkg.ops.support import supports

CPU_LABEL = "measured here, CPU reference"
_LABELS = {
    None: "measured here, this capability",
    "emulated": "measured here, emulated",
    "standin": "measured here, stand-in",
}
# A core's reference makes about 5 G multiply-adds a second; above this a case takes minutes.
_CPU_LIMIT = 4 * 10**9
# On the CPU one row stands for all scaled_mm kernels: they share the operator, and so the reference.
CPU_SCALED_MM = Kernel(
    "cutlass_scaled_mm", "kernelpkg::cutlass_scaled_mm", "scaled_mm_sm90", "scaled_mm", True
)
CONFIGURATIONS = ("dispatched", "all")
_NO_GPU = "evidence builds run on a GPU of capability 9.0 alone"


class Cancel(Protocol):
    """Anything that says whether to stop, threading.Event for one."""

    def is_set(self) -> bool: ...


def checkable_kernels(kernels: Iterable[str] | None = None) -> tuple[Kernel, ...]:
    """The kernels of these names, all where None. An operator's name ('cutlass_scaled_mm', 'mxfp8_scaled_mm')
    means every kernel behind it."""
    if kernels is None:
        return KERNELS
    chosen: list[Kernel] = []
    for name in kernels:
        behind = [entry for entry in KERNELS if entry.operator == f"kernelpkg::{name}"]
        chosen += behind or [kernel(name)]
    return tuple(dict.fromkeys(chosen))


def run(
    kernels: Iterable[str] | None = None,
    size: str = "default",
    device: str | torch.device = "auto",
    seed: int = 0,
    on_case: Callable[[Row], None] | None = None,
    cancel: Cancel | None = None,
    graphs: bool = True,
    configurations: str = "dispatched",
) -> CheckReport:
    """Checks kernels (all where None) on a device and returns the report; `report.raise_for_status()` judges
    it.

    size: 'tiny', 'default' or 'full'. device: 'auto' (the first GPU, else the CPU), 'cpu' or 'cuda:N'.
    on_case is called with every row as it comes. cancel: checked before every case. graphs: whether to run
    the cases that capture a CUDA graph. configurations: 'dispatched', or 'all': after each case of scaled_mm
    the same under every configuration of its route that the library holds, with `-cfg3` in its id; where one
    takes fewer rows than the case has, and says so, the case is left out.

    On a GPU the kernels run that its gates admit and the loaded library holds, and the evidence builds. On
    the CPU the reference operators run. Raises UsageError for what cannot be asked.
    """
    if configurations not in CONFIGURATIONS:
        raise UsageError(
            f"configurations is {configurations!r}; it must be one of {', '.join(CONFIGURATIONS)}"
        )
    load()
    where = _device(device)
    chosen = checkable_kernels(kernels)
    started = time.perf_counter()
    report = CheckReport(
        str(where), CPU_LABEL if where.type == "cpu" else _LABELS[None], size, seed, _machine(where)
    )
    gated: Counter[str] = Counter()
    every = configurations == "all"
    try:
        with torch.no_grad():
            for row in _rows(chosen, size, where, seed, report, gated, cancel, graphs, every):
                report.rows.append(row)
                if on_case is not None:
                    on_case(row)
    finally:
        drop_kept()
    report.gated_out = dict(gated)
    report.seconds = time.perf_counter() - started
    return report


def _rows(
    chosen: tuple[Kernel, ...],
    size: str,
    device: torch.device,
    seed: int,
    report: CheckReport,
    gated: Counter[str],
    cancel: Cancel | None,
    graphs: bool,
    every: bool,
) -> Iterator[Row]:
    for entry, reason in _admitted(chosen, size, device, report, gated):
        label = CPU_LABEL if device.type == "cpu" else _LABELS[entry.evidence]
        about = {"kernel": entry.name, "device": str(device), "label": label}
        held = () if reason else sweep.held(entry, device)
        cases = () if reason else cases_for(_cases_of(entry), size)
        if every:
            cases = tuple(sweep.swept(cases, held))
        refusals = _refusals(entry, device, refused_by_gate=bool(reason))
        for item in (*cases, *refusals):
            if report.unfit is not None:
                return
            if cancel is not None and cancel.is_set():
                report.cancelled = True
                return
            if isinstance(item, Refusal):
                yield from _refusal_row(item, about, report)
                continue
            why_not = sweep.not_built(entry, item, held) or _gated(item, device)
            if not graphs and isinstance(item, Case) and item.kind == "graph":
                why_not = "CUDA graphs were not asked for"
            if why_not:
                gated[why_not] += 1
                continue
            try:
                yield from _case_rows(entry, item, device, seed, about, report, held)
            except sweep.Declined:
                gated["a configuration takes fewer rows"] += 1


def _admitted(
    chosen: tuple[Kernel, ...],
    size: str,
    device: torch.device,
    report: CheckReport,
    gated: Counter[str],
) -> Iterator[tuple[Kernel, str | None]]:
    """The kernels to run, and those (with the reason) of which only the refusal can be checked."""
    if device.type == "cpu":
        shared = False
        for entry in chosen:
            if entry.evidence is not None:
                gated[_NO_GPU] += len(cases_for(entry.name, size))
            elif entry.operator != CPU_SCALED_MM.operator:
                yield entry, None
            elif not shared:
                shared = True
                yield CPU_SCALED_MM, None
        return
    for entry in chosen:
        support = supports(entry.name, device)
        report.fp8_eligible |= entry.fp8_mma and entry.evidence is None and support.admitted
        # A library without a manifest is taken at its word: the call itself will tell.
        if support.admitted and support.built is not False:
            yield entry, None
            continue
        gated[_short(entry, support.admitted, device)] += len(cases_for(entry.name, size))
        if not support.admitted:
            yield entry, support.reason


def _short(entry: Kernel, admitted: bool, device: torch.device) -> str:
    """The reason a kernel's cases are left out, short enough for the summary."""
    capability = device_capability(device.index or 0)
    if admitted:
        return f"{entry.name} is not built for {capability}"
    return gate(entry.gate).ask(capability).short


def _cases_of(entry: Kernel) -> str:
    return "scaled_mm_sm90" if entry is CPU_SCALED_MM else entry.name


def _refusals(entry: Kernel, device: torch.device, refused_by_gate: bool) -> tuple[Refusal, ...]:
    if not refused_by_gate:
        return refusals_for(entry, device)
    # Only one gate speaks for cutlass_scaled_mm on a device; asking the others' operator would run that one.
    served = any(
        gate(other.gate).ask(device_capability(device.index or 0))
        for other in KERNELS
        if other.operator == entry.operator and other.family == "scaled_mm"
    )
    packable = gate("marlin_16bit").ask(device_capability(device.index or 0))
    weight_only = entry.family == "repack" or (entry.family == "marlin" and not entry.fp8_mma)
    if entry.evidence is not None or served or weight_only or not packable:
        return ()
    return gate_refusals(entry, device)


def _gated(case: Case, device: torch.device) -> str | None:
    """Why this device does not run this case, None where it does."""
    if device.type == "cpu":
        if case.kind in ("graph", "streams"):
            return "CUDA graphs and streams need a GPU"
        if case.multiply_adds > _CPU_LIMIT or (case.family == "repack" and case.n * case.k > 2**24):
            return f"above {_CPU_LIMIT // 10**9} G multiply-adds, too slow for a CPU reference"
        return None
    # float64: the weight and its squares, the operand, reference, spread, output and two temporaries.
    needed = 8 * (3 * case.n * case.k + 2 * case.m * case.k + 6 * case.m * case.n)
    try:
        here = arch.detect().devices
        if here and (device.index or 0) < len(here):
            device_memory_guard(here[device.index or 0], needed)
    except MachineUnfit:
        return "would leave under 8 GB of the memory that GPU and host share"
    if needed > torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device):
        return "needs more memory than the GPU has free"
    return None


def _case_rows(
    entry: Kernel,
    case: Case,
    device: torch.device,
    seed: int,
    about: Row,
    report: CheckReport,
    held: tuple[Configuration, ...],
) -> Iterator[Row]:
    if case.kind == "repack":
        report.ran += 1
        count = _guarded(lambda: float(repack_differences(case, device, seed)), entry, case, report)
        yield _row(about, case.id, "differences", math.inf if count is None else count, 0.0)
        return
    bounds = bounds_for(entry, case, device)

    def work() -> Errors:
        try:
            return run_case(entry, case, device, seed, bounds)
        except RuntimeError as error:
            if sweep.declines(error, case, held):
                raise sweep.Declined from error
            raise

    errors = _guarded(work, entry, case, report)
    report.ran += 1
    if entry.fp8_mma and entry.evidence is None:
        report.fp8_ran += 1
    relative = math.inf if errors is None else errors.relative_error
    worst = math.inf if errors is None else errors.worst_element
    yield _row(about, case.id, "relative_error", relative, bounds.relative)
    yield _row(about, case.id, "worst_element", worst, 1.0)


def _guarded(work: Callable[[], Any], entry: Kernel, case: Case, report: CheckReport) -> Any:
    """The result of `work`, None where it raised: then the case fails, and a lost device ends the run."""
    try:
        return work()
    except torch.OutOfMemoryError:
        report.unfit = (
            f"out of memory in {entry.name} {case.id}; close other programs or choose a smaller size"
        )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        report.problems.append(f"{entry.name} {case.id}: {first}")
        if "CUDA error" in first or "cudaError" in first:
            report.unfit = f"the device was lost in {entry.name} {case.id}: {first}"
    return None


def _refusal_row(refusal: Refusal, about: Row, report: CheckReport) -> Iterator[Row]:
    report.ran += 1
    problem = missed(refusal)
    if problem:
        report.problems.append(f"{about['kernel']} refuses-{refusal.id}: {problem}")
    yield _row(about, f"refuses-{refusal.id}", "refusals_missed", 1.0 if problem else 0.0, 0.0)


def _row(about: Row, case: str, metric: str, value: float, bound: float) -> Row:
    return {
        "kernel": about["kernel"],
        "case": case,
        "metric": metric,
        "value": value,
        "bound": bound,
        "passed": value <= bound,
        "device": about["device"],
        "label": about["label"],
    }


def error_map(
    kernel_name: str, case: Case, device: str | torch.device = "auto", seed: int = 0, tile: int = 16
) -> list[list[float]]:
    """The worst error of every tile of the output, as a multiple of what an element is allowed; 1 is the
    bound.

    A list of rows of tiles, `tile` elements square, the last ones possibly smaller. On the CPU the reference
    runs.
    """
    load()
    where = _device(device)
    entry = CPU_SCALED_MM if kernel_name == CPU_SCALED_MM.name else kernel(kernel_name)
    problem = make_problem(entry, case, where, seed)
    bounds = bounds_for(entry, case, where)
    with torch.no_grad(), poisoned():
        out = problem.run()
    allowed = bounds.unit * problem.ref.abs() + bounds.sums * problem.spread + bounds.step
    error = ((out.double() - problem.ref).abs() / allowed).nan_to_num(math.inf)
    rows = []
    for r in range(0, case.m, tile):
        rows.append([float(error[r : r + tile, c : c + tile].max()) for c in range(0, case.n, tile)])
    return rows


def _device(device: str | torch.device) -> torch.device:
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    where = torch.device(device)
    if where.type == "cpu":
        return where
    if where.type != "cuda":
        raise UsageError(f"device is {where}; it must be 'auto', 'cpu' or 'cuda:N'")
    if not torch.cuda.is_available():
        message = arch.detect().message or "torch sees no GPU"
        raise UsageError(f"device is {where} and there is none: {message}")
    index = where.index or 0
    if index >= torch.cuda.device_count():
        raise UsageError(f"device is {where} and this machine has {torch.cuda.device_count()} of them")
    return torch.device("cuda", index)


def _machine(device: torch.device) -> Row:
    """What the rows were measured on."""
    about: Row = {
        "name": platform.processor() or platform.machine(),
        "capability": None,
        "driver": None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        about["name"] = torch.cuda.get_device_name(device)
        about["capability"] = str(device_capability(device.index or 0))
        found = arch.detect().devices
        if (device.index or 0) < len(found):
            about["driver"] = found[device.index or 0].driver
    return about
