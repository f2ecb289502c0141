// marlin_repack on the GPU: one thread per packed word. Runs once per weight; a word's columns lie
// within 32 neighbours, and the words of a warp read the same few rows.
#include <cstdint>

#include "common/guard.cuh"
#include "marlin/helpers.h"
#include "marlin/repack.h"

namespace kernelpkg::marlin {
namespace {

template <class Gate, bool kWide>
__global__ void __launch_bounds__(256)
    marlin_repack_kernel(const void* __restrict__ weight, uint32_t* __restrict__ packed,
                         uint32_t pad, int k, int n, int64_t words) {
  if constexpr (!Gate::kDeviceCode) {
    guard_trap();
    return;
  } else {
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < words;
         i += stride) {
      packed[i] = gather_word<kWide>(weight, pad, k, n, i);
    }
  }
}

template <bool kWide>
cudaError_t launch(const MarlinRepackArgs& args) {
  const int64_t words = packed_words(args.format, args.k, args.n);
  const int64_t wanted = (words + 255) / 256;
  const int blocks = static_cast<int>(wanted < 65536 ? wanted : 65536);
  marlin_repack_kernel<gates::marlin_16bit, kWide><<<blocks, 256, 0, args.stream>>>(
      args.weight, args.packed, pad_code(args.format), args.k, args.n, words);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_repack(const MarlinRepackArgs& args) {
  return is_8bit(args.format) ? launch<true>(args) : launch<false>(args);
}

}  // namespace kernelpkg::marlin
