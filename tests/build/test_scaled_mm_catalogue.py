"""The scaled_mm instances and the dispatch tables they carry: names, sets and budgets. No compiler. Takes
under 1 s."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from kernelpkg.arch.target import Target, parse_targets
from kernelpkg.build import instances_blockscaled
from kernelpkg.build.catalogue import instance_targets
from kernelpkg.build.configurations_scaled_mm import ROUTES, SM90, Configuration, Route
from kernelpkg.build.instance import Instance
from kernelpkg.build.instances_scaled_mm import instances

BUDGET = 28  # CUTLASS instances per target, stand-ins included
OWN = {"scaled_mm/sm90_stream.cuh", "scaled_mm/sm90_block_tiles.cuh"}  # kernels written without CUTLASS
TARGETS = parse_targets("8.9,9.0a,10.0f,12.0f")
ALL = instances()


def _register(instance: Instance) -> re.Match[str]:
    found = re.search(r"INSTANCE\(\s*(\w+), (\w+), \"([^\"]+)\", (\w+), (\w+), (\w+),", instance.source)
    assert found, instance.source
    return found


def _place(instance: Instance) -> int:
    return int(re.search(r"kRow\{(\d+),", instance.source).group(1))  # type: ignore[union-attr]


def test_names_are_unique_and_sources_register_them() -> None:
    assert len({instance.name for instance in ALL}) == len(ALL)
    for instance in ALL:
        name, registry, *_ = _register(instance).groups()
        assert name == instance.name
        assert registry == ("scaled_mm_standin_registry" if instance.evidence else "scaled_mm_registry")


def test_each_target_keeps_the_budget() -> None:
    made_by_cutlass = [one for one in ALL if not any(header in one.source for header in OWN)]
    made_by_cutlass += instances_blockscaled.instances()
    count = Counter(target for one in made_by_cutlass for target in instance_targets(one, TARGETS))
    assert set(count) == {Target.parse(text) for text in ("8.9", "9.0a", "10.0f", "12.0f")}
    assert max(count.values()) <= BUDGET, count


def test_no_two_instances_are_one_place_of_a_table() -> None:
    places = Counter((one.kernel, *_register(one).groups()[4:], _place(one)) for one in ALL)
    assert max(places.values()) == 1, places


def _tables() -> list[tuple[Route, str, str]]:
    """Every table that a call may be looked up in: a route, a kind of scales, a type of a."""
    kinds = {(route.gate, one.scales): route for route in ROUTES for one in route.configurations}
    return [(route, scales, act) for (_, scales), route in kinds.items() for act in ("e4m3", "e5m2")]


@pytest.mark.parametrize(("route", "scales", "act"), _tables(), ids=lambda x: getattr(x, "gate", x))
def test_every_call_has_a_configuration(route: Route, scales: str, act: str) -> None:
    def takes(one: Configuration, m: int) -> bool:
        kind = one.scales == scales and act in one.activations
        return kind and one.min_m <= m and (one.max_m == 0 or m <= one.max_m)

    for m in (1, 8, 16, 17, 32, 33, 64, 65, 128, 256, 257, 512, 513, 4096, 2**20):
        assert any(takes(one, m) for one in route.configurations), (route.gate, scales, act, m)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.gate)
def test_every_configuration_of_a_route_with_standins_has_one(route: Route) -> None:
    for one in route.configurations:
        assert bool(one.standins) == bool(route.standin_template), one.label
        assert set(one.standins) <= set(one.activations)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.gate)
def test_a_tile_takes_no_more_rows_than_it_has(route: Route) -> None:
    """A tile that streams (columns 0) cannot go round again for more rows of a."""
    for one in route.configurations:
        assert one.columns != 0 or one.max_m == one.rows, one.label
        assert one.round >= 0 and one.step > 0


@pytest.mark.parametrize("kernel", sorted({instance.kernel for instance in ALL}))
def test_the_test_set_has_a_part_of_every_kernel(kernel: str) -> None:
    chosen = [one for one in ALL if one.kernel == kernel and "test" in one.sets]
    assert chosen, f"{kernel} has no instance in the test set"
    standin = kernel.endswith("_standin")
    assert all((one.evidence == "standin") == standin for one in chosen)


def test_only_kernels_of_our_own_bring_a_header() -> None:
    assert {one.header for one in SM90.configurations if one.template} == OWN
