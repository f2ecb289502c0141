// marlin_repack on the GPU: one thread per packed word. Runs once per weight; reads are 32 columns
// wide.
#include <cstdint>

#include "common/guard.cuh"
#include "marlin/helpers.h"
#include "marlin/repack.h"

namespace kernelpkg::marlin {
namespace {

template <class Gate, WeightFormat kFormat, bool kFp8>
__global__ void __launch_bounds__(256)
    marlin_repack_kernel(const void* __restrict__ weight, uint32_t* __restrict__ packed, int n,
                         int64_t words) {
  if constexpr (!Gate::kDeviceCode) {
    guard_trap();
    return;
  } else {
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < words;
         i += stride) {
      packed[i] = gather_word(weight, kFormat, kFp8, n, i);
    }
  }
}

template <WeightFormat kFormat, bool kFp8>
cudaError_t launch(const MarlinRepackArgs& args) {
  const int64_t words = packed_words(kFormat, args.k, args.n);
  const int64_t wanted = (words + 255) / 256;
  const int blocks = static_cast<int>(wanted < 65536 ? wanted : 65536);
  marlin_repack_kernel<gates::marlin_16bit, kFormat, kFp8>
      <<<blocks, 256, 0, args.stream>>>(args.weight, args.packed, args.n, words);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_repack(const MarlinRepackArgs& args) {
  if (args.format == WeightFormat::kE4M3) return launch<WeightFormat::kE4M3, false>(args);
  return args.fp8_activations ? launch<WeightFormat::kU4B8, true>(args)
                              : launch<WeightFormat::kU4B8, false>(args);
}

}  // namespace kernelpkg::marlin
