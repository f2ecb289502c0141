// Launchers of the kernels beside the GEMM. All are compiled for every target of gate marlin_16bit
// and contain no MMA.
#pragma once

#include <cuda_runtime_api.h>

#include "common/dtypes.h"
#include "marlin/marlin.h"
#include "marlin/params.h"

namespace kernelpkg::marlin {

// Adds the parts of every tile of a schedule that goes through the workspace, in the order of K,
// and writes the output. `overlap` (9.0 and later): may be scheduled before the GEMM has finished,
// and waits for it on the device.
cudaError_t launch_reduce(const Params& params, int tile_rows, int tile_cols, DType c_type,
                          bool overlap, cudaStream_t stream);

cudaError_t launch_repack(const MarlinRepackArgs& args);

// Columns [first_col, first_col + cols) of args' weight in c_type with their scales, as
// [cols in whole units, padded_k], K innermost. first_col is a multiple of kUnitCols.
cudaError_t launch_widen(const MarlinArgs& args, int first_col, int cols, void* wide);

cudaError_t launch_pad_rows(const MarlinPadArgs& args);

}  // namespace kernelpkg::marlin
