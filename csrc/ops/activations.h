// Activation functions, with PyTorch's names and defaults. Their gradients run as one fused kernel; when the gradient
// itself is to be differentiated, the same formula is composed from differentiable ops.
#pragma once
#include <string>

#include "core/tensor.h"

namespace pydlx::ops {

Tensor leaky_relu(const Tensor& x, double negative_slope);
Tensor elu(const Tensor& x, double alpha, double scale, double input_scale);
Tensor selu(const Tensor& x);
Tensor celu(const Tensor& x, double alpha);
Tensor gelu(const Tensor& x, const std::string& approximate);  // "none" or "tanh"
Tensor silu(const Tensor& x);
Tensor mish(const Tensor& x);
Tensor softplus(const Tensor& x, double beta, double threshold);
Tensor softsign(const Tensor& x);
Tensor relu6(const Tensor& x);
Tensor hardtanh(const Tensor& x, double min_val, double max_val);
Tensor hardsigmoid(const Tensor& x);
Tensor hardswish(const Tensor& x);
Tensor log_sigmoid(const Tensor& x);
Tensor threshold(const Tensor& x, double threshold, double value);
Tensor hardshrink(const Tensor& x, double lambd);
Tensor softshrink(const Tensor& x, double lambd);
Tensor tanhshrink(const Tensor& x);
Tensor prelu(const Tensor& x, const Tensor& weight);        // one slope, or one per channel (axis 1)
Tensor rrelu(const Tensor& x, double lower, double upper);  // evaluation: the mean slope
Tensor glu(const Tensor& x, std::int64_t dim);

}  // namespace pydlx::ops
