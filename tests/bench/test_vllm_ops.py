"""vLLM's operators as peers: which shared objects are taken, the form of weights and scales. No vLLM here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kernelpkg.bench import vllm_ops
from kernelpkg.errors import UsageError

NAMES = tuple(vllm_ops.LIBRARIES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.fixture
def operators(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An empty operator namespace; `bring` names what loading a file registers."""
    found = SimpleNamespace(loaded=[], bring=dict(vllm_ops.LIBRARIES), namespace=SimpleNamespace())

    def load_library(path: str) -> None:
        name = Path(path).name
        if name not in found.bring:
            raise OSError(f"Could not load this library: {path}") from OSError("undefined symbol: _ZN3c10")
        found.loaded.append(name)
        for operator in found.bring[name]:
            setattr(found.namespace, operator, None)

    monkeypatch.setattr(vllm_ops.torch, "ops", SimpleNamespace(_C=found.namespace, load_library=load_library))
    monkeypatch.setattr(vllm_ops, "_installed", lambda: None)
    return found


def test_a_folder_a_file_and_a_wheel_that_was_unpacked_are_found(folder: Path, tmp_path: Path) -> None:
    assert [path.name for path in vllm_ops.locate([folder])] == list(NAMES)
    assert vllm_ops.locate([folder / NAMES[1]]) == (folder / NAMES[1],)
    assert [path.name for path in vllm_ops.locate([folder / NAMES[1], folder / NAMES[0]])] == list(NAMES)
    inside = tmp_path / "wheel" / "vllm"
    inside.mkdir(parents=True)
    (inside / NAMES[0]).write_bytes(b"")
    assert vllm_ops.locate([inside.parent]) == (inside / NAMES[0],)


def test_a_path_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file or folder .*absent"):
        vllm_ops.locate([tmp_path / "absent"])
    with pytest.raises(UsageError, match=r"holds none of _C\.abi3\.so"):
        vllm_ops.locate([tmp_path])


def test_an_installed_vllm_is_found_without_being_imported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(vllm_ops, "_installed", lambda: spec)
    assert [path.parent for path in vllm_ops.locate()] == [folder, folder]
    monkeypatch.setattr(vllm_ops, "_installed", lambda: None)
    assert vllm_ops.locate() == ()


def test_loading_says_what_can_be_called(folder: Path, operators: SimpleNamespace) -> None:
    loaded = vllm_ops.load([folder])
    assert operators.loaded == list(NAMES) and loaded.problems == ()
    assert loaded.peers == (
        "vllm_marlin_w8a16",
        "vllm_marlin_w4a16_g128",
        "vllm_cutlass",
        "vllm_cutlass_block",
    )
    digest = hashlib.sha256(NAMES[0].encode()).hexdigest()
    assert loaded.provenance == {
        "version": None,
        "origin": "named",
        "files": {NAMES[0]: digest, NAMES[1]: hashlib.sha256(NAMES[1].encode()).hexdigest()},
    }
    assert vllm_ops.load([folder]).peers == loaded.peers and len(operators.loaded) == 2, "loaded once"


def test_what_does_not_load_is_a_sentence_and_no_error(folder: Path, operators: SimpleNamespace) -> None:
    del operators.bring[NAMES[1]]
    loaded = vllm_ops.load([folder])
    assert loaded.peers == ("vllm_marlin_w8a16", "vllm_marlin_w4a16_g128")
    assert loaded.problems[0].startswith(f"{NAMES[1]} does not load beside torch")
    assert loaded.problems[0].endswith("undefined symbol: _ZN3c10")
    assert loaded.problems[1] == "vllm_cutlass is not timed: no loaded library has _C::cutlass_scaled_mm"


def test_without_vllm_there_is_nothing_to_say(operators: SimpleNamespace) -> None:
    assert vllm_ops.load() == vllm_ops.Loaded()


def test_a_released_file_is_known_by_its_content() -> None:
    digest = next(iter(vllm_ops._RELEASES))
    assert vllm_ops._version([digest], named=True) == "0.22.1"
    assert vllm_ops._version([digest, "0" * 64], named=True) is None


def test_element_types_have_vllms_numbers() -> None:
    assert vllm_ops._TYPES["u4b8"][0] == 1125899907892224
    assert vllm_ops._TYPES["e4m3"][0] == 2814749767172868


def test_scales_are_in_the_order_of_the_threads() -> None:
    scales = torch.arange(128.0).reshape(1, 128).bfloat16()
    channel = vllm_ops.marlin_scales(scales, "u4b8")[0]
    assert channel[:10].tolist() == [0, 1, 8, 9, 16, 17, 24, 25, 2, 3] and channel[32] == 32
    grouped = vllm_ops.marlin_scales(torch.cat([scales, scales + 1]), "u4b8")
    assert grouped[0, :9].tolist() == [0, 8, 16, 24, 32, 40, 48, 56, 1] and grouped[0, 64] == 64
    assert grouped[1, 0] == 1
    assert torch.equal(vllm_ops.marlin_scales(scales, "e4m3")[0], channel * 2.0**120)


def test_bytes_become_words_along_k() -> None:
    values = torch.randint(0, 120, (8, 5), dtype=torch.uint8)
    words = vllm_ops.bytes_to_words(values.view(torch.float8_e4m3fn))
    assert words.shape == (2, 5) and words.dtype == torch.int32
    assert [int(words[1, 3]) >> (8 * j) & 0xFF for j in range(4)] == values[4:, 3].tolist()


def test_a_weight_is_packed_by_the_repack_operator(operators: SimpleNamespace) -> None:
    calls: list[tuple[Any, ...]] = []

    def repack(words: torch.Tensor, order: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append((tuple(words.shape), order.numel(), *rest))
        return words.clone()

    operators.namespace.gptq_marlin_repack = repack
    four = vllm_ops.pack(torch.zeros(16, 64, dtype=torch.int32), torch.ones(1, 64).bfloat16(), "u4b8")
    eight = vllm_ops.pack(torch.zeros(128, 64).to(torch.float8_e4m3fn), torch.ones(1, 64).bfloat16(), "e4m3")
    assert calls == [((16, 64), 0, 128, 64, 4, False), ((32, 64), 0, 128, 64, 8, False)]
    assert (four.size_k, four.size_n) == (eight.size_k, eight.size_n) == (128, 64)
    assert four.clone().data.data_ptr() != four.data.data_ptr()


def test_calls_pass_what_the_operators_ask_for(operators: SimpleNamespace) -> None:
    seen: list[tuple[Any, ...]] = []
    operators.namespace.marlin_gemm = lambda *given: seen.append(given)
    operators.namespace.cutlass_scaled_mm = lambda *given: seen.append(given)
    weight = vllm_ops.MarlinWeight(torch.zeros(1), torch.ones(1), 7, 128, 64)
    a = torch.zeros(3, 128)
    vllm_ops.marlin_gemm(a, weight, torch.zeros(1))
    assert (
        len(seen[0]) == 19 and seen[0][0] is a and seen[0][11:] == (7, 3, 64, 128, True, False, True, False)
    )
    out = vllm_ops.scaled_mm(a, torch.zeros(128, 64), torch.ones(3, 1), torch.ones(1, 64))
    assert seen[1][0] is out and out.shape == (3, 64) and out.dtype == torch.bfloat16 and seen[1][5] is None
