// The host entry points.
#include "marlin/marlin.h"

#include <vector>

#include "marlin/checks.h"
#include "marlin/choice.h"
#include "marlin/dispatch.h"
#include "marlin/guarded.h"
#include "marlin/helpers.h"

namespace kernelpkg {
namespace marlin {
namespace {

// Inside a function: instances register before main, in any order.
std::vector<KernelInstance>& registry() {
  static std::vector<KernelInstance> all;
  return all;
}

}  // namespace

const std::vector<KernelInstance>& instances() { return registry(); }

bool add_instance(const KernelInstance& instance) {
  registry().push_back(instance);
  return true;
}

}  // namespace marlin

size_t marlin_workspace_bytes(const MarlinArgs& args) {
  return marlin::workspace_bytes(args, marlin::Family::kShipped, marlin::chosen(args));
}

Status marlin_gemm(const MarlinArgs& args) {
  return marlin::run(args, marlin::Family::kShipped, marlin::chosen(args));
}

size_t marlin_emulated_workspace_bytes(const MarlinArgs& args) {
  return marlin::workspace_bytes(args, marlin::Family::kEmulated, {});
}

Status marlin_gemm_emulated(const MarlinArgs& args) {
  return marlin::run(args, marlin::Family::kEmulated, {});
}

Status marlin_widen(const MarlinArgs& args, int first_col, int cols, void* wide) {
  MarlinArgs weight = args;
  weight.m = 0;  // the activations need not be such as the kernels take
  KERNELPKG_RETURN_IF_ERROR(marlin::check_gemm(weight));
  return marlin::run_helper("marlin_widen", args.device,
                            [&] { return marlin::launch_widen(args, first_col, cols, wide); });
}

Status marlin_repack(const MarlinRepackArgs& args) {
  KERNELPKG_RETURN_IF_ERROR(marlin::check_repack(args));
  return marlin::run_helper("marlin_repack", args.device,
                            [&] { return marlin::launch_repack(args); });
}

}  // namespace kernelpkg
