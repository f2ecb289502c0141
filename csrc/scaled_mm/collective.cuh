// What the sm90 and the sm120 kernel share: both are CUTLASS collectives fed by TMA.
#pragma once

#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/gemm/kernel/tile_scheduler.hpp"
#include "scaled_mm/epilogue.cuh"
#include "scaled_mm/kernel.cuh"

namespace kernelpkg {

using Fp8 = cutlass::float_e4m3_t;

// Leaves the mainloop as the builder made it; the stand-in puts another in its place.
struct NativeMainloop {
  template <class Mainloop>
  using Of = Mainloop;
};

// kSwapped: c^T = b^T a^T is computed, so that the weight fills the rows of the tile and a small M
// its columns. Memory is the same: a row-major matrix is its transpose in column-major.
template <class ArchTag, class ElementD, class TileShape_, class ClusterShape_,
          class KernelSchedule, class EpilogueSchedule, bool kSwapped, class SchedulerTag = void,
          class MainloopChange = NativeMainloop>
struct CollectiveGemm {
  using TileShape = TileShape_;
  using ClusterShape = ClusterShape_;
  using Epilogue = ScaledMmEpilogue<TileShape, ElementD, kSwapped>;
  using LayoutD =
      cute::conditional_t<kSwapped, cutlass::layout::ColumnMajor, cutlass::layout::RowMajor>;

  using CollectiveEpilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      ArchTag, cutlass::arch::OpClassTensorOp, TileShape, ClusterShape,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, void, LayoutD, 8, ElementD,
      LayoutD, 8, EpilogueSchedule, typename Epilogue::Callbacks>::CollectiveOp;

  using CollectiveMainloop =
      typename MainloopChange::template Of<typename cutlass::gemm::collective::CollectiveBuilder<
          ArchTag, cutlass::arch::OpClassTensorOp, Fp8, cutlass::layout::RowMajor, 16, Fp8,
          cutlass::layout::ColumnMajor, 16, float, TileShape, ClusterShape,
          cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
              sizeof(typename CollectiveEpilogue::SharedStorage))>,
          KernelSchedule>::CollectiveOp>;

  using Kernel =
      cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, CollectiveMainloop,
                                           CollectiveEpilogue, SchedulerTag>;
  using Params = typename Kernel::Params;
  static constexpr int kThreads = Kernel::MaxThreadsPerBlock;
  static constexpr int kMinBlocks = Kernel::MinBlocksPerMultiprocessor;
  static constexpr size_t kSharedMemory = Kernel::SharedStorageSize;

  static CUTLASS_DEVICE void run(const Params& params, char* shared_memory) {
    Kernel kernel;
    kernel(params, shared_memory);
  }

  static typename Kernel::Arguments arguments(const ScaledMmArgs& args,
                                              const ScaledMmDevice& device, int swizzle) {
    typename Kernel::Arguments out{};
    out.mode = cutlass::gemm::GemmUniversalMode::kGemm;
    const auto* a = static_cast<const Fp8*>(args.a);
    const auto* b = static_cast<const Fp8*>(args.b);
    if constexpr (kSwapped) {
      out.problem_shape = {args.n, args.m, args.k, 1};
      out.mainloop.ptr_A = b;
      out.mainloop.dA = {args.ldb, cute::_1{}, 0};
      out.mainloop.ptr_B = a;
      out.mainloop.dB = {args.lda, cute::_1{}, 0};
      out.epilogue.dD = {cute::_1{}, args.ldc, 0};
    } else {
      out.problem_shape = {args.m, args.n, args.k, 1};
      out.mainloop.ptr_A = a;
      out.mainloop.dA = {args.lda, cute::_1{}, 0};
      out.mainloop.ptr_B = b;
      out.mainloop.dB = {args.ldb, cute::_1{}, 0};
      out.epilogue.dD = {args.ldc, cute::_1{}, 0};
    }
    out.epilogue.thread = Epilogue::arguments(args);
    out.epilogue.ptr_D = static_cast<ElementD*>(args.c);
    out.hw_info.device_id = args.device;
    out.hw_info.sm_count = device.sm_count;
    out.scheduler.max_swizzle_size = swizzle;
    return out;
  }

  static size_t workspace(const ScaledMmArgs& args, const ScaledMmDevice& device) {
    return Kernel::get_workspace_size(arguments(args, device, 1));
  }

  static Status start(const char* name, const void* kernel, const ScaledMmArgs& args,
                      const ScaledMmDevice& device, int swizzle) {
    const auto arguments_ = arguments(args, device, swizzle);
    if (!Kernel::can_implement(arguments_)) {
      return scaled_mm_refusal(
          name, "a row of an operand or of c is not a whole number of 16-byte units");
    }
    if (Kernel::get_workspace_size(arguments_) > args.workspace_bytes) {
      return scaled_mm_refusal(name, "the workspace is smaller than scaled_mm_workspace_bytes()");
    }
    Params params = Kernel::to_underlying_arguments(arguments_, args.workspace);
    if (!scaled_mm_encoded(params.mainloop.tma_load_a.get_tma_descriptor()) ||
        !scaled_mm_encoded(params.mainloop.tma_load_b.get_tma_descriptor()) ||
        !scaled_mm_encoded(params.epilogue.tma_store_d.get_tma_descriptor())) {
      return scaled_mm_refusal(name, "the driver refused a TMA descriptor of an operand or of c");
    }
    const dim3 cluster(cute::size<0>(ClusterShape{}), cute::size<1>(ClusterShape{}), 1);
    return scaled_mm_launch(name, kernel, Kernel::get_grid_shape(params), Kernel::get_block_shape(),
                            cluster, kSharedMemory, &params, args.stream);
  }
};

}  // namespace kernelpkg
