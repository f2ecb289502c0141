// What happens to a warp's sums: group scales, the way through shared memory, and the way out.
#pragma once

#include <cstdint>

#include "common/dtypes.h"
#include "common/numeric.cuh"
#include "marlin/params.h"
#include "marlin/tile.cuh"

namespace kernelpkg::marlin {

// The warp's 32 columns over the rows of the tile, one thread's share. Weights are the MMA's first
// operand, so its 16 rows are columns of the output: those of column tiles 2 half and 2 half + 1.
template <class T>
struct Accumulators {
  float at[2][T::kRowBlocks][4];  // [half][8 rows of the output][fragment element]

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int mb = 0; mb < T::kRowBlocks; ++mb)
#pragma unroll
        for (int e = 0; e < 4; ++e) at[half][mb][e] = 0.0f;
  }

  __device__ __forceinline__ void add(const Accumulators& acc) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int mb = 0; mb < T::kRowBlocks; ++mb)
#pragma unroll
        for (int e = 0; e < 4; ++e) at[half][mb][e] += acc.at[half][mb][e];
  }

  // += acc * scale of this thread's four columns. scales: eight neighbours, of which those with the
  // parity of the thread's g are its own.
  __device__ __forceinline__ void add_scaled(const Accumulators& acc, uint4 scales) {
    const uint32_t words[4] = {scales.x, scales.y, scales.z, scales.w};
    const bool odd = threadIdx.x / 4 % 2;
#pragma unroll
    for (int tile = 0; tile < 4; ++tile) {
      const float scale = unpack_one<T::kOut>(words[tile], odd);
#pragma unroll
      for (int mb = 0; mb < T::kRowBlocks; ++mb)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int at_e = tile % 2 * 2 + e;
          at[tile / 2][mb][at_e] += acc.at[tile / 2][mb][at_e] * scale;
        }
    }
  }

  // To the set's sums in shared memory. own_row, own_col: of the first element.
  __device__ __forceinline__ void store_shared(float* sums, int own_row, int own_col) const {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int mb = 0; mb < T::kRowBlocks; ++mb)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int row = own_row + mb * 8 + e % 2, col = own_col + 2 * (2 * half + e / 2);
          sums[row * T::kSumPitch + col] = at[half][mb][e];
        }
  }
};

// Eight neighbouring finished sums of one row.
struct Sum8 {
  float4 low, high;

  __device__ __forceinline__ static Sum8 read(const float* source) {
    const float4* from = reinterpret_cast<const float4*>(source);
    return {from[0], from[1]};
  }
  __device__ __forceinline__ void write(float* target) const {
    float4* to = reinterpret_cast<float4*>(target);
    to[0] = low;
    to[1] = high;
  }
  __device__ __forceinline__ void add(const Sum8& o) {
    low = {low.x + o.low.x, low.y + o.low.y, low.z + o.low.z, low.w + o.low.w};
    high = {high.x + o.high.x, high.y + o.high.y, high.z + o.high.z, high.w + o.high.w};
  }
};

// Channel scale, token scale, output scale and bias, rounding, and 16-byte stores where N leaves
// them aligned. col is a multiple of 8; columns from n on do not exist.
template <DType kOut>
__device__ __forceinline__ void store_output(const Params& params, int row, int col,
                                             const Sum8& sum) {
  float factor = params.factor;
  if (params.a_scales != nullptr) factor *= __ldg(params.a_scales + row);
  float values[8] = {sum.low.x,  sum.low.y,  sum.low.z,  sum.low.w,
                     sum.high.x, sum.high.y, sum.high.z, sum.high.w};
  if (params.scale_mode == ScaleMode::kChannel) {  // padded to n_pad: always readable
    const uint4 scales =
        __ldg(reinterpret_cast<const uint4*>(params.scales + static_cast<int64_t>(col) * 2));
    const uint32_t words[4] = {scales.x, scales.y, scales.z, scales.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 scale = unpack2<kOut>(words[i]);
      values[2 * i] *= scale.x;
      values[2 * i + 1] *= scale.y;
    }
  }
  char* const out = params.c + (static_cast<int64_t>(row) * params.n + col) * 2;
  if (params.n % 8 == 0) {
    uint4 bias = {0, 0, 0, 0};
    if (params.bias != nullptr)
      bias = __ldg(reinterpret_cast<const uint4*>(params.bias + static_cast<int64_t>(col) * 2));
    const uint32_t bias_words[4] = {bias.x, bias.y, bias.z, bias.w};
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 add = unpack2<kOut>(bias_words[i]);
      words[i] = pack2<kOut>(values[2 * i] * factor + add.x, values[2 * i + 1] * factor + add.y);
    }
    *reinterpret_cast<uint4*>(out) = uint4{words[0], words[1], words[2], words[3]};
  } else {
    for (int i = 0; i < 8 && col + i < params.n; ++i) {
      float add = 0.0f;
      if (params.bias != nullptr) {
        add = unpack2<kOut>(__ldg(reinterpret_cast<const uint16_t*>(params.bias) + col + i)).x;
      }
      const uint32_t word = pack2<kOut>(values[i] * factor + add, 0.0f);
      reinterpret_cast<uint16_t*>(out)[i] = static_cast<uint16_t>(word);
    }
  }
}

}  // namespace kernelpkg::marlin
