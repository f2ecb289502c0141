#include "marlin/checks.h"

#include <string>

#include "marlin/schedule.h"

namespace kernelpkg::marlin {
namespace {

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

bool is_16bit(DType type) { return type == DType::kFloat16 || type == DType::kBFloat16; }

Status check_weight_shape(const char* who, int n, int k) {
  if (n <= 0 || n % 64 != 0) {
    return Status::error(
        std::string(who) + ": size_n is " + std::to_string(n) +
        ", it must be a positive multiple of 64; pad the weight's columns with zeros.");
  }
  if (k <= 0 || k % kUnitK != 0) {
    return Status::error(
        std::string(who) + ": size_k is " + std::to_string(k) +
        ", it must be a positive multiple of 128; pad the weight's rows with zeros.");
  }
  return {};
}

Status check_pointer(const char* who, const char* what, const void* pointer) {
  if (pointer == nullptr)
    return Status::error(std::string(who) + ": " + what + " is null; pass the tensor's data.");
  if (!aligned(pointer)) {
    return Status::error(
        std::string(who) + ": " + what +
        " does not start on a 16-byte boundary, which the kernel's 16-byte copies need; pass a "
        "contiguous copy.");
  }
  return {};
}

}  // namespace

Status check_gemm(const MarlinArgs& args) {
  const char* who = "marlin_gemm";
  const bool fp8 = args.a_type == DType::kFloat8E4M3;
  if (!fp8 && !is_16bit(args.a_type)) {
    return Status::error(std::string(who) + ": activations are " + name_of(args.a_type) +
                         "; use float16, bfloat16 or float8_e4m3fn.");
  }
  if (!is_16bit(args.c_type)) {
    return Status::error(std::string(who) + ": the output type is " + name_of(args.c_type) +
                         "; use float16 or bfloat16 (it follows the scales).");
  }
  if (!fp8 && args.c_type != args.a_type) {
    return Status::error(std::string(who) + ": activations are " + name_of(args.a_type) +
                         " but scales and output are " + name_of(args.c_type) +
                         "; 16-bit activations need both of their own type, cast the scales.");
  }
  if (args.b_format != WeightFormat::kU4B8 && args.b_format != WeightFormat::kE4M3) {
    return Status::error(std::string(who) + ": unknown weight format " +
                         std::to_string(static_cast<int>(args.b_format)) +
                         "; use 0 (u4b8) or 1 (e4m3).");
  }
  if (fp8 && args.b_format != WeightFormat::kU4B8) {
    return Status::error(
        std::string(who) + ": float8_e4m3fn activations with " + name_of(args.b_format) +
        " weights are not a Marlin case; use cutlass_scaled_mm, or 16-bit activations.");
  }
  if (args.m < 0) {
    return Status::error(std::string(who) + ": size_m is " + std::to_string(args.m) +
                         ", it must not be negative.");
  }
  KERNELPKG_RETURN_IF_ERROR(check_weight_shape(who, args.n, args.k));
  if (args.group_size != -1 && args.group_size != kUnitK) {
    return Status::error(std::string(who) + ": group_size is " + std::to_string(args.group_size) +
                         "; use -1 (one scale per channel) or 128.");
  }
  if (fp8 != (args.a_scales != nullptr)) {
    return Status::error(std::string(who) +
                         (fp8 ? ": float8_e4m3fn activations need a_scales, one float32 per row."
                              : ": a_scales belong to float8_e4m3fn activations; pass none with ") +
                         (fp8 ? "" : name_of(args.a_type)) + (fp8 ? "" : "."));
  }
  if (args.m == 0) return {};
  KERNELPKG_RETURN_IF_ERROR(check_pointer(who, "a", args.a));
  KERNELPKG_RETURN_IF_ERROR(check_pointer(who, "b_packed", args.b));
  KERNELPKG_RETURN_IF_ERROR(check_pointer(who, "b_scales", args.scales));
  KERNELPKG_RETURN_IF_ERROR(check_pointer(who, "the output", args.c));
  if (args.bias != nullptr) KERNELPKG_RETURN_IF_ERROR(check_pointer(who, "bias", args.bias));
  if (args.lda < args.k) {
    return Status::error(std::string(who) + ": rows of a are " + std::to_string(args.lda) +
                         " elements apart, fewer than size_k = " + std::to_string(args.k) +
                         "; pass a row-major [M, K].");
  }
  if (args.lda * size_of(args.a_type) % 16 != 0) {
    return Status::error(std::string(who) + ": rows of a are " + std::to_string(args.lda) +
                         " elements apart, which does not keep every row on a 16-byte boundary; "
                         "pass a contiguous copy.");
  }
  return {};
}

Status check_repack(const MarlinRepackArgs& args) {
  const char* who = "marlin_repack";
  if (args.format != WeightFormat::kU4B8 && args.format != WeightFormat::kE4M3) {
    return Status::error(std::string(who) + ": unknown weight format " +
                         std::to_string(static_cast<int>(args.format)) +
                         "; use 0 (u4b8) or 1 (e4m3).");
  }
  if (args.fp8_activations && args.format != WeightFormat::kU4B8) {
    return Status::error(
        std::string(who) +
        ": the FP8-activation order exists for u4b8 weights only, given e4m3; pack "
        "for 16-bit activations.");
  }
  KERNELPKG_RETURN_IF_ERROR(check_weight_shape(who, args.n, args.k));
  if (args.weight == nullptr)
    return Status::error(std::string(who) + ": weight is null; pass the tensor's data.");
  if (args.format == WeightFormat::kU4B8 && reinterpret_cast<uintptr_t>(args.weight) % 4 != 0) {
    return Status::error(
        std::string(who) +
        ": u4b8 weights are int32 words and must start on a 4-byte boundary; pass a "
        "contiguous copy.");
  }
  KERNELPKG_RETURN_IF_ERROR(check_pointer(who, "the packed output", args.packed));
  if (args.packed == args.weight) {
    return Status::error(std::string(who) +
                         ": the packed output is the weight itself; repacking cannot be done in "
                         "place, pass another buffer.");
  }
  return {};
}

}  // namespace kernelpkg::marlin
