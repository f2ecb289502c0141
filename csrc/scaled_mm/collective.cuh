// What the sm90, sm100 and sm120 kernels share: all are CUTLASS collectives fed by TMA.
#pragma once

#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/gemm/kernel/tile_scheduler.hpp"
#include "scaled_mm/epilogue.cuh"
#include "scaled_mm/kernel.cuh"
#include "scaled_mm/operands.cuh"

namespace kernelpkg {

// Leaves the mainloop as the builder made it; the stand-in puts another in its place.
struct NativeMainloop {
  template <class Mainloop>
  using Of = Mainloop;
};

// Where the scales of an operand lie, one per kRows of its rows (or columns) and kScaleBlock values
// of K: any two strides, so that no caller has to lay them out anew.
template <int kRows>
using BlockScaleLayout = cute::Layout<
    cute::Shape<cute::Shape<cute::Int<kRows>, int32_t>,
                cute::Shape<cute::Int<kScaleBlock>, int32_t>, int32_t>,
    cute::Stride<cute::Stride<cute::_0, int64_t>, cute::Stride<cute::_0, int64_t>, int64_t>>;

// pieces: of K, where a GEMM splits it; k is that of one piece.
template <int kRows>
BlockScaleLayout<kRows> block_scale_layout(int rows, int k, int64_t row_stride,
                                           int64_t block_stride, int pieces = 1) {
  const int count = (rows + kRows - 1) / kRows, blocks = (k + kScaleBlock - 1) / kScaleBlock;
  return cute::make_layout(
      cute::make_shape(cute::make_shape(cute::Int<kRows>{}, int32_t{count}),
                       cute::make_shape(cute::Int<kScaleBlock>{}, int32_t{blocks}),
                       int32_t{pieces}),
      cute::make_stride(cute::make_stride(cute::_0{}, row_stride),
                        cute::make_stride(cute::_0{}, block_stride), blocks * block_stride));
}

// What one block computes of a tile: half of its rows where two multiprocessors share each MMA.
template <class TileShape, class KernelSchedule>
using BlockTile = decltype(cute::shape_div(
    TileShape{},
    cute::conditional_t<cute::is_base_of_v<cutlass::gemm::KernelSchedule2Sm, KernelSchedule>,
                        cute::Shape<cute::_2, cute::_1, cute::_1>,
                        cute::Shape<cute::_1, cute::_1, cute::_1>>{}));

// kSwapped: c^T = b^T a^T is computed, so that the weight fills the rows of the tile and a small M
// its columns. Memory is the same: a row-major matrix is its transpose in column-major. Tile and
// cluster are in the kernel's own terms: swapped, their M runs over N and their N over M.
template <class ArchTag, class ElementAct, Scales kScales, class TileShape_, class ClusterShape_,
          class KernelSchedule, class EpilogueSchedule, bool kSwapped,
          class EpilogueTile = cutlass::epilogue::collective::EpilogueTileAuto,
          class SchedulerTag = void, class MainloopChange = NativeMainloop,
          class Epilogue_ = ScaledMmEpilogue<BlockTile<TileShape_, KernelSchedule>, kSwapped>>
struct CollectiveGemm {
  using TileShape = TileShape_;
  using ClusterShape = ClusterShape_;
  using Epilogue = Epilogue_;
  using Output = typename Epilogue::Output;
  static constexpr int kOutputs = 16 / sizeof(Output);  // of 16 bytes, on which rows start
  using LayoutD =
      cute::conditional_t<kSwapped, cutlass::layout::ColumnMajor, cutlass::layout::RowMajor>;

  using CollectiveEpilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      ArchTag, cutlass::arch::OpClassTensorOp, TileShape, ClusterShape, EpilogueTile, float, float,
      void, LayoutD, kOutputs, Output, LayoutD, kOutputs, EpilogueSchedule,
      typename Epilogue::Callbacks>::CollectiveOp;

  static constexpr bool kBlocks = kScales == Scales::kBlock;
  static constexpr int kRowsPerScale = kSwapped ? kScaleBlock : 1;
  static constexpr int kColumnsPerScale = kSwapped ? 1 : kScaleBlock;
  using ElementA = cute::conditional_t<kSwapped, E4M3, ElementAct>;
  using ElementB = cute::conditional_t<kSwapped, ElementAct, E4M3>;
  using LayoutA =
      cute::conditional_t<kBlocks,
                          cute::tuple<cutlass::layout::RowMajor, BlockScaleLayout<kRowsPerScale>>,
                          cutlass::layout::RowMajor>;
  using LayoutB = cute::conditional_t<
      kBlocks, cute::tuple<cutlass::layout::ColumnMajor, BlockScaleLayout<kColumnsPerScale>>,
      cutlass::layout::ColumnMajor>;

