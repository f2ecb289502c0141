#include "marlin/plan.h"

#include <algorithm>
#include <string>

namespace kernelpkg::marlin {
namespace {

constexpr int64_t kMaxUnits = int64_t{1} << 30;

int ceil_div(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

// A rough clock for one candidate, in nanoseconds: good enough to weigh a wider tile against a finer split. The
// constants were set on an H200 (launches of 4096 x 4096 to 4096 x 28672, M = 1 to 64).
double estimate(const MarlinArgs& args, const KernelInstance& tile, const Schedule& schedule, int blocks_per_sm,
                const DeviceFacts& facts) {
  constexpr double kLatency = 900.0;        // from asking for a stage to having it
  constexpr double kStart = 1500.0;         // filling the pipeline, and the last block's tail
  constexpr double kReduce = 1500.0;        // the second kernel, overlapped launch
  constexpr double kMmaPerSm = 4000.0;      // operations per nanosecond and multiprocessor, mma.sync
  const double slots = static_cast<double>(facts.sms) * blocks_per_sm;
  const double active = std::min<double>(schedule.blocks, slots);
  const double per_sm = active / std::min<double>(facts.sms, active);
  const int rows = 16 * tile.row_blocks;
  const double weight_bytes = static_cast<double>(kUnitK) * tile.cols * bits_of(args.b_format) / 8;
  const double bytes = weight_bytes + static_cast<double>(std::min(args.m, rows)) * kUnitK * size_of(args.a_type);
  const double in_flight = (tile.stages - 1) * static_cast<double>(tile.stage_k) / kUnitK * weight_bytes;
  const double unit = std::max({weight_bytes * kLatency / in_flight,        // one block's own pipeline
                                weight_bytes * active / (0.87 * facts.dram_rate),  // the memory
                                bytes * active / (1.3 * facts.dram_rate),          // L2, activations included
                                2.0 * rows * kUnitK * tile.cols * per_sm / kMmaPerSm});
  const double units = static_cast<double>(ceil_div(schedule.units(), schedule.blocks));
  double time = kStart + units * unit * ceil_div(schedule.blocks, static_cast<int64_t>(slots));
  if (schedule.splits_k()) {
    const double segments = static_cast<double>(schedule.slots());
    time += kReduce + segments * std::min(args.m, rows) * tile.cols * 8.0 / facts.dram_rate;
  }
  return time;
}

// The smallest row tile that takes all rows at once, or the largest there is.
int choose_row_blocks(const MarlinArgs& args, Family family, const PlanRequest& request) {
  int best = 0;
  for (const KernelInstance& one : instances()) {
    if (one.family != family || one.a_type != args.a_type || one.format != args.b_format || one.c_type != args.c_type) {
      continue;
    }
    if (request.row_blocks != 0 && one.row_blocks != request.row_blocks) continue;
    const bool fits = 16 * one.row_blocks >= args.m, best_fits = 16 * best >= args.m;
    if (best == 0 || (fits ? !best_fits || one.row_blocks < best : !best_fits && one.row_blocks > best)) {
      best = one.row_blocks;
    }
  }
  return best;
}

}  // namespace

Status make_plan(const MarlinArgs& args, Family family, const DeviceFacts& facts, const PlanRequest& request, Plan* plan) {
  const int row_blocks = choose_row_blocks(args, family, request);
  if (row_blocks == 0) {
    return Status::error(std::string("marlin_gemm: no kernel for ") + name_of(args.a_type) + " activations, " +
                         name_of(args.b_format) + " weights and " + name_of(args.c_type) +
                         " output was built into this library; build them all with `kernelpkg build --set release`.");
  }
  Status last_failure;
  double best_time = 0.0;
  for (const KernelInstance& one : instances()) {
    if (one.family != family || one.a_type != args.a_type || one.format != args.b_format || one.c_type != args.c_type ||
        one.row_blocks != row_blocks || (request.cols != 0 && one.cols != request.cols)) {
      continue;
    }
    int blocks_per_sm = 0;
    Status prepared = prepare(one, args.device, facts, &blocks_per_sm);
    if (!prepared.ok()) {
      last_failure = prepared;
      continue;
    }
    const int m_tiles = ceil_div(args.m, 16 * row_blocks), n_tiles = ceil_div(args.n, one.cols);
    const int k_units = args.k / kUnitK;
    if (static_cast<int64_t>(m_tiles) * n_tiles * k_units > kMaxUnits) {
      return Status::error("marlin_gemm: size_m = " + std::to_string(args.m) +
                           " makes more work units than one launch counts (2^30); call it in slices of rows.");
    }
    const int tiles = m_tiles * n_tiles;
    const int slots = facts.sms * blocks_per_sm;
    const auto consider = [&](int blocks) {
      const Schedule schedule = Schedule::make(m_tiles, n_tiles, k_units, std::clamp(blocks, 1, tiles * k_units));
      const double time = estimate(args, one, schedule, blocks_per_sm, facts);
      if (plan->instance != nullptr && time >= best_time) return;
      best_time = time;
      plan->instance = &one;
      plan->schedule = schedule;
    };
    if (request.blocks != 0) {
      consider(request.blocks);
      continue;
    }
    consider(tiles);
    if (tiles < 4 * slots) {
      for (int per_sm = 1; per_sm <= blocks_per_sm; ++per_sm) consider(facts.sms * per_sm);
      for (int split = 2; split * tiles <= slots; ++split) consider(split * tiles);
    }
  }
  if (plan->instance == nullptr) {
    if (!last_failure.ok()) return last_failure;
    return Status::error("marlin_gemm: the tile asked for was not built into this library; leave the choice free or "
                         "build with `kernelpkg build --set release`.");
  }
  if (plan->schedule.splits_k()) {
    const int rows = std::min(args.m, 16 * plan->instance->row_blocks);
    plan->slot_floats = static_cast<int64_t>(rows) * plan->instance->cols;
    plan->workspace_bytes = static_cast<size_t>(plan->schedule.slots()) * static_cast<size_t>(plan->slot_floats) * sizeof(float);
  }
  return {};
}

}  // namespace kernelpkg::marlin
