"""The dispatch tables of scaled_mm: which tiles are built, and when each is chosen.

A configuration is a tile with its schedule. Among those that take the rows of a call, the one with the
least `rounds * (round + step * ceil(K / 128))` is chosen, where `rounds` is how often every multiprocessor
gets a block. A last round that is not full may be cut along K: it then costs `round + step * ceil(K / 128) /
parts + split` instead. One that divides any N evenly (columns 0) costs `round + share * step *
ceil(K / 128)`, where `share` is how many times 64 columns of the weight each multiprocessor gets.

Only the ratios within a table count. Those of sm90 are microseconds, fitted to a sweep on an H200. In the
others the unit is the time in which a multiprocessor reads 128 values of K of 64 columns of the weight,
worked out from bandwidths and peaks of the devices, none of which was at hand: the sweep of the speed
notebook shows what is faster on a device.
"""

from __future__ import annotations

from dataclasses import dataclass

BOTH = ("e4m3", "e5m2")
E4M3 = ("e4m3",)
E5M2 = ("e5m2",)


@dataclass(frozen=True, slots=True)
class Configuration:
    """One tile of a route, for one kind of scales.

    label: what people read and what names the file, unique within a route and kind of scales.
    arguments: the template arguments after the type of a and the kind of scales.
    shared_memory: bytes per block, as the kernel says; its stand-in needs the same.
    min_m, max_m: rows of a call that may choose it (max_m 0: no limit).
    rows, columns: of c that the blocks of one cluster compute together, whatever is swapped.
    blocks: of a cluster, or of a tile whose K is split.
    per_sm: blocks that share a multiprocessor.
    round, step: relative cost of one round of blocks, and of 128 values of K in it. split: of adding up parts
    of K, where a last round that is not full is cut along K; 0: it is not.
    scales: "vector" (one, or one per row or column) or "block" (per 128 values of K).
    activations: the types of a that get an instance.
    standins: those whose 9.0a stand-in is built, on routes that have one.
    test: those that belong to the test set.
    cost_seconds: of compiling one instance where it differs from the route's.
    template, header: where they differ from the route's.
    """

    label: str
    arguments: str
    shared_memory: int
    min_m: int
    max_m: int
    rows: int
    columns: int
    blocks: int = 1
    per_sm: int = 1
    round: float = 1.0
    step: float = 1.0
    split: float = 0.0
    scales: str = "vector"
    activations: tuple[str, ...] = BOTH
    standins: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    cost_seconds: float = 0.0
    template: str = ""
    header: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """One gate's configurations, and where its template lives.

    cost_seconds: of compiling one instance, to plan a build.
    standin_template, standin_header: empty where the route has no stand-in.
    """

    gate: str
    enumerator: str
    template: str
    header: str
    configurations: tuple[Configuration, ...]
    cost_seconds: float
    standin_template: str = ""
    standin_header: str = ""

    def template_of(self, one: Configuration, standin: bool) -> tuple[str, str]:
        """The template of a configuration's kernel, or of its stand-in, and the header that has it."""
        if standin:
            return self.standin_template, self.standin_header
        return one.template or self.template, one.header or self.header


# fmt: off
# Few rows are bound by reading the weight: their tiles are narrow and many.
SM89 = Route(
    gate="scaled_mm_sm89",
    enumerator="kSm89",
    template="Sm89Fp8",
    header="scaled_mm/sm89_fp8.cuh",
    standin_template="Sm89Fp8Standin",
    standin_header="scaled_mm/sm89_fp8.cuh",
    cost_seconds=15.0,
    configurations=(
        Configuration("16x64x128", "16, 64, 128, 16, 64, 64, 5",
                      shared_memory=51200, min_m=1, max_m=16, rows=16, columns=64,
                      round=3.0, step=1.0, standins=BOTH, test=BOTH),
        Configuration("32x64x128", "32, 64, 128, 16, 64, 64, 5",
                      shared_memory=61440, min_m=17, max_m=32, rows=32, columns=64,
                      round=3.0, step=1.05, standins=E4M3),
        Configuration("64x64x128", "64, 64, 128, 32, 64, 64, 5",
                      shared_memory=81920, min_m=33, max_m=256, rows=64, columns=64,
                      round=3.0, step=1.1, standins=E4M3),
        Configuration("64x128x128", "64, 128, 128, 64, 64, 64, 3",
                      shared_memory=73728, min_m=33, max_m=0, rows=64, columns=128,
                      round=4.0, step=1.8, standins=E4M3),
        Configuration("128x128x64", "128, 128, 64, 64, 64, 64, 5",
                      shared_memory=81920, min_m=65, max_m=0, rows=128, columns=128,
                      round=5.0, step=2.6, standins=E4M3, test=E4M3),
        Configuration("256x128x64", "256, 128, 64, 64, 64, 64, 3",
                      shared_memory=73728, min_m=257, max_m=0, rows=256, columns=128,
                      round=8.0, step=4.9, standins=E4M3),
    ),
)

