// What the kernels are launched with.
#pragma once

#include <cstdint>

#include "marlin/marlin.h"
#include "marlin/schedule.h"

namespace kernelpkg::marlin {

enum class ScaleMode { kChannel, kGrouped, kOnWeights };  // kOnWeights: NVFP4

struct Params {
  const char* a;
  int64_t a_row_bytes;
  int a_bytes;  // of a row that may be read: k in whole 16 bytes; the rest of K is zeros
  const char* b;
  const char* scales;     // layout.h
  const char* zeros;      // layout.h; null without zero points
  const float* a_scales;  // [m] or null
  const char* bias;       // [n] or null
  char* c;
  float* partials;  // [tiles][parts][rows of a tile][kTileCols]; only with several parts
  float factor;     // what fragments lack (dequant.cuh), times the output scale
  int m;
  int n;
  int n_pad;
  int k_pad;
  ScaleMode scale_mode;
  int group_blocks;  // 32-row blocks of K per group, at most those of a stage: 1, 2, 4; kGrouped
  int group_shift;   // log2 of the rows of K per group; 30 with one group for all of K
  Schedule schedule;
};

// What both GEMM kernels' arguments have in common. fragment_scale: what the kernel's fragments
// lack; stage_k: rows of K in a stage. partials is the start of the workspace.
Params make_params(const MarlinArgs& args, const Schedule& schedule, float fragment_scale,
                   int stage_k);

}  // namespace kernelpkg::marlin
