// The GEMM kernel. Sets of four warps take turns along K; each fills a ring of stages of its own
// (loader.cuh). Per 32 rows of K a warp widens its weights into MMA fragments and multiplies.
//
// Group scales are applied to the float32 sums, not to the weights: every product stays exact (a
// weight times its scale would round to 16 bits). NVFP4 is the exception: its weight times its
// scale is exact in 16 bits. An FP8 MMA accumulates in its narrower adder over one stage at most.
#pragma once

#include <cstdint>

#include "common/guard.cuh"
#include "common/mma.cuh"
#include "common/numeric.cuh"
#include "common/pipeline.cuh"
#include "common/shared_memory.cuh"
#include "marlin/dequant.cuh"
#include "marlin/epilogue.cuh"
#include "marlin/loader.cuh"
#include "marlin/params.h"
#include "marlin/tile.cuh"

namespace kernelpkg::marlin {

// Where this thread finds its share of a stage, relative to the stage.
template <class T>
struct Offsets {
  uint32_t a, b, scales, zeros;

  __device__ __forceinline__ Offsets(int warp_col, int lane) {
    const int g = lane / 4, t = lane % 4;
    a = g * T::kARowPitch + t * 8 * T::kActBytes;  // rows 8t .. 8t+7 of each 32 along K
    const uint32_t unit = warp_col / kUnitCols;
    b = T::kABytes + unit / 2 * T::kStripBytes + unit % 2 * T::kUnitBytes + lane * 16;
    scales = T::kABytes + T::kBBytes;
    scales += T::kScaledWeights ? unit * 128 + t / 2 * 64 + g * 8 : warp_col * 2 + g / 2 * 16;
    zeros = T::kABytes + T::kBBytes + T::kScaleBytes + warp_col + g * 4;
    if constexpr (T::kKeepsAddresses) {
      keep(a), keep(b), keep(scales);
      if constexpr (T::kHasZeros) keep(zeros);
    }
  }
};

// This thread's weights of 32 rows of K, and what goes with them.
template <class T>
struct Weights {
  uint32_t first[4], second[4];  // a word per column tile; 8 bits: per half of the rows
  uint32_t zero_bytes;
  uint2 scales;  // NVFP4

  __device__ __forceinline__ void load(uint32_t b, uint32_t scale, uint32_t zeros) {
    const uint4 packed = load_shared_16(b);
    first[0] = packed.x, first[1] = packed.y, first[2] = packed.z, first[3] = packed.w;
    if constexpr (is_8bit(T::kFormat)) {
      const uint4 more = load_shared_16(b + kHalfWords * 4);
      second[0] = more.x, second[1] = more.y, second[2] = more.z, second[3] = more.w;
    }
    if constexpr (T::kHasZeros) zero_bytes = load_shared_4(zeros);
    if constexpr (T::kScaledWeights) scales = load_shared_8(scale);
  }

  // The MMA's first operand: column tiles 2 half and 2 half + 1 are its upper and lower eight rows.
  __device__ __forceinline__ void fragment(uint32_t (&w)[4], int half, int step) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int tile = 2 * half + i;
      uint32_t pair[2];
      if constexpr (T::kFp8) {
        const uint32_t zero = T::kHasZeros ? __byte_perm(zero_bytes, 0, 0x1111 * tile) : 0;
        dequantise_fp8<T::kFormat>(pair, first[tile], second[tile], zero);
      } else {
        uint32_t extra = 0;
        if constexpr (T::kHasZeros) extra = biased_zero<T::kAct>(zero_bytes, tile);
        if constexpr (T::kScaledWeights)
          extra = __byte_perm(half == 0 ? scales.x : scales.y, 0, i == 0 ? 0x1010 : 0x3232);
        const uint32_t word = is_8bit(T::kFormat) && step == 1 ? second[tile] : first[tile];
        dequantise_16bit<T::kAct, T::kFormat>(pair, word, step, extra);
      }
      w[i] = pair[0];
      w[2 + i] = pair[1];
    }
  }
};

