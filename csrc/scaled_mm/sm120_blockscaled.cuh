// Microscaled GEMM of the SM12x family: mma.sync with .block_scale, which multiplies each product
// of 32 (MXFP8) or 16 (NVFP4) values by the scales of its row and column inside the tensor core.
// Operands and scales come by TMA, tiles are handed out by cluster launch control.
#pragma once

#include "common/limits.h"
#include "scaled_mm/blockscaled.h"
#include "scaled_mm/collective.cuh"

namespace kernelpkg {

struct Mxfp8 {
  static constexpr MicroFormat kFormat = MicroFormat::kMxfp8;
  using Operand = cutlass::mx_float8_t<cutlass::float_e4m3_t>;
};

struct Nvfp4 {
  static constexpr MicroFormat kFormat = MicroFormat::kNvfp4;
  using Operand = cutlass::nv_float4_t<cutlass::float_e2m1_t>;
};

// What differs between the shipped kernels and their stand-ins.
struct Sm120BlockScaledNative {
  using Gate = gates::scaled_mm_sm120;
  using SchedulerTag = void;
  using MainloopChange = NativeMainloop;
  static constexpr int kSwizzle = 8;
};

// The tile is 128 rows by 128 columns, shared by two warp groups: scales come in tiles of 128 rows,
// which CUTLASS does not split.
template <class Build, class Format, int kTileK>
struct Sm120BlockScaledBase {
  using Gate = typename Build::Gate;
  using TileShape = cute::Shape<cute::_128, cute::_128, cute::Int<kTileK>>;
  using ClusterShape = cute::Shape<cute::_1, cute::_1, cute::_1>;
  using Epilogue = ScaledMmEpilogue<TileShape, /*kSwapped=*/false>;
  static constexpr int kBits = bits_of(Format::kFormat);
  static constexpr int kAlignment = 128 / kBits;  // codes in 16 bytes

  using CollectiveEpilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm120, cutlass::arch::OpClassBlockScaledTensorOp, TileShape, ClusterShape,
      cute::Shape<cute::_64, cute::_32>, float, float, void, cutlass::layout::RowMajor, 8, Carrier,
      cutlass::layout::RowMajor, 8, cutlass::epilogue::collective::EpilogueScheduleAuto,
      typename Epilogue::Callbacks>::CollectiveOp;

  using CollectiveMainloop = typename Build::MainloopChange::template Of<
      typename cutlass::gemm::collective::CollectiveBuilder<
          cutlass::arch::Sm120, cutlass::arch::OpClassBlockScaledTensorOp, typename Format::Operand,
          cutlass::layout::RowMajor, kAlignment, typename Format::Operand,
          cutlass::layout::ColumnMajor, kAlignment, float, TileShape, ClusterShape,
          cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
              sizeof(typename CollectiveEpilogue::SharedStorage))>,
          cutlass::gemm::KernelTmaWarpSpecializedCooperative>::CollectiveOp>;

  using Kernel =
      cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, CollectiveMainloop,
                                           CollectiveEpilogue, typename Build::SchedulerTag>;
  using Params = typename Kernel::Params;
  static constexpr int kThreads = Kernel::MaxThreadsPerBlock;
  static constexpr int kMinBlocks = Kernel::MinBlocksPerMultiprocessor;
  static constexpr size_t kSharedMemory = Kernel::SharedStorageSize;
  static_assert(kSharedMemory <= kSharedMemoryPortable,
                "a tile admitted to 12.x must fit the shared memory of a 12.x block");

  static CUTLASS_DEVICE void run(const Params& params, char* shared_memory) {
    Kernel kernel;
    kernel(params, shared_memory);
  }

