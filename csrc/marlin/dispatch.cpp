#include "marlin/dispatch.h"

#include <algorithm>
#include <string>

#include "common/launch.h"
#include "marlin/checks.h"
#include "marlin/guarded.h"
#include "marlin/helpers.h"
#include "marlin/plan.h"
#include "marlin/wgmma.h"

namespace kernelpkg::marlin {
namespace {

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

// By measurement on an H200: the wgmma kernel is the faster one from 33 rows on, or from 65 where
// the weight is small, and from 1024 rows on widening the whole weight once for a library's GEMM is
// faster still.
constexpr int kWgmmaRows = 33;
constexpr int kWgmmaRowsSmall = 65;
constexpr int64_t kSmallWeight = 20'000'000;  // weights
constexpr int kLibraryRows = 1024;

bool takes_wgmma(const MarlinArgs& args, Family family, const DeviceFacts& facts,
                 const Choice& choice) {
  if (family != Family::kShipped || choice.route == Route::kMma || !wgmma_takes(args, facts))
    return false;
  if (choice.route == Route::kWgmma) return true;
  const bool small = static_cast<int64_t>(args.n) * args.k <= kSmallWeight;
  return args.m >= (small ? kWgmmaRowsSmall : kWgmmaRows);
}

PlanRequest mma_request(const Choice& choice) {
  if (choice.route != Route::kMma) return {};
  return {choice.rows, choice.parts};
}

WgmmaRequest wgmma_request(const Choice& choice) {
  if (choice.route != Route::kWgmma) return {};
  return {choice.rows, choice.parts, choice.added};
}

// A call without its pointers, and the device it is for. What check_gemm would say of shapes and
// types makes a plan impossible.
Status check_shapes(const MarlinArgs& args, Family family, DeviceFacts* facts) {
  MarlinArgs shapes = args;
  shapes.m = 0;
  const float unread = 0.0f;
  shapes.a_scales = args.a_type == DType::kFloat8E4M3 ? &unread : nullptr;
  KERNELPKG_RETURN_IF_ERROR(check_gemm(shapes));
  KERNELPKG_RETURN_IF_ERROR(device_facts(args.device, facts));
  return admit(args, family, *facts);
}

}  // namespace

Params make_params(const MarlinArgs& args, const Schedule& schedule, float fragment_scale,
                   int stage_k) {
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
  params.factor = fragment_scale * args.output_scale;
  params.m = args.m;
  params.n = args.n;
  params.n_pad = static_cast<int>(padded_n(args.n));
  params.k_pad = static_cast<int>(padded_k(args.k));
  params.scale_mode = args.b_format == WeightFormat::kNvfp4 ? ScaleMode::kOnWeights
                      : args.group_size == -1               ? ScaleMode::kChannel
                                                            : ScaleMode::kGrouped;
  params.group_shift = group_shift(args.group_size);
  params.group_blocks =
      std::clamp(args.group_size == -1 ? stage_k : args.group_size, kUnitRows, stage_k) / kUnitRows;
  params.schedule = schedule;
  return params;
}

Status run(const MarlinArgs& args, Family family, const Choice& choice) {
  KERNELPKG_RETURN_IF_ERROR(check_gemm(args));
  DeviceFacts facts;
  KERNELPKG_RETURN_IF_ERROR(device_facts(args.device, &facts));
  KERNELPKG_RETURN_IF_ERROR(admit(args, family, facts));
  if (args.m == 0) return {};
  const CurrentDevice current(args.device);
  KERNELPKG_RETURN_IF_ERROR(current.status());
  if (takes_wgmma(args, family, facts, choice))
    return wgmma_run(args, facts, wgmma_request(choice));
  Plan plan;
  KERNELPKG_RETURN_IF_ERROR(make_plan(args, family, facts, mma_request(choice), &plan));
  KERNELPKG_RETURN_IF_ERROR(check_workspace(args, plan.workspace_bytes));

  const KernelInstance& tile = *plan.instance;
  const Params params = make_params(args, plan.schedule, tile.fragment_scale, tile.stage_k);
  const bool overlap = facts.major >= 9;
  const Launch launch(dim3(static_cast<unsigned>(params.schedule.blocks())), tile.threads,
                      tile.shared_bytes, overlap, args.stream);
  cudaError_t error = launch.run(tile.kernel, params);
  if (error != cudaSuccess) return cuda_failure("marlin_gemm: the launch failed", error);
  if (plan.schedule.parts > 1) {
    error = launch_reduce(params, tile.rows, kTileCols, args.c_type, overlap, args.stream);
    if (error != cudaSuccess)
      return cuda_failure("marlin_gemm: the launch of the reduction failed", error);
  }
  return {};
}

size_t workspace_bytes(const MarlinArgs& args, Family family, const Choice& choice) {
  DeviceFacts facts;
  if (args.m <= 0 || !check_shapes(args, family, &facts).ok()) return 0;
  const CurrentDevice current(args.device);
  if (!current.status().ok()) return 0;
  if (takes_wgmma(args, family, facts, choice))
    return wgmma_workspace_bytes(args, facts, wgmma_request(choice));
  Plan plan;
  if (!make_plan(args, family, facts, mma_request(choice), &plan).ok()) return 0;
  return plan.workspace_bytes;
}

bool prefers_library(const MarlinArgs& args, const Choice& choice) {
  if (args.a_type != args.c_type) return false;
  if (choice.route != Route::kAny) return choice.route == Route::kLibrary;
  DeviceFacts facts;
  return args.m >= kLibraryRows && device_facts(args.device, &facts).ok() &&
         gates::marlin_wgmma::admits(facts.major, facts.minor);
}

Status resolve(const MarlinArgs& args, const Choice& wish, Choice* choice) {
  DeviceFacts facts;
  KERNELPKG_RETURN_IF_ERROR(check_shapes(args, Family::kShipped, &facts));
  const CurrentDevice current(args.device);
  KERNELPKG_RETURN_IF_ERROR(current.status());
  if (wish.route == Route::kLibrary && args.a_type != args.c_type) {
    return Status::error(
        std::string("marlin_gemm: the library route multiplies 16-bit activations; those of this "
                    "call are ") +
        name_of(args.a_type) + ".");
  }
  if (prefers_library(args, wish)) {
    *choice = {Route::kLibrary};
    return {};
  }
  if (takes_wgmma(args, Family::kShipped, facts, wish)) {
    WgmmaPlan plan;
    KERNELPKG_RETURN_IF_ERROR(wgmma_plan(args, facts, wgmma_request(wish), &plan));
    const int parts = plan.schedule.parts;
    *choice = {Route::kWgmma, plan.instance->tokens, parts,
               parts == 1       ? Adding::kAny
               : plan.clustered ? Adding::kInClusters
                                : Adding::kInWorkspace};
    return {};
  }
  if (wish.route == Route::kWgmma) {
    return Status::error("marlin_gemm: the wgmma kernel does not take this call on capability " +
                         std::to_string(facts.major) + "." + std::to_string(facts.minor) +
                         "; choose another route.");
  }
  Plan plan;
  KERNELPKG_RETURN_IF_ERROR(make_plan(args, Family::kShipped, facts, mma_request(wish), &plan));
  *choice = {Route::kMma, plan.instance->rows, plan.schedule.parts};
  return {};
}

}  // namespace kernelpkg::marlin
