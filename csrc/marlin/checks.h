// Host checks shared by the entry points.
#pragma once

#include "common/status.h"
#include "marlin/marlin.h"

namespace kernelpkg::marlin {

// Shapes, types, pointers and alignment; nothing that depends on the device.
Status check_gemm(const MarlinArgs& args);
Status check_repack(const MarlinRepackArgs& args);

}  // namespace kernelpkg::marlin
