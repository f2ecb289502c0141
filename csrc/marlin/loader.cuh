// The copying warp: walks the stages of a block's part and fills the ring.
#pragma once

#include <cstdint>

#include "common/async_copy.cuh"
#include "common/pipeline.cuh"
#include "marlin/params.h"
#include "marlin/tile.cuh"

namespace kernelpkg::marlin {

// Shared addresses of a block's ring: stages, then their barriers.
template <class T>
struct Ring {
  uint32_t base;

  __device__ __forceinline__ uint32_t stage(int slot) const { return base + slot * T::kStageBytes; }
  __device__ __forceinline__ uint32_t full(int slot) const {
    return base + T::kStages * T::kStageBytes + slot * kBarrierBytes;
  }
  __device__ __forceinline__ uint32_t empty(int slot) const { return full(slot + T::kStages); }

  // By one thread, before the block's first barrier.
  __device__ __forceinline__ void init() const {
    for (int slot = 0; slot < T::kStages; ++slot) {
      barrier_init(full(slot), kHasBulkCopies ? 1 : 32);
      barrier_init(empty(slot), T::kColWarps);
    }
    barrier_init_done();
  }
};

template <class T>
class Loader {
 public:
  __device__ __forceinline__ Loader(const Params& params, Ring<T> ring, int first_row,
                                    int first_col)
      : params_(params), ring_(ring), lane_(threadIdx.x % 32) {
    policy_ = params.weights_read_once ? l2_policy_evict_first() : l2_policy_normal();
    keep_ = l2_policy_normal();
    rows_ = min(T::kRows, params.m - first_row);
    cols_ = min(kTileCols, params.n_pad - first_col);
    a_ = params.a + first_row * params.a_row_bytes;
    b_ = params.b + static_cast<int64_t>(first_col / kStripCols) * strip_bytes();
    first_col_ = first_col;
  }

  // Fills stages [begin, end) of K, in order.
  __device__ __forceinline__ void run(int begin, int end) const {
    int slot = 0;
    uint32_t parity = 1;
    for (int stage = begin; stage < end; ++stage) {
      barrier_wait(ring_.empty(slot), parity);
      if constexpr (kHasBulkCopies) {
        copy_in_bulk(ring_.stage(slot), ring_.full(slot), stage);
      } else {
        copy_by_lanes(ring_.stage(slot), stage);
        barrier_arrive_after_copies(ring_.full(slot));
      }
      if (++slot == T::kStages) {
        slot = 0;
        parity ^= 1;
      }
    }
  }

 private:
  __device__ __forceinline__ int64_t strip_bytes() const {
    return static_cast<int64_t>(params_.k_pad / kUnitRows) * 2 * T::kUnitBytes;
  }
  // Bytes of a row of A that exist in this stage.
  __device__ __forceinline__ int a_bytes(int stage) const {
    return max(0, min(T::kARowBytes, params_.a_bytes - stage * T::kARowBytes));
  }
  // Rows of scales (kGrouped) or 32-row blocks of them (NVFP4) that belong to a stage; 0 per channel.
  __device__ __forceinline__ int scale_rows() const {
    if constexpr (T::kScaledWeights) return T::kBlocks32;
    return params_.scale_mode == ScaleMode::kGrouped ? T::kBlocks32 / params_.group_blocks : 0;
  }
  __device__ __forceinline__ int64_t scale_row(int stage, int row) const {
    if constexpr (T::kScaledWeights) return static_cast<int64_t>(stage) * T::kBlocks32 + row;
    return stage * T::kStageK / params_.group_k + row;
  }
  __device__ __forceinline__ const char* scales(int stage, int row) const {
    constexpr int kPerCol = T::kScaledWeights ? 4 : 2;
    return params_.scales +
           (scale_row(stage, row) * params_.n_pad + first_col_) * kPerCol;
  }
  // Zero points have rows of their own where scales are per channel: one.
  __device__ __forceinline__ int zero_rows() const { return max(1, scale_rows()); }
  __device__ __forceinline__ const char* zeros(int stage, int row) const {
    const int64_t group =
        params_.scale_mode == ScaleMode::kGrouped ? scale_row(stage, row) : 0;
    return params_.zeros + group * params_.n_pad + first_col_;
  }

