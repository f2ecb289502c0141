// Adds the parts of split tiles: see schedule.h for why it is a kernel of its own.
#include <cstdint>

#include "common/async_copy.cuh"
#include "common/guard.cuh"
#include "common/launch.h"
#include "marlin/epilogue.cuh"
#include "marlin/helpers.h"

namespace kernelpkg::marlin {
namespace {

constexpr int kReduceThreads = 128;

// Block (x, y): the y-th 128 groups of eight neighbouring columns of tile x.
template <class Gate, DType kOut>
__global__ void __launch_bounds__(kReduceThreads)
    marlin_reduce_kernel(const __grid_constant__ Params params, int tile_rows, int tile_cols) {
  if constexpr (!Gate::kDeviceCode) {
    guard_trap();
    return;
  } else {
    wait_for_prior_kernels();
    allow_dependent_launch();
    const Schedule& schedule = params.schedule;
    const int tile = blockIdx.x;
    int m_tile, n_tile;
    schedule.place(tile, m_tile, n_tile);
    const int item = blockIdx.y * kReduceThreads + threadIdx.x;
    const int per_row = tile_cols / 8;
    const int tile_row = item / per_row, tile_col = (item - tile_row * per_row) * 8;
    const int row = m_tile * tile_rows + tile_row, col = n_tile * tile_cols + tile_col;
    if (tile_row >= tile_rows || row >= params.m || col >= params.n) return;

    const int64_t slot = static_cast<int64_t>(tile_rows) * tile_cols;
    const float* source =
        params.partials + tile * schedule.parts * slot + tile_row * tile_cols + tile_col;
    Sum8 sum = {};
#pragma unroll 4
    for (int part = 0; part < schedule.parts; ++part, source += slot) {
      sum.add({__ldcg(reinterpret_cast<const float4*>(source)),
               __ldcg(reinterpret_cast<const float4*>(source + 4))});
    }
    store_output<kOut>(params, row, col, sum);
  }
}

}  // namespace

cudaError_t launch_reduce(const Params& params, int tile_rows, int tile_cols, DType c_type,
                          bool overlap, cudaStream_t stream) {
  const int rows = params.m < tile_rows ? params.m : tile_rows;
  const int items = rows * tile_cols / 8;
  const Launch launch(dim3(static_cast<unsigned>(params.schedule.tiles()),
                           static_cast<unsigned>((items + kReduceThreads - 1) / kReduceThreads)),
                      kReduceThreads, 0, overlap, stream);
  const auto kernel = c_type == DType::kFloat16
                          ? &marlin_reduce_kernel<gates::marlin_16bit, DType::kFloat16>
                          : &marlin_reduce_kernel<gates::marlin_16bit, DType::kBFloat16>;
  return launch.run(reinterpret_cast<const void*>(kernel), params, tile_rows, tile_cols);
}

}  // namespace kernelpkg::marlin
