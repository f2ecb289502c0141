#include "marlin/checks.h"

#include <cmath>
#include <cstdint>
#include <string>

namespace kernelpkg::marlin {
namespace {

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

bool is_16bit(DType type) { return type == DType::kFloat16 || type == DType::kBFloat16; }

template <class... Parts>
Status refuse(const char* who, const Parts&... parts) {
  std::string text = std::string(who) + ": ";
  (text.append(parts), ...);
  return Status::error(text);
}

Status check_extent(const char* who, const char* what, int value) {
  if (value >= 1 && value <= kMaxExtent) return {};
  return refuse(who, what, " is ", std::to_string(value), ", it must be from 1 to ",
                std::to_string(kMaxExtent), ".");
}

Status check_format(const char* who, WeightFormat format) {
  if (is_format(static_cast<int>(format))) return {};
  return refuse(who, "unknown weight format ", std::to_string(static_cast<int>(format)), "; use ",
                format_list(), ".");
}

Status check_pointer(const char* who, const char* what, const void* pointer) {
  if (pointer == nullptr) return refuse(who, what, " is null; pass the tensor's data.");
  if (aligned(pointer)) return {};
  return refuse(
      who, what,
      " does not start on a 16-byte boundary, which the kernel's 16-byte copies need; pass "
      "a contiguous copy.");
}

Status check_types(const char* who, const MarlinArgs& args) {
  const bool fp8 = args.a_type == DType::kFloat8E4M3;
  if (!fp8 && !is_16bit(args.a_type)) {
    return refuse(who, "activations are ", name_of(args.a_type),
                  "; use float16, bfloat16 or float8_e4m3fn.");
  }
  if (!is_16bit(args.c_type)) {
    return refuse(who, "the output type is ", name_of(args.c_type),
                  "; use float16 or bfloat16 (it follows the scales).");
  }
  if (!fp8 && args.c_type != args.a_type) {
    return refuse(who, "activations are ", name_of(args.a_type), " but scales and output are ",
                  name_of(args.c_type),
                  "; 16-bit activations need both of their own type, cast the scales.");
  }
  KERNELPKG_RETURN_IF_ERROR(check_format(who, args.b_format));
  if (fp8 && !takes_fp8(args.b_format)) {
    return refuse(who, "float8_e4m3fn activations with ", name_of(args.b_format),
                  " weights are not a Marlin case; use 16-bit activations.");
  }
  if (args.b_format == WeightFormat::kMxfp4 && args.c_type != DType::kBFloat16) {
    return refuse(who, "mxfp4 weights with ", name_of(args.c_type),
                  " output; their power-of-two scales need the range of bfloat16, use that.");
  }
  if (!takes_group(args.b_format, args.group_size)) {
    return refuse(who, "group_size is ", std::to_string(args.group_size), "; ",
                  name_of(args.b_format), " weights take ", group_list(args.b_format), ".");
  }
  if (fp8 && args.a_scales == nullptr) {
    return refuse(who, "float8_e4m3fn activations need a_scales, one float32 per row.");
  }
  if (!fp8 && args.a_scales != nullptr) {
    return refuse(who, "a_scales belong to float8_e4m3fn activations; pass none with ",
                  name_of(args.a_type), ".");
  }
  const bool nvfp4 = args.b_format == WeightFormat::kNvfp4;
  if (nvfp4 ? !std::isfinite(args.output_scale) : args.output_scale != 1.0f) {
    return refuse(who, "output_scale is ", std::to_string(args.output_scale), "; it must be ",
                  nvfp4 ? "finite." : "1, only nvfp4 weights have another one.");
  }
  return {};
}

}  // namespace

const char* format_list() {
  return "0 (u4b8), 1 (e4m3), 2 (u4), 3 (u8b128), 4 (nvfp4) or 5 (mxfp4)";
}

bool takes_group(WeightFormat format, int64_t group_size) {
  switch (format) {
    case WeightFormat::kE4M3:
      return group_size == -1 || group_size == 32 || group_size == 128;
    case WeightFormat::kNvfp4:
      return group_size == 16;
    case WeightFormat::kMxfp4:
      return group_size == 32;
    default:
      return group_size == -1 || group_size == 32 || group_size == 64 || group_size == 128;
  }
}

const char* group_list(WeightFormat format) {
  switch (format) {
    case WeightFormat::kE4M3:
      return "-1 (one scale per channel), 32 or 128";
    case WeightFormat::kNvfp4:
      return "16";
    case WeightFormat::kMxfp4:
      return "32";
    default:
      return "-1 (one scale per channel), 32, 64 or 128";
  }
}

Status check_gemm(const MarlinArgs& args) {
  const char* who = "marlin_gemm";
  KERNELPKG_RETURN_IF_ERROR(check_types(who, args));
  if (args.m < 0)
    return refuse(who, "size_m is ", std::to_string(args.m), ", it must not be negative.");
  KERNELPKG_RETURN_IF_ERROR(check_extent(who, "size_n", args.n));
  KERNELPKG_RETURN_IF_ERROR(check_extent(who, "size_k", args.k));
  if (args.m == 0) return {};
  KERNELPKG_RETURN_IF_ERROR(check_pointer(who, "a", args.a));
  KERNELPKG_RETURN_IF_ERROR(check_pointer(who, "b_packed", args.b));
  KERNELPKG_RETURN_IF_ERROR(check_pointer(who, "b_scales", args.scales));
  KERNELPKG_RETURN_IF_ERROR(check_pointer(who, "the output", args.c));
  if (args.bias != nullptr) KERNELPKG_RETURN_IF_ERROR(check_pointer(who, "bias", args.bias));
  if (args.b_format == WeightFormat::kU4) {
    KERNELPKG_RETURN_IF_ERROR(check_pointer(who, "b_zeros", args.zeros));
  } else if (args.zeros != nullptr) {
    return refuse(who, "b_zeros belong to u4 weights; pass none with ", name_of(args.b_format),
                  ".");
  }
  if (args.lda < args.k) {
    return refuse(who, "rows of a are ", std::to_string(args.lda), " elements apart, fewer than ",
                  "size_k = ", std::to_string(args.k), "; pass a row-major [M, K].");
  }
  if (args.lda * size_of(args.a_type) % 16 != 0) {
    return refuse(who, "rows of a are ", std::to_string(args.lda),
                  " elements apart, which does not keep every row on a 16-byte boundary; copy them "
                  "with marlin_pad_rows.");
  }
  return {};
}

Status check_repack(const MarlinRepackArgs& args) {
  const char* who = "marlin_repack";
  KERNELPKG_RETURN_IF_ERROR(check_format(who, args.format));
  KERNELPKG_RETURN_IF_ERROR(check_extent(who, "size_n", args.n));
  KERNELPKG_RETURN_IF_ERROR(check_extent(who, "size_k", args.k));
  if (args.weight == nullptr) return refuse(who, "weight is null; pass the tensor's data.");
  if (bits_of(args.format) == 4 && reinterpret_cast<uintptr_t>(args.weight) % 4 != 0) {
    return refuse(who,
                  "4-bit weights are int32 words and must start on a 4-byte boundary; pass a "
                  "contiguous copy.");
  }
  KERNELPKG_RETURN_IF_ERROR(check_pointer(who, "the packed output", args.packed));
  if (args.packed == args.weight) {
    return refuse(who,
                  "the packed output is the weight itself; repacking cannot be done in place, pass "
                  "another buffer.");
  }
  return {};
}

Status check_pad_rows(const MarlinPadArgs& args) {
  const char* who = "marlin_pad_rows";
  if (!is_16bit(args.a_type) && args.a_type != DType::kFloat8E4M3) {
    return refuse(who, "activations are ", name_of(args.a_type),
                  "; use float16, bfloat16 or float8_e4m3fn.");
  }
  KERNELPKG_RETURN_IF_ERROR(check_extent(who, "size_k", args.k));
  if (args.m < 0)
    return refuse(who, "size_m is ", std::to_string(args.m), ", it must not be negative.");
  if (args.lda < 0) {
    return refuse(who, "rows of a are ", std::to_string(args.lda),
                  " elements apart, it must not be negative.");
  }
  if (args.padded_lda < args.k || args.padded_lda * size_of(args.a_type) % 16 != 0) {
    return refuse(who, "padded rows are ", std::to_string(args.padded_lda),
                  " elements apart; that must be at least size_k = ", std::to_string(args.k),
                  " and a whole multiple of 16 bytes.");
  }
  if (args.m == 0) return {};
  if (args.a == nullptr) return refuse(who, "a is null; pass the tensor's data.");
  return check_pointer(who, "the padded output", args.padded);
}

Status check_workspace(const MarlinArgs& args, size_t needed) {
  if (needed == 0) return {};
  if (args.workspace == nullptr || args.workspace_bytes < needed) {
    return Status::error("marlin_gemm: the workspace has " +
                         std::to_string(args.workspace == nullptr ? 0 : args.workspace_bytes) +
                         " bytes and this call needs " + std::to_string(needed) +
                         "; ask marlin_workspace_bytes with the same arguments.");
  }
  if (reinterpret_cast<uintptr_t>(args.workspace) % 16 != 0) {
    return Status::error(
        "marlin_gemm: the workspace does not start on a 16-byte boundary; pass memory that does.");
  }
  return {};
}

}  // namespace kernelpkg::marlin
