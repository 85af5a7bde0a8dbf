// Sums, products, means, variances, norms and truth reductions. `axes` absent or empty means all; `keepdim` keeps
// reduced axes as size 1; `dtype` converts the input first. Integers and bools sum in int64. Everything that yields
// floats is differentiable to any order.
#pragma once
#include <optional>
#include <string>

#include "core/tensor.h"

namespace pydlx::ops {

using Axes = std::optional<Dims>;
using MaybeDType = std::optional<DType>;

Tensor sum(const Tensor& x, const Dims& axes, bool keepdim);
Tensor sum(const Tensor& x, const Axes& axes, bool keepdim, MaybeDType dtype);
Tensor mean(const Tensor& x, const Axes& axes, bool keepdim, MaybeDType dtype = {});
Tensor nansum(const Tensor& x, const Axes& axes, bool keepdim, MaybeDType dtype = {});
Tensor nanmean(const Tensor& x, const Axes& axes, bool keepdim, MaybeDType dtype = {});
Tensor prod(const Tensor& x, MaybeDType dtype = {});
Tensor prod(const Tensor& x, std::int64_t axis, bool keepdim, MaybeDType dtype = {});
// sum (x - mean)^2 / max(0, n - correction)
Tensor var(const Tensor& x, const Axes& axes, std::optional<Scalar> correction, bool keepdim);
Tensor std_dev(const Tensor& x, const Axes& axes, std::optional<Scalar> correction, bool keepdim);
std::pair<Tensor, Tensor> var_mean(const Tensor& x, const Axes& axes, std::optional<Scalar> correction, bool keepdim);
std::pair<Tensor, Tensor> std_mean(const Tensor& x, const Axes& axes, std::optional<Scalar> correction, bool keepdim);
// (sum |x|^p)^(1/p); p = 0 counts non-zeros, inf and -inf give the largest and smallest |x|
Tensor vector_norm(const Tensor& x, Scalar p, const Axes& axes, bool keepdim, MaybeDType dtype = {});
Tensor logsumexp(const Tensor& x, const Dims& axes, bool keepdim);
Tensor any(const Tensor& x, const Axes& axes, bool keepdim);
Tensor all(const Tensor& x, const Axes& axes, bool keepdim);
Tensor count_nonzero(const Tensor& x, const Axes& axes);

}  // namespace pydlx::ops
