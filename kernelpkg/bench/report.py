"""What a run of the bench measured, and the newest recorded run in the same form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kernelpkg.bench.shapes import on_what
from kernelpkg.errors import CheckFailed, MachineUnfit, NothingRan


@dataclass(slots=True)
class BenchReport:
    """What a run measured, and what it did not.

    rows: one dict per kernel, variant, shape and M (see `point.bench_row`). ceilings, machine, clocks: as
    measured in the run. sweep: what each configuration of scaled_mm takes (`sweep.sweep_point`). costs: what
    awkward shapes cost (`shape_costs`). gated_out: reason -> kernels left out by it. not_run: sentences about
    points without a row. peers: name -> version, origin and files of a third party's operators.
    peers_left_out: peer, shape, m and reason of each that has no time.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    ceilings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    clocks: dict[str, Any] = field(default_factory=dict)
    sweep: list[dict[str, Any]] = field(default_factory=list)
    costs: list[dict[str, Any]] = field(default_factory=list)
    label: str = "measured here"
    device: str = ""
    size: str = ""
    seed: int | None = None
    recipe: str = ""
    gated_out: dict[str, int] = field(default_factory=dict)
    not_run: list[str] = field(default_factory=list)
    peers: dict[str, Any] = field(default_factory=dict)
    peers_left_out: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cancelled: bool = False
    seconds: float = 0.0

    @property
    def summary(self) -> str:
        """'ran N, gated out M (reasons)', and how many points were left out for time or memory."""
        count = sum(self.gated_out.values())
        reasons = "; ".join(f"{number}: {reason}" for reason, number in self.gated_out.items())
        text = f"ran {len(self.rows)}, gated out {count}" + (f" ({reasons})" if reasons else "")
        if self.not_run:
            text += f"; {len(self.not_run)} point(s) not run"
        return text + (", cancelled" if self.cancelled else "")

    @property
    def peers_line(self) -> str:
        """Whose operators were timed beside ours, torch's own aside; empty where none were."""
        named = (
            f"{name} {facts.get('version') or 'of unknown version'} ({facts.get('origin')} libraries)"
            for name, facts in self.peers.items()
        )
        return f"peers in the same run: {', '.join(named)}" if self.peers else ""

    @property
    def wrong(self) -> list[dict[str, Any]]:
        """Rows, of the points and of the costs, whose correctness gate did not hold."""
        every = (*self.rows, *self.costs)
        return [row for row in every if row.get("correct") and not row["correct"]["passed"]]

    @property
    def slow(self) -> list[dict[str, Any]]:
        """Rows without a time, because every sample was discarded for the clock."""
        return [row for row in self.rows if row["microseconds"]["median"] is None]

    def raise_for_status(self) -> None:
        """Raise CheckFailed for a wrong result, MachineUnfit for a machine in a slow state, NothingRan for
        no row.
        """
        if self.wrong:
            names = ", ".join(sorted({f"{row['kernel']} m={row['m']} {row['shape']}" for row in self.wrong}))
            raise CheckFailed(
                f"Wrong results beside the timing: {names}. Run `kernelpkg check` for the cases."
            )
        if self.rows and len(self.slow) == len(self.rows):
            raise MachineUnfit(
                "Every sample was taken under 75 % of the expected clock and discarded; let the machine cool "
                "down, or look at its power supply, and run again."
            )
        if not self.rows and not self.cancelled:
            reasons = "; ".join((*self.gated_out, *self.not_run)) or "no point was asked for"
            raise NothingRan(f"The bench timed nothing: {reasons}.")


def recorded_report(capability: Any = None, kernels: Sequence[str] | None = None) -> BenchReport | None:
    """The newest recorded bench (of a capability) as a report whose label names machine and date; None
    without one.

    This is what a machine without a GPU shows. Rows keep their figures and get that label.
    """
    from kernelpkg.arch import Capability
    from kernelpkg.bench import records

    wanted = None if capability is None else str(Capability.parse(capability))
    for record in records.load_records():
        if record.kind != "bench" or wanted not in (None, record.capability):
            continue
        where = f"capability {record.capability}"
        rows = [
            dict(row) | {"label": f"{record.source}, {on_what(row['kernel'], where)}"}
            for row in record.rows
            if kernels is None or row["kernel"] in kernels
        ]
        details = record.details
        if rows:
            return BenchReport(
                rows=rows,
                ceilings=dict(details.get("ceilings", {})),
                machine=dict(
                    details.get("machine", {"name": record.machine, "capability": record.capability})
                ),
                clocks=dict(details.get("clocks", {})),
                sweep=_relabelled(details.get("sweep", ()), record.source),
                costs=_relabelled(details.get("costs", ()), record.source),
                label=record.source,
                size=str(details.get("size", "")),
                seed=details.get("seed"),
                peers=dict(details.get("peers", {})),
                notes=list(details.get("notes", [])),
            )
    return None


def _relabelled(rows: Iterable[Mapping[str, Any]], source: str) -> list[dict[str, Any]]:
    return [dict(row) | {"label": f"{source}, {on_what(row['kernel'])}"} for row in rows]
