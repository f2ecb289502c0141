#include "bindings/checks.h"

#include <cmath>
#include <cstdint>

#include "bindings/check_parts.h"
#include "marlin/checks.h"
#include "marlin/layout.h"

namespace kernelpkg::bindings {
namespace {

WeightFormat check_format(const char* op, int64_t weight_format) {
  if (weight_format >= 0 && weight_format < kWeightFormats) return static_cast<WeightFormat>(weight_format);
  refuse_parts(op, "weight_format is ", weight_format, "; it must be ", marlin::format_list());
}

}  // namespace

ScalarType scalar_type(DType type) {
  switch (type) {
    case DType::kFloat16: return ScalarType::Half;
    case DType::kBFloat16: return ScalarType::BFloat16;
    case DType::kFloat8E4M3: return ScalarType::Float8_e4m3fn;
    case DType::kFloat8E5M2: return ScalarType::Float8_e5m2;
    default: return ScalarType::Float;
  }
}

std::vector<int64_t> packed_shape(WeightFormat format, int64_t size_k, int64_t size_n) {
  return {marlin::padded_n(size_n) / marlin::kStripCols, marlin::padded_k(size_k) / marlin::kUnitRows,
          2 * marlin::unit_words(format)};
}

bool rows_need_copy(const MarlinArgs& args) {
  const int64_t bytes = size_of(args.a_type);
  return args.lda < args.k || args.lda * bytes % kAlignment != 0 || args.k * bytes % kAlignment != 0 ||
         reinterpret_cast<uintptr_t>(args.a) % kAlignment != 0;
}

MarlinArgs check_marlin_gemm(const char* op, const Tensor& a, const Tensor& b_packed,
                             const Tensor& b_scales, const OptionalTensor& b_zeros,
                             const OptionalTensor& a_scales, const OptionalTensor& bias,
                             int64_t weight_format, int64_t size_n, int64_t size_k, int64_t group_size,
                             double output_scale) {
  MarlinArgs args{};
  const ScalarType a_type = a.scalar_type();
  const bool fp8 = a_type == ScalarType::Float8_e4m3fn;
  if (!fp8 && !is_16bit(a_type)) {
    refuse_parts(op, given("a", a), "; activations must be float16, bfloat16 or (with a_scales) "
                 "float8_e4m3fn, convert them with .to()");
  }
  const WeightFormat format = check_format(op, weight_format);
  if (fp8 && !marlin::takes_fp8(format)) {
    refuse_parts(op, "a is float8_e4m3fn and the weight ", name_of(format),
                 "; FP8 activations go with u4b8, u4, mxfp4 and e4m3 weights, use 16-bit activations");
  }
  check_size(op, "size_n", size_n, marlin::kMaxExtent);
  check_size(op, "size_k", size_k, marlin::kMaxExtent);
  if (!marlin::takes_group(format, group_size)) {
    refuse_parts(op, "group_size is ", group_size, "; it must be ", marlin::group_list(format), " for ",
                 name_of(format), " weights, quantise the weight with one of these");
  }
  const bool nvfp4 = format == WeightFormat::kNvfp4;
  if (nvfp4 ? !std::isfinite(static_cast<float>(output_scale)) : output_scale != 1) {
    refuse_parts(op, "output_scale is ", output_scale, "; it must be ",
                 nvfp4 ? "finite in float32" : "1, only nvfp4 weights have another one");
  }
  if (a.dim() != 2 || a.size(1) != size_k) {
    refuse_parts(op, given("a", a), "; it must be [M, ", size_k, "], K being the weight's");
  }
  args.lda = check_row_major(op, a, size_k);

  const auto packed = packed_shape(format, size_k, size_n);
  if (b_packed.scalar_type() != ScalarType::Int || b_packed.dim() != 3 || b_packed.size(0) != packed[0] ||
      b_packed.size(1) != packed[1] || b_packed.size(2) != packed[2]) {
    refuse_parts(op, given("b_packed", b_packed), "; it must be int32 ", list(packed), " for size_k ", size_k,
                 ", size_n ", size_n, " and ", bits_of(format), "-bit weights, as marlin_repack returns it");
  }
  check_device(op, "b_packed", b_packed, a, "a");
  check_contiguous(op, "b_packed", b_packed);
  check_pointer(op, "b_packed", b_packed);

  const int64_t k_pad = marlin::padded_k(size_k), n_pad = marlin::padded_n(size_n);
  const int64_t groups = marlin::padded_groups(size_k, static_cast<int>(group_size));
  const std::vector<int64_t> scales_shape =
      nvfp4 ? std::vector<int64_t>{k_pad / marlin::kUnitRows * (n_pad / marlin::kUnitCols), 2, marlin::kUnitCols}
            : std::vector<int64_t>{groups, n_pad};
  bool scales_fit = is_16bit(b_scales.scalar_type()) &&
                    b_scales.dim() == static_cast<int64_t>(scales_shape.size());
  for (size_t i = 0; scales_fit && i < scales_shape.size(); ++i) {
    scales_fit = b_scales.size(static_cast<int64_t>(i)) == scales_shape[i];
  }
  if (!scales_fit) {
    refuse_parts(op, given("b_scales", b_scales), "; it must be float16 or bfloat16 ", list(scales_shape),
                 ", padded as pack_marlin_weight makes it");
  }
  const ScalarType c_type = fp8 ? b_scales.scalar_type() : a_type;
  if (b_scales.scalar_type() != c_type) {
    refuse_parts(op, "b_scales is ", name(b_scales.scalar_type()), " and a ", name(a_type),
                 "; with 16-bit activations both must have one dtype, convert the scales with .to()");
  }
  if (format == WeightFormat::kMxfp4 && c_type != ScalarType::BFloat16) {
    refuse_parts(op, "b_scales is ", name(c_type), " and the weight mxfp4",
                 "; its power-of-two scales need the range of bfloat16, use that");
  }
  check_device(op, "b_scales", b_scales, a, "a");
  check_contiguous(op, "b_scales", b_scales);
  check_pointer(op, "b_scales", b_scales);

  if ((format == WeightFormat::kU4) != b_zeros.has_value()) {
    if (b_zeros.has_value()) {
      refuse_parts(op, "b_zeros was given and the weight is ", name_of(format),
                   "; only u4 weights have zero points, leave it out");
    }
    refuse_parts(op, "the weight is u4 and b_zeros is missing; pass uint8 [", groups, ", ", n_pad,
                 "], as pack_marlin_weight makes it");
  }
  if (b_zeros.has_value()) {
    if (b_zeros->scalar_type() != ScalarType::Byte || b_zeros->dim() != 2 || b_zeros->size(0) != groups ||
        b_zeros->size(1) != n_pad) {
      refuse_parts(op, given("b_zeros", *b_zeros), "; it must be uint8 [", groups, ", ", n_pad,
                   "], as pack_marlin_weight makes it");
    }
    check_device(op, "b_zeros", *b_zeros, a, "a");
    check_contiguous(op, "b_zeros", *b_zeros);
    check_pointer(op, "b_zeros", *b_zeros);
    args.zeros = static_cast<const uint8_t*>(b_zeros->const_data_ptr());
  }

  if (fp8 && !a_scales.has_value()) {
    refuse_parts(op, "a is float8_e4m3fn and a_scales is missing; pass the float32 [M] scales that "
                 "quantize_fp8_per_token returned");
  }
  if (!fp8 && a_scales.has_value()) {
    refuse_parts(op, "a is ", name(a_type), " and a_scales was given; only float8_e4m3fn activations have "
                 "scales, leave it out");
  }
  if (fp8) {
    if (a_scales->scalar_type() != ScalarType::Float || a_scales->numel() != a.size(0)) {
      refuse_parts(op, given("a_scales", *a_scales), "; it must be float32 with one value per row of a (",
                   a.size(0), ")");
    }
    check_device(op, "a_scales", *a_scales, a, "a");
    check_contiguous(op, "a_scales", *a_scales);
    args.a_scales = static_cast<const float*>(a_scales->const_data_ptr());
    // No rows, no storage; the kernels' host side still asks for scales, and never follows the pointer.
    if (args.a_scales == nullptr) args.a_scales = static_cast<const float*>(b_scales.const_data_ptr());
  }
  args.bias = check_bias(op, bias, a, size_n, c_type);

  args.a = a.const_data_ptr();
  args.a_type = dtype_of(a_type);
  args.b = static_cast<const uint32_t*>(b_packed.const_data_ptr());
  args.b_format = format;
  args.scales = b_scales.const_data_ptr();
  args.c_type = dtype_of(c_type);
  args.output_scale = static_cast<float>(output_scale);
  args.m = static_cast<int>(a.size(0));
  args.n = static_cast<int>(size_n);
  args.k = static_cast<int>(size_k);
  args.group_size = static_cast<int>(group_size);
  return args;
}

WeightFormat check_marlin_repack(const Tensor& weight, int64_t weight_format, int64_t size_k,
                                 int64_t size_n) {
  const char* op = "marlin_repack";
  const WeightFormat format = check_format(op, weight_format);
  check_size(op, "size_n", size_n, marlin::kMaxExtent);
  check_size(op, "size_k", size_k, marlin::kMaxExtent);
  const ScalarType type = weight.scalar_type();
  const bool four = bits_of(format) == 4, e4m3 = format == WeightFormat::kE4M3;
  const bool type_holds = four ? type == ScalarType::Int
                               : type == ScalarType::Byte || (e4m3 && type == ScalarType::Float8_e4m3fn);
  const int64_t rows = four ? (size_k + 7) / 8 : size_k;
  if (!type_holds || weight.dim() != 2 || weight.size(0) != rows || weight.size(1) != size_n) {
    refuse_parts(op, given("weight", weight), "; ", name_of(format), " weights must be ",
                 four ? "int32 (eight codes along K per word) ["
                      : e4m3 ? "float8_e4m3fn or uint8 [" : "uint8 [",
                 rows, ", ", size_n, "]");
  }
  check_contiguous(op, "weight", weight);
  check_pointer(op, "weight", weight);
  return format;
}

}  // namespace kernelpkg::bindings
