"""Stored measurements: what was measured, on which machine, when, and from which code.

A record is one JSON file. Those committed with the package lie in `kernelpkg/bench/recorded`, a user's own
in the folder named by KERNELPKG_RECORDS, else in the user's data folder. A record whose hashes no longer
match the code that is here is *stale*: it stays readable, and proves nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kernelpkg.errors import UsageError

SCHEMA = 1
KINDS = ("check", "bench", "sanitizer", "validate")
RECORDED = Path(__file__).parent / "recorded"
ENVIRONMENT = "KERNELPKG_RECORDS"

# What a record keeps of a report beside its rows.
DETAILS = ("machine", "ceilings", "clocks", "label", "summary", "size", "seed", "peers", "notes")
DETAILS += ("sweep", "costs")

# What a row of each kind must have for the ladder to judge it.
ROW_KEYS = {
    "check": ("kernel", "case", "metric", "value", "bound", "passed"),
    "bench": ("kernel", "shape", "m", "n", "k", "microseconds"),
    "sanitizer": ("kernel", "tool", "status"),
    "validate": ("notebook", "status"),
}


@dataclass(frozen=True, slots=True)
class Record:
    """One run on one machine.

    machine: the device's name. capability: such as '9.0'. date: UTC, ISO 8601. driver, torch, cuda:
    versions as text, None where unknown. source_hash and code_hash: kernel -> hexadecimal digest of its
    sources, and of its machine code where that was read (else None). rows: as printed by the verb of that
    kind with --json. details: anything else about the run (ceilings, clocks, machine). path: where it was
    read from.
    """

    kind: str
    machine: str
    capability: str
    date: str
    driver: str | None
    torch: str | None
    cuda: str | None
    source_hash: dict[str, str]
    code_hash: dict[str, str] | None
    rows: tuple[dict[str, Any], ...]
    details: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels its rows speak of, in order of appearance."""
        return tuple(dict.fromkeys(row["kernel"] for row in self.rows if row.get("kernel")))

    @property
    def day(self) -> str:
        """The date without the time."""
        return self.date[:10]

    @property
    def source(self) -> str:
        """Who measured, for a label: 'recorded (NVIDIA H200, 2026-11-23)'."""
        return f"recorded ({self.machine}, {self.day})"

    def rows_of(self, kernel: str) -> tuple[dict[str, Any], ...]:
        """The rows of one kernel."""
        return tuple(row for row in self.rows if row.get("kernel") == kernel)

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of the file."""
        data = asdict(self)
        del data["path"]
        return {"schema": SCHEMA, **data, "rows": list(data["rows"])}


def parse(data: Any, origin: str = "the record", path: Path | None = None) -> Record:
    """A Record from its JSON object. Raises UsageError naming `origin` and the first thing wrong."""

    def wrong(what: str) -> UsageError:
        return UsageError(f"{origin}: {what}. A record is what `kernelpkg check|bench --record` writes.")

    if not isinstance(data, Mapping):
        raise wrong(f"it is a {type(data).__name__}, not an object")
    if data.get("schema") != SCHEMA:
        raise wrong(f"schema is {data.get('schema')!r}, this version reads {SCHEMA}")
    if data.get("kind") not in KINDS:
        raise wrong(f"kind is {data.get('kind')!r}, allowed are {', '.join(KINDS)}")
    for name in ("machine", "capability", "date"):
        if not isinstance(data.get(name), str) or not data[name].strip():
            raise wrong(f"{name} is {data.get(name)!r}, it must be text")
    if not re.fullmatch(r"\d{1,2}\.\d", data["capability"]):
        raise wrong(f"capability is {data['capability']!r}, it must read like 12.1")
    try:
        datetime.fromisoformat(data["date"])
    except ValueError as error:
        raise wrong(f"date is {data['date']!r}, it must read like 2026-11-23T20:15:00+00:00") from error
    for name in ("driver", "torch", "cuda"):
        if not isinstance(data.get(name), str | None):
            raise wrong(f"{name} is {data[name]!r}, it must be text or null")
    sources, codes = data.get("source_hash"), data.get("code_hash")
    if not _is_hashes(sources):
        raise wrong("source_hash must map each kernel to the hexadecimal digest of its sources")
    if codes is not None and not _is_hashes(codes):
        raise wrong("code_hash must be null or map kernels to hexadecimal digests")
    rows = data.get("rows")
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise wrong("rows must be a list with at least one row")
    for index, row in enumerate(rows):
        missing = [key for key in ROW_KEYS[data["kind"]] if not isinstance(row, Mapping) or key not in row]
        if missing:
            raise wrong(f"row {index} of a {data['kind']} record lacks {', '.join(missing)}")
        if not _is_finite(row):
            raise wrong(f"row {index} holds a number that is not finite")
    details = data.get("details", {})
    if not isinstance(details, Mapping) or not _is_finite(details):
        raise wrong("details must be an object of finite values")
    return Record(
        kind=data["kind"],
        machine=data["machine"],
        capability=data["capability"],
        date=data["date"],
        driver=data.get("driver"),
        torch=data.get("torch"),
        cuda=data.get("cuda"),
        source_hash=dict(sources),
        code_hash=None if codes is None else dict(codes),
        rows=tuple(dict(row) for row in rows),
        details=dict(details),
        path=path,
    )


def _is_hashes(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{8,128}", digest)
        for name, digest in value.items()
    )


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(_is_finite(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_finite(item) for item in value)
    return True


# ------------------------------------------------------------------------------------------- files


def user_folder() -> Path:
    """Where a user's own records lie: KERNELPKG_RECORDS, else the platform's data folder."""
    if named := os.environ.get(ENVIRONMENT):
        return Path(named).expanduser()
    from platformdirs import user_data_path

    return user_data_path("kernelpkg") / "records"


def load_records(
    folders: Iterable[Path] | None = None, problems: list[str] | None = None
) -> tuple[Record, ...]:
    """All records, newest first: the committed ones and the user's (or those in `folders`).

    A file that is no valid record is left out; its sentence is appended to `problems` where a list is given.
    """
    found: dict[str, Record] = {}
    for folder in (RECORDED, user_folder()) if folders is None else folders:
        for path in sorted(Path(folder).glob("*.json")):
            try:
                for record in read(path):
                    found.setdefault(_digest(record), record)
            except UsageError as error:
                if problems is not None:
                    problems.append(str(error))
    return tuple(sorted(found.values(), key=lambda record: _moment(record.date), reverse=True))


def read(path: Path) -> tuple[Record, ...]:
    """The records of one file: one object, or {"schema": 1, "records": [...]}; none for a table of peers.

    Raises UsageError where the file cannot be read or holds no record.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.name} cannot be read as JSON: {error}.") from error
    if isinstance(data, Mapping) and data.get("kind") == "peers":
        return ()
    if isinstance(data, Mapping) and isinstance(data.get("records"), list):
        bundle = data["records"]
        return tuple(parse(item, f"{path.name}, record {i}", path) for i, item in enumerate(bundle))
    return (parse(data, path.name, path),)


