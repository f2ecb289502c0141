#include "marlin/plan.h"

#include <algorithm>
#include <string>

namespace kernelpkg::marlin {
namespace {

constexpr int64_t kMaxBlocks = int64_t{1} << 30;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Parts that a tile's K is cut into. Enough tiles to give every multiprocessor one are left whole.
// Fewer are split so that the busiest multiprocessor has least to do: its blocks, times the K of a
// part and what a block costs besides (filling its pipeline, exchanging sums), which a sweep on an
// H200 put at about 320 rows of K.
int choose_parts(int64_t tiles, int stages, int stage_k, int sms) {
  constexpr int64_t kBlockCost = 320;
  if (tiles >= sms) return 1;
  int best = 1;
  int64_t least = 0;
  for (int parts = 1; parts <= std::min(kMaxParts, stages); ++parts) {
    const int64_t per_block = ceil_div(stages, parts) * stage_k + kBlockCost;
    const int64_t busiest = ceil_div(tiles * parts, sms) * per_block;
    if (parts == 1 || busiest < least) {
      least = busiest;
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
    if (request.stage_k != 0 && one.stage_k != request.stage_k) continue;
    if (request.stages != 0 && one.stages != request.stages) continue;
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
    return Status::error(std::string("marlin_gemm: no kernel for ") + name_of(args.a_type) +
                         " activations, " + name_of(args.b_format) + " weights and " +
                         name_of(args.c_type) +
                         " output was built into this library; build them all with `kernelpkg "
                         "build --set release`.");
  }
  KERNELPKG_RETURN_IF_ERROR(prepare(*tile, args.device, facts));
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
                                       : choose_parts(tiles, stages, tile->stage_k, facts.sms);
  plan->instance = tile;
  plan->schedule =
      Schedule::make(static_cast<int>(m_tiles), static_cast<int>(n_tiles), stages, parts);
  if (parts > 1) {
    plan->workspace_bytes =
        static_cast<size_t>(plan->schedule.blocks()) * tile->rows * kTileCols * sizeof(float);
  }
  return {};
}

}  // namespace kernelpkg::marlin
