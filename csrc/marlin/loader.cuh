// The producing side of the pipeline: walks a block's stretch of units and copies one stage at a time.
#pragma once

#include <cstdint>

#include "common/async_copy.cuh"
#include "marlin/params.h"
#include "marlin/tile.cuh"

namespace kernelpkg::marlin {

template <class T>
class StageLoader {
 public:
  __device__ __forceinline__ StageLoader(const Params& params, uint32_t shared, int64_t unit)
      : params_(params), shared_(shared) {
    policy_ = params.weights_read_once ? l2_policy_evict_first() : l2_policy_normal();
    tile_ = unit / params.schedule.k_units;
    k_ = static_cast<int>(unit - tile_ * params.schedule.k_units) * kUnitK;
    enter_tile();
  }

  // Starts the copies of the next stage into ring position `stage`. The caller commits.
  __device__ __forceinline__ void load(int stage) {
    if (k_ == params_.k) {
      k_ = 0;
      ++tile_;
      enter_tile();
    }
    const int tid = threadIdx.x;
    const uint32_t base = shared_ + stage * T::kStageBytes;

    // A: chunk c of row r goes to chunk c ^ (r & 7), so that the eight rows of one ldmatrix matrix lie in different
    // banks. Rows past m are zeros: they cost no traffic and their results are never stored.
    constexpr int kRowsPerPass = T::kThreads / T::kAChunksPerRow;
    constexpr int kPasses = (T::kRows + kRowsPerPass - 1) / kRowsPerPass;
    const int chunk = tid % T::kAChunksPerRow;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int row = tid / T::kAChunksPerRow + pass * kRowsPerPass;
      if (T::kRows % kRowsPerPass == 0 || row < T::kRows) {
        const bool valid = row_ + row < params_.m;
        const char* source = a_ + (valid ? pass * kRowsPerPass * params_.a_row_bytes : 0);
        copy_async_16_or_zero(base + row * T::kARowBytes + ((chunk ^ (row & 7)) * 16), valid ? source : params_.a, valid);
      }
    }

    // B: thread t copies the 16 bytes that thread t will read; a warp's 512 bytes are consecutive on both sides.
    if (cols_valid_) {
      const int64_t row_bytes = static_cast<int64_t>(params_.n) * 16;
#pragma unroll
      for (int unit = 0; unit < T::kUnitRowsPerStage; ++unit) {
        copy_async_16(base + T::kABytes + unit * T::kBRowBytes + tid * 16, b_ + unit * row_bytes, policy_);
      }
      b_ += T::kUnitRowsPerStage * row_bytes;
    }

    // Scales of the group, with the last stage of its unit: they are needed when the unit's sums are complete.
    if (params_.grouped && (k_ + T::kStageK) % kUnitK == 0 && tid < T::kScaleBytes / 16 && col_ + tid * 8 < params_.n) {
      const int64_t element = static_cast<int64_t>(k_ / kUnitK) * params_.n + col_ + tid * 8;
      copy_async_16_or_zero(base + T::kABytes + T::kBBytes + tid * 16, params_.scales + element * 2, true);
    }
    a_ += T::kARowBytes;
    k_ += T::kStageK;
  }

 private:
  __device__ __forceinline__ void enter_tile() {
    int m_tile, n_tile;
    params_.schedule.place(tile_, m_tile, n_tile);
    row_ = m_tile * T::kRows;
    col_ = n_tile * T::kCols;
    const int tid = threadIdx.x;
    a_ = params_.a + (row_ + tid / T::kAChunksPerRow) * params_.a_row_bytes + (tid % T::kAChunksPerRow) * 16 +
         static_cast<int64_t>(k_) * T::kActBytes;
    b_ = params_.b + (static_cast<int64_t>(k_ / unit_rows(T::kFormat)) * params_.n + col_ + tid) * 16;
    cols_valid_ = col_ + tid < params_.n;  // n is a multiple of 64, so this is the same for a whole warp
  }

  const Params& params_;
  uint32_t shared_;
  uint64_t policy_;
  int64_t tile_;
  int k_;
  int row_;
  int col_;
  const char* a_;
  const char* b_;
  bool cols_valid_;
};

}  // namespace kernelpkg::marlin
