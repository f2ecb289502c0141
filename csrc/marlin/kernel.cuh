// The GEMM kernel. Per block: a ring of kStages stages in shared memory, filled by cp.async several
// stages ahead; per warp: 32 columns over all rows of the tile; per unit of 128 along K: MMAs into
// `acc`, then total += acc * scale.
//
// Scaling the float32 sums rather than the weights keeps every product exact (a weight times its
// scale would round to 16 bits), spares a multiply per weight, and bounds how long an FP8 MMA
// accumulates in its narrower adder.
#pragma once

#include <cstdint>

#include "common/async_copy.cuh"
#include "common/guard.cuh"
#include "common/mma.cuh"
#include "common/numeric.cuh"
#include "marlin/dequant.cuh"
#include "marlin/epilogue.cuh"
#include "marlin/loader.cuh"
#include "marlin/params.h"
#include "marlin/tile.cuh"

namespace kernelpkg::marlin {

__device__ __forceinline__ uint4 load_shared_16(uint32_t address) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

// All MMAs of one stage for this warp; kStartsSum: acc is overwritten, not added to.
template <class T, bool kStartsSum>
__device__ __forceinline__ void multiply_stage(Accumulators<T>& acc, uint32_t stage) {
  constexpr int kSteps = kStepsPerWord<T::kAct, T::kFormat>;
  // Unrolled so that the next row's loads overlap this one's MMAs, except where the emulated FP8
  // MMA of evidence builds over 64 rows leaves no registers for that.
  constexpr bool kUnrolled = !(T::kAct == DType::kFloat8E4M3 && T::kRowBlocks == 4);
  constexpr int kUnroll = kUnrolled ? T::kUnitRowsPerStage : 1;
  const int lane = threadIdx.x % 32;
  const uint32_t a_row = stage + (lane & 15) * T::kARowBytes;
  const uint32_t a_swizzle = static_cast<uint32_t>((lane >> 4) ^ (lane & 7));
  const uint32_t b = stage + T::kABytes + threadIdx.x * 16;
  if constexpr (kStartsSum && !kUnrolled) acc.clear();
#pragma unroll kUnroll
  for (int row = 0; row < T::kUnitRowsPerStage; ++row) {
    const uint4 packed = load_shared_16(b + row * T::kBRowBytes);
    const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const uint32_t chunk =
          a_swizzle ^ static_cast<uint32_t>(2 * (row * kSteps + step));  // 32 bytes of A per MMA
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
        for (int mb = 0; mb < T::kRowBlocks; ++mb) {
          if (kStartsSum && kUnrolled && row == 0 && step == 0) {
            mma_from_zero<T::kAct>(acc.at[mb][j], a[mb], fragment);
          } else {
            mma<T::kAct>(acc.at[mb][j], a[mb], fragment);
          }
        }
      }
    }
  }
}

template <class Gate, class T>
__global__ void __launch_bounds__(T::kThreads, T::kMinBlocksPerSm)
    marlin_kernel(const __grid_constant__ Params params) {
  if constexpr (!Gate::kDeviceCode) {
    guard_trap();
    return;
  } else {
    extern __shared__ __align__(128) char ring[];
    const uint32_t shared = shared_address(ring);
    const Schedule& schedule = params.schedule;
    int unit = schedule.begin(blockIdx.x);
    const int end_unit = schedule.begin(blockIdx.x + 1);
    if (schedule.splits_k()) allow_dependent_launch();

    StageLoader<T> loader(params, shared, unit);
    int to_load = (end_unit - unit) * T::kStagesPerUnit;
    // Kept rolled: short launches feel every instruction that is fetched for the first time.
#pragma unroll 1
    for (int stage = 0; stage < T::kStages - 1; ++stage, --to_load) {
      if (to_load > 0)
        loader.load(stage * T::kStageBytes, stage % T::kStagesPerUnit == T::kStagesPerUnit - 1);
      copy_async_commit();  // even if empty: the wait below counts groups
    }

    const int lane = threadIdx.x % 32;
    const int warp_col = threadIdx.x & ~31;         // a warp's 32 columns begin at 32 x its number
    const int own_col = warp_col + (lane & 3) * 8;  // this thread's eight columns in the tile
    int tile = unit / schedule.k_units;
    int tile_unit = unit - tile * schedule.k_units;  // unit within the tile ...
    int first_tile_unit = tile_unit;                 // ... and the one where this segment began
    int m_tile, n_tile;
    schedule.place(tile, m_tile, n_tile);
    uint32_t read = 0, write = (T::kStages - 1) * T::kStageBytes;
    Accumulators<T> total, acc;
    total.clear();

    while (true) {
      const int col = n_tile * T::kCols;
      const bool active =
          col + warp_col < params.n;  // the last column tile may be narrower than the block
      uint32_t scales = 0;
#pragma unroll
      for (int part = 0; part < T::kStagesPerUnit; ++part) {
        copy_async_wait<T::kStages - 2>();
        __syncthreads();  // the stage has arrived for everyone, and everyone has left the one
                          // overwritten next
        if (to_load > 0) {
          loader.load(write, (part + T::kStages - 1) % T::kStagesPerUnit == T::kStagesPerUnit - 1);
        }
        --to_load;
        copy_async_commit();
        write = write + T::kStageBytes == T::kSharedBytes ? 0 : write + T::kStageBytes;
        if (active) {
          if (part == 0) {
            multiply_stage<T, true>(acc, shared + read);
          } else {
            multiply_stage<T, false>(acc, shared + read);
          }
        }
        scales = shared + read + T::kABytes + T::kBBytes + own_col * 2;
        read = read + T::kStageBytes == T::kSharedBytes ? 0 : read + T::kStageBytes;
      }
      if (active) {
        if (params.grouped) {
          add_scaled<T>(total, acc, load_shared_16(scales));
        } else {
          add_unscaled<T>(total, acc);
        }
      }
      ++unit;
      ++tile_unit;
      if (tile_unit != schedule.k_units && unit != end_unit) continue;

      if (active) {  // a segment is complete
        const int row = m_tile * T::kRows;
        if (tile_unit - first_tile_unit == schedule.k_units) {
          store_output<T>(params, total, row + lane / 4, col + own_col);
        } else {
          float* slot = params.partials + Schedule::slot(blockIdx.x, tile) * params.slot_floats;
          store_partial<T>(slot, total, lane / 4, params.m - row, own_col);
        }
      }
      if (unit == end_unit) break;
      total.clear();
      first_tile_unit = tile_unit = 0;
      schedule.place(++tile, m_tile, n_tile);
    }
    copy_async_wait<0>();
  }
}

}  // namespace kernelpkg::marlin
