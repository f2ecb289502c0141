// Kernels small enough to compile in a second, one per thing that machine code can say.
#include <cstdint>

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#ifndef SUFFIX
#define SUFFIX
#endif
#define NAME(name) JOIN(name, SUFFIX)

namespace probes {

__device__ inline void fp8_mma(float (&d)[4], const uint32_t* in) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(in[0]), "r"(in[1]), "r"(in[2]), "r"(in[3]), "r"(in[4]), "r"(in[5]));
}

__device__ inline void half_mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void store(float* out, const float (&d)[4]) {
  out[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
}

// Declared FP8: native or emulated, the target decides.
template <int N>
__global__ void NAME(fp8)(float* out, const uint32_t* in) {
  float d[4] = {};
  for (int i = 0; i < N; ++i) fp8_mma(d, in + 6 * i);
  store(out, d);
}
template __global__ void NAME(fp8)<1>(float*, const uint32_t*);
template __global__ void NAME(fp8)<2>(float*, const uint32_t*);

// 16-bit MMA on 16-bit operands.
__global__ void NAME(half)(float* out, const uint32_t* in) {
  float d[4] = {};
  const uint32_t a[4] = {in[0], in[1], in[2], in[3]}, b[2] = {in[4], in[5]};
  half_mma(d, a, b);
  store(out, d);
}

// FP8 weights widened to 16 bits, then 16-bit MMA: no FP8 MMA is meant.
__global__ void NAME(weight_only)(float* out, const uint32_t* in) {
#if __CUDA_ARCH__ >= 890
  float d[4] = {};
  const uint32_t a[4] = {in[0], in[1], in[2], in[3]};
  uint32_t b[2];
  for (int i = 0; i < 2; ++i) {
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(b[i]) : "h"(static_cast<uint16_t>(in[4 + i])));
  }
  half_mma(d, a, b);
  store(out, d);
#endif
}

// The body is discarded for the target it was built for: only the guard is left.
__global__ void NAME(guarded)(float* out, const uint32_t* in) {
#if __CUDA_ARCH__ == 890
  float d[4] = {};
  fp8_mma(d, in);
  store(out, d);
#else
  asm volatile("trap;");
#endif
}

// As above without a trap: the call returns over unwritten output.
__global__ void NAME(silent)(float* out, const uint32_t* in) {
#if __CUDA_ARCH__ == 890
  float d[4] = {};
  fp8_mma(d, in);
  store(out, d);
#endif
}

// No MMA, 400 bytes of static shared memory.
__global__ void NAME(shared)(float* out) {
  __shared__ float tile[100];
  tile[threadIdx.x] = out[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[99 - threadIdx.x];
}

// More live values than registers.
__global__ void __launch_bounds__(1024) NAME(spilling)(float* out, const float* in) {
  float a[100];
#pragma unroll
  for (int i = 0; i < 100; ++i) a[i] = in[i * threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 100; ++i) out[i * threadIdx.x] = a[i] * a[(i * 7) % 100];
}

// The MMA sits in a function of its own, which separate compilation keeps apart.
__device__ __noinline__ void NAME(callee)(float* out, const uint32_t* in) {
  float d[4] = {};
  fp8_mma(d, in);
  store(out, d);
}
__global__ void NAME(caller)(float* out, const uint32_t* in) { NAME(callee)(out, in); }

}  // namespace probes
