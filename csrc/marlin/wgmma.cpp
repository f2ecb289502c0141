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

#include "common/launch.h"
#include "common/tensor_map.h"
#include "kernelpkg_gates.h"
#include "marlin/checks.h"
#include "marlin/helpers.h"
#include "marlin/params.h"
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

constexpr int kRasterRows = 2048;  // schedule.h

int ceil_div(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

bool is_16bit(DType type) { return type == DType::kFloat16 || type == DType::kBFloat16; }

bool serves(const WgmmaInstance& one, const MarlinArgs& args) {
  return one.act == args.a_type && one.format == wgmma_format(args.b_format);
}

Status encode(const char* what, const TensorMapSpec& tensor, CUtensorMap* map) {
  return encode_tensor_map("marlin_gemm", what, tensor, map);
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

// Clusters of 1 .. 8 blocks that the device holds at once (index: blocks): they cannot straddle the
// chip's processing clusters, whose sizes differ from part to part.
using ClusterRoom = std::array<int, kMaxClusterBlocks + 1>;

Status prepare_clusters(const WgmmaInstance& one, int device, const DeviceFacts& facts,
                        ClusterRoom* room) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, ClusterRoom> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find({one.kernel, device});
  if (found != known.end()) {
    *room = found->second;
    return {};
  }
  KERNELPKG_RETURN_IF_ERROR(prepare(one.kernel, one.threads, one.shared_bytes, device, facts));
  *room = {};
  for (int blocks = 2; blocks <= kMaxClusterBlocks; ++blocks) {
    Launch launch(dim3(static_cast<unsigned>(blocks)), one.threads, one.shared_bytes, true,
                  nullptr);
    launch.cluster(blocks);
    const cudaError_t error = launch.clusters_at_once(one.kernel, &(*room)[blocks]);
    if (error != cudaSuccess) {
      return cuda_failure(
          "marlin_gemm: a wgmma kernel could not be prepared on device " + std::to_string(device),
          error);
    }
  }
  known.emplace(std::make_pair(one.kernel, device), *room);
  return {};
}

// Microseconds of a plan, to rank plans by; constants fitted to a sweep on an H200 (4096 x 4096 to
// 28672 x 8192, M = 16 to 4096, 1 to 8 parts). A block's stage takes as long as widening and
// multiplying it, or as its bytes at the block's share of the memory's rate.
double expected_us(const WgmmaInstance& one, const MarlinArgs& args, int64_t tiles, int parts,
                   bool clustered, int64_t at_once) {
  constexpr double kFixed = 3.5;               // launch, first stage's way from memory, last rows
  constexpr double kMemoryBytesPerUs = 4.0e6;  // of the whole device
  constexpr double kPassBytesPerUs = 3.0e6;
  const int stages = static_cast<int>(padded_k(args.k) / one.stage_k);
  const double weights = static_cast<double>(one.cols) * one.stage_k;
  const double bytes = weights / (kUnitCols * kUnitRows) * one.unit_bytes;
  const int64_t blocks = tiles * parts;
  const int64_t rounds = (blocks + at_once - 1) / at_once;
  // Blocks that follow each other run on a full chip: lower clocks, more traffic to L2.
  const double busy = rounds > 1 ? 1.13 : 1.0;
  // 8 bits are twice the bytes to read from shared memory: felt where few tokens hide it.
  const double widening = one.tokens < 128 && bits_of(one.format) == 8 ? 0.82 : 0.73;
  const double stage =
      std::max(one.stage_k / 128.0 * (widening + 0.0052 * one.tokens) * busy,
               bytes * static_cast<double>(std::min(blocks, at_once)) / kMemoryBytesPerUs);
  const double pass =
      one.ordered ? 2.0 + static_cast<double>(args.m) * padded_k(args.k) * 4 / kPassBytesPerUs
                  : 0.0;
  const double exchange = clustered ? 1.0 + 0.0145 * parts * one.tokens : 0.0;
  const double sums = static_cast<double>(args.m) * args.n * 8 * parts;  // there and back
  const double added = parts > 1 && !clustered ? 1.0 + 0.5 * parts + sums / kPassBytesPerUs : 0.0;
  // The kernel that adds is there at once if multiprocessors were left to it.
  const double late = added > 0.0 && blocks * 8 > at_once * 7 ? 1.5 : 0.0;
  return kFixed + pass + added + late +
         static_cast<double>(rounds) * (ceil_div(stages, parts) * stage + exchange);
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
    KERNELPKG_RETURN_IF_ERROR(prepare_clusters(one, args.device, facts, &room));
    const int m_tiles = ceil_div(args.m, one.tokens), n_tiles = ceil_div(args.n, one.cols);
    const int64_t tiles = static_cast<int64_t>(m_tiles) * n_tiles;
    if (tiles > (int64_t{1} << 24)) {
      return Status::error("marlin_gemm: size_m = " + std::to_string(args.m) +
                           " makes more tiles than one launch counts; call it in slices of rows.");
    }
    const int stages = static_cast<int>(padded_k(args.k) / one.stage_k);
    const size_t activations =
        one.ordered ? static_cast<size_t>(args.m) * padded_k(args.k) * size_of(args.a_type) : 0;
    for (int parts = 1; parts <= std::min(kMaxParts, stages); ++parts) {
      if (request.parts != 0 && parts != std::min(request.parts, stages)) continue;
      if (parts > 1 && tiles * (parts - 1) >= 2 * facts.sms && request.parts == 0) break;
      for (const bool clustered : {true, false}) {
        if (clustered && (parts == 1 || parts > kMaxClusterBlocks || room[parts] < 1)) continue;
        if (request.added != Adding::kAny && parts > 1 &&
            clustered != (request.added == Adding::kInClusters))
          continue;
        const int64_t at_once = clustered ? int64_t{room[parts]} * parts : facts.sms;
        const double us = expected_us(one, args, tiles, parts, clustered, at_once);
        if (plan->instance != nullptr && us >= plan->us) continue;
        const int64_t blocks = parts > 1 ? tiles * parts : std::min<int64_t>(tiles, facts.sms);
        const size_t sums =
            parts > 1 && !clustered ? tiles * parts * one.tokens * one.cols * sizeof(float) : 0;
        *plan = {
            &one,        Schedule::make(m_tiles, n_tiles, stages, parts, kRasterRows / one.tokens),
            clustered,   static_cast<int>(blocks),
            activations, activations + sums,
            us};
      }
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
  KERNELPKG_RETURN_IF_ERROR(check_workspace(args, plan.workspace_bytes));
  if (tile.ordered) {
    error = order()(args, args.workspace);
    if (error != cudaSuccess)
      return cuda_failure("marlin_gemm: reordering the activations failed", error);
  }
  WgmmaMaps maps = {};
  KERNELPKG_RETURN_IF_ERROR(make_maps(args, tile, &maps));

  const bool grouped = args.group_size != -1;
  WgmmaParams params = {};
  params.scales = static_cast<const char*>(args.scales);
  params.bias = static_cast<const char*>(args.bias);
  params.c = static_cast<char*>(args.c);
  params.m = args.m;
  params.n = args.n;
  params.n_pad = static_cast<int>(padded_n(args.n));
  params.k_units = static_cast<int>(padded_k(args.k) / kUnitRows);
  params.group_shift = group_shift(args.group_size);
  params.grouped = grouped;
  params.zeros = args.b_format == WeightFormat::kU4;
  params.factor = args.output_scale * wgmma_fragment_scale(args.a_type, tile.format, grouped);
  params.schedule = plan.schedule;
  params.clustered = plan.clustered;
  params.partials =
      reinterpret_cast<float*>(static_cast<char*>(args.workspace) + plan.activations_bytes);

  Launch launch(dim3(static_cast<unsigned>(plan.blocks)), tile.threads, tile.shared_bytes, true,
                args.stream);
  if (plan.clustered) launch.cluster(plan.schedule.parts);
  error = launch.run(tile.kernel, maps, params);
  if (error != cudaSuccess) return cuda_failure("marlin_gemm: the launch failed", error);
  if (plan.schedule.parts > 1 && !plan.clustered) {
    Params sums = make_params(
        args, plan.schedule, wgmma_fragment_scale(args.a_type, tile.format, grouped), tile.stage_k);
    sums.partials = params.partials;
    error = launch_reduce(sums, tile.tokens, tile.cols, args.c_type, true, args.stream);
    if (error != cudaSuccess)
      return cuda_failure("marlin_gemm: the launch of the reduction failed", error);
  }
  return {};
}

}  // namespace kernelpkg::marlin
