// What the kernels are launched with.
#pragma once

#include <cstdint>

#include "marlin/schedule.h"

namespace kernelpkg::marlin {

struct Params {
  const char* a;
  int64_t a_row_bytes;
  const char* b;
  const char* scales;     // [k / 128 or 1, n]
  const float* a_scales;  // [m] or null
  const char* bias;       // [n] or null
  char* c;
  float* partials;  // slots of slot_floats each; used only where the schedule splits K
  int64_t slot_floats;
  int m;
  int n;
  int k;
  bool grouped;            // scales per group of 128 rows, else per channel
  bool weights_read_once;  // a single row tile: weights may leave L2 first
  Schedule schedule;
};

}  // namespace kernelpkg::marlin
