#include "marlin/plan.h"

#include <algorithm>
#include <string>

namespace kernelpkg::marlin {
namespace {

constexpr int64_t kMaxBlocks = int64_t{1} << 30;
constexpr int kRasterRows = 1024;  // schedule.h

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Parts that a tile's K is cut into, so that the busiest multiprocessor has least to do. In rows of
// K, after sweeps of seven layers on an H200 (132 multiprocessors, M = 1, 16, 32 and 64):
//   a block that is alone on its multiprocessor takes as long as its part of K; two that share one
//   take kPair times as long as one, for memory and instruction slots are shared too;
//   a part's sums must be written and added, which costs the more the more rows there are.
int choose_parts(int64_t tiles, int stages, const KernelInstance& tile, int rows, int sms) {
  const bool wide = bits_of(tile.format) == 8;  // twice the bytes: bound by memory sooner
  const double pair = wide ? 1.9 : 1.65;
  const double sums = (wide ? 0.75 : 1.0) * std::min(1150, 720 + 30 * std::min(rows, tile.rows));
  int best = 1;
  double least = 0.0;
  for (int parts = 1; parts <= std::min(kMaxParts, stages); ++parts) {
    const int64_t blocks = tiles * parts;
    if (parts > 1 && blocks > int64_t{4} * sms) break;
    const int64_t busiest = ceil_div(blocks, sms);
    const double at_once = busiest / 2 * pair + busiest % 2;
    const double added = parts == 1 ? 0.0 : sums * static_cast<double>(blocks) / sms;
    const double cost = at_once * (ceil_div(stages, parts) * tile.stage_k) + added;
    if (parts == 1 || cost < least) {
      least = cost;
      best = parts;
    }
  }
  return best;
}

bool serves(const KernelInstance& one, const MarlinArgs& args, Family family) {
  return one.family == family && one.a_type == args.a_type && one.format == args.b_format &&
         one.c_type == args.c_type;
}

// The smallest row tile that takes all rows at once, or the largest there is.
const KernelInstance* choose_instance(const MarlinArgs& args, Family family,
                                      const PlanRequest& request) {
  const KernelInstance* best = nullptr;
  for (const KernelInstance& one : instances()) {
    if (!serves(one, args, family)) continue;
    if (request.rows != 0 && one.rows != request.rows) continue;
    const auto fits = [&](const KernelInstance& tile) { return tile.rows >= args.m; };
    if (best == nullptr || (fits(one) ? !fits(*best) || one.rows < best->rows
                                      : !fits(*best) && one.rows > best->rows)) {
      best = &one;
    }
  }
  return best;
}

}  // namespace

Status make_plan(const MarlinArgs& args, Family family, const DeviceFacts& facts,
                 const PlanRequest& request, Plan* plan) {
  const KernelInstance* const tile = choose_instance(args, family, request);
  if (tile == nullptr) {
    return Status::error("marlin_gemm: no kernel " +
                         (request.rows == 0
                              ? std::string()
                              : "with tiles of " + std::to_string(request.rows) + " rows ") +
                         "for " + name_of(args.a_type) + " activations, " + name_of(args.b_format) +
                         " weights and " + name_of(args.c_type) +
                         " output was built into this library; build them all with `kernelpkg "
                         "build --set release`.");
  }
  KERNELPKG_RETURN_IF_ERROR(
      prepare(tile->kernel, tile->threads, tile->shared_bytes, args.device, facts));
  const int64_t m_tiles = ceil_div(args.m, tile->rows);
  const int64_t n_tiles = ceil_div(args.n, kTileCols);
  const int stages = static_cast<int>(padded_k(args.k) / tile->stage_k);
  if (m_tiles * n_tiles > kMaxBlocks / 64) {
    return Status::error("marlin_gemm: size_m = " + std::to_string(args.m) +
                         " makes more tiles than one launch counts (2^24); call it in slices of "
                         "rows.");
  }
  const int64_t tiles = m_tiles * n_tiles;
  const int parts = request.parts != 0 ? std::clamp(request.parts, 1, std::min(kMaxParts, stages))
                                       : choose_parts(tiles, stages, *tile, args.m, facts.sms);
  plan->instance = tile;
  plan->schedule = Schedule::make(static_cast<int>(m_tiles), static_cast<int>(n_tiles), stages,
                                  parts, kRasterRows / tile->rows);
  if (parts > 1) {
    plan->workspace_bytes =
        static_cast<size_t>(plan->schedule.blocks()) * tile->rows * kTileCols * sizeof(float);
  }
  return {};
}

}  // namespace kernelpkg::marlin
