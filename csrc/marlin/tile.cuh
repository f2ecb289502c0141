// One tile shape of the GEMM: what an instance is, and what follows from it.
#pragma once

#include "common/dtypes.h"
#include "common/limits.h"
#include "marlin/layout.h"
#include "marlin/schedule.h"

namespace kernelpkg::marlin {

// Output tile of 16 kRowBlocks x kCols, kStageK of K per pipeline stage, kStages stages. Each warp
// owns 32 columns (one unit of the packed layout) over all rows: a weight is widened by one thread,
// once, for up to 64 rows.
template <DType kActType, WeightFormat kWeightFormat, DType kOutType, int kRowBlockCount,
          int kColCount, int kStageDepth, int kStageCount, int kBlocksPerSm>
struct Tile {
  static constexpr DType kAct = kActType;
  static constexpr WeightFormat kFormat = kWeightFormat;
  static constexpr DType kOut = kOutType;
  static constexpr int kRowBlocks = kRowBlockCount;
  static constexpr int kRows = 16 * kRowBlocks;
  static constexpr int kCols = kColCount;
  static constexpr int kStageK = kStageDepth;
  static constexpr int kStages = kStageCount;
  static constexpr int kThreads =
      kCols;  // 32 columns per warp: the thread count happens to be the column count
  static constexpr int kMinBlocksPerSm = kBlocksPerSm;

  static constexpr int kActBytes = size_of(kAct);
  static constexpr int kARowBytes = kStageK * kActBytes;
  static constexpr int kAChunksPerRow = kARowBytes / 16;
  static constexpr int kABytes = kRows * kARowBytes;
  static constexpr int kUnitRowsPerStage = kStageK / unit_rows(kFormat);
  static constexpr int kBRowBytes = kCols * 16;  // 512 bytes per 32 columns
  static constexpr int kBBytes = kUnitRowsPerStage * kBRowBytes;
  static constexpr int kScaleBytes = kCols * 2;
  static constexpr int kStageBytes = kABytes + kBBytes + kScaleBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes;
  static constexpr int kStagesPerUnit = kUnitK / kStageK;

  static_assert(kRowBlocks == 1 || kRowBlocks == 2 || kRowBlocks == 4);
  static_assert(kCols % kUnitCols == 0 && kUnitK % kStageK == 0 && kStages >= 4);
  static_assert(kAChunksPerRow % 8 == 0, "the swizzle permutes 8 chunks of 16 bytes");
  static_assert(kThreads % kAChunksPerRow == 0);
  static_assert(kOut == DType::kFloat16 || kOut == DType::kBFloat16);
  static_assert(kAct == DType::kFloat8E4M3 || kAct == kOut,
                "16-bit activations give their own type");
  static_assert(kSharedBytes <= kSharedMemoryPortable,
                "this tile would not run on 8.6, 8.9 and 12.x");
};

}  // namespace kernelpkg::marlin