// 32 rows of K: loads, widens, multiplies. kStartsSum: acc is overwritten, not added to.
template <class T, bool kStartsSum>
__device__ __forceinline__ void multiply_block(Accumulators<T>& acc, uint32_t a, uint32_t b,
                                               uint32_t scales, uint32_t zeros) {
  constexpr int kSteps = T::kFp8 ? 1 : 2;
  Weights<T> weights;
  weights.load(b, scales, zeros);
  uint32_t rows[T::kRowBlocks][2 * kSteps];
#pragma unroll
  for (int mb = 0; mb < T::kRowBlocks; ++mb) {
    const uint32_t address = a + mb * 8 * T::kARowPitch;
    if constexpr (T::kFp8) {
      const uint2 x = load_shared_8(address);
      rows[mb][0] = x.x, rows[mb][1] = x.y;
    } else {
      const uint4 x = load_shared_16(address);
      rows[mb][0] = x.x, rows[mb][1] = x.y, rows[mb][2] = x.z, rows[mb][3] = x.w;
    }
  }
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t w[4];
      weights.fragment(w, half, step);
#pragma unroll
      for (int mb = 0; mb < T::kRowBlocks; ++mb) {
        const uint32_t x[2] = {rows[mb][2 * step], rows[mb][2 * step + 1]};
        if (kStartsSum && step == 0) {
          mma_from_zero<T::kAct>(acc.at[half][mb], w, x);
        } else {
          mma<T::kAct>(acc.at[half][mb], w, x);
        }
      }
    }
  }
}

// When scales meet the sums. kAtTheEnd: never in here (one scale per channel, or NVFP4). kPerStage:
// groups of a stage or more; each stage's sum is scaled. kPerBlock: smaller groups; every 32 rows.
enum class Scaling { kAtTheEnd, kPerStage, kPerBlock };

template <class T, Scaling kScaling>
__device__ __forceinline__ void multiply_stage(Accumulators<T>& total, const Params& params,
                                               uint32_t stage, const Offsets<T>& own) {
  constexpr int kABlock = kUnitRows * T::kActBytes, kBBlock = 2 * T::kUnitBytes;
  constexpr bool kOwnSum = kScaling != Scaling::kAtTheEnd || T::kFp8;
  // No branch inside: the compiler widens the next 32 rows of K while the tensor cores have these.
  // Where every 32 rows are scaled, tiles of many rows have no registers left for that.
  constexpr int kUnroll = T::kRows <= 16 || kScaling != Scaling::kPerBlock ? T::kBlocks32 : 1;
  constexpr bool kUnrolled = kUnroll == T::kBlocks32;
  [[maybe_unused]] Accumulators<T> acc;
  if constexpr (kOwnSum && kScaling != Scaling::kPerBlock && !kUnrolled) acc.clear();
#pragma unroll kUnroll
  for (int block = 0; block < T::kBlocks32; ++block) {
    const uint32_t a = stage + own.a + block * kABlock, b = stage + own.b + block * kBBlock;
    const int row = T::kScaledWeights                ? block
                    : kScaling == Scaling::kPerBlock ? block >> (params.group_shift - 5)
                                                     : 0;
    const uint32_t scales = stage + own.scales + row * T::kScaleRowBytes;
    const uint32_t zeros = stage + own.zeros + row * kTileCols;
    if constexpr (!kOwnSum) {
      multiply_block<T, false>(total, a, b, scales, zeros);
    } else if (kScaling == Scaling::kPerBlock || (kUnrolled && block == 0)) {
      multiply_block<T, true>(acc, a, b, scales, zeros);
    } else {
      multiply_block<T, false>(acc, a, b, scales, zeros);
    }
    if constexpr (kScaling == Scaling::kPerBlock) total.add_scaled(acc, load_shared_16(scales));
  }
  if constexpr (kScaling == Scaling::kPerStage) {
    total.add_scaled(acc, load_shared_16(stage + own.scales));
  } else if constexpr (kScaling == Scaling::kAtTheEnd && kOwnSum) {
    total.add(acc);
  }
}

// Waits for the threads of the set. Constant barrier numbers: else the compiler reserves all
// sixteen.
template <class T>
__device__ __forceinline__ void meet(int set) {
  static_assert(T::kSets <= 2);
  if (set == 0) {
    sync_named<T::kSetThreads, 1>();
  } else {
    sync_named<T::kSetThreads, 2>();
  }
}