def add(path: Path | str, folder: Path | None = None) -> Path:
    """Add the record(s) of a file to the user's folder; the last path written.

    Everything is validated before anything is written, and each file appears whole or not at all.
    Raises UsageError for a file that is no record, or has none.
    """
    found = read(Path(path))
    if not found:
        raise UsageError(f"{Path(path).name} holds no record.")
    return [store(record, folder) for record in found][-1]


def store(record: Record, folder: Path | None = None) -> Path:
    """Write one record into `folder` (the user's by default) atomically; where it is now."""
    data = record.as_dict()
    parse(json.loads(json.dumps(data)))
    folder = Path(folder) if folder is not None else user_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file_name(record)
    text = _text(data)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def _text(data: Mapping[str, Any]) -> str:
    """JSON with a line for each row: a check has thousands."""
    rest = {name: value for name, value in data.items() if name != "rows"}
    rows = ",\n  ".join(json.dumps(row, allow_nan=False, separators=(",", ":")) for row in data["rows"])
    return f'{json.dumps(rest, indent=1, allow_nan=False)[:-2]},\n "rows": [\n  {rows}\n ]\n}}\n'


def export(
    folder: Path | str, kinds: Iterable[str] | None = None, capability: str | None = None
) -> tuple[Path, ...]:
    """Write all records (of these kinds and this capability) into `folder`, one file each; the paths."""
    wanted = None if kinds is None else tuple(kinds)
    return tuple(
        store(record, Path(folder))
        for record in load_records()
        if (wanted is None or record.kind in wanted) and capability in (None, record.capability)
    )


