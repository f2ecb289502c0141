"""What a validation run found: one row per notebook, the exit code, and the machine-readable files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from kernelpkg import errors

# Row status to the words of the report. 'unfit': the machine gave up (time, memory, driver), worth a retry.
STATUSES = ("pass", "fail", "unfit", "not run")


@dataclass(slots=True)
class ValidateReport:
    """The outcome of one run.

    rows: one dict per notebook: notebook, status ('pass', 'fail', 'unfit', 'not run'), seconds, rungs (rows
    as `explain --json` prints them), verdicts, ran, gated_out, error (type, message, traceback, exit_code)
    or None. machine: what was known of the machine, as text by name. started: ISO time with zone.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    started: str = ""
    seconds: float = 0.0
    interrupted: bool = False
    out: Path | None = None

    @property
    def exit_code(self) -> int:
        """0 where every notebook held.

        Else the worst code in the order 2, 1, 4, 3. An interrupted run is a 4.
        """
        codes = [row["error"]["exit_code"] for row in self.rows if row["error"]]
        codes += [1 for row in self.rows if row["status"] == "fail" and not row["error"]]
        return errors.exit_code(codes + ([4] if self.interrupted else []))

    @property
    def ran(self) -> int:
        """Cases run, over all notebooks."""
        return sum(row["ran"] for row in self.rows)

    @property
    def gated_out(self) -> dict[str, int]:
        """Cases left out because of the device, by reason."""
        total: dict[str, int] = {}
        for row in self.rows:
            for reason, number in row["gated_out"].items():
                total[reason] = total.get(reason, 0) + number
        return total

    @property
    def summary(self) -> str:
        """'ran N, gated out M (reasons)'."""
        reasons = "; ".join(f"{number}: {reason}" for reason, number in self.gated_out.items())
        return f"ran {self.ran}, gated out {sum(self.gated_out.values())}" + (
            f" ({reasons})" if reasons else ""
        )

    @property
    def headline(self) -> str:
        """One sentence: how many notebooks held."""
        held = sum(row["status"] == "pass" for row in self.rows)
        text = f"{held} of {len(self.rows)} notebooks held."
        return f"Interrupted. {text} The rest did not run." if self.interrupted else text

    def to_json(self) -> dict[str, Any]:
        """The content of results.json."""
        return {
            "schema": 1,
            "kind": "validate",
            "started": self.started,
            "seconds": round(self.seconds, 1),
            "exit_code": self.exit_code,
            "interrupted": self.interrupted,
            "headline": self.headline,
            "summary": self.summary,
            "machine": self.machine,
            "parameters": self.parameters,
            "ran": self.ran,
            "gated_out": self.gated_out,
            "rows": self.rows,
        }


def write_results(report: ValidateReport, path: Path) -> None:
    """results.json."""
    path.write_text(json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_junit(report: ValidateReport, path: Path) -> None:
    """junit.xml: a suite per notebook, a case per verdict.

    An open verdict is a skip, an exception an error.
    """
    root = ElementTree.Element("testsuites", name="kernelpkg validate", time=f"{report.seconds:.1f}")
    for row in report.rows:
        suite = ElementTree.SubElement(
            root, "testsuite", name=row["notebook"], time=f"{row['seconds']:.1f}", timestamp=report.started
        )
        for verdict in row["verdicts"]:
            case = ElementTree.SubElement(
                suite, "testcase", classname=row["notebook"], name=_xml(verdict["claim"]), time="0"
            )
            if verdict["status"] == "fail":
                ElementTree.SubElement(case, "failure", message=_xml(verdict["detail"]))
            elif verdict["status"] == "open":
                ElementTree.SubElement(case, "skipped", message=_xml(verdict["detail"]))
        whole = ElementTree.SubElement(
            suite, "testcase", classname=row["notebook"], name="runs to its end", time=f"{row['seconds']:.1f}"
        )
        if row["status"] == "not run":
            ElementTree.SubElement(whole, "skipped", message="the run was interrupted before it")
        elif row["error"]:
            problem = row["error"]
            node = ElementTree.SubElement(
                whole, "error", type=problem["type"], message=_xml(problem["message"])
            )
            node.text = _xml(problem["traceback"])
        cases = list(suite)
        for name, tag in (
            ("tests", None),
            ("failures", "failure"),
            ("errors", "error"),
            ("skipped", "skipped"),
        ):
            suite.set(name, str(len(cases) if tag is None else sum(c.find(tag) is not None for c in cases)))
    tree = ElementTree.ElementTree(root)
    ElementTree.indent(tree)
    tree.write(path, encoding="utf-8", xml_declaration=True)


def _xml(text: str) -> str:
    """Without the control characters that XML 1.0 cannot hold."""
    return "".join(c for c in text if c in "\t\n" or c >= " ")
