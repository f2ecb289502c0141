// The dispatcher: checks the call, picks the route by the device and the configuration by the
// dispatch table, launches.
#include "scaled_mm/scaled_mm.h"

#include <algorithm>
#include <string>

#include "common/device.h"
#include "kernelpkg_gates.h"
#include "scaled_mm/registry.h"

namespace kernelpkg {
namespace {

Status wrong(const std::string& sentence) { return Status::error("scaled_mm: " + sentence); }

Status check_pointer(const char* name, const void* pointer) {
  if (pointer == nullptr) return wrong(std::string(name) + " is null; pass device memory.");
  if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) {
    return wrong(std::string(name) +
                 " does not start on a 16-byte boundary; pass an aligned copy.");
  }
  return Status();
}

Status check_stride(const char* name, int64_t stride, int64_t extent, int multiple) {
  if (stride < extent || stride % multiple != 0) {
    return wrong(std::string(name) + " is " + std::to_string(stride) +
                 "; it must be a multiple of " + std::to_string(multiple) + " of at least " +
                 std::to_string(extent) + ".");
  }
  return Status();
}

// What any device would refuse.
Status check(const ScaledMmArgs& args) {
  if (args.c_type != DType::kBFloat16 && args.c_type != DType::kFloat16) {
    return wrong(std::string("c is ") + name_of(args.c_type) + "; it must be bfloat16 or float16.");
  }
  if (args.a_type != DType::kFloat8E4M3 && args.a_type != DType::kFloat8E5M2) {
    return wrong(std::string("a is ") + name_of(args.a_type) +
                 "; it must be float8_e4m3fn or float8_e5m2.");
  }
  if (args.m < 0) return wrong("m is " + std::to_string(args.m) + "; it must be 0 or more.");
  if (args.n <= 0) return wrong("n is " + std::to_string(args.n) + "; it must be 1 or more.");
  if (args.k <= 0) return wrong("k is " + std::to_string(args.k) + "; it must be 1 or more.");
  if (args.m == 0) return Status();
  KERNELPKG_RETURN_IF_ERROR(check_pointer("a", args.a));
  KERNELPKG_RETURN_IF_ERROR(check_pointer("b", args.b));
  KERNELPKG_RETURN_IF_ERROR(check_pointer("c", args.c));
  KERNELPKG_RETURN_IF_ERROR(check_stride("lda", args.lda, args.k, kScaledMmRowBytes));
  KERNELPKG_RETURN_IF_ERROR(check_stride("ldb", args.ldb, args.k, kScaledMmRowBytes));
  KERNELPKG_RETURN_IF_ERROR(check_stride("ldc", args.ldc, args.n, kScaledMmRowBytes / 2));
  if (args.a_scales == nullptr || args.b_scales == nullptr) {
    return wrong("a scale is null; pass one float32, or one per token of a and per channel of b.");
  }
  const auto vector = [](int64_t step, int64_t block) {
    return (step == 0 || step == 1) && !block;
  };
  if (!args.block_scales && (!vector(args.a_scale_row, args.a_scale_block) ||
                             !vector(args.b_scale_column, args.b_scale_block))) {
    return wrong(
        "scales that do not come in blocks have strides of 0 (one value) or 1 (one per row or "
        "column); pass contiguous ones.");
  }
  if (reinterpret_cast<uintptr_t>(args.bias) % 2 != 0) {
    return wrong("bias does not start on a 2-byte boundary; pass an aligned copy.");
  }
  return Status();
}

// Columns of the weight whose cost `step` says where a configuration divides any N evenly.
constexpr int kShareColumns = 64;

int64_t tiles(int extent, int tile) { return (int64_t{extent} + tile - 1) / tile; }

const std::vector<const ScaledMmInstance*>& registry_of(bool standin) {
  return standin ? scaled_mm_standin_registry() : scaled_mm_registry();
}

// How far m is from what a row takes.
int outside(const ScaledMmRow& row, int m) {
  if (m < row.min_m) return row.min_m - m;
  return row.max_m != 0 && m > row.max_m ? m - row.max_m : 0;
}

// The relative time of a call: what counts is how many rounds of blocks there are, or how much of
// the weight falls to a multiprocessor where it is divided evenly.
double cost(const ScaledMmRow& row, int m, int n, int k, int sm_count) {
  const int64_t at_once = int64_t{std::max(1, sm_count)} * row.per_sm;
  const double steps = static_cast<double>(row.step) * tiles(k, kScaleBlock);
  if (row.columns == 0) return row.round + steps * n / kShareColumns / at_once;
  const int64_t blocks = tiles(m, row.rows) * tiles(n, row.columns) * row.blocks;
  const int64_t rounds = blocks / at_once, rest = blocks % at_once;
  double last = rest == 0 ? 0 : row.round + steps;
  if (rest != 0 && row.split > 0) {
    const int64_t parts =
        std::min({at_once / rest, int64_t{kMaxCuts}, tiles(k, kScaleBlock) / kCutBlocks});
    if (parts > 1) last = std::min(last, row.round + steps / parts + row.split);
  }
  return rounds * (row.round + steps) + last;
}

bool serves(const ScaledMmInstance& one, ScaledMmRoute route, DType a_type, bool block_scales) {
  return one.route == route && one.a_type == a_type && one.block_scales == block_scales;
}

Status not_built(ScaledMmRoute route, DType a_type, bool block_scales, bool standin) {
  return Status::error(std::string("not built: this library holds no ") +
                       scaled_mm_route_name(route) + (standin ? " stand-in" : "") + " kernel for " +
                       name_of(a_type) + " activations" +
                       (block_scales ? " with scales in blocks" : "") +
                       "; build one with `kernelpkg build --set release`.");
}

Status asked_for(const ScaledMmArgs& args, ScaledMmRoute route, bool standin,
                 const ScaledMmInstance** out) {
  std::string places;
  for (const ScaledMmInstance* one : registry_of(standin)) {
    if (!serves(*one, route, args.a_type, args.block_scales)) continue;
    if (one->row.place == args.configuration) {
      *out = one;
      return Status();
    }
    places += (places.empty() ? "" : ", ") + std::to_string(one->row.place);
  }
  if (places.empty()) return not_built(route, args.a_type, args.block_scales, standin);
  return wrong("configuration is " + std::to_string(args.configuration) + "; for this call " +
               scaled_mm_route_name(route) + " has " + places +
               " in this build, and -1 for the one that dispatch chooses.");
}

Status find(const ScaledMmArgs& args, ScaledMmRoute route, bool standin,
            const ScaledMmDevice& device, const ScaledMmInstance** out) {
  if (args.configuration >= 0) return asked_for(args, route, standin, out);
  return scaled_mm_choice(route, args.a_type, args.block_scales, args.m, args.n, args.k,
                          device.sm_count, standin, out);
}

Status run(const ScaledMmArgs& args, ScaledMmRoute route, bool standin,
           const ScaledMmDevice& device) {
  if (scaled_mm_whole_rows(route) && args.k % kScaledMmRowBytes != 0) {
    return wrong("k is " + std::to_string(args.k) + "; on this route it must be a multiple of " +
                 std::to_string(kScaledMmRowBytes) + ": pad a and b with zeros.");
  }
  const ScaledMmInstance* instance = nullptr;
  KERNELPKG_RETURN_IF_ERROR(find(args, route, standin, device, &instance));
  const CurrentDevice current(args.device);
  if (!current.status().ok()) return wrong(current.status().message());
  KERNELPKG_RETURN_IF_ERROR(scaled_mm_prepare(*instance, args.device, device));
  return instance->launch(args, device);
}

}  // namespace

