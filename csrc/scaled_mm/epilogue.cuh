// The epilogue of the collective kernels (sm90, sm100, sm120): c = a_scale * (b_scale * acc) + bias
// in fp32.
//
// A scale is one value or a vector, decided at run time by a bool stride: 0 reads the same value
// for every row or column. A null scale reads as one (scales in blocks were applied within the sum)
// and a null bias is left out. So one instance serves every pairing.
#pragma once

#include "cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp"
#include "scaled_mm/output.cuh"
#include "scaled_mm/scaled_mm.h"

namespace kernelpkg {

// The arithmetic: a node over three broadcast values.
struct ScaleAndBias {
  struct SharedStorage {};
  struct Arguments {
    bool half = false;  // fp16 rather than bf16, for the bias and the result
    bool biased = false;
  };
  using Params = Arguments;

  template <class ProblemShape>
  static constexpr Params to_underlying_arguments(const ProblemShape&, const Arguments& args,
                                                  void*) {
    return args;
  }
  template <class ProblemShape>
  static bool can_implement(const ProblemShape&, const Arguments&) {
    return true;
  }
  template <class ProblemShape>
  static size_t get_workspace_size(const ProblemShape&, const Arguments&) {
    return 0;
  }
  template <class ProblemShape>
  static cutlass::Status initialize_workspace(const ProblemShape&, const Arguments&, void*,
                                              cudaStream_t, cutlass::CudaHostAdapter* = nullptr) {
    return cutlass::Status::kSuccess;
  }

  CUTLASS_HOST_DEVICE ScaleAndBias() {}
  CUTLASS_HOST_DEVICE ScaleAndBias(const Params& params, const SharedStorage&) : params_(params) {}

  CUTLASS_DEVICE bool is_producer_load_needed() const { return false; }
  CUTLASS_DEVICE bool is_C_load_needed() const { return false; }

  template <class... Args>
  CUTLASS_DEVICE auto get_producer_load_callbacks(
      const cutlass::epilogue::fusion::ProducerLoadArgs<Args...>&) {
    return cutlass::epilogue::fusion::EmptyProducerLoadCallbacks{};
  }

  struct Consumer : cutlass::epilogue::fusion::EmptyConsumerStoreCallbacks {
    CUTLASS_DEVICE explicit Consumer(const Params& from) : params(from) {}

    template <int kSize>
    CUTLASS_DEVICE cutlass::Array<Carrier, kSize> visit(
        const cutlass::Array<float, kSize>& acc, int, int, int,
        const cutlass::Array<float, kSize>& a_scale, const cutlass::Array<float, kSize>& b_scale,
        const cutlass::Array<uint16_t, kSize>& bias) {
      cutlass::Array<float, kSize> out;
      CUTLASS_PRAGMA_UNROLL
      for (int i = 0; i < kSize; ++i) out[i] = a_scale[i] * (b_scale[i] * acc[i]);
      // Zeros instead of none would cost a large c as much again.
      if (params.biased) {
        CUTLASS_PRAGMA_UNROLL
        for (int i = 0; i < kSize; ++i) {
          out[i] = fmaf(a_scale[i], b_scale[i] * acc[i], from_bits16(bias[i], params.half));
        }
      }
      return to_bits16(out, params.half);
    }

    Params params;
  };

  template <bool kReferenceSource, class... Args>
  CUTLASS_DEVICE auto get_consumer_store_callbacks(
      const cutlass::epilogue::fusion::ConsumerStoreArgs<Args...>&) {
    return Consumer{params_};
  }

  Params params_;
};

// kSwapped: the kernel computes c transposed, so its rows are channels and its columns are tokens.
template <class TileShape, bool kSwapped>
struct ScaledMmEpilogue {
  using Output = Carrier;
  using RowStride = cute::Stride<cute::_0, bool, int64_t>;
  using ColStride = cute::Stride<bool, cute::_0, int64_t>;
  using RowScale =
      cutlass::epilogue::fusion::Sm90RowBroadcast<0, TileShape, float, float, RowStride>;
  using ColScale =
      cutlass::epilogue::fusion::Sm90ColBroadcast<0, TileShape, float, float, ColStride>;
  using RowBias =
      cutlass::epilogue::fusion::Sm90RowBroadcast<0, TileShape, uint16_t, uint16_t,
                                                  cute::Stride<cute::_0, cute::_1, int64_t>>;
  using ColBias =
      cutlass::epilogue::fusion::Sm90ColBroadcast<0, TileShape, uint16_t, uint16_t,
                                                  cute::Stride<cute::_1, cute::_0, int64_t>>;

  using AScale = cute::conditional_t<kSwapped, RowScale, ColScale>;
  using BScale = cute::conditional_t<kSwapped, ColScale, RowScale>;
  using Bias = cute::conditional_t<kSwapped, ColBias, RowBias>;

  using Callbacks = cutlass::epilogue::fusion::Sm90EVT<ScaleAndBias, AScale, BScale, Bias>;

  static typename Callbacks::Arguments arguments(const ScaledMmArgs& args) {
    typename AScale::Arguments a{args.block_scales ? nullptr : args.a_scales, 1.0f, {}};
    typename BScale::Arguments b{args.block_scales ? nullptr : args.b_scales, 1.0f, {}};
    if constexpr (kSwapped) {
      cute::get<1>(a.dRow) = args.a_scale_row != 0;
      cute::get<0>(b.dCol) = args.b_scale_column != 0;
    } else {
      cute::get<0>(a.dCol) = args.a_scale_row != 0;
      cute::get<1>(b.dRow) = args.b_scale_column != 0;
    }
    typename Bias::Arguments bias{static_cast<const uint16_t*>(args.bias), uint16_t{0}, {}};
    return {a, b, bias, {args.c_type == DType::kFloat16, args.bias != nullptr}};
  }
};

}  // namespace kernelpkg
