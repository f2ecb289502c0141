// Tensor maps: how the copy engine of Hopper and later sees a matrix in memory.
#pragma once

#include <cuda.h>

#include <string>
#include <vector>

#include "common/status.h"

namespace kernelpkg {

// A tensor whose extents, box and strides run from the innermost dimension outwards.
struct TensorMapSpec {
  CUtensorMapDataType type;
  const void* base;
  std::vector<cuuint64_t> extents;
  std::vector<cuuint64_t> strides;  // bytes, of all dimensions but the innermost
  std::vector<cuuint32_t> box;
  CUtensorMapSwizzle swizzle;
  // How much is fetched into L2 where less is asked for.
  CUtensorMapL2promotion promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
};

// Fills `map`. op and what begin the refusal: "OP: the driver refused the tensor map of WHAT".
Status encode_tensor_map(const std::string& op, const char* what, const TensorMapSpec& tensor,
                         CUtensorMap* map);

}  // namespace kernelpkg
