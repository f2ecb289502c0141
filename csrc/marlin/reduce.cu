// Adds the parts of split tiles: see schedule.h for why it is a kernel of its own.
#include <cstdint>

#include "common/async_copy.cuh"
#include "common/guard.cuh"
#include "marlin/epilogue.cuh"
#include "marlin/helpers.h"

namespace kernelpkg::marlin {
namespace {

constexpr int kReduceThreads = 128;
constexpr int kItemsPerRow = kTileCols / 8;

// Block (x, y): the y-th 128 groups of eight neighbouring columns of tile x.
template <class Gate, DType kOut>
__global__ void __launch_bounds__(kReduceThreads)
    marlin_reduce_kernel(const __grid_constant__ Params params, int tile_rows) {
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
    const int tile_row = item / kItemsPerRow, tile_col = item % kItemsPerRow * 8;
    const int row = m_tile * tile_rows + tile_row, col = n_tile * kTileCols + tile_col;
    if (tile_row >= tile_rows || row >= params.m || col >= params.n) return;

    const int64_t slot = static_cast<int64_t>(tile_rows) * kTileCols;
    const float* source =
        params.partials + tile * schedule.parts * slot + tile_row * kTileCols + tile_col;
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

cudaError_t launch_reduce(const Params& params, int tile_rows, DType c_type, bool overlap,
                          cudaStream_t stream) {
  const int rows = params.m < tile_rows ? params.m : tile_rows;
  cudaLaunchConfig_t config = {};
  config.gridDim =
      dim3(static_cast<unsigned>(params.schedule.tiles()),
           static_cast<unsigned>((rows * kItemsPerRow + kReduceThreads - 1) / kReduceThreads));
  config.blockDim = dim3(kReduceThreads);
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  return c_type == DType::kFloat16
             ? cudaLaunchKernelEx(&config,
                                  marlin_reduce_kernel<gates::marlin_16bit, DType::kFloat16>,
                                  params, tile_rows)
             : cudaLaunchKernelEx(&config,
                                  marlin_reduce_kernel<gates::marlin_16bit, DType::kBFloat16>,
                                  params, tile_rows);
}

}  // namespace kernelpkg::marlin
