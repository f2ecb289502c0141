"""What a check answers: its rows, what ran, what was gated out and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kernelpkg.errors import CheckFailed, MachineUnfit, NothingRan

Row = dict[str, Any]


@dataclass(slots=True)
class CheckReport:
    """The outcome of one run.

    rows: one per case and metric, with kernel, case, metric, value, bound, passed, device, label. ran: cases
    run.
    gated_out: cases not run, by reason. device: 'cpu' or 'cuda:N'. label: who and on what. machine: what ran
    it.
    problems: what went wrong where a case raised, by case. fp8_eligible, fp8_ran: whether the device's gates
    admit a kernel that multiplies in FP8 and one was asked for, and how many of such cases ran. unfit: why
    the run was cut short, if it was.
    """

    device: str
    label: str
    size: str
    seed: int
    machine: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    ran: int = 0
    gated_out: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    fp8_eligible: bool = False
    fp8_ran: int = 0
    cancelled: bool = False
    unfit: str | None = None
    seconds: float = 0.0

    @property
    def failures(self) -> list[Row]:
        """The rows that exceed their bound."""
        return [row for row in self.rows if not row["passed"]]

    @property
    def passed(self) -> bool:
        """Whether something ran and all of it held."""
        return bool(self.rows) and not self.failures and self.unfit is None

    @property
    def summary(self) -> str:
        """'ran N (of them so many in FP8), gated out M (reasons)', and what failed."""
        count = sum(self.gated_out.values())
        reasons = "; ".join(f"{number} x {reason}" for reason, number in self.gated_out.items())
        text = f"ran {self.ran}, {self.fp8_ran} of them FP8, gated out {count}"
        text += f" ({reasons})" if count else ""
        failed = {(row["kernel"], row["case"]) for row in self.failures}
        if failed:
            text += f"; {len(failed)} failed"
        return text + ("; cancelled" if self.cancelled else "")

    def raise_for_status(self) -> None:
        """Raises CheckFailed where a row failed, MachineUnfit where the machine gave up, NothingRan where
        nothing ran, or no FP8 case did although the device is eligible; in this order."""
        if self.failures:
            row = self.failures[0]
            first = (
                self.problems[0]
                if self.problems
                else (
                    f"{row['kernel']} {row['case']}: {row['metric']} is {row['value']:.3g}, bound "
                    f"{row['bound']:.3g}"
                )
            )
            raise CheckFailed(
                f"{len(self.failures)} of {len(self.rows)} rows failed on {self.device}; first: {first}"
            )
        if self.unfit is not None:
            raise MachineUnfit(self.unfit)
        if self.cancelled:
            return
        if self.ran == 0:
            raise NothingRan(f"No case ran on {self.device}: {self.summary}.")
        if self.fp8_eligible and self.fp8_ran == 0:
            raise NothingRan(
                f"{self.device} is eligible for FP8 and no FP8 case ran: {self.summary}. Build for it with "
                "`kernelpkg build --arch native`."
            )
