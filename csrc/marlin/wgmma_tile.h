// One tile shape of the wgmma kernel, what follows from it, and what a launch is given. Plain C++,
// but for the type of a tensor map.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "common/dtypes.h"
#include "marlin/layout.h"
#include "marlin/schedule.h"

namespace kernelpkg::marlin {

// u4b8 is u4 with every zero point 8, so one kernel serves both.
constexpr WeightFormat wgmma_format(WeightFormat format) {
  return format == WeightFormat::kU4B8 ? WeightFormat::kU4 : format;
}

// What the fragments of wgmma_dequant.cuh lack, for the epilogue to put back; powers of two. With
// group scales, e4m3 in fp16 has it put back by them.
constexpr float wgmma_fragment_scale(DType act, WeightFormat format, bool grouped) {
  if (format == WeightFormat::kNvfp4) return act == DType::kBFloat16 ? 256.0f : 128.0f;
  if (format == WeightFormat::kE4M3 && act == DType::kFloat16 && !grouped) return 256.0f;
  return 1.0f;
}

constexpr int kWgmmaSharedLimit = 232448;  // what a block may opt in to on 9.0
constexpr int kMaxClusterBlocks = 8;       // the portable limit

// Output tile of kTokens rows of C and 256 of its columns, split over consumer warpgroups that own
// kBlocks x 64 columns each: with two m64 MMA blocks a widened weight serves most tokens per
// register, with one there are twice the warps to hide latencies, which small tiles need more. One
// warpgroup more copies. kStages follows from what fits.
template <DType kActType, WeightFormat kWeightFormat, int kTokenCount>
struct WgmmaTile {
  static constexpr DType kAct = kActType;
  static constexpr WeightFormat kFormat = kWeightFormat;
  static constexpr int kTokens = kTokenCount;
  static constexpr int kBlocks = kTokens >= 128 ? 2 : 1;
  static constexpr int kStageK = kTokens >= 128 ? 64 : 128;

  static constexpr int kCols = 256;
  static constexpr int kStrips = kCols / kStripCols;
  static constexpr int kConsumers = kCols / (64 * kBlocks);  // warpgroups
  static constexpr int kConsumerThreads = 128 * kConsumers;
  static constexpr int kThreads = kConsumerThreads + 128;
  // Of the registers that the launch gives all threads alike, those that copy hand most on.
  static constexpr int kProducerRegisters = kConsumers == 2 ? 56 : 32;
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 224 : 112;

  // A consumer's turn: kTurnUnits x 32 rows of K, as k16 MMA steps of kBlocks blocks.
  // Two units where registers allow.
  static constexpr int kTurnUnits =
      kBlocks == 1 && (kTokens < 64 || (kTokens == 64 && kFormat != WeightFormat::kNvfp4)) ? 2 : 1;
  static constexpr int kTurnSteps = 2 * kTurnUnits;
  static constexpr int kTurns = kStageK / (kUnitRows * kTurnUnits);
  static constexpr int kLaneTiles = 2 * kBlocks;  // columns of a lane

  // Whether the activations come in the order of K in which the lanes own it (wgmma_order.cu), so
  // that each lane reads its own words alone. With 128 tokens shared memory is the limit, and this
  // saves a fifth of its traffic; with fewer the pass over the activations costs more than it
  // saves.
  static constexpr bool kOrdered = kTokens >= 128;
  static constexpr int kWordRows = !kOrdered ? 4 : is_8bit(kFormat) ? 2 : 1;  // loads per unit

  // Activations arrive in slabs of 64 elements of K: rows of 128 bytes, swizzled.
  static constexpr int kSlabs = kStageK / 64;
  static constexpr int kSlabBytes = kTokens * 128;
  static constexpr int kUnits = kStageK / kUnitRows;
  static constexpr int kUnitBytes = 4 * unit_words(kFormat);
  static constexpr int kStripBytes = kUnits * 2 * kUnitBytes;

  static constexpr bool kHasZeros = kFormat == WeightFormat::kU4;
  static constexpr bool kNvfp4Scales = kFormat == WeightFormat::kNvfp4;
  static constexpr int kScaleRowBytes = kCols * 2;
  static constexpr int kScaleRows = kNvfp4Scales ? 2 * kUnits : kUnits;  // at most, in a stage

  // Parts of a stage, and where each begins in it.
  static constexpr int kActBytes = kSlabs * kSlabBytes;
  static constexpr int kWeightBytes = kStrips * kStripBytes;
  static constexpr int kScaleBytes = kScaleRows * kScaleRowBytes;
  static constexpr int kZeroBytes = kHasZeros ? kUnits * kCols : 0;
  // All of one part's stages, then the next part's. The swizzled ones come first: they need
  // 1,024-byte alignment.
  static constexpr int kStageBytes = kActBytes + kWeightBytes + kScaleBytes + kZeroBytes;
  static constexpr int kBarrierBytes = 16 * 32;
  static constexpr int kAlignment = 1024;
  static constexpr int kRoom = kWgmmaSharedLimit - kAlignment - kBarrierBytes;
  static constexpr int kStages = kRoom / kStageBytes < 16 ? kRoom / kStageBytes : 16;
  static constexpr int kSharedBytes = kAlignment + kBarrierBytes + kStages * kStageBytes;

  // Sums of a part, float32, in the memory of the stages; rows padded against bank conflicts.
  static constexpr int kSumRow = kCols + 4;
  static constexpr int kSumBytes = kTokens * kSumRow * 4;

  static_assert(kSumBytes <= kStages * kStageBytes);
  static_assert(kStageK % 64 == 0 && kPadK % kStageK == 0);
  static_assert(kActBytes % kAlignment == 0 && kWeightBytes % kAlignment == 0);
  static_assert(kTurns % 2 == 0, "fragments alternate between two sets of registers");
  static_assert(kBlocks == 1 || kBlocks == 2);
  static_assert(kStages >= 3 && kSharedBytes <= kWgmmaSharedLimit);
};

// What the copy engine is told of the operands; boxes are what one stage needs (wgmma.cpp).
struct WgmmaMaps {
  CUtensorMap activations;  // [m, k]
  CUtensorMap weights;      // [strip, unit, 128 bytes of a half, half, byte]
  CUtensorMap scales;       // [group, n], or NVFP4's [unit of K, n] pairs
  CUtensorMap zeros;        // [group, n]
};

struct WgmmaParams {
  const char* scales;  // those of a channel
  const char* bias;    // or null
  char* c;
  int m;
  int n;
  int n_pad;
  int k_units;      // padded K / 32
  int group_shift;  // log2(group size); a per-channel scale counts as one group of 2^30
  bool grouped;     // scales are applied to the weights, in 16 bits; else to the sums
  bool zeros;       // zero points are given (u4); else all are 8
  float factor;     // of the sums: output scale, and what the fragments lack
  float* partials;  // [tiles][parts][kTokens][kCols]; with parts and no cluster
  Schedule schedule;
  bool clustered;  // the parts of a tile are added by their blocks, a cluster
};

}  // namespace kernelpkg::marlin
