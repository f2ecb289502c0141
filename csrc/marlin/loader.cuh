// The producing side of a set's pipeline: all threads of the set copy activations and scales, one
// of them starts the copies of the weights.
#pragma once

#include <cstdint>

#include "common/async_copy.cuh"
#include "common/numeric.cuh"
#include "common/pipeline.cuh"
#include "marlin/params.h"
#include "marlin/tile.cuh"

namespace kernelpkg::marlin {

// Shared addresses of one set's ring. A stage is full when its barrier's phase is complete; it is
// empty once the set's threads have met after reading it.
template <class T>
struct Ring {
  uint32_t stages, barriers;

  __device__ __forceinline__ Ring(uint32_t shared, int set)
      : stages(shared + set * T::kStages * T::kStageBytes),
        barriers(shared + T::kRings * T::kStageBytes + set * T::kStages * kBarrierBytes) {}

  __device__ __forceinline__ uint32_t stage(int slot) const {
    return stages + slot * T::kStageBytes;
  }
  __device__ __forceinline__ uint32_t full(int slot) const {
    return barriers + slot * kBarrierBytes;
  }

  // By one thread, before the block's first barrier.
  __device__ __forceinline__ void init() const {
    for (int slot = 0; slot < T::kStages; ++slot) {
      barrier_init(full(slot), T::kSetThreads + (kHasBulkCopies ? 1 : 0));
    }
    barrier_init_done();
  }
};

// Walks the stages first, first + kSets, ... of K. Everything that changes is a pointer or a
// counter that one addition moves on: the copies of a stage would otherwise cost as many
// instructions as half of its arithmetic.
template <class T>
class Loader {
 public:
  // warp, thread: numbers within the set, warp in a form that the compiler knows to be uniform.
  __device__ __forceinline__ Loader(const Params& params, Ring<T> ring, int warp, int thread,
                                    int first_row, int first_col, int first_stage)
      : params_(params), ring_(ring), warp_(warp), stage_(first_stage) {
    const int cols = min(kTileCols, params.n_pad - first_col);
    both_strips_ = cols > kStripCols;
    strip_bytes_ = static_cast<int64_t>(params.k_pad / kUnitRows) * 2 * T::kUnitBytes;
    b_ = params.b + first_col / kStripCols * strip_bytes_ +
         static_cast<int64_t>(first_stage) * T::kStripBytes;
    if constexpr (!kHasBulkCopies) {
      b_ += thread * 16;
      b_to_ = T::kABytes + thread * 16;
    }

    const int row = thread / kChunks, byte = thread % kChunks * 16;
    const int64_t a_byte = static_cast<int64_t>(first_stage) * T::kARowBytes + byte;
    rows_left_ = min(params.m - first_row, T::kRows) - row;
    a_left_ = params.a_bytes - static_cast<int>(a_byte);
    a_ = params.a + (first_row + row) * params.a_row_bytes + a_byte;
    a_to_ = row * T::kARowPitch + byte;

    // Scales and zero points: at most one copy per thread and stage.
    constexpr int kPerRow = T::kScaleRowBytes / 16, kPerCol = T::kScaleRowBytes / kTileCols;
    const int rows = T::kScaledWeights                          ? T::kBlocks32
                     : params.scale_mode == ScaleMode::kGrouped ? T::kBlocks32 / params.group_blocks
                                                                : 0;
    const int scale_row = thread / kPerRow, scale_byte = thread % kPerRow * 16;
    copies_scales_ = scale_row < rows && scale_byte < cols * kPerCol;
    scales_ = params.scales +
              (static_cast<int64_t>(scale_row) * params.n_pad + first_col) * kPerCol + scale_byte;
    scales_to_ = T::kABytes + T::kBBytes + scale_row * T::kScaleRowBytes + scale_byte;
    if constexpr (T::kHasZeros) {
      const int zero_row = thread / 8, zero_byte = thread % 8 * 16;
      copies_zeros_ = zero_row < max(1, rows) && zero_byte < cols;
      zeros_ = params.zeros + static_cast<int64_t>(zero_row) * params.n_pad + first_col + zero_byte;
      zeros_to_ = T::kABytes + T::kBBytes + T::kScaleBytes + zero_row * kTileCols + zero_byte;
      if constexpr (T::kKeepsAddresses) keep(zeros_), keep(zeros_to_);
    }
    if constexpr (T::kKeepsAddresses)
      keep(rows_left_), keep(a_to_), keep(scales_), keep(scales_to_);
  }

