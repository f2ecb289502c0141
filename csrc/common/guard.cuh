// The device guard: what a kernel is compiled to for a target that its gate does not ship.
//
// A kernel takes its gate as a template parameter and begins with
//
//   template <class Gate, ...>
//   __global__ void kernel(...) {
//     if constexpr (!Gate::kDeviceCode) {
//       kernelpkg::guard_trap();
//       return;
//     } else {
//       ... body ...
//     }
//   }
//
// For a wrong target the body is discarded before code is made, so the machine code holds the trap
// alone: a launch ends in an error (cudaErrorLaunchFailure) and never returns with unwritten
// output. The host check (Gate::admits) refuses earlier and with a sentence; this stands behind it.
#pragma once

#include "kernelpkg_gates.h"

namespace kernelpkg {

/// Ends the kernel with an error. Reads as BPT.TRAP in the machine code.
__device__ __forceinline__ void guard_trap() { __trap(); }

}  // namespace kernelpkg
