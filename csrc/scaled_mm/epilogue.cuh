// The epilogue of the collective kernels (sm90, sm120): c = a_scale * (b_scale * acc) + bias in
// fp32.
//
// A scale is one value or a vector, decided at run time by a bool stride: 0 reads the same value
// for every row or column. A null bias reads as zero. So one instance serves every pairing.
#pragma once

#include "cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp"
#include "scaled_mm/scaled_mm.h"

namespace kernelpkg {

// The arithmetic: a node over three broadcast values.
template <class ElementD>
struct ScaleAndBias : cutlass::epilogue::fusion::Sm90VisitorImpl<> {
  using cutlass::epilogue::fusion::Sm90VisitorImpl<>::Sm90VisitorImpl;

  struct Consumer : cutlass::epilogue::fusion::EmptyConsumerStoreCallbacks {
    template <int kSize>
    CUTLASS_DEVICE cutlass::Array<ElementD, kSize> visit(
        const cutlass::Array<float, kSize>& acc, int, int, int,
        const cutlass::Array<float, kSize>& a_scale, const cutlass::Array<float, kSize>& b_scale,
        const cutlass::Array<float, kSize>& bias) {
      cutlass::Array<float, kSize> out;
      CUTLASS_PRAGMA_UNROLL
      for (int i = 0; i < kSize; ++i) out[i] = fmaf(a_scale[i], b_scale[i] * acc[i], bias[i]);
      return cutlass::NumericArrayConverter<ElementD, float, kSize>{}(out);
    }
  };

  template <bool kReferenceSource, class... Args>
  CUTLASS_DEVICE auto get_consumer_store_callbacks(
      const cutlass::epilogue::fusion::ConsumerStoreArgs<Args...>&) {
    return Consumer{};
  }
};

// kSwapped: the kernel computes c transposed, so its rows are channels and its columns are tokens.
template <class TileShape, class ElementD, bool kSwapped>
struct ScaledMmEpilogue {
  using RowStride = cute::Stride<cute::_0, bool, int64_t>;
  using ColStride = cute::Stride<bool, cute::_0, int64_t>;
  using RowScale =
      cutlass::epilogue::fusion::Sm90RowBroadcast<0, TileShape, float, float, RowStride>;
  using ColScale =
      cutlass::epilogue::fusion::Sm90ColBroadcast<0, TileShape, float, float, ColStride>;
  using RowBias =
      cutlass::epilogue::fusion::Sm90RowBroadcast<0, TileShape, ElementD, float,
                                                  cute::Stride<cute::_0, cute::_1, int64_t>>;
  using ColBias =
      cutlass::epilogue::fusion::Sm90ColBroadcast<0, TileShape, ElementD, float,
                                                  cute::Stride<cute::_1, cute::_0, int64_t>>;

  using AScale = cute::conditional_t<kSwapped, RowScale, ColScale>;
  using BScale = cute::conditional_t<kSwapped, ColScale, RowScale>;
  using Bias = cute::conditional_t<kSwapped, ColBias, RowBias>;

  using Callbacks =
      cutlass::epilogue::fusion::Sm90EVT<ScaleAndBias<ElementD>, AScale, BScale, Bias>;

  static typename Callbacks::Arguments arguments(const ScaledMmArgs& args) {
    typename AScale::Arguments a{args.a_scales, 0.0f, {}};
    typename BScale::Arguments b{args.b_scales, 0.0f, {}};
    if constexpr (kSwapped) {
      cute::get<1>(a.dRow) = args.a_scale_per_token;
      cute::get<0>(b.dCol) = args.b_scale_per_channel;
    } else {
      cute::get<0>(a.dCol) = args.a_scale_per_token;
      cute::get<1>(b.dRow) = args.b_scale_per_channel;
    }
    typename Bias::Arguments bias{static_cast<const ElementD*>(args.bias), ElementD(0), {}};
    return {a, b, bias, {}};
  }
};

}  // namespace kernelpkg
