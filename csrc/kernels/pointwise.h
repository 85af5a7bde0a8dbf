// Elementwise kernels. The functors behind the op numbers are shared by all backends: functors/unary.h, functors/binary.h, ...
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "core/limits.h"

namespace pydlx {

inline constexpr int kMaxOperands = 5;

// operand 0 is the output. Axes are merged where possible and ordered innermost first; strides count elements and may be 0 (broadcast).
struct Elementwise {
  std::int64_t numel = 0;
  int ndim = 0;
  int operands = 0;
  void* data[kMaxOperands];
  std::int64_t size[kMaxDims];
  std::int64_t stride[kMaxOperands][kMaxDims];
  // An operand that is one host value: `value` holds it in the op's dtype, all its strides are 0, and on host backends `data` points
  // to it. Device backends read it from here, so a Python number never needs device memory.
  bool immediate[kMaxOperands] = {};
  alignas(8) unsigned char value[kMaxOperands][8];
  double param[4] = {};  // op parameters: slopes, bounds, ...
};

enum class UnaryOp : int { neg, abs, exp, sqrt, relu, COUNT };
enum class BinaryOp : int { add, sub, mul, div, maximum, minimum, relu_backward, COUNT };
enum class CompareOp : int { eq, ne, lt, le, gt, ge, COUNT };

using ElementwiseFn = void (*)(const Elementwise&);

struct PointwiseKernels {
  ElementwiseFn unary[static_cast<int>(UnaryOp::COUNT)][kDTypeCount] = {};
  ElementwiseFn binary[static_cast<int>(BinaryOp::COUNT)][kDTypeCount] = {};
  ElementwiseFn compare[static_cast<int>(CompareOp::COUNT)][kDTypeCount] = {};  // output is bool
  ElementwiseFn where[kDTypeCount] = {};                                        // operands: out, condition (bool), a, b
  ElementwiseFn copy[kDTypeCount][kDTypeCount] = {};                            // [destination][source]
};

}  // namespace pydlx