  // Starts the copies of the next stage into `slot`, which must be empty.
  __device__ __forceinline__ void load(int slot) {
    const uint32_t shared = ring_.stage(slot), barrier = ring_.full(slot);
    if constexpr (kHasBulkCopies) {
      if (warp_ == 0) copy_weights_in_bulk(shared + T::kABytes, barrier);
    } else {
      copy_weights(shared + b_to_);
    }
    copy_activations(shared + a_to_);
    const int64_t group = group_of_stage();
    constexpr int kPerCol = T::kScaleRowBytes / kTileCols;
    copy_async_16(shared + scales_to_, scales_ + group * (params_.n_pad * kPerCol), copies_scales_);
    if constexpr (T::kHasZeros)
      copy_async_16(shared + zeros_to_, zeros_ + group * params_.n_pad, copies_zeros_);
    barrier_arrive_after_copies(barrier);
    stage_ += T::kSets;
    b_ += T::kSets * T::kStripBytes;
    a_ += T::kSets * T::kARowBytes;
    a_left_ -= T::kSets * T::kARowBytes;
  }

  // Brings the weights of the `ahead`-th next stage as far as L2. Changes nothing that any thread
  // can observe, so it may run before the kernels that this one depends on have finished.
  __device__ __forceinline__ void prefetch(int ahead) const {
    if (!kHasBulkCopies || warp_ != 0 || !elect_one()) return;
    const char* b = b_ + static_cast<int64_t>(ahead) * (T::kSets * T::kStripBytes);
    prefetch_bulk(b, T::kStripBytes);
    if (both_strips_) prefetch_bulk(b + strip_bytes_, T::kStripBytes);
  }

 private:
  static constexpr int kChunks = T::kARowBytes / 16;
  static constexpr int kRowsPerPass = T::kSetThreads / kChunks;
  static_assert(T::kStrips == 2 && T::kBlocks32 * T::kScaleRowBytes / 16 <= T::kSetThreads);

  // First row of scales of the stage: a group, or with NVFP4 32 rows of K.
  __device__ __forceinline__ int group_of_stage() const {
    if constexpr (T::kScaledWeights) return stage_ * T::kBlocks32;
    return stage_ * T::kStageK >> params_.group_shift;
  }

  // Large enough for bulk copies to pay: each costs about a hundred cycles, whatever its size.
  __device__ __forceinline__ void copy_weights_in_bulk(uint32_t to, uint32_t barrier) const {
    if (!elect_one()) return;
    barrier_arrive_expecting(barrier, both_strips_ ? 2 * T::kStripBytes : T::kStripBytes);
    copy_bulk(to, b_, T::kStripBytes, barrier);
    if (both_strips_) copy_bulk(to + T::kStripBytes, b_ + strip_bytes_, T::kStripBytes, barrier);
  }

  __device__ __forceinline__ void copy_weights(uint32_t to) const {
    const char* b = b_;
#pragma unroll 1
    for (int strip = 0; strip < (both_strips_ ? 2 : 1); ++strip) {
#pragma unroll
      for (int byte = 0; byte < T::kStripBytes; byte += T::kSetThreads * 16)
        copy_async_16(to + byte, b + byte, true);
      b += strip_bytes_;
      to += T::kStripBytes;
    }
  }

  // Rows from m on are left as they are: a row of A meets no other row. Columns from k on are
  // zeros: their weights are zeros too, but zero times what happens to lie in shared memory may be
  // NaN.
  __device__ __forceinline__ void copy_activations(uint32_t to) const {
    const int bytes = a_left_ > 0 ? 16 : 0;
    const char* a = a_;
#pragma unroll
    for (int row = 0; row < T::kRows; row += kRowsPerPass, a += kRowsPerPass * params_.a_row_bytes)
      copy_async_16(to + row * T::kARowPitch, a, row < rows_left_, bytes);
  }

  const Params& params_;
  const Ring<T> ring_;
  const int warp_;
  int stage_;
  bool both_strips_, copies_scales_, copies_zeros_;
  int rows_left_;  // rows of A from this thread's first on; may be negative
  int a_left_;     // bytes of them from this thread's next on
  uint32_t a_to_, b_to_, scales_to_, zeros_to_;
  const char* a_;
  const char* b_;
  const char* scales_;
  const char* zeros_;
  int64_t strip_bytes_;
};

}  // namespace kernelpkg::marlin
