// Limits that a tile has to keep wherever it is admitted.
#pragma once

namespace kernelpkg {

// Shared memory that one block may opt in to on 8.6, 8.9 and 12.x, the smallest of all admitted
// devices, in bytes: 100 KiB less the 1 KiB that the system keeps per block (CUDA programming
// guide, compute capability table).
constexpr int kSharedMemoryPortable = 101376;

// Of a multiprocessor, in bytes, for the target being compiled (same table), and what the system
// keeps of it per block. Host code sees the smallest.
constexpr int kSharedMemoryReserved = 1024;
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 870)
constexpr int kSharedMemoryPerSm = 164 * 1024;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200
constexpr int kSharedMemoryPerSm = 228 * 1024;
#else
constexpr int kSharedMemoryPerSm = 100 * 1024;
#endif

}  // namespace kernelpkg
