// What dispatch knows of a device and of an instance on it. Read once each, then served from a
// cache; thread-safe.
#pragma once

#include <cstddef>

#include "common/device.h"
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

}  // namespace kernelpkg::marlin
