// How a call is computed: by heuristic, or as somebody who measured has said.
#pragma once

#include <vector>

#include "common/status.h"
#include "marlin/marlin.h"
#include "marlin/wgmma.h"

namespace kernelpkg::marlin {

// kLibrary: widen the weight, then torch's GEMM; only the operator can (dispatch.h).
enum class Route { kAny, kMma, kWgmma, kLibrary };

// 0 and kAny leave a field to the heuristics.
struct Choice {
  Route route = Route::kAny;
  int rows = 0;   // of a tile
  int parts = 0;  // of K
  Adding added = Adding::kAny;
};

// What is worth timing for a call, what the heuristics make of it first. Reads shapes, types and
// device alone.
Status candidates(const MarlinArgs& args, std::vector<Choice>* found);

// From now on, on args.device, calls of this weight (types, n, k, group size) with about as many
// rows (up to the same power of two, 8 at least) are computed so. Refuses what could not run.
// Thread-safe. The operators take their choice once per call; who calls marlin_workspace_bytes and
// marlin_gemm himself must not choose between the two. kAny goes back to the heuristics. Another
// choice adds in another order, so results may differ in their last bits.
Status choose(const MarlinArgs& args, const Choice& choice);
void forget_choices();

// What was chosen for a call; kAny where nothing was.
Choice chosen(const MarlinArgs& args);

}  // namespace kernelpkg::marlin
