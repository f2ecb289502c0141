// A GEMM whose K is split over blocks, for results so narrow that their tiles leave multiprocessors
// idle. Each piece of K leaves its sum in the workspace in fp32; a second kernel adds them up in
// order, so that the result does not depend on timing, and applies bias and the scales that factor
// out of the sum.
#pragma once

#include "common/guard.cuh"
#include "cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp"
#include "scaled_mm/output.cuh"
#include "scaled_mm/prepare.h"
#include "scaled_mm/registry.h"

namespace kernelpkg {

enum class SplitK { kNo, kYes };

// More pieces than this cost more in the second kernel than they gain in the first.
constexpr int kMaxSplits = 8;
// Values of K that a piece has at least, so that filling the pipeline does not dominate.
constexpr int kMinSplitK = 512;

// The epilogue of the first kernel: sums leave as they are.
struct PartialSums {
  using Output = float;
  using Callbacks = cutlass::epilogue::fusion::Sm90AccFetch;
  static Callbacks::Arguments arguments(const ScaledMmArgs&) { return {}; }
};

// Where those sums lie: [pieces, M, columns] in fp32, columns being N rounded up so that rows start
// on 16 bytes.
struct SplitPlan {
  int pieces = 1;
  int64_t columns = 0;
  size_t bytes = 0;
};

// As many pieces as fit one round of blocks. A piece starts on 16 bytes of a and b, and with a
// block of scales where they come in blocks, so K must divide; where it does not there is one
// piece, which is slower and as right.
inline SplitPlan split_plan(const ScaledMmArgs& args, int sm_count, int tile_rows,
                            int tile_columns) {
  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t tiles = ceil_div(args.m, tile_rows) * ceil_div(args.n, tile_columns);
  const int grain = args.block_scales ? kScaleBlock : kScaledMmRowBytes;
  SplitPlan plan;
  for (int pieces = kMaxSplits; pieces > 1; pieces /= 2) {
    if (args.k % (pieces * grain) == 0 && args.k / pieces >= kMinSplitK &&
        tiles * pieces <= sm_count) {
      plan.pieces = pieces;
      break;
    }
  }
  plan.columns = ceil_div(args.n, 4) * 4;
  plan.bytes = plan.pieces * static_cast<size_t>(args.m) * plan.columns * sizeof(float);
  return plan;
}

struct SplitSumParams {
  const float* sums;
  int pieces;
  int64_t columns;
  int64_t piece_stride;
  const float* a_scales;  // null: scales were applied within the sums
  const float* b_scales;
  const uint16_t* bias;
  uint16_t* c;
  int64_t ldc;
  int n;
  int a_step;
  int b_step;
  bool half;
};

constexpr int kSplitSumThreads = 128;
constexpr int kSplitSumColumns = 4;  // of a thread: 16 bytes of each piece, 8 of c

// A block computes kSplitSumThreads * kSplitSumColumns columns of row blockIdx.x. The last store of
// a row may run into the columns from N to ldc; scales and bias are not read there.
template <class Gate>
__global__ void __launch_bounds__(kSplitSumThreads)
    scaled_mm_split_sum(__grid_constant__ const SplitSumParams params) {
  if constexpr (!Gate::kDeviceCode) {
    guard_trap();
  } else {
    const int64_t row = blockIdx.x;
    const int64_t first = (int64_t{blockIdx.y} * kSplitSumThreads + threadIdx.x) * kSplitSumColumns;
    if (first >= params.n) return;
    const float* piece = params.sums + row * params.columns + first;
    float4 sum = *reinterpret_cast<const float4*>(piece);
#pragma unroll 4
    for (int i = 1; i < params.pieces; ++i) {
      piece += params.piece_stride;
      const float4 next = *reinterpret_cast<const float4*>(piece);
      sum.x += next.x;
      sum.y += next.y;
      sum.z += next.z;
      sum.w += next.w;
    }
    const bool scaled = params.a_scales != nullptr;
    const float a_scale = scaled ? params.a_scales[row * params.a_step] : 1.0f;
    cutlass::Array<float, kSplitSumColumns> out{sum.x, sum.y, sum.z, sum.w};
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < kSplitSumColumns; ++i) {
      const int64_t column = first + i;
      if (column >= params.n) break;
      const float bias =
          params.bias == nullptr ? 0.0f : from_bits16(params.bias[column], params.half);
      const float b_scale = scaled ? params.b_scales[column * params.b_step] : 1.0f;
      out[i] = fmaf(a_scale, b_scale * out[i], bias);
    }
    using Store = cutlass::AlignedArray<Carrier, kSplitSumColumns>;
    Store store;
    static_cast<cutlass::Array<Carrier, kSplitSumColumns>&>(store) = to_bits16(out, params.half);
    *reinterpret_cast<Store*>(params.c + row * params.ldc + first) = store;
  }
}

// Launches the second kernel.
template <class Gate>
Status split_sum(const ScaledMmArgs& args, const SplitPlan& plan, const ScaledMmDevice& device) {
  SplitSumParams params{static_cast<const float*>(args.workspace),
                        plan.pieces,
                        plan.columns,
                        args.m * plan.columns,
                        args.block_scales ? nullptr : args.a_scales,
                        args.block_scales ? nullptr : args.b_scales,
                        static_cast<const uint16_t*>(args.bias),
                        static_cast<uint16_t*>(args.c),
                        args.ldc,
                        args.n,
                        args.a_scale_row != 0,
                        args.b_scale_column != 0,
                        args.c_type == DType::kFloat16};
  constexpr int kColumns = kSplitSumThreads * kSplitSumColumns;
  const dim3 grid(args.m, (args.n + kColumns - 1) / kColumns);
  return second_kernel<&scaled_mm_split_sum<Gate>>("scaled_mm_split_sum", grid, kSplitSumThreads,
                                                   /*overlap=*/false, params, args, device);
}

}  // namespace kernelpkg
