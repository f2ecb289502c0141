// The GEMM kernel. Per block: a ring of kStages stages in shared memory, filled by cp.async several stages ahead; per
// warp: 32 columns over all rows of the tile; per unit of 128 along K: MMAs into `acc`, then total += acc * scale.
//
// Scaling the float32 sums rather than the weights keeps every product exact (a 16-bit weight times scale would round),
// makes the cost independent of the rows of K, and bounds how long an FP8 MMA accumulates in its narrower adder.
#pragma once

#include <cstdint>

#include "common/async_copy.cuh"
#include "common/guard.cuh"
#include "common/mma.cuh"
#include "common/numeric.cuh"
#include "marlin/dequant.cuh"
#include "marlin/loader.cuh"
#include "marlin/params.h"
#include "marlin/tile.cuh"

namespace kernelpkg::marlin {

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

__device__ __forceinline__ uint4 load_shared_16(uint32_t address) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

// All MMAs of one stage for this warp.
template <class T>
__device__ __forceinline__ void multiply_stage(Accumulators<T>& acc, uint32_t stage) {
  constexpr int kSteps = kStepsPerWord<T::kAct, T::kFormat>;
  const int lane = threadIdx.x % 32;
  const uint32_t a_row = stage + (lane & 15) * T::kARowBytes;
  const uint32_t a_swizzle = static_cast<uint32_t>((lane >> 4) ^ (lane & 7));
  const uint32_t b = stage + T::kABytes + threadIdx.x * 16;
#pragma unroll
  for (int unit = 0; unit < T::kUnitRowsPerStage; ++unit) {
    const uint4 packed = load_shared_16(b + unit * T::kBRowBytes);
    const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const uint32_t chunk = a_swizzle ^ static_cast<uint32_t>(2 * (unit * kSteps + step));  // 32 bytes of A per MMA
      uint32_t a[T::kRowBlocks][4];
#pragma unroll
      for (int mb = 0; mb < T::kRowBlocks; ++mb) {
        load_matrix_x4(a[mb], a_row + mb * 16 * T::kARowBytes + chunk * 16);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t fragment[2];
        dequantise<T::kAct, T::kFormat>(fragment, words[j], step);
#pragma unroll
        for (int mb = 0; mb < T::kRowBlocks; ++mb) mma<T::kAct>(acc.at[mb][j], a[mb], fragment);
      }
    }
  }
}

// total += acc * scale of this thread's eight columns; acc is cleared.
template <class T>
__device__ __forceinline__ void add_scaled(Accumulators<T>& total, Accumulators<T>& acc, uint4 packed_scales) {
  const uint32_t words[4] = {packed_scales.x, packed_scales.y, packed_scales.z, packed_scales.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float2 scale = unpack2<T::kOut>(words[j]);
#pragma unroll
    for (int mb = 0; mb < T::kRowBlocks; ++mb) {
#pragma unroll
      for (int e = 0; e < 4; ++e) total.at[mb][j][e] += acc.at[mb][j][e] * (e & 1 ? scale.y : scale.x);
    }
  }
  acc.clear();
}

template <class T>
__device__ __forceinline__ void add_unscaled(Accumulators<T>& total, Accumulators<T>& acc) {
#pragma unroll
  for (int mb = 0; mb < T::kRowBlocks; ++mb)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) total.at[mb][j][e] += acc.at[mb][j][e];
  acc.clear();
}

// Channel scale, token scale and bias, rounding, 16-byte stores of eight neighbouring columns.
template <class T>
__device__ __forceinline__ void store_output(const Params& params, const Accumulators<T>& total, int row, int col) {
  uint4 scales = {0, 0, 0, 0}, bias = {0, 0, 0, 0};
  if (!params.grouped) scales = __ldg(reinterpret_cast<const uint4*>(params.scales + col * 2));
  if (params.bias != nullptr) bias = __ldg(reinterpret_cast<const uint4*>(params.bias + col * 2));
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

// Partial sums of a segment, `row` counted from the tile's first row, `rows` of them existing.
template <class T>
__device__ __forceinline__ void store_partial(float* slot, const Accumulators<T>& total, int row, int rows, int col) {
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
        target[j / 2] = float4{total.at[mb][j][2 * half] * kScale, total.at[mb][j][2 * half + 1] * kScale,
                               total.at[mb][j + 1][2 * half] * kScale, total.at[mb][j + 1][2 * half + 1] * kScale};
      }
    }
  }
}

