// GEMM on microscaled operands: c = alpha * (a_scale * a) @ (b_scale * b)^T + bias, where every few
// values of K share a scale and the tensor cores apply the scales themselves.
//
//   MXFP8  a [M, K], b [N, K] e4m3; a scale per 32 values of K, a power of two (e8m0)
//   NVFP4  a [M, K], b [N, K] e2m1, two codes a byte, the lower K in the low half; a scale per 16
//          values of K, a number of e4m3 that is not negative
//   c      [M, N] bf16 or fp16, row-major, row stride ldc
//
// K is a multiple of 32. Scales lie in tiles of 128 rows and 4 scales of each, 512 bytes a tile:
// the scale of row r and block j of K is byte
//
//   512 * (r / 128 * tiles + j / 4) + r % 32 * 16 + r % 128 / 32 * 4 + j % 4
//
// with tiles = ceil(blocks / 4) and rows padded to 128. A padding scale is read where K ends inside
// a tile, and multiplies zeros: it may be any but NaN. This header needs neither torch nor CUTLASS.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/dtypes.h"
#include "common/status.h"
#include "scaled_mm/registry.h"

namespace kernelpkg {

enum class MicroFormat { kMxfp8, kNvfp4 };

constexpr const char* name_of(MicroFormat format) {
  return format == MicroFormat::kMxfp8 ? "mxfp8" : "nvfp4";
}
constexpr int bits_of(MicroFormat format) { return format == MicroFormat::kMxfp8 ? 8 : 4; }
// Values of K that share a scale.
constexpr int scale_vector(MicroFormat format) { return format == MicroFormat::kMxfp8 ? 32 : 16; }

constexpr int kBlockScaledK = 32;     // K is a multiple of it
constexpr int kScaleTileRows = 128;   // rows of a tile of scales
constexpr int kScaleTileColumns = 4;  // and scales of each of them

constexpr int64_t scale_tiles(MicroFormat format, int64_t k) {
  return (k + scale_vector(format) * kScaleTileColumns - 1) /
         (scale_vector(format) * kScaleTileColumns);
}

// Bytes of the scales of an operand [rows, k].
constexpr int64_t scale_bytes(MicroFormat format, int64_t rows, int64_t k) {
  return (rows + kScaleTileRows - 1) / kScaleTileRows * scale_tiles(format, k) * kScaleTileRows *
         kScaleTileColumns;
}

// Where the scale of row `row` and block `block` of K lies, of `tiles` tiles side by side.
constexpr int64_t scale_offset(int64_t row, int64_t block, int64_t tiles) {
  return 512 * (row / 128 * tiles + block / 4) + row % 32 * 16 + row % 128 / 32 * 4 + block % 4;
}

struct BlockScaledMmArgs {
  MicroFormat format = MicroFormat::kMxfp8;
  const void* a = nullptr;
  int64_t lda = 0;  // bytes from row to row, a multiple of 16
  const void* b = nullptr;
  int64_t ldb = 0;                 // the same
  const void* a_scales = nullptr;  // scale_bytes(format, m, k), on 16 bytes
  const void* b_scales = nullptr;  // scale_bytes(format, n, k), on 16 bytes
  float alpha = 1.0f;              // NVFP4: the product of both operands' global scales
  const void* bias = nullptr;      // [N] in c_type, or null
  void* c = nullptr;
  int64_t ldc = 0;  // elements, a multiple of 8 of at least N; columns from N on may be overwritten
  DType c_type = DType::kBFloat16;  // or kFloat16
  void* workspace = nullptr;        // device memory, blockscaled_mm_workspace_bytes() of it
  size_t workspace_bytes = 0;
  int m = 0;  // any M from 0; M == 0 launches nothing
  int n = 0;
  int k = 0;
  int device = 0;
  cudaStream_t stream = nullptr;
};

// Bytes of device memory the call needs in `workspace` (0 is usual). Launches nothing.
size_t blockscaled_mm_workspace_bytes(const BlockScaledMmArgs& args, bool standin = false);

// Runs on args.stream of args.device, which the gate scaled_mm_sm120 must admit. Allocates nothing,
// never synchronises, so it can be captured in a graph. Thread-safe.
Status blockscaled_mm(const BlockScaledMmArgs& args);

// The same arithmetic by the evidence build: the same source compiled for 9.0a, where the scales
// are applied in software. Refused on every device but 9.0.
Status blockscaled_mm_standin(const BlockScaledMmArgs& args);

// An instance that this build holds; every generated .cu file adds one at load time.
struct BlockScaledInstance {
  const char* name;           // stem of the generated file
  const char* configuration;  // for people: "sm120 128x128x128 cooperative"
  MicroFormat format;
  size_t shared_memory;
  const void* kernel;
  size_t (*workspace_bytes)(const BlockScaledMmArgs&, const ScaledMmDevice&);
  Status (*launch)(const BlockScaledMmArgs&, const ScaledMmDevice&);
  // Bit d: the kernel was found in the image of device d and its shared memory limit was raised
  // there.
  mutable std::atomic<uint64_t> ready{0};
};

// Shipped kernels, and apart from them the stand-ins. Filled before main() and on loading a
// library, not changed afterwards.
std::vector<const BlockScaledInstance*>& blockscaled_registry();
std::vector<const BlockScaledInstance*>& blockscaled_standin_registry();

struct BlockScaledRegistrar {
  BlockScaledRegistrar(std::vector<const BlockScaledInstance*>& registry,
                       const BlockScaledInstance& instance) {
    registry.push_back(&instance);
  }
};

}  // namespace kernelpkg
