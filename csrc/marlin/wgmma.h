// The GEMM for many rows on 9.0a (wgmma.cuh), as dispatch sees it. 16-bit activations, all weight
// formats, any m, n and k; same packed weights and same arguments as the other kernels.
#pragma once

#include <cstddef>
#include <vector>

#include "common/dtypes.h"
#include "common/status.h"
#include "marlin/device.h"
#include "marlin/marlin.h"
#include "marlin/schedule.h"

namespace kernelpkg::marlin {

struct WgmmaInstance {
  DType act;
  WeightFormat format;  // kU4 stands for kU4B8 too
  int tokens;           // rows of C in a tile
  int cols;
  int stage_k;
  bool ordered;  // takes activations in the lanes' order of K (wgmma_order.cu)
  int unit_bytes;
  int threads;
  size_t shared_bytes;
  const void* kernel;  // the __global__ function's host handle
};

// Every instance that registered before main; not changed after.
const std::vector<WgmmaInstance>& wgmma_instances();

// Returns true, so that a namespace-scope constant can call it.
bool add_wgmma_instance(const WgmmaInstance& instance);

// Puts the activations of a call into the lanes' order of K: [m, padded_k] on 16 bytes. Registers
// like the instances, being device code.
using WgmmaOrder = cudaError_t (*)(const MarlinArgs& args, void* ordered);
bool set_wgmma_order(WgmmaOrder launch);

enum class Adding { kAny, kInClusters, kInWorkspace };

// Narrows the choice, for tuning and tests; 0 leaves a field free.
struct WgmmaRequest {
  int tokens = 0;
  int parts = 0;  // of K
  Adding added = Adding::kAny;
};

// What a call would do. Same arguments on the same kind of device, same plan: results repeat bit
// for bit.
struct WgmmaPlan {
  const WgmmaInstance* instance = nullptr;
  Schedule schedule = {};
  bool clustered = false;        // the blocks of a tile add its parts
  int blocks = 0;                // of the launch
  size_t activations_bytes = 0;  // of the workspace, the first ones: reordered activations
  size_t workspace_bytes = 0;
  double us = 0.0;  // what the cost model expects
};

// Whether this kernel can compute the call on a device of these facts. It says nothing about being
// the faster choice: dispatch.cpp decides that by rows.
bool wgmma_takes(const MarlinArgs& args, const DeviceFacts& facts);

// `args.device` must be current; the call must be one that wgmma_takes.
Status wgmma_plan(const MarlinArgs& args, const DeviceFacts& facts, const WgmmaRequest& request,
                  WgmmaPlan* plan);

// For the activations where the tile wants them reordered, and for the sums of a split K.
// `args.device` must be current.
size_t wgmma_workspace_bytes(const MarlinArgs& args, const DeviceFacts& facts,
                             const WgmmaRequest& request = {});

// Plans and launches. The arguments must have been checked (checks.h), `args.device` be current.
Status wgmma_run(const MarlinArgs& args, const DeviceFacts& facts,
                 const WgmmaRequest& request = {});

}  // namespace kernelpkg::marlin
