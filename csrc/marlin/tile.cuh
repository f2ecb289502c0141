// One tile shape of the GEMM: what an instance is, and what follows from it.
#pragma once

#include "common/dtypes.h"
#include "common/limits.h"
#include "common/pipeline.cuh"
#include "marlin/layout.h"
#include "marlin/schedule.h"

namespace kernelpkg::marlin {

// Output tile of kRows x kTileCols. Four warps stand side by side, 32 columns each, over all rows:
// a weight is widened by one thread, once, for up to 64 rows. kSets such sets share a tile; they
// take turns along K, each with a ring of kStages stages of kStageK of its own, and meet only at
// the end.
template <DType kActType, WeightFormat kWeightFormat, DType kOutType, int kRowCount,
          int kStageDepth, int kSetCount, int kStageCount, int kBlocksPerSm>
struct Tile {
  static constexpr DType kAct = kActType;
  static constexpr WeightFormat kFormat = kWeightFormat;
  static constexpr DType kOut = kOutType;
  static constexpr int kRows = kRowCount;
  static constexpr int kRowBlocks = kRows / 8;  // the MMA's N
  static constexpr int kStageK = kStageDepth;
  static constexpr int kStages = kStageCount;
  static constexpr int kSets = kSetCount;
  static constexpr int kSetThreads = 32 * (kTileCols / kUnitCols);
  static constexpr int kThreads = kSets * kSetThreads;

  static constexpr bool kFp8 = kAct == DType::kFloat8E4M3;
  static constexpr bool kHasZeros = kFormat == WeightFormat::kU4;
  static constexpr bool kScaledWeights = kFormat == WeightFormat::kNvfp4;
  static constexpr int kActBytes = size_of(kAct);
  static constexpr int kBlocks32 = kStageK / kUnitRows;  // 32-row blocks of K in a stage

  // Rows of A lie apart so that the lanes of one access (two rows of 64 bytes, or four of 32) meet
  // in no bank.
  static constexpr int kARowBytes = kStageK * kActBytes;
  static constexpr int kARowPitch = kARowBytes + (kFp8 ? 32 : 64);
  static constexpr int kABytes = kRows * kARowPitch;
  static constexpr int kUnitBytes = 4 * unit_words(kFormat);
  static constexpr int kStripBytes = kBlocks32 * 2 * kUnitBytes;  // of one stage
  static constexpr int kStrips = kTileCols / kStripCols;
  static constexpr int kBBytes = kStrips * kStripBytes;
  static constexpr int kScaleRowBytes = kTileCols * 2 * (kScaledWeights ? 2 : 1);
  static constexpr int kScaleBytes = kBlocks32 * kScaleRowBytes;
  static constexpr int kZeroBytes = kHasZeros ? kBlocks32 * kTileCols : 0;
  static constexpr int kStageBytes = kABytes + kBBytes + kScaleBytes + kZeroBytes;

  // More rows need the registers for their sums.
  static constexpr bool kKeepsAddresses = kRows <= 16;

  static constexpr int kSumPitch = kTileCols + 4;  // floats: rows shift by one 16-byte bank group
  static constexpr int kSumBytes = kRows * kSumPitch * 4;
  static constexpr int kRings = kSets * kStages;
  static constexpr int kSharedBytes = kRings * (kStageBytes + kBarrierBytes);

  // The blocks that should share a multiprocessor, where its shared memory has room for them: the
  // compiler keeps registers low enough for as many.
  static constexpr int kFitting = kSharedMemoryPerSm / (kSharedBytes + kSharedMemoryReserved);
  static constexpr int kMinBlocksPerSm = kBlocksPerSm < kFitting ? kBlocksPerSm : kFitting;

  static_assert(kRows == 8 || kRows == 16 || kRows == 32 || kRows == 64);
  static_assert(kStageK == 64 || kStageK == 128);
  static_assert(kStages >= 2 && kStageBytes % 128 == 0);
  static_assert(kSets * kSumBytes <= kRings * kStageBytes, "partial sums reuse the rings");
  static_assert(kOut == DType::kFloat16 || kOut == DType::kBFloat16);
  static_assert(kFp8 || kAct == kOut, "16-bit activations give their own type");
  static_assert(kSharedBytes <= kSharedMemoryPortable,
                "this tile would not run on 8.6, 8.9 and 12.x");
};

}  // namespace kernelpkg::marlin
