// Names that every route's template takes: the types of a and b, and the kinds of scales.
#pragma once

#include "cutlass/float8.h"

namespace kernelpkg {

using E4M3 = cutlass::float_e4m3_t;
using E5M2 = cutlass::float_e5m2_t;

// Whether scales factor out of the sum, and the epilogue applies them, or come in blocks, and the
// mainloop does.
enum class Scales { kVector, kBlock };

}  // namespace kernelpkg
