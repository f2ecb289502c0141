// Results on their way out: fp32 to the 16-bit type that the call asks for, decided at run time so
// that one instance serves both.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cutlass/array.h"
#include "cutlass/numeric_conversion.h"

namespace kernelpkg {

// What 16-bit outputs and biases are called where their type is not known yet. Nothing computes
// with it: only its size counts.
using Carrier = cutlass::bfloat16_t;

__device__ __forceinline__ float from_bits16(uint16_t bits, bool half) {
  return half ? __half2float(__ushort_as_half(bits)) : __uint_as_float(uint32_t{bits} << 16);
}

// Rounds to nearest even. `half` is the same for all threads.
template <int kSize>
__device__ __forceinline__ cutlass::Array<Carrier, kSize> to_bits16(
    const cutlass::Array<float, kSize>& values, bool half) {
  cutlass::Array<Carrier, kSize> out;
  if (half) {
    const auto converted = cutlass::NumericArrayConverter<cutlass::half_t, float, kSize>{}(values);
    out = reinterpret_cast<const cutlass::Array<Carrier, kSize>&>(converted);
  } else {
    out = cutlass::NumericArrayConverter<Carrier, float, kSize>{}(values);
  }
  return out;
}

}  // namespace kernelpkg
