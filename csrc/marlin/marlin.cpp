// The host entry points.
#include "marlin/marlin.h"

#include <algorithm>
#include <string>

#include "kernelpkg_gates.h"
#include "marlin/checks.h"
#include "marlin/device.h"
#include "marlin/helpers.h"
#include "marlin/plan.h"
#include "marlin/wgmma.h"

namespace kernelpkg {
namespace marlin {
namespace {

std::vector<KernelInstance>& registry() {
  static std::vector<KernelInstance>
      all;  // inside a function: instances register before main, in any order
  return all;
}

template <class Gate>
Status require(const char* who, const DeviceFacts& facts) {
  if (Gate::admits(facts.major, facts.minor)) return {};
  return Status::error(std::string(who) + ": " + Gate::refusal(facts.major, facts.minor));
}

Status admit(const MarlinArgs& args, Family family, const DeviceFacts& facts) {
  if (family == Family::kEmulated) {
    if (args.a_type != DType::kFloat8E4M3) {
      return Status::error(std::string("marlin_gemm_emulated: activations are ") +
                           name_of(args.a_type) +
                           "; only float8_e4m3fn has an emulated form, call marlin_gemm.");
    }
    return require<gates::evidence_sm90>("marlin_gemm_emulated", facts);
  }
  return args.a_type == DType::kFloat8E4M3 ? require<gates::marlin_fp8>("marlin_gemm", facts)
                                           : require<gates::marlin_16bit>("marlin_gemm", facts);
}

Status check_workspace(const MarlinArgs& args, size_t needed) {
  if (needed == 0) return {};
  if (args.workspace == nullptr || args.workspace_bytes < needed) {
    return Status::error("marlin_gemm: the workspace has " +
                         std::to_string(args.workspace == nullptr ? 0 : args.workspace_bytes) +
                         " bytes and this call needs " + std::to_string(needed) +
                         "; ask marlin_workspace_bytes with the same arguments.");
  }
  if (reinterpret_cast<uintptr_t>(args.workspace) % 16 != 0) {
    return Status::error(
        "marlin_gemm: the workspace does not start on a 16-byte boundary; pass memory that does.");
  }
  return {};
}

// Where the wgmma kernel is the faster one, by measurement on an H200: from 33 rows on where its
// tiles of 256 columns occupy half of the multiprocessors, else from 65 on. From 2048 rows on
// widening the whole weight once for a library's GEMM is faster still.
constexpr int kWgmmaRows = 33;
constexpr int kWgmmaRowsFewTiles = 65;
constexpr int kLibraryRows = 2048;

bool takes_wgmma(const MarlinArgs& args, Family family, const DeviceFacts& facts,
                 const PlanRequest& request) {
  const bool few_tiles = args.n / 256 < facts.sms / 2;
  return family == Family::kShipped && request.rows == 0 && request.parts == 0 &&
         args.m >= (few_tiles ? kWgmmaRowsFewTiles : kWgmmaRows) && wgmma_takes(args, facts);
}

Params make_params(const MarlinArgs& args, const Plan& plan) {
  const KernelInstance& tile = *plan.instance;
  const int element = size_of(args.a_type);
  Params params = {};
  params.a = static_cast<const char*>(args.a);
  params.a_row_bytes = args.lda * element;
  params.a_bytes = (args.k * element + 15) / 16 * 16;
  params.b = reinterpret_cast<const char*>(args.b);
  params.scales = static_cast<const char*>(args.scales);
  params.zeros = reinterpret_cast<const char*>(args.zeros);
  params.a_scales = args.a_scales;
  params.bias = static_cast<const char*>(args.bias);
  params.c = static_cast<char*>(args.c);
  params.partials = static_cast<float*>(args.workspace);
  params.factor = tile.fragment_scale * args.output_scale;
  params.m = args.m;
  params.n = args.n;
  params.n_pad = static_cast<int>(padded_n(args.n));
  params.k_pad = static_cast<int>(padded_k(args.k));
  params.scale_mode = args.b_format == WeightFormat::kNvfp4 ? ScaleMode::kOnWeights
                      : args.group_size == -1               ? ScaleMode::kChannel
                                                            : ScaleMode::kGrouped;
  params.group_shift = group_shift(args.group_size);
  params.group_blocks =
      std::clamp(args.group_size == -1 ? tile.stage_k : args.group_size, kUnitRows, tile.stage_k) /
      kUnitRows;
  params.schedule = plan.schedule;
  return params;
}

// With `overlap` (9.0 and later) the blocks may be scheduled while the kernel before runs out; they
// wait for its end on the device before they read or write anything.
cudaError_t launch_gemm(const KernelInstance& tile, Params& params, bool overlap,
                        cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(params.schedule.blocks()));
  config.blockDim = dim3(static_cast<unsigned>(tile.threads));
  config.dynamicSmemBytes = tile.shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  void* arguments[] = {&params};
  return cudaLaunchKernelExC(&config, tile.kernel, arguments);
}

}  // namespace

const std::vector<KernelInstance>& instances() { return registry(); }

bool add_instance(const KernelInstance& instance) {
  registry().push_back(instance);
  return true;
}

Status run(const MarlinArgs& args, Family family, const PlanRequest& request) {
  KERNELPKG_RETURN_IF_ERROR(check_gemm(args));
  DeviceFacts facts;
  KERNELPKG_RETURN_IF_ERROR(device_facts(args.device, &facts));
  KERNELPKG_RETURN_IF_ERROR(admit(args, family, facts));
  if (args.m == 0) return {};
  const CurrentDevice current(args.device);
  KERNELPKG_RETURN_IF_ERROR(current.status());
  if (takes_wgmma(args, family, facts, request)) {
    KERNELPKG_RETURN_IF_ERROR(check_workspace(args, wgmma_workspace_bytes(args, facts)));
    return wgmma_run(args, facts);
  }
  Plan plan;
  KERNELPKG_RETURN_IF_ERROR(make_plan(args, family, facts, request, &plan));
  KERNELPKG_RETURN_IF_ERROR(check_workspace(args, plan.workspace_bytes));

  const KernelInstance& tile = *plan.instance;
  Params params = make_params(args, plan);
  const bool overlap = facts.major >= 9;
  cudaError_t error = launch_gemm(tile, params, overlap, args.stream);
  if (error != cudaSuccess) return cuda_failure("marlin_gemm: the launch failed", error);
  if (plan.schedule.parts > 1) {
    error = launch_reduce(params, tile.rows, args.c_type, overlap, args.stream);
    if (error != cudaSuccess)
      return cuda_failure("marlin_gemm: the launch of the reduction failed", error);
  }
  return {};
}

size_t workspace_bytes(const MarlinArgs& args, Family family, const PlanRequest& request) {
  // The pointers need not be there yet; what check_gemm would say of shapes and types makes a plan
  // impossible.
  MarlinArgs shapes = args;
  shapes.m = 0;
  const float unread = 0.0f;
  shapes.a_scales = args.a_type == DType::kFloat8E4M3 ? &unread : nullptr;
  DeviceFacts facts;
  if (args.m <= 0 || !check_gemm(shapes).ok() || !device_facts(args.device, &facts).ok() ||
      !admit(args, family, facts).ok()) {
    return 0;
  }
  const CurrentDevice current(args.device);
  if (current.status().ok() && takes_wgmma(args, family, facts, request))
    return wgmma_workspace_bytes(args, facts);
  Plan plan;
  if (!current.status().ok() || !make_plan(args, family, facts, request, &plan).ok()) return 0;
  return plan.workspace_bytes;
}

}  // namespace marlin

