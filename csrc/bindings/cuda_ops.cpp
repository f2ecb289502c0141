#include "bindings/cuda_ops.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstddef>

#include "bindings/scaled_mm_checks.h"
#include "marlin/choice.h"
#include "marlin/dispatch.h"
#include "marlin/layout.h"

// The CPU wheel of torch has no such symbol; weak, so that this library loads there and serves the CPU.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                    void** ret_stream);

// torch's own GEMM, absent there for the same reason.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_cuda_mm_out(AtenTensorHandle out,
                                                                        AtenTensorHandle self,
                                                                        AtenTensorHandle mat2);
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_cuda_addmm_out(AtenTensorHandle out,
                                                                           AtenTensorHandle self,
                                                                           AtenTensorHandle mat1,
                                                                           AtenTensorHandle mat2,
                                                                           double beta, double alpha);

namespace kernelpkg::bindings {
namespace {

// Bytes of widened weight at a time: large enough for full GEMMs, small beside the weights of a model.
constexpr int64_t kWidenedBytes = int64_t{256} << 20;
// 16-bit values of scaled_mm's output in 16 bytes.
constexpr int64_t kOutputColumns = 8;

cudaStream_t current_stream(const char* op, int32_t device) {
  if (aoti_torch_get_current_cuda_stream == nullptr) {
    refuse(std::string(op) + ": this torch was built without CUDA; install a CUDA build of torch");
  }
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

// The work space is a tensor: torch's allocator keeps it from other streams until this one is done with it,
// and inside a graph capture takes it from the graph's own pool.
Tensor workspace(const Tensor& like, size_t bytes) {
  return torch::stable::new_empty(like, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
}

void check(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

// Activations that the kernels can read where they lie, or a padded copy of them that `args` then names. The
// caller keeps the tensor until the launch: the allocator orders its memory by the stream.
Tensor aligned_rows(const Tensor& a, MarlinArgs* args) {
  if (args->m == 0 || !rows_need_copy(*args)) return a;
  const int64_t bytes = size_of(args->a_type);
  const int64_t row_bytes = (args->k * bytes + kAlignment - 1) / kAlignment * kAlignment;
  Tensor rows = torch::stable::new_empty(a, {args->m, row_bytes}, ScalarType::Byte);
  MarlinPadArgs pad{};
  pad.a = args->a;
  pad.lda = args->lda;
  pad.a_type = args->a_type;
  pad.padded = rows.mutable_data_ptr();
  pad.padded_lda = row_bytes / bytes;
  pad.m = args->m;
  pad.k = args->k;
  pad.device = args->device;
  pad.stream = args->stream;
  check(marlin_pad_rows(pad));
  args->a = pad.padded;
  args->lda = pad.padded_lda;
  return rows;
}

// The weight, widened a slice of columns at a time, and torch's GEMM.
Tensor multiply_by_library(const Tensor& a, const OptionalTensor& bias, const MarlinArgs& args) {
  Tensor c = torch::stable::new_empty(a, {args.m, args.n}, scalar_type(args.c_type));
  const int64_t row = marlin::padded_k(args.k), wide_n = marlin::padded_n(args.n);
  const int64_t fitting = kWidenedBytes / (row * size_of(args.c_type)) / marlin::kPadN * marlin::kPadN;
  const int64_t slice = std::min(wide_n, std::max<int64_t>(fitting, marlin::kPadN));
  Tensor wide = torch::stable::new_empty(a, {slice, row}, scalar_type(args.c_type));
  for (int64_t begin = 0; begin < args.n; begin += slice) {
    const int64_t columns = std::min(slice, args.n - begin);
    check(marlin_widen(args, static_cast<int>(begin), static_cast<int>(columns), wide.mutable_data_ptr()));
    Tensor used = torch::stable::narrow(wide, 0, 0, columns);
    const Tensor weight = torch::stable::transpose(torch::stable::narrow(used, 1, 0, args.k), 0, 1);
    const Tensor out = torch::stable::narrow(c, 1, begin, columns);
    if (bias.has_value()) {
      Tensor whole = bias.value();
      const Tensor part = torch::stable::narrow(whole, 0, begin, columns);
      TORCH_ERROR_CODE_CHECK(
          aoti_torch_cuda_addmm_out(out.get(), part.get(), a.get(), weight.get(), 1.0, 1.0));
    } else {
      TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_mm_out(out.get(), a.get(), weight.get()));
    }
  }
  return c;
}

Tensor run_marlin(const char* op, marlin::Family family, const Tensor& a, const Tensor& b_packed,
                  const Tensor& b_scales, const OptionalTensor& b_zeros, const OptionalTensor& a_scales,
                  const OptionalTensor& bias, int64_t weight_format, int64_t size_n, int64_t size_k,
                  int64_t group_size, double output_scale) {
  MarlinArgs args = check_marlin_gemm(op, a, b_packed, b_scales, b_zeros, a_scales, bias, weight_format,
                                      size_n, size_k, group_size, output_scale);
  args.device = a.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(args.device);
  args.stream = current_stream(op, args.device);
  // Once: somebody may choose otherwise meanwhile.
  const bool shipped = family == marlin::Family::kShipped;
  const marlin::Choice choice = shipped ? marlin::chosen(args) : marlin::Choice{};
  if (shipped && marlin::prefers_library(args, choice) && aoti_torch_cuda_mm_out != nullptr &&
      aoti_torch_cuda_addmm_out != nullptr) {
    return multiply_by_library(a, bias, args);
  }
  const Tensor rows = aligned_rows(a, &args);
  Tensor c = torch::stable::new_empty(a, {args.m, args.n}, scalar_type(args.c_type));
  args.c = c.mutable_data_ptr();
  args.workspace_bytes = marlin::workspace_bytes(args, family, choice);
  Tensor space = workspace(a, args.workspace_bytes);
  args.workspace = space.mutable_data_ptr();
  check(marlin::run(args, family, choice));
  return c;
}

// `lines` [count, k] of FP8, copied so that each starts on 16 bytes; zeros from k to there.
Tensor aligned_lines(const Tensor& lines, int64_t k) {
  const int64_t stride = line_bytes(k);
  Tensor padded = torch::stable::new_empty(lines, {lines.size(0), stride});
  Tensor values = torch::stable::narrow(padded, 1, 0, k);
  torch::stable::copy_(values, lines);
  if (stride != k) {
    Tensor tail = torch::stable::narrow(padded, 1, k, stride - k);
    torch::stable::zero_(tail);
  }
  return padded;
}

// The operands that the kernels of `route` read: those given, or copies of what they cannot read in place,
// which `args` then names. Kept until the launch: the allocator orders their memory by the stream.
struct Operands {
  Tensor a, b;
};

Operands readable(const Tensor& a, const Tensor& b, ScaledMmRoute route, ScaledMmArgs* args) {
  Operands held{a, b};
  const int64_t k = args->k, stride = line_bytes(k);
  // Zeros in both: what lies beside a view may be NaN, and NaN times zero is no zero.
  const bool fill = stride != k && scaled_mm_whole_rows(route);
  if (fill || lines_need_copy(args->a, args->lda, k)) {
    held.a = aligned_lines(a, k);
    args->a = held.a.const_data_ptr();
    args->lda = stride;
  }
  if (fill || lines_need_copy(args->b, args->ldb, k)) {
    held.b = aligned_lines(torch::stable::transpose(b, 0, 1), k);
    args->b = held.b.const_data_ptr();
    args->ldb = stride;
  }
  if (fill) args->k = static_cast<int>(stride);
  return held;
}

// standin: the route whose evidence build runs, none for what ships.
Tensor run_scaled_mm(const char* op, std::optional<ScaledMmRoute> standin, const Tensor& a, const Tensor& b,
                     const Tensor& a_scales, const Tensor& b_scales, const OptionalTensor& bias,
                     ScalarType out_dtype, int64_t configuration) {
  ScaledMmArgs args =
      check_scaled_mm(op, a, b, a_scales, b_scales, bias, out_dtype, configuration);
  args.device = a.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(args.device);
  args.stream = current_stream(op, args.device);
  ScaledMmRoute route = standin.value_or(ScaledMmRoute::kSm90);
  if (!standin.has_value()) check(scaled_mm_route(args.device, &route));
  const Operands held = readable(a, b, route, &args);
  // Rows of c start on 16 bytes too: what N leaves of the last ones is cut off afterwards.
  args.ldc = (args.n + kOutputColumns - 1) / kOutputColumns * kOutputColumns;
  Tensor c = torch::stable::new_empty(a, {args.m, args.ldc}, out_dtype);
  args.c = c.mutable_data_ptr();
  args.workspace_bytes = scaled_mm_workspace_bytes(args, route, standin.has_value());
  std::optional<Tensor> space;
  if (args.workspace_bytes != 0) {
    space = workspace(a, args.workspace_bytes);
    args.workspace = space->mutable_data_ptr();
  }
  check(standin.has_value() ? scaled_mm_standin(args, route) : scaled_mm(args));
  if (args.ldc == args.n) return c;
  return torch::stable::contiguous(torch::stable::narrow(c, 1, 0, args.n));
}

}  // namespace

Tensor marlin_gemm_cuda(const Tensor& a, const Tensor& b_packed, const Tensor& b_scales,
                        OptionalTensor b_zeros, OptionalTensor a_scales, OptionalTensor bias,
                        int64_t weight_format, int64_t size_n, int64_t size_k, int64_t group_size,
                        double output_scale) {
  return run_marlin("marlin_gemm", marlin::Family::kShipped, a, b_packed, b_scales, b_zeros, a_scales, bias,
                    weight_format, size_n, size_k, group_size, output_scale);
}

Tensor marlin_gemm_emulated_cuda(const Tensor& a, const Tensor& b_packed, const Tensor& b_scales,
                                 OptionalTensor b_zeros, OptionalTensor a_scales, OptionalTensor bias,
                                 int64_t weight_format, int64_t size_n, int64_t size_k, int64_t group_size,
                                 double output_scale) {
  return run_marlin("marlin_gemm_emulated", marlin::Family::kEmulated, a, b_packed, b_scales, b_zeros,
                    a_scales, bias, weight_format, size_n, size_k, group_size, output_scale);
}

Tensor marlin_repack_cuda(const Tensor& weight, int64_t weight_format, int64_t size_k, int64_t size_n) {
  const WeightFormat format = check_marlin_repack(weight, weight_format, size_k, size_n);
  MarlinRepackArgs args{};
  args.device = weight.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(args.device);
  args.stream = current_stream("marlin_repack", args.device);
  Tensor packed = torch::stable::new_empty(weight, packed_shape(format, size_k, size_n), ScalarType::Int);
  args.weight = weight.const_data_ptr();
  args.format = format;
  args.packed = static_cast<uint32_t*>(packed.mutable_data_ptr());
  args.k = static_cast<int>(size_k);
  args.n = static_cast<int>(size_n);
  check(marlin_repack(args));
  return packed;
}

Tensor scaled_mm_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales,
                      OptionalTensor bias, ScalarType out_dtype, int64_t configuration) {
  return run_scaled_mm("cutlass_scaled_mm", std::nullopt, a, b, a_scales, b_scales, bias, out_dtype,
                       configuration);
}

Tensor scaled_mm_sm89_standin_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales,
                                   const Tensor& b_scales, OptionalTensor bias, ScalarType out_dtype,
                                   int64_t configuration) {
  return run_scaled_mm("scaled_mm_sm89_standin", ScaledMmRoute::kSm89, a, b, a_scales, b_scales, bias,
                       out_dtype, configuration);
}

Tensor scaled_mm_sm120_standin_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales,
                                    const Tensor& b_scales, OptionalTensor bias, ScalarType out_dtype,
                                    int64_t configuration) {
  return run_scaled_mm("scaled_mm_sm120_standin", ScaledMmRoute::kSm120, a, b, a_scales, b_scales, bias,
                       out_dtype, configuration);
}

}  // namespace kernelpkg::bindings
