// The dispatcher: checks the call, picks the route by the device and the tile by M, launches.
#include "scaled_mm/scaled_mm.h"

#include <algorithm>
#include <string>

#include "kernelpkg_gates.h"
#include "scaled_mm/registry.h"

namespace kernelpkg {
namespace {

// Makes a device current for one call and puts the caller's back. It is set even where it is the
// current one already: on a thread new to CUDA only that binds the context, without which no TMA
// descriptor is encoded.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    changed_ = cudaGetDevice(&before_) == cudaSuccess && before_ != device;
    error_ = cudaSetDevice(device);
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  cudaError_t error() const { return error_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t error_ = cudaSuccess;
};

Status wrong(const std::string& sentence) { return Status::error("scaled_mm: " + sentence); }

Status check_pointer(const char* name, const void* pointer) {
  if (pointer == nullptr) return wrong(std::string(name) + " is null; pass device memory.");
  if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) {
    return wrong(std::string(name) +
                 " does not start on a 16-byte boundary; pass an aligned copy.");
  }
  return Status();
}

Status check_stride(const char* name, int64_t stride, int64_t extent) {
  if (stride < extent || stride % 16 != 0) {
    return wrong(std::string(name) + " is " + std::to_string(stride) +
                 "; it must be a multiple of 16 of at least " + std::to_string(extent) + ".");
  }
  return Status();
}

Status check(const ScaledMmArgs& args) {
  if (args.c_type != DType::kBFloat16 && args.c_type != DType::kFloat16) {
    return wrong(std::string("c is ") + name_of(args.c_type) + "; it must be bfloat16 or float16.");
  }
  if (args.m < 0) return wrong("m is " + std::to_string(args.m) + "; it must be 0 or more.");
  if (args.n <= 0 || args.n % 16 != 0) {
    return wrong("n is " + std::to_string(args.n) +
                 "; it must be a positive multiple of 16: pad b's columns.");
  }
  if (args.k <= 0 || args.k % 16 != 0) {
    return wrong("k is " + std::to_string(args.k) +
                 "; it must be a positive multiple of 16: pad both operands.");
  }
  if (args.m == 0) return Status();
  KERNELPKG_RETURN_IF_ERROR(check_pointer("a", args.a));
  KERNELPKG_RETURN_IF_ERROR(check_pointer("b", args.b));
  KERNELPKG_RETURN_IF_ERROR(check_pointer("c", args.c));
  KERNELPKG_RETURN_IF_ERROR(check_stride("lda", args.lda, args.k));
  KERNELPKG_RETURN_IF_ERROR(check_stride("ldb", args.ldb, args.k));
  KERNELPKG_RETURN_IF_ERROR(check_stride("ldc", args.ldc, args.n));
  if (args.a_scales == nullptr || args.b_scales == nullptr) {
    return wrong("a scale is null; pass one float32, or one per token of a and per channel of b.");
  }
  if (reinterpret_cast<uintptr_t>(args.bias) % 2 != 0) {
    return wrong("bias does not start on a 2-byte boundary; pass an aligned copy.");
  }
  return Status();
}

// For a question asked without a device: an H100 or H200.
constexpr int kHopperSmCount = 132;

int64_t tiles(int extent, int tile) { return (int64_t{extent} + tile - 1) / tile; }

// The 9.0 tiles differ in how much a block does in one go, so what counts is how many rounds of
// blocks there are. The cost of a round is relative, measured on an H200 (K = 4096 and 14336,
// N = 4096 to 28672). The largest tile runs in pairs that share columns: its rows come in 256.
int wanted_sm90(int m, int n, int sm_count) {
  if (m <= 32) return 0;  // Bound by reading b: many small tiles keep all multiprocessors reading.
  const struct {
    int tile, rows, columns, blocks, cost;
  } choices[] = {{3, 256, 128, 2, 140}, {2, 128, 64, 1, 77}, {1, 64, 64, 1, 60}};
  int best = 0;
  int64_t least = INT64_MAX;
  for (const auto& choice : choices) {
    const int64_t blocks = tiles(m, choice.rows) * tiles(n, choice.columns) * choice.blocks;
    const int64_t cost = (blocks + sm_count - 1) / sm_count * choice.cost;
    if (cost < least) {
      least = cost;
      best = choice.tile;
    }
  }
  return best;
}

// The place in the route's order of tiles that suits the shape best. The catalogue
// (kernelpkg/build/instances_scaled_mm.py) lists the tiles in the same order.
int wanted_tile(ScaledMmRoute route, int m, int n, int sm_count) {
  switch (route) {
    case ScaledMmRoute::kSm90:
      return wanted_sm90(m, n, sm_count);
    case ScaledMmRoute::kSm89:
      return m <= 16 ? 0 : m <= 32 ? 1 : m <= 64 ? 2 : m <= 128 ? 3 : 4;
    case ScaledMmRoute::kSm120:
      return m <= 256 ? 0 : 1;
  }
  return 0;
}

// The wanted tile, else the next larger one that is built, else the next smaller one.
const ScaledMmInstance* find(const std::vector<const ScaledMmInstance*>& registry,
                             ScaledMmRoute route, const DType* c_type, int m, int n, int sm_count) {
  const int wanted = wanted_tile(route, m, n, sm_count);
  const ScaledMmInstance* best = nullptr;
  const auto distance = [&](const ScaledMmInstance& instance) {
    return instance.tile >= wanted ? instance.tile - wanted : 1000 + wanted - instance.tile;
  };
  for (const ScaledMmInstance* instance : registry) {
    if (instance->route != route || (c_type != nullptr && instance->c_type != *c_type)) continue;
    if (best == nullptr || distance(*instance) < distance(*best)) best = instance;
  }
  return best;
}

const std::vector<const ScaledMmInstance*>& registry_of(bool standin) {
  return standin ? scaled_mm_standin_registry() : scaled_mm_registry();
}

Status run(const ScaledMmArgs& args, ScaledMmRoute route, bool standin,
           const ScaledMmDevice& device) {
  const ScaledMmInstance* instance =
      find(registry_of(standin), route, &args.c_type, args.m, args.n, device.sm_count);
  if (instance == nullptr) {
    return Status::error(std::string("not built: this library holds no ") +
                         scaled_mm_route_name(route) + (standin ? " stand-in" : "") +
                         " kernel with " + name_of(args.c_type) +
                         " output; build one with `kernelpkg build --set release`.");
  }
  DeviceGuard guard(args.device);
  if (guard.error() != cudaSuccess) {
    return wrong("device " + std::to_string(args.device) +
                 " cannot be used: " + cudaGetErrorString(guard.error()) + ".");
  }
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
  } else if (gates::scaled_mm_sm120::admits(found.major, found.minor)) {
    *route = ScaledMmRoute::kSm120;
  } else if (gates::scaled_mm_sm100::admits(found.major, found.minor)) {
    return wrong("device " + std::to_string(device) + " has capability " +
                 std::to_string(found.major) + "." + std::to_string(found.minor) +
                 ", which the gate scaled_mm_sm100 admits, but this version has "
                 "no kernel behind that gate; use marlin_gemm with 16-bit activations.");
  } else {
    return Status::error(gates::scaled_mm_sm120::refusal(found.major, found.minor));
  }
  return Status();
}

