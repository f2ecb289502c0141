// Packed 16-bit arithmetic and conversions, written on raw 32-bit words.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "common/dtypes.h"

namespace kernelpkg {

// Keeps a value in its register: left alone, the compiler computes what is loop invariant again in
// every turn of a long loop, to save registers that nobody needs.
template <class V>
__device__ __forceinline__ void keep(V& value) {
  static_assert(sizeof(V) == 4 || sizeof(V) == 8);
  if constexpr (sizeof(V) == 4) {
    asm volatile("" : "+r"(value));
  } else {
    asm volatile("" : "+l"(value));
  }
}

// (word & mask) | bits as the one instruction it is; left alone, two immediates make the compiler
// take two.
__device__ __forceinline__ uint32_t and_or(uint32_t word, uint32_t mask, uint32_t bits) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(word), "r"(mask), "r"(bits));
  return result;
}

__device__ __forceinline__ uint32_t half2_sub(uint32_t a, uint32_t b) {
  uint32_t result;
  asm("sub.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}

__device__ __forceinline__ uint32_t half2_mul(uint32_t a, uint32_t b) {
  uint32_t result;
  asm("mul.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}

__device__ __forceinline__ uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
}

__device__ __forceinline__ uint32_t bfloat2_fma(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
}

// Two 16-bit values of type kType as float32; exact.
template <DType kType>
__device__ __forceinline__ float2 unpack2(uint32_t word) {
  static_assert(kType == DType::kFloat16 || kType == DType::kBFloat16);
  if constexpr (kType == DType::kBFloat16) {
    return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
  } else {
    return __half22float2(*reinterpret_cast<const __half2*>(&word));
  }
}

// One of the two, the upper where `upper` is true.
template <DType kType>
__device__ __forceinline__ float unpack_one(uint32_t word, bool upper) {
  static_assert(kType == DType::kFloat16 || kType == DType::kBFloat16);
  if constexpr (kType == DType::kBFloat16) {
    return __uint_as_float(__byte_perm(word, 0, upper ? 0x3244 : 0x1044));
  } else {
    return __half2float(__ushort_as_half(static_cast<uint16_t>(upper ? word >> 16 : word)));
  }
}

// Two float32 values rounded to nearest even, `low` in the lower half.
template <DType kType>
__device__ __forceinline__ uint32_t pack2(float low, float high) {
  static_assert(kType == DType::kFloat16 || kType == DType::kBFloat16);
  if constexpr (kType == DType::kBFloat16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

}  // namespace kernelpkg
