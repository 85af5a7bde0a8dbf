// Layer normalisation.
#pragma once
#include "core/tensor.h"

namespace pydlx::ops {

// (x - mean) / sqrt(var + eps) * weight + bias over the last axes, whose sizes are `normalized_shape`; weight and bias may be undefined.
// Ba, Kiros, Hinton 2016, "Layer Normalization".
Tensor layer_norm(const Tensor& x, const Dims& normalized_shape, const Tensor& weight, const Tensor& bias, double eps);

}  // namespace pydlx::ops
