// Warp-level tensor-core instructions: ldmatrix and mma.sync, float32 accumulation.
#pragma once

#include <cstdint>

#include "common/dtypes.h"

namespace kernelpkg {

// Four 8 x 8 matrices of 16-bit elements (8 rows of 16 bytes each); lanes 8 i .. 8 i + 7 give the
// row addresses of matrix i. For 8-bit elements the same bytes are the four quarters of a 16 x 32
// operand.
__device__ __forceinline__ void load_matrix_x4(uint32_t (&fragment)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(address)
               : "memory");
}

// acc[16 x 8] = a[16 x K] b[K x 8] + c with K = 16 for 16-bit and 32 for 8-bit elements. The e4m3
// form carries no .kind: native on 8.9 and 12.x, emulated by ptxas on 9.0 to 11.0, refused
// below 8.9.
#define KERNELPKG_MMA(shape_and_types)                                                      \
  asm("mma.sync.aligned." shape_and_types                                                   \
      " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"                \
      : "=f"(acc[0]), "=f"(acc[1]), "=f"(acc[2]), "=f"(acc[3])                              \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c0), "f"(c1), \
        "f"(c2), "f"(c3))

template <DType kType>
__device__ __forceinline__ void mma_onto(float (&acc)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2], float c0, float c1, float c2,
                                         float c3) {
  static_assert(kType == DType::kFloat16 || kType == DType::kBFloat16 ||
                kType == DType::kFloat8E4M3);
  if constexpr (kType == DType::kFloat16) {
    KERNELPKG_MMA("m16n8k16.row.col.f32.f16.f16.f32");
  } else if constexpr (kType == DType::kBFloat16) {
    KERNELPKG_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
  } else {
    KERNELPKG_MMA("m16n8k32.row.col.f32.e4m3.e4m3.f32");
  }
}

#undef KERNELPKG_MMA

template <DType kType>
__device__ __forceinline__ void mma(float (&acc)[4], const uint32_t (&a)[4],
                                    const uint32_t (&b)[2]) {
  mma_onto<kType>(acc, a, b, acc[0], acc[1], acc[2], acc[3]);
}

// Starts a sum: spares the moves that would clear the accumulators.
template <DType kType>
__device__ __forceinline__ void mma_from_zero(float (&acc)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[2]) {
  mma_onto<kType>(acc, a, b, 0.0f, 0.0f, 0.0f, 0.0f);
}

}  // namespace kernelpkg
