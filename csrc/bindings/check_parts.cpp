#include "bindings/check_parts.h"

#include <cstdint>
#include <limits>
#include <stdexcept>

namespace kernelpkg::bindings {
namespace {

constexpr int64_t kMaxRows = std::numeric_limits<int32_t>::max();

std::string device_name(const Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  return (tensor.is_cuda() ? "cuda:" : "device ") + std::to_string(tensor.get_device_index());
}

}  // namespace

void refuse(const std::string& message) { throw std::invalid_argument(message); }

std::string name(ScalarType type) {
  switch (type) {
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Float8_e4m3fn: return "float8_e4m3fn";
    case ScalarType::Float8_e5m2: return "float8_e5m2";
    case ScalarType::Float8_e8m0fnu: return "float8_e8m0fnu";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    default: return torch::headeronly::toString(type);
  }
}

std::string given(const char* what, const Tensor& tensor) {
  return std::string(what) + " is " + name(tensor.scalar_type()) + " " + list(tensor.sizes());
}

void check_device(const char* op, const char* what, const Tensor& tensor, const Tensor& a,
                  const char* first) {
  if (tensor.is_cuda() == a.is_cuda() && tensor.is_cpu() == a.is_cpu() &&
      tensor.get_device_index() == a.get_device_index()) {
    return;
  }
  refuse_parts(op, what, " is on ", device_name(tensor), " and ", first, " on ", device_name(a),
               "; all tensors must be on one device, move them with .to()");
}

void check_contiguous(const char* op, const char* what, const Tensor& tensor) {
  if (tensor.is_contiguous()) return;
  refuse_parts(op, given(what, tensor), " with strides ", list(tensor.strides()),
               "; it must be contiguous, call .contiguous() on it");
}

void check_pointer(const char* op, const char* what, const Tensor& tensor) {
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  if (tensor.numel() == 0 || address % kAlignment == 0) return;
  refuse_parts(op, what, " starts ", address % kAlignment,
               " bytes past a 16-byte boundary; its first element must be aligned to 16 bytes, use a slice "
               "that starts there or a .clone()");
}

void check_size(const char* op, const char* what, int64_t value, int64_t largest) {
  if (value >= 1 && value <= largest) return;
  refuse_parts(op, what, " is ", value, "; it must be from 1 to ", largest);
}

int64_t check_row_major(const char* op, const Tensor& a, int64_t columns) {
  const int64_t rows = a.size(0);
  if (rows > kMaxRows) refuse_parts(op, given("a", a), "; it may have at most 2^31 - 1 rows, split the call");
  if (rows > 0 && columns > 1 && a.stride(1) != 1) {
    refuse_parts(op, given("a", a), " with strides ", list(a.strides()),
                 "; the last stride must be 1 (row-major), call .contiguous() on it");
  }
  // The stride of a single row is never used, and views give it arbitrary values.
  return rows > 1 ? a.stride(0) : columns;
}

const void* check_bias(const char* op, const OptionalTensor& bias, const Tensor& a, int64_t size_n,
                       ScalarType out) {
  if (!bias.has_value()) return nullptr;
  if (bias->scalar_type() != out || bias->dim() != 1 || bias->size(0) != size_n) {
    refuse_parts(op, given("bias", *bias), "; it must be ", name(out), " [", size_n,
                 "], the output's dtype and one value per column");
  }
  check_device(op, "bias", *bias, a, "a");
  check_contiguous(op, "bias", *bias);
  check_pointer(op, "bias", *bias);
  return bias->const_data_ptr();
}

DType dtype_of(ScalarType type) {
  switch (type) {
    case ScalarType::Half: return DType::kFloat16;
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Float8_e5m2: return DType::kFloat8E5M2;
    default: return DType::kFloat8E4M3;
  }
}

bool is_16bit(ScalarType type) { return type == ScalarType::Half || type == ScalarType::BFloat16; }

}  // namespace kernelpkg::bindings
