// Hopper: wgmma on FP8 with fast accumulation, operands by TMA. Scales in blocks are applied to the
// sum of every 128 values of K, which is added up in fp32.
#pragma once

#include "scaled_mm/collective.cuh"

namespace kernelpkg {

enum class Sm90Schedule { kPingpong, kCooperative };

template <Sm90Schedule kSchedule, Scales kScales>
struct Sm90Schedules {
  static constexpr bool kPingpong = kSchedule == Sm90Schedule::kPingpong;
  using Epilogue = cute::conditional_t<kPingpong, cutlass::epilogue::TmaWarpSpecialized,
                                       cutlass::epilogue::TmaWarpSpecializedCooperative>;
  using Plain =
      cute::conditional_t<kPingpong, cutlass::gemm::KernelTmaWarpSpecializedPingpongFP8FastAccum,
                          cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8FastAccum>;
  using Blocks =
      cute::conditional_t<kPingpong, cutlass::gemm::KernelTmaWarpSpecializedPingpongFP8Blockwise,
                          cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8Blockwise>;
  using Mainloop = cute::conditional_t<kScales == Scales::kBlock, Blocks, Plain>;
};

template <class ElementAct, Scales kScales, int kTileM, int kTileN, int kTileK, int kClusterM,
          int kClusterN, Sm90Schedule kSchedule, bool kSwapped>
struct Sm90Fp8
    : CollectiveGemm<cutlass::arch::Sm90, ElementAct, kScales,
                     cute::Shape<cute::Int<kTileM>, cute::Int<kTileN>, cute::Int<kTileK>>,
                     cute::Shape<cute::Int<kClusterM>, cute::Int<kClusterN>, cute::_1>,
                     typename Sm90Schedules<kSchedule, kScales>::Mainloop,
                     typename Sm90Schedules<kSchedule, kScales>::Epilogue, kSwapped> {
  using Gate = gates::scaled_mm_sm90;

  static size_t workspace_bytes(const ScaledMmArgs& args, const ScaledMmDevice& device) {
    return Sm90Fp8::workspace(args, device);
  }

  static Status launch(const char* name, const void* kernel, const ScaledMmArgs& args,
                       const ScaledMmDevice& device) {
    return Sm90Fp8::start(name, kernel, args, device, /*swizzle=*/1);
  }
};

}  // namespace kernelpkg
