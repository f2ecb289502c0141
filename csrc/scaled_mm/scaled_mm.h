// FP8 GEMM with scales: c = (a_scale * a) @ (b_scale * b) + bias.
//
//   a  [M, K]  e4m3 or e5m2, row-major, row stride lda
//   b  [K, N]  e4m3, column-major: each column of K values is contiguous, column stride ldb
//   c  [M, N]  bf16 or fp16, row-major, row stride ldc
//
// Scales are float32. Either they factor out of the sum: a_scale is one value or one per row of a,
// b_scale one value or one per column of b, in any pairing. Or both come in blocks: a_scale one per
// row and 128 values of K, b_scale one per 128 columns and 128 values of K; the last block of K or
// N may be short. Sums run in fp32; scales and bias are applied in fp32, then the value is
// converted once. Strides count elements. This header needs neither torch nor CUTLASS.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "common/dtypes.h"
#include "common/status.h"

namespace kernelpkg {

// Values of K, and columns of b, that share a scale where scales come in blocks.
constexpr int kScaleBlock = 128;
// Rows of a and columns of b start on 16 bytes, rows of c too (8 values).
constexpr int kScaledMmRowBytes = 16;

struct ScaledMmArgs {
  const void* a = nullptr;
  int64_t lda = 0;                    // a multiple of 16, at least K
  DType a_type = DType::kFloat8E4M3;  // or kFloat8E5M2
  const void* b = nullptr;
  int64_t ldb = 0;  // a multiple of 16, at least K
  bool block_scales = false;
  // Value of row m (and block of K kb): a_scales[m * a_scale_row + kb * a_scale_block]. Without
  // blocks a_scale_row is 0 (one value) or 1 (one per row) and a_scale_block 0.
  const float* a_scales = nullptr;
  int64_t a_scale_row = 0;
  int64_t a_scale_block = 0;
  // Value of column n, or block of columns n (and block of K kb): b_scales[n * b_scale_column + kb
  // * b_scale_block]. Without blocks b_scale_column is 0 or 1 and b_scale_block 0.
  const float* b_scales = nullptr;
  int64_t b_scale_column = 0;
  int64_t b_scale_block = 0;
  const void* bias = nullptr;  // [N] in c_type, or null
  void* c = nullptr;
  int64_t ldc = 0;  // a multiple of 8, at least N; columns from N to ldc may be overwritten
  DType c_type = DType::kBFloat16;  // or kFloat16
  void* workspace = nullptr;        // device memory, scaled_mm_workspace_bytes() of it
  size_t workspace_bytes = 0;
  int m = 0;  // any M from 0; M == 0 launches nothing
  int n = 0;
  int k = 0;
  int configuration = -1;  // the place of a configuration in its route's table, -1: by dispatch
  int device = 0;
  cudaStream_t stream = nullptr;
};

// One route per gate: scaled_mm_sm89, scaled_mm_sm90, scaled_mm_sm100, scaled_mm_sm120.
enum class ScaledMmRoute { kSm89, kSm90, kSm100, kSm120 };

// "scaled_mm_sm90" and so on: the gate and kernel name of the route.
const char* scaled_mm_route_name(ScaledMmRoute route);

// The route that serves `device`, by its capability and the gate table. An unserved capability is
// refused with the gates' reasons.
Status scaled_mm_route(int device, ScaledMmRoute* route);

// Whether the route reads 16 bytes at a time up to K and cannot stop inside them: then K must be a
// multiple of 16, and zeros stand in a and b from the caller's K on.
bool scaled_mm_whole_rows(ScaledMmRoute route);

// Bytes of device memory the call needs in `workspace` (0 is usual). Launches nothing.
size_t scaled_mm_workspace_bytes(const ScaledMmArgs& args, ScaledMmRoute route,
                                 bool standin = false);

// Runs on args.stream of args.device. Allocates nothing, never synchronises, so it can be captured
// in a graph. Thread-safe.
Status scaled_mm(const ScaledMmArgs& args);

// The same arithmetic by the evidence build of `route` (kSm89 or kSm120): source of that route
// compiled for 9.0a, where FP8 MMA is emulated. Refused on every device but 9.0.
Status scaled_mm_standin(const ScaledMmArgs& args, ScaledMmRoute route);

}  // namespace kernelpkg
