// Making tensors from sizes and numbers.
#pragma once
#include <optional>

#include "core/tensor.h"

namespace pydlx::ops {

// Integers stay exact when start, end and step are integers and the dtype is integral. ceil((end - start) / step)
// elements.
Tensor arange(Scalar start, Scalar end, Scalar step, std::optional<DType> dtype, Device device);
// `steps` values from start to end, both included; computed from both ends so that the last one is exact.
Tensor linspace(Scalar start, Scalar end, std::int64_t steps, DType dtype, Device device);
Tensor logspace(Scalar start, Scalar end, std::int64_t steps, double base, DType dtype, Device device);
Tensor eye(std::int64_t rows, std::int64_t cols, DType dtype, Device device);
// Any non-negative strides; elements that share memory are allowed.
Tensor empty_with_strides(const Dims& sizes, const Dims& strides, DType dtype, Device device);

// The lower (upper) triangle of the last two axes, other elements 0: keeps columns c - row <= diagonal (>= diagonal).
Tensor tril(const Tensor& x, std::int64_t diagonal);
Tensor triu(const Tensor& x, std::int64_t diagonal);
// Coordinates of that triangle as an int64 tensor of shape (2, count).
Tensor tril_indices(std::int64_t rows, std::int64_t cols, std::int64_t offset, DType dtype, Device device);
Tensor triu_indices(std::int64_t rows, std::int64_t cols, std::int64_t offset, DType dtype, Device device);

}  // namespace pydlx::ops
