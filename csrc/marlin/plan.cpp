#include "marlin/plan.h"

#include <algorithm>
#include <string>

namespace kernelpkg::marlin {
namespace {

constexpr int64_t kMaxUnits = int64_t{1} << 30;

int ceil_div(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

// Blocks of the launch, which is the K-split too (schedule.h). Set by a sweep on an H200 (4096 x
// 1024 to 8192 x 8192 and 4096 x 28672, M = 1 to 64; the choice is within 4 % of the best one at
// each):
//   three blocks per multiprocessor keep the memory busy, two where 64 rows fill the tensor cores;
//   cutting every tile into equally many parts beats an even share of all units, unless it leaves
//   40 % of those idle; fewer than 4 units per block (8 with 64 rows, whose partial sums are
//   larger) do not pay, down to one block per multiprocessor.
int choose_blocks(int tiles, int k_units, int row_blocks, int sms, int blocks_per_sm) {
  constexpr int kMostParts = 32;  // of one tile: the reduction reads them one after another
  const bool tall = row_blocks == 4;
  const int places = sms * std::min(blocks_per_sm, tall ? 2 : 3);
  if (tiles >= places) {
    const int64_t rounds = (tiles + places - 1) / places;
    return 10 * int64_t{tiles} >= 9 * rounds * places
               ? tiles
               : places;  // split only to fill the last round
  }
  const int even = places / tiles * tiles;
  const int blocks = 10 * even >= 6 * places ? even : places;
  const int worthwhile = std::max(sms, tiles * (k_units / (tall ? 8 : 4)));
  return std::min({blocks, worthwhile, tiles * std::min(kMostParts, k_units)});
}

// The smallest row tile that takes all rows at once, or the largest there is.
int choose_row_blocks(const MarlinArgs& args, Family family, const PlanRequest& request) {
  int best = 0;
  for (const KernelInstance& one : instances()) {
    if (one.family != family || one.a_type != args.a_type || one.format != args.b_format ||
        one.c_type != args.c_type) {
      continue;
    }
    if (request.row_blocks != 0 && one.row_blocks != request.row_blocks) continue;
    const bool fits = 16 * one.row_blocks >= args.m, best_fits = 16 * best >= args.m;
    if (best == 0 ||
        (fits ? !best_fits || one.row_blocks < best : !best_fits && one.row_blocks > best)) {
      best = one.row_blocks;
    }
  }
  return best;
}

}  // namespace

Status make_plan(const MarlinArgs& args, Family family, const DeviceFacts& facts,
                 const PlanRequest& request, Plan* plan) {
  const int row_blocks = choose_row_blocks(args, family, request);
  if (row_blocks == 0) {
    return Status::error(std::string("marlin_gemm: no kernel for ") + name_of(args.a_type) +
                         " activations, " + name_of(args.b_format) + " weights and " +
                         name_of(args.c_type) +
                         " output was built into this library; build them all with `kernelpkg "
                         "build --set release`.");
  }
  Status last_failure;
  int best_threads = 0;
  for (const KernelInstance& one : instances()) {
    if (one.family != family || one.a_type != args.a_type || one.format != args.b_format ||
        one.c_type != args.c_type || one.row_blocks != row_blocks ||
        (request.cols != 0 && one.cols != request.cols)) {
      continue;
    }
    int blocks_per_sm = 0;
    Status prepared = prepare(one, args.device, facts, &blocks_per_sm);
    if (!prepared.ok()) {
      last_failure = prepared;
      continue;
    }
    // The most threads that a multiprocessor holds; where two tiles tie, the narrower one, whose
    // blocks are independent.
    const int threads = blocks_per_sm * one.threads;
    if (plan->instance != nullptr &&
        (threads < best_threads || (threads == best_threads && one.cols > plan->instance->cols))) {
      continue;
    }
    const int m_tiles = ceil_div(args.m, 16 * row_blocks), n_tiles = ceil_div(args.n, one.cols);
    const int k_units = args.k / kUnitK;
    if (static_cast<int64_t>(m_tiles) * n_tiles * k_units > kMaxUnits) {
      return Status::error(
          "marlin_gemm: size_m = " + std::to_string(args.m) +
          " makes more work units than one launch counts (2^30); call it in slices of rows.");
    }
    const int tiles = m_tiles * n_tiles;
    const int blocks = request.blocks != 0
                           ? request.blocks
                           : choose_blocks(tiles, k_units, row_blocks, facts.sms, blocks_per_sm);
    plan->instance = &one;
    plan->schedule =
        Schedule::make(m_tiles, n_tiles, k_units, std::clamp(blocks, 1, tiles * k_units));
    best_threads = threads;
  }
  if (plan->instance == nullptr) {
    if (!last_failure.ok()) return last_failure;
    return Status::error(
        "marlin_gemm: the tile asked for was not built into this library; leave the choice free or "
        "build with `kernelpkg build --set release`.");
  }
  if (plan->schedule.splits_k()) {
    const int rows = std::min(args.m, 16 * plan->instance->row_blocks);
    plan->slot_floats = static_cast<int64_t>(rows) * plan->instance->cols;
    plan->workspace_bytes = static_cast<size_t>(plan->schedule.slots()) *
                            static_cast<size_t>(plan->slot_floats) * sizeof(float);
  }
  return {};
}

}  // namespace kernelpkg::marlin
