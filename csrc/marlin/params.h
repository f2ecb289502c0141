// What the kernels are launched with.
#pragma once

#include <cstdint>

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
  float* partials;  // [tiles][parts][rows of a tile][kTileCols]; only through_workspace()
  float factor;     // what fragments lack (dequant.cuh), times the output scale
  int m;
  int n;
  int n_pad;
  int k_pad;
  ScaleMode scale_mode;
  int group_blocks;        // 32-row blocks of K per group, at most those of a stage; kGrouped
  int group_k;             // rows of K per group; kGrouped
  bool weights_read_once;  // a single row tile: weights may leave L2 first
  Schedule schedule;
};

}  // namespace kernelpkg::marlin
