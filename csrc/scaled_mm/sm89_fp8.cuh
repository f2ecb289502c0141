// Ada (8.9): warp-level FP8 MMA, operands by cp.async in several stages. The evidence build
// compiles the same template for 9.0a, where the assembler widens the operands to fp16.
#pragma once

#include "common/limits.h"
#include "cutlass/gemm/gemm.h"
#include "cutlass/gemm/kernel/default_gemm_universal_with_visitor.h"
#include "cutlass/gemm/threadblock/threadblock_swizzle.h"
#include "scaled_mm/kernel.cuh"
#include "scaled_mm/operands.cuh"
#include "scaled_mm/output.cuh"

// After the others: it relies on what they include.
#include "cutlass/epilogue/threadblock/fusion/visitors.hpp"

namespace kernelpkg {

// Takes the accumulators of the threadblock epilogue, where a thread holds eight neighbouring
// columns of a row, computes c = a_scale * (b_scale * acc) + bias in fp32 and stores 16 bytes.
// Scales are one value or a vector by the step (0 or 1) that indices are multiplied with. Where N
// is no multiple of eight the last store of a row runs into the columns from N to ldc; scales and
// bias are not read there.
template <class ThreadMap>
struct Sm89ScaleBiasStore {
  static constexpr int kVector = ThreadMap::kElementsPerAccess;
  static constexpr int kColumns = ThreadMap::Iterations::kColumn;
  static_assert(kVector == 8, "eight 16-bit values make one 16-byte store");
  using Values = cutlass::Array<float, kVector>;
  using Store = cutlass::AlignedArray<Carrier, kVector>;

  struct Arguments {
    const float* a_scales = nullptr;
    const float* b_scales = nullptr;
    const uint16_t* bias = nullptr;
    Carrier* c = nullptr;
    int64_t ldc = 0;
    int a_step = 0;
    int b_step = 0;
    bool half = false;  // fp16 rather than bf16, for the bias and the result
  };
  using Params = Arguments;
  struct SharedStorage {};

  template <class ProblemShape>
  static constexpr Params to_underlying_arguments(const ProblemShape&, const Arguments& args,
                                                  void*) {
    return args;
  }

  CUTLASS_HOST_DEVICE Sm89ScaleBiasStore() {}
  CUTLASS_HOST_DEVICE Sm89ScaleBiasStore(const Params& params, const SharedStorage&)
      : params_(&params) {}

  // Places(vector, column, row, step) is the (m, n, batch) of one value of this thread.
  template <class Places>
  struct Callbacks : cutlass::epilogue::threadblock::EmptyCallbacks {
    CUTLASS_DEVICE Callbacks(const Places& places, int m, int n, const Params* params)
        : places_(places), m_(m), n_(n), params_(params) {}

    // Every row of the thread has the same columns: their scales and biases are read once.
    CUTLASS_DEVICE void begin_epilogue() {
      CUTLASS_PRAGMA_UNROLL
      for (int column = 0; column < kColumns; ++column) {
        const int first = cute::get<1>(places_(0, column, 0, 0));
        CUTLASS_PRAGMA_UNROLL
        for (int i = 0; i < kVector; ++i) {
          const int n = first + i;
          const bool inside = n < n_;
          b_scales_[column][i] = inside ? params_->b_scales[int64_t{n} * params_->b_step] : 0.0f;
          bias_[column][i] = inside && params_->bias != nullptr
                                 ? from_bits16(params_->bias[n], params_->half)
                                 : 0.0f;
        }
      }
    }

    template <class Accumulator>
    CUTLASS_DEVICE Accumulator visit(int step, int row, int column, int, const Accumulator& acc) {
      const auto place = places_(0, column, row, step);
      const int m = cute::get<0>(place);
      const int n = cute::get<1>(place);
      if (m < m_ && n < n_) {
        const float a_scale = params_->a_scales[int64_t{m} * params_->a_step];
        Values out;
        CUTLASS_PRAGMA_UNROLL
        for (int i = 0; i < kVector; ++i) {
          out[i] = fmaf(a_scale, b_scales_[column][i] * acc[i], bias_[column][i]);
        }
        Store store;
        static_cast<cutlass::Array<Carrier, kVector>&>(store) = to_bits16(out, params_->half);
        *reinterpret_cast<Store*>(params_->c + m * params_->ldc + n) = store;
      }
      return acc;
    }

