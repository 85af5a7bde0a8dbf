// Layer and RMS normalisation.
#pragma once
#include <optional>
#include <utility>

#include "core/tensor.h"

namespace pydlx::ops {

// (x - mean) / sqrt(var + eps) * weight + bias over the last axes, whose sizes are `normalized_shape`; weight and bias
// may be undefined. Ba, Kiros, Hinton 2016, "Layer Normalization".
Tensor layer_norm(const Tensor& x, const Dims& normalized_shape, const Tensor& weight, const Tensor& bias, double eps);
// x / sqrt(mean(x^2) + eps) * weight over the last axes; eps defaults to the dtype's machine epsilon.
// Zhang, Sennrich 2019, "Root Mean Square Layer Normalization".
Tensor rms_norm(const Tensor& x, const Dims& normalized_shape, const Tensor& weight, std::optional<double> eps);
// (x + residual, that sum normalised) in one pass: what stands between two blocks of a residual network. The residual
// has the shape and dtype of x.
std::pair<Tensor, Tensor> add_layer_norm(const Tensor& x, const Tensor& residual, const Dims& normalized_shape,
                                         const Tensor& weight, const Tensor& bias, double eps);
std::pair<Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& residual, const Dims& normalized_shape,
                                       const Tensor& weight, std::optional<double> eps);

}  // namespace pydlx::ops
