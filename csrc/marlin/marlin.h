// Weight-only GEMM: C[M,N] = (A[M,K] * dequantised(B)[K,N]) (+ bias), B packed once by
// marlin_repack.
//
//   activations         weights   scales                              kernel
//   float16, bfloat16   e4m3      per channel or per 128 rows of K    marlin_w8a16
//   float16, bfloat16   u4b8      per channel or per 128 rows of K    marlin_w4a16
//   float8_e4m3fn       u4b8      the same, and float32 per token     marlin_w4a8_fp8
//
// No function here synchronises, allocates device memory or needs the default stream: all may be
// captured in a graph (call once before capturing, so that loading the code is not part of the
// capture).
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "common/dtypes.h"
#include "common/status.h"

namespace kernelpkg {

struct MarlinArgs {
  const void* a;      // [m, k], rows lda elements apart, each row starting on 16 bytes
  int64_t lda;        // elements, >= k
  DType a_type;       // kFloat16, kBFloat16, or kFloat8E4M3 (u4b8 weights only)
  const uint32_t* b;  // packed by marlin_repack for this activation class, 16-byte aligned
  WeightFormat b_format;
  const void* scales;     // [k / group_size or 1, n] in c_type, natural order, 16-byte aligned
  const float* a_scales;  // [m]; given if and only if a_type is kFloat8E4M3
  const void* bias;       // [n] in c_type, 16-byte aligned, or null
  void* c;                // [m, n] contiguous, 16-byte aligned
  DType c_type;           // a_type, or kFloat16 / kBFloat16 where a_type is kFloat8E4M3
  // marlin_workspace_bytes(args) bytes on 16 bytes, any contents, null if 0. This call's alone until
  // the call has finished on its stream.
  void* workspace;
  size_t workspace_bytes;
  int m;                   // any from 0
  int n;                   // multiple of 64
  int k;                   // multiple of 128
  int group_size;          // -1 (per channel) or 128
  int device;
  cudaStream_t stream;
};

// Bytes of workspace that marlin_gemm(args) will want; 0 where K is not split, or where marlin_gemm
// would refuse. Reads shapes, types and device alone, none of the pointers.
size_t marlin_workspace_bytes(const MarlinArgs& args);
Status marlin_gemm(const MarlinArgs& args);

// The same template compiled for 9.0a, where the FP8 MMA is emulated: evidence only, never chosen
// by marlin_gemm.
size_t marlin_emulated_workspace_bytes(const MarlinArgs& args);
Status marlin_gemm_emulated(const MarlinArgs& args);

struct MarlinRepackArgs {
  // u4b8: int32 [k / 8, n], nibble j of word (r, c) is row 8 r + j. e4m3: uint8 [k, n].
  const void* weight;
  WeightFormat format;
  bool fp8_activations;  // the order for float8_e4m3fn activations (u4b8 only)
  uint32_t* packed;      // k * n * bits / 32 words, 16-byte aligned, not overlapping weight
  int k;                 // multiple of 128
  int n;                 // multiple of 64
  int device;            // ignored by marlin_repack_cpu
  cudaStream_t stream;   // ignored by marlin_repack_cpu
};

// Same words from both, bit for bit (layout.h says where each weight goes).
Status marlin_repack(const MarlinRepackArgs& args);
Status marlin_repack_cpu(const MarlinRepackArgs& args);

}  // namespace kernelpkg
