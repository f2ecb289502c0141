// marlin_pad_rows: activations that 16-byte copies cannot read (a K that is no multiple of 16
// bytes, rows or a base off a 16-byte boundary) become rows that they can. One thread per 16 bytes
// of the result.
#include <cstdint>

#include "common/guard.cuh"
#include "marlin/helpers.h"

namespace kernelpkg::marlin {
namespace {

template <class Gate, class Element>
__global__ void __launch_bounds__(256)
    marlin_pad_rows_kernel(const Element* __restrict__ a, int64_t lda, uint4* __restrict__ padded,
                           int64_t chunks_per_row, int64_t chunks, int k) {
  if constexpr (!Gate::kDeviceCode) {
    guard_trap();
    return;
  } else {
    constexpr int kElements = 16 / sizeof(Element);
    constexpr int kPerWord = 4 / sizeof(Element);
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < chunks;
         i += stride) {
      const int64_t row = i / chunks_per_row;
      const int64_t first = i % chunks_per_row * kElements;
      uint32_t words[4] = {};
#pragma unroll
      for (int j = 0; j < kElements; ++j) {
        if (first + j >= k) break;
        const uint32_t value = a[row * lda + first + j];
        words[j / kPerWord] |= value << (8 * sizeof(Element) * (j % kPerWord));
      }
      padded[i] = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
}

template <class Element>
cudaError_t launch(const MarlinPadArgs& args) {
  const int64_t chunks_per_row = args.padded_lda * static_cast<int64_t>(sizeof(Element)) / 16;
  const int64_t chunks = chunks_per_row * args.m;
  const int64_t wanted = (chunks + 255) / 256;
  const int blocks = static_cast<int>(wanted < 65536 ? wanted : 65536);
  marlin_pad_rows_kernel<gates::marlin_16bit, Element><<<blocks, 256, 0, args.stream>>>(
      static_cast<const Element*>(args.a), args.lda, static_cast<uint4*>(args.padded),
      chunks_per_row, chunks, args.k);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_pad_rows(const MarlinPadArgs& args) {
  return size_of(args.a_type) == 1 ? launch<uint8_t>(args) : launch<uint16_t>(args);
}

}  // namespace kernelpkg::marlin
