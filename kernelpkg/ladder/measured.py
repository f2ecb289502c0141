"""The rungs that need a measurement: correct and fast, from rows of this process or from stored records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kernelpkg.arch import Capability
from kernelpkg.bench import records as store
from kernelpkg.bench.projection import project
from kernelpkg.bench.records import Record
from kernelpkg.bench.shapes import GATE_OF, STANDS_FOR, UNTIMED, shape_of
from kernelpkg.errors import UsageError
from kernelpkg.ladder import static, thresholds
from kernelpkg.ladder.rung import MEASURED, PROJECTED, STANDIN, THIS, Label, Rung

# What the fast rung projects where nothing was measured: one decode step of one layer.
PROJECTED_SHAPE, PROJECTED_M = "8B.gate_up", 16

# Rows of the check about calls that must be refused; they carry no numbers.
REFUSALS = "refusals_missed"

# One source for every target: a run of these kernels on another capability stands in for this one.
SAME_SOURCE_GATE = "marlin_16bit"


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of one kernel from one run. who: for the label. stale: as `records.stale`; False for rows made
    here. notes: what whoever recorded the run found out about this kernel.
    """

    kernel: str
    capability: Capability
    who: str
    day: str
    rows: tuple[Mapping[str, Any], ...]
    stale: bool | None
    notes: tuple[str, ...] = ()


class Sources:
    """Everything measured that a run of `explain` can draw on: live rows first, then records, newest
    first.
    """

    def __init__(self, records: Sequence[Record], library: Any = None):
        self.records = tuple(records)
        self.library = library
        self.live: list[tuple[str, Source]] = []
        self._stale: dict[tuple[int, str], bool | None] = {}

    def add_live(self, kind: str, rows: Iterable[Mapping[str, Any]], capability: Capability) -> None:
        """Rows measured in this process on a CUDA device of `capability`; rows of the CPU references are
        left out.
        """
        grouped: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            if not str(row.get("device", "cuda")).startswith("cpu"):
                grouped.setdefault(str(row["kernel"]), []).append(row)
        today = datetime.now(UTC).date().isoformat()
        for kernel, mine in grouped.items():
            self.live.append((kind, Source(kernel, capability, MEASURED, today, tuple(mine), False)))

    def find(self, kind: str, kernel: str, capability: Capability | None = None) -> list[Source]:
        """The sources of a kind for a kernel (and capability), live ones first, then by date, newest
        first.
        """
        found = [
            source
            for live_kind, source in self.live
            if live_kind == kind
            and source.kernel == kernel
            and capability in (None, source.capability)
            and _tells(kind, source.rows)
        ]
        for index, record in enumerate(self.records):
            where = Capability.parse(record.capability)
            if record.kind != kind or capability not in (None, where):
                continue
            if (rows := record.rows_of(kernel)) and _tells(kind, rows):
                stale = self._is_stale(index, record, kernel)
                notes = tuple(note for note in record.details.get("notes", ()) if kernel in note)
                found.append(Source(kernel, where, record.source, record.day, rows, stale, notes))
        return found

    def _is_stale(self, index: int, record: Record, kernel: str) -> bool | None:
        if (index, kernel) not in self._stale:
            self._stale[index, kernel] = store.stale(record, kernel, self.library)
        return self._stale[index, kernel]


def candidates(sources: Sources, kind: str, kernel: str, capability: Capability) -> list[tuple[Source, str]]:
    """(source, on what) for a kernel, the nearest first: this capability, siblings, the stand-in."""
    found = [(source, THIS) for source in sources.find(kind, kernel, capability)]
    others = {source.capability for source in sources.find(kind, kernel)}
    for other in static.siblings(kernel, capability, sorted(others)):
        found += [(source, f"sibling {other}") for source in sources.find(kind, kernel, other)]
    for evidence, stands_for in STANDS_FOR.items():
        if stands_for == kernel:
            found += [(source, STANDIN) for source in sources.find(kind, evidence)]
    if GATE_OF.get(kernel) == SAME_SOURCE_GATE:
        near = {capability, *(source.capability for source, _ in found)}
        found += [(source, STANDIN) for source in sources.find(kind, kernel) if source.capability not in near]
    return found


