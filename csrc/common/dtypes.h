// Element types as the kernels' host side names them. Free of CUDA and of torch, so that every
// layer may include it.
#pragma once

namespace kernelpkg {

enum class DType { kFloat16, kBFloat16, kFloat8E4M3, kFloat32, kFloat8E5M2 };

// What a weight's bits mean, apart from its scales. The numbers are those of the operators'
// `weight_format` argument.
enum class WeightFormat {
  kU4B8 = 0,    // 4 bits, code - 8 (GPTQ)
  kE4M3 = 1,    // FP8, 4 exponent and 3 mantissa bits
  kU4 = 2,      // 4 bits, code - the group's zero point (AWQ)
  kU8B128 = 3,  // 8 bits, code - 128
  kNvfp4 = 4,   // FP4 e2m1, an e4m3 scale per 16 and one float for the whole weight
  kMxfp4 = 5,   // FP4 e2m1, a power of two per 32
};
constexpr int kWeightFormats = 6;

constexpr int size_of(DType type) {
  if (type == DType::kFloat32) return 4;
  return type == DType::kFloat8E4M3 || type == DType::kFloat8E5M2 ? 1 : 2;
}

constexpr int bits_of(WeightFormat format) {
  return format == WeightFormat::kE4M3 || format == WeightFormat::kU8B128 ? 8 : 4;
}

constexpr const char* name_of(DType type) {
  switch (type) {
    case DType::kFloat16: return "float16";
    case DType::kBFloat16: return "bfloat16";
    case DType::kFloat8E4M3: return "float8_e4m3fn";
    case DType::kFloat32: return "float32";
    case DType::kFloat8E5M2: return "float8_e5m2";
  }
  return "unknown";
}

constexpr const char* name_of(WeightFormat format) {
  switch (format) {
    case WeightFormat::kU4B8: return "u4b8";
    case WeightFormat::kE4M3: return "e4m3";
    case WeightFormat::kU4: return "u4";
    case WeightFormat::kU8B128: return "u8b128";
    case WeightFormat::kNvfp4: return "nvfp4";
    case WeightFormat::kMxfp4: return "mxfp4";
  }
  return "unknown";
}

}  // namespace kernelpkg