  static typename Kernel::Arguments arguments(const BlockScaledMmArgs& args,
                                              const ScaledMmDevice& device) {
    using Element = typename CollectiveMainloop::ElementA;
    using Scale = typename CollectiveMainloop::ElementSF;
    using ScaleConfig = typename CollectiveMainloop::Sm1xxBlkScaledConfig;
    static_assert(cute::is_same_v<Element, typename CollectiveMainloop::ElementB>);
    // The mainloop counts K in elements of its own, which the stand-in makes whole bytes.
    constexpr int kElementBits = cute::sizeof_bits_v<Element>;
    const auto elements = static_cast<int>(int64_t{args.k} * kBits / kElementBits);
    typename Kernel::Arguments out{};
    out.mode = cutlass::gemm::GemmUniversalMode::kGemm;
    out.problem_shape = cute::make_shape(args.m, args.n, elements, 1);
    out.mainloop.ptr_A = static_cast<const Element*>(args.a);
    out.mainloop.ptr_B = static_cast<const Element*>(args.b);
    out.mainloop.dA = {args.lda * 8 / kElementBits, cute::_1{}, 0};
    out.mainloop.dB = {args.ldb * 8 / kElementBits, cute::_1{}, 0};
    out.mainloop.ptr_SFA = static_cast<const Scale*>(args.a_scales);
    out.mainloop.ptr_SFB = static_cast<const Scale*>(args.b_scales);
    out.mainloop.layout_SFA = ScaleConfig::tile_atom_to_shape_SFA(out.problem_shape);
    out.mainloop.layout_SFB = ScaleConfig::tile_atom_to_shape_SFB(out.problem_shape);
    // The epilogue of scaled_mm: a null scale reads as its default, and alpha is that of a's scale.
    out.epilogue.thread = {
        {nullptr, args.alpha, {}},
        {nullptr, 1.0f, {}},
        {static_cast<const uint16_t*>(args.bias), uint16_t{0}, {}},
        {args.c_type == DType::kFloat16, args.bias != nullptr},
    };
    out.epilogue.ptr_D = static_cast<Carrier*>(args.c);
    out.epilogue.dD = {args.ldc, cute::_1{}, 0};
    out.hw_info.device_id = args.device;
    out.hw_info.sm_count = device.sm_count;
    // A weight larger than the L2 is read from memory again and again, unless rows of tiles that
    // share a part of it run together.
    const bool weight_fits = args.n * args.ldb <= device.l2_bytes;
    out.scheduler.max_swizzle_size = weight_fits ? 1 : Build::kSwizzle;
    return out;
  }

  static size_t workspace_bytes(const BlockScaledMmArgs& args, const ScaledMmDevice& device) {
    return Kernel::get_workspace_size(arguments(args, device));
  }

  static Status launch(const char* name, const void* kernel, const BlockScaledMmArgs& args,
                       const ScaledMmDevice& device) {
    const auto arguments_ = arguments(args, device);
    if (Kernel::get_workspace_size(arguments_) > args.workspace_bytes) {
      return scaled_mm_refusal(name,
                               "the workspace is smaller than blockscaled_mm_workspace_bytes()");
    }
    Params params = Kernel::to_underlying_arguments(arguments_, args.workspace);
    for (const void* descriptor : {
             static_cast<const void*>(params.mainloop.tma_load_a.get_tma_descriptor()),
             static_cast<const void*>(params.mainloop.tma_load_b.get_tma_descriptor()),
             static_cast<const void*>(params.mainloop.tma_load_sfa.get_tma_descriptor()),
             static_cast<const void*>(params.mainloop.tma_load_sfb.get_tma_descriptor()),
             static_cast<const void*>(params.epilogue.tma_store_d.get_tma_descriptor()),
         }) {
      if (!scaled_mm_encoded(descriptor)) {
        return scaled_mm_refusal(
            name, "the driver refused a TMA descriptor of an operand, of its scales or of c");
      }
    }
    return scaled_mm_launch(name, kernel, Kernel::get_grid_shape(params), Kernel::get_block_shape(),
                            dim3(1, 1, 1), kSharedMemory, &params, args.stream);
  }
};

template <class Format, int kTileK>
using Sm120BlockScaled = Sm120BlockScaledBase<Sm120BlockScaledNative, Format, kTileK>;

}  // namespace kernelpkg

// Defines the tag NAME of an instance from its type, the last argument, and adds it to REGISTRY().
#define KERNELPKG_BLOCKSCALED_INSTANCE(NAME, REGISTRY, CONFIGURATION, FORMAT, ...)               \
  namespace kernelpkg::scaled_mm_instances {                                                     \
  struct NAME : __VA_ARGS__ {                                                                    \
    static constexpr const char* kName = #NAME;                                                  \
  };                                                                                             \
  static const BlockScaledInstance NAME##_instance{                                              \
      #NAME,                                                                                     \
      CONFIGURATION,                                                                             \
      MicroFormat::FORMAT,                                                                       \
      NAME::kSharedMemory,                                                                       \
      reinterpret_cast<const void*>(&scaled_mm_kernel<NAME>),                                    \
      [](const BlockScaledMmArgs& args, const ScaledMmDevice& device) {                          \
        return NAME::workspace_bytes(args, device);                                              \
      },                                                                                         \
      [](const BlockScaledMmArgs& args, const ScaledMmDevice& device) {                          \
        return NAME::launch(NAME::kName, reinterpret_cast<const void*>(&scaled_mm_kernel<NAME>), \
                            args, device);                                                       \
      }};                                                                                        \
  static const BlockScaledRegistrar NAME##_registrar{REGISTRY(), NAME##_instance};               \
  }
