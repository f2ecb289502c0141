#include "scaled_mm/sm90_block_tiles.h"

#include <algorithm>
#include <string>

#include "common/device.h"
#include "common/launch.h"
#include "common/tensor_map.h"
#include "scaled_mm/prepare.h"

namespace kernelpkg {
namespace {

int ceil_div(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

}  // namespace

void block_tiles_divide(int m, int n, int k, int columns, int sm_count, BlockTilesParams* params) {
  params->row_items = ceil_div(m, kBlockTilesCluster * kBlockTilesRows);
  params->column_items = ceil_div(n, columns);
  const int items = params->row_items * params->column_items;
  const int clusters = std::max(1, sm_count / kBlockTilesCluster);
  const int rest = items % clusters, k_blocks = ceil_div(k, kScaleBlock);
  params->whole = items;
  params->parts = 1;
  if (rest != 0) {
    const int parts = std::min({clusters / rest, kMaxCuts, k_blocks / kCutBlocks});
    if (parts > 1 && k_blocks - ceil_div(k_blocks, parts) >= kBlockTilesSaved) {
      params->whole = items - rest;
      params->parts = parts;
    }
  }
  params->works = params->whole + (items - params->whole) * params->parts;
}

Status block_tiles_launch(const char* name, const void* kernel, int columns,
                          const ScaledMmArgs& args, const ScaledMmDevice& device,
                          BlockTilesParams* divided) {
  if (args.a_scale_block != static_cast<int>(args.a_scale_block) ||
      args.b_scale_block != static_cast<int>(args.b_scale_block)) {
    return scaled_mm_refusal(name, "its scales lie further apart than 2^31 values");
  }
  BlockTilesParams params = {};
  const auto encode = [&](const char* what, CUtensorMapDataType type, const void* base, int columns,
                          int rows, int64_t row_bytes, int box_columns, int box_rows,
                          CUtensorMap* map) {
    return encode_tensor_map(
        name, what,
        {type,
         base,
         {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)},
         {static_cast<cuuint64_t>(row_bytes)},
         {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows)},
         CU_TENSOR_MAP_SWIZZLE_128B},
        map);
  };
  KERNELPKG_RETURN_IF_ERROR(encode("a", CU_TENSOR_MAP_DATA_TYPE_UINT8, args.a, args.k, args.m,
                                   args.lda, kScaleBlock, kBlockTilesRows, &params.a));
  // Each block of a cluster fetches its share of the weight for both.
  KERNELPKG_RETURN_IF_ERROR(encode("b", CU_TENSOR_MAP_DATA_TYPE_UINT8, args.b, args.k, args.n,
                                   args.ldb, kScaleBlock, columns / kBlockTilesCluster, &params.b));
  KERNELPKG_RETURN_IF_ERROR(encode("c", CU_TENSOR_MAP_DATA_TYPE_UINT16, args.c, args.n, args.m,
                                   2 * args.ldc, kBlockTilesBox, kBlockTilesTeamRows, &params.c));
  params.a_scales = args.a_scales;
  params.a_scale_row = args.a_scale_row;
  params.a_scale_block = static_cast<int>(args.a_scale_block);
  params.b_scales = args.b_scales;
  params.b_scale_column = args.b_scale_column;
  params.b_scale_block = static_cast<int>(args.b_scale_block);
  params.bias = static_cast<const uint16_t*>(args.bias);
  params.m = args.m;
  params.n = args.n;
  params.k = args.k;
  block_tiles_divide(args.m, args.n, args.k, columns, device.sm_count, &params);
  if (block_tiles_sum_bytes(params, columns) > args.workspace_bytes) {
    return scaled_mm_refusal(name, "the workspace is smaller than scaled_mm_workspace_bytes()");
  }
  params.sums = static_cast<float*>(args.workspace);
  params.half = args.c_type == DType::kFloat16;
  const auto shared = static_cast<size_t>(block_tiles_shared(columns));
  int at_once = 0;
  KERNELPKG_RETURN_IF_ERROR(clusters_at_once(name, kernel, kBlockTilesThreads, shared,
                                             kBlockTilesCluster, args.device, &at_once));
  *divided = params;
  const int clusters = std::min(params.works, std::max(1, at_once));
  Launch launch(dim3(static_cast<unsigned>(clusters * kBlockTilesCluster)), kBlockTilesThreads,
                shared, true, args.stream);
  launch.cluster(kBlockTilesCluster);
  const cudaError_t error = launch.run(kernel, params);
  return error == cudaSuccess ? Status()
                              : cuda_failure(std::string(name) + ": the launch failed", error);
}

}  // namespace kernelpkg
