// Host side of the wgmma kernel: which tile, how many parts of K, the tensor map, the launch.
#include "marlin/wgmma.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "kernelpkg_gates.h"
#include "marlin/wgmma_tile.h"

namespace kernelpkg::marlin {
namespace {

std::vector<WgmmaInstance>& registry() {
  static std::vector<WgmmaInstance> all;  // instances register before main, in any order
  return all;
}

WgmmaOrder& order() {
  static WgmmaOrder launch = nullptr;
  return launch;
}

int ceil_div(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

bool is_16bit(DType type) { return type == DType::kFloat16 || type == DType::kBFloat16; }

bool serves(const WgmmaInstance& one, const MarlinArgs& args) {
  return one.act == args.a_type && one.format == wgmma_format(args.b_format);
}

// Loading a kernel's code at its first use would invalidate a strict stream capture of this thread.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// The driver's encoder. The driver library is not linked: a machine without one loads this library.
using EncodeTiled = decltype(&cuTensorMapEncodeTiled);
EncodeTiled encode_tiled() {
  static const EncodeTiled found = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               12000, cudaEnableDefault, &result);
    const bool ok = error == cudaSuccess && result == cudaDriverEntryPointSuccess;
    return ok ? reinterpret_cast<EncodeTiled>(entry) : nullptr;
  }();
  return found;
}

// A tensor whose extents, box and strides run from the innermost dimension outwards.
struct Tensor {
  CUtensorMapDataType type;
  const void* base;
  std::vector<cuuint64_t> extents;
  std::vector<cuuint64_t> strides;  // bytes, of all dimensions but the innermost
  std::vector<cuuint32_t> box;
  CUtensorMapSwizzle swizzle;
};

Status encode(const char* what, const Tensor& tensor, CUtensorMap* map) {
  const EncodeTiled encode_tensor = encode_tiled();
  if (encode_tensor == nullptr) {
    return Status::error(
        "marlin_gemm: the driver has no cuTensorMapEncodeTiled; update it to one for CUDA 12 or "
        "later.");
  }
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  const CUresult result =
      encode_tensor(map, tensor.type, static_cast<cuuint32_t>(tensor.extents.size()),
                    const_cast<void*>(tensor.base), tensor.extents.data(), tensor.strides.data(),
                    tensor.box.data(), steps, CU_TENSOR_MAP_INTERLEAVE_NONE, tensor.swizzle,
                    CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return {};
  return Status::error(std::string("marlin_gemm: the driver refused the tensor map of ") + what +
                       " (error " + std::to_string(static_cast<int>(result)) + ").");
}

Status make_maps(const MarlinArgs& args, const WgmmaInstance& one, WgmmaMaps* maps) {
  using Extent = cuuint64_t;
  const Extent n_pad = padded_n(args.n), k_pad = padded_k(args.k);
  const cuuint32_t cols = one.cols, units = one.stage_k / kUnitRows;
  // Rows up to k rounded up to 8: the rest of the last stage, and of the last tile, arrives as
  // zeros.
  const void* a = one.ordered ? args.workspace : args.a;
  const Extent k = one.ordered ? k_pad : (static_cast<Extent>(args.k) + 7) / 8 * 8;
  const Extent lda = one.ordered ? k_pad : static_cast<Extent>(args.lda);
  KERNELPKG_RETURN_IF_ERROR(
      encode("a",
             {args.a_type == DType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                             : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
              a,
              {k, static_cast<Extent>(args.m)},
              {lda * 2},
              {64, static_cast<cuuint32_t>(one.tokens)},
              CU_TENSOR_MAP_SWIZZLE_128B},
             &maps->activations));
  const Extent strip_bytes = k_pad / kUnitRows * 2 * one.unit_bytes;
  // Rows of 128 bytes, swizzled; the halves of an 8-bit unit take turns (wgmma.cuh says why).
  constexpr Extent kHalfBytes = 4 * kHalfWords;
  const Extent halves = one.unit_bytes / kHalfBytes;
  KERNELPKG_RETURN_IF_ERROR(encode(
      "b_packed",
      {CU_TENSOR_MAP_DATA_TYPE_INT64,
       args.b,
       {128 / 8, halves, kHalfBytes / 128, k_pad / kUnitRows * 2, n_pad / kStripCols},
       {kHalfBytes, 128, static_cast<Extent>(one.unit_bytes), strip_bytes},
       {128 / 8, static_cast<cuuint32_t>(halves), kHalfBytes / 128, units * 2, cols / kStripCols},
       CU_TENSOR_MAP_SWIZZLE_128B},
      &maps->weights));
  const cuuint32_t rows = args.group_size == -1 ? 1 : std::max(1, one.stage_k / args.group_size);
  const Extent groups = padded_groups(args.k, args.group_size);
  if (one.format == WeightFormat::kNvfp4) {
    KERNELPKG_RETURN_IF_ERROR(encode("b_scales",
                                     {CU_TENSOR_MAP_DATA_TYPE_UINT32,
                                      args.scales,
                                      {n_pad, k_pad / kUnitRows},
                                      {n_pad * 4},
                                      {cols, units},
                                      CU_TENSOR_MAP_SWIZZLE_NONE},
                                     &maps->scales));
  } else if (args.group_size != -1) {
    KERNELPKG_RETURN_IF_ERROR(encode("b_scales",
                                     {CU_TENSOR_MAP_DATA_TYPE_UINT16,
                                      args.scales,
                                      {n_pad, groups},
                                      {n_pad * 2},
                                      {cols, rows},
                                      CU_TENSOR_MAP_SWIZZLE_NONE},
                                     &maps->scales));
  }
  if (args.b_format == WeightFormat::kU4) {
    KERNELPKG_RETURN_IF_ERROR(encode("b_zeros",
                                     {CU_TENSOR_MAP_DATA_TYPE_UINT8,
                                      args.zeros,
                                      {n_pad, groups},
                                      {n_pad},
                                      {cols, rows},
                                      CU_TENSOR_MAP_SWIZZLE_NONE},
                                     &maps->zeros));
  }
  return {};
}

// A launch and the attributes it points to.
struct Launch {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attributes[2] = {};

  Launch(const WgmmaInstance& one, int blocks, int splits, cudaStream_t stream) {
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(one.threads));
    config.dynamicSmemBytes = one.shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    // Scheduled while the kernel before it ends, which the device code then waits for.
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    config.numAttrs = 1;
    if (splits > 1) {
      attributes[1].id = cudaLaunchAttributeClusterDimension;
      attributes[1].val.clusterDim = {static_cast<unsigned>(splits), 1, 1};
      config.numAttrs = 2;
    }
  }
};

// Clusters of 1 .. 8 blocks that the device holds at once (index: blocks).
using ClusterRoom = std::array<int, kWgmmaMaxSplits + 1>;

// Finds the instance's code on `device`, lets it have its shared memory, and asks how many clusters
// fit: they cannot straddle the chip's processing clusters, whose sizes differ from part to part.
Status prepare(const WgmmaInstance& one, int device, const DeviceFacts& facts, ClusterRoom* room) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, ClusterRoom> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find({one.kernel, device});
  if (found != known.end()) {
    *room = found->second;
    return {};
  }
  const RelaxedCapture relaxed;
  cudaError_t error = cudaFuncSetAttribute(one.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(one.shared_bytes));
  *room = {};
  (*room)[1] = facts.sms;
  for (int splits = 2; error == cudaSuccess && splits <= kWgmmaMaxSplits; ++splits) {
    const Launch launch(one, splits, splits, nullptr);
    error = cudaOccupancyMaxActiveClusters(&(*room)[splits], one.kernel, &launch.config);
  }
  if (error != cudaSuccess) {
    return cuda_failure(
        "marlin_gemm: a wgmma kernel could not be prepared on device " + std::to_string(device),
        error);
  }
  known.emplace(std::make_pair(one.kernel, device), *room);
  return {};
}

