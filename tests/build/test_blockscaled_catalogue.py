"""The microscaled instances: names, targets, sources, and that the build knows them. Needs no compiler."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kernelpkg.arch.target import parse_targets
from kernelpkg.build import catalogue, sources
from kernelpkg.build.instances_blockscaled import FORMATS, TILE_K, instances

ALL = {instance.kernel: instance for instance in instances()}
TARGETS = parse_targets("8.9,9.0a,10.0f,12.0f")
SHARED_MEMORY_12X = 101_376


def test_each_format_has_a_kernel_and_a_stand_in() -> None:
    assert set(ALL) == {
        f"{form}_scaled_mm_sm120{suffix}" for form in ("mxfp8", "nvfp4") for suffix in ("", "_standin")
    }
    assert all(("test" in instance.sets) == (instance.evidence is None) for instance in ALL.values())
    assert all("release" in instance.sets for instance in ALL.values())


@pytest.mark.parametrize("kernel", ALL)
def test_kernels_are_built_for_12x_and_stand_ins_for_hopper(kernel: str) -> None:
    standin = kernel.endswith("_standin")
    assert ALL[kernel].evidence == ("standin" if standin else None)
    compiled_for = catalogue.instance_targets(ALL[kernel], TARGETS)
    assert [str(target) for target in compiled_for] == ["9.0a" if standin else "12.0f"]


@pytest.mark.parametrize("kernel", ALL)
def test_sources_register_what_they_are_called(kernel: str) -> None:
    instance = ALL[kernel]
    found = re.search(r"INSTANCE\(\s*(\w+), (\w+), \"[^\"]+\", (\w+),\s*(\w+)<(\w+), (\d+)>", instance.source)
    assert found, instance.source
    name, registry, enumerator, template, form, tile_k = found.groups()
    assert name == instance.name and int(tile_k) == TILE_K
    assert enumerator == f"k{form}" and form.lower() == kernel.split("_")[0]
    standin = instance.evidence is not None
    assert registry == ("blockscaled_standin_registry" if standin else "blockscaled_registry")
    assert template == ("Sm120BlockScaledStandin" if standin else "Sm120BlockScaled")
    others = [
        other.name
        for other in ALL.values()
        if re.search(
            instance.function,
            f"void kernelpkg::scaled_mm_kernel<kernelpkg::scaled_mm_instances::{other.name}>(Params)",
        )
    ]
    assert others == [instance.name]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_tile_fits_a_block_of_a_12x_device_alike_in_both_builds(form) -> None:
    kernel = f"{form.name}_scaled_mm_sm120"
    assert 0 < ALL[kernel].shared_memory <= SHARED_MEMORY_12X
    assert ALL[f"{kernel}_standin"].shared_memory == ALL[kernel].shared_memory


def test_the_build_holds_them_in_libraries_with_cutlass() -> None:
    found = {
        unit.kernels[0]: library
        for library in catalogue.libraries("release", parse_targets("9.0a,12.0f"))
        for unit in library.units
        if unit.kernels and unit.kernels[0] in ALL
    }
    assert set(found) == set(ALL)
    assert all(library.cutlass for library in found.values())
    assert found["mxfp8_scaled_mm_sm120"].gate == "scaled_mm_sm120"
    assert found["nvfp4_scaled_mm_sm120_standin"].gate == "evidence_sm90"


@pytest.mark.parametrize("kernel", ALL)
def test_a_record_is_tied_to_the_sources_that_make_the_kernel(kernel: str) -> None:
    csrc = catalogue.csrc_folder().resolve()
    files = {path.relative_to(csrc).as_posix() for path in sources.kernel_files(kernel, [ALL[kernel]], csrc)}
    assert {"scaled_mm/blockscaled.cpp", "scaled_mm/sm120_blockscaled.cuh", "scaled_mm/epilogue.cuh"} <= files
    assert ("scaled_mm/standin/sm120_blockscaled_standin.cuh" in files) == kernel.endswith("_standin")
    assert all(Path(csrc, name).is_file() for name in files)
