// The microscaled SM12x kernels on Hopper. Two parts of them are not legal there: mma.sync with
// .block_scale, and the scheduler that relies on cluster launch control. Both are replaced, and for
// NVFP4 the operands are described as bytes, since TMA has no 4-bit elements before family 10. All
// else is the shipped source. What runs shows that indexing, scale layout, pipeline, epilogue and
// dispatch are right, and nothing about speed on SM12x.
//
// How .block_scale keeps its scales (m16n8kK, a quad being lanes 4q to 4q + 3): the scales of row q
// lie in the quad's lanes 0 and 2, those of row q + 8 in 1 and 3, those of column q in all four. A
// lane has all scales of its row or column along K in one register, the lowest K in the lowest
// byte.
#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "cute/atom/mma_traits_sm120.hpp"
#include "scaled_mm/sm120_blockscaled.cuh"
#include "scaled_mm/standin/sm120_standin.cuh"

namespace kernelpkg::blockscaled_standin {

using cute::SM120::BLOCKSCALED::mma_unpack;  // takes apart operands zipped with their scales

// Lane `index` of the caller's quad.
__device__ __forceinline__ uint32_t from_quad(uint32_t value, int index) {
  return __shfl_sync(0xffffffffu, value, (threadIdx.x & 28u) + index);
}

// value * 2^(a + b - 254), exact unless the result leaves the normal numbers of fp32. Code 255 is
// NaN.
__device__ __forceinline__ float scale_by_powers(float value, uint32_t a, uint32_t b) {
  if (a == 255u || b == 255u) return __int_as_float(0x7fffffff);
  return ldexpf(value, static_cast<int>(a + b) - 254);
}

// MXFP8: one scale per row and column for all 32 values of K. The sum of 32 products runs from zero
// by the plain FP8 MMA; it is multiplied by a power of two, which rounds nothing, and added in
// fp32, which rounds once, as an accumulator does.
struct MxFp8Mma {
  using DRegisters = float[4];
  using ARegisters = uint32_t[4];
  using BRegisters = uint32_t[2];
  using CRegisters = float[4];
  using SFARegisters = uint8_t[1];
  using SFBRegisters = uint8_t[1];

  static CUTE_HOST_DEVICE void fma(float& d0, float& d1, float& d2, float& d3, const uint32_t& a0,
                                   const uint32_t& a1, const uint32_t& a2, const uint32_t& a3,
                                   const uint32_t& b0, const uint32_t& b1, const float& c0,
                                   const float& c1, const float& c2, const float& c3,
                                   const uint8_t& sfa, const uint8_t& sfb) {
#if defined(__CUDA_ARCH__)
    const float zero = 0.0f;
    float sum[4];
    PlainFp8Mma<E4M3, E4M3>::fma(sum[0], sum[1], sum[2], sum[3], a0, a1, a2, a3, b0, b1, zero, zero,
                                 zero, zero);
    const uint32_t row = from_quad(sfa, 0), row8 = from_quad(sfa, 1);
    // Lane i of a quad holds columns 2i and 2i + 1 of d, whose scales the quads of these numbers
    // have.
    const int first = static_cast<int>(threadIdx.x & 3u) * 8;
    const uint32_t column = __shfl_sync(0xffffffffu, uint32_t{sfb}, first);
    const uint32_t column1 = __shfl_sync(0xffffffffu, uint32_t{sfb}, first + 4);
    d0 = c0 + scale_by_powers(sum[0], row, column);
    d1 = c1 + scale_by_powers(sum[1], row, column1);
    d2 = c2 + scale_by_powers(sum[2], row8, column);
    d3 = c3 + scale_by_powers(sum[3], row8, column1);
#else
    CUTE_INVALID_CONTROL_PATH("MxFp8Mma is device code");
#endif
  }
};

// Scale `index` of a register of four e4m3 ones, twice, in fp16: exact, as fp16 holds all of e4m3.
__device__ __forceinline__ __half2 scale_pair(uint32_t scales, int index) {
  const uint32_t code = scales >> (8 * index) & 0xffu;
  const auto pair = static_cast<__nv_fp8x2_storage_t>(code | code << 8);
  return __half2(__nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3));
}