// Microseconds of a plan, to rank plans by; constants fitted to a sweep on an H200 (4096 x 4096 to
// 28672 x 8192, M = 16 to 4096, 1 to 8 parts). A block's stage takes as long as widening and
// multiplying it, or as its bytes at the block's share of the memory's rate.
double expected_us(const WgmmaInstance& one, const MarlinArgs& args, int64_t tiles, int splits,
                   int room) {
  constexpr double kFixed = 3.5;               // launch, first stage's way from memory, last rows
  constexpr double kMemoryBytesPerUs = 4.0e6;  // of the whole device
  constexpr double kPassBytesPerUs = 3.0e6;
  const int stages = static_cast<int>(padded_k(args.k) / one.stage_k);
  const double weights = static_cast<double>(one.cols) * one.stage_k;
  const double bytes = weights / (kUnitCols * kUnitRows) * one.unit_bytes;
  const int64_t waves = (tiles + room - 1) / room;
  const double at_once = static_cast<double>(std::min<int64_t>(tiles, room)) * splits;
  // Blocks that follow each other run on a full chip: lower clocks, more traffic to L2.
  const double busy = waves > 1 ? 1.13 : 1.0;
  const double stage = std::max(one.stage_k / 128.0 * (0.73 + 0.0052 * one.tokens) * busy,
                                bytes * at_once / kMemoryBytesPerUs);
  const double pass =
      one.ordered ? 2.0 + static_cast<double>(args.m) * padded_k(args.k) * 4 / kPassBytesPerUs
                  : 0.0;
  const double split = splits > 1 ? 1.0 + 0.0145 * splits * one.tokens : 0.0;
  return kFixed + pass + static_cast<double>(waves) * (ceil_div(stages, splits) * stage + split);
}

}  // namespace

