// The choice of tile and K-split for one call.
#pragma once

#include <cstddef>

#include "common/status.h"
#include "marlin/device.h"
#include "marlin/marlin.h"
#include "marlin/registry.h"
#include "marlin/schedule.h"

namespace kernelpkg::marlin {

struct Plan {
  const KernelInstance* instance = nullptr;
  Schedule schedule = {};
  size_t workspace_bytes = 0;
};

// Narrows the choice; 0 leaves a field free.
struct PlanRequest {
  int rows = 0;
  int parts = 0;  // at most one per stage
};

// `device` must be current. Same arguments on the same kind of device, same plan: results repeat
// bit for bit.
Status make_plan(const MarlinArgs& args, Family family, const DeviceFacts& facts,
                 const PlanRequest& request, Plan* plan);

}  // namespace kernelpkg::marlin