def correct(kernel: str, capability: Capability, sources: Sources) -> Rung:
    """Whether the numbers are right: the nearest fresh check decides; a stale one proves nothing."""
    found = candidates(sources, "check", kernel, capability)
    fresh = [pair for pair in found if pair[0].stale is False]
    if not fresh:
        what_to_do = _how_to_check(kernel, capability)
        if found:
            return _stale(kernel, capability, "correct", found[0], what_to_do)
        reason = f"Nobody has checked {kernel} on {capability}, a sibling or a stand-in: {what_to_do}."
        return Rung(kernel, str(capability), "correct", "unproved", reason, {}, Label("nobody", THIS))
    source, on_what = fresh[0]
    label = Label(source.who, on_what)
    failed = [row for row in source.rows if not row["passed"]]
    cases = {row["case"] for row in source.rows}
    worst = worst_row(source.rows)
    evidence = {
        "rows": len(source.rows),
        "cases": len(cases),
        "failed": len(failed),
        "worst": dict(worst) if worst else None,
        "kernel": source.kernel,
        "capability": str(source.capability),
        "date": source.day,
        "sanitizer": sanitized(sources, source),
    }
    ran = f"{len(cases)} case(s) of {source.kernel} on {source.capability}"
    if failed:
        row = failed[0]
        reason = (
            f"{len({item['case'] for item in failed})} of {ran} failed, such as {row['case']}: "
            f"{row['metric']} {_figure(row['value'])} over the bound {_figure(row['bound'])}."
        )
        return Rung(kernel, str(capability), "correct", "fail", reason, evidence, label)
    reason = f"{ran} held"
    if worst:
        reason += f"; nearest its bound: {worst['metric']} {worst['value']:.3g} of {worst['bound']:.3g}"
    if found_by := _findings(sources, source):
        reason = f"{reason}; but compute-sanitizer found errors in {source.kernel}: {found_by}"
        return Rung(kernel, str(capability), "correct", "fail", reason, evidence, label)
    if on_what == STANDIN:
        reason += "; the same source for another target, which leaves this device's own tensor cores open"
    return Rung(kernel, str(capability), "correct", "pass", f"{reason}.", evidence, label)


def sanitized(sources: Sources, source: Source) -> dict[str, str]:
    """tool -> 'clean', 'errors' or 'not run' for a source's kernel and capability; fresh records only."""
    return {tool: str(row["status"]) for tool, (row, _) in _sanitizer_rows(sources, source).items()}


def _findings(sources: Sources, source: Source) -> str:
    """What the sanitizer's tools found and what was noted of it, in sentences; '' where nothing was found."""
    dirty = {
        tool: found
        for tool, found in _sanitizer_rows(sources, source).items()
        if found[0]["status"] == "errors"
    }
    if not dirty:
        return ""
    told = [
        f"{tool} reports {str(row.get('detail') or 'errors').split(';')[0]}"
        for tool, (row, _) in dirty.items()
    ]
    notes = dict.fromkeys(note for _, notes in dirty.values() for note in notes)
    return " ".join((f"{'; '.join(told)}.", *notes))


def _sanitizer_rows(sources: Sources, source: Source) -> dict[str, tuple[Mapping[str, Any], tuple[str, ...]]]:
    """tool -> its newest row for a source's kernel and capability, and the notes of that record."""
    found: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {}
    for one in sources.find("sanitizer", source.kernel, source.capability):
        if one.stale is False:
            for row in one.rows:
                found.setdefault(str(row["tool"]), (row, one.notes))
    return found


