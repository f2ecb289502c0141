"""The table of scaled_mm's configurations, asked of the library on a machine without a GPU. About 2 s."""

from __future__ import annotations

import pytest
import torch

from kernelpkg.build.configurations_scaled_mm import ROUTES as CATALOGUE
from kernelpkg.errors import UsageError
from kernelpkg.ops.dispatch import ROUTES, Configuration, choose_configuration, configurations

EVERY = [(route, standin) for route in ROUTES for standin in (False, True)]


@pytest.fixture(autouse=True)
def _library(library):
    return library


@pytest.mark.parametrize(("route", "standin"), EVERY)
def test_a_table_names_each_kernel_once(route, standin):
    found = configurations(route, standin)
    assert found == configurations(f"scaled_mm_{route}", standin)
    assert len({one.name for one in found}) == len(found)
    assert len({(one.dtype, one.block_scales, one.place) for one in found}) == len(found)
    for one in found:
        assert (one.route, one.standin) == (route, standin)
        assert one.place >= 0 and one.name and one.label
        assert one.dtype in (torch.float8_e4m3fn, torch.float8_e5m2)
        assert one.rows > 0 and one.columns >= 0 and one.blocks > 0 and one.per_sm > 0
        assert one.round >= 0 and one.step > 0 and one.shared_memory > 0
        assert one.max_m == 0 or one.max_m >= one.min_m


@pytest.mark.parametrize(("route", "standin"), EVERY)
def test_the_library_carries_the_rows_of_the_catalogue(route, standin):
    table = next(one for one in CATALOGUE if one.gate == f"scaled_mm_{route}").configurations
    fields = ["min_m", "max_m", "rows", "columns", "blocks", "per_sm", "shared_memory"]
    for held in configurations(route, standin):
        written = table[held.place]
        assert held.label.removesuffix(", stand-in on 9.0a") == written.label.replace("_", " ")
        assert held.block_scales == (written.scales == "block")
        assert [getattr(held, name) for name in fields] == [getattr(written, name) for name in fields]
        for name in ("round", "step", "split"):
            assert getattr(held, name) == pytest.approx(getattr(written, name), rel=1e-6)


def test_the_library_holds_what_the_tests_build():
    """Targets 9.0a and 12.0f: Hopper's route and that of 12.x, and no other shipped one."""
    assert configurations("sm90") and configurations("sm120")


@pytest.mark.parametrize("m", [1, 16, 17, 64, 256, 5000])
@pytest.mark.parametrize("route", ["sm90", "sm120"])
def test_the_choice_is_a_row_of_the_table(route, m):
    held = configurations(route)
    chosen = choose_configuration(route, m, 4096, 4096)
    assert chosen in held and (chosen.dtype, chosen.block_scales) == (torch.float8_e4m3fn, False)
    taking = [one for one in held if one.takes(m) and (one.dtype, one.block_scales) == (chosen.dtype, False)]
    assert not taking or chosen in taking


def test_what_the_choice_depends_on_arrives():
    """A kind of call that the library has no kernel for is refused by its name; one it has is chosen."""
    for route, standin in EVERY:
        kinds = {(one.dtype, one.block_scales) for one in configurations(route, standin)}
        for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
            for block_scales in (False, True):
                asked = {"dtype": dtype, "block_scales": block_scales, "standin": standin}
                if (dtype, block_scales) in kinds:
                    chosen = choose_configuration(route, 64, 1024, 1024, **asked)
                    assert (chosen.dtype, chosen.block_scales) == (dtype, block_scales)
                    assert chosen.standin == standin
                else:
                    with pytest.raises(UsageError, match="build"):
                        choose_configuration(route, 64, 1024, 1024, **asked)


def test_rows_a_configuration_takes():
    values = dict.fromkeys(Configuration.__dataclass_fields__, 0) | {"min_m": 17, "max_m": 64}
    assert [m for m in (1, 16, 17, 64, 65) if Configuration(**values).takes(m)] == [17, 64]
    assert Configuration(**values | {"max_m": 0}).takes(10**6)


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(UsageError, match="no route of scaled_mm is called 'sm80'; the routes are sm89"):
        configurations("sm80")
    with pytest.raises(UsageError, match="m is 0; it must be from 1"):
        choose_configuration("sm90", 0, 64, 64)
    with pytest.raises(UsageError, match="k is 2147483648"):
        choose_configuration("sm90", 1, 64, 2**31)
    with pytest.raises(UsageError, match=r"dtype is torch\.float16"):
        choose_configuration("sm90", 1, 64, 64, dtype=torch.float16)
