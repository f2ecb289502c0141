"""Views show what they are given: the same content as text, as HTML and as a figure. About three seconds."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from kernelpkg.widgets import correctness_panel, gate_matrix, inspection, ladder_view, speed_panel, svg
from kernelpkg.widgets.view import PLOTLY_MIME, WIDGET_MIME, Column, Markup, View, chip, stack, strip, table


def bundle(view: View) -> dict[str, Any]:
    return view._repr_mimebundle_()


def bench_row(kernel: str, m: int, us: float, shape: str = "8B.o", **more: Any) -> dict[str, Any]:
    row = {
        "kernel": kernel,
        "variant": "channel",
        "shape": shape,
        "m": m,
        "n": 4096,
        "k": 4096,
        "microseconds": {"median": us, "p10": us * 0.9, "p90": us * 1.2, "n": 9},
        "peers": {"bf16": 20.0},
        "ceilings": {"read_gbps": 4000.0},
        "percent_of_limit": 50.0,
        "label": "recorded (Card, 2026-01-02), this capability",
    }
    return row | more


ROWS = [
    bench_row("marlin_w8a16", 1, 10.0),
    bench_row("marlin_w8a16", 16, 12.5),
    bench_row("marlin_w8a16", 16, 40.0, shape="8B.down"),
]


def test_a_view_is_text_and_html_and_what_else_it_has() -> None:
    assert set(bundle(View("a", "<b>a</b>"))) == {"text/plain", "text/html"}
    assert PLOTLY_MIME in bundle(speed_panel.latency(ROWS))
    both = stack(View("a", "<i>a</i>"), View("b", "<i>b</i>"))
    assert both.text == "a\n\nb" and both.html == "<i>a</i><i>b</i>"


def test_text_is_escaped_and_markup_is_not() -> None:
    view = table([Column("a", "A & B")], [{"a": "<script>"}, {"a": Markup("<b>x</b>")}, {"a": None}])
    assert "&lt;script&gt;" in view.html and "<script>" not in view.html and "A &amp; B" in view.html
    assert "<b>x</b>" in view.html and "<b>" not in view.text
    assert view.text.splitlines()[-1].strip() == "–"
    assert strip(chip("pass")) == "✓ pass"


@pytest.mark.parametrize("status", ["pass", "fail", "unproved", "native", "emulated", "dead", "refused"])
def test_a_verdict_is_never_colour_alone(status: str) -> None:
    text = str(strip(chip(status)))
    assert text.endswith(status) and len(text) == len(status) + 2


def layer_rows(**said: bool | None) -> list[dict[str, Any]]:
    return [
        {"gate": "g", "layer": layer, "capability": "12.1", "admits": admits, "reason": ""}
        for layer, admits in said.items()
    ]


def test_the_gate_matrix_names_the_layer_that_differs() -> None:
    view = gate_matrix.matrix(layer_rows(cmake=False, python=True, codegen=True), "12.1")
    assert "differ: cmake" in view.text and "differ: cmake" in view.html and "1 cells differ" in view.text
    assert "kp-hot" in view.html


def test_a_layer_that_was_not_asked_says_nothing() -> None:
    view = gate_matrix.matrix(layer_rows(device_guard=None, python=True))
    assert "✓ yes" in view.text and "device_guard" not in view.text and "1 layers asked: python" in view.text


def answer(admitted: bool, why: str = "") -> SimpleNamespace:
    return SimpleNamespace(
        admitted=admitted, gate="g", have="12.1", need="9.0", why=why, instead=why and "that"
    )


def test_the_explorer_follows_its_menu() -> None:
    def ask(name: str) -> View:
        return gate_matrix.answers([answer(name == "B", "" if name == "B" else "because")], name)

    view = gate_matrix.explorer({"first": "A", "second": "B"}, ask, "A")
    menu, pane = view.widget.children
    assert menu.description and "refused" in pane.value and "refused" in view.text and "instead" in view.text
    menu.value = "B"
    assert "✓ admitted" in pane.value and "✗ refused" not in pane.value
    assert WIDGET_MIME in bundle(view) and "refused" in bundle(view)["text/html"]
    other = gate_matrix.explorer({"first": "A"}, ask, "Z")
    assert other.widget.children[0].value == "Z"


def test_no_device_is_a_sentence_and_unknown_fields_are_dashes() -> None:
    assert "No driver." in gate_matrix.devices([], "No driver.").text
    names = ("name", "capability", "sm", "multiprocessors", "driver", "source")
    sizes = ("memory_bytes", "memory_available_bytes", "l2_bytes", "shared_memory_optin")
    device = SimpleNamespace(integrated=True, **dict.fromkeys(names + sizes))
    device.name, device.shared_memory_optin = "GB10", 101376
    view = gate_matrix.devices([device], None)
    assert "GB10 (integrated)" in view.text and "99.0 KiB" in view.text and "–" in view.text


def test_known_devices_and_the_capabilities_without_one() -> None:
    known = [SimpleNamespace(name="GB10", capability="12.1")]
    assert gate_matrix.known(known, ["12.1", "13.0"]) == {"GB10 (12.1)": "GB10", "capability 13.0": "13.0"}


def rung(name: str, status: str, kernel: str = "k") -> dict[str, str]:
    return {
        "kernel": kernel,
        "capability": "9.0",
        "rung": name,
        "status": status,
        "label": "l",
        "reason": "r",
    }


def test_the_ladder_claims_nothing_behind_a_refusing_gate() -> None:
    rows = [rung("admitted", "fail", "a"), rung("fast", "unproved", "a"), rung("admitted", "pass", "b")]
    text = ladder_view.grid([*rows, rung("fast", "unproved", "b")]).text
    first, second = text.splitlines()[-2:]
    assert "refused" in first and "no claim" in first and "unproved" not in first
    assert "pass" in second and "unproved" in second
    assert "rung" not in ladder_view.reasons(rows, rung="fast").text.splitlines()[0]


def function(target: str, verdict: str, spills: int = 0) -> dict[str, Any]:
    return {
        "kernel": "marlin_w8a16",
        "function": "void kernelpkg::marlin::kernel<int, (bool)1>(kernelpkg::Args)",
        "target": target,
        "kind": "cubin",
        "verdict": verdict,
        "registers": 128,
        "spills": spills,
        "shared_memory": 0,
        "opcodes": {"HMMA.16816.F32": 3, "HMMA.16816": 1, "LDSM": 9},
    }


def test_functions_are_summed_and_listed() -> None:
    found = [function("9.0a", "native"), function("9.0a", "native", 16), function("12.0f", "dead")]
    view = inspection.functions(found)
    assert "0 to 16" in view.text and "4 HMMA" in view.text and "✗ dead" in view.text
    assert "All 3 functions" in view.html and "marlin::kernel&lt;int, (bool)1&gt;" in view.html


def test_every_mma_tells() -> None:
    opcodes = {"F2FP.E4M3": 2, "HMMA.16816": 8, "OMMA.SF.16864": 32, "OMMA.SF": 32, "LDSM": 9}
    assert inspection.telling(opcodes) == "64 OMMA, 8 HMMA, 2 F2FP"
    assert inspection.telling({"UTCHMMA.X": 4}) == "4 UTCHMMA" and inspection.telling({"LDSM": 9}) == "no MMA"


def test_a_missing_target_is_seen() -> None:
    kernel = {"targets": ["9.0a", "12.0f"], "gate": "g", "instances": ["i"], "evidence": None}
    manifest = {"targets": ["9.0a", "12.0f"], "kernels": {"marlin_w8a16": kernel}}
    assert "✗ fail" in inspection.targets(manifest, [function("9.0a", "native")]).text
    both = [function("9.0a", "native"), function("12.0f", "native")]
    assert "✓ pass" in inspection.targets(manifest, both).text


def test_the_instruction_matrix_shows_what_became_of_it() -> None:
    rows = [
        {
            "target": "12.0",
            "form": "plain",
            "outcome": "native",
            "opcodes": {"QMMA.16832": 1},
            "gate_admits": True,
        },
        {
            "target": "12.0",
            "form": ".kind",
            "outcome": "refused",
            "opcodes": {},
            "detail": "Feature 'x' requires .target sm_120a",
            "gate_admits": True,
        },
    ]
    text = inspection.instruction_matrix(rows).text
    assert "1 QMMA" in text and "✗ refused" in text and "requires sm_120a" in text and "✓ yes" in text


def test_latency_draws_the_rows_and_nothing_else() -> None:
    view = speed_panel.latency(ROWS)
    ours, peer = view.figure.data[0], view.figure.data[1]
    assert (ours.name, list(ours.x), list(ours.y)) == ("marlin_w8a16", [1, 16], [10.0, 12.5])
    assert list(ours.error_y.array) == pytest.approx([2.0, 2.5])
    assert (peer.name, list(peer.y)) == ("bf16", [20.0, 20.0])
    assert [t.visible for t in view.figure.data] == [True, True, False, False]
    menu = view.figure.layout.updatemenus[0].buttons
    assert [b.label for b in menu] == ["8B.o", "8B.down"]
    assert "recorded (Card, 2026-01-02)" in view.figure.layout.title.text
    html = bundle(view)["text/html"]
    assert "recorded (Card, 2026-01-02)" in view.text and "<svg" in html and "as a table" in html


def test_speed_up_is_the_peers_time_over_ours() -> None:
    view = speed_panel.speedup(ROWS, "bf16")
    assert [t.name for t in view.figure.data] == ["marlin_w8a16", "marlin_w8a16"]
    assert list(view.figure.data[0].y) == pytest.approx([2.0, 1.6])


def test_the_roofline_has_the_given_ceilings_alone() -> None:
    view = speed_panel.roofline(ROWS, {"read_gbps": 4000.0, "bf16_tflops": 700.0, "fp8_tflops": None})
    roofs = [t for t in view.figure.data if t.mode == "lines"]
    assert [t.name for t in roofs] == ["bf16: 700 TFLOP/s"] and max(roofs[0].y) <= 700
    marks = next(t for t in view.figure.data if t.mode == "markers")
    assert marks.y[0] == pytest.approx(2 * 4096 * 4096 / 10.0 / 1e6)
    only = speed_panel.roofline(ROWS, {})
    assert [t.mode for t in only.figure.data] == ["markers"]


def test_formats_stand_side_by_side() -> None:
    def row(kernel: str, m: int, **more: Any) -> dict[str, Any]:
        at = {"shape": "8B.gate_up", "m": m, "n": 28672, "k": 4096, "label": "measured here, this capability"}
        return {"kernel": kernel, "microseconds": {"median": 20.0 + m}, "ratios": {"bf16": 2.0}, **at, **more}

    rows = [
        row("marlin_w8a16", 16, variant="channel"),
        row("marlin_w4a16_nvfp4", 16, variant="g16", percent_of_read=77.0),
        row("marlin_w8a16", 64, variant="channel"),
        row("scaled_mm_sm90", 16, variant="tensor"),
    ]
    lines = [line for line in speed_panel.formats(rows).text.splitlines() if "8B.gate_up" in line]
    assert len(lines) == 2, "one line a format, where a format beyond the main ones was timed"
    assert "marlin_w4a16_nvfp4" in lines[1] and "NVFP4" in lines[1] and " 4.5 " in lines[1]
    assert " 77 " in lines[1] and "2.00" in lines[1]
    assert "nothing to show" in str(speed_panel.formats(rows[:1]).html)


def test_checked_formats_say_their_scales() -> None:
    def row(kernel: str, case: str, value: float, passed: bool = True) -> dict[str, Any]:
        return {"kernel": kernel, "case": case, "metric": "relative_error", "value": value, "passed": passed}

    rows = [
        row("marlin_w8a16", "m1-n64-k128-bf16-channel", 0.001),
        row("marlin_w8a16", "m1-n64-k128-fp16-g128-bias", 0.002),
        row("marlin_w8a16", "m1-n64-k128-bf16-mx32", 0.003, passed=False),
        row("scaled_mm_sm90", "m1-n64-k128-bf16-token-channel", 0.001),
    ]
    (line,) = [ln for ln in correctness_panel.formats(rows).text.splitlines() if "marlin" in ln]
    assert "FP8 e4m3, q s" in line and "channel, g128, mx32" in line and "✗ fail" in line and "3.0e-3" in line


def test_goals_are_shown_with_what_was_reached() -> None:
    row = {
        "kernel": "marlin_w8a16",
        "variant": "channel",
        "shape": "8B.gate_up",
        "m": 16,
        "n": 28672,
        "k": 4096,
        "percent_of_read": 81.06,
        "label": "measured here, this capability",
    }
    view = speed_panel.goals([row])
    assert "✗ missed" in view.text and "81.1 % of the read ceiling" in view.text
    assert "not judged" in view.text and "measured here" in view.text
    assert "kp-fail" in str(view.html)
    assert "nothing to show" in str(speed_panel.goals([]).html)


def test_the_arithmetic_of_4_bit_weights_is_labelled() -> None:
    from kernelpkg import bench

    text = speed_panel.w4_arithmetic(bench.w4_rows(("GB10",), ("8B.gate_up",), (16,))).text
    assert "GB10 (12.1)" in text and "61.6, 226, memory" in text and "projected (nobody measured)" in text


@pytest.mark.parametrize("draw", [speed_panel.latency, lambda r: speed_panel.speedup(r, "bf16")])
def test_without_rows_nothing_is_drawn_and_that_is_said(draw: Any) -> None:
    view = draw([])
    assert view.figure is None and "on record" in view.text
    assert speed_panel.roofline([], {}).figure is None


def test_peers_are_compared_as_ratios() -> None:
    peers = {"rows": [{"k": 4096, "n": 4096, "m": 1, "ratio_to_bf16": {"vllm_marlin_w8a16": 0.7}}]}
    text = speed_panel.peers(ROWS, peers).text
    assert "0.50" in text and "0.70" in text and len(text.splitlines()) == 4
    assert "No row" in speed_panel.peers(ROWS, {"rows": []}).text


def test_peers_stand_in_the_order_of_the_layers_and_of_m() -> None:
    ratios = {"vllm_marlin_w8a16": 0.7}
    peers = {"rows": [{"k": 4096, "n": 4096, "m": m, "ratio_to_bf16": ratios} for m in (1, 16, 256)]}
    first = next(row for row in ROWS if row["kernel"] == "marlin_w8a16")
    text = speed_panel.peers([first | {"m": m} for m in (16, 256, 1)], peers).text
    assert [int(line.split()[2]) for line in text.splitlines()[3:]] == [1, 16, 256]


def test_a_column_nobody_fills_is_left_out_where_it_may() -> None:
    columns = [Column("a", "first"), Column("b", "second", optional=True)]
    assert "second" not in table(columns, [{"a": 1, "b": ""}]).text
    assert "second" in table(columns, [{"a": 1, "b": ""}, {"a": 2, "b": "why"}]).html


def check_row(value: float, bound: float, case: str = "m1") -> dict[str, Any]:
    passed = value <= bound
    return {
        "kernel": "k",
        "metric": "e",
        "case": case,
        "value": value,
        "bound": bound,
        "passed": passed,
        "label": "l",
    }


def test_the_worst_case_is_the_one_nearest_to_its_bound() -> None:
    rows = [check_row(0.5, 1.0, "near"), check_row(0.4, 2.0, "far")]
    text = correctness_panel.worst(rows).text
    assert "near" in text and "far" not in text and "50%" in text and "✓ pass" in text
    assert "✗ fail" in correctness_panel.worst([*rows, check_row(3.0, 1.0, "over")]).text
    figure = correctness_panel.margins(rows).figure
    assert list(figure.data[0].x) == [0.5, 0.2]


def test_a_tile_above_its_bound_carries_a_cross() -> None:
    view = correctness_panel.error_map([[0.1, 0.2], [0.3, 1.5]], "case", 16)
    assert (list(view.figure.data[1].x), list(view.figure.data[1].y)) == ([1], [1])
    assert "1 of the tiles above 1" in view.text and view.html.count("<path d=") == 1
    assert len(correctness_panel.error_map([[0.1]], "case", 16).figure.data) == 1


def test_proofs_say_what_slipped_through() -> None:
    def proof(caught: bool) -> SimpleNamespace:
        error = 1.0 if caught else 0.0
        return SimpleNamespace(
            mutation="zero-tile", relative_error=error, relative_bound=0.5, worst_element=error, caught=caught
        )

    assert "✓ 1 of 1" in correctness_panel.proofs([proof(True)]).text
    assert "✗ 1 of 2" in correctness_panel.proofs([proof(True), proof(False)]).text


def test_a_record_is_shown_with_machine_and_date() -> None:
    rows = (check_row(0.5, 1.0) | {"label": "measured here, stand-in"},)
    record = SimpleNamespace(kind="check", rows=rows, source="recorded (Card, 2026-01-02)")
    text = correctness_panel.recorded([record]).text
    assert "recorded (Card, 2026-01-02), stand-in" in text and "measured here" not in text
    assert "on record yet" in correctness_panel.recorded([]).text


def test_static_charts_are_well_formed_and_bounded() -> None:
    from xml.etree import ElementTree

    chart = svg.chart(
        "a < b", [svg.Series("s", [1, 10], [2.0, 30.0]), svg.Series("r", [1, 10], [1, 1], "rule")], "x", "y"
    )
    heat = svg.heatmap("t", [[0.0, 2.0]], "x", "y", 0.0, 1.0, 1.0)
    for drawing in (chart, heat):
        ElementTree.fromstring(drawing)
    assert "a &lt; b" in chart
    xs = [float(x) for x in re.findall(r'cx="([\d.]+)"', chart)]
    assert xs and all(0 <= x <= 720 for x in xs)
    assert "nothing to draw" in svg.chart("t", [], "x", "y")
    assert svg.ticks(1, 5000, True) == [1, 10, 100, 1000]
    assert svg.ticks(90, 900, True) == [100, 200, 500]


def test_a_pass_on_another_device_is_shown_as_such():
    rows = [
        {
            "kernel": "k",
            "rung": "admitted",
            "status": "pass",
            "label": "nobody (gate table), this capability",
        },
        {
            "kernel": "k",
            "rung": "correct",
            "status": "pass",
            "label": "recorded (NVIDIA H200, 2026-01-02), stand-in",
        },
    ]
    view = ladder_view.grid(rows)
    assert "pass (stand-in)" in view.text
    assert "pass (stand-in)</span>" in view.html and "&lt;" not in view.html
