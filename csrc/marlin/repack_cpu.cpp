#include "marlin/checks.h"
#include "marlin/repack.h"

namespace kernelpkg {
namespace {

template <bool kWide>
void repack(const MarlinRepackArgs& args, int64_t words) {
  const uint32_t pad = marlin::pad_code(args.format);
  for (int64_t i = 0; i < words; ++i) {
    args.packed[i] = marlin::gather_word<kWide>(args.weight, pad, args.k, args.n, i);
  }
}

}  // namespace

Status marlin_repack_cpu(const MarlinRepackArgs& args) {
  KERNELPKG_RETURN_IF_ERROR(marlin::check_repack(args));
  const int64_t words = marlin::packed_words(args.format, args.k, args.n);
  marlin::is_8bit(args.format) ? repack<true>(args, words) : repack<false>(args, words);
  return {};
}

}  // namespace kernelpkg
