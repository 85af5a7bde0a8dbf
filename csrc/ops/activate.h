// Activations by name, for operations that apply one to their own result.
#pragma once
#include <string>

#include "core/tensor.h"
#include "kernels/gemm.h"

namespace pydlx::ops {

// "none", "relu", "gelu", "gelu_tanh", "silu", "sigmoid" or "tanh".
Activation parse_activation(const char* op, const std::string& name);
const char* activation_name(Activation activation);
Tensor activate(const Tensor& x, Activation activation);  // as an operation of its own

// Whether the output is enough to compute the gradient, and that gradient: differentiable itself if `differentiable`.
bool gradient_from_output(Activation activation);
Tensor activation_gradient(const Tensor& grad, const Tensor& output, Activation activation, bool differentiable);

}  // namespace pydlx::ops
