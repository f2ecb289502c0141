#include "marlin/choice.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <tuple>

#include "marlin/device.h"
#include "marlin/dispatch.h"
#include "marlin/registry.h"
#include "marlin/schedule.h"

namespace kernelpkg::marlin {
namespace {

using Key = std::tuple<int, DType, WeightFormat, DType, int, int, int, int>;

int bucket(int m) {
  int rows = 8;
  while (rows < m && rows < (1 << 30)) rows *= 2;
  return rows;
}

Key key_of(const MarlinArgs& args) {
  return {args.device, args.a_type, args.b_format,   args.c_type,
          args.n,      args.k,      args.group_size, bucket(args.m)};
}

struct Table {
  std::shared_mutex mutex;
  std::map<Key, Choice> choices;
  std::atomic<bool> empty{true};  // the common case costs one load
};

Table& table() {
  static Table one;
  return one;
}

}  // namespace

Choice chosen(const MarlinArgs& args) {
  Table& all = table();
  if (all.empty.load(std::memory_order_acquire)) return {};
  const std::shared_lock<std::shared_mutex> lock(all.mutex);
  const auto found = all.choices.find(key_of(args));
  return found == all.choices.end() ? Choice{} : found->second;
}

void forget_choices() {
  Table& all = table();
  const std::unique_lock<std::shared_mutex> lock(all.mutex);
  all.choices.clear();
  all.empty.store(true, std::memory_order_release);
}

Status choose(const MarlinArgs& args, const Choice& choice) {
  Choice resolved;
  KERNELPKG_RETURN_IF_ERROR(resolve(args, choice, &resolved));
  Table& all = table();
  const std::unique_lock<std::shared_mutex> lock(all.mutex);
  all.choices[key_of(args)] = choice;
  all.empty.store(false, std::memory_order_release);
  return {};
}

Status candidates(const MarlinArgs& args, std::vector<Choice>* found) {
  Choice first;
  KERNELPKG_RETURN_IF_ERROR(resolve(args, {}, &first));
  found->assign(1, first);
  const auto add = [&](const Choice& wish) {
    Choice one;
    if (!resolve(args, wish, &one).ok()) return;
    const auto same = [&](const Choice& other) {
      return other.route == one.route && other.rows == one.rows && other.parts == one.parts &&
             other.added == one.added;
    };
    if (std::none_of(found->begin(), found->end(), same)) found->push_back(one);
  };
  DeviceFacts facts;
  KERNELPKG_RETURN_IF_ERROR(device_facts(args.device, &facts));
  // Parts that fill between two thirds of the multiprocessors and three blocks on each.
  const auto fills = [&](int64_t tiles, int parts) {
    return parts == 1 ? tiles * 8 >= facts.sms
                      : 3 * tiles * parts >= 2 * facts.sms && tiles * parts <= 3 * facts.sms;
  };
  for (const KernelInstance& tile : instances()) {
    if (tile.family != Family::kShipped || tile.a_type != args.a_type ||
        tile.format != args.b_format || tile.c_type != args.c_type)
      continue;
    if (tile.rows > bucket(args.m) || 4 * tile.rows < std::min(args.m, 64)) continue;
    const int64_t tiles =
        int64_t{(args.m + tile.rows - 1) / tile.rows} * ((args.n + kTileCols - 1) / kTileCols);
    for (int parts = 1; parts <= 16; ++parts)
      if (fills(tiles, parts)) add({Route::kMma, tile.rows, parts});
  }
  if (args.m > 16 && wgmma_takes(args, facts)) {
    for (const WgmmaInstance& tile : wgmma_instances()) {
      const int64_t tiles = int64_t{(args.m + tile.tokens - 1) / tile.tokens} *
                            ((args.n + tile.cols - 1) / tile.cols);
      for (int parts = 1; parts <= 8; ++parts) {
        if (!fills(tiles, parts)) continue;
        for (const Adding added : {Adding::kInClusters, Adding::kInWorkspace})
          add({Route::kWgmma, tile.tokens, parts, added});
      }
    }
  }
  if (args.m >= 256) add({Route::kLibrary});
  return {};
}

}  // namespace kernelpkg::marlin
