"""Reading binaries: suffixes, resources, opcodes, verdicts, errors. 25 seconds on two cores, mostly nvcc."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from kernelpkg.arch import Capability
from kernelpkg.binaries import BrokenBinary, NoDeviceCode, ToolMissing, choices, disasm, inspect, judge, tools
from kernelpkg.binaries.fatbin import read_images
from kernelpkg.binaries.inspection import FunctionCode, Inspection
from kernelpkg.binaries.tools import find_tool
from kernelpkg.errors import UsageError


def pick(inspection: Inspection, name: str, target: str, kind: str = "cubin") -> FunctionCode:
    """The one function whose name holds `name`, for this target."""
    found = [
        function
        for function in inspection.functions
        if name in function.function and (function.target, function.kind) == (target, kind)
    ]
    assert len(found) == 1, [(one.function, one.target) for one in found]
    return found[0]


@pytest.fixture(scope="module")
def read(built: dict[str, Path]) -> Callable[[str], Inspection]:
    """The inspection of a probe by name, made once."""
    return cache(lambda name: inspect(built[name]))


def output(tool: str, *arguments: object) -> str:
    command = [str(find_tool(tool)), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_suffixes_of_a_fat_binary(read: Callable[[str], Inspection]) -> None:
    inspection = read("both.so")
    targets = {(function.kind, function.target) for function in inspection.functions}
    assert targets == {("cubin", "12.0f"), ("cubin", "12.0"), ("cubin", "9.0a"), ("ptx", "9.0a")}
    assert pick(inspection, "fp8<1>", "12.0f").function == "void probes::fp8<1>(float*, unsigned int const*)"
    assert "fp8_portable<1>" in pick(inspection, "fp8_portable<1>", "12.0").function


def test_suffixes_agree_with_the_full_dump_and_not_with_the_listing(built: dict[str, Path]) -> None:
    dumped = re.findall(r"^arch = sm_(\w+)$", output("cuobjdump", "-elf", built["both.so"]), re.MULTILINE)
    images = read_images(built["both.so"])
    assert dumped == [f"{image.number}{image.suffix}" for image in images]
    assert sorted(dumped) == ["120", "120f", "90a", "90a"]
    listed = output("cuobjdump", "--list-elf", built["both.so"])
    assert "120f" not in listed, "the listing keeps the suffix now: the note on it can go"


@pytest.mark.parametrize("name", ["both.so", "family.o", "probes.a"])
def test_libraries_objects_and_archives_read_the_same(read: Callable[[str], Inspection], name: str) -> None:
    rows = {(one.symbol, one.target, one.code_hash) for one in read(name).functions}
    assert {row for row in rows if "_portable" not in row[0]} == {
        (one.symbol, one.target, one.code_hash) for one in read("family.so").functions
    }


def test_compressed_images_read_like_plain_ones(
    built: dict[str, Path], read: Callable[[str], Inspection]
) -> None:
    plain, packed = (
        {(one.symbol, one.target, one.kind, one.code_hash) for one in read(name).functions}
        for name in ("family.so", "packed.so")
    )
    assert plain == packed
    assert built["packed.so"].stat().st_size < built["family.so"].stat().st_size


@pytest.mark.parametrize(
    ("name", "target"), [("family.cubin", "12.0f"), ("specific.cubin", "9.0a"), ("ada.cubin", "8.9")]
)
def test_bare_cubin_takes_its_suffix_from_the_note(
    read: Callable[[str], Inspection], name: str, target: str
) -> None:
    functions = read(name).functions
    assert {function.target for function in functions} == {target}
    assert str(functions[0].image.target) == target


def test_without_the_note_the_suffix_is_unknown(built: dict[str, Path], tmp_path: Path) -> None:
    stripped = tmp_path / "stripped.cubin"
    stripped.write_bytes(
        built["family.cubin"].read_bytes().replace(b".note.nv.tkinfo\0", b".gone.nv.tkinfo\0")
    )
    inspection = inspect(stripped)
    assert {function.target for function in inspection.functions} == {"12.0 unknown suffix"}
    assert inspection.functions[0].image is None
    assert any("note that records the suffix is gone" in note for note in inspection.notes)
    choice = choices(inspection, Capability(12, 1))[0]
    assert choice.how == "no" and "cannot be told" in choice.reason
    # Below 9.0 there is no suffix that could be missing.
    ada = tmp_path / "ada.cubin"
    ada.write_bytes(built["ada.cubin"].read_bytes().replace(b".note.nv.tkinfo\0", b".gone.nv.tkinfo\0"))
    assert {function.target for function in inspect(ada).functions} == {"8.9"}


@pytest.mark.parametrize(("name", "target"), [("ptx.so", "9.0"), ("text.ptx", "9.0a")])
def test_ptx_only(read: Callable[[str], Inspection], name: str, target: str) -> None:
    inspection = read(name)
    assert {(one.kind, one.target, one.verdict) for one in inspection.functions} == {
        ("ptx", target, "ptx only")
    }
    function = pick(inspection, "fp8<2>", target, "ptx")
    assert function.registers is None and judge(function, "fp8_mma") == "ptx only"
    assert function.opcodes["mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32"] == 2


def test_ptx_is_compiled_by_the_driver_and_machine_code_goes_first(read: Callable[[str], Inspection]) -> None:
    assert {choice.how for choice in choices(read("ptx.so"), Capability(12, 1))} == {"jit"}
    assert {choice.how for choice in choices(read("ptx.so"), Capability(8, 9))} == {"no"}
    fat = choices(read("family.so"), Capability(12, 1))
    assert {(choice.how, str(choice.image.target)) for choice in fat} == {("cubin", "12.0f")}
    assert {choice.code.target for choice in choices(read("family.so"), Capability(9, 0))} == {"9.0a"}


def test_resources_agree_with_cuobjdump(built: dict[str, Path], read: Callable[[str], Inspection]) -> None:
    for name in ("family.cubin", "specific.cubin", "ada.cubin"):
        listing = output("cuobjdump", "--dump-resource-usage", built[name])
        pattern = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)")
        theirs = {symbol: tuple(map(int, rest)) for symbol, *rest in pattern.findall(listing)}
        ours = read(name).functions
        assert {one.symbol for one in ours} == theirs.keys()
        for one in ours:
            registers, stack, shared = theirs[one.symbol]
            # From 9.0 on cuobjdump counts the kilobyte that the system reserves, where there is a body.
            static = shared if one.target == "8.9" else max(shared - 1024, 0)
            assert (one.registers, one.spills, one.shared_memory) == (registers, stack, static)
        inspection = Inspection(built[name], ours)
        assert pick(inspection, "shared", ours[0].target).shared_memory == 400
        spilling = pick(inspection, "spilling", ours[0].target)
        assert spilling.spills > 0 and spilling.opcodes["STL"] > 0 and spilling.opcodes["LDL"] > 0


def test_opcodes_agree_with_the_ordinary_listing(
    built: dict[str, Path], read: Callable[[str], Inspection]
) -> None:
    for name in ("family.cubin", "specific.cubin", "ada.cubin"):
        sections = re.split(r"\.section\s+\.text\.", output("nvdisasm", "-c", built[name]))[1:]
        for one in read(name).functions:
            listing = next(text for text in sections if text.startswith(f"{one.symbol},"))
            opcodes = re.findall(r"/\*[0-9a-f]{4}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", listing)
            assert one.instructions == len(opcodes)
            assert one.opcodes == disasm.telling(Counter(opcodes)), one.function


def test_code_hash_is_of_the_code_alone(read: Callable[[str], Inspection]) -> None:
    by_target = {
        (one.target, one.function.replace("_portable", "")): one.code_hash
        for one in read("both.so").functions
        if one.kind == "cubin"
    }
    one = "void probes::fp8<1>(float*, unsigned int const*)"
    two = "void probes::fp8<2>(float*, unsigned int const*)"
    assert re.fullmatch(r"[0-9a-f]{64}", by_target["12.0f", one])
    assert by_target["12.0f", one] == by_target["12.0", one], "the same code for both, in different files"
    assert by_target["12.0f", one] != by_target["12.0f", two]
    assert by_target["12.0f", one] != by_target["9.0a", one]


@pytest.mark.parametrize(
    ("name", "target", "declares", "verdict", "says"),
    [
        ("fp8<1>", "12.0f", "fp8_mma", "native", "1 QMMA"),
        ("fp8<1>", "9.0a", "fp8_mma", "emulated", "2 HMMA and 12 F2FP"),
        ("fp8<1>", "12.0f", None, "native", "1 QMMA"),
        ("fp8<1>", "9.0a", None, "fp8 widened", "the code cannot tell"),
        ("half(", "12.0f", "mma16", "native", "1 HMMA"),
        ("half(", "9.0a", "mma16", "native", "1 HMMA"),
        ("half(", "9.0a", "fp8_mma", "dead", "FP8 MMA (QGMMA on 9.0a) is declared, the code has 1 HMMA"),
        ("half(", "9.0a", None, "native", "no FP8"),
        ("weight_only", "9.0a", None, "fp8 widened", "weight-only"),
        ("weight_only", "12.0f", None, "fp8 widened", "weight-only"),
        ("weight_only", "12.0f", "mma16", "native", "1 HMMA"),
        ("guarded", "12.0f", "fp8_mma", "dead", "1 BPT.TRAP: a call fails"),
        ("guarded", "12.0f", "mma16", "dead", "16-bit MMA is declared"),
        ("guarded", "12.0f", None, "no mma", "no MMA"),
        ("silent", "9.0a", "fp8_mma", "dead", "no trap: a call may return over unwritten output"),
        ("shared", "9.0a", "none", "no mma", "none is declared"),
        ("caller", "9.0a", "fp8_mma", "emulated", "2 HMMA"),
        ("fp8<1>", "12.0f", "mma16", "dead", "the code has 1 QMMA"),
    ],
)
def test_verdicts(
    read: Callable[[str], Inspection], name: str, target: str, declares: str | None, verdict: str, says: str
) -> None:
    function = pick(read("family.so"), name, target).judged(declares)
    assert (function.verdict, judge(function, declares)) == (verdict, verdict)
    assert says in function.reason


def test_a_wrong_declaration_is_an_error(read: Callable[[str], Inspection]) -> None:
    with pytest.raises(ValueError, match="'fp8_mma', 'mma16', 'none'"):
        judge(read("ada.cubin").functions[0], "fp8")


def test_code_called_across_separate_compilation_counts(read: Callable[[str], Inspection]) -> None:
    caller = pick(read("separate.cubin"), "caller", "9.0a")
    assert caller.opcodes["HMMA.16816.F32"] == 2


def test_instances_declare_what_functions_must_contain(built: dict[str, Path]) -> None:
    instance = SimpleNamespace(name="fp8_probe", kernel="probe", declares="fp8_mma", function=r"probes::fp8<")
    functions = inspect(built["family.so"], instances=[instance]).functions
    mine = {(one.target, one.verdict) for one in functions if one.instance == "fp8_probe"}
    assert mine == {("12.0f", "native"), ("9.0a", "emulated"), ("9.0a", "ptx only")}
    assert {one.instance for one in functions if "half" in one.function} == {None}


def test_cache_spares_the_disassembler(
    built: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache.json"
    first = inspect(built["family.cubin"], cache_path=cache)
    assert cache.is_file()
    runs: list[object] = []
    real = disasm.run_tool
    monkeypatch.setattr(
        disasm, "run_tool", lambda command, **keys: runs.append(command) or real(command, **keys)
    )
    assert inspect(built["family.cubin"], cache_path=cache) == first and not runs
    monkeypatch.setattr(disasm, "tool_version", lambda path: "another")
    assert inspect(built["family.cubin"], cache_path=cache) == first and runs
    cache.write_text("{broken")
    assert inspect(built["family.cubin"], cache_path=cache) == first
    unwritable = tmp_path / "no such folder" / "cache.json"
    assert inspect(built["family.cubin"], cache_path=unwritable) == first


def test_what_nvdisasm_cannot_read_is_said(built: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        disasm, "run_tool", lambda *a, **k: SimpleNamespace(returncode=1, stderr="no SM", stdout="")
    )
    function = inspect(built["ada.cubin"]).functions[0].judged("fp8_mma")
    assert function.verdict == "unreadable" and "no SM" in function.reason


def test_files_without_device_code(tmp_path: Path, built: dict[str, Path]) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no code here")
    with pytest.raises(NoDeviceCode, match="no ELF file, archive, fat binary, cubin or PTX"):
        inspect(text)
    with pytest.raises(NoDeviceCode, match="holds no device code"):
        inspect(sys.executable)
    with pytest.raises(UsageError, match="is not a file"):
        inspect(tmp_path / "absent.so")
    broken = tmp_path / "broken.so"
    data = bytearray(built["family.so"].read_bytes())
    start = data.index(b"\x50\xed\x55\xba")
    data[start + 8 : start + 16] = (2**40).to_bytes(8, "little")
    broken.write_bytes(data)
    with pytest.raises(BrokenBinary, match="cut off"):
        inspect(broken)


def test_missing_disassembler_names_the_install_command(
    built: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "_wheel_folders", list)
    monkeypatch.setattr(tools, "_system_folders", list)
    with pytest.raises(ToolMissing, match="pip install 'nvidia-cuda-nvdisasm"):
        inspect(built["ada.cubin"])
    # PTX text needs no tool.
    assert inspect(built["text.ptx"]).functions


def test_no_torch_is_imported() -> None:
    program = "import sys, kernelpkg.binaries; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
