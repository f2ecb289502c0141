// The host entry point of marlin_pad_rows.
#include <string>

#include "kernelpkg_gates.h"
#include "marlin/checks.h"
#include "marlin/device.h"
#include "marlin/helpers.h"

namespace kernelpkg {

Status marlin_pad_rows(const MarlinPadArgs& args) {
  KERNELPKG_RETURN_IF_ERROR(marlin::check_pad_rows(args));
  marlin::DeviceFacts facts;
  KERNELPKG_RETURN_IF_ERROR(marlin::device_facts(args.device, &facts));
  if (!gates::marlin_16bit::admits(facts.major, facts.minor)) {
    return Status::error("marlin_pad_rows: " +
                         std::string(gates::marlin_16bit::refusal(facts.major, facts.minor)));
  }
  if (args.m == 0) return {};
  const marlin::CurrentDevice current(args.device);
  KERNELPKG_RETURN_IF_ERROR(current.status());
  const cudaError_t error = marlin::launch_pad_rows(args);
  if (error != cudaSuccess)
    return marlin::cuda_failure("marlin_pad_rows: the launch failed", error);
  return {};
}

}  // namespace kernelpkg
