// A generated instance file is this include and one KERNELPKG_MARLIN_INSTANCE.
#pragma once

#include "marlin/kernel.cuh"
#include "marlin/registry.h"

namespace kernelpkg::marlin {

template <Family kFamily, class Gate, class T>
bool register_instance() {
  return add_instance({kFamily, T::kAct, T::kFormat, T::kOut, T::kRows, T::kStageK, T::kStages,
                       T::kThreads, static_cast<size_t>(T::kSharedBytes),
                       fragment_scale<T::kAct, T::kFormat>(),
                       reinterpret_cast<const void*>(&marlin_kernel<Gate, T>)});
}

}  // namespace kernelpkg::marlin

// family: kShipped or kEmulated; gate: a struct of kernelpkg::gates; the rest as in Tile.
#define KERNELPKG_MARLIN_INSTANCE(family, gate, act, format, out, rows, stage_k, sets, stages, \
                                  blocks_per_sm)                                               \
  namespace {                                                                                  \
  [[maybe_unused]] const bool kRegistered = ::kernelpkg::marlin::register_instance<            \
      ::kernelpkg::marlin::Family::family, ::kernelpkg::gates::gate,                           \
      ::kernelpkg::marlin::Tile<::kernelpkg::DType::act, ::kernelpkg::WeightFormat::format,    \
                                ::kernelpkg::DType::out, rows, stage_k, sets, stages,          \
                                blocks_per_sm>>();                                             \
  }
