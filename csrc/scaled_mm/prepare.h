// What a launch asks of a kernel and a device first, once each.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "common/status.h"
#include "scaled_mm/registry.h"

namespace kernelpkg {

// Finds the code of `kernel`, called `name` in a refusal, for the current device, which must be
// `device`, and raises its limit of shared memory; the work is done once per device, whose bit
// `ready` then has.
Status prepare_kernel(const char* name, const void* kernel, size_t shared_memory, int device,
                      const ScaledMmDevice& properties, std::atomic<uint64_t>* ready);

// How many clusters of `cluster` blocks, each of so many threads and bytes of shared memory, the
// current device, which must be `device`, holds at once.
Status clusters_at_once(const char* name, const void* kernel, int threads, size_t shared_memory,
                        int cluster, int device, int* clusters);

}  // namespace kernelpkg