  using CollectiveMainloop =
      typename MainloopChange::template Of<typename cutlass::gemm::collective::CollectiveBuilder<
          ArchTag, cutlass::arch::OpClassTensorOp, ElementA, LayoutA, 16, ElementB, LayoutB, 16,
          float, TileShape, ClusterShape,
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

  // swizzle: rows of tiles that run together at most.
  static typename Kernel::Arguments arguments(const ScaledMmArgs& args,
                                              const ScaledMmDevice& device, int swizzle) {
    typename Kernel::Arguments out{};
    out.mode = cutlass::gemm::GemmUniversalMode::kGemm;
    const int rows = kSwapped ? args.n : args.m, columns = kSwapped ? args.m : args.n;
    out.problem_shape = {rows, columns, args.k, 1};
    out.mainloop.ptr_A = static_cast<const ElementA*>(kSwapped ? args.b : args.a);
    out.mainloop.ptr_B = static_cast<const ElementB*>(kSwapped ? args.a : args.b);
    out.mainloop.dA = {kSwapped ? args.ldb : args.lda, cute::_1{}, 0};
    out.mainloop.dB = {kSwapped ? args.lda : args.ldb, cute::_1{}, 0};
    if constexpr (kBlocks) {
      out.mainloop.ptr_SFA = kSwapped ? args.b_scales : args.a_scales;
      out.mainloop.ptr_SFB = kSwapped ? args.a_scales : args.b_scales;
      out.mainloop.layout_SFA = block_scale_layout<kRowsPerScale>(
          rows, args.k, kSwapped ? args.b_scale_column : args.a_scale_row,
          kSwapped ? args.b_scale_block : args.a_scale_block);
      out.mainloop.layout_SFB = block_scale_layout<kColumnsPerScale>(
          columns, args.k, kSwapped ? args.a_scale_row : args.b_scale_column,
          kSwapped ? args.a_scale_block : args.b_scale_block);
    }
    if constexpr (kSwapped) {
      out.epilogue.dD = {cute::_1{}, args.ldc, 0};
    } else {
      out.epilogue.dD = {args.ldc, cute::_1{}, 0};
    }
    out.epilogue.thread = Epilogue::arguments(args);
    out.epilogue.ptr_D = static_cast<Output*>(args.c);
    out.hw_info.device_id = args.device;
    out.hw_info.sm_count = device.sm_count;
    out.scheduler.max_swizzle_size = swizzle;
    return out;
  }

  static size_t workspace(const ScaledMmArgs& args, const ScaledMmDevice& device) {
    return Kernel::get_workspace_size(arguments(args, device, 1));
  }

  // TMA stops at any K and N by itself as long as rows start on 16 bytes, which the dispatcher
  // checks; CUTLASS's own can_implement would ask for extents that are multiples as well.
  static Status start(const char* name, const void* kernel, const ScaledMmArgs& args,
                      const ScaledMmDevice& device, int swizzle) {
    const auto ready = arguments(args, device, swizzle);
    if (Kernel::get_workspace_size(ready) > args.workspace_bytes) {
      return scaled_mm_refusal(name, "the workspace is smaller than scaled_mm_workspace_bytes()");
    }
    return start(name, kernel, ready, args.workspace, args.stream);
  }

  static Status start(const char* name, const void* kernel,
                      const typename Kernel::Arguments& arguments, void* workspace,
                      cudaStream_t stream) {
    Params params = Kernel::to_underlying_arguments(arguments, workspace);
    if (!scaled_mm_encoded(params.mainloop.tma_load_a.get_tma_descriptor()) ||
        !scaled_mm_encoded(params.mainloop.tma_load_b.get_tma_descriptor()) ||
        !scaled_mm_encoded(params.epilogue.tma_store_d.get_tma_descriptor())) {
      return scaled_mm_refusal(name, "the driver refused a TMA descriptor of an operand or of c");
    }
    const dim3 cluster(cute::size<0>(ClusterShape{}), cute::size<1>(ClusterShape{}), 1);
    return scaled_mm_launch(name, kernel, Kernel::get_grid_shape(params), Kernel::get_block_shape(),
                            cluster, kSharedMemory, &params, stream);
  }
};

}  // namespace kernelpkg
