// The second half of the K-split: see schedule.h for why it is a kernel of its own.
#include <cstdint>

#include "common/async_copy.cuh"
#include "common/guard.cuh"
#include "common/numeric.cuh"
#include "marlin/helpers.h"

namespace kernelpkg::marlin {
namespace {

constexpr int kReduceThreads = 128;

// Block (x, y): the y-th 128 groups of four neighbouring columns of tile x.
template <class Gate, DType kOut>
__global__ void __launch_bounds__(kReduceThreads)
    marlin_reduce_kernel(const __grid_constant__ Params params, int tile_rows, int tile_cols) {
  if constexpr (!Gate::kDeviceCode) {
    guard_trap();
    return;
  } else {
    wait_for_prior_kernels();
    const Schedule& schedule = params.schedule;
    const int tile = blockIdx.x;
    const int first = schedule.owner(tile * schedule.k_units);
    const int last = schedule.owner((tile + 1) * schedule.k_units - 1);
    if (first == last) return;  // the GEMM wrote this tile itself

    int m_tile, n_tile;
    schedule.place(tile, m_tile, n_tile);
    const int index = (blockIdx.y * kReduceThreads + threadIdx.x) * 4;
    const int row = m_tile * tile_rows + index / tile_cols;
    const int col = n_tile * tile_cols + index % tile_cols;
    if (index >= tile_rows * tile_cols || row >= params.m || col >= params.n) return;

    const float* source =
        params.partials + Schedule::slot(first, tile) * params.slot_floats + index;
    float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
    for (int block = first; block <= last; ++block, source += params.slot_floats) {
      const float4 part = __ldcg(reinterpret_cast<const float4*>(source));
      sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
    }

    if (!params.grouped) {
      const uint2 words = __ldg(reinterpret_cast<const uint2*>(params.scales + col * 2));
      const float2 low = unpack2<kOut>(words.x), high = unpack2<kOut>(words.y);
      sum.x *= low.x, sum.y *= low.y, sum.z *= high.x, sum.w *= high.y;
    }
    if (params.a_scales != nullptr) {
      const float scale = __ldg(params.a_scales + row);
      sum.x *= scale, sum.y *= scale, sum.z *= scale, sum.w *= scale;
    }
    if (params.bias != nullptr) {
      const uint2 words = __ldg(reinterpret_cast<const uint2*>(params.bias + col * 2));
      const float2 low = unpack2<kOut>(words.x), high = unpack2<kOut>(words.y);
      sum.x += low.x, sum.y += low.y, sum.z += high.x, sum.w += high.y;
    }
    *reinterpret_cast<uint2*>(params.c + (static_cast<int64_t>(row) * params.n + col) * 2) =
        uint2{pack2<kOut>(sum.x, sum.y), pack2<kOut>(sum.z, sum.w)};
  }
}

}  // namespace

cudaError_t launch_reduce(const Params& params, int tile_rows, int tile_cols, DType c_type,
                          bool overlap, cudaStream_t stream) {
  const int rows = params.m < tile_rows ? params.m : tile_rows;
  cudaLaunchConfig_t config = {};
  config.gridDim =
      dim3(static_cast<unsigned>(params.schedule.tiles()),
           static_cast<unsigned>((rows * tile_cols / 4 + kReduceThreads - 1) / kReduceThreads));
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
                                  params, tile_rows, tile_cols)
             : cudaLaunchKernelEx(&config,
                                  marlin_reduce_kernel<gates::marlin_16bit, DType::kBFloat16>,
                                  params, tile_rows, tile_cols);
}

}  // namespace kernelpkg::marlin
