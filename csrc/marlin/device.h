// What dispatch knows of a device and of an instance on it. Read once each, then served from a
// cache; thread-safe.
#pragma once

#include <cstddef>
#include <string>

#include "common/status.h"

namespace kernelpkg::marlin {

struct DeviceFacts {
  int major = 0;
  int minor = 0;
  int sms = 0;
  int shared_optin = 0;  // bytes one block may ask for
};

Status device_facts(int device, DeviceFacts* facts);

// Finds a kernel's code on `device` (which must be current) and raises its shared-memory limit;
// refuses, in a sentence, what cannot run there.
Status prepare(const void* kernel, int threads, size_t shared_bytes, int device,
               const DeviceFacts& facts);

// Makes `device` current for a scope, as launches on its streams need.
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

// "WHAT: the runtime's words."
Status cuda_failure(const std::string& what, int error);

}  // namespace kernelpkg::marlin