const std::vector<WgmmaInstance>& wgmma_instances() { return registry(); }

bool add_wgmma_instance(const WgmmaInstance& instance) {
  registry().push_back(instance);
  return true;
}

bool set_wgmma_order(WgmmaOrder launch) {
  order() = launch;
  return true;
}

bool wgmma_takes(const MarlinArgs& args, const DeviceFacts& facts) {
  if (!gates::marlin_wgmma::admits(facts.major, facts.minor) ||
      facts.shared_optin < kWgmmaSharedLimit) {
    return false;
  }
  if (!is_16bit(args.a_type) || args.c_type != args.a_type || args.m < 1) return false;
  return std::any_of(registry().begin(), registry().end(),
                     [&](const WgmmaInstance& one) { return serves(one, args); });
}

Status wgmma_plan(const MarlinArgs& args, const DeviceFacts& facts, const WgmmaRequest& request,
                  WgmmaPlan* plan) {
  *plan = {};
  for (const WgmmaInstance& one : registry()) {
    if (!serves(one, args) || (request.tokens != 0 && one.tokens != request.tokens)) continue;
    if (one.ordered && order() == nullptr) continue;
    ClusterRoom room;
    KERNELPKG_RETURN_IF_ERROR(prepare(one, args.device, facts, &room));
    const int m_tiles = ceil_div(args.m, one.tokens), n_tiles = ceil_div(args.n, one.cols);
    const int64_t tiles = static_cast<int64_t>(m_tiles) * n_tiles;
    if (tiles > (int64_t{1} << 28)) {
      return Status::error("marlin_gemm: size_m = " + std::to_string(args.m) +
                           " makes more tiles than one launch counts; call it in slices of rows.");
    }
    const int stages = static_cast<int>(padded_k(args.k) / one.stage_k);
    for (int splits = 1; splits <= kWgmmaMaxSplits; ++splits) {
      if (request.splits != 0 && splits != request.splits) continue;
      if (splits > stages || room[splits] < 1) continue;
      if (splits > 1 && tiles * splits > 65536) continue;
      const double us = expected_us(one, args, tiles, splits, room[splits]);
      if (plan->instance != nullptr && us >= plan->us) continue;
      const int64_t blocks = splits > 1 ? tiles * splits : std::min<int64_t>(tiles, facts.sms);
      const size_t workspace =
          one.ordered ? static_cast<size_t>(args.m) * padded_k(args.k) * size_of(args.a_type) : 0;
      *plan = {&one, m_tiles, n_tiles, splits, static_cast<int>(blocks), workspace, us};
    }
  }
  if (plan->instance == nullptr) {
    return Status::error(std::string("marlin_gemm: no wgmma kernel for ") + name_of(args.a_type) +
                         " activations and " + name_of(args.b_format) +
                         " weights of this shape was built into this library; build them all with "
                         "`kernelpkg build --set release`.");
  }
  return {};
}