size_t marlin_workspace_bytes(const MarlinArgs& args) {
  return marlin::workspace_bytes(args, marlin::Family::kShipped, {});
}

Status marlin_gemm(const MarlinArgs& args) {
  return marlin::run(args, marlin::Family::kShipped, {});
}

size_t marlin_emulated_workspace_bytes(const MarlinArgs& args) {
  return marlin::workspace_bytes(args, marlin::Family::kEmulated, {});
}

Status marlin_gemm_emulated(const MarlinArgs& args) {
  return marlin::run(args, marlin::Family::kEmulated, {});
}

bool marlin_prefers_library(const MarlinArgs& args) {
  marlin::DeviceFacts facts;
  return args.m >= marlin::kLibraryRows && args.a_type == args.c_type &&
         marlin::device_facts(args.device, &facts).ok() &&
         gates::marlin_wgmma::admits(facts.major, facts.minor);
}

Status marlin_widen(const MarlinArgs& args, int first_col, int cols, void* wide) {
  MarlinArgs weight = args;
  weight.m = 0;  // the activations need not be such as the kernels take
  KERNELPKG_RETURN_IF_ERROR(marlin::check_gemm(weight));
  const marlin::CurrentDevice current(args.device);
  KERNELPKG_RETURN_IF_ERROR(current.status());
  const cudaError_t error = marlin::launch_widen(args, first_col, cols, wide);
  if (error != cudaSuccess) return marlin::cuda_failure("marlin_widen: the launch failed", error);
  return {};
}

Status marlin_repack(const MarlinRepackArgs& args) {
  KERNELPKG_RETURN_IF_ERROR(marlin::check_repack(args));
  marlin::DeviceFacts facts;
  KERNELPKG_RETURN_IF_ERROR(marlin::device_facts(args.device, &facts));
  KERNELPKG_RETURN_IF_ERROR(marlin::require<gates::marlin_16bit>("marlin_repack", facts));
  const marlin::CurrentDevice current(args.device);
  KERNELPKG_RETURN_IF_ERROR(current.status());
  const cudaError_t error = marlin::launch_repack(args);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
    return marlin::cuda_failure("marlin_repack: this library holds no code for capability " +
                                    std::to_string(facts.major) + "." +
                                    std::to_string(facts.minor) +
                                    ", rebuild it there with `kernelpkg build --arch native`",
                                error);
  }
  if (error != cudaSuccess) return marlin::cuda_failure("marlin_repack: the launch failed", error);
  return {};
}

}  // namespace kernelpkg
