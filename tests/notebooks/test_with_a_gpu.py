"""The notebooks' branches for a GPU, run without one: a kernel in which one is made up. About 40 seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kernelpkg import validate
from kernelpkg.build import find_library

FAKE = Path(__file__).with_name("fake_gpu.py")


def test_every_notebook_runs_to_its_end_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_library() is None:
        pytest.skip("no library is built: run `kernelpkg build --arch 9.0a,12.0f` first")
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00_fake_gpu.py").write_text(FAKE.read_text())
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    names = ["01", "03", "04"]  # the second one builds, which a GPU does not change
    report = validate.run(tmp_path / "out", names, size="tiny", parameters={"device": "auto"})
    assert [row["error"] for row in report.rows] == [None] * len(names)
    assert report.exit_code == 0 and report.machine["device"].startswith("H200, capability 9.0 (here)")
    assert report.machine["driver"] == "580.0" and report.ran > 100 and report.gated_out["gate"] == 2
    verdicts = {v["claim"]: v["status"] for row in report.rows for v in row["verdicts"]}
    assert verdicts["no time is shown of a wrong result"] == "pass"
    rungs = {(r["kernel"], r["rung"]): r for row in report.rows for r in row["rungs"]}
    assert rungs["marlin_w8a16", "correct"]["status"] == "pass"
    assert "measured here" in rungs["marlin_w8a16", "correct"]["label"]
    assert rungs["scaled_mm_sm120", "admitted"]["status"] == "fail"
    executed = json.loads((tmp_path / "out" / "04_speed.ipynb").read_text())
    plots = [
        output
        for cell in executed["cells"]
        for output in cell.get("outputs", [])
        if "application/vnd.plotly.v1+json" in output.get("data", {})
    ]
    assert len(plots) == 4