# Up to 128 rows the weight is streamed in equal shares; the tile's only number is the rows of a.
def _stream(rows: int, min_m: int, scales: str, round: float, step: float) -> Configuration:
    return Configuration(f"stream_{rows}", f"{rows}", shared_memory=232448, min_m=min_m, max_m=rows,
                         rows=rows, columns=0, round=round, step=step, scales=scales,
                         test=BOTH if rows == 16 else (), cost_seconds=10.0,
                         template="Sm90Stream", header="scaled_mm/sm90_stream.cuh")


SM90 = Route(
    gate="scaled_mm_sm90",
    enumerator="kSm90",
    template="Sm90Fp8",
    header="scaled_mm/sm90_fp8.cuh",
    cost_seconds=35.0,
    configurations=(
        _stream(16, 1, "vector", 2.5, 0.254),
        _stream(32, 17, "vector", 2.9, 0.257),
        _stream(64, 33, "vector", 3.3, 0.264),
        _stream(128, 65, "vector", 4.2, 0.313),
        Configuration("64x128x128_pingpong_swapped", "64, 128, 128, 1, 1, Sm90Schedule::kPingpong, true",
                      shared_memory=231424, min_m=129, max_m=1024, rows=128, columns=64,
                      round=2.0, step=0.19),
        Configuration("128x96x128_pingpong_cluster2", "128, 96, 128, 2, 1, Sm90Schedule::kPingpong, false",
                      shared_memory=210432, min_m=129, max_m=0, rows=256, columns=96,
                      blocks=2, round=1.5, step=0.3, activations=E4M3),
        Configuration("128x128x128_pingpong_cluster1x2",
                      "128, 128, 128, 1, 2, Sm90Schedule::kPingpong, false",
                      shared_memory=206336, min_m=129, max_m=0, rows=128, columns=256,
                      blocks=2, round=2.35, step=0.375, activations=E4M3),
        Configuration("128x128x128_pingpong_cluster2", "128, 128, 128, 2, 1, Sm90Schedule::kPingpong, false",
                      shared_memory=206336, min_m=129, max_m=0, rows=256, columns=128,
                      blocks=2, round=2.3, step=0.375, test=E4M3),
        _stream(16, 1, "block", 4.0, 0.25),
        _stream(32, 17, "block", 4.2, 0.262),
        _stream(64, 33, "block", 6.0, 0.27),
        _stream(128, 65, "block", 5.0, 0.41),
        Configuration("128x128x128_cooperative_cluster2",
                      "128, 128, 128, 1, 2, Sm90Schedule::kCooperative, false",
                      shared_memory=218112, min_m=65, max_m=128, rows=128, columns=256,
                      blocks=2, round=4.4, step=0.415, scales="block", activations=E4M3),
        Configuration("tiles_128", "128", shared_memory=229472, min_m=65, max_m=0, rows=256, columns=128,
                      blocks=2, round=1.6, step=0.43, split=8.0, scales="block", test=E4M3,
                      cost_seconds=10.0, template="Sm90BlockTiles",
                      header="scaled_mm/sm90_block_tiles.cuh"),
    ),
)

