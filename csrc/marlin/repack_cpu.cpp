#include "marlin/checks.h"
#include "marlin/repack.h"

namespace kernelpkg {

Status marlin_repack_cpu(const MarlinRepackArgs& args) {
  KERNELPKG_RETURN_IF_ERROR(marlin::check_repack(args));
  const int64_t words = marlin::packed_words(args.format, args.k, args.n);
  for (int64_t i = 0; i < words; ++i) {
    args.packed[i] = marlin::gather_word(args.weight, args.format, args.fp8_activations, args.n, i);
  }
  return {};
}

}  // namespace kernelpkg
