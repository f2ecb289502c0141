"""Plans, the work of a call, limits, projections and the memory guard: arithmetic alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kernelpkg import bench
from kernelpkg.bench import ceilings, machine, projection, shapes
from kernelpkg.bench.peers import peer_ratios, peer_table
from kernelpkg.errors import NothingRan, UsageError

GIB = 2**30


def test_llama_shapes() -> None:
    by_name = {shape.name: (shape.k, shape.n) for shape in bench.SHAPES}
    assert by_name["8B.gate_up"] == (4096, 28672) and by_name["70B.down"] == (28672, 8192)
    assert len(by_name) == 8 and bench.MS[0] == 1 and bench.MS[-1] == 4096


def test_deepseek_shapes_have_blocks_of_scales() -> None:
    sizes = {(shape.n, shape.k) for shape in bench.DEEPSEEK}
    assert sizes == {
        (576, 7168),
        (2112, 7168),
        (24576, 7168),
        (32768, 512),
        (7168, 16384),
        (7168, 18432),
        (36864, 7168),
        (24576, 1536),
        (12288, 7168),
        (4096, 7168),
        (7168, 2048),
    }
    assert shapes.shape_of((7168, 2112)).name == "DSV3.qkv_a" == shapes.shape_of("dsv3.qkv_a").name
    kernels = ("marlin_w8a16", "scaled_mm_sm89", "scaled_mm_sm90", "scaled_mm_sm120")
    full = [at for at in shapes.plan(kernels, shapes.SIZES["full"]) if at.shape in bench.DEEPSEEK]
    assert len(full) == 22 and {at.m for at in full} == {64, 4096}
    assert {at.kernels for at in full} == {(("scaled_mm_sm90", "block"), ("scaled_mm_sm120", "block"))}
    assert not any(at.shape in bench.DEEPSEEK for at in shapes.plan(kernels[:2], shapes.SIZES["full"]))
    default = [at for at in shapes.plan(kernels, shapes.SIZES["default"]) if at.shape in bench.DEEPSEEK]
    assert {at.m for at in default} == {64, 4096} and {at.shape.k for at in default} > {1536, 16384}
    (asked,) = shapes.plan(("marlin_w8a16", "scaled_mm_sm90"), shapes.SIZES["tiny"], ["DSV3.o"], (16,))
    assert asked.kernels == (("marlin_w8a16", "channel"), ("scaled_mm_sm90", "block"))


def test_work_with_blocks_of_scales() -> None:
    need = shapes.work("scaled_mm_sm90", "block", 16, 2112, 7168)
    assert need.stream_bytes == 2112 * 7168 + 4 * 17 * 56
    assert need.total_bytes == need.stream_bytes + 16 * 7168 + 4 * 16 * 56 + 2 * 16 * 2112
    assert need.flop_kind == "fp8"


@pytest.mark.parametrize("given", ["8B.gate_up", "8b.GATE_UP", "4096x28672", (4096, 28672), [4096, 28672]])
def test_a_shape_by_any_name(given: object) -> None:
    assert shapes.shape_of(given).name == "8B.gate_up"


@pytest.mark.parametrize("given", ["9B.gate_up", "4096", "0x64", (0, 64), 7, (1, 2, 3)])
def test_a_shape_that_is_none_is_refused_with_the_names(given: object) -> None:
    with pytest.raises(UsageError, match=r"at least 1|8B\.qkv"):
        shapes.shape_of(given)


def test_the_first_floors_run_first() -> None:
    points = shapes.plan(("marlin_w8a16", "scaled_mm_sm90"), shapes.SIZES["default"])
    assert [(point.shape.name, point.m) for point in points[:2]] == [("8B.gate_up", 16), ("8B.gate_up", 4096)]
    assert points[0].kernels == (
        ("marlin_w8a16", "channel"),
        ("scaled_mm_sm90", "token_channel"),
        ("scaled_mm_sm90", "tensor"),
    )
    full = shapes.plan(("marlin_w8a16",), shapes.SIZES["full"])
    assert {point.m for point in full} == set(bench.MS) and len(full) == 8 * 13
    assert full[0].kernels == tuple(("marlin_w8a16", variant) for variant in ("channel", "g128", "mx32"))
    unnamed = shapes.plan(("marlin_w8a16",), shapes.SIZES["full"], named=False)
    assert unnamed[2].kernels == (("marlin_w8a16", "channel"), ("marlin_w8a16", "g128"))


def test_other_formats_have_a_decode_and_a_prefill_shape() -> None:
    points = shapes.plan(shapes.VARIANTS, shapes.SIZES["default"], named=False)
    assert [(at.shape.name, at.m) for at in points if any(k == "marlin_w4a16_zp" for k, _ in at.kernels)] == [
        ("8B.gate_up", 16),
        ("8B.gate_up", 4096),
    ]
    assert {at.m for at in points if at.shape.name == "70B.down"} == {1, 16, 64}
    asked = shapes.plan(("marlin_w4a16_zp",), shapes.SIZES["default"], ms=(3,), named=False)
    assert len(asked) == 8 and all(at.kernels and at.m == 3 for at in asked)
    (one,) = shapes.plan(("marlin_w8a16",), shapes.SIZES["tiny"], ["4099x100"], (5,))
    assert (one.shape.name, one.m) == ("4099x100", 5)


def test_kernels_are_those_of_the_operators() -> None:
    from kernelpkg.ops import FORMATS, KERNELS

    entries = {entry.name: entry for entry in KERNELS if entry.family != "repack"}
    untimed = {"scaled_mm_sm100"} | {name for name, entry in entries.items() if entry.family == "microscaled"}
    assert set(shapes.VARIANTS) == set(entries) - untimed
    assert {entry.name for entry in KERNELS} - set(shapes.VARIANTS) == shapes.UNTIMED
    for name in shapes.VARIANTS:
        entry = entries[name]
        assert shapes.weight_format(name) == entry.weight_format
        assert shapes.activation_bits(name) == (8 if entry.fp8_mma else 16)
        assert shapes.STANDS_FOR.get(name) == entry.shown_for
        assert shapes.GATE_OF[name] == (entries[entry.shown_for].gate if entry.shown_for else entry.gate)
        if entry.weight_format:
            form = FORMATS[entry.weight_format]
            assert shapes.weight_bits(name) == form.bits
            assert {shapes.group_size(variant) for variant in shapes.VARIANTS[name]} <= set(form.groups)


def test_bytes_are_those_of_a_checkpoint() -> None:
    weights = 28672 * 4096
    assert shapes.work("marlin_w4a16_nvfp4", "g16", 1, 28672, 4096).stream_bytes == weights * 9 // 16
    assert shapes.work("marlin_w4a16_mxfp4", "g32", 1, 28672, 4096).stream_bytes == weights * 17 // 32
    assert shapes.work("marlin_w8a16", "mx32", 1, 28672, 4096).stream_bytes == weights * 33 // 32
    zero_points = shapes.work("marlin_w4a16_zp", "g128", 1, 28672, 4096).stream_bytes
    assert zero_points == weights // 2 + weights // 128 * 5 // 2


@pytest.mark.parametrize(
    "arguments", [{"kernels": ("nothing",)}, {"ms": (0,)}, {"ms": ("16",)}, {"shapes": ("x",)}]
)
def test_wrong_arguments_are_refused_before_any_device(arguments: dict) -> None:
    with pytest.raises(UsageError):
        bench.run(**arguments)
    with pytest.raises(UsageError, match="tiny, default, full"):
        bench.run(size="huge")


def test_work_of_a_decode_step() -> None:
    need = shapes.work("marlin_w8a16", "channel", 16, 28672, 4096)
    assert need.stream_bytes == 28672 * 4096 + 28672 * 2
    assert need.total_bytes == need.stream_bytes + 16 * 4096 * 2 + 16 * 28672 * 2
    assert (need.flops, need.flop_kind) == (2 * 16 * 28672 * 4096, "bf16")
    four = shapes.work("marlin_w4a8_fp8", "g128", 16, 28672, 4096)
    assert four.stream_bytes == 28672 * 4096 // 2 + 32 * 28672 * 2 and four.flop_kind == "fp8"
    per_tensor = shapes.work("scaled_mm_sm90", "tensor", 1, 64, 128)
    assert per_tensor.stream_bytes == 64 * 128 + 4


def test_the_binding_limit_is_named() -> None:
    assert ceilings.limit_of(4_000_000_000, 10**9, 4000.0, 800.0) == (1000.0, "memory")
    time, limit = ceilings.limit_of(10**6, 8 * 10**14, 4000.0, 800.0)
    assert limit == "compute" and time == pytest.approx(1e6)
    assert ceilings.limit_of(10**6, 1, None, None) == (None, None)
    assert ceilings.limit_of(4000, 10**9, 4000.0, None) == (0.001, "memory")


def test_ceilings_by_size_fall_back_to_the_large_one() -> None:
    found = ceilings.Ceilings(read_gbps=4300.0, read_by_bytes={112 * 2**20: 4100.0}, bf16_tflops=790.0)
    assert found.read_for(112 * 2**20 - 3) == 4100.0
    assert found.read_for(112 * 2**20 + 57344) == 4300.0
    assert found.tflops_for("bf16") == 790.0 and found.tflops_for("fp8") is None


def test_a_slow_machine_is_said() -> None:
    slow = ceilings.Ceilings(read_gbps=70.0, copy_gbps=200.0, read_after_gbps=50.0)
    notes = " ".join(ceilings.health(slow, {"name": "NVIDIA GB10"}))
    assert "within the run" in notes and "slow state" in notes and "273" in notes
    fine = ceilings.Ceilings(read_gbps=230.0, copy_gbps=220.0, read_after_gbps=229.0)
    assert ceilings.health(fine, {"name": "NVIDIA GB10"}) == []
    assert ceilings.health(fine, {"name": "some unknown card"}) == []


@pytest.mark.parametrize(("device", "m"), [("GB10", 136), ("RTX 5090", 32)])
def test_where_w4a8_can_begin_to_beat_w4a16(device: str, m: int) -> None:
    found = bench.crossover(device, "8B.gate_up")
    assert found.m == m and found.gain_at_4096 == pytest.approx(2.0)
    limits = [bench.project("marlin_w4a16", rows, 28672, 4096, device).limit for rows in (m - 1, m)]
    assert limits == ["memory", "compute"]
    assert 1 < found.gain_below < 1.01
    assert f"from M = {m} on" in found.sentence and "projected (nobody measured)" in found.sentence


def test_w4_rows_say_bytes_operations_and_limits() -> None:
    rows = bench.w4_rows(("GB10",), ("8B.gate_up",), (16, 4096))
    assert [(row["m"], row["w4a16_limit"], row["w4a8_limit"]) for row in rows] == [
        (16, "memory", "memory"),
        (4096, "compute", "compute"),
    ]
    assert rows[0]["w4a16_bytes"] - rows[0]["w4a8_bytes"] == 16 * 4096 - 16 * 4
    assert rows[1]["operations"] == 2 * 4096 * 4096 * 28672 and rows[1]["gain"] == pytest.approx(2.0)
    assert all(row["label"] == bench.projection.LABEL for row in rows)


def test_a_device_without_known_rates_has_no_crossover() -> None:
    with pytest.raises(UsageError, match=r"tensor rates of .* are not known"):
        bench.crossover("A100", "8B.gate_up")


def test_projection_of_a_device_that_is_not_here() -> None:
    found = bench.project("marlin_w8a16", 16, 28672, 4096, "DGX Spark")
    assert (found.capability, found.limit, found.label) == ("12.1", "memory", "projected (nobody measured)")
    assert found.microseconds == pytest.approx(118_546_432 / 273e9 * 1e6, rel=1e-3)
    prefill = bench.project("scaled_mm_sm120", 4096, 28672, 4096, "12.1")
    assert prefill.limit == "compute" and "derived" in prefill.basis
    four = bench.project("marlin_w4a16", 1, 28672, 4096, "12.1")
    assert found.microseconds / four.microseconds > 1.8


def test_waves_of_a_device_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from kernelpkg.ops import dispatch

    asked = []

    def choose(route: str, m: int, n: int, k: int, **rest: object) -> SimpleNamespace:
        asked.append((route, m, n, k, rest))
        return SimpleNamespace(label="32x64x128", rows=32, columns=64, blocks=1, per_sm=1)

    monkeypatch.setattr(dispatch, "choose_configuration", choose)
    spark, card = bench.scaled_mm_rows(shapes=("8B.o",), ms=(64,))
    assert asked[0] == ("scaled_mm_sm120", 64, 4096, 4096, {"multiprocessors": 48, "block_scales": False})
    assert asked[1][4] == {"multiprocessors": 170, "block_scales": False}
    assert (spark["tiles"], spark["slots"]) == (128, 48) and spark["waves"] == pytest.approx(128 / 48)
    assert spark["idle"] == pytest.approx(100 / 9) and card["idle"] == pytest.approx(100 * 42 / 170)
    need = shapes.work("scaled_mm_sm120", "token_channel", 64, 4096, 4096)
    assert spark["bytes"] == need.total_bytes
    assert spark["memory_us"] == pytest.approx(need.total_bytes / 273e3)
    assert card["memory_us"] == pytest.approx(need.total_bytes / 1792e3)
    assert spark["arithmetic"].startswith("2 x 64 tiles of 32x64, 128 blocks / (48 SMs x 1); 17.6 MB at 273")
    assert {row["label"] for row in (spark, card)} == {"projected (nobody measured)"}


def test_projection_says_what_it_does_not_know() -> None:
    thor = bench.project("marlin_w8a16", 16, 28672, 4096, "11.0")
    assert thor.teraflops is None and "rate unknown" in thor.basis and thor.limit == "memory"
    with pytest.raises(UsageError, match=r"13\.0"):
        bench.project("marlin_w8a16", 16, 28672, 4096, "13.0")
    with pytest.raises(UsageError, match="nothing"):
        bench.project("nothing", 16, 28672, 4096, "12.1")


def test_a_device_by_any_description() -> None:
    from kernelpkg import arch

    for given in (
        "9.0",
        "device of capability 9.0",
        "H200",
        "NVIDIA H200",
        arch.assume("9.0"),
        arch.assume("H200"),
    ):
        assert projection.device_row(given).name == "H200"
    assert projection.device_row("NVIDIA GeForce RTX 5070").name == "GeForce RTX 5090"
    assert projection.device_row(arch.assume("12.1")).name == "GB10"
    assert bench.project_rows(("marlin_w8a16",), ("8B.o",), (1,), arch.assume("12.2")) == []


@pytest.mark.parametrize(
    ("name", "key"), [("L40S", "L40S"), ("L4", "L4"), ("GeForce RTX 5090", "RTX 5090"), ("A10", "A10")]
)
def test_tensor_rates_by_whole_words(name: str, key: str) -> None:
    assert projection.rates_of(name) is projection.TENSOR_RATES[key]
    assert projection.rates_of("GeForce RTX 3090") is None


def test_projected_rows_read_like_bench_rows() -> None:
    (row,) = bench.project_rows(("marlin_w8a16",), ("8B.gate_up",), (16,), "12.1")
    assert row["label"] == projection.LABEL and row["microseconds"]["n"] == 0
    assert {"kernel", "shape", "m", "n", "k", "peers", "ceilings", "percent_of_limit"} <= row.keys()


def test_the_memory_guard() -> None:
    assert machine.shortage(GIB, 2 * GIB, integrated=False) is None
    assert "1.8 GiB of This GPU's memory may be used" in machine.shortage(2 * GIB, 2 * GIB, integrated=False)
    assert machine.shortage(3 * GIB, 16 * GIB, integrated=True) is None
    assert "8 GB must stay free" in machine.shortage(3 * GIB, 10 * GIB, integrated=True, name="NVIDIA GB10")


def test_peers_travel_as_ratios() -> None:
    table = peer_table()
    assert len(table["rows"]) == 57 and "another NVIDIA H200" in table["label"]
    ratios = peer_ratios(4096, 28672, 16)
    assert ratios["vllm_marlin_w8a16"] == pytest.approx(38.57 / 57.05, abs=1e-4)
    assert all(0 < value < 6 for row in table["rows"] for value in row["ratio_to_bf16"].values())
    assert peer_ratios(1, 1, 1) == {} and not any("microseconds" in row for row in table["rows"])


def test_importing_needs_no_torch() -> None:
    code = (
        "import sys, kernelpkg.bench, kernelpkg.ladder as l; l.explain('12.1', records=()); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_a_device_it_says_so() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here: this is about machines without one")
    with pytest.raises(NothingRan, match="Nothing was timed"):
        bench.run(size="tiny")
    with pytest.raises(NothingRan, match="given the device 'cpu'"):
        bench.run(size="tiny", device="cpu")
