// marlin_widen: columns of a packed weight as 16-bit numbers, scales included, for a library's
// GEMM. With thousands of rows that is faster than widening each weight once per row tile.
#include <cstdint>

#include "common/guard.cuh"
#include "common/launch.h"
#include "marlin/dequant.cuh"
#include "marlin/helpers.h"

namespace kernelpkg::marlin {
namespace {

struct WidenParams {
  const uint32_t* b;
  const void* scales;
  const uint8_t* zeros;
  uint4* wide;  // [units_n * 32 columns, k_pad]
  float factor;
  int first_unit_n, units_n, units_k;
  int n_pad;
  int group_shift;  // log2 of the rows of K per group; 30 with one group for all of K
};

constexpr int kWidenThreads = 256;
constexpr int kWarpUnits = kPadK / kUnitRows;  // along K, so that all loads are under way at once

// A warp per 32 columns x 128 rows of K; a lane widens eight weights along K of one column into 16
// bytes of the result, four columns of four units.
template <class Gate, DType kOut, WeightFormat kFormat>
__global__ void __launch_bounds__(kWidenThreads)
    marlin_widen_kernel(const __grid_constant__ WidenParams params) {
  if constexpr (!Gate::kDeviceCode) {
    guard_trap();
    return;
  } else {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int warps_k = params.units_k / kWarpUnits;
    const int index = blockIdx.x * (kWidenThreads / 32) + threadIdx.x / 32;
    const int unit_n = index / warps_k, first_unit = (index - unit_n * warps_k) * kWarpUnits;
    if (unit_n >= params.units_n) return;
    const int column_unit = params.first_unit_n + unit_n;
    const int64_t unit =
        (static_cast<int64_t>(column_unit / 2) * params.units_k + first_unit) * 2 + column_unit % 2;
    constexpr int kHalves = is_8bit(kFormat) ? 2 : 1;
    uint4 packed[kWarpUnits][kHalves];
#pragma unroll
    for (int u = 0; u < kWarpUnits; ++u) {
      const uint4* const source =
          reinterpret_cast<const uint4*>(params.b + (unit + 2 * u) * unit_words(kFormat)) + lane;
#pragma unroll
      for (int half = 0; half < kHalves; ++half)
        packed[u][half] = __ldcs(source + half * (kHalfWords / 4));
    }
    const int column = column_unit * kUnitCols + unit_col(g, 0);  // and those two, four, six on
    uint4* const wide =
        params.wide +
        (static_cast<int64_t>(unit_n * kUnitCols + unit_col(g, 0)) * params.units_k + first_unit) *
            (kUnitRows / 8) +
        t;
    const int64_t pitch = static_cast<int64_t>(params.units_k) * (kUnitRows / 8);  // of a column
#pragma unroll
    for (int u = 0; u < kWarpUnits; ++u) {
      const int64_t k = static_cast<int64_t>(first_unit + u) * kUnitRows + 8 * t;
      const int64_t group = k >> params.group_shift;
      const uint4 first = packed[u][0], second = packed[u][kHalves - 1];
      const uint32_t low[4] = {first.x, first.y, first.z, first.w};
      const uint32_t high[4] = {second.x, second.y, second.z, second.w};
#pragma unroll
      for (int tile = 0; tile < 4; ++tile) {
        const int64_t at = kFormat == WeightFormat::kNvfp4
                               ? nvfp4_scale_index(k, column + 2 * tile, params.n_pad)
                               : group * params.n_pad + column + 2 * tile;
        const uint32_t scale = __ldg(static_cast<const uint16_t*>(params.scales) + at);
        uint32_t extra = 0;
        if constexpr (kFormat == WeightFormat::kU4)
          extra = biased_zero<kOut>(
              __ldg(params.zeros + zero_index(group, column + 2 * tile, params.n_pad)), 0);
        if constexpr (kFormat == WeightFormat::kNvfp4) extra = scale * 0x10001u;
        float factor = params.factor;
        if constexpr (kFormat != WeightFormat::kNvfp4) factor *= unpack2<kOut>(scale).x;
        uint32_t out[4];
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          uint32_t pairs[2];
          dequantise_16bit<kOut, kFormat>(pairs, step == 0 ? low[tile] : high[tile], step, extra);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const float2 value = unpack2<kOut>(pairs[i]);
            out[2 * step + i] = pack2<kOut>(value.x * factor, value.y * factor);
          }
        }
        wide[2 * tile * pitch + u * (kUnitRows / 8)] = uint4{out[0], out[1], out[2], out[3]};
      }
    }
  }
}

template <DType kOut, WeightFormat kFormat>
cudaError_t launch(WidenParams params, float output_scale, cudaStream_t stream) {
  params.factor = fragment_scale<kOut, kFormat>() * output_scale;
  constexpr int kWarps = kWidenThreads / 32;
  const int64_t warps = static_cast<int64_t>(params.units_n) * (params.units_k / kWarpUnits);
  const auto kernel = &marlin_widen_kernel<gates::marlin_16bit, kOut, kFormat>;
  const Launch launch(dim3(static_cast<unsigned>((warps + kWarps - 1) / kWarps)), kWidenThreads, 0,
                      false, stream);
  return launch.run(reinterpret_cast<const void*>(kernel), params);
}

template <DType kOut>
cudaError_t launch_format(const WidenParams& params, const MarlinArgs& args) {
  switch (args.b_format) {
    case WeightFormat::kU4B8:
      return launch<kOut, WeightFormat::kU4B8>(params, args.output_scale, args.stream);
    case WeightFormat::kE4M3:
      return launch<kOut, WeightFormat::kE4M3>(params, args.output_scale, args.stream);
    case WeightFormat::kU4:
      return launch<kOut, WeightFormat::kU4>(params, args.output_scale, args.stream);
    case WeightFormat::kU8B128:
      return launch<kOut, WeightFormat::kU8B128>(params, args.output_scale, args.stream);
    case WeightFormat::kNvfp4:
      return launch<kOut, WeightFormat::kNvfp4>(params, args.output_scale, args.stream);
    case WeightFormat::kMxfp4:
      if constexpr (kOut == DType::kBFloat16)
        return launch<kOut, WeightFormat::kMxfp4>(params, args.output_scale, args.stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t launch_widen(const MarlinArgs& args, int first_col, int cols, void* wide) {
  WidenParams params = {};
  params.b = args.b;
  params.scales = args.scales;
  params.zeros = args.zeros;
  params.wide = static_cast<uint4*>(wide);
  params.first_unit_n = first_col / kUnitCols;
  params.units_n = (cols + kUnitCols - 1) / kUnitCols;
  params.units_k = static_cast<int>(padded_k(args.k) / kUnitRows);
  params.n_pad = static_cast<int>(padded_n(args.n));
  params.group_shift = group_shift(args.group_size);
  return args.c_type == DType::kFloat16 ? launch_format<DType::kFloat16>(params, args)
                                        : launch_format<DType::kBFloat16>(params, args);
}

}  // namespace kernelpkg::marlin
