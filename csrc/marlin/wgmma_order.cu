// Activations in the order of K in which lanes own the packed weights.
//
// layout.h gives lane t of a quad rows 8t .. 8t+7 of every 32, while the wgmma fragments of a k16
// step want rows 2t, 2t+1, 2t+8 and 2t+9 of 16. Any order of K will do if both operands follow it:
// step s takes rows 8t+4s .. 8t+4s+3 of each lane. Moved accordingly, every 16 pairs of a row of
// activations are a 4 x 4 matrix transposed. One thread does 32 elements; columns beyond k become
// zeros.
#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/async_copy.cuh"
#include "common/guard.cuh"
#include "common/launch.h"
#include "marlin/layout.h"
#include "marlin/wgmma.h"

namespace kernelpkg::marlin {
namespace {

constexpr int kOrderThreads = 128;

template <class Gate>
__global__ void __launch_bounds__(kOrderThreads)
    marlin_wgmma_order_kernel(const uint4* __restrict__ a, int64_t row_chunks, int valid_chunks,
                              uint4* __restrict__ ordered, int blocks_per_row, int64_t blocks) {
  if constexpr (!Gate::kDeviceCode) {
    guard_trap();
    return;
  } else {
    wait_for_prior_kernels();
    allow_dependent_launch();
    const int64_t index = static_cast<int64_t>(blockIdx.x) * kOrderThreads + threadIdx.x;
    if (index >= blocks) return;
    const int64_t row = index / blocks_per_row;
    const int first = static_cast<int>(index - row * blocks_per_row) * 4;
    uint4 in[4];
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      in[t] = uint4{0, 0, 0, 0};
      if (first + t < valid_chunks) in[t] = __ldg(a + row * row_chunks + first + t);
    }
    uint4* out = ordered + index * 4;
    out[0] = uint4{in[0].x, in[1].x, in[2].x, in[3].x};
    out[1] = uint4{in[0].y, in[1].y, in[2].y, in[3].y};
    out[2] = uint4{in[0].z, in[1].z, in[2].z, in[3].z};
    out[3] = uint4{in[0].w, in[1].w, in[2].w, in[3].w};
  }
}

cudaError_t launch_order(const MarlinArgs& args, void* ordered) {
  const int blocks_per_row = static_cast<int>(padded_k(args.k) / kUnitRows);
  const int64_t blocks = static_cast<int64_t>(args.m) * blocks_per_row;
  const Launch launch(dim3(static_cast<unsigned>((blocks + kOrderThreads - 1) / kOrderThreads)),
                      kOrderThreads, 0, true, args.stream);
  return launch.run(reinterpret_cast<const void*>(&marlin_wgmma_order_kernel<gates::marlin_wgmma>),
                    static_cast<const uint4*>(args.a), args.lda / 8, (args.k + 7) / 8,
                    static_cast<uint4*>(ordered), blocks_per_row, blocks);
}

[[maybe_unused]] const bool kRegistered = set_wgmma_order(&launch_order);

}  // namespace
}  // namespace kernelpkg::marlin
