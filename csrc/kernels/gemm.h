// Matrix products: C = epilogue(alpha * A B + beta * C), batched.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

// Those that a product or convolution can apply to what it stores. gelu is x Phi(x), gelu_tanh its approximation.
enum class Activation : int { none, relu, gelu, gelu_tanh, silu, sigmoid, tanh, COUNT };

struct Gemm {
  std::int64_t m = 0, n = 0, k = 0, batch = 1;
  const void* a = nullptr;  // A(i, p) at a[i * a_row + p * a_col]; one of the two strides is 1, or both are general
  const void* b = nullptr;
  void* c = nullptr;  // C(i, j) at c[i * c_row + j]
  std::int64_t a_row = 0, a_col = 0, b_row = 0, b_col = 0, c_row = 0;
  std::int64_t a_batch = 0, b_batch = 0, c_batch = 0;  // elements between consecutive matrices; 0 broadcasts
  double alpha = 1, beta = 0;                          // beta 0: C is not read (it may hold NaN)
  const void* bias = nullptr;                          // one value per column, added before the activation
  Activation activation = Activation::none;            // integers: none or relu
};

using GemmFn = void (*)(const Gemm&);

struct GemmKernels {
  GemmFn gemm[kDTypeCount] = {};
  // The same from an external library or for one generation of GPUs, tried first. False, with nothing written, when it
  // does not serve this product; the answer follows from the geometry and the device alone.
  bool (*external[kDTypeCount])(const Gemm&) = {};
};

}  // namespace pydlx
