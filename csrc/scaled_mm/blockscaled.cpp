// Host side of the microscaled GEMM: checks the call, finds the instance, launches it.
#include "scaled_mm/blockscaled.h"

#include <algorithm>
#include <string>

#include "common/device.h"
#include "kernelpkg_gates.h"
#include "scaled_mm/prepare.h"

namespace kernelpkg {
namespace {

using Registry = std::vector<const BlockScaledInstance*>;

std::string operator_name(MicroFormat format) {
  return std::string(name_of(format)) + "_scaled_mm";
}

Status wrong(const BlockScaledMmArgs& args, const std::string& sentence) {
  return Status::error(operator_name(args.format) + ": " + sentence);
}

Status check_pointer(const BlockScaledMmArgs& args, const char* name, const void* pointer) {
  if (pointer != nullptr && reinterpret_cast<uintptr_t>(pointer) % kScaledMmRowBytes == 0) {
    return Status();
  }
  return wrong(args, std::string(name) + (pointer == nullptr ? " is null" : " is not aligned") +
                         "; pass device memory that starts on a 16-byte boundary.");
}

Status check_stride(const BlockScaledMmArgs& args, const char* name, int64_t stride, int64_t extent,
                    int multiple) {
  if (stride >= extent && stride % multiple == 0) return Status();
  return wrong(args, std::string(name) + " is " + std::to_string(stride) +
                         "; it must be a multiple of " + std::to_string(multiple) +
                         " of at least " + std::to_string(extent) + ".");
}

// What any device would refuse.
Status check(const BlockScaledMmArgs& args) {
  if (args.c_type != DType::kBFloat16 && args.c_type != DType::kFloat16) {
    return wrong(args,
                 std::string("c is ") + name_of(args.c_type) + "; it must be bfloat16 or float16.");
  }
  if (args.m < 0 || args.n <= 0) {
    return wrong(args, "m is " + std::to_string(args.m) + " and n " + std::to_string(args.n) +
                           "; m must be 0 or more and n 1 or more.");
  }
  if (args.k <= 0 || args.k % kBlockScaledK != 0) {
    return wrong(args, "k is " + std::to_string(args.k) + "; it must be a positive multiple of " +
                           std::to_string(kBlockScaledK) + ": pad both operands with zeros.");
  }
  if (args.m == 0) return Status();
  const int64_t row_bytes = int64_t{args.k} * bits_of(args.format) / 8;
  KERNELPKG_RETURN_IF_ERROR(check_pointer(args, "a", args.a));
  KERNELPKG_RETURN_IF_ERROR(check_pointer(args, "b", args.b));
  KERNELPKG_RETURN_IF_ERROR(check_pointer(args, "c", args.c));
  KERNELPKG_RETURN_IF_ERROR(check_pointer(args, "a_scales", args.a_scales));
  KERNELPKG_RETURN_IF_ERROR(check_pointer(args, "b_scales", args.b_scales));
  KERNELPKG_RETURN_IF_ERROR(check_stride(args, "lda", args.lda, row_bytes, kScaledMmRowBytes));
  KERNELPKG_RETURN_IF_ERROR(check_stride(args, "ldb", args.ldb, row_bytes, kScaledMmRowBytes));
  return check_stride(args, "ldc", args.ldc, args.n, kScaledMmRowBytes / size_of(args.c_type));
}

const BlockScaledInstance* find(const Registry& registry, MicroFormat format) {
  const auto found = std::find_if(registry.begin(), registry.end(),
                                  [&](const auto* entry) { return entry->format == format; });
  return found == registry.end() ? nullptr : *found;
}

// Gate: the one that admits the device.
template <class Gate>
Status run(const BlockScaledMmArgs& args, const Registry& registry) {
  KERNELPKG_RETURN_IF_ERROR(check(args));
  ScaledMmDevice device;
  KERNELPKG_RETURN_IF_ERROR(scaled_mm_device(args.device, &device));
  if (!Gate::admits(device.major, device.minor)) {
    return Status::error(Gate::refusal(device.major, device.minor));
  }
  if (args.m == 0) return Status();
  const BlockScaledInstance* instance = find(registry, args.format);
  if (instance == nullptr) {
    return Status::error("not built: this library holds no " + operator_name(args.format) +
                         " kernel for " + Gate::name +
                         "; build one with `kernelpkg build --set release`.");
  }
  const CurrentDevice current(args.device);
  if (!current.status().ok()) return wrong(args, current.status().message());
  KERNELPKG_RETURN_IF_ERROR(prepare_kernel(instance->name, instance->kernel,
                                           instance->shared_memory, args.device, device,
                                           &instance->ready));
  return instance->launch(args, device);
}

}  // namespace

Registry& blockscaled_registry() {
  static Registry registry;
  return registry;
}

Registry& blockscaled_standin_registry() {
  static Registry registry;
  return registry;
}

size_t blockscaled_mm_workspace_bytes(const BlockScaledMmArgs& args, bool standin) {
  ScaledMmDevice device;
  if (args.m <= 0 || !scaled_mm_device(args.device, &device).ok()) return 0;
  const BlockScaledInstance* instance =
      find(standin ? blockscaled_standin_registry() : blockscaled_registry(), args.format);
  return instance == nullptr ? 0 : instance->workspace_bytes(args, device);
}

Status blockscaled_mm(const BlockScaledMmArgs& args) {
  return run<gates::scaled_mm_sm120>(args, blockscaled_registry());
}

Status blockscaled_mm_standin(const BlockScaledMmArgs& args) {
  return run<gates::evidence_sm90>(args, blockscaled_standin_registry());
}

}  // namespace kernelpkg
