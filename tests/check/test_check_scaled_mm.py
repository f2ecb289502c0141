"""The cases of scaled_mm, and the sweep over its configurations. About 4 s."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernelpkg import check
from kernelpkg.check import runner, sweep
from kernelpkg.check.operands import make_problem
from kernelpkg.ops import kernel
from kernelpkg.ops.dispatch import Configuration


@pytest.fixture(autouse=True)
def _library(library):
    return library


def test_scaled_mm_meets_the_shapes_its_peer_is_tested_on():
    """The grids of vLLM's tests of cutlass_scaled_mm and of its blockwise form."""
    default, full = (check.cases_for("scaled_mm_sm120", size) for size in ("default", "full"))
    plain = {(c.m, c.n, c.k) for c in default if c.scales == "plain"}
    assert {(1, 24576, 496), (16, 24576, 4096), (128, 32768, 4096), (512, 24576, 128)} <= plain
    assert {(1, 3420, 1280), (64, 6840, 1280), (32, 1280, 6840), (16, 100, 200), (33, 255, 513)} <= plain
    blocks = {(c.m, c.n, c.k) for c in default if c.scales == "block"}
    assert (32, 576, 7168) in blocks and {m for m, _, _ in blocks} >= {1, 7, 8, 83}
    assert {(n, k) for _, n, k in blocks} >= {
        (n, k) for n in (128, 512, 576, 7168) for k in (256, 3884, 4096)
    }
    grid = {(c.m, c.n, c.k) for c in full if c.scales == "block"}
    assert {(m, n, k) for m in (1, 7, 8, 83, 4096) for n in (128, 576, 7168) for k in (256, 3884)} <= grid
    for size in (default, full):
        for e5m2 in (False, True):
            kinds = {(c.dtype, c.scales, c.bias) for c in size if c.e5m2 == e5m2}
            assert kinds >= {(d, s, b) for d in ("bf16", "fp16") for s in ("plain", "block") for b in (0, 1)}
    pairings = {(c.token, c.channel, c.dtype, c.bias) for c in full if (c.m, c.n, c.k) == (33, 1024, 1024)}
    assert {pairing[:2] for pairing in pairings} == {(a, b) for a in (False, True) for b in (False, True)}
    for kind in ("strided", "nan", "overflow", "graph", "streams"):
        assert {c.scales for c in default if c.kind == kind} == {"plain", "block"}


def test_strided_operands_of_scaled_mm_lie_amid_nan():
    for case in check.cases_for("scaled_mm_sm90", "tiny"):
        if case.kind != "strided":
            continue
        inputs = make_problem(kernel("scaled_mm_sm90"), case, "cpu").inputs
        names = ("a", "b", "a_scales", "b_scales") if case.scales == "block" else ("a", "b")
        for name in names:
            x = inputs[name].t() if name == "b" else inputs[name]
            assert not x.is_contiguous() and not x.isnan().any()
            around = x.as_strided((1, x.shape[1]), x.stride(), x.storage_offset() - x.stride(0))
            assert around.isnan().all()
        if case.k % 16:
            assert inputs["a"].data_ptr() % 16 and inputs["a"].stride(0) % 16


CONFIGURATION = dict.fromkeys(Configuration.__dataclass_fields__, 1) | {
    "dtype": torch.float8_e4m3fn,
    "block_scales": False,
    "max_m": 64,
}


def configuration(**changes) -> Configuration:
    return Configuration(**CONFIGURATION | changes)


def test_a_sweep_runs_every_configuration_of_a_kind(monkeypatch):
    """On a GPU that is not here: each case as dispatched, then under each configuration that computes it."""
    held = (
        configuration(place=0),
        configuration(place=4, max_m=0),
        configuration(place=5, block_scales=True, max_m=0),
    )
    seen: list[check.Case] = []

    def run_case(entry, case, device, seed, bounds):
        seen.append(case)
        if case.configuration == 0 and case.m > 64:
            raise RuntimeError("small tile cannot run this shape: it takes no more rows of a")
        if case.configuration == 4 and case.m == 1:
            raise RuntimeError("large tile cannot run this shape: it should")
        return check.Errors(0.0, 0.0)

    monkeypatch.setattr(runner, "_admitted", lambda chosen, *rest: ((entry, None) for entry in chosen))
    monkeypatch.setattr(runner, "_device", lambda device: torch.device("cuda:0"))
    monkeypatch.setattr(runner, "_machine", lambda device: {})
    monkeypatch.setattr(runner, "_gated", lambda case, device: None)
    monkeypatch.setattr(runner, "_refusals", lambda entry, device, refused_by_gate: ())
    monkeypatch.setattr(runner, "bounds_for", lambda entry, case, device: check.Bounds(1.0, 1.0, 1.0, 1.0))
    monkeypatch.setattr(runner, "run_case", run_case)
    monkeypatch.setattr(sweep, "configurations", lambda route, standin: held)
    made = check.run(["scaled_mm_sm120"], size="tiny", configurations="all")
    cases = check.cases_for("scaled_mm_sm120", "tiny")
    e4m3 = [case for case in cases if not case.e5m2]
    expected = []
    for case in e4m3:
        places = (5,) if case.scales == "block" else (0, 4)
        expected += [case, *(replace(case, configuration=place) for place in places)]
    assert seen == expected
    declined = sum(case.scales == "plain" and case.m > 64 for case in e4m3)
    assert made.ran == made.fp8_ran == len(expected) - declined
    assert made.gated_out.pop("a configuration takes fewer rows") == declined > 0
    # What no kernel is built for is left out and counted, under its reason.
    assert sum(made.gated_out.values()) == len(cases) - len(e4m3)
    assert all("is not built for e5m2 activations with" in reason for reason in made.gated_out)
    # A shape that dispatch would give to a configuration is not declined: it fails.
    failed = {row["case"] for row in made.failures}
    assert failed == {case.id for case in expected if case.configuration == 4 and case.m == 1} != set()
    seen.clear()
    check.run(["scaled_mm_sm120"], size="tiny")
    assert seen == e4m3


def test_a_forced_configuration_gets_the_same_operands():
    case = check.Case("scaled_mm", 3, 40, 200, scales="block")
    entry = kernel("scaled_mm_sm90")
    plain = make_problem(entry, case, "cpu")
    for place in (0, 2):
        forced = make_problem(entry, replace(case, configuration=place), "cpu")
        assert forced.case.configuration == place
        assert all(
            torch.equal(x.float(), plain.inputs[name].float())
            for name, x in forced.inputs.items()
            if x is not None
        )
        assert torch.equal(forced.ref, plain.ref) and torch.equal(forced.run(), plain.run())
    with pytest.raises(ValueError, match="configuration is 2147483648"):
        make_problem(entry, replace(case, configuration=2**31), "cpu").run()
