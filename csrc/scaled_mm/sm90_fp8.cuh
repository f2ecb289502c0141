// Hopper: wgmma on e4m3 with fast accumulation, operands by TMA.
#pragma once

#include "scaled_mm/collective.cuh"

namespace kernelpkg {

enum class Sm90Schedule { kPingpong, kCooperative, kOneConsumer };

template <Sm90Schedule kSchedule>
struct Sm90Schedules {
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedPingpongFP8FastAccum;
  using Epilogue = cutlass::epilogue::TmaWarpSpecialized;
};
template <>
struct Sm90Schedules<Sm90Schedule::kCooperative> {
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8FastAccum;
  using Epilogue = cutlass::epilogue::TmaWarpSpecializedCooperative;
};
template <>
struct Sm90Schedules<Sm90Schedule::kOneConsumer> {
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedFP8FastAccum;
  using Epilogue = cutlass::epilogue::TmaWarpSpecialized;
};

// Tile and cluster are in the kernel's own terms: with kSwapped, kTileM runs over N and kTileN over
// M.
template <class ElementD, int kTileM, int kTileN, int kTileK, int kClusterM, int kClusterN,
          Sm90Schedule kSchedule, bool kSwapped, int kSwizzle = 1>
struct Sm90Fp8
    : CollectiveGemm<cutlass::arch::Sm90, ElementD,
                     cute::Shape<cute::Int<kTileM>, cute::Int<kTileN>, cute::Int<kTileK>>,
                     cute::Shape<cute::Int<kClusterM>, cute::Int<kClusterN>, cute::_1>,
                     typename Sm90Schedules<kSchedule>::Mainloop,
                     typename Sm90Schedules<kSchedule>::Epilogue, kSwapped> {
  using Gate = gates::scaled_mm_sm90;

  static size_t workspace_bytes(const ScaledMmArgs& args, const ScaledMmDevice& device) {
    return Sm90Fp8::workspace(args, device);
  }

  static Status launch(const char* name, const void* kernel, const ScaledMmArgs& args,
                       const ScaledMmDevice& device) {
    return Sm90Fp8::start(name, kernel, args, device, kSwizzle);
  }
};

}  // namespace kernelpkg
