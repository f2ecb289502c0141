// Limits that a tile has to keep wherever it is admitted.
#pragma once

namespace kernelpkg {

// Shared memory that one block may opt in to on 8.6, 8.9 and 12.x, the smallest of all admitted
// devices, in bytes: 100 KiB less the 1 KiB that the system keeps per block (CUDA programming
// guide, compute capability table).
constexpr int kSharedMemoryPortable = 101376;

}  // namespace kernelpkg
