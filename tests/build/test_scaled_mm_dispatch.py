"""The scaled_mm dispatcher, compiled by g++ with made-up instances: choice of tile, fall-through, refusals.

Compiles two host files and one test file, about 5 s. No GPU: every call here is answered before a launch.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kernelpkg.build.catalogue import csrc_folder
from kernelpkg.build.toolchain import ToolchainMissing, find_toolchain
from kernelpkg.gates.generate import generate

PROGRAM = r"""
#include <cstdio>
#include "scaled_mm/registry.h"
using namespace kernelpkg;
static size_t none(const ScaledMmArgs&, const ScaledMmDevice&) { return 0; }
static Status never(const ScaledMmArgs&, const ScaledMmDevice&) { return Status::error("launched"); }
#define FAKE(NAME, REGISTRY, ROUTE, TYPE, TILE)                                                      \
  static const ScaledMmInstance NAME{#NAME, #NAME, ScaledMmRoute::ROUTE, DType::TYPE, TILE, 0, nullptr, \
                                     none, never};                                                   \
  static const ScaledMmRegistrar NAME##_registrar{REGISTRY(), NAME};
FAKE(hopper0, scaled_mm_registry, kSm90, kBFloat16, 0)
FAKE(hopper1, scaled_mm_registry, kSm90, kBFloat16, 1)
FAKE(hopper2, scaled_mm_registry, kSm90, kBFloat16, 2)
FAKE(hopper3, scaled_mm_registry, kSm90, kBFloat16, 3)
FAKE(spark0, scaled_mm_registry, kSm120, kBFloat16, 0)
FAKE(ada0, scaled_mm_standin_registry, kSm89, kBFloat16, 0)
FAKE(ada4, scaled_mm_standin_registry, kSm89, kBFloat16, 4)

static void choice(ScaledMmRoute route, int m, int n, bool standin = false) {
  std::printf("choice %s\n", scaled_mm_choice(route, m, n, 4096, standin));
}
static void refusal(ScaledMmArgs args) { std::printf("refusal %s\n", scaled_mm(args).message().c_str()); }

int main() {
  choice(ScaledMmRoute::kSm90, 1, 4096);
  choice(ScaledMmRoute::kSm90, 64, 4096);
  choice(ScaledMmRoute::kSm90, 128, 28672);
  choice(ScaledMmRoute::kSm90, 4096, 28672);
  choice(ScaledMmRoute::kSm120, 1, 4096);
  choice(ScaledMmRoute::kSm120, 4096, 4096);        // falls to the only tile
  choice(ScaledMmRoute::kSm89, 1, 4096);            // nothing shipped is built
  choice(ScaledMmRoute::kSm89, 16, 4096, true);
  choice(ScaledMmRoute::kSm89, 17, 4096, true);     // the next larger one
  ScaledMmArgs good;
  alignas(16) static char memory[64];
  static float scale[1];
  good.a = good.b = memory;
  good.c = memory;
  good.a_scales = good.b_scales = scale;
  good.lda = good.ldb = 128;
  good.ldc = 64;
  good.m = 3, good.n = 64, good.k = 128;
  ScaledMmArgs bad = good;
  bad.n = 40;
  refusal(bad);
  bad = good, bad.k = 0;
  refusal(bad);
  bad = good, bad.m = -1;
  refusal(bad);
  bad = good, bad.lda = 120;
  refusal(bad);
  bad = good, bad.ldc = 72;
  refusal(bad);
  bad = good, bad.b = memory + 8;
  refusal(bad);
  bad = good, bad.c = nullptr;
  refusal(bad);
  bad = good, bad.b_scales = nullptr;
  refusal(bad);
  bad = good, bad.c_type = DType::kFloat32;
  refusal(bad);
  bad = good, bad.device = 1000;
  refusal(bad);
  std::printf("standin %s\n", scaled_mm_standin(good, ScaledMmRoute::kSm90).message().c_str());
}
"""

CHOICES = ["hopper0", "hopper1", "hopper2", "hopper3", "spark0", "spark0", "not built", "ada0", "ada4"]
REFUSALS = [
    "n is 40; it must be a positive multiple of 16",
    "k is 0; it must be a positive multiple of 16",
    "m is -1; it must be 0 or more",
    "lda is 120; it must be a multiple of 16 of at least 128",
    "ldc is 72; it must be a multiple of 16 of at least 64",
    "b does not start on a 16-byte boundary",
    "c is null",
    "a scale is null",
    "c is float32; it must be bfloat16 or float16",
    "device 1000 is not one of 0 to 63",
]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    try:
        tools = find_toolchain()
    except ToolchainMissing as error:
        pytest.skip(str(error))
    folder: Path = tmp_path_factory.mktemp("scaled_mm_dispatch")
    generate(folder)
    (folder / "main.cpp").write_text(PROGRAM)
    csrc = csrc_folder()
    command = [str(tools.cxx), "-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", f"-I{csrc}", f"-I{folder}"]
    command += ["-isystem", str(tools.cuda_include), str(folder / "main.cpp")]
    command += [str(csrc / "scaled_mm" / name) for name in ("scaled_mm.cpp", "launch.cpp")]
    command += [
        "-o",
        str(folder / "main"),
        str(tools.cuda_lib / "libcudart_static.a"),
        "-lpthread",
        "-ldl",
        "-lrt",
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([str(folder / "main")], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def _said(lines: list[str], what: str) -> list[str]:
    return [line.removeprefix(what + " ") for line in lines if line.startswith(what + " ")]


def test_tiles_are_chosen_by_shape_and_fall_to_what_is_built(lines: list[str]) -> None:
    assert _said(lines, "choice") == CHOICES


def test_bad_calls_are_refused_with_one_clear_sentence(lines: list[str]) -> None:
    said = _said(lines, "refusal")
    assert len(said) == len(REFUSALS)
    for message, expected in zip(said, REFUSALS, strict=True):
        assert expected in message
        assert message.endswith(".") and "\n" not in message


def test_the_hopper_route_has_no_standin(lines: list[str]) -> None:
    (message,) = _said(lines, "standin")
    assert "no stand-in" in message
