// Linear layers.
#pragma once
#include "core/tensor.h"
#include "kernels/gemm.h"

namespace pydlx::ops {

// x W^T + b for x of shape (*, in), weight (out, in) or (in), bias (out) or undefined.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias);
// activation(x W^T + b) in one pass over the result. The gradient of relu, sigmoid and tanh follows from the output;
// the others keep their argument when gradients are recorded, and are then two operations.
Tensor linear_activation(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation);
// y_o = x1^T W_o x2 + b_o for x1 (*, i), x2 (*, j), weight (o, i, j), bias (o) or undefined.
Tensor bilinear(const Tensor& x1, const Tensor& x2, const Tensor& weight, const Tensor& bias);

}  // namespace pydlx::ops