const char* scaled_mm_route_name(ScaledMmRoute route) {
  switch (route) {
    case ScaledMmRoute::kSm89:
      return gates::scaled_mm_sm89::name;
    case ScaledMmRoute::kSm90:
      return gates::scaled_mm_sm90::name;
    case ScaledMmRoute::kSm100:
      return gates::scaled_mm_sm100::name;
    case ScaledMmRoute::kSm120:
      return gates::scaled_mm_sm120::name;
  }
  return "unknown route";
}

Status scaled_mm_route(int device, ScaledMmRoute* route) {
  ScaledMmDevice found;
  KERNELPKG_RETURN_IF_ERROR(scaled_mm_device(device, &found));
  if (gates::scaled_mm_sm89::admits(found.major, found.minor)) {
    *route = ScaledMmRoute::kSm89;
  } else if (gates::scaled_mm_sm90::admits(found.major, found.minor)) {
    *route = ScaledMmRoute::kSm90;
  } else if (gates::scaled_mm_sm100::admits(found.major, found.minor)) {
    *route = ScaledMmRoute::kSm100;
  } else if (gates::scaled_mm_sm120::admits(found.major, found.minor)) {
    *route = ScaledMmRoute::kSm120;
  } else {
    return Status::error(gates::scaled_mm_sm120::refusal(found.major, found.minor));
  }
  return Status();
}

