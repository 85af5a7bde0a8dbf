// Matrix products.
#pragma once
#include "core/tensor.h"
#include "kernels/gemm.h"

namespace pydlx::ops {

// PyTorch's matmul: dot, matrix-vector, matrix-matrix, batched with broadcasting.
Tensor matmul(const Tensor& a, const Tensor& b);
// x W^T + b for x of shape (*, in), weight (out, in), bias (out) or undefined.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias);

}  // namespace pydlx::ops
