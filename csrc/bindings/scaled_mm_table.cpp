#include "bindings/scaled_mm_table.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <tuple>
#include <vector>

#include "scaled_mm/registry.h"

namespace {

using kernelpkg::DType;
using kernelpkg::ScaledMmInstance;
using kernelpkg::ScaledMmRoute;
using kernelpkg::Status;

Status route_of(int number, ScaledMmRoute* route) {
  if (number < 0 || number > static_cast<int>(ScaledMmRoute::kSm120)) {
    return Status::error("scaled_mm: route " + std::to_string(number) + " names none; there are 0 to " +
                         std::to_string(static_cast<int>(ScaledMmRoute::kSm120)) + ".");
  }
  *route = static_cast<ScaledMmRoute>(number);
  return {};
}

KernelpkgScaledMm plain(const ScaledMmInstance& instance) {
  const auto& row = instance.row;
  return {instance.name,
          instance.configuration,
          static_cast<int64_t>(instance.shared_memory),
          static_cast<int>(instance.a_type),
          instance.block_scales ? 1 : 0,
          row.place,
          row.min_m,
          row.max_m,
          row.rows,
          row.columns,
          row.blocks,
          row.per_sm,
          row.round,
          row.step,
          row.split};
}

Status find_kernels(int number, bool standin, KernelpkgScaledMm* found, int capacity, int* count) {
  ScaledMmRoute route;
  KERNELPKG_RETURN_IF_ERROR(route_of(number, &route));
  std::vector<const ScaledMmInstance*> members;
  const auto& registry =
      standin ? kernelpkg::scaled_mm_standin_registry() : kernelpkg::scaled_mm_registry();
  std::copy_if(registry.begin(), registry.end(), std::back_inserter(members),
               [&](const ScaledMmInstance* instance) { return instance->route == route; });
  const auto order = [](const ScaledMmInstance* instance) {
    return std::make_tuple(instance->block_scales, instance->a_type, instance->row.place);
  };
  std::sort(members.begin(), members.end(),
            [&](const auto* left, const auto* right) { return order(left) < order(right); });
  *count = static_cast<int>(members.size());
  for (int i = 0; i < std::min(*count, capacity); ++i) found[i] = plain(*members[i]);
  return {};
}

Status find_choice(const KernelpkgScaledMmCall& call, KernelpkgScaledMm* found) {
  ScaledMmRoute route;
  KERNELPKG_RETURN_IF_ERROR(route_of(call.route, &route));
  const auto a_type = static_cast<DType>(call.a_type);
  if ((a_type != DType::kFloat8E4M3 && a_type != DType::kFloat8E5M2) || call.m < 1 || call.n < 1 ||
      call.k < 1 || call.multiprocessors < 1) {
    return Status::error("scaled_mm: a_type " + std::to_string(call.a_type) + ", m " +
                         std::to_string(call.m) + ", n " + std::to_string(call.n) + ", k " +
                         std::to_string(call.k) + " and " + std::to_string(call.multiprocessors) +
                         " multiprocessors name no call; a_type is 2 (float8_e4m3fn) or 4 (float8_e5m2), "
                         "and the others are at least 1.");
  }
  const ScaledMmInstance* chosen = nullptr;
  KERNELPKG_RETURN_IF_ERROR(kernelpkg::scaled_mm_choice(route, a_type, call.block_scales != 0, call.m, call.n,
                                                        call.k, call.multiprocessors, call.standin != 0,
                                                        &chosen));
  *found = plain(*chosen);
  return {};
}

const char* words(const Status& status) {
  if (status.ok()) return nullptr;
  thread_local std::string message;
  message = status.message();
  return message.c_str();
}

}  // namespace

const char* kernelpkg_scaled_mm_kernels(int route, int standin, KernelpkgScaledMm* found, int capacity,
                                        int* count) {
  return words(find_kernels(route, standin != 0, found, capacity, count));
}

const char* kernelpkg_scaled_mm_choice(const KernelpkgScaledMmCall* call, KernelpkgScaledMm* found) {
  return words(find_choice(*call, found));
}
