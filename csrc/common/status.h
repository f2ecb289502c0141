// What a host function answers: fine, or one sentence that says what was given, what is allowed and
// what to do. Exceptions stay out of the kernels' host side because the torch binding turns a
// Status into its own error.
#pragma once

#include <string>
#include <utility>

namespace kernelpkg {

class [[nodiscard]] Status {
 public:
  Status() = default;  // ok
  static Status error(std::string message) { return Status(std::move(message)); }

  bool ok() const { return ok_; }
  const std::string& message() const { return message_; }

 private:
  explicit Status(std::string message) : ok_(false), message_(std::move(message)) {}

  bool ok_ = true;
  std::string message_;
};

}  // namespace kernelpkg

// Hands a failed Status to the caller.
#define KERNELPKG_RETURN_IF_ERROR(expression)              \
  do {                                                     \
    ::kernelpkg::Status kernelpkg_status_ = (expression);  \
    if (!kernelpkg_status_.ok()) return kernelpkg_status_; \
  } while (0)
