"""What tuning keeps of the candidates that it timed; the device, its clock and the operands are fakes."""

from types import SimpleNamespace

import pytest

from kernelpkg.bench import contenders, tuner, verify
from kernelpkg.bench.clocks import silent_sampler
from kernelpkg.bench.shapes import Point, shape_of
from kernelpkg.errors import CheckFailed, UsageError
from kernelpkg.ops.tuning import Call, Choice

DEFAULT, FASTER, ROUNDING = Choice("mma", 16, 4), Choice("mma", 16, 2), Choice("wgmma", 64, 1)


class FakeClock:
    """Replays move its time by what the choice in use at the capture takes."""

    def __init__(self, microseconds, tuning):
        self.cost, self.tuning, self.now = microseconds, tuning, 0.0

    def capture(self, launches, count):
        cost = self.cost[self.tuning.chosen] * count

        def replay():
            self.now += cost

        return SimpleNamespace(launches=count, kept={}, replay=replay, choice=self.tuning.chosen)

    def hold(self):
        pass

    def synchronize(self):
        pass

    def mark(self):
        return self.now

    def microseconds(self, start, end):
        return end - start


@pytest.fixture
def tune_point(monkeypatch):
    def run(microseconds, outside=()):
        tuning = SimpleNamespace(Call=Call, Choice=Choice, chosen=None)
        tuning.candidates = lambda call, index: tuple(microseconds)
        tuning.choose = lambda call, choice, index: setattr(tuning, "chosen", choice)
        tuning.forget = lambda: setattr(tuning, "chosen", None)
        made = SimpleNamespace(launches=(lambda: None,))
        monkeypatch.setattr(contenders, "contenders", lambda *_: {"one": lambda: made})
        monkeypatch.setattr(
            verify,
            "Verifier",
            lambda entry, graph, point: SimpleNamespace(
                check=lambda clock: SimpleNamespace(passed=graph.choice not in outside)
            ),
        )
        self = object.__new__(tuner._Tuner)
        self.tuning, self.index, self.l2_bytes = tuning, 0, None
        self.clock, self.sampler = FakeClock(microseconds, tuning), silent_sampler()
        point = Point(shape_of("8B.o"), 16, (("marlin_w4a16", "g128"),))
        row, entry = self._point(point, None)
        assert tuning.chosen is None
        return row, entry

    return run


def test_the_fastest_is_kept(tune_point):
    row, (call, choice) = tune_point({DEFAULT: 10.0, FASTER: 8.0})
    assert choice == FASTER and call == Call("u4b8", "bfloat16", "bfloat16", 16, 4096, 4096, 128)
    assert (row["default_us"], row["best_us"], row["gain"], row["candidates"]) == (10.0, 8.0, 1.25, 2)


def test_less_than_two_percent_leaves_it_to_the_heuristics(tune_point):
    row, (_, choice) = tune_point({DEFAULT: 10.0, FASTER: 9.9})
    assert choice == Choice("any") and row["best"] == str(DEFAULT) and row["gain"] == 1.0


def test_a_choice_outside_the_bounds_is_never_kept(tune_point):
    row, (_, choice) = tune_point({DEFAULT: 10.0, FASTER: 8.0, ROUNDING: 5.0}, outside={ROUNDING})
    assert choice == FASTER and row["outside_bounds"] == 1


def test_all_outside_the_bounds_is_a_failure(tune_point):
    with pytest.raises(CheckFailed, match=r"marlin_w4a16 8B\.o m=16"):
        tune_point({DEFAULT: 10.0, FASTER: 8.0}, outside={DEFAULT, FASTER})


def test_a_kernel_without_choices_is_named():
    with pytest.raises(UsageError, match=r"scaled_mm_sm90.*can be tuned: marlin_w8a16"):
        tuner.tune(["scaled_mm_sm90"])


def test_the_summary_counts_what_was_gained():
    report = tuner.TuneReport(rows=[{"gain": 1.0}, {"gain": 1.08}, {"gain": None}])
    assert report.summary == "tuned 3 points, 1 of them faster by 2 % or more (the most: 1.08 x)"
