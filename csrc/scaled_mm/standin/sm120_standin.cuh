// The SM12x kernel on Hopper. Of that kernel only two parts are not legal there: the MMA
// instruction in its .kind::f8f6f4 form, and the scheduler that relies on cluster launch control.
// Both are replaced; all else is the shipped source. What runs shows that indexing, pipeline,
// scales, epilogue and dispatch are right, and nothing about speed on SM12x.
#pragma once

#include "scaled_mm/sm120_fp8.cuh"

namespace kernelpkg {

// The same multiplication without .kind, which every target from sm_89 up takes. For sm_90a the
// assembler widens the operands to fp16 and multiplies those.
template <class ElementA, class ElementB>
struct PlainFp8Mma {
  static_assert(cute::is_same_v<ElementB, E4M3>, "weights are e4m3");
  using DRegisters = float[4];
  using ARegisters = uint32_t[4];
  using BRegisters = uint32_t[2];
  using CRegisters = float[4];

  static CUTE_HOST_DEVICE void fma(float& d0, float& d1, float& d2, float& d3, const uint32_t& a0,
                                   const uint32_t& a1, const uint32_t& a2, const uint32_t& a3,
                                   const uint32_t& b0, const uint32_t& b1, const float& c0,
                                   const float& c1, const float& c2, const float& c3) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    if constexpr (cute::is_same_v<ElementA, E5M2>) {
      asm volatile(
          "mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, "
          "%7}, {%8, %9}, {%10, %11, %12, %13};"
          : "=f"(d0), "=f"(d1), "=f"(d2), "=f"(d3)
          : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(c0), "f"(c1), "f"(c2),
            "f"(c3));
    } else {
      asm volatile(
          "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, "
          "%7}, {%8, %9}, {%10, %11, %12, %13};"
          : "=f"(d0), "=f"(d1), "=f"(d2), "=f"(d3)
          : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(c0), "f"(c1), "f"(c2),
            "f"(c3));
    }
#else
    CUTE_INVALID_CONTROL_PATH("PlainFp8Mma needs sm_89 or later");
#endif
  }
};

// Asks for the tile scheduler that strides over the grid.
struct StandinScheduler {};

// Puts another MMA instruction into a mainloop, whichever it is, and leaves its layouts as they
// are.
template <class Mainloop>
struct WithPlainMma;

template <class Policy, class TileShape, class ElementA, class StrideA, class ElementB,
          class StrideB, class Atom, class AtomLayout, class Permutation, class... Copies>
struct WithPlainMma<cutlass::gemm::collective::CollectiveMma<
    Policy, TileShape, ElementA, StrideA, ElementB, StrideB,
    cute::TiledMMA<Atom, AtomLayout, Permutation>, Copies...>> {
  using Type = cutlass::gemm::collective::CollectiveMma<
      Policy, TileShape, ElementA, StrideA, ElementB, StrideB,
      cute::TiledMMA<cute::MMA_Atom<PlainFp8Mma<ElementA, ElementB>>, AtomLayout, Permutation>,
      Copies...>;
};

struct StandinMainloop {
  template <class Mainloop>
  using Of = typename WithPlainMma<Mainloop>::Type;
};

// No swizzle: where the shipped scheduler leaves a remainder in its order, this one fills it up
// with tiles outside c.
struct Sm120Standin {
  using Gate = gates::evidence_sm90;
  using SchedulerTag = StandinScheduler;
  using MainloopChange = StandinMainloop;
  static constexpr int kSwizzle = 1;
};

template <class ElementAct, Scales kScales, int kTileM, int kTileN, int kTileK,
          Sm120Schedule kSchedule, SplitK kSplit = SplitK::kNo>
using Sm120Fp8Standin =
    Sm120Fp8Base<Sm120Standin, ElementAct, kScales, kTileM, kTileN, kTileK, kSchedule, kSplit>;

}  // namespace kernelpkg

namespace cute {

// Fragments of the 16x8x32 byte MMA: the type of the bytes does not move them.
template <class ElementA, class ElementB>
struct MMA_Traits<kernelpkg::PlainFp8Mma<ElementA, ElementB>>
    : MMA_Traits<SM80_16x8x32_S32S8S8S32_TN> {
  using ValTypeA = uint8_t;
  using ValTypeB = uint8_t;
  using ValTypeC = float;
  using ValTypeD = float;
};

}  // namespace cute

namespace cutlass::gemm::kernel::detail {

template <class TileShape, class ClusterShape, uint32_t kStages>
struct TileSchedulerSelector<kernelpkg::StandinScheduler, arch::Sm120, TileShape, ClusterShape,
                             kStages> {
  using Scheduler = PersistentTileSchedulerSm90;
};

}  // namespace cutlass::gemm::kernel::detail