// One set's stages of this block's part: set, set + kSets, ... of [begin, end).
template <class T, Scaling kScaling>
__device__ __forceinline__ void multiply(Accumulators<T>& total, const Params& params,
                                         const Ring<T>& ring, Loader<T>& loader,
                                         const Offsets<T>& own, int set, int stage, int end) {
  int slot = 0;
  uint32_t parity = 0;
#pragma unroll 1
  for (; stage < end; stage += T::kSets) {
    barrier_wait(ring.full(slot), parity);
    multiply_stage<T, kScaling>(total, params, ring.stage(slot), own);
    if (stage + T::kSets * T::kStages < end) {
      meet<T>(set);  // everyone has read the stage
      loader.load(slot);
    }
    if (++slot == T::kStages) {
      slot = 0;
      parity ^= 1;
    }
  }
}

// The sums of the sets, added in their order, and their way out.
template <class T>
__device__ __forceinline__ void finish(const Params& params, const float* sums, int first_row,
                                       int first_col) {
  const bool partial = params.schedule.parts > 1;
  const int rows = min(T::kRows, params.m - first_row);
#pragma unroll 1
  for (int item = threadIdx.x; item < rows * (kTileCols / 8); item += T::kThreads) {
    const int row = item / (kTileCols / 8), col = item % (kTileCols / 8) * 8;
    if (first_col + col >= params.n) continue;
    const float* source = sums + row * T::kSumPitch + col;
    Sum8 sum = Sum8::read(source);
#pragma unroll
    for (int set = 1; set < T::kSets; ++set) sum.add(Sum8::read(source + set * T::kSumBytes / 4));
    if (partial) {
      sum.write(params.partials + (static_cast<int64_t>(blockIdx.x) * T::kRows + row) * kTileCols +
                col);
    } else {
      store_output<T::kOut>(params, first_row + row, first_col + col, sum);
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
    extern __shared__ __align__(128) char memory[];
    const Schedule& schedule = params.schedule;
    const int tile = blockIdx.x / schedule.parts, part = blockIdx.x - tile * schedule.parts;
    int m_tile, n_tile;
    schedule.place(tile, m_tile, n_tile);
    const int first_row = m_tile * T::kRows, first_col = n_tile * kTileCols;
    // From lane 0, so that the compiler keeps what follows from them in uniform registers.
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
    const int set = warp / (T::kSetThreads / 32), thread = threadIdx.x % T::kSetThreads;
    const int begin = schedule.begin(part) + set, end = schedule.begin(part + 1);

    const Ring<T> ring(shared_address(memory), set);
    Loader<T> loader(params, ring, warp % (T::kSetThreads / 32), thread, first_row, first_col,
                     begin);
    const int filled = min(T::kStages, (end - begin + T::kSets - 1) / T::kSets);
    if (thread == 0) ring.init();
#pragma unroll 1
    for (int i = 0; i < filled; ++i) loader.prefetch(i);
    __syncthreads();
    wait_for_prior_kernels();
    allow_dependent_launch();
#pragma unroll 1
    for (int i = 0; i < filled; ++i) loader.load(i);

    const int lane = thread % 32, warp_col = thread & ~31;  // a warp's 32 columns: 32 x its number
    const Offsets<T> own(warp_col, lane);
    Accumulators<T> total;
    total.clear();
    if (T::kScaledWeights || params.scale_mode != ScaleMode::kGrouped) {
      multiply<T, Scaling::kAtTheEnd>(total, params, ring, loader, own, set, begin, end);
    } else if (params.group_blocks == T::kBlocks32) {
      multiply<T, Scaling::kPerStage>(total, params, ring, loader, own, set, begin, end);
    } else {
      multiply<T, Scaling::kPerBlock>(total, params, ring, loader, own, set, begin, end);
    }
    __syncthreads();  // every copy has been waited for: the rings are free
    float* sums = reinterpret_cast<float*>(memory);
    total.store_shared(sums + set * T::kSumBytes / 4, lane % 4 * 2,
                       warp_col + unit_col(lane / 4, 0));
    __syncthreads();
    finish<T>(params, sums, first_row, first_col);
  }
}

}  // namespace kernelpkg::marlin
