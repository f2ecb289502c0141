#include "bindings/tuning.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "marlin/checks.h"
#include "marlin/choice.h"
#include "marlin/dispatch.h"

namespace {

using kernelpkg::DType;
using kernelpkg::MarlinArgs;
using kernelpkg::Status;
using kernelpkg::WeightFormat;
using kernelpkg::marlin::Adding;
using kernelpkg::marlin::Choice;
using kernelpkg::marlin::Route;

// Pointers that no plan reads, so that the checks of shapes pass.
alignas(16) const uint32_t kNothing[4] = {};

Status args_of(const KernelpkgCall& call, MarlinArgs* args) {
  const auto is_type = [](int type) { return type >= 0 && type <= static_cast<int>(DType::kFloat32); };
  if (!kernelpkg::marlin::is_format(call.weight_format) || !is_type(call.a_type) ||
      !is_type(call.c_type) || call.m < 1) {
    return Status::error("marlin: weight_format " + std::to_string(call.weight_format) + ", a_type " +
                         std::to_string(call.a_type) + ", c_type " + std::to_string(call.c_type) +
                         " and m " + std::to_string(call.m) +
                         " name no call; formats are " + kernelpkg::marlin::format_list() +
                         ", types 0 (float16), 1 (bfloat16) and 2 (float8_e4m3fn), and m is at least 1.");
  }
  *args = {};
  args->device = call.device;
  args->a_type = static_cast<DType>(call.a_type);
  args->b_format = static_cast<WeightFormat>(call.weight_format);
  args->c_type = static_cast<DType>(call.c_type);
  args->m = call.m;
  args->n = call.n;
  args->k = call.k;
  args->lda = (int64_t{call.k} + 15) / 16 * 16;
  args->group_size = call.group_size;
  args->output_scale = 1.0f;
  args->b = kNothing;
  args->scales = kNothing;
  if (args->b_format == WeightFormat::kU4) args->zeros = reinterpret_cast<const uint8_t*>(kNothing);
  return {};
}

KernelpkgChoice plain(const Choice& choice) {
  return {static_cast<int>(choice.route), choice.rows, choice.parts, static_cast<int>(choice.added)};
}

const char* words(const Status& status) {
  if (status.ok()) return nullptr;
  thread_local std::string message;
  message = status.message();
  return message.c_str();
}

Status find_candidates(const KernelpkgCall& call, KernelpkgChoice* found, int capacity, int* count) {
  MarlinArgs args;
  std::vector<Choice> all;
  KERNELPKG_RETURN_IF_ERROR(args_of(call, &args));
  KERNELPKG_RETURN_IF_ERROR(kernelpkg::marlin::candidates(args, &all));
  *count = static_cast<int>(all.size());
  std::transform(all.begin(), all.begin() + std::min(*count, capacity), found, plain);
  return {};
}

Status find_plan(const KernelpkgCall& call, KernelpkgChoice* choice) {
  MarlinArgs args;
  Choice resolved;
  KERNELPKG_RETURN_IF_ERROR(args_of(call, &args));
  KERNELPKG_RETURN_IF_ERROR(
      kernelpkg::marlin::resolve(args, kernelpkg::marlin::chosen(args), &resolved));
  *choice = plain(resolved);
  return {};
}

Status set_choice(const KernelpkgCall& call, const KernelpkgChoice& choice) {
  MarlinArgs args;
  KERNELPKG_RETURN_IF_ERROR(args_of(call, &args));
  if (choice.route < 0 || choice.route > static_cast<int>(Route::kLibrary) || choice.rows < 0 ||
      choice.parts < 0 || choice.added < 0 || choice.added > static_cast<int>(Adding::kInWorkspace)) {
    return Status::error("marlin: route " + std::to_string(choice.route) + ", rows " +
                         std::to_string(choice.rows) + ", parts " + std::to_string(choice.parts) +
                         " and added " + std::to_string(choice.added) +
                         " name no choice; take one that the candidates name.");
  }
  return kernelpkg::marlin::choose(args, {static_cast<Route>(choice.route), choice.rows, choice.parts,
                                          static_cast<Adding>(choice.added)});
}

}  // namespace

const char* kernelpkg_marlin_candidates(const KernelpkgCall* call, KernelpkgChoice* found, int capacity,
                                        int* count) {
  return words(find_candidates(*call, found, capacity, count));
}

const char* kernelpkg_marlin_plan(const KernelpkgCall* call, KernelpkgChoice* choice) {
  return words(find_plan(*call, choice));
}

const char* kernelpkg_marlin_choose(const KernelpkgCall* call, const KernelpkgChoice* choice) {
  return words(set_choice(*call, *choice));
}

void kernelpkg_marlin_forget() { kernelpkg::marlin::forget_choices(); }
