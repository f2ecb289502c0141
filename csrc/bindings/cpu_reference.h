// CPU references of the operators: the same arguments and semantics as the CUDA kernels, on host pointers.
//
// Sums run in float32 over at most 128 values and in float64 above that, so the only error that shows is the
// rounding of the output. They are references, not fast code: about 5 GFLOP/s a core.
#pragma once

#include "marlin/marlin.h"
#include "scaled_mm/scaled_mm.h"

namespace kernelpkg::bindings {

// `args` as the CUDA kernels take them, with host pointers; workspace, device and stream are ignored.
void marlin_gemm_reference(const MarlinArgs& args);
void scaled_mm_reference(const ScaledMmArgs& args);

}  // namespace kernelpkg::bindings
