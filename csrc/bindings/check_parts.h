// What the checks of all operators share: how a tensor is named in a sentence, and what any operand must be.
#pragma once

#include <sstream>
#include <string>

#include "bindings/checks.h"

namespace kernelpkg::bindings {

// "float8_e4m3fn" and so on.
std::string name(ScalarType type);

template <class Values>
std::string list(const Values& values) {
  std::ostringstream out;
  out << '[';
  for (size_t i = 0; i < values.size(); ++i) out << (i ? ", " : "") << values[i];
  out << ']';
  return out.str();
}

// "a is float32 [4, 128]"
std::string given(const char* what, const Tensor& tensor);

// Refuses with "OP: PARTS".
template <class... Parts>
[[noreturn]] void refuse_parts(const char* op, const Parts&... parts) {
  std::ostringstream out;
  out << op << ": ";
  (out << ... << parts);
  refuse(out.str());
}

// Each of these refuses a tensor that does not hold, called `what` in the sentence.
void check_device(const char* op, const char* what, const Tensor& tensor, const Tensor& a, const char* first);
void check_contiguous(const char* op, const char* what, const Tensor& tensor);
void check_pointer(const char* op, const char* what, const Tensor& tensor);

// An extent from 1 to `largest`.
void check_size(const char* op, const char* what, int64_t value, int64_t largest);

// Row stride, in elements, of a row-major `a` [M, columns] with rows anywhere; `columns` for a single row.
int64_t check_row_major(const char* op, const Tensor& a, int64_t columns);

// The data of a bias [size_n] in `out`, null where there is none.
const void* check_bias(const char* op, const OptionalTensor& bias, const Tensor& a, int64_t size_n,
                       ScalarType out);

// The operand and output types of the operators: float16, bfloat16, float8_e4m3fn, float8_e5m2.
DType dtype_of(ScalarType type);
bool is_16bit(ScalarType type);

}  // namespace kernelpkg::bindings