    Places places_;
    int m_;
    int n_;
    const Params* params_;
    Values b_scales_[kColumns];
    Values bias_[kColumns];
  };

  template <class ProblemShape>
  CUTLASS_DEVICE auto get_callbacks(cutlass::gemm::GemmCoord tile, int thread,
                                    ProblemShape problem) {
    auto places = cute::group_modes<3, 6>(
        ThreadMap::partition(cute::make_identity_tensor(problem), thread, tile));
    return Callbacks<decltype(places)>(places, cute::get<0>(problem), cute::get<1>(problem),
                                       params_);
  }

  const Params* params_ = nullptr;
};

template <class Gate_, class ElementAct, Scales kScales, int kTileM, int kTileN, int kTileK,
          int kWarpM, int kWarpN, int kWarpK, int kStages>
struct Sm89Fp8Base {
  static_assert(kScales == Scales::kVector, "scales in blocks have no kernel on 8.9");
  using Gate = Gate_;
  using TileShape = cutlass::gemm::GemmShape<kTileM, kTileN, kTileK>;
  using WarpShape = cutlass::gemm::GemmShape<kWarpM, kWarpN, kWarpK>;
  using ThreadMap =
      cutlass::epilogue::threadblock::OutputTileThreadLayout<TileShape, WarpShape, Carrier, 8, 1>;
  using Epilogue = Sm89ScaleBiasStore<ThreadMap>;
  // Tiles of up to eight rows of tiles that share columns of b run together.
  using Swizzle = cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<8>;
  using Kernel = typename cutlass::gemm::kernel::DefaultGemmWithVisitor<
      ElementAct, cutlass::layout::RowMajor, cutlass::ComplexTransform::kNone, 16, E4M3,
      cutlass::layout::ColumnMajor, cutlass::ComplexTransform::kNone, 16, Carrier,
      cutlass::layout::RowMajor, 8, float, float, cutlass::arch::OpClassTensorOp,
      cutlass::arch::Sm89, TileShape, WarpShape, cutlass::gemm::GemmShape<16, 8, 32>, Epilogue,
      Swizzle, kStages, cutlass::arch::OpMultiplyAddFastAccum, 1>::GemmKernel;

  using Params = typename Kernel::Params;
  using SharedStorage = typename Kernel::SharedStorage;
  static constexpr int kThreads = Kernel::kThreadCount;
  static constexpr int kMinBlocks = 1;
  static constexpr size_t kSharedMemory = sizeof(SharedStorage);
  static_assert(kSharedMemory <= kSharedMemoryPortable,
                "a tile admitted to 8.9 must fit the shared memory of an 8.9 block");

  static CUTLASS_DEVICE void run(const Params& params, char* shared_memory) {
    Kernel kernel;
    kernel(params, *reinterpret_cast<SharedStorage*>(shared_memory));
  }

  static size_t workspace_bytes(const ScaledMmArgs&, const ScaledMmDevice&) { return 0; }

  static Status launch(const char* name, const void* kernel, const ScaledMmArgs& args,
                       const ScaledMmDevice& device) {
    typename Epilogue::Arguments epilogue{args.a_scales,
                                          args.b_scales,
                                          static_cast<const uint16_t*>(args.bias),
                                          static_cast<Carrier*>(args.c),
                                          args.ldc,
                                          args.a_scale_row != 0,
                                          args.b_scale_column != 0,
                                          args.c_type == DType::kFloat16};
    // c and d stay null here: the epilogue above does the storing.
    typename Kernel::Arguments arguments(
        cutlass::gemm::GemmUniversalMode::kGemm, {args.m, args.n, args.k}, 1, epilogue, args.a,
        args.b, nullptr, nullptr, 0, 0, 0, 0, args.lda, args.ldb, args.ldc, args.ldc);
    Params params(arguments, device.sm_count, 1);
    return scaled_mm_launch(name, kernel, params.get_grid_dims(), dim3(kThreads), dim3(1),
                            kSharedMemory, &params, args.stream);
  }
};

template <class ElementAct, Scales kScales, int... kShape>
using Sm89Fp8 = Sm89Fp8Base<gates::scaled_mm_sm89, ElementAct, kScales, kShape...>;

template <class ElementAct, Scales kScales, int... kShape>
using Sm89Fp8Standin = Sm89Fp8Base<gates::evidence_sm90, ElementAct, kScales, kShape...>;

}  // namespace kernelpkg