size_t wgmma_workspace_bytes(const MarlinArgs& args, const DeviceFacts& facts,
                             const WgmmaRequest& request) {
  WgmmaPlan plan;
  return wgmma_plan(args, facts, request, &plan).ok() ? plan.workspace_bytes : 0;
}

Status wgmma_run(const MarlinArgs& args, const DeviceFacts& facts, const WgmmaRequest& request) {
  // Set even where it is current already: on a thread new to CUDA only this binds the context that
  // encoding a tensor map needs.
  cudaError_t error = cudaSetDevice(args.device);
  if (error != cudaSuccess) {
    return cuda_failure(
        "marlin_gemm: device " + std::to_string(args.device) + " cannot be made current", error);
  }
  WgmmaPlan plan;
  KERNELPKG_RETURN_IF_ERROR(wgmma_plan(args, facts, request, &plan));
  const WgmmaInstance& tile = *plan.instance;
  if (plan.workspace_bytes > 0) {
    if (args.workspace == nullptr || args.workspace_bytes < plan.workspace_bytes) {
      return Status::error("marlin_gemm: the workspace has " +
                           std::to_string(args.workspace == nullptr ? 0 : args.workspace_bytes) +
                           " bytes and this call needs " + std::to_string(plan.workspace_bytes) +
                           "; ask marlin_workspace_bytes with the same arguments.");
    }
    error = order()(args, args.workspace);
    if (error != cudaSuccess)
      return cuda_failure("marlin_gemm: reordering the activations failed", error);
  }
  WgmmaMaps maps = {};
  KERNELPKG_RETURN_IF_ERROR(make_maps(args, tile, &maps));

  const bool grouped = args.group_size != -1;
  int group_shift = 30;
  if (grouped)
    for (group_shift = 0; (1 << group_shift) < args.group_size;) ++group_shift;
  WgmmaParams params = {};
  params.scales = static_cast<const char*>(args.scales);
  params.bias = static_cast<const char*>(args.bias);
  params.c = static_cast<char*>(args.c);
  params.m = args.m;
  params.n = args.n;
  params.n_pad = static_cast<int>(padded_n(args.n));
  params.k_units = static_cast<int>(padded_k(args.k) / kUnitRows);
  params.group_shift = group_shift;
  params.grouped = grouped;
  params.zeros = args.b_format == WeightFormat::kU4;
  params.weights_read_once = plan.m_tiles == 1;
  params.factor = args.output_scale * wgmma_fragment_scale(args.a_type, tile.format, grouped);
  params.m_tiles = plan.m_tiles;
  params.n_tiles = plan.n_tiles;
  params.splits = plan.splits;

  const Launch launch(tile, plan.blocks, plan.splits, args.stream);
  void* arguments[] = {&maps, &params};
  error = cudaLaunchKernelExC(&launch.config, tile.kernel, arguments);
  if (error != cudaSuccess) return cuda_failure("marlin_gemm: the launch failed", error);
  return {};
}

}  // namespace kernelpkg::marlin
