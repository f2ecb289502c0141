#include "bindings/cuda_ops.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <cstddef>

// The CPU wheel of torch has no such symbol; weak, so that this library loads there and serves the CPU.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                    void** ret_stream);

namespace kernelpkg::bindings {
namespace {

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

template <class Bytes, class Run>
Tensor run_marlin(const char* op, const Tensor& a, const Tensor& b_packed, const Tensor& b_scales,
                  const OptionalTensor& a_scales, const OptionalTensor& bias, int64_t weight_format,
                  int64_t size_n, int64_t size_k, int64_t group_size, const Bytes& bytes, const Run& run) {
  MarlinArgs args = check_marlin_gemm(op, a, b_packed, b_scales, a_scales, bias, weight_format, size_n,
                                      size_k, group_size);
  args.device = a.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(args.device);
  args.stream = current_stream(op, args.device);
  Tensor c = torch::stable::new_empty(a, {args.m, args.n}, scalar_type(args.c_type));
  args.c = c.mutable_data_ptr();
  args.workspace_bytes = bytes(args);
  Tensor space = workspace(a, args.workspace_bytes);
  args.workspace = space.mutable_data_ptr();
  check(run(args));
  return c;
}

template <class Bytes, class Run>
Tensor run_scaled_mm(const char* op, const Tensor& a, const Tensor& b, const Tensor& a_scales,
                     const Tensor& b_scales, const OptionalTensor& bias, ScalarType out_dtype,
                     const Bytes& bytes, const Run& run) {
  ScaledMmArgs args = check_scaled_mm(op, a, b, a_scales, b_scales, bias, out_dtype);
  args.device = a.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(args.device);
  args.stream = current_stream(op, args.device);
  Tensor c = torch::stable::new_empty(a, {args.m, args.n}, out_dtype);
  args.c = c.mutable_data_ptr();
  args.workspace_bytes = bytes(args);
  Tensor space = workspace(a, args.workspace_bytes);
  args.workspace = space.mutable_data_ptr();
  check(run(args));
  return c;
}

Tensor run_standin(const char* op, ScaledMmRoute route, const Tensor& a, const Tensor& b,
                   const Tensor& a_scales, const Tensor& b_scales, const OptionalTensor& bias,
                   ScalarType out_dtype) {
  return run_scaled_mm(
      op, a, b, a_scales, b_scales, bias, out_dtype,
      [&](const ScaledMmArgs& args) { return scaled_mm_workspace_bytes(args, route, true); },
      [&](const ScaledMmArgs& args) { return scaled_mm_standin(args, route); });
}

}  // namespace

Tensor marlin_gemm_cuda(const Tensor& a, const Tensor& b_packed, const Tensor& b_scales,
                        OptionalTensor a_scales, OptionalTensor bias, int64_t weight_format,
                        int64_t size_n, int64_t size_k, int64_t group_size) {
  return run_marlin("marlin_gemm", a, b_packed, b_scales, a_scales, bias, weight_format, size_n, size_k,
                    group_size, marlin_workspace_bytes, marlin_gemm);
}

Tensor marlin_gemm_emulated_cuda(const Tensor& a, const Tensor& b_packed, const Tensor& b_scales,
                                 OptionalTensor a_scales, OptionalTensor bias, int64_t weight_format,
                                 int64_t size_n, int64_t size_k, int64_t group_size) {
  return run_marlin("marlin_gemm_emulated", a, b_packed, b_scales, a_scales, bias, weight_format, size_n,
                    size_k, group_size, marlin_emulated_workspace_bytes, marlin_gemm_emulated);
}

Tensor marlin_repack_cuda(const Tensor& weight, int64_t weight_format, int64_t size_k, int64_t size_n,
                          bool fp8_activations) {
  const WeightFormat format = check_marlin_repack(weight, weight_format, size_k, size_n, fp8_activations);
  const int bits = bits_of(format);
  MarlinRepackArgs args{};
  args.device = weight.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(args.device);
  args.stream = current_stream("marlin_repack", args.device);
  Tensor packed = torch::stable::new_empty(weight, packed_shape(size_k, size_n, bits, fp8_activations),
                                           ScalarType::Int);
  args.weight = weight.const_data_ptr();
  args.format = format;
  args.packed = static_cast<uint32_t*>(packed.mutable_data_ptr());
  args.k = static_cast<int>(size_k);
  args.n = static_cast<int>(size_n);
  args.fp8_activations = fp8_activations;
  check(marlin_repack(args));
  return packed;
}

Tensor scaled_mm_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales,
                      OptionalTensor bias, ScalarType out_dtype) {
  return run_scaled_mm(
      "cutlass_scaled_mm", a, b, a_scales, b_scales, bias, out_dtype,
      [](const ScaledMmArgs& args) -> size_t {
        ScaledMmRoute route;
        check(scaled_mm_route(args.device, &route));
        return scaled_mm_workspace_bytes(args, route);
      },
      [](const ScaledMmArgs& args) { return scaled_mm(args); });
}

Tensor scaled_mm_sm89_standin_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales,
                                   const Tensor& b_scales, OptionalTensor bias, ScalarType out_dtype) {
  return run_standin("scaled_mm_sm89_standin", ScaledMmRoute::kSm89, a, b, a_scales, b_scales, bias,
                     out_dtype);
}

Tensor scaled_mm_sm120_standin_cuda(const Tensor& a, const Tensor& b, const Tensor& a_scales,
                                    const Tensor& b_scales, OptionalTensor bias, ScalarType out_dtype) {
  return run_standin("scaled_mm_sm120_standin", ScaledMmRoute::kSm120, a, b, a_scales, b_scales, bias,
                     out_dtype);
}

}  // namespace kernelpkg::bindings
