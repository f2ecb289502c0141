// What happens to a warp's sums: group scales, and the two ways out.
#pragma once

#include <cstdint>

#include "common/dtypes.h"
#include "common/numeric.cuh"
#include "marlin/dequant.cuh"
#include "marlin/params.h"
#include "marlin/tile.cuh"

namespace kernelpkg::marlin {

// The warp's 32 columns over the rows of the tile, one thread's share.
template <class T>
struct Accumulators {
  float at[T::kRowBlocks][4][4];  // [16-row block][MMA column tile][fragment element]

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int mb = 0; mb < T::kRowBlocks; ++mb)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) at[mb][j][e] = 0.0f;
  }
};

// total += acc * scale of this thread's eight columns.
template <class T>
__device__ __forceinline__ void add_scaled(Accumulators<T>& total, const Accumulators<T>& acc,
                                           uint4 scales) {
  const uint32_t words[4] = {scales.x, scales.y, scales.z, scales.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float2 scale = unpack2<T::kOut>(words[j]);
#pragma unroll
    for (int mb = 0; mb < T::kRowBlocks; ++mb) {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        total.at[mb][j][e] += acc.at[mb][j][e] * (e & 1 ? scale.y : scale.x);
    }
  }
}

template <class T>
__device__ __forceinline__ void add_unscaled(Accumulators<T>& total, const Accumulators<T>& acc) {
#pragma unroll
  for (int mb = 0; mb < T::kRowBlocks; ++mb)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) total.at[mb][j][e] += acc.at[mb][j][e];
}

// Channel scale, token scale and bias, rounding, 16-byte stores. `row` and `col` are this thread's
// first.
template <class T>
__device__ __forceinline__ void store_output(const Params& params, const Accumulators<T>& total,
                                             int row, int col) {
  uint4 scales = {0, 0, 0, 0}, bias = {0, 0, 0, 0};
  if (!params.grouped)
    scales = __ldg(reinterpret_cast<const uint4*>(params.scales + static_cast<int64_t>(col) * 2));
  if (params.bias != nullptr)
    bias = __ldg(reinterpret_cast<const uint4*>(params.bias + static_cast<int64_t>(col) * 2));
  const uint32_t scale_words[4] = {scales.x, scales.y, scales.z, scales.w};
  const uint32_t bias_words[4] = {bias.x, bias.y, bias.z, bias.w};
#pragma unroll
  for (int mb = 0; mb < T::kRowBlocks; ++mb) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + mb * 16 + half * 8;
      if (r >= params.m) continue;
      float row_scale = kFragmentScale<T::kAct, T::kFormat>;
      if constexpr (T::kAct == DType::kFloat8E4M3) row_scale *= __ldg(params.a_scales + r);
      uint32_t words[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 scale = params.grouped ? float2{1.0f, 1.0f} : unpack2<T::kOut>(scale_words[j]);
        const float2 add = unpack2<T::kOut>(bias_words[j]);
        words[j] = pack2<T::kOut>(total.at[mb][j][2 * half] * scale.x * row_scale + add.x,
                                  total.at[mb][j][2 * half + 1] * scale.y * row_scale + add.y);
      }
      *reinterpret_cast<uint4*>(params.c + (static_cast<int64_t>(r) * params.n + col) * 2) =
          uint4{words[0], words[1], words[2], words[3]};
    }
  }
}

// Partial sums of a segment, for the reduction. `row` counts from the tile's first row, of which
// `rows` exist, and `col` from its first column.
template <class T>
__device__ __forceinline__ void store_partial(float* slot, const Accumulators<T>& total, int row,
                                              int rows, int col) {
  constexpr float kScale = kFragmentScale<T::kAct, T::kFormat>;
#pragma unroll
  for (int mb = 0; mb < T::kRowBlocks; ++mb) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + mb * 16 + half * 8;
      if (r >= rows) continue;
      float4* target = reinterpret_cast<float4*>(slot + r * T::kCols + col);
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        target[j / 2] = float4{
            total.at[mb][j][2 * half] * kScale, total.at[mb][j][2 * half + 1] * kScale,
            total.at[mb][j + 1][2 * half] * kScale, total.at[mb][j + 1][2 * half + 1] * kScale};
      }
    }
  }
}

}  // namespace kernelpkg::marlin
