// FP8 GEMM with scales: c = a_scale * (b_scale * (a @ b)) + bias.
//
//   a  [M, K]  e4m3, row-major, row stride lda
//   b  [K, N]  e4m3, column-major: each column of K values is contiguous, column stride ldb
//   c  [M, N]  bf16 or fp16, row-major, row stride ldc
//
// The sum runs over K in fp32; scales and bias are applied in fp32, then the value is converted
// once. Strides count elements. This header needs neither torch nor CUTLASS.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "common/dtypes.h"
#include "common/status.h"

namespace kernelpkg {

struct ScaledMmArgs {
  const void* a = nullptr;
  int64_t lda = 0;
  const void* b = nullptr;
  int64_t ldb = 0;
  const float* a_scales = nullptr;  // one value, or M where a_scale_per_token
  bool a_scale_per_token = false;
  const float* b_scales = nullptr;  // one value, or N where b_scale_per_channel
  bool b_scale_per_channel = false;
  const void* bias = nullptr;  // [N] in c_type, or null
  void* c = nullptr;
  int64_t ldc = 0;
  DType c_type = DType::kBFloat16;  // kBFloat16 or kFloat16
  void* workspace = nullptr;        // device memory, scaled_mm_workspace_bytes() of it
  size_t workspace_bytes = 0;
  int m = 0;  // any M from 0; M == 0 launches nothing
  int n = 0;  // a multiple of 16
  int k = 0;  // a multiple of 16
  int device = 0;
  cudaStream_t stream = nullptr;
};

// One route per gate: scaled_mm_sm89, scaled_mm_sm90, scaled_mm_sm120.
enum class ScaledMmRoute { kSm89, kSm90, kSm120 };

// "scaled_mm_sm90" and so on: the gate and kernel name of the route.
const char* scaled_mm_route_name(ScaledMmRoute route);

// The route that serves `device`, by its capability and the gate table. An unserved capability is
// refused with the gates' reasons.
Status scaled_mm_route(int device, ScaledMmRoute* route);

// Bytes of device memory the call needs in `workspace` (0 is usual). Launches nothing.
size_t scaled_mm_workspace_bytes(const ScaledMmArgs& args, ScaledMmRoute route,
                                 bool standin = false);

// Runs on args.stream of args.device. Launches at most one kernel, allocates nothing, never
// synchronises, so it can be captured in a graph. Thread-safe.
Status scaled_mm(const ScaledMmArgs& args);

// The same arithmetic by the evidence build of `route` (kSm89 or kSm120): source of that route
// compiled for 9.0a, where FP8 MMA is emulated. Refused on every device but 9.0.
Status scaled_mm_standin(const ScaledMmArgs& args, ScaledMmRoute route);

// The configuration the dispatcher takes for this shape among the instances in this build, for
// example "sm90 128x128x128 pingpong, cluster 2x1"; "not built" where none is. A static string.
const char* scaled_mm_choice(ScaledMmRoute route, int m, int n, int k, bool standin = false);

}  // namespace kernelpkg
