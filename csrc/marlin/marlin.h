// Weight-only GEMM: C[M,N] = A[M,K] * dequantised(B)[K,N] * output_scale (+ bias), B packed once by
// marlin_repack for all activations.
//
//   weights           scales, per group of K                activations, 16-bit  float8_e4m3fn
//   e4m3              c_type, -1, 32 or 128                 marlin_w8a16         marlin_w8a8_fp8
//   u4b8              c_type, -1, 32, 64 or 128             marlin_w4a16         marlin_w4a8_fp8
//   u4, zero points   c_type, -1, 32, 64 or 128             marlin_w4a16_zp      marlin_w4a8_fp8_zp
//   u8b128            c_type, -1, 32, 64 or 128             marlin_w8a16_int8    -
//   nvfp4 (e2m1)      c_type, 16, times a power of two      marlin_w4a16_nvfp4   -
//   mxfp4 (e2m1)      bfloat16 powers of two, 32            marlin_w4a16_mxfp4
//   marlin_w4a8_fp8_mxfp4
//
// Group -1 is one scale per channel. MXFP8 is e4m3 with group 32, and 128 x 128 blocks are e4m3
// with group 128: their scales are widened when the weight is packed.
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
  // [m, k], rows lda elements apart, each row starting on 16 bytes. Columns k up to the next 16
  // bytes of every row are readable and zero; nothing beyond them is read (marlin_pad_rows makes
  // such rows).
  const void* a;
  int64_t lda;        // elements, >= k
  DType a_type;       // kFloat16, kBFloat16, or kFloat8E4M3
  const uint32_t* b;  // packed by marlin_repack, 16-byte aligned
  WeightFormat b_format;
  // [padded_groups, n_pad] in c_type, natural order (nvfp4: nvfp4_scale_index), 16-byte aligned;
  // zero where padded. Shapes and orders: layout.h.
  const void* scales;
  const uint8_t* zeros;   // u4 only: [padded_groups, n_pad], order of zero_index, 16-byte aligned
  const float* a_scales;  // [m]; given if and only if a_type is kFloat8E4M3
  const void* bias;       // [n] in c_type, 16-byte aligned base, or null
  void* c;                // [m, n] contiguous, 16-byte aligned base (rows are not, for odd n)
  DType c_type;           // a_type, or kFloat16 / kBFloat16 where a_type is kFloat8E4M3
  float output_scale;     // times the product, before the bias; 1 for all formats but nvfp4
  // marlin_workspace_bytes(args) bytes on 16 bytes, any contents, null if 0. This call's alone
  // until the call has finished on its stream.
  void* workspace;
  size_t workspace_bytes;
  int m;           // any from 0
  int n;           // logical, any from 1
  int k;           // logical, any from 1
  int group_size;  // -1 (per channel), 16, 32, 64 or 128; the table above says which
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

// Columns [first_col, first_col + cols) of the weight times its scales and output_scale, rounded to
// c_type: `wide` is [cols in whole 32, padded_k], K innermost, on 16 bytes. first_col is a multiple
// of
// 32. The padded rows and columns hold no meaningful numbers. Reads neither activations nor bias.
Status marlin_widen(const MarlinArgs& args, int first_col, int cols, void* wide);

struct MarlinRepackArgs {
  // 4 bits: int32 [ceil(k / 8), n], nibble j of word (r, c) is row 8 r + j. 8 bits: uint8 [k, n].
  const void* weight;
  WeightFormat format;
  uint32_t* packed;     // packed_words(format, k, n) words, 16-byte aligned, not overlapping weight
  int k;                // logical, any from 1
  int n;                // logical, any from 1
  int device;           // ignored by marlin_repack_cpu
  cudaStream_t stream;  // ignored by marlin_repack_cpu
};

// Same words from both, bit for bit (layout.h says where each weight goes).
Status marlin_repack(const MarlinRepackArgs& args);
Status marlin_repack_cpu(const MarlinRepackArgs& args);

struct MarlinPadArgs {
  const void* a;  // [m, k], rows lda elements apart, any alignment
  int64_t lda;    // elements, not negative
  DType a_type;
  void* padded;        // [m, padded_lda], 16-byte aligned, not overlapping a
  int64_t padded_lda;  // elements, >= k; rows of a whole multiple of 16 bytes
  int m;
  int k;
  int device;
  cudaStream_t stream;
};

// Copies rows into a buffer that marlin_gemm takes as `a` with lda = padded_lda: columns from k on
// are zero.
Status marlin_pad_rows(const MarlinPadArgs& args);

}  // namespace kernelpkg
