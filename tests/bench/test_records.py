"""Records: schema, storage, staleness. Everything in temporary folders; no figure here is a measurement."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kernelpkg import bench
from kernelpkg.bench import hashes, records
from kernelpkg.errors import UsageError

HASH = "ab" * 32


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """User records and committed ones in empty folders of this test."""
    monkeypatch.setenv(records.ENVIRONMENT, str(tmp_path / "user"))
    monkeypatch.setattr(records, "RECORDED", tmp_path / "recorded")
    return tmp_path


def data(**changes: object) -> dict:
    return {
        "schema": 1,
        "kind": "check",
        "machine": "Test GPU",
        "capability": "12.1",
        "date": "2026-01-02T03:04:05+00:00",
        "driver": "1.2",
        "torch": "2.13.0",
        "cuda": "13.0",
        "source_hash": {"marlin_w8a16": HASH},
        "code_hash": None,
        "rows": [
            {
                "kernel": "marlin_w8a16",
                "case": "m1",
                "metric": "relative_error",
                "value": 0.001,
                "bound": 0.002,
                "passed": True,
            }
        ],
        **changes,
    }


def write(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"given-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(data(**changes)))
    return path


def test_a_record_reads_back_as_it_was_written(folders: Path) -> None:
    record = records.parse(data())
    path = records.store(record)
    assert path.parent == folders / "user" and path.name.startswith("check-12.1-test-gpu-20260102-")
    (found,) = bench.load_records()
    assert found.as_dict() == record.as_dict() and found.path == path
    assert found.source == "recorded (Test GPU, 2026-01-02)" and found.kernels == ("marlin_w8a16",)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"schema": 2}, "schema"),
        ({"kind": "story"}, "kind"),
        ({"machine": ""}, "machine"),
        ({"capability": "sm_121"}, "12.1"),
        ({"date": "yesterday"}, "date"),
        ({"driver": 5}, "driver"),
        ({"source_hash": {"marlin_w8a16": "xyz"}}, "source_hash"),
        ({"source_hash": None}, "source_hash"),
        ({"code_hash": ["a"]}, "code_hash"),
        ({"rows": []}, "rows"),
        ({"rows": [{"kernel": "marlin_w8a16"}]}, "lacks case"),
        ({"rows": ["text"]}, "row 0"),
        ({"details": {"x": float("nan")}}, "finite"),
    ],
)
def test_a_broken_record_is_refused_in_one_sentence(folders: Path, changes: dict, word: str) -> None:
    path = write(folders / "mail", **changes)
    with pytest.raises(UsageError, match=word) as caught:
        records.add(path)
    assert path.name in str(caught.value) and not (folders / "user").exists()


def test_what_is_no_json_is_refused(folders: Path) -> None:
    path = folders / "half.json"
    path.write_text('{"schema": 1, "kind": ')
    with pytest.raises(UsageError, match=r"half\.json cannot be read"):
        records.add(path)
    with pytest.raises(UsageError, match="cannot be read"):
        records.add(folders / "absent.json")


def test_one_broken_file_hides_no_other(folders: Path) -> None:
    write(folders / "user", schema=9)
    write(folders / "user")
    problems: list[str] = []
    assert len(bench.load_records(problems=problems)) == 1
    assert len(problems) == 1 and "schema" in problems[0]


def test_newest_first_and_the_same_record_once(folders: Path) -> None:
    write(folders / "recorded", date="2026-03-01")
    write(folders / "user", date="2026-03-01")
    write(folders / "user", date="2026-05-01T00:00:00+02:00")
    assert [record.day for record in bench.load_records()] == ["2026-05-01", "2026-03-01"]


def test_a_write_that_fails_leaves_nothing(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(records.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        records.store(records.parse(data()))
    assert list((folders / "user").iterdir()) == []


def test_export_and_add_carry_a_record_to_another_machine(folders: Path) -> None:
    write(folders / "user")
    write(folders / "user", kind="bench", rows=[bench_row()], capability="9.0")
    assert len(records.export(folders / "all")) == 2
    (one,) = records.export(folders / "some", kinds=("bench",), capability="9.0")
    bundle = folders / "bundle.json"
    bundle.write_text(json.dumps({"schema": 1, "records": [data(machine="Other GPU"), data()]}))
    assert records.add(bundle, folders / "there").parent == folders / "there"
    records.add(one, folders / "there")
    assert {record.machine for record in records.load_records([folders / "there"])} == {
        "Test GPU",
        "Other GPU",
    }


def test_a_bundle_with_one_bad_record_adds_none(folders: Path) -> None:
    bundle = folders / "bundle.json"
    bundle.write_text(json.dumps({"schema": 1, "records": [data(), data(date="")]}))
    with pytest.raises(UsageError, match="record 1"):
        records.add(bundle)
    assert bench.load_records() == ()


def bench_row(**changes: object) -> dict:
    return {
        "kernel": "marlin_w8a16",
        "shape": "8B.gate_up",
        "m": 16,
        "n": 28672,
        "k": 4096,
        "microseconds": {"median": 1.0, "p10": 1.0, "p90": 1.0, "n": 7},
        **changes,
    }


def test_stale_by_sources_unless_the_machine_code_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    here: dict[str, dict[str, str]] = {"sources": {}, "code": {}}
    monkeypatch.setattr(hashes, "source_hashes", lambda kernels, library=None: here["sources"])
    monkeypatch.setattr(hashes, "code_hashes", lambda kernels, capability, library=None: here["code"])
    record = records.parse(data(code_hash={"marlin_w8a16": "cd" * 32}))
    here["sources"] = {"marlin_w8a16": HASH}
    assert records.stale(record, "marlin_w8a16") is False
    here["sources"] = {"marlin_w8a16": "ef" * 32}
    assert records.stale(record, "marlin_w8a16") is True
    here["code"] = {"marlin_w8a16": "cd" * 32}
    assert records.stale(record, "marlin_w8a16") is False
    here["sources"], here["code"] = {}, {}
    assert records.stale(record, "marlin_w8a16") is None
    assert records.stale(record, "another") is None
    (row,) = records.summary([record])
    assert row["stale"] == ["marlin_w8a16"] and row["capability"] == "12.1"


@dataclass
class Report:
    """As a check or a bench hands over."""

    rows: list = field(default_factory=list)
    machine: dict = field(default_factory=dict)
    device: str = "cuda:0"
    label: str = "measured here"


def test_a_report_becomes_a_record(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "built_hashes", lambda kernels, library=None: dict.fromkeys(kernels, HASH))
    monkeypatch.setattr(hashes, "code_hashes", lambda *arguments: {})
    machine = {"name": "Test GPU", "capability": "9.0", "driver": "5", "torch": "2.13", "cuda": "13.0"}
    report = Report([bench_row(percent=float("inf"))], machine)
    path = records.write("bench", report, folders / "out")
    (record,) = records.read(path)
    assert (record.machine, record.capability, record.driver) == ("Test GPU", "9.0", "5")
    assert record.source_hash == {"marlin_w8a16": HASH} and record.code_hash is None
    assert record.rows[0]["percent"] == "inf" and record.details["machine"] == machine
    with pytest.raises(UsageError, match="no rows"):
        records.write("bench", Report([], machine))
    with pytest.raises(UsageError, match="no CUDA device"):
        records.write("check", Report([bench_row()], machine, device="cpu"))


def test_recorded_rows_say_who_measured_them(folders: Path) -> None:
    assert bench.recorded_report() is None
    rows = [bench_row(), bench_row(kernel="scaled_mm_sm120_standin")]
    write(
        folders / "user", kind="bench", capability="9.0", rows=rows, details={"ceilings": {"read_gbps": 1.0}}
    )
    report = bench.recorded_report("9.0")
    assert report is not None and report.label == "recorded (Test GPU, 2026-01-02)"
    assert [row["label"].rpartition(", ")[2] for row in report.rows] == ["capability 9.0", "stand-in"]
    assert report.ceilings == {"read_gbps": 1.0} and report.machine["capability"] == "9.0"
    assert bench.recorded_report("12.1") is None


def test_code_hashes_look_at_the_image_that_loads() -> None:
    def function(target: str, code: str) -> dict:
        return {"kernel": "marlin_w8a16", "symbol": "s", "target": target, "kind": "cubin", "code_hash": code}

    manifest = {"functions": [function("9.0a", "a"), function("12.0f", "b")]}
    hopper = hashes.code_hashes(("marlin_w8a16",), "9.0", manifest)
    spark = hashes.code_hashes(("marlin_w8a16",), "12.1", manifest)
    assert hopper != spark and spark == hashes.code_hashes(("marlin_w8a16",), "12.0", manifest)
    assert hashes.code_hashes(("marlin_w8a16",), "8.0", manifest) == {}
    assert hashes.code_hashes(("marlin_w4a16",), "9.0", manifest) == {}
    assert hashes.code_hashes(("marlin_w8a16",), "9.0", {}) == {}


def test_committed_records_are_valid_and_the_peers_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    committed = Path(records.__file__).parent / "recorded"
    problems: list[str] = []
    found = records.load_records([committed], problems)
    assert problems == []
    assert all(record.path is not None and "peers" not in record.path.name for record in found)
