// A device's place in a call: made current for a scope, its faults in a sentence.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "common/status.h"

namespace kernelpkg {

// Makes `device` current for a scope, as launches on its streams need, and puts the caller's back.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  const Status& status() const { return status_; }

 private:
  int previous_ = -1;
  Status status_;
};

// Lifts a strict stream capture of this thread for a scope: loading a kernel's code at its first
// use would invalidate it.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// "WHAT: the runtime's words."
Status cuda_failure(const std::string& what, cudaError_t error);

}  // namespace kernelpkg
