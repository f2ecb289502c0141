"""The verbs as a user types them: rows, tables, sentences and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kernelpkg import cli
from kernelpkg.errors import CheckFailed, MachineUnfit, NothingRan, UsageError, exit_code
from kernelpkg.printing import peers_left_out


def kernelpkg(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kernelpkg.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"} | environment,
    )


def test_detect_without_a_gpu_is_a_sentence_and_no_failure():
    run = kernelpkg("detect")
    assert run.returncode == 0
    assert run.stdout.strip().endswith(".")
    assert json.loads(kernelpkg("detect", "--json").stdout) == []


def test_detect_assumes_a_device():
    [row] = json.loads(kernelpkg("detect", "--capability", "GB10", "--json").stdout)
    assert row["capability"] == "12.1"
    assert row["multiprocessors"] == 48
    assert row["source"].startswith("assumed")


def test_gates_rows():
    rows = json.loads(kernelpkg("gates", "--capability", "12.1", "--json").stdout)
    assert {row["gate"] for row in rows if row["admits"]} == {"marlin_16bit", "marlin_fp8", "scaled_mm_sm120"}
    assert all(set(row) == {"gate", "layer", "capability", "admits", "reason"} for row in rows)
    assert all(row["reason"] for row in rows)
    everything = json.loads(kernelpkg("gates", "--json").stdout)
    assert len(everything) == 6 * 13


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gates", "--capability", "banana"), "banana"),
        (("build", "--arch", "80f"), "80f"),
        (("build", "--arch", "7.5"), "7.5"),
        (("explain",), "--capability"),
        (("check", "--kernel", "no_such_kernel", "--device", "cpu"), "no_such_kernel"),
        (("bench", "--size", "huge"), "huge"),
        (("bench", "--shape", "9B.gate_up"), "9B.gate_up"),
        (("gates", "-c", "99"), "that generation has 9.0"),
        (("inspect", "/dev/null", "--matrix"), "Leave out one of the two"),
        (("bench", "--m", "1,x"), "'x' is no whole number"),
        (("bench", "--m", "0"), "at least 1"),
        (("bench", "--peer-library", "/no/such/folder"), "/no/such/folder"),
        (("validate", "-p", "device", "banana"), "banana"),
        (("validate", "-p", "capability", "12.1"), "capability"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_code_2(arguments: tuple[str, ...], words: str):
    run = kernelpkg(*arguments)
    assert run.returncode == 2, run.stderr
    assert words in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("verb", ["gates", "build", "inspect", "explain"])
def test_verbs_that_need_no_torch_do_not_import_it(verb: str):
    arguments = {"gates": ["gates"], "build": ["build", "--arch", "80f"], "inspect": ["inspect", "/dev/null"]}
    arguments["explain"] = ["explain", "--capability", "12.1"]
    script = (
        "import sys; from kernelpkg import cli\n"
        f"sys.argv = ['kernelpkg', *{arguments[verb]!r}]\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert run.stdout.strip().splitlines()[-1] == "False", run.stderr


def test_a_raised_error_decides_the_exit_code(capsys: pytest.CaptureFixture[str]):
    for error in (CheckFailed("c"), UsageError("u"), NothingRan("n"), MachineUnfit("m")):

        def fail(error: Exception = error) -> None:
            raise error

        with pytest.raises(SystemExit) as stop:
            cli.main(fail)
        assert stop.value.code == error.exit_code
        assert capsys.readouterr().err.startswith("kernelpkg: ")


@pytest.mark.parametrize("arguments", [("-h",), ("bench", "-h"), ("validate", "-h")])
def test_help_has_a_short_name(arguments: tuple[str, ...]):
    assert kernelpkg(*arguments).stdout == kernelpkg(*arguments[:-1], "--help").stdout


def test_help_lists_the_names():
    from kernelpkg.bench import shapes
    from kernelpkg.validate.runner import NOTEBOOKS

    for verb, names in (("bench", shapes.VARIANTS), ("check", shapes.GATE_OF), ("validate", NOTEBOOKS)):
        text = kernelpkg(verb, "--help").stdout
        assert all(name in text for name in names), verb


def test_a_table_that_is_too_wide_makes_no_ribbons():
    narrow = kernelpkg("explain", "-c", "9.0", "--kernel", "scaled_mm_sm89", COLUMNS="80").stdout
    lines = narrow.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].split() == ["kernel", "rung", "status", "label"]
    assert lines[1].startswith("scaled_mm_sm89  admitted  refused")
    assert lines[2].startswith("    scaled_mm_sm89 refuses capability 9.0: it needs exactly 8.9")
    wide = kernelpkg("gates", "-c", "12.1", COLUMNS="300").stdout.splitlines()
    assert wide[1].split() == ["gate", "admits", "reason"] and len(wide) < 12


def test_a_refusal_has_one_word_for_people_and_its_status_in_rows():
    run = kernelpkg("explain", "-c", "9.0", "--kernel", "scaled_mm_sm89", "--json")
    assert json.loads(run.stdout)[0]["status"] == "fail"
    brief = kernelpkg("explain", "-c", "9.0", "--kernel", "scaled_mm_sm89", "--brief").stdout
    assert "refused" in brief and "fail" not in brief


@pytest.mark.parametrize("quiet", [False, True])
def test_a_quiet_check_prints_failures_and_the_summary(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from kernelpkg import check
    from kernelpkg.check.report import CheckReport

    rows = [
        {
            "kernel": "k",
            "case": f"case{i}",
            "metric": "relative_error",
            "value": 0.1,
            "bound": 1.0,
            "passed": i,
        }
        for i in (1, 0)
    ]

    def run(**given: object) -> CheckReport:
        report = CheckReport("cpu", "a label", "tiny", 0, {})
        for row in rows:
            given["on_case"](row)
        return report

    monkeypatch.setattr(check, "run", run)
    monkeypatch.setattr(CheckReport, "raise_for_status", lambda self: None)
    cli.app(args=["check", *(["--quiet"] if quiet else [])], standalone_mode=False)
    said = "".join(capsys.readouterr())
    assert ("case1" in said) is not quiet and "case0" in said


def test_peers_without_a_time_are_gathered_by_reason():
    left = [{"peer": "vllm_cutlass", "shape": "8B.o", "m": m, "reason": "refused: no"} for m in (1, 16)]
    assert peers_left_out(left) == [
        {"peer not timed": "vllm_cutlass", "reason": "refused: no", "at": "8B.o m=1, 8B.o m=16"}
    ]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["-p", "device", "12.1", "--json"], ["-p", "device=12.1", "--json"]),
        (["-p", "device=12.1", "-p", "seed", "3"], ["-p", "device=12.1", "-p", "seed=3"]),
        (["--parameter", "device"], ["--parameter", "device"]),
        (["-p"], ["-p"]),
    ],
)
def test_parameters_may_be_two_words(given: list[str], read: list[str]):
    assert cli.joined_pairs(given) == read


def test_precedence_of_exit_codes():
    assert exit_code([]) == 0
    assert exit_code([0, 3]) == 3
    assert exit_code([3, 4]) == 4
    assert exit_code([3, 4, 1]) == 1
    assert exit_code([1, 2, 3]) == 2


def test_layers_lists_what_a_checkpoint_holds(tmp_path):
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    weight = torch.ones(128, 256).to(torch.float8_e4m3fn)
    save_file({"down.weight": weight, "down.weight_scale": torch.ones(128, 1)}, path)
    [row] = json.loads(kernelpkg("layers", str(path), "--json").stdout)
    assert (row["layer"], row["format"], row["problem"]) == ("down", "fp8", None)
    assert (row["K"], row["N"]) == (256, 128)
    gone = kernelpkg("layers", str(tmp_path / "gone.safetensors"))
    assert gone.returncode == 2 and "is not there" in gone.stderr