// The codes 2 * pair and 2 * pair + 1 of a word of eight, times their scale, in fp16. Sign,
// exponent and mantissa of a code are put where fp16 has them: 2^-14 of its value, subnormals
// alike. Both products are exact: a code has 2 significant bits, a scale 4, and |code * scale| is 0
// or within 2^-10 .. 2688.
__device__ __forceinline__ uint32_t widen(uint32_t word, int pair, __half2 scale) {
  const uint32_t codes = word >> (8 * pair);
  const uint32_t two = (codes & 0xfu) << 12 | (codes & 0xf0u) << 24;
  const uint32_t bits = (two & 0x80008000u) | (two & 0x70007000u) >> 3;
  const __half2 value = __hmul2(reinterpret_cast<const __half2&>(bits), __float2half2_rn(16384.0f));
  const __half2 product = __hmul2(value, scale);
  return reinterpret_cast<const uint32_t&>(product);
}

// NVFP4: a scale per 16 values of K. Lane i of a quad has the codes 8i to 8i + 7 and 32 + 8i to
// 32 + 8i + 7 of its rows and its column, which is what four fp16 MMAs of 16 values of K take from
// it if their K is permuted: the order of a sum's terms is free, as long as a and b agree.
struct NvFp4Mma {
  using DRegisters = float[4];
  using ARegisters = uint32_t[4];
  using BRegisters = uint32_t[2];
  using CRegisters = float[4];
  using SFARegisters = uint32_t[1];
  using SFBRegisters = uint32_t[1];

  static CUTE_HOST_DEVICE void fma(float& d0, float& d1, float& d2, float& d3, const uint32_t& a0,
                                   const uint32_t& a1, const uint32_t& a2, const uint32_t& a3,
                                   const uint32_t& b0, const uint32_t& b1, const float& c0,
                                   const float& c1, const float& c2, const float& c3,
                                   const uint32_t& sfa, const uint32_t& sfb) {
#if defined(__CUDA_ARCH__)
    const uint32_t row = from_quad(sfa, 0), row8 = from_quad(sfa, 1);
    const int low = static_cast<int>(threadIdx.x & 3u) / 2, high = low + 2;
    const __half2 row_low = scale_pair(row, low), row_high = scale_pair(row, high);
    const __half2 row8_low = scale_pair(row8, low), row8_high = scale_pair(row8, high);
    const __half2 column_low = scale_pair(sfb, low), column_high = scale_pair(sfb, high);
    float d[4] = {c0, c1, c2, c3};
    CUTLASS_PRAGMA_UNROLL
    for (int pair = 0; pair < 4; ++pair) {
      cute::SM80_16x8x16_F32F16F16F32_TN::fma(
          d[0], d[1], d[2], d[3], widen(a0, pair, row_low), widen(a1, pair, row8_low),
          widen(a2, pair, row_high), widen(a3, pair, row8_high), widen(b0, pair, column_low),
          widen(b1, pair, column_high), d[0], d[1], d[2], d[3]);
    }
    d0 = d[0];
    d1 = d[1];
    d2 = d[2];
    d3 = d[3];
#else
    CUTE_INVALID_CONTROL_PATH("NvFp4Mma is device code");
#endif
  }
};

}  // namespace kernelpkg::blockscaled_standin

namespace cute {

// The layouts of the instructions that are stood in for, NVFP4's with a byte of two codes as the
// unit: 32 bytes of K, a scale per 8 of them.
template <>
struct MMA_Traits<kernelpkg::blockscaled_standin::MxFp8Mma>
    : MMA_Traits<SM120::BLOCKSCALED::SM120_16x8x32_TN_VS<float_e4m3_t, float_e4m3_t, float,
                                                         float_ue8m0_t, 32>> {};

template <>
struct MMA_Traits<kernelpkg::blockscaled_standin::NvFp4Mma>
    : MMA_Traits<SM120::BLOCKSCALED::SM120_16x8x32_TN_VS<float_e4m3_t, float_e4m3_t, float,
                                                         float_ue4m3_t, 8>> {};

}  // namespace cute

