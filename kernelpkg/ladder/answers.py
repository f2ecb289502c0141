"""The five rungs of each kernel for one capability, and the block that goes into a bug report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kernelpkg import __version__
from kernelpkg.arch import Capability
from kernelpkg.bench import hashes
from kernelpkg.bench.records import Record, load_records
from kernelpkg.bench.shapes import GATE_OF, STANDS_FOR
from kernelpkg.ladder import measured, static
from kernelpkg.ladder.rung import RUNGS, THIS, Label, Rung, by_kernel, elsewhere, word

# The kernels a user may call; evidence kernels and the repacking are answered for when they are named.
KERNELS = tuple(kernel for kernel in GATE_OF if kernel not in STANDS_FOR and kernel != "marlin_repack")
BRIEF_LINES = 39


def explain(
    capability: Any,
    kernels: Sequence[str] | None = None,
    library: Any = None,
    live: bool = False,
    *,
    check_rows: Iterable[Mapping[str, Any]] = (),
    bench_rows: Iterable[Mapping[str, Any]] = (),
    measured_on: Any = None,
    records: Sequence[Record] | None = None,
    inspection: Any = None,
) -> tuple[Rung, ...]:
    """Five rungs per kernel: admitted, built, loads, correct, fast.

    capability: anything Capability.parse reads; the device need not be here. kernels: as users name them,
    all shipped ones where None. library: a LibraryInfo or a file; None takes what `build.find_library`
    finds. live: where a CUDA device stands here that can show something (of this capability, or Hopper for
    a stand-in), load the library and run the tiny check on it now; this imports torch. check_rows,
    bench_rows: rows already measured in this process on a device of `measured_on` (this capability where
    None). records: in place of the stored ones. inspection: an Inspection of the library that is already at
    hand.

    A rung behind a refused gate is unproved. Raises UsageError for an unknown kernel or capability.
    """
    asked = Capability.parse(capability)
    names = KERNELS if kernels is None else tuple([kernels] if isinstance(kernels, str) else kernels)
    for name in names:
        static.gate_of(name)
    at_hand = _library(library, asked)
    functions, problem = static.functions_in(at_hand, inspection) if at_hand or inspection else ((), "")
    sources = measured.Sources(load_records() if records is None else records, at_hand)
    where = asked if measured_on is None else Capability.parse(measured_on)
    sources.add_live("check", check_rows, where)
    sources.add_live("bench", bench_rows, where)
    if live:
        for rows, device_capability in live_checks(names, asked):
            sources.add_live("check", rows, device_capability)
    found: list[Rung] = []
    for name in names:
        found += _rungs(name, asked, at_hand, functions, problem, sources)
    return tuple(found)


def _rungs(
    kernel: str,
    capability: Capability,
    library: Any,
    functions: tuple[Mapping[str, Any], ...],
    problem: str,
    sources: measured.Sources,
) -> list[Rung]:
    first = static.admitted(kernel, capability)
    if first.status == "fail":
        reason = f"Gated out: {first.evidence['gate']} does not admit {capability}, so nothing is claimed."
        label = Label("nobody", THIS)
        rest = [Rung(kernel, str(capability), name, "unproved", reason, {}, label) for name in RUNGS[1:]]
        return [first, *rest]
    ran = [source for kind, source in sources.live if kind == "check" and source.kernel == kernel]
    here = next(
        (source.rows[0].get("device", "cuda") for source in ran if source.capability == capability), None
    )
    return [
        first,
        static.built(kernel, capability, library, functions, problem),
        static.loadable(kernel, capability, library, functions, None if here is None else str(here)),
        measured.correct(kernel, capability, sources),
        measured.fast(kernel, capability, sources),
    ]


def _library(library: Any, capability: Capability) -> Any:
    if library is None:
        from kernelpkg import build

        return build.find_library(capability)
    if isinstance(library, str | Path):
        from kernelpkg import build

        manifest = Path(library).parent / "manifest.json"
        import json

        known = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
        return build.LibraryInfo(Path(library), known)
    return library


def live_checks(
    kernels: Sequence[str], capability: Capability
) -> list[tuple[list[Mapping[str, Any]], Capability]]:
    """Run the tiny check for `kernels` on the devices here that can show something; (rows, capability) of
    each.

    A device of the capability runs the kernels themselves, one of 9.0 the stand-ins of those that have one.
    No such device: nothing is run. Raises what the check raises.
    """
    from kernelpkg import arch, check

    found = []
    standins = [name for name, shipped in STANDS_FOR.items() if shipped in kernels]
    for index, device in enumerate(arch.detect().devices):
        here = Capability.parse(device.capability)
        wanted = [name for name in kernels if name not in STANDS_FOR] if here == capability else []
        wanted = [name for name in wanted if static.admitted(name, here).status == "pass"]
        if str(here) == "9.0":
            wanted += [
                name for name in (*standins, *(n for n in kernels if n in STANDS_FOR)) if name not in wanted
            ]
        wanted = [name for name in wanted if name != "scaled_mm_sm100"]
        if wanted:
            report = check.run(kernels=wanted, size="tiny", device=f"cuda:{index}")
            found.append(([row for row in report.rows], here))
    return found


def brief(rungs: Sequence[Rung]) -> str:
    """The ladder as a block of text under 40 lines: one line a kernel, then why it stops where it stops,
    failures first and whole.
    """
    if not rungs:
        return "kernelpkg explain: no rung was asked for"
    lines = [f"kernelpkg {__version__}, capability {rungs[0].capability}{_library_line(rungs)}"]
    kernels = by_kernel(rungs)
    width = max(map(len, kernels))
    lines.append(f"{'kernel':{width}}  " + "  ".join(f"{name:8}" for name in RUNGS).rstrip())
    for kernel, answers in kernels.items():
        lines.append(f"{kernel:{width}}  {_marks(answers)}")
    failures, others = [], []
    for kernel, answers in kernels.items():
        if answers.get("admitted") and answers["admitted"].status == "fail":
            others.append(_shortened(f"{kernel}: {answers['admitted'].reason}"))
            continue
        for name in RUNGS[1:]:
            rung = answers.get(name)
            if name == "loads" and "built" in answers and answers["built"].status != "pass":
                continue  # what is not built cannot load: one reason is enough
            if rung and (rung.status != "pass" or name in ("correct", "fast")):
                reason = f"{kernel} {name} {rung.status} [{rung.label}]: {rung.reason}"
                if rung.status == "fail":
                    failures.append(reason)
                else:
                    others.append(_shortened(reason))
    reasons = failures + others
    room = BRIEF_LINES - len(lines)
    if len(reasons) > room:
        left_out = len(reasons) - (room - 1)
        reasons = [*reasons[: room - 1], f"({left_out} more reason(s): kernelpkg explain)"]
    return "\n".join((*map(_shortened, lines), *reasons))


def _marks(answers: Mapping[str, Rung]) -> str:
    """The five statuses in columns; behind a refused gate there is nothing to say."""
    first = answers.get("admitted")
    if first is not None and first.status == "fail":
        return _mark(first)
    return "  ".join(f"{_mark(answers.get(name)):8}" for name in RUNGS).rstrip()


def _mark(rung: Rung | None) -> str:
    """A status; in place of a pass that another device's run gave, what that run is."""
    if rung is None:
        return "-"
    return elsewhere(rung.status, rung.label) or word(rung.rung, rung.status)


def _shortened(line: str, limit: int = 240) -> str:
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def _library_line(rungs: Sequence[Rung]) -> str:
    names = {
        rung.evidence["library"] for rung in rungs if rung.rung == "built" and rung.evidence.get("library")
    }
    return f", library {hashes.library_name(sorted(names)[0])}" if names else ", no library built here"
