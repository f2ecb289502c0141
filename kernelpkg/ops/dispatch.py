"""The configurations of cutlass_scaled_mm that the loaded library holds, and which one a call takes.

    ops.configurations("sm120")  # the table, a row for each kernel
    ops.choose_configuration("sm120", 16, 4096, 4096, multiprocessors=48)  # what a DGX Spark takes at 16 rows
    ops.cutlass_scaled_mm(a, b, a_scales, b_scales, configuration=3)  # another place in that table

Answered by the library's host code, on any machine: a GPU is needed to run a configuration, not to ask.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

import torch

from kernelpkg.errors import UsageError

# csrc/scaled_mm/scaled_mm.h, in the order of their numbers.
ROUTES = ("sm89", "sm90", "sm100", "sm120")
_TYPES = {torch.float8_e4m3fn: 2, torch.float8_e5m2: 4}  # csrc/common/dtypes.h
_NAMES = {number: dtype for dtype, number in _TYPES.items()}


@dataclass(frozen=True, slots=True)
class Configuration:
    """One compiled kernel: a row of its route's table, for one type of a and one kind of scales.

    place: in the table, the `configuration` argument of the operator. label: for people. dtype: of a.
    block_scales: whether scales come in blocks of 128. min_m, max_m: rows of the calls that may choose it;
    max_m 0: no limit. rows, columns: of the output that a cluster of `blocks` thread blocks computes
    together; columns 0: any share. per_sm: blocks that share a multiprocessor. round, step: relative cost of
    a round of blocks, and of 128 values of K in it. split: of adding up parts of K, where a last round that
    is not full is cut along K; 0: it is not. shared_memory: bytes of a block. standin: whether it is the
    evidence build.
    """

    route: str
    place: int
    name: str
    label: str
    dtype: torch.dtype
    block_scales: bool
    min_m: int
    max_m: int
    rows: int
    columns: int
    blocks: int
    per_sm: int
    round: float
    step: float
    split: float
    shared_memory: int
    standin: bool

    def takes(self, m: int) -> bool:
        """Whether the dispatcher may choose it for m rows."""
        return m >= self.min_m and (self.max_m == 0 or m <= self.max_m)


class _Kernel(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("label", ctypes.c_char_p),
        ("shared_memory", ctypes.c_int64),
        *(
            (field, ctypes.c_int)
            for field in (
                "a_type",
                "block_scales",
                "place",
                "min_m",
                "max_m",
                "rows",
                "columns",
                "blocks",
                "per_sm",
            )
        ),
        ("round", ctypes.c_float),
        ("step", ctypes.c_float),
        ("split", ctypes.c_float),
    )


class _Call(ctypes.Structure):
    _fields_ = tuple(
        (field, ctypes.c_int)
        for field in ("route", "standin", "a_type", "block_scales", "m", "n", "k", "multiprocessors")
    )


def configurations(route: str, standin: bool = False) -> tuple[Configuration, ...]:
    """What the loaded library holds of a route ('sm90' or 'scaled_mm_sm90'): vectors of scales before blocks,
    e4m3 before e5m2, then by place. Empty where it was not built. standin: of its evidence build.

    Raises UsageError for an unknown route.
    """
    number = ROUTES.index(_route(route))
    count = ctypes.c_int()
    _ask("kernels", number, int(standin), None, 0, ctypes.byref(count))
    found = (_Kernel * count.value)()
    _ask("kernels", number, int(standin), found, count.value, ctypes.byref(count))
    return tuple(_configuration(one, ROUTES[number], standin) for one in found)


def choose_configuration(
    route: str,
    m: int,
    n: int,
    k: int,
    *,
    multiprocessors: int = 132,
    block_scales: bool = False,
    dtype: torch.dtype = torch.float8_e4m3fn,
    standin: bool = False,
) -> Configuration:
    """What the dispatcher takes for a call [m, k] times [k, n] on a device of so many multiprocessors.

    Raises UsageError where nothing of that route, dtype (of a) and kind of scales is built, and for a call
    that is none.
    """
    named = _route(route)
    if dtype not in _TYPES:
        raise UsageError(f"dtype is {dtype}; it must be torch.float8_e4m3fn or torch.float8_e5m2")
    for what, value in {"m": m, "n": n, "k": k, "multiprocessors": multiprocessors}.items():
        if not 1 <= value < 2**31:
            raise UsageError(f"{what} is {value}; it must be from 1 to 2^31 - 1")
    call = _Call(
        ROUTES.index(named), int(standin), _TYPES[dtype], int(block_scales), m, n, k, multiprocessors
    )
    found = _Kernel()
    _ask("choice", ctypes.byref(call), ctypes.byref(found))
    return _configuration(found, named, standin)


def _route(name: str) -> str:
    short = name.removeprefix("scaled_mm_")
    if short not in ROUTES:
        raise UsageError(f"no route of scaled_mm is called {name!r}; the routes are {', '.join(ROUTES)}")
    return short


def _configuration(found: _Kernel, route: str, standin: bool) -> Configuration:
    return Configuration(
        route,
        found.place,
        found.name.decode(),
        found.label.decode(),
        _NAMES[found.a_type],
        bool(found.block_scales),
        found.min_m,
        found.max_m,
        found.rows,
        found.columns,
        found.blocks,
        found.per_sm,
        found.round,
        found.step,
        found.split,
        found.shared_memory,
        standin,
    )


@cache
def _library() -> ctypes.CDLL:
    from kernelpkg.ops.load import load

    path = load().path
    library = ctypes.CDLL(str(path))  # the one torch has loaded: a second dlopen returns the same
    for name in ("kernels", "choice"):
        function = getattr(library, f"kernelpkg_scaled_mm_{name}", None)
        if function is None:
            raise UsageError(f"{path} was built from older sources; run `kernelpkg build` again")
        function.restype = ctypes.c_char_p
    return library


def _ask(name: str, *arguments: object) -> None:
    if fault := getattr(_library(), f"kernelpkg_scaled_mm_{name}")(*arguments):
        raise UsageError(fault.decode())
