// From a checked call to launches: the gate, the route, the plan.
#pragma once

#include <cstddef>

#include "common/status.h"
#include "marlin/choice.h"
#include "marlin/marlin.h"
#include "marlin/registry.h"

namespace kernelpkg::marlin {

// Checks everything, plans and launches. `choice` narrows the plan; its kLibrary is not for here.
Status run(const MarlinArgs& args, Family family, const Choice& choice);

// Bytes that run() will want, or 0 where it would refuse.
size_t workspace_bytes(const MarlinArgs& args, Family family, const Choice& choice);

// Whether a library's 16-bit GEMM over the widened weight (marlin_widen) is what `choice` says or,
// where it leaves that open, the faster way.
bool prefers_library(const MarlinArgs& args, const Choice& choice);

// `wish` with every field filled in, as a call of the shipped kernels would be computed. Refuses
// what cannot run. Reads shapes, types and device alone.
Status resolve(const MarlinArgs& args, const Choice& wish, Choice* choice);

}  // namespace kernelpkg::marlin
