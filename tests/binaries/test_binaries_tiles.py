"""The tile table: occupancy by registers, shared memory and threads."""

from __future__ import annotations

import subprocess

from kernelpkg.arch import Capability
from kernelpkg.arch.devices import shared_memory_optin
from kernelpkg.binaries.tiles import blocks_per_multiprocessor, tile_rows
from kernelpkg.build.catalogue import csrc_folder
from kernelpkg.build.instances_marlin import instances, wgmma_stages
from kernelpkg.build.toolchain import find_toolchain


def test_the_scarcest_of_three_decides():
    assert blocks_per_multiprocessor("9.0", 256, 128, 70_000) == 2  # registers: 8 warps of 4,096 each
    assert blocks_per_multiprocessor("12.0", 256, 64, 70_000) == 1  # 100 KiB of shared memory
    assert blocks_per_multiprocessor("12.0", 512, 16, 1_000) == 3  # 1,536 threads
    assert blocks_per_multiprocessor("12.0", 256, 64, 110_000) == 0


def test_a_count_measured_on_hopper():
    # 9 warps of 123 registers: one scheduler has three of them, and 16,384 registers hold four such warps.
    assert blocks_per_multiprocessor("9.0", 288, 123, 86_000) == 1


def test_every_tile_fits_the_smallest_device_it_is_admitted_to():
    for one in instances():
        if one.shared_memory is not None:
            assert one.shared_memory <= shared_memory_optin(Capability(12, 0)), one.name


def test_wgmma_tiles_need_what_the_header_counts(tmp_path):
    formats = ("kE4M3", "kU4", "kU8B128", "kNvfp4", "kMxfp4")
    tiles = [(name, rows) for name in formats for rows in (64, 128)]
    lines = "".join(
        f"using T{i} = WgmmaTile<DType::kBFloat16, WeightFormat::{name}, {rows}>;"
        f'std::printf("%d %d %d %d\\n", T{i}::kStages, T{i}::kStageK, T{i}::kThreads, T{i}::kSharedBytes);\n'
        for i, (name, rows) in enumerate(tiles)
    )
    source = tmp_path / "tiles.cpp"
    source.write_text(
        '#include <cstdio>\n#include "marlin/wgmma_tile.h"\nusing namespace kernelpkg;\n'
        f"using namespace kernelpkg::marlin;\nint main() {{\n{lines}}}\n"
    )
    toolchain = find_toolchain()
    folders = [f"-I{csrc_folder()}", "-isystem", str(toolchain.cuda_include)]
    command = [str(toolchain.cxx), "-std=c++17", *folders, str(source), "-o", "tiles"]
    subprocess.run(command, cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "tiles"], capture_output=True, text=True, check=True).stdout
    counted = [tuple(map(int, line.split())) for line in printed.splitlines()]
    assert counted == [wgmma_stages(name, rows) for name, rows in tiles]


def test_rows_are_read_from_the_functions():
    name = next(one.name for one in instances() if one.name == "marlin_w4a16_bf16_16x128")
    function = {
        "function": "void marlin_kernel<gates::marlin_16bit, kernelpkg::marlin::Tile<(kernelpkg::DType)1, "
        "(kernelpkg::WeightFormat)0, (kernelpkg::DType)1, 16, 128, 2, 3, 2>>(Params)",
        "instance": name,
        "target": "12.0f",
        "registers": 91,
        "spills": 0,
    }
    [row] = tile_rows([function, {"function": "other", "target": "12.0f"}])
    assert (row["tile"], row["stages"], row["threads"]) == ("16 x 128", "2 x 3 of 128", 256)
    assert row["blocks_per_sm"] == 1 and row["shared_memory"] > 80_000
