// Element types as the kernels' host side names them. Free of CUDA and of torch, so that every
// layer may include it.
#pragma once

namespace kernelpkg {

enum class DType { kFloat16, kBFloat16, kFloat8E4M3, kFloat32 };

// kU4B8: four bits, the value is nibble - 8 (GPTQ). kE4M3: one byte, FP8 with 4 exponent and 3
// mantissa bits. The numbers are those of the operators' `weight_format` argument.
enum class WeightFormat { kU4B8 = 0, kE4M3 = 1 };

constexpr int size_of(DType type) {
  return type == DType::kFloat8E4M3 ? 1 : type == DType::kFloat32 ? 4 : 2;
}

constexpr int bits_of(WeightFormat format) { return format == WeightFormat::kU4B8 ? 4 : 8; }

constexpr const char* name_of(DType type) {
  switch (type) {
    case DType::kFloat16: return "float16";
    case DType::kBFloat16: return "bfloat16";
    case DType::kFloat8E4M3: return "float8_e4m3fn";
    case DType::kFloat32: return "float32";
  }
  return "unknown";
}

constexpr const char* name_of(WeightFormat format) {
  switch (format) {
    case WeightFormat::kU4B8: return "u4b8";
    case WeightFormat::kE4M3: return "e4m3";
  }
  return "unknown";
}

}  // namespace kernelpkg
