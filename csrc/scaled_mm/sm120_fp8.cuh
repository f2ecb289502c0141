// The SM12x family: warp-level FP8 MMA (.kind::f8f6f4, which needs a target with the a or f
// suffix), operands by TMA, tiles handed out by cluster launch control. Scales in blocks are
// applied to the sum of every 128 values of K, which is added up in fp32.
#pragma once

#include "common/limits.h"
#include "scaled_mm/collective.cuh"
#include "scaled_mm/split_k.cuh"

namespace kernelpkg {

// The pingpong schedule lets two warp groups work on two small tiles; the cooperative one shares
// one tile of at least 128 rows.
enum class Sm120Schedule { kPingpong, kCooperative };

template <Sm120Schedule kSchedule, Scales kScales>
struct Sm120Schedules {
  static constexpr bool kPingpong = kSchedule == Sm120Schedule::kPingpong;
  using Plain = cute::conditional_t<kPingpong, cutlass::gemm::KernelTmaWarpSpecializedPingpong,
                                    cutlass::gemm::KernelTmaWarpSpecializedCooperative>;
  using Blocks =
      cute::conditional_t<kPingpong, cutlass::gemm::KernelTmaWarpSpecializedBlockwisePingpongSm120,
                          cutlass::gemm::KernelTmaWarpSpecializedBlockwiseCooperativeSm120>;
  using Mainloop = cute::conditional_t<kScales == Scales::kBlock, Blocks, Plain>;
};

// What differs between the shipped kernels and their stand-ins.
struct Sm120Native {
  using Gate = gates::scaled_mm_sm120;
  using SchedulerTag = void;
  using MainloopChange = NativeMainloop;
  static constexpr int kSwizzle = 8;
};

// A tile has one weight scale per k-block. CUTLASS lets every lane of the copying warp write it, the
// same value to the same place, which racecheck rightly calls a hazard. Here lane 0 does: to the
// others the weight shows no scales.
template <class Mainloop>
struct OneLaneCopiesWeightScale : Mainloop {
  static_assert(Mainloop::ScaleNsPerTile == 1, "a tile as wide as a block of the weight");

