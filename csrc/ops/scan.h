// Cumulative operations along one axis.
#pragma once
#include <optional>
#include <utility>

#include "core/tensor.h"

namespace pydlx::ops {

Tensor cumsum(const Tensor& x, std::int64_t axis, std::optional<DType> dtype);  // integers in int64
Tensor cumprod(const Tensor& x, std::int64_t axis, std::optional<DType> dtype);
Tensor logcumsumexp(const Tensor& x, std::int64_t axis);  // log of cumsum(exp x)
std::pair<Tensor, Tensor> cummax(const Tensor& x,
                                 std::int64_t axis);  // values and the position each came from (the last of equals)
std::pair<Tensor, Tensor> cummin(const Tensor& x, std::int64_t axis);
Tensor diff(const Tensor& x, std::int64_t order, std::int64_t axis, const Tensor& prepend, const Tensor& append);

// Scans from the end: out[i] = sum of x[i:].
Tensor reverse_cumsum(const Tensor& x, int axis);
// Product of all other elements along the axis, right with zeros. No gradient is recorded.
Tensor product_of_others(const Tensor& x, int axis);

}  // namespace pydlx::ops