template <class Gate, class T>
__global__ void __launch_bounds__(T::kThreads, T::kMinBlocksPerSm) marlin_kernel(const __grid_constant__ Params params) {
  if constexpr (!Gate::kDeviceCode) {
    guard_trap();
    return;
  } else {
    extern __shared__ __align__(128) char ring[];
    const uint32_t shared = shared_address(ring);
    const Schedule& schedule = params.schedule;
    const int64_t first_unit = schedule.begin(blockIdx.x);
    const int64_t end_unit = schedule.begin(blockIdx.x + 1);
    if (schedule.splits_k()) allow_dependent_launch();

    int to_load = static_cast<int>(end_unit - first_unit) * T::kStagesPerUnit;
    StageLoader<T> loader(params, shared, first_unit);
#pragma unroll
    for (int stage = 0; stage < T::kStages - 1; ++stage) {
      if (to_load > 0) loader.load(stage);
      --to_load;
      copy_async_commit();
    }

    const int lane = threadIdx.x % 32;
    const int warp_col = threadIdx.x & ~31;         // a warp's 32 columns begin at 32 x its number
    const int own_col = warp_col + (lane & 3) * 8;  // this thread's eight columns in the tile
    int64_t tile = first_unit / schedule.k_units;
    int k_unit = static_cast<int>(first_unit - tile * schedule.k_units);
    int read_stage = 0, write_stage = T::kStages - 1;

    // `segment_end` is where the current tile or the stretch ends, whichever is first.
    for (int64_t unit = first_unit; unit < end_unit; ++tile, k_unit = 0) {
      int m_tile, n_tile;
      schedule.place(tile, m_tile, n_tile);
      const int col = n_tile * T::kCols;
      const bool active = col + warp_col < params.n;  // the last column tile may be narrower than the block
      const int left_in_tile = schedule.k_units - k_unit;
      const int64_t left = end_unit - unit;
      const int units = left < left_in_tile ? static_cast<int>(left) : left_in_tile;

      Accumulators<T> total, acc;
      total.clear();
      acc.clear();
      for (int u = 0; u < units; ++u) {
#pragma unroll
        for (int part = 0; part < T::kStagesPerUnit; ++part) {
          copy_async_wait<T::kStages - 2>();
          __syncthreads();  // the stage has arrived for everyone, and everyone has left the one overwritten next
          if (to_load > 0) loader.load(write_stage);
          --to_load;
          copy_async_commit();
          write_stage = write_stage + 1 == T::kStages ? 0 : write_stage + 1;

          const uint32_t stage = shared + read_stage * T::kStageBytes;
          read_stage = read_stage + 1 == T::kStages ? 0 : read_stage + 1;
          if (active) {
            multiply_stage<T>(acc, stage);
            if (part == T::kStagesPerUnit - 1) {
              if (params.grouped) {
                add_scaled<T>(total, acc, load_shared_16(stage + T::kABytes + T::kBBytes + own_col * 2));
              } else if (T::kAct == DType::kFloat8E4M3 || u == units - 1) {
                add_unscaled<T>(total, acc);
              }
            }
          }
        }
      }
      unit += units;
      if (active) {
        const int tile_row = lane / 4;
        if (units == schedule.k_units) {
          store_output<T>(params, total, m_tile * T::kRows + tile_row, col + own_col);
        } else {
          float* slot = params.partials + Schedule::slot(blockIdx.x, tile) * params.slot_floats;
          store_partial<T>(slot, total, tile_row, params.m - m_tile * T::kRows, own_col);
        }
      }
    }
    copy_async_wait<0>();
  }
}

}  // namespace kernelpkg::marlin
