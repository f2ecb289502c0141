"""Choices of how marlin_gemm computes a call: their file, and what refuses them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from kernelpkg.errors import UsageError
from kernelpkg.ops import tuning
from kernelpkg.ops.tuning import Call, Choice

CALL = Call("u4b8", "bfloat16", "bfloat16", 16, 4096, 4096, 128)
HERE = {"name": "NVIDIA Test GPU", "multiprocessors": 48, "capability": "12.1"}


@pytest.fixture
def device(monkeypatch):
    """A device of that name, and a build whose hash is known."""
    properties = SimpleNamespace(name=HERE["name"], multi_processor_count=HERE["multiprocessors"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(tuning, "_build", lambda: "this build")
    chosen = []
    monkeypatch.setattr(tuning, "choose", lambda call, choice, index=0: chosen.append((call, choice, index)))
    return chosen


def test_what_was_saved_is_applied(device, tmp_path):
    file = tmp_path / "tuning.json"
    tuning.save_tuning(file, HERE, [(CALL, Choice("mma", 16, 4))])
    tuning.save_tuning(
        file,
        HERE,
        [(Call("e4m3", "bfloat16", "bfloat16", 64, 128, 256, -1), Choice("wgmma", 64, 2, "workspace"))],
    )
    assert tuning.use_tuning(file) == 2
    assert device[0] == (CALL, Choice("mma", 16, 4), 0)
    assert device[-1][1] == Choice("wgmma", 64, 2, "workspace")
    # What was measured with bfloat16 is taken for float16 as well.
    assert [call.a_type for call, *_ in device] == ["bfloat16", "float16"] * 2


def test_rows_up_to_one_power_of_two_share_a_choice(device, tmp_path):
    file = tmp_path / "tuning.json"
    for rows, parts in ((9, 2), (16, 3), (1, 5), (8, 6)):
        call = Call("u4b8", "bfloat16", "bfloat16", rows, 4096, 4096, 128)
        tuning.save_tuning(file, HERE, [(call, Choice("mma", 16, parts))])
    assert tuning.use_tuning(file) == 2
    assert [choice.parts for call, choice, _ in device if call.c_type == "bfloat16"] == [3, 6]


def test_a_tuning_of_another_build_is_refused_and_replaced(device, tmp_path, monkeypatch):
    file = tmp_path / "tuning.json"
    tuning.save_tuning(file, HERE, [(CALL, Choice("mma", 16, 4))])
    monkeypatch.setattr(tuning, "_build", lambda: "a later build")
    with pytest.raises(UsageError, match="another build"):
        tuning.use_tuning(file)
    other = Call("u4", "float16", "float16", 1, 64, 128, 32)
    tuning.save_tuning(file, HERE, [(other, Choice("mma", 8, 1))])
    assert tuning.use_tuning(file) == 1
    assert device[-1][0] == other


def test_a_tuning_of_another_device_is_refused(device, tmp_path):
    file = tuning.save_tuning(tmp_path / "t.json", HERE | {"multiprocessors": 132}, [(CALL, Choice("mma"))])
    with pytest.raises(UsageError, match=r"132 multiprocessors; this is NVIDIA Test GPU with 48"):
        tuning.use_tuning(file)
    assert not device


@pytest.mark.parametrize(
    "text",
    (
        "not json",
        "{}",
        '{"schema": 9, "device": {}, "build": "", "choices": []}',
        '{"schema": 1, "choices": [3]}',
    ),
)
def test_a_file_that_cannot_be_read_is_named(device, tmp_path, text):
    file = tmp_path / "broken.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"broken\.json"):
        tuning.use_tuning(file)


def test_a_choice_that_cannot_be_read_is_named(device, tmp_path):
    file = tuning.save_tuning(tmp_path / "t.json", HERE, [(CALL, Choice("mma"))])
    data = json.loads(file.read_text())
    data["choices"][0]["choice"]["warps"] = 4
    file.write_text(json.dumps(data))
    with pytest.raises(UsageError, match="warps"):
        tuning.use_tuning(file)


def test_the_heuristics_own_choice_is_kept_as_such(device, tmp_path):
    file = tuning.save_tuning(tmp_path / "t.json", HERE, [(CALL, Choice("mma", 16, 4))])
    tuning.save_tuning(file, HERE, [(CALL, Choice("any"))])
    assert tuning.use_tuning(file) == 0
    assert device[0][1] == Choice("any")


def test_choices_of_another_device_are_not_kept_under_this_name(device, tmp_path):
    file = tuning.save_tuning(tmp_path / "t.json", HERE | {"name": "Other"}, [(CALL, Choice("mma", 16, 4))])
    other = Call("u4", "bfloat16", "bfloat16", 1, 64, 128, 32)
    tuning.save_tuning(file, HERE, [(other, Choice("mma", 8, 1))])
    assert tuning.use_tuning(file) == 1


def test_a_choice_that_does_not_fit_leaves_nothing_in_use(device, tmp_path, monkeypatch):
    file = tuning.save_tuning(tmp_path / "t.json", HERE, [(CALL, Choice("mma", 16, 4))])
    forgotten = []

    def refuse(*_):
        raise UsageError("no kernel with tiles of 16 rows")

    monkeypatch.setattr(tuning, "choose", refuse)
    monkeypatch.setattr(tuning, "forget", lambda: forgotten.append(True))
    with pytest.raises(UsageError, match="nothing is in use"):
        tuning.use_tuning(file)
    assert forgotten


@pytest.mark.parametrize(("field", "value"), [("rows", "x"), ("rows", 1.5), ("weight_format", [])])
def test_a_field_of_the_wrong_type_is_named(device, tmp_path, field, value):
    file = tuning.save_tuning(tmp_path / "t.json", HERE, [(CALL, Choice("mma"))])
    data = json.loads(file.read_text())
    data["choices"][0]["call"][field] = value
    file.write_text(json.dumps(data))
    for apply in (tuning.use_tuning, lambda path: tuning.save_tuning(path, HERE, [])):
        with pytest.raises(UsageError, match=field):
            apply(file)


def test_a_folder_is_no_tuning(device, tmp_path):
    with pytest.raises(UsageError, match="folder"):
        tuning.save_tuning(tmp_path, HERE, [])
    assert not list(tmp_path.parent.glob("*.part"))


def test_no_tuning_says_how_to_make_one(device, monkeypatch, tmp_path):
    monkeypatch.setenv("KERNELPKG_TUNING", str(tmp_path))
    assert tuning.tuning_path(HERE["name"], 48) == tmp_path / "nvidia-test-gpu-48sm.json"
    with pytest.raises(UsageError, match="kernelpkg tune"):
        tuning.use_tuning()


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="no cuda:0"):
        tuning.use_tuning()


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"weight_format": "int3"}, "weight_format is 'int3'"),
        ({"a_type": "float64"}, "a_type is 'float64'"),
        ({"c_type": "float8_e4m3fn"}, "output type is float8_e4m3fn"),
        ({"group_size": 48}, "group_size is 48"),
        ({"rows": 0}, "m 0"),
        ({"rows": 2**32 + 1}, "rows is 4294967297"),
        ({"size_n": 0}, "size_n is 0"),
    ),
)
def test_a_wrong_call_is_refused_before_a_device_is_asked(library, change, message):
    with pytest.raises(UsageError, match=message):
        tuning.plan(replace(CALL, **change))


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks a machine without a CUDA device")
def test_without_a_device_the_sentence_says_so(library):
    with pytest.raises(UsageError, match="device 0"):
        tuning.candidates(CALL)


def test_unknown_names_of_a_choice_are_refused(library):
    with pytest.raises(UsageError, match=r"route is 'fast'.*mma, wgmma, library"):
        tuning.choose(CALL, Choice("fast"))
    with pytest.raises(UsageError, match="added is 'tree'"):
        tuning.choose(CALL, Choice("wgmma", 64, 2, "tree"))


def test_choices_read_well():
    assert str(Choice("mma", 16, 1)) == "mma 16 rows, 1 part"
    assert str(Choice("wgmma", 64, 4, "workspace")) == "wgmma 64 rows, 4 parts by workspace"
    assert str(Choice("library")) == "library"
