// A generated instance file is this include and one KERNELPKG_MARLIN_WGMMA_INSTANCE. To be compiled
// for 9.0a; for any other target the kernel is a trap.
#pragma once

#include "marlin/wgmma.cuh"
#include "marlin/wgmma.h"

namespace kernelpkg::marlin {

template <class Gate, class T>
bool register_wgmma_instance() {
  return add_wgmma_instance({T::kAct, T::kFormat, T::kTokens, T::kCols, T::kStageK, T::kOrdered,
                             T::kUnitBytes, T::kThreads, static_cast<size_t>(T::kSharedBytes),
                             reinterpret_cast<const void*>(&marlin_wgmma_kernel<Gate, T>)});
}

}  // namespace kernelpkg::marlin

// gate: a struct of kernelpkg::gates; act: kFloat16 or kBFloat16, of activations and output;
// format: kU4 (u4 and u4b8), kU8B128, kE4M3, kNvfp4 or kMxfp4 (bfloat16); tokens: 32, 64 or 128.
#define KERNELPKG_MARLIN_WGMMA_INSTANCE(gate, act, format, tokens)                               \
  namespace {                                                                                    \
  [[maybe_unused]] const bool kRegistered = ::kernelpkg::marlin::register_wgmma_instance<        \
      ::kernelpkg::gates::gate,                                                                  \
      ::kernelpkg::marlin::WgmmaTile<::kernelpkg::DType::act, ::kernelpkg::WeightFormat::format, \
                                     tokens>>();                                                 \
  }
