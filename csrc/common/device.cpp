#include "common/device.h"

namespace kernelpkg {

Status cuda_failure(const std::string& what, cudaError_t error) {
  cudaGetLastError();  // leave no error behind for the next caller to find
  return Status::error(what + ": " + cudaGetErrorString(error) + ".");
}

// It is set even where it is the current one already: on a thread new to CUDA only that binds the
// context, without which no TMA descriptor is encoded.
CurrentDevice::CurrentDevice(int device) {
  int current = -1;
  const bool known = cudaGetDevice(&current) == cudaSuccess;
  const cudaError_t error = cudaSetDevice(device);
  if (error != cudaSuccess) {
    status_ = cuda_failure("device " + std::to_string(device) + " cannot be made current", error);
  } else if (known && current != device) {
    previous_ = current;
  }
}

CurrentDevice::~CurrentDevice() {
  if (previous_ >= 0) cudaSetDevice(previous_);
}

}  // namespace kernelpkg
