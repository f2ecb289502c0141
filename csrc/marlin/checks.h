// Host checks shared by the entry points.
#pragma once

#include "common/status.h"
#include "marlin/marlin.h"

namespace kernelpkg::marlin {

// The largest n and k: their padded extents still fit an int.
constexpr int kMaxExtent = 2147483647 - 127;

constexpr bool is_format(int code) { return code >= 0 && code < kWeightFormats; }

// "0 (u4b8), 1 (e4m3), ..."
const char* format_list();

// Whether the format takes this group size, and in words which it takes.
bool takes_group(WeightFormat format, int64_t group_size);
const char* group_list(WeightFormat format);

// Whether float8_e4m3fn activations go with the format.
constexpr bool takes_fp8(WeightFormat format) {
  return format != WeightFormat::kU8B128 && format != WeightFormat::kNvfp4;
}

// Shapes, types, pointers and alignment; nothing that depends on the device.
Status check_gemm(const MarlinArgs& args);
Status check_repack(const MarlinRepackArgs& args);
Status check_pad_rows(const MarlinPadArgs& args);

// That the workspace has the bytes that the plan of a call wants.
Status check_workspace(const MarlinArgs& args, size_t needed);

}  // namespace kernelpkg::marlin
