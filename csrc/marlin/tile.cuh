// One tile shape of the GEMM: what an instance is, and what follows from it.
#pragma once

#include "common/dtypes.h"
#include "common/limits.h"
#include "common/pipeline.cuh"
#include "marlin/layout.h"
#include "marlin/schedule.h"

namespace kernelpkg::marlin {

// Output tile of 16 kRowBlocks x kTileCols, kStageK of K per pipeline stage, kStages stages. Four
// computing warps stand side by side, 32 columns each, over all rows: a weight is widened by one
// thread, once, for up to 64 rows. Two such sets take turns at the stages, so that one converts
// while the other multiplies; one more warp does nothing but copy.
template <DType kActType, WeightFormat kWeightFormat, DType kOutType, int kRowBlockCount,
          int kStageDepth, int kStageCount, int kBlocksPerSm>
struct Tile {
  static constexpr DType kAct = kActType;
  static constexpr WeightFormat kFormat = kWeightFormat;
  static constexpr DType kOut = kOutType;
  static constexpr int kRowBlocks = kRowBlockCount;
  static constexpr int kRows = 16 * kRowBlocks;
  static constexpr int kStageK = kStageDepth;
  static constexpr int kStages = kStageCount;
  static constexpr int kMinBlocksPerSm = kBlocksPerSm;

  static constexpr int kColWarps = kTileCols / kUnitCols;
  static constexpr int kSets = 2;
  static constexpr int kComputeThreads = 32 * kColWarps * kSets;
  static constexpr int kThreads = kComputeThreads + 32;

  static constexpr bool kFp8 = kAct == DType::kFloat8E4M3;
  static constexpr bool kHasZeros = kFormat == WeightFormat::kU4;
  static constexpr bool kScaledWeights = kFormat == WeightFormat::kNvfp4;
  static constexpr int kActBytes = size_of(kAct);
  static constexpr int kBlocks32 = kStageK / kUnitRows;  // 32-row blocks of K in a stage

  // Rows of A lie apart so that the lanes of one access (two rows of 64 bytes, or four of 32) meet
  // in no bank.
  static constexpr int kARowBytes = kStageK * kActBytes;
  static constexpr int kARowPitch = kFp8 ? (kARowBytes == 128 ? 160 : 96) : kARowBytes + 64;
  static constexpr int kABytes = kRows * kARowPitch;
  static constexpr int kUnitBytes = 4 * unit_words(kFormat);
  static constexpr int kStripBytes = kBlocks32 * 2 * kUnitBytes;  // of one stage
  static constexpr int kStrips = kTileCols / kStripCols;
  static constexpr int kBBytes = kStrips * kStripBytes;
  static constexpr int kScaleRowBytes = kTileCols * 2 * (kScaledWeights ? 2 : 1);
  static constexpr int kScaleBytes = kBlocks32 * kScaleRowBytes;
  static constexpr int kZeroBytes = kHasZeros ? kBlocks32 * kTileCols : 0;
  static constexpr int kStageBytes = kABytes + kBBytes + kScaleBytes + kZeroBytes;

  static constexpr int kSumPitch = kTileCols + 4;  // floats: rows shift by one 16-byte bank group
  static constexpr int kSumBytes = kRows * kSumPitch * 4;
  static constexpr int kSharedBytes = kStages * kStageBytes + 2 * kStages * kBarrierBytes;

  static_assert(kRowBlocks == 1 || kRowBlocks == 2 || kRowBlocks == 4);
  static_assert(kStageK == 64 || kStageK == 128);
  static_assert(kStages >= kSets && kStageBytes % 128 == 0);
  static_assert(kSumBytes <= kStages * kStageBytes, "partial sums reuse the ring");
  static_assert(kOut == DType::kFloat16 || kOut == DType::kBFloat16);
  static_assert(kFp8 || kAct == kOut, "16-bit activations give their own type");
  static_assert(kSharedBytes <= kSharedMemoryPortable,
                "this tile would not run on 8.6, 8.9 and 12.x");
};

}  // namespace kernelpkg::marlin
