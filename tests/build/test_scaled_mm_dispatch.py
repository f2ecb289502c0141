"""The scaled_mm dispatcher, compiled by g++ with a made-up table: choice by cost, fall-through, refusals.

Compiles three host files and one test file, about 5 s. No GPU: every call here is answered before a launch.
"""

from __future__ import annotations

import pytest

PROGRAM = r"""
#include <cstdio>
#include "scaled_mm/registry.h"
using namespace kernelpkg;
static size_t none(const ScaledMmArgs&, const ScaledMmDevice&) { return 0; }
static Status never(const ScaledMmArgs&, const ScaledMmDevice&) { return Status::error("launched"); }
#define FAKE(NAME, REGISTRY, ROUTE, A_TYPE, BLOCKS, ...)                                            \
  static const ScaledMmInstance NAME{#NAME, #NAME, ScaledMmRoute::ROUTE, DType::A_TYPE, BLOCKS,     \
                                     ScaledMmRow{__VA_ARGS__}, 0, nullptr, none, never};            \
  static const ScaledMmRegistrar NAME##_registrar{REGISTRY(), NAME};
// place, M from, M to, rows, columns, blocks, per multiprocessor, round, step, split
FAKE(stream, scaled_mm_registry, kSm90, kFloat8E4M3, false, 0, 1, 64, 64, 0, 1, 1, 4.0f, 0.3f, 0.0f)
FAKE(narrow, scaled_mm_registry, kSm90, kFloat8E4M3, false, 1, 33, 0, 128, 64, 1, 1, 3.5f, 0.2f, 0.0f)
FAKE(wide, scaled_mm_registry, kSm90, kFloat8E4M3, false, 2, 65, 0, 512, 128, 2, 1, 1.5f, 0.75f, 0.0f)
FAKE(blocks, scaled_mm_registry, kSm90, kFloat8E4M3, true, 3, 65, 0, 128, 128, 1, 1, 1.0f, 1.0f, 0.0f)
FAKE(cut, scaled_mm_registry, kSm90, kFloat8E4M3, true, 4, 257, 0, 128, 128, 1, 1, 1.0f, 1.2f, 9.0f)
FAKE(other, scaled_mm_registry, kSm90, kFloat8E5M2, false, 1, 33, 0, 128, 64, 1, 1, 3.5f, 0.2f, 0.0f)
FAKE(ada, scaled_mm_standin_registry, kSm89, kFloat8E4M3, false, 4, 17, 64, 64, 64, 1, 1, 1.0f, 1.0f, 0.0f)

static void choice(ScaledMmRoute route, DType a_type, bool blocks, int m, int n, int k, int sms,
                   bool standin = false) {
  const ScaledMmInstance* found = nullptr;
  const Status status = scaled_mm_choice(route, a_type, blocks, m, n, k, sms, standin, &found);
  std::printf("choice %s\n", status.ok() ? found->name : status.message().c_str());
}
static void refusal(ScaledMmArgs args) { std::printf("refusal %s\n", scaled_mm(args).message().c_str()); }

int main() {
  const ScaledMmRoute hopper = ScaledMmRoute::kSm90;
  const DType e4m3 = DType::kFloat8E4M3, e5m2 = DType::kFloat8E5M2;
  choice(hopper, e4m3, false, 1, 4096, 4096, 132);
  choice(hopper, e4m3, false, 64, 8192, 28672, 132);   // 128 tiles: one round of the narrow one
  choice(hopper, e4m3, false, 64, 10240, 8192, 132);   // 160 tiles: two rounds, equal shares are less
  choice(hopper, e4m3, false, 4096, 28672, 4096, 132);
  choice(hopper, e4m3, false, 128, 4096, 4096, 132);
  choice(hopper, e4m3, false, 512, 8192, 4096, 48);    // fewer multiprocessors, more rounds
  choice(hopper, e4m3, true, 1, 4096, 4096, 132);      // the nearest that is built
  choice(hopper, e4m3, true, 4096, 4096, 4096, 132);   // 1024 tiles: seven rounds and 100 tiles
  choice(hopper, e4m3, true, 4096, 4224, 16384, 132);  // 1056 tiles: eight rounds
  choice(hopper, e4m3, true, 4096, 640, 16384, 132);   // 160 tiles: 28 in a second round, cut into four
  choice(hopper, e5m2, false, 4096, 4096, 4096, 132);
  choice(hopper, e5m2, true, 4096, 4096, 4096, 132);
  choice(ScaledMmRoute::kSm89, e4m3, false, 16, 4096, 4096, 132);
  choice(ScaledMmRoute::kSm89, e4m3, false, 16, 4096, 4096, 132, true);
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
  bad.n = 0;
  refusal(bad);
  bad = good, bad.k = 0;
  refusal(bad);
  bad = good, bad.m = -1;
  refusal(bad);
  bad = good, bad.lda = 120;
  refusal(bad);
  bad = good, bad.ldc = 68;
  refusal(bad);
  bad = good, bad.b = memory + 8;
  refusal(bad);
  bad = good, bad.c = nullptr;
  refusal(bad);
  bad = good, bad.b_scales = nullptr;
  refusal(bad);
  bad = good, bad.a_scale_row = 2;
  refusal(bad);
  bad = good, bad.c_type = DType::kFloat32;
  refusal(bad);
  bad = good, bad.a_type = DType::kBFloat16;
  refusal(bad);
  bad = good, bad.device = 1000;
  refusal(bad);
  std::printf("standin %s\n", scaled_mm_standin(good, ScaledMmRoute::kSm90).message().c_str());
}
"""

CHOICES = [
    "stream",
    "narrow",
    "stream",
    "wide",
    "narrow",
    "wide",
    "blocks",
    "blocks",
    "blocks",
    "cut",
    "other",
    "not built: this library holds no scaled_mm_sm90 kernel for float8_e5m2 activations "
    "with scales in blocks",
    "not built: this library holds no scaled_mm_sm89 kernel for float8_e4m3fn activations",
    "ada",
]
REFUSALS = [
    "n is 0; it must be 1 or more",
    "k is 0; it must be 1 or more",
    "m is -1; it must be 0 or more",
    "lda is 120; it must be a multiple of 16 of at least 128",
    "ldc is 68; it must be a multiple of 8 of at least 64",
    "b does not start on a 16-byte boundary",
    "c is null",
    "a scale is null",
    "strides of 0 (one value) or 1",
    "c is float32; it must be bfloat16 or float16",
    "a is bfloat16; it must be float8_e4m3fn or float8_e5m2",
    "device 1000 is not one of 0 to 63",
]


@pytest.fixture(scope="module")
def lines(run_host_program) -> list[str]:
    return run_host_program(PROGRAM, "scaled_mm/scaled_mm", "scaled_mm/launch", "common/device")()


def _said(lines: list[str], what: str) -> list[str]:
    return [line.removeprefix(what + " ") for line in lines if line.startswith(what + " ")]


def test_configurations_are_chosen_by_the_table_and_fall_to_what_is_built(lines: list[str]) -> None:
    for said, expected in zip(_said(lines, "choice"), CHOICES, strict=True):
        assert said.startswith(expected)


def test_bad_calls_are_refused_with_one_clear_sentence(lines: list[str]) -> None:
    said = _said(lines, "refusal")
    assert len(said) == len(REFUSALS)
    for message, expected in zip(said, REFUSALS, strict=True):
        assert expected in message
        assert message.endswith(".") and "\n" not in message


def test_the_hopper_route_has_no_standin(lines: list[str]) -> None:
    (message,) = _said(lines, "standin")
    assert "no stand-in" in message