def worst_row(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row nearest to its bound; rows without a numeric bound are left out."""
    known = [row for row in rows if _number(row["value"]) and _number(row["bound"]) and row["bound"] > 0]
    return max(known, key=lambda row: row["value"] / row["bound"], default=None)


def _tells(kind: str, rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether rows say something of the numbers: refusals alone do not."""
    return kind != "check" or any(row["metric"] != REFUSALS for row in rows)


def _figure(value: Any) -> str:
    # A record holds what is not finite as text.
    return f"{value:.3g}" if _number(value) else str(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def fast(kernel: str, capability: Capability, sources: Sources) -> Rung:
    """How far from this machine's limit, held against the floors. A sibling or stand-in proves no speed."""

    def answer(status: str, reason: str, evidence: dict[str, Any], label: Label) -> Rung:
        return Rung(kernel, str(capability), "fast", status, reason, evidence, label)

    mine = sources.find("bench", kernel, capability)
    fresh = [source for source in mine if source.stale is False]
    if not fresh:
        if mine:
            return _stale(kernel, capability, "fast", (mine[0], THIS), "run `kernelpkg bench` again")
        return _projected(kernel, capability, candidates(sources, "bench", kernel, capability))
    source = fresh[0]
    label = Label(source.who, THIS)
    held = thresholds.hold(source.rows, capability, (kernel,))
    measured = [one for one in held if one.measured]
    best = _span(source.rows)
    evidence = {
        "rows": len(source.rows),
        "date": source.day,
        "percent_of_limit": best,
        "floors": [
            {
                "floor": str(one.floor),
                "value": one.value,
                "at_least": one.floor.at_least,
                "passed": one.passed,
            }
            for one in held
        ],
    }
    wrong = [row for row in source.rows if row.get("correct") and not row["correct"].get("passed")]
    if wrong:
        reason = f"{len(wrong)} timed row(s) gave wrong results, such as {_where(wrong[0])}: no speed counts."
        return answer("fail", reason, evidence, label)
    figures = (
        f"{best[0]:.0f} to {best[1]:.0f} % of the limit over {len(source.rows)} row(s)" if best else "timed"
    )
    if failed := [one for one in measured if not one.passed]:
        return answer("fail", f"Under its floor: {failed[0]}.", evidence, label)
    if not held:
        reason = f"{figures}; thresholds.toml has no floor for {kernel} on {capability} to hold it against."
        return answer("unproved", reason, evidence, label)
    if len(measured) < len(held):
        missing = next(one for one in held if not one.measured)
        return answer(
            "unproved", f"{figures}; not all floors were measured: {missing.floor}.", evidence, label
        )
    shown = "; ".join(map(str, measured))
    return answer("pass", f"{figures}; {shown}.", evidence, label)


def _projected(kernel: str, capability: Capability, elsewhere: Sequence[tuple[Source, str]]) -> Rung:
    label = Label(PROJECTED, THIS)
    begin = f"Nobody has timed {kernel} on {capability}"
    if kernel in UNTIMED:
        reason = f"{begin}: the bench does not time this kernel."
        return Rung(kernel, str(capability), "fast", "unproved", reason, {}, Label("nobody", THIS))
    if elsewhere:
        source, on_what = elsewhere[0]
        begin += f" (only on {source.capability}, {on_what}: another machine's speed proves nothing here)"
    try:
        shape = shape_of(PROJECTED_SHAPE)
        projection = project(kernel, PROJECTED_M, shape.n, shape.k, capability)
    except UsageError:
        projection = None
    if projection is None or projection.microseconds is None:
        return Rung(kernel, str(capability), "fast", "unproved", f"{begin}.", {}, label)
    reason = (
        f"{begin}; arithmetic alone: at least {projection.microseconds:.0f} us for {shape.name} at "
        f"m={PROJECTED_M} on {projection.device}, bound by {projection.limit}."
    )
    evidence = {"projection": projection.as_dict()}
    return Rung(kernel, str(capability), "fast", "unproved", reason, evidence, label)


def _stale(
    kernel: str, capability: Capability, rung: str, found: tuple[Source, str], what_to_do: str
) -> Rung:
    source, on_what = found
    why = (
        "its hash does not match the code here"
        if source.stale
        else "its hash cannot be compared with code here"
    )
    reason = f"unproved (stale record of {source.day}): {why}; {what_to_do}."
    evidence = {"date": source.day, "kernel": source.kernel, "capability": str(source.capability)}
    return Rung(kernel, str(capability), rung, "unproved", reason, evidence, Label(source.who, on_what))


def _how_to_check(kernel: str, capability: Capability) -> str:
    run = f"run `kernelpkg check` on a {capability} device"
    standin = next((name for name, shipped in STANDS_FOR.items() if shipped == kernel), None)
    return f"{run}, or on an H100 or H200 for its stand-in" if standin and kernel in GATE_OF else run


def _span(rows: Iterable[Mapping[str, Any]]) -> tuple[float, float] | None:
    values = [row["percent_of_limit"] for row in rows if row.get("percent_of_limit") is not None]
    return (min(values), max(values)) if values else None


def _where(row: Mapping[str, Any]) -> str:
    return f"{row.get('shape')} m={row.get('m')}"
