// Registers the operators with torch through its stable ABI: this folder is the only code that sees torch.
//
// `kernelpkg` holds what ships. `kernelpkg_evidence` holds the emulated and stand-in builds, which no gate ever
// dispatches to; on the CPU both namespaces run the same references.
#include <torch/csrc/stable/library.h>

#include "bindings/cpu_ops.h"
#include "bindings/cuda_ops.h"

STABLE_TORCH_LIBRARY(kernelpkg, m) {
  m.def(
      "marlin_gemm(Tensor a, Tensor b_packed, Tensor b_scales, Tensor? b_zeros, Tensor? a_scales, "
      "Tensor? bias, int weight_format, int size_n, int size_k, int group_size, float output_scale) -> Tensor");
  m.def("marlin_repack(Tensor weight, int weight_format, int size_k, int size_n) -> Tensor");
  m.def(
      "cutlass_scaled_mm(Tensor a, Tensor b, Tensor a_scales, Tensor b_scales, Tensor? bias, "
      "ScalarType out_dtype, int configuration=-1) -> Tensor");
}

STABLE_TORCH_LIBRARY(kernelpkg_evidence, m) {
  m.def(
      "marlin_gemm_emulated(Tensor a, Tensor b_packed, Tensor b_scales, Tensor? b_zeros, Tensor? a_scales, "
      "Tensor? bias, int weight_format, int size_n, int size_k, int group_size, float output_scale) -> Tensor");
  m.def(
      "scaled_mm_sm89_standin(Tensor a, Tensor b, Tensor a_scales, Tensor b_scales, Tensor? bias, "
      "ScalarType out_dtype, int configuration=-1) -> Tensor");
  m.def(
      "scaled_mm_sm120_standin(Tensor a, Tensor b, Tensor a_scales, Tensor b_scales, Tensor? bias, "
      "ScalarType out_dtype, int configuration=-1) -> Tensor");
}

namespace kernelpkg::bindings {

STABLE_TORCH_LIBRARY_IMPL(kernelpkg, CPU, m) {
  m.impl("marlin_gemm", TORCH_BOX(&marlin_gemm_cpu));
  m.impl("marlin_repack", TORCH_BOX(&marlin_repack_cpu_op));
  m.impl("cutlass_scaled_mm", TORCH_BOX(&scaled_mm_cpu));
}

STABLE_TORCH_LIBRARY_IMPL(kernelpkg, CUDA, m) {
  m.impl("marlin_gemm", TORCH_BOX(&marlin_gemm_cuda));
  m.impl("marlin_repack", TORCH_BOX(&marlin_repack_cuda));
  m.impl("cutlass_scaled_mm", TORCH_BOX(&scaled_mm_cuda));
}

STABLE_TORCH_LIBRARY_IMPL(kernelpkg_evidence, CPU, m) {
  m.impl("marlin_gemm_emulated", TORCH_BOX(&marlin_gemm_cpu));
  m.impl("scaled_mm_sm89_standin", TORCH_BOX(&scaled_mm_cpu));
  m.impl("scaled_mm_sm120_standin", TORCH_BOX(&scaled_mm_cpu));
}

STABLE_TORCH_LIBRARY_IMPL(kernelpkg_evidence, CUDA, m) {
  m.impl("marlin_gemm_emulated", TORCH_BOX(&marlin_gemm_emulated_cuda));
  m.impl("scaled_mm_sm89_standin", TORCH_BOX(&scaled_mm_sm89_standin_cuda));
  m.impl("scaled_mm_sm120_standin", TORCH_BOX(&scaled_mm_sm120_standin_cuda));
}

}  // namespace kernelpkg::bindings
