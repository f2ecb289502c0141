// The host entry point of marlin_pad_rows.
#include "marlin/checks.h"
#include "marlin/guarded.h"
#include "marlin/helpers.h"

namespace kernelpkg {

Status marlin_pad_rows(const MarlinPadArgs& args) {
  KERNELPKG_RETURN_IF_ERROR(marlin::check_pad_rows(args));
  if (args.m == 0) return {};
  return marlin::run_helper("marlin_pad_rows", args.device,
                            [&] { return marlin::launch_pad_rows(args); });
}

}  // namespace kernelpkg