size_t scaled_mm_workspace_bytes(const ScaledMmArgs& args, ScaledMmRoute route, bool standin) {
  ScaledMmDevice device;
  if (args.m <= 0 || !scaled_mm_device(args.device, &device).ok()) return 0;
  const ScaledMmInstance* instance =
      find(registry_of(standin), route, &args.c_type, args.m, args.n, device.sm_count);
  return instance == nullptr ? 0 : instance->workspace_bytes(args, device);
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
  if (route == ScaledMmRoute::kSm90) {
    return wrong(
        "scaled_mm_sm90 has no stand-in: it runs on 9.0 itself; ask for the sm89 or the sm120 "
        "route.");
  }
  ScaledMmDevice device;
  KERNELPKG_RETURN_IF_ERROR(scaled_mm_device(args.device, &device));
  if (!gates::evidence_sm90::admits(device.major, device.minor)) {
    return Status::error(gates::evidence_sm90::refusal(device.major, device.minor));
  }
  if (args.m == 0) return Status();
  return run(args, route, /*standin=*/true, device);
}

const char* scaled_mm_choice(ScaledMmRoute route, int m, int n, int k, bool standin) {
  (void)k;  // No tile is chosen by K so far.
  const ScaledMmInstance* instance =
      find(registry_of(standin), route, nullptr, m, n, kHopperSmCount);
  return instance == nullptr ? "not built" : instance->choice;
}

}  // namespace kernelpkg
