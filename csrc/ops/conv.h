// Convolutions of one to three spatial axes and their transposes.
#pragma once
#include <optional>
#include <string>

#include "core/tensor.h"

namespace pydlx::ops {

// x (N, C, spatial...) or (C, spatial...), weight (K, C / groups, kernel...), bias (K) or undefined:
// y[n, k, o] = bias[k] + sum over c, t of weight[k, c, t] x[n, c, o * stride + t * dilation - padding]. `axes` spatial
// axes.
Tensor conv(int axes, const Tensor& x, const Tensor& weight, const Tensor& bias, const Dims& stride,
            const Dims& padding, const Dims& dilation, std::int64_t groups);
// The same with padding "valid" (none) or "same" (output as large as the input; needs stride 1).
Tensor conv_named(int axes, const Tensor& x, const Tensor& weight, const Tensor& bias, const Dims& stride,
                  const std::string& padding, const Dims& dilation, std::int64_t groups);
// activation(scale[k] * sum + bias[k]) in one pass over the output; scale (K) or undefined, activation "none" or
// "relu". Any number of axes, that of the weight.
Tensor conv_activation(const Tensor& x, const Tensor& weight, const Tensor& bias, const Dims& stride,
                       const Dims& padding, const Dims& dilation, std::int64_t groups, const Tensor& scale,
                       const std::string& activation);
Tensor conv_activation_named(const Tensor& x, const Tensor& weight, const Tensor& bias, const Dims& stride,
                             const std::string& padding, const Dims& dilation, std::int64_t groups, const Tensor& scale,
                             const std::string& activation);
// The adjoint of conv: weight is (C, K / groups, kernel...), output size (n - 1) stride - 2 padding + dilation (kernel
// - 1) + output_padding + 1.
Tensor conv_transpose(int axes, const Tensor& x, const Tensor& weight, const Tensor& bias, const Dims& stride,
                      const Dims& padding, const Dims& output_padding, std::int64_t groups, const Dims& dilation);
// Either of the two; the number of axes follows from the weight.
Tensor convolution(const Tensor& x, const Tensor& weight, const Tensor& bias, const Dims& stride, const Dims& padding,
                   const Dims& dilation, bool transposed, const Dims& output_padding, std::int64_t groups);

}  // namespace pydlx::ops