  __device__ __forceinline__ void copy_in_bulk(uint32_t shared, uint32_t barrier, int stage) const {
    const int a_bytes = this->a_bytes(stage);
    if (a_bytes != T::kARowBytes) zero_tails(shared, a_bytes);
    if (lane_ == 0) {
      const int strips = cols_ / kStripCols;
      int bytes = rows_ * a_bytes + strips * T::kStripBytes;
      bytes += scale_rows() * cols_ * (T::kScaleRowBytes / kTileCols);
      if constexpr (T::kHasZeros) bytes += zero_rows() * cols_;
      barrier_arrive_expecting(barrier, bytes);
      const char* b = b_ + static_cast<int64_t>(stage) * T::kStripBytes;
      for (int strip = 0; strip < strips; ++strip) {
        copy_bulk(shared + T::kABytes + strip * T::kStripBytes, b, T::kStripBytes, barrier,
                  policy_);
        b += strip_bytes();
      }
      uint32_t to = shared + T::kABytes + T::kBBytes;
      for (int row = 0; row < scale_rows(); ++row, to += T::kScaleRowBytes) {
        copy_bulk(to, scales(stage, row), cols_ * (T::kScaleRowBytes / kTileCols), barrier,
                  policy_);
      }
      if constexpr (T::kHasZeros) {
        to = shared + T::kABytes + T::kBBytes + T::kScaleBytes;
        for (int row = 0; row < zero_rows(); ++row, to += kTileCols) {
          copy_bulk(to, zeros(stage, row), cols_, barrier, policy_);
        }
      }
    }
    __syncwarp();
    if (a_bytes == 0) return;
    const char* a = a_ + static_cast<int64_t>(stage) * T::kARowBytes;
#pragma unroll
    for (int row = lane_; row < T::kRows; row += 32) {
      if (row < rows_) {
        copy_bulk(shared + row * T::kARowPitch, a + row * params_.a_row_bytes, a_bytes, barrier,
                  keep_);
      }
    }
  }

  // The padded end of K: its weights are zeros, but zero times what happens to lie in shared memory
  // may be NaN. Seen by the computing warps through the arrival that follows.
  __device__ __forceinline__ void zero_tails(uint32_t shared, int a_bytes) const {
    for (int row = lane_; row < rows_; row += 32) {
      for (int byte = a_bytes; byte < T::kARowBytes; byte += 16) {
        asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(shared +
                                                                      row * T::kARowPitch + byte),
                     "r"(0)
                     : "memory");
      }
    }
    __syncwarp();
  }

  // Before 9.0: 16 bytes per lane and instruction.
  __device__ __forceinline__ void copy_by_lanes(uint32_t shared, int stage) const {
    constexpr int kAChunks = T::kARowBytes / 16;
    const int a_bytes = this->a_bytes(stage);
    const char* a = a_ + static_cast<int64_t>(stage) * T::kARowBytes;
    for (int chunk = lane_; chunk < rows_ * kAChunks; chunk += 32) {
      const int row = chunk / kAChunks, byte = chunk % kAChunks * 16;
      const bool exists = byte < a_bytes;  // else zeros
      copy_async_16_or_zero(shared + row * T::kARowPitch + byte,
                            exists ? a + row * params_.a_row_bytes + byte : a_, exists);
    }
    const int strips = cols_ / kStripCols;
    const char* b = b_ + static_cast<int64_t>(stage) * T::kStripBytes;
    for (int strip = 0; strip < strips; ++strip) {
#pragma unroll 4
      for (int byte = lane_ * 16; byte < T::kStripBytes; byte += 512) {
        copy_async_16(shared + T::kABytes + strip * T::kStripBytes + byte,
                      b + strip * strip_bytes() + byte, policy_);
      }
    }
    const uint32_t scale_base = shared + T::kABytes + T::kBBytes;
    const int row_bytes = cols_ * (T::kScaleRowBytes / kTileCols);
    for (int row = 0; row < scale_rows(); ++row) {
      for (int byte = lane_ * 16; byte < row_bytes; byte += 512) {
        copy_async_16(scale_base + row * T::kScaleRowBytes + byte, scales(stage, row) + byte,
                      policy_);
      }
    }
    if constexpr (T::kHasZeros) {
      for (int row = 0; row < zero_rows(); ++row) {
        if (lane_ * 16 < cols_) {
          copy_async_16(scale_base + T::kScaleBytes + row * kTileCols + lane_ * 16,
                        zeros(stage, row) + lane_ * 16, policy_);
        }
      }
    }
  }

  const Params& params_;
  const Ring<T> ring_;
  const int lane_;
  int rows_, cols_, first_col_;
  const char* a_;
  const char* b_;
  uint64_t policy_, keep_;
};

}  // namespace kernelpkg::marlin