  template <class Inputs, class BlockCoord, class KTileIterator>
  CUTLASS_DEVICE void load(const typename Mainloop::Params& params,
                           typename Mainloop::MainloopPipeline pipeline,
                           typename Mainloop::PipelineState write, const Inputs& inputs,
                           const BlockCoord& coord, KTileIterator k_tile, int k_tiles, int lane,
                           uint32_t rank_in_cluster,
                           typename Mainloop::TensorStorage& shared_tensors) {
    auto [a, b, a_scales, b_scales] = inputs;
    const int columns = cute::get<0>(b_scales.shape());
    auto one_lane = cute::make_tensor(
        b_scales.data(),
        cute::make_layout(cute::replace<0>(b_scales.shape(), lane == 0 ? columns : 0),
                          b_scales.stride()));
    Mainloop::load(params, pipeline, write, cute::make_tuple(a, b, a_scales, one_lane), coord,
                   k_tile, k_tiles, lane, rank_in_cluster, shared_tensors);
  }
};

template <class Build, Scales kScales>
struct Sm120MainloopChange {
  template <class Mainloop>
  using Built = typename Build::MainloopChange::template Of<Mainloop>;
  template <class Mainloop, Scales = kScales>
  struct Choice {
    using Type = Built<Mainloop>;
  };
  template <class Mainloop>
  struct Choice<Mainloop, Scales::kBlock> {
    using Type = OneLaneCopiesWeightScale<Built<Mainloop>>;
  };
  template <class Mainloop>
  using Of = typename Choice<Mainloop>::Type;
};

template <class Build, class ElementAct, Scales kScales, int kTileM, int kTileN, int kTileK,
          Sm120Schedule kSchedule, SplitK kSplit = SplitK::kNo>
struct Sm120Fp8Base
    : CollectiveGemm<
          cutlass::arch::Sm120, ElementAct, kScales,
          cute::Shape<cute::Int<kTileM>, cute::Int<kTileN>, cute::Int<kTileK>>,
          cute::Shape<cute::_1, cute::_1, cute::_1>,
          typename Sm120Schedules<kSchedule, kScales>::Mainloop,
          cutlass::epilogue::collective::EpilogueScheduleAuto, /*kSwapped=*/false,
          cute::Shape<cute::Int<cute::min(kTileM, 64)>, cute::Int<cute::min(kTileN, 32)>>,
          typename Build::SchedulerTag, Sm120MainloopChange<Build, kScales>,
          cute::conditional_t<
              kSplit == SplitK::kYes, PartialSums,
              ScaledMmEpilogue<cute::Shape<cute::Int<kTileM>, cute::Int<kTileN>, cute::Int<kTileK>>,
                               false>>> {
  using Gate = typename Build::Gate;
  static constexpr bool kSplits = kSplit == SplitK::kYes;
  static_assert(Sm120Fp8Base::kSharedMemory <= kSharedMemoryPortable,
                "a tile admitted to 12.x must fit the shared memory of a 12.x block");

  static size_t workspace_bytes(const ScaledMmArgs& args, const ScaledMmDevice& device) {
    if constexpr (kSplits) {
      return split_plan(args, device.sm_count, kTileM, kTileN).bytes;
    } else {
      return Sm120Fp8Base::workspace(args, device);
    }
  }

  // A weight larger than the L2 is read from memory again and again, unless rows of tiles that
  // share a part of it run together.
  static Status launch(const char* name, const void* kernel, const ScaledMmArgs& args,
                       const ScaledMmDevice& device) {
    const bool weight_fits = int64_t{args.n} * args.k <= device.l2_bytes;
    const int swizzle = weight_fits ? 1 : Build::kSwizzle;
    if constexpr (kSplits) {
      return launch_split(name, kernel, args, device, swizzle);
    } else {
      return Sm120Fp8Base::start(name, kernel, args, device, swizzle);
    }
  }

  // The pieces of K are a batch: each starts where the one before ends.
  static Status launch_split(const char* name, const void* kernel, const ScaledMmArgs& args,
                             const ScaledMmDevice& device, int swizzle) {
    const SplitPlan plan = split_plan(args, device.sm_count, kTileM, kTileN);
    if (plan.bytes > args.workspace_bytes) {
      return scaled_mm_refusal(name, "the workspace is smaller than scaled_mm_workspace_bytes()");
    }
    auto first = Sm120Fp8Base::arguments(args, device, swizzle);
    const int piece = args.k / plan.pieces;
    first.problem_shape = {args.m, args.n, piece, plan.pieces};
    // One piece needs no stride, and any K may be one piece, where TMA takes multiples of 16 alone.
    const int stride = plan.pieces > 1 ? piece : 0;
    cute::get<2>(first.mainloop.dA) = stride;
    cute::get<2>(first.mainloop.dB) = stride;
    if constexpr (kScales == Scales::kBlock) {
      first.mainloop.layout_SFA =
          block_scale_layout<1>(args.m, piece, args.a_scale_row, args.a_scale_block, plan.pieces);
      first.mainloop.layout_SFB = block_scale_layout<kScaleBlock>(
          args.n, piece, args.b_scale_column, args.b_scale_block, plan.pieces);
    }
    first.epilogue.ptr_D = static_cast<float*>(args.workspace);
    first.epilogue.dD = {plan.columns, cute::_1{}, args.m * plan.columns};
    KERNELPKG_RETURN_IF_ERROR(
        Sm120Fp8Base::start(name, kernel, first, /*workspace=*/nullptr, args.stream));
    return split_sum<Gate>(args, plan, device);
  }
};

template <class ElementAct, Scales kScales, int kTileM, int kTileN, int kTileK,
          Sm120Schedule kSchedule, SplitK kSplit = SplitK::kNo>
using Sm120Fp8 =
    Sm120Fp8Base<Sm120Native, ElementAct, kScales, kTileM, kTileN, kTileK, kSchedule, kSplit>;

}  // namespace kernelpkg
