"""The scaled_mm instances: names, sets and budgets. No compiler. Takes under 1 s."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from kernelpkg.arch.target import Target, parse_targets
from kernelpkg.build.catalogue import instance_targets
from kernelpkg.build.instance import Instance
from kernelpkg.build.instances_scaled_mm import ROUTES, instances

BUDGET = 28  # instances per target, stand-ins included
TARGETS = parse_targets("8.9,9.0a,10.0f,12.0f")
ALL = instances()


def _register(instance: Instance) -> re.Match[str]:
    found = re.search(r"INSTANCE\(\s*(\w+), (\w+), \"([^\"]+)\", (\w+), (\w+), (\d+),", instance.source)
    assert found, instance.source
    return found


def test_names_are_unique_and_sources_register_them() -> None:
    assert len({instance.name for instance in ALL}) == len(ALL)
    for instance in ALL:
        name, registry, *_ = _register(instance).groups()
        assert name == instance.name
        assert registry == ("scaled_mm_standin_registry" if instance.evidence else "scaled_mm_registry")


def test_each_target_keeps_the_budget() -> None:
    count = Counter(target for instance in ALL for target in instance_targets(instance, TARGETS))
    assert set(count) == {Target.parse(text) for text in ("8.9", "9.0a", "12.0f")}
    assert max(count.values()) <= BUDGET, count


def test_no_two_instances_answer_the_same_call() -> None:
    places = Counter((instance.kernel, *_register(instance).groups()[3:]) for instance in ALL)
    assert max(places.values()) == 1, places


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.gate)
def test_every_tile_is_released_for_both_outputs(route) -> None:
    shipped = [instance for instance in ALL if instance.gate == route.gate and not instance.evidence]
    assert len(shipped) == 2 * len(route.tiles)
    assert all("release" in instance.sets for instance in shipped)


@pytest.mark.parametrize("kernel", sorted({instance.kernel for instance in ALL}))
def test_the_test_set_has_both_outputs_and_both_ends(kernel: str) -> None:
    chosen = [instance for instance in ALL if instance.kernel == kernel and "test" in instance.sets]
    outputs = {_register(instance).group(5) for instance in chosen}
    assert outputs == {"kBFloat16", "kFloat16"}
    tiles = {int(_register(instance).group(6)) for instance in chosen}
    assert tiles == {0, max(int(_register(i).group(6)) for i in ALL if i.kernel == kernel)}


def test_the_function_pattern_finds_the_kernel_and_no_other() -> None:
    text = "void kernelpkg::scaled_mm_kernel<kernelpkg::scaled_mm_instances::{0}>({0}::Params)"
    for instance in ALL:
        found = [other.name for other in ALL if re.search(instance.function, text.format(other.name))]
        assert found == [instance.name]