namespace kernelpkg::blockscaled_standin {

// A layout of scales in shared memory, with K counted in bytes.
template <class Layout>
struct ScalesOfBytes;

template <class Rows, auto kVector, class Count, class... Rest, class Stride>
struct ScalesOfBytes<cute::Layout<
    cute::tuple<Rows, cute::tuple<cute::tuple<cute::C<kVector>, Count>, Rest...>>, Stride>> {
  using Type = cute::Layout<
      cute::tuple<Rows, cute::tuple<cute::tuple<cute::Int<kVector / 2>, Count>, Rest...>>, Stride>;
};

// Another MMA instruction in a mainloop, and nothing else changed: MXFP8.
template <class Mainloop>
struct Replaced;

template <class Policy, class TileShape, class StrideA, class StrideB, class Atom, class AtomLayout,
          class Permutation, class... Copies>
struct Replaced<cutlass::gemm::collective::CollectiveMma<
    Policy, TileShape, cute::tuple<cutlass::float_e4m3_t, cutlass::float_ue8m0_t>, StrideA,
    cute::tuple<cutlass::float_e4m3_t, cutlass::float_ue8m0_t>, StrideB,
    cute::TiledMMA<Atom, AtomLayout, Permutation>, Copies...>> {
  using Operand = cute::tuple<cutlass::float_e4m3_t, cutlass::float_ue8m0_t>;
  using Type = cutlass::gemm::collective::CollectiveMma<
      Policy, TileShape, Operand, StrideA, Operand, StrideB,
      cute::TiledMMA<cute::MMA_Atom<MxFp8Mma>, AtomLayout, Permutation>, Copies...>;
};

// NVFP4: the instruction, and K counted in bytes wherever a layout has it.
template <class Policy, class TileM, class TileN, class TileK, class StrideA, class ScalesA,
          class StrideB, class ScalesB, class Atom, class AtomLayout, class PermM, class PermN,
          class PermK, class GmemA, class SmemA, class SmemScalesA, class CopyA, class CopyScalesA,
          class TransformA, class GmemB, class SmemB, class SmemScalesB, class CopyB,
          class CopyScalesB, class TransformB>
struct Replaced<cutlass::gemm::collective::CollectiveMma<
    Policy, cute::tuple<TileM, TileN, TileK>,
    cute::tuple<cutlass::float_e2m1_t, cutlass::float_ue4m3_t>, cute::tuple<StrideA, ScalesA>,
    cute::tuple<cutlass::float_e2m1_t, cutlass::float_ue4m3_t>, cute::tuple<StrideB, ScalesB>,
    cute::TiledMMA<Atom, AtomLayout, cute::tuple<PermM, PermN, PermK>>, GmemA,
    cute::tuple<SmemA, SmemScalesA>, cute::tuple<CopyA, CopyScalesA>, TransformA, GmemB,
    cute::tuple<SmemB, SmemScalesB>, cute::tuple<CopyB, CopyScalesB>, TransformB>> {
  using Operand = cute::tuple<uint8_t, cutlass::float_ue4m3_t>;
  using Bytes = cute::Int<TileK::value / 2>;
  using Scales = typename cutlass::detail::Sm1xxBlockScaledConfig<8>::LayoutSF;
  using Smem =
      decltype(cutlass::gemm::collective::detail::sm120_rr_smem_selector<uint8_t, Bytes>());
  using Copy = cute::Copy_Atom<cute::SM75_U32x4_LDSM_N, uint8_t>;
  using Type = cutlass::gemm::collective::CollectiveMma<
      Policy, cute::tuple<TileM, TileN, Bytes>, Operand, cute::tuple<StrideA, Scales>, Operand,
      cute::tuple<StrideB, Scales>,
      cute::TiledMMA<cute::MMA_Atom<NvFp4Mma>, AtomLayout,
                     cute::tuple<PermM, PermN, cute::Int<PermK::value / 2>>>,
      GmemA, cute::tuple<Smem, typename ScalesOfBytes<SmemScalesA>::Type>,
      cute::tuple<Copy, CopyScalesA>, TransformA, GmemB,
      cute::tuple<Smem, typename ScalesOfBytes<SmemScalesB>::Type>, cute::tuple<Copy, CopyScalesB>,
      TransformB>;
};

// No swizzle, for the reason Sm120Standin gives.
struct Build {
  using Gate = gates::evidence_sm90;
  using SchedulerTag = StandinScheduler;
  static constexpr int kSwizzle = 1;
  struct MainloopChange {
    template <class Mainloop>
    using Of = typename Replaced<Mainloop>::Type;
  };
};

}  // namespace kernelpkg::blockscaled_standin

namespace kernelpkg {

template <class Format, int kTileK>
using Sm120BlockScaledStandin = Sm120BlockScaledBase<blockscaled_standin::Build, Format, kTileK>;

}  // namespace kernelpkg
