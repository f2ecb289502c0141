// The SM12x family: warp-level FP8 MMA (.kind::f8f6f4, which needs a target with the a or f
// suffix), operands by TMA, tiles handed out by cluster launch control.
#pragma once

#include "common/limits.h"
#include "scaled_mm/collective.cuh"

namespace kernelpkg {

// The pingpong schedule lets two warp groups work on two small tiles; the cooperative one shares
// one tile of at least 128 rows.
enum class Sm120Schedule { kPingpong, kCooperative };

template <class Gate_, class ElementD, int kTileM, int kTileN, int kTileK, Sm120Schedule kSchedule,
          class SchedulerTag, int kSwizzle, class MainloopChange>
struct Sm120Fp8Base
    : CollectiveGemm<cutlass::arch::Sm120, ElementD,
                     cute::Shape<cute::Int<kTileM>, cute::Int<kTileN>, cute::Int<kTileK>>,
                     cute::Shape<cute::_1, cute::_1, cute::_1>,
                     cute::conditional_t<kSchedule == Sm120Schedule::kPingpong,
                                         cutlass::gemm::KernelTmaWarpSpecializedPingpong,
                                         cutlass::gemm::KernelTmaWarpSpecializedCooperative>,
                     cutlass::epilogue::collective::EpilogueScheduleAuto, false, SchedulerTag,
                     MainloopChange> {
  using Gate = Gate_;
  using Base = typename Sm120Fp8Base::CollectiveGemm;
  static_assert(Base::kSharedMemory <= kSharedMemoryPortable,
                "a tile admitted to 12.x must fit the shared memory of a 12.x block");

  static size_t workspace_bytes(const ScaledMmArgs& args, const ScaledMmDevice& device) {
    return Base::workspace(args, device);
  }

  static Status launch(const char* name, const void* kernel, const ScaledMmArgs& args,
                       const ScaledMmDevice& device) {
    // A weight larger than the L2 is read from memory again and again, unless rows of tiles that
    // share a part of it run together.
    const bool weight_fits = int64_t{args.n} * args.k <= device.l2_bytes;
    return Base::start(name, kernel, args, device, weight_fits ? 1 : kSwizzle);
  }
};

template <class ElementD, int kTileM, int kTileN, int kTileK, Sm120Schedule kSchedule>
using Sm120Fp8 = Sm120Fp8Base<gates::scaled_mm_sm120, ElementD, kTileM, kTileN, kTileK, kSchedule,
                              void, 8, NativeMainloop>;

}  // namespace kernelpkg