def file_name(record: Record) -> str:
    """bench-9.0-nvidia-h200-20261123-1a2b3c4d.json: kind, capability, machine, day and content."""
    machine = re.sub(r"[^a-z0-9]+", "-", record.machine.lower()).strip("-")
    day = record.day.replace("-", "")
    return f"{record.kind}-{record.capability}-{machine}-{day}-{_digest(record)[:8]}.json"


def _digest(record: Record) -> str:
    return hashlib.sha256(json.dumps(record.as_dict(), sort_keys=True).encode()).hexdigest()


def _moment(date: str) -> datetime:
    moment = datetime.fromisoformat(date)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# ------------------------------------------------------------------------------------- from a report


def write(kind: str, report: Any, folder: Path | str | None = None) -> Path:
    """Write the report of a check or a bench as a record into `folder` (the user's by default)."""
    return store(from_report(kind, report), None if folder is None else Path(folder))


def from_report(kind: str, report: Any, library: Any = None) -> Record:
    """The record of a report: its rows and machine with the hashes of the code that made them.

    library: the one that was run; the one this process has loaded where None.

    `report` has rows (a list of dicts), machine (a mapping, or text) and perhaps ceilings, clocks and label.
    Raises UsageError where it has no row or ran on no GPU.
    """
    from kernelpkg.bench import hashes, machine

    operators = sys.modules.get("kernelpkg.ops.load")
    if library is None and operators is not None:
        library = operators.loaded()
    rows = [_clean(dict(row)) for row in report.rows]
    if not rows:
        raise UsageError(f"This {kind} has no rows: nothing was measured, so there is nothing to record.")
    given = getattr(report, "machine", None)
    facts = machine.facts(given if isinstance(given, Mapping) else {})
    on_cpu = str(getattr(report, "device", "cuda")).startswith("cpu")
    if on_cpu or not facts.get("capability") or not facts.get("name"):
        raise UsageError(f"This {kind} ran on no CUDA device; only runs on a device are recorded.")
    kernels = tuple(dict.fromkeys(row["kernel"] for row in rows if row.get("kernel")))
    details = {
        name: _clean(value)
        for name in DETAILS
        if (value := getattr(report, name, None)) not in (None, (), [], {}, "")
    }
    data = {
        "schema": SCHEMA,
        "kind": kind,
        "machine": facts["name"],
        "capability": str(facts["capability"]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "driver": facts.get("driver"),
        "torch": facts.get("torch"),
        "cuda": facts.get("cuda"),
        "source_hash": hashes.built_hashes(kernels, library),
        "code_hash": hashes.code_hashes(kernels, str(facts["capability"]), library) or None,
        "rows": rows,
        "details": details,
    }
    return parse(data, f"the {kind} report")


def _clean(value: Any) -> Any:
    """JSON types only; six digits of a number, and one that is not finite as its text: no file holds NaN."""
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


# ----------------------------------------------------------------------------------------- staleness


def stale(record: Record, kernel: str, library: Any = None) -> bool | None:
    """Whether `record` no longer speaks of the code that is here, for one kernel.

    False where the sources' hash matches, or the machine code's does although the sources changed (a
    comment). True where neither matches. None where there is nothing to compare: no hash in the record, or
    no sources and no library here. None proves nothing either.
    """
    from kernelpkg.bench import hashes

    recorded = record.source_hash.get(kernel)
    here = hashes.source_hashes((kernel,), library).get(kernel)
    if recorded and here and recorded == here:
        return False
    code = (record.code_hash or {}).get(kernel)
    code_here = hashes.code_hashes((kernel,), record.capability, library).get(kernel) if code else None
    if code and code_here == code:
        return False
    return True if recorded and here else None


def summary(records: Iterable[Record] | None = None) -> list[dict[str, Any]]:
    """One row per record: kind, machine, capability, date, kernels, hash, stale (names of stale kernels)."""
    rows = []
    for record in load_records() if records is None else records:
        old = [kernel for kernel in record.kernels if stale(record, kernel) is not False]
        rows.append(
            {
                "kind": record.kind,
                "machine": record.machine,
                "capability": record.capability,
                "date": record.date,
                "kernels": list(record.kernels),
                "hash": _digest(record)[:12],
                "stale": old,
            }
        )
    return rows


list_records = summary
