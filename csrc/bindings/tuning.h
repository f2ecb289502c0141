// How calls of marlin_gemm are computed, for Python's ctypes: plain C, for lists of choices are no
// operator's business. Numbers of types and formats: common/dtypes.h; of routes: marlin/choice.h.
#pragma once

extern "C" {

struct KernelpkgCall {
  int device, a_type, weight_format, c_type, m, n, k, group_size;
};

struct KernelpkgChoice {
  int route, rows, parts, added;
};

// All return null, or what is wrong in a sentence that lives until the thread's next call here.

// `found` gets at most `capacity` choices worth timing, the default first; `count` how many.
__attribute__((visibility("default"))) const char* kernelpkg_marlin_candidates(
    const KernelpkgCall* call, KernelpkgChoice* found, int capacity, int* count);

// What a call would do now, chosen or by heuristic.
__attribute__((visibility("default"))) const char* kernelpkg_marlin_plan(const KernelpkgCall* call,
                                                                         KernelpkgChoice* choice);

__attribute__((visibility("default"))) const char* kernelpkg_marlin_choose(
    const KernelpkgCall* call, const KernelpkgChoice* choice);

__attribute__((visibility("default"))) void kernelpkg_marlin_forget();

}  // extern "C"
