// The configurations of scaled_mm that this library holds, for Python's ctypes: plain C, for a table is no
// operator's business. Host code alone: it answers on a machine without a GPU. Numbers of routes:
// scaled_mm/scaled_mm.h; of types: common/dtypes.h.
#pragma once

#include <cstdint>

extern "C" {

// A compiled kernel: one row of its route's table, for one type of a and one kind of scales. Fields as in
// ScaledMmRow and ScaledMmInstance (scaled_mm/registry.h); the strings live as long as the library.
struct KernelpkgScaledMm {
  const char* name;
  const char* label;
  int64_t shared_memory;
  int a_type, block_scales, place, min_m, max_m, rows, columns, blocks, per_sm;
  float round, step, split;
};

// A call by what its choice depends on. standin: whether the evidence build of the route is asked.
struct KernelpkgScaledMmCall {
  int route, standin, a_type, block_scales, m, n, k, multiprocessors;
};

// Both return null, or what is wrong in a sentence that lives until the thread's next call here.

// `found` gets at most `capacity` kernels of a route, by kind of scales, type and place; `count` how many
// there are.
__attribute__((visibility("default"))) const char* kernelpkg_scaled_mm_kernels(
    int route, int standin, KernelpkgScaledMm* found, int capacity, int* count);

// The kernel that the dispatcher takes for a call.
__attribute__((visibility("default"))) const char* kernelpkg_scaled_mm_choice(
    const KernelpkgScaledMmCall* call, KernelpkgScaledMm* found);

}  // extern "C"