bool scaled_mm_whole_rows(ScaledMmRoute route) { return route == ScaledMmRoute::kSm89; }

Status scaled_mm_choice(ScaledMmRoute route, DType a_type, bool block_scales, int m, int n, int k,
                        int sm_count, bool standin, const ScaledMmInstance** out) {
  const ScaledMmInstance* best = nullptr;
  int nearest = 0;
  double least = 0;
  for (const ScaledMmInstance* one : registry_of(standin)) {
    if (!serves(*one, route, a_type, block_scales)) continue;
    const int distance = outside(one->row, m);
    const double price = cost(one->row, m, n, k, sm_count);
    if (best == nullptr || distance < nearest || (distance == nearest && price < least)) {
      best = one;
      nearest = distance;
      least = price;
    }
  }
  if (best == nullptr) return not_built(route, a_type, block_scales, standin);
  *out = best;
  return Status();
}

size_t scaled_mm_workspace_bytes(const ScaledMmArgs& args, ScaledMmRoute route, bool standin) {
  ScaledMmDevice device;
  const ScaledMmInstance* instance = nullptr;
  if (args.m <= 0 || !scaled_mm_device(args.device, &device).ok() ||
      !find(args, route, standin, device, &instance).ok()) {
    return 0;
  }
  return instance->workspace_bytes(args, device);
}

Status scaled_mm(const ScaledMmArgs& args) {
  KERNELPKG_RETURN_IF_ERROR(check(args));
  ScaledMmRoute route;
  KERNELPKG_RETURN_IF_ERROR(scaled_mm_route(args.device, &route));
  if (args.m == 0) return Status();
  ScaledMmDevice device;
  KERNELPKG_RETURN_IF_ERROR(scaled_mm_device(args.device, &device));
  return run(args, route, /*standin=*/false, device);
}

Status scaled_mm_standin(const ScaledMmArgs& args, ScaledMmRoute route) {
  KERNELPKG_RETURN_IF_ERROR(check(args));
  if (route != ScaledMmRoute::kSm89 && route != ScaledMmRoute::kSm120) {
    return wrong(std::string(scaled_mm_route_name(route)) +
                 " has no stand-in; ask for the sm89 or the sm120 route.");
  }
  ScaledMmDevice device;
  KERNELPKG_RETURN_IF_ERROR(scaled_mm_device(args.device, &device));
  if (!gates::evidence_sm90::admits(device.major, device.minor)) {
    return Status::error(gates::evidence_sm90::refusal(device.major, device.minor));
  }
  if (args.m == 0) return Status();
  return run(args, route, /*standin=*/true, device);
}

}  // namespace kernelpkg
