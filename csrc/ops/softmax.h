// Softmax and its relatives along one axis. A row of nothing but -inf gives NaN, as in PyTorch.
#pragma once
#include <optional>

#include "core/tensor.h"

namespace pydlx::ops {

Tensor softmax(const Tensor& x, std::int64_t axis, std::optional<DType> dtype);      // exp(x) / sum exp(x)
Tensor log_softmax(const Tensor& x, std::int64_t axis, std::optional<DType> dtype);  // x - log sum exp(x)
Tensor softmin(const Tensor& x, std::int64_t axis, std::optional<DType> dtype);      // softmax(-x)

}  // namespace pydlx::ops
