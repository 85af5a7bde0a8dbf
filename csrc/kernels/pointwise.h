// Elementwise kernels. The functors behind the op numbers are shared by all backends: functors/unary.h,
// functors/binary.h, ...
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "core/limits.h"

namespace pydlx {

inline constexpr int kMaxOperands = 5;

// operand 0 is the output. Axes are merged where possible and ordered innermost first; strides count elements and may
// be 0 (broadcast).
struct Elementwise {
  std::int64_t numel = 0;
  int ndim = 0;
  int operands = 0;
  void* data[kMaxOperands];
  std::int64_t size[kMaxDims];
  std::int64_t stride[kMaxOperands][kMaxDims];
  // An operand that is one host value: `value` holds it in the op's dtype, all its strides are 0, and on host backends
  // `data` points to it. Device backends read it from here, so a Python number never needs device memory.
  bool immediate[kMaxOperands] = {};
  alignas(8) unsigned char value[kMaxOperands][8];
  double param[4] = {};  // op parameters: slopes, bounds, ...
};

// Ranges of op numbers have their functors in one file each; the first op of a range is named below.
enum class UnaryOp : int {
  // functors/unary.h
  neg,
  abs,
  sign,
  sqrt,
  rsqrt,
  reciprocal,
  floor,
  ceil,
  round,
  trunc,
  frac,
  bitwise_not,
  nan_to_num,
  relu,
  clamp,
  cube,
  // functors/transcendental.h
  exp,
  exp2,
  expm1,
  log,
  log2,
  log10,
  log1p,
  sin,
  cos,
  tanh,
  sigmoid,
  erf,
  tan,
  asin,
  acos,
  atan,
  sinh,
  cosh,
  asinh,
  acosh,
  atanh,
  erfc,
  erfinv,
  lgamma,
  digamma,
  trigamma,
  logit,
  // functors/activation.h
  leaky_relu,
  elu,
  gelu,
  gelu_tanh,
  silu,
  mish,
  softplus,
  hardsigmoid,
  hardswish,
  log_sigmoid,
  threshold,
  hardshrink,
  softshrink,
  COUNT
};
enum class BinaryOp : int {
  // functors/binary.h
  add,
  sub,
  mul,
  div,
  maximum,
  minimum,
  fmax,
  fmin,
  floor_divide,
  trunc_divide,
  remainder,
  fmod,
  pow,
  atan2,
  hypot,
  copysign,
  heaviside,
  xlogy,
  logaddexp,
  bitwise_and,
  bitwise_or,
  bitwise_xor,
  left_shift,
  right_shift,
  add_scaled,  // a + param b
  mul_scaled,  // a (param b)
  // functors/activation.h: (gradient, input or output) -> gradient
  relu_backward,
  sigmoid_backward,
  tanh_backward,
  clamp_backward,
  leaky_relu_backward,
  elu_backward,
  gelu_backward,
  gelu_tanh_backward,
  silu_backward,
  mish_backward,
  softplus_backward,
  hardsigmoid_backward,
  hardswish_backward,
  log_sigmoid_backward,
  threshold_backward,
  shrink_backward,
  prelu,  // (input, slope)
  COUNT
};
enum class TernaryOp : int { addcmul, addcdiv, lerp, COUNT };
enum class CompareOp : int { eq, ne, lt, le, gt, ge, COUNT };

using ElementwiseFn = void (*)(const Elementwise&);

struct PointwiseKernels {
  ElementwiseFn unary[static_cast<int>(UnaryOp::COUNT)][kDTypeCount] = {};
  ElementwiseFn binary[static_cast<int>(BinaryOp::COUNT)][kDTypeCount] = {};
  ElementwiseFn ternary[static_cast<int>(TernaryOp::COUNT)][kDTypeCount] = {};
  ElementwiseFn compare[static_cast<int>(CompareOp::COUNT)][kDTypeCount] = {};  // output is bool
  ElementwiseFn where[kDTypeCount] = {};                                        // operands: out, condition (bool), a, b
  ElementwiseFn copy[kDTypeCount][kDTypeCount] = {};                            // [destination][source]
};

}  // namespace pydlx
