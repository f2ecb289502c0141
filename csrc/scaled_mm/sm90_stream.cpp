#include "scaled_mm/sm90_stream.h"

#include <algorithm>
#include <string>

#include "common/device.h"
#include "common/launch.h"
#include "common/tensor_map.h"
#include "scaled_mm/prepare.h"

namespace kernelpkg {
namespace {

// A multiprocessor takes in this many times its share of the memory's rate, so activations, which
// come from L2, cost nothing up to a certain number.
constexpr double kIntake = 2.5;
double read_cost(int rows, int tokens) { return std::max<double>(rows, (rows + tokens) / kIntake); }
// The MMA takes 64 rows whatever it is given; with scales in blocks that shows.
constexpr int kMinBlockRows = 64;
// What it costs to add one sum of a part, in bytes that a multiprocessor reads meanwhile.
constexpr double kPartSumCost = 6.0;
// A stage holds at least this much, so that waiting for it is rare beside reading it.
constexpr int kStageBytes = 12 << 10;
// Bytes of the weight on their way to a multiprocessor: more only crowd the memory. Stages that are
// few are worth more than that.
constexpr int kAheadBytes = 96 << 10;
constexpr int kMinStages = 4;

int ceil_div(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

}  // namespace

void stream_divide(int m, int n, int k, int tokens, bool blocks,
                   const int (&at_once)[kStreamMaxParts], StreamParams* params) {
  const int k_units = ceil_div(k, kScaleBlock);
  params->tokens = ceil_div(m, 8) * 8;
  double least = 0;
  params->parts = 0;
  for (int parts = 1; parts <= kStreamMaxParts; parts *= 2) {
    // One tile each, or where that is too large two, and so on.
    const int at_a_time = at_once[parts - 1] / parts;  // tiles
    if (at_a_time < 1 || parts > k_units) continue;
    const int rounds = ceil_div(n, int64_t{at_a_time} * kStreamMaxRows);
    const int rows = ceil_div(n, int64_t{at_a_time} * rounds * 8) * 8;
    const int worked = blocks ? std::max(rows, kMinBlockRows) : rows;
    const double read =
        read_cost(worked, params->tokens) * (double{kScaleBlock} * ceil_div(k_units, parts));
    const double added = parts > 1 ? kPartSumCost * rows * params->tokens * parts : 0;
    const double cost = rounds * (read + added);
    if (params->parts != 0 && cost >= least) continue;
    least = cost;
    params->parts = parts;
    params->rows = rows;
    params->clusters = at_a_time;
  }
  params->tiles = ceil_div(n, params->rows);
  params->clusters = std::min(params->clusters, params->tiles);
  const int unit_bytes = (params->rows + params->tokens) * kScaleBlock;
  const int per_part = ceil_div(k_units, params->parts);
  // Where two warpgroups take turns of one unit, a stage has one for each.
  const int least_units = params->rows <= 64 ? 2 : 1;
  params->units = std::clamp(kStageBytes / unit_bytes, 1, std::min(kStreamMaxUnits, per_part));
  params->units = std::max(params->units, least_units);
  // A tile is stored from room of its own where the ring is filled for the next one meanwhile.
  const int mma_rows = stream_mma_rows(params->rows);
  int ring = stream_ring_bytes(tokens, blocks);
  params->sums = 0;
  if (params->clusters < params->tiles) {
    const bool shared = params->parts > 1 || mma_rows == 64;
    ring = (ring - stream_store_bytes(tokens, mma_rows, shared)) / 1024 * 1024;
    params->sums = ring;
  }
  // The MMA reads whole groups of 64 rows and all tokens of the tile: of the last unit, beyond it.
  const int beyond = std::max(
      {0, mma_rows * kScaleBlock - unit_bytes, (tokens - params->tokens) * kScaleBlock});
  const int room = ring - beyond;
  const int ahead = ceil_div(kAheadBytes, params->units * params->rows * kScaleBlock);
  // A stage is handed back once the next has come: there are always two, by the sizes above.
  params->stages = std::min({kStreamMaxStages, stream_all_units(tokens) / params->units,
                             room / (params->units * unit_bytes), std::max(kMinStages, ahead)});
}

Status stream_launch(const char* name, const void* kernel, int tokens, const ScaledMmArgs& args) {
  if (args.m > tokens) {
    return scaled_mm_refusal(name, "it takes no more rows of a than its tile has");
  }
  int at_once[kStreamMaxParts] = {};
  for (int parts = 1; parts <= kStreamMaxParts; parts *= 2) {
    int clusters = 0;
    KERNELPKG_RETURN_IF_ERROR(clusters_at_once(name, kernel, kStreamThreads, kStreamShared, parts,
                                               args.device, &clusters));
    at_once[parts - 1] = clusters * parts;
  }
  StreamParams params = {};
  stream_divide(args.m, args.n, args.k, tokens, args.block_scales, at_once, &params);
  params.m = args.m;
  params.n = args.n;
  params.k = args.k;
  const auto encode = [&](const char* what, const void* base, int rows, int64_t stride, int box,
                          CUtensorMap* map) {
    return encode_tensor_map(name, what,
                             {CU_TENSOR_MAP_DATA_TYPE_UINT8,
                              base,
                              {static_cast<cuuint64_t>(args.k), static_cast<cuuint64_t>(rows)},
                              {static_cast<cuuint64_t>(stride)},
                              {kScaleBlock, static_cast<cuuint32_t>(box)},
                              CU_TENSOR_MAP_SWIZZLE_128B,
                              CU_TENSOR_MAP_L2_PROMOTION_L2_128B},
                             map);
  };
  KERNELPKG_RETURN_IF_ERROR(encode("a", args.a, args.m, args.lda, params.tokens, &params.a));
  KERNELPKG_RETURN_IF_ERROR(encode("b", args.b, args.n, args.ldb, params.rows, &params.b));
  params.a_scales = args.a_scales;
  params.a_scale_row = args.a_scale_row;
  params.a_scale_block = args.a_scale_block;
  params.b_scales = args.b_scales;
  params.b_scale_column = args.b_scale_column;
  params.b_scale_block = args.b_scale_block;
  params.bias = static_cast<const uint16_t*>(args.bias);
  params.c = static_cast<uint16_t*>(args.c);
  params.ldc = args.ldc;
  params.half = args.c_type == DType::kFloat16;
  Launch launch(dim3(static_cast<unsigned>(params.clusters * params.parts)), kStreamThreads,
                kStreamShared, true, args.stream);
  if (params.parts > 1) launch.cluster(params.parts);
  const cudaError_t error = launch.run(kernel, params);
  return error == cudaSuccess ? Status()
                              : cuda_failure(std::string(name) + ": the launch failed", error);
}

}  // namespace kernelpkg
