"""Timing with a fake clock: rotation, sample counts, interleaving, discarded samples."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from kernelpkg.bench import timing
from kernelpkg.bench.clocks import (
    ClockSample,
    Sampler,
    is_slow,
    open_sampler,
    power_capped,
    reason_names,
    silent_sampler,
    summarise,
)

MIB = 2**20


class FakeGraph:
    """A graph whose replay takes a scripted time."""

    def __init__(self, clock: FakeClock, name: str, microseconds: float, launches: int = 20):
        self.clock = clock
        self.name = name
        self.spent = microseconds
        self.launches = launches
        self.kept = {}

    def replay(self) -> None:
        self.clock.now += self.spent
        self.clock.log.append(self.name)


class FakeClock:
    """Time that passes only in replays."""

    def __init__(self):
        self.now = 0.0
        self.log: list[str] = []
        self.held = 0

    def hold(self) -> None:
        self.held += 1

    def mark(self) -> float:
        return self.now

    def microseconds(self, start: float, end: float) -> float:
        return end - start

    def synchronize(self) -> None:
        self.log.append("|")


@pytest.mark.parametrize(
    ("set_bytes", "l2", "expected"),
    [(16 * MIB, 60 * MIB, 19), (470 * MIB, 60 * MIB, 2), (300 * MIB, 60 * MIB, 2), (MIB, 24 * MIB, 121)],
)
def test_operand_sets_exceed_five_times_the_l2(set_bytes: int, l2: int, expected: int) -> None:
    sets = timing.operand_sets(set_bytes, l2)
    assert sets == expected
    assert sets * set_bytes > 5 * l2 and sets >= 2


def test_an_unknown_l2_counts_as_a_large_one() -> None:
    assert timing.operand_sets(64 * MIB, None) * 64 * MIB > 5 * 96 * MIB
    with pytest.raises(ValueError, match="0 bytes"):
        timing.operand_sets(0, 1)


@pytest.mark.parametrize(("sets", "expected_us"), [(19, 7.0), (2, 3000.0), (3, 50.0), (37, 0.0)])
def test_every_set_is_launched_equally_often(sets: int, expected_us: float) -> None:
    count = timing.launch_count(sets, expected_us)
    assert count >= 20 and count % sets == 0
    assert count * expected_us >= 1000 or count >= timing.MAX_LAUNCHES or expected_us == 0


def test_percentiles() -> None:
    found = timing.statistics([5.0, 1.0, 3.0, 2.0, 4.0], discarded=2, launches=20)
    assert (found.median, found.n, found.discarded) == (3.0, 5, 2)
    assert found.p10 == pytest.approx(1.4) and found.p90 == pytest.approx(4.6)
    assert timing.statistics([], 3, 20).median is None


def test_contenders_take_turns_and_time_is_per_launch() -> None:
    clock = FakeClock()
    graphs = {"ours": FakeGraph(clock, "ours", 200.0), "peer": FakeGraph(clock, "peer", 400.0, 40)}
    found, clocks = timing.time_interleaved(graphs, clock, silent_sampler(), seconds=0.003)
    assert found["ours"].median == 10.0 and found["peer"].median == 10.0
    assert found["ours"].n == found["peer"].n == 10  # 0.006 s for both over 0.6 ms a round
    rounds = [list(part) for ends, part in itertools.groupby(clock.log, lambda item: item == "|") if not ends]
    assert len(rounds) == 11  # the first round warms up and does not count
    assert rounds[1:] == [timing.turns(["ours", "peer"], index) for index in range(10)]
    assert clock.held == 11 and clocks["discarded"] == 0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7])
def test_turns_put_each_in_each_place_and_behind_each_other_equally_often(count: int) -> None:
    names = [str(index) for index in range(count)]
    orders = [timing.turns(names, index) for index in range(2 * count)]
    assert all(sorted(order) == names for order in orders)
    places = Counter((name, place) for order in orders for place, name in enumerate(order))
    assert set(places.values()) == {2} and len(places) == count**2
    behind = Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert set(behind.values()) <= {2} and len(behind) == count * (count - 1)


def test_at_least_seven_samples_however_long_they_take() -> None:
    clock = FakeClock()
    found, _ = timing.time_interleaved({"a": FakeGraph(clock, "a", 1e6)}, clock, silent_sampler(), 0.01)
    assert found["a"].n == 7


def sampler_of(*mhz: int, expected: int = 1980, reasons: tuple[str, ...] | None = ()) -> Sampler:
    readings = itertools.chain(mhz, itertools.repeat(mhz[-1]))
    return Sampler(lambda: ClockSample(sm_mhz=next(readings), reasons=reasons), expected, {})


def test_samples_under_three_quarters_of_the_clock_are_discarded() -> None:
    clock = FakeClock()
    graphs = {"a": FakeGraph(clock, "a", 1e5)}
    found, clocks = timing.time_interleaved(graphs, clock, sampler_of(1980, 700, 700, 1900), 0.01)
    assert found["a"].n == 7 and found["a"].discarded == 2
    assert clocks["discarded"] == 2 and clocks["sm_mhz"] == 1900


def test_a_machine_that_stays_slow_gives_no_figure() -> None:
    clock = FakeClock()
    found, clocks = timing.time_interleaved(
        {"a": FakeGraph(clock, "a", 1e5)}, clock, sampler_of(695, expected=2400), 0.01
    )
    assert found["a"].median is None and found["a"].n == 0 and clocks["discarded"] == 7


def test_the_power_cap_alone_is_no_slow_state() -> None:
    capped = ClockSample(sm_mhz=1395, reasons=("power cap",))
    hot = ClockSample(sm_mhz=1395, reasons=("power cap", "hardware thermal"))
    assert power_capped(capped) and not is_slow(capped, 1980)
    assert is_slow(hot, 1980) and is_slow(ClockSample(sm_mhz=1395), 1980)
    assert not is_slow(ClockSample(), 1980) and not is_slow(ClockSample(sm_mhz=100), None)


def test_cancel_ends_between_rounds() -> None:
    clock = FakeClock()
    asked = itertools.count()
    found, _ = timing.time_interleaved(
        {"a": FakeGraph(clock, "a", 1e5)}, clock, silent_sampler(), 0.01, lambda: next(asked) >= 3
    )
    assert found["a"].n == 3


def test_missing_fields_stay_none_in_the_summary() -> None:
    found = summarise([ClockSample(sm_mhz=2000), ClockSample(sm_mhz=2200)], None, 0)
    assert found["sm_mhz"] == 2100 and found["power_w"] is None and found["reasons"] is None
    assert reason_names(0x4 | 0x40) == ("power cap", "hardware thermal")
    assert reason_names(0) == () and reason_names(None) is None and reason_names(0x1000) == ("0x1000",)


def test_a_machine_without_nvml_is_sampled_as_unknown() -> None:
    sampler = open_sampler("GPU-00000000-0000-0000-0000-000000000000")
    sample = sampler.read()
    if sampler.expected_mhz is None:  # no driver here
        assert sample == ClockSample()


def test_host_time_is_the_median_of_single_calls() -> None:
    ticks = itertools.count(0, 5e-6)
    assert timing.time_host(lambda: None, FakeClock(), lambda: next(ticks)) == pytest.approx(5.0)
