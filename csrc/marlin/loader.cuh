// The producing side of the pipeline: walks a block's stretch of units and copies one stage at a
// time.
#pragma once

#include <cstdint>

#include "common/async_copy.cuh"
#include "marlin/params.h"
#include "marlin/tile.cuh"

namespace kernelpkg::marlin {

// Everything that does not change from stage to stage is worked out once per tile: with one load of
// 16 bytes for every few MMAs, address arithmetic would otherwise take as many issue slots as the
// arithmetic proper.
template <class T>
class StageLoader {
 public:
  __device__ __forceinline__ StageLoader(const Params& params, uint32_t shared, int unit)
      : params_(params) {
    const int row = threadIdx.x / T::kAChunksPerRow, chunk = threadIdx.x % T::kAChunksPerRow;
    policy_ = params.weights_read_once ? l2_policy_evict_first() : l2_policy_normal();
    // Chunk c of row r goes to chunk c ^ (r & 7), so that the eight rows of one ldmatrix matrix lie
    // in different banks.
    a_target_ = shared + row * T::kARowBytes + ((chunk ^ (row & 7)) * 16);
    b_target_ = shared + T::kABytes + threadIdx.x * 16;
    tile_ = unit / params.schedule.k_units;
    k_ = (unit - tile_ * params.schedule.k_units) * kUnitK;
    enter_tile();
  }

  // Starts the copies of the next stage into the ring at byte `offset`. The caller commits. Scales
  // belong to the last stage of each unit: they are needed when the unit's sums are complete.
  __device__ __forceinline__ void load(uint32_t offset, bool ends_unit) {
    if (k_ == params_.k) {
      k_ = 0;
      ++tile_;
      enter_tile();
    }
    // A: rows past m are zeros. They cost no traffic and their results are never stored.
#pragma unroll
    for (int pass = 0; pass < kAPasses; ++pass) {
      if (kAWhole || threadIdx.x < T::kRows * T::kAChunksPerRow) {
        copy_async_16_or_zero(a_target_ + offset + pass * kARowsPerPass * T::kARowBytes,
                              a_ + pass * kARowsPerPass * params_.a_row_bytes,
                              pass * kARowsPerPass < rows_left_);
      }
    }
    a_ += T::kARowBytes;
    // B: thread t copies the 16 bytes that thread t will read; a warp's 512 bytes are consecutive
    // on both sides.
    if (cols_valid_) {
      const int64_t row_bytes = static_cast<int64_t>(params_.n) * 16;
#pragma unroll
      for (int row = 0; row < T::kUnitRowsPerStage; ++row) {
        copy_async_16(b_target_ + offset + row * T::kBRowBytes, b_, policy_);
        b_ += row_bytes;
      }
    }
    if (ends_unit && params_.grouped) {
      if (threadIdx.x < T::kScaleBytes / 16 &&
          col_ + static_cast<int>(threadIdx.x) * 8 < params_.n) {
        const int64_t element =
            static_cast<int64_t>(k_ / kUnitK) * params_.n + col_ + threadIdx.x * 8;
        copy_async_16_or_zero(b_target_ + offset + T::kBBytes, params_.scales + element * 2, true);
      }
    }
    k_ += T::kStageK;
  }

 private:
  static constexpr int kARowsPerPass = T::kThreads / T::kAChunksPerRow;
  static constexpr int kAPasses = (T::kRows + kARowsPerPass - 1) / kARowsPerPass;
  static constexpr bool kAWhole =
      T::kRows % kARowsPerPass == 0;  // else one pass, by the first threads
  static_assert(kARowsPerPass % 8 == 0, "all passes of a thread share one swizzle");
  static_assert(kAWhole || kAPasses == 1);

  __device__ __forceinline__ void enter_tile() {
    int m_tile, n_tile;
    params_.schedule.place(tile_, m_tile, n_tile);
    const int row = m_tile * T::kRows + threadIdx.x / T::kAChunksPerRow;
    col_ = n_tile * T::kCols;
    rows_left_ = params_.m - row;
    cols_valid_ = col_ + static_cast<int>(threadIdx.x) <
                  params_.n;  // N is a multiple of 64: one answer per warp
    a_ = params_.a + row * params_.a_row_bytes + (threadIdx.x % T::kAChunksPerRow) * 16 +
         static_cast<int64_t>(k_) * T::kActBytes;
    b_ = params_.b +
         (static_cast<int64_t>(k_ / unit_rows(T::kFormat)) * params_.n + col_ + threadIdx.x) * 16;
  }

  const Params& params_;
  uint64_t policy_;
  uint32_t a_target_;
  uint32_t b_target_;
  int tile_;
  int k_;
  int col_;
  int rows_left_;  // rows of A from this thread's first on; may be negative
  bool cols_valid_;
  const char* a_;
  const char* b_;
};

}  // namespace kernelpkg::marlin
