// Data-centre Blackwell (10.x): tcgen05 on FP8 with accumulators in tensor memory, operands by TMA,
// tiles handed out by cluster launch control. Scales in blocks are applied to the sum of every 128
// values of K, which is added up in fp32.
#pragma once

#include "scaled_mm/collective.cuh"

namespace kernelpkg {

// kMultiprocessors: one block computes a tile, or a pair of them in a cluster shares each MMA.
template <int kMultiprocessors, Scales kScales>
struct Sm100Schedules {
  static_assert(kMultiprocessors == 1 || kMultiprocessors == 2);
  static constexpr bool kPair = kMultiprocessors == 2;
  using Epilogue = cute::conditional_t<kPair, cutlass::epilogue::TmaWarpSpecialized2Sm,
                                       cutlass::epilogue::TmaWarpSpecialized1Sm>;
  using Plain = cute::conditional_t<kPair, cutlass::gemm::KernelTmaWarpSpecialized2SmSm100,
                                    cutlass::gemm::KernelTmaWarpSpecialized1SmSm100>;
  using Blocks =
      cute::conditional_t<kPair, cutlass::gemm::KernelTmaWarpSpecializedBlockwise2SmSm100,
                          cutlass::gemm::KernelTmaWarpSpecializedBlockwise1SmSm100>;
  using Mainloop = cute::conditional_t<kScales == Scales::kBlock, Blocks, Plain>;
};

// A tile is what one MMA covers: with a pair, its rows are shared by two blocks.
template <class ElementAct, Scales kScales, int kTileM, int kTileN, int kTileK, int kClusterM,
          int kClusterN, int kMultiprocessors, bool kSwapped>
struct Sm100Fp8
    : CollectiveGemm<cutlass::arch::Sm100, ElementAct, kScales,
                     cute::Shape<cute::Int<kTileM>, cute::Int<kTileN>, cute::Int<kTileK>>,
                     cute::Shape<cute::Int<kClusterM>, cute::Int<kClusterN>, cute::_1>,
                     typename Sm100Schedules<kMultiprocessors, kScales>::Mainloop,
                     typename Sm100Schedules<kMultiprocessors, kScales>::Epilogue, kSwapped> {
  using Gate = gates::scaled_mm_sm100;
  static_assert(kClusterM % kMultiprocessors == 0, "a pair of blocks lies in one cluster");

  static size_t workspace_bytes(const ScaledMmArgs& args, const ScaledMmDevice& device) {
    return Sm100Fp8::workspace(args, device);
  }

  // A weight larger than the L2 is read from memory again and again, unless rows of tiles that
  // share a part of it run together.
  static Status launch(const char* name, const void* kernel, const ScaledMmArgs& args,
                       const ScaledMmDevice& device) {
    const bool weight_fits = int64_t{args.n} * args.k <= device.l2_bytes;
    return Sm100Fp8::start(name, kernel, args, device, /*swizzle=*/weight_fits ? 1 : 8);
  }
};

}  // namespace kernelpkg