# Swapped, the first number of a tile runs over columns of c. A pair of multiprocessors shares each MMA.
SM100 = Route(
    gate="scaled_mm_sm100",
    enumerator="kSm100",
    template="Sm100Fp8",
    header="scaled_mm/sm100_fp8.cuh",
    cost_seconds=40.0,
    configurations=(
        Configuration("64x32x128_swapped", "64, 32, 128, 1, 1, 1, true",
                      shared_memory=227328, min_m=1, max_m=32, rows=32, columns=64,
                      round=10.0, step=1.0),
        Configuration("128x64x128_swapped", "128, 64, 128, 1, 1, 1, true",
                      shared_memory=215040, min_m=1, max_m=128, rows=64, columns=128,
                      round=10.0, step=1.6, activations=E4M3),
        Configuration("128x128x128", "128, 128, 128, 1, 1, 1, false",
                      shared_memory=214528, min_m=33, max_m=0, rows=128, columns=128,
                      round=11.0, step=1.9, test=E4M3),
        Configuration("256x128x128_pair", "256, 128, 128, 2, 1, 2, false",
                      shared_memory=214528, min_m=129, max_m=0, rows=256, columns=128,
                      blocks=2, round=12.0, step=1.5, test=E5M2),
        Configuration("256x256x128_pair", "256, 256, 128, 2, 1, 2, false",
                      shared_memory=215040, min_m=257, max_m=0, rows=256, columns=256,
                      blocks=2, round=15.0, step=2.4, activations=E4M3),
        Configuration("128x32x128_swapped", "128, 32, 128, 1, 1, 1, true",
                      shared_memory=218112, min_m=1, max_m=64, rows=32, columns=128,
                      round=10.0, step=2.0, scales="block", test=E4M3),
        Configuration("128x128x128", "128, 128, 128, 1, 1, 1, false",
                      shared_memory=218624, min_m=33, max_m=0, rows=128, columns=128,
                      round=11.0, step=2.2, scales="block"),
        Configuration("256x128x128_pair", "256, 128, 128, 2, 1, 2, false",
                      shared_memory=219648, min_m=129, max_m=0, rows=256, columns=128,
                      blocks=2, round=12.0, step=1.9, scales="block", activations=E4M3),
    ),
)

# The block scales of a weight span 128 columns, and so do the tiles that take them.
SM120 = Route(
    gate="scaled_mm_sm120",
    enumerator="kSm120",
    template="Sm120Fp8",
    header="scaled_mm/sm120_fp8.cuh",
    standin_template="Sm120Fp8Standin",
    standin_header="scaled_mm/standin/sm120_standin.cuh",
    cost_seconds=45.0,
    configurations=(
        Configuration("32x32x128_pingpong", "32, 32, 128, Sm120Schedule::kPingpong",
                      shared_memory=94208, min_m=1, max_m=32, rows=32, columns=32,
                      round=3.0, step=0.6, activations=E4M3, standins=E4M3),
        Configuration("32x64x128_pingpong", "32, 64, 128, Sm120Schedule::kPingpong",
                      shared_memory=92160, min_m=1, max_m=32, rows=32, columns=64,
                      round=3.0, step=1.0, standins=BOTH, test=BOTH),
        Configuration("32x64x128_pingpong_split", "32, 64, 128, Sm120Schedule::kPingpong, SplitK::kYes",
                      shared_memory=96256, min_m=1, max_m=32, rows=32, columns=64,
                      blocks=8, round=8.0, step=0.2, activations=E4M3, standins=E4M3),
        Configuration("64x64x128_pingpong", "64, 64, 128, Sm120Schedule::kPingpong",
                      shared_memory=92160, min_m=33, max_m=256, rows=64, columns=64,
                      round=3.0, step=1.1, activations=E4M3, standins=E4M3),
        Configuration("64x128x128_pingpong", "64, 128, 128, Sm120Schedule::kPingpong",
                      shared_memory=83968, min_m=33, max_m=0, rows=64, columns=128,
                      round=4.0, step=1.8, standins=E4M3),
        Configuration("128x128x128_cooperative", "128, 128, 128, Sm120Schedule::kCooperative",
                      shared_memory=75776, min_m=65, max_m=0, rows=128, columns=128,
                      round=4.0, step=2.6, standins=E4M3, test=E4M3),
        Configuration("32x128x128_pingpong", "32, 128, 128, Sm120Schedule::kPingpong",
                      shared_memory=89088, min_m=1, max_m=32, rows=32, columns=128,
                      round=4.0, step=2.0, scales="block", standins=E4M3, test=E4M3),
        Configuration("32x128x128_pingpong_split", "32, 128, 128, Sm120Schedule::kPingpong, SplitK::kYes",
                      shared_memory=93184, min_m=1, max_m=32, rows=32, columns=128,
                      blocks=8, round=9.0, step=0.5, scales="block", activations=E4M3, standins=E4M3),
        Configuration("64x128x128_pingpong", "64, 128, 128, Sm120Schedule::kPingpong",
                      shared_memory=84992, min_m=33, max_m=0, rows=64, columns=128,
                      round=4.0, step=2.1, scales="block", activations=E4M3, standins=E4M3),
        Configuration("128x128x128_cooperative", "128, 128, 128, Sm120Schedule::kCooperative",
                      shared_memory=77824, min_m=33, max_m=0, rows=128, columns=128,
                      round=4.0, step=3.2, scales="block", standins=E4M3),
    ),
)
# fmt: on

ROUTES = (SM89, SM90, SM100, SM120)
