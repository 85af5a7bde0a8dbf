// Sorting, selection, order statistics, unique values, searching and counting. NaN counts as larger than everything;
// equal elements keep their order. Gradients go to the elements the values came from.
#pragma once
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "core/tensor.h"

namespace pydlx::ops {

std::pair<Tensor, Tensor> sort(const Tensor& x, std::int64_t axis, bool descending, bool stable);  // values, positions
Tensor sort_values(const Tensor& x, std::int64_t axis);  // the values alone, ascending
Tensor argsort(const Tensor& x, std::int64_t axis, bool descending, bool stable);
Tensor msort(const Tensor& x);  // along the first axis
// The k largest (or smallest) elements, best first. The order is that of a stable sort, also when `sorted` is false.
std::pair<Tensor, Tensor> topk(const Tensor& x, std::int64_t k, std::int64_t axis, bool largest, bool sorted);
std::pair<Tensor, Tensor> kthvalue(const Tensor& x, std::int64_t k, std::int64_t axis, bool keepdim);  // k from 1
// The lower of two middle elements; NaN when there is one (nanmedian: among the others).
Tensor median(const Tensor& x);
std::pair<Tensor, Tensor> median_along(const Tensor& x, std::int64_t axis, bool keepdim);
Tensor nanmedian(const Tensor& x);
std::pair<Tensor, Tensor> nanmedian_along(const Tensor& x, std::int64_t axis, bool keepdim);
// The most frequent element (the smallest of several) and its last position.
std::pair<Tensor, Tensor> mode(const Tensor& x, std::int64_t axis, bool keepdim);
// interpolation: "linear", "lower", "higher", "midpoint", "nearest". q is 0-d or 1-d; a 1-d q adds a leading axis.
Tensor quantile(const Tensor& x, const Tensor& q, std::optional<std::int64_t> axis, bool keepdim,
                const std::string& interpolation);

// Sorted distinct values, where each input element is among them, and how often each occurs. With an axis: distinct
// slices along it. Without `inverse` the second result may be undefined.
std::tuple<Tensor, Tensor, Tensor> unique(const Tensor& x, std::optional<std::int64_t> axis, bool inverse, bool counts);
// Runs of equal neighbours collapsed.
std::tuple<Tensor, Tensor, Tensor> unique_consecutive(const Tensor& x, std::optional<std::int64_t> axis, bool inverse,
                                                      bool counts);

// First position in each sorted row whose element is >= the value (right: > the value).
Tensor searchsorted(const Tensor& sorted, const Tensor& values, bool out_int32, bool right,
                    const std::optional<std::string>& side, const Tensor& sorter);
Tensor bucketize(const Tensor& values, const Tensor& boundaries, bool out_int32, bool right);
Tensor bincount(const Tensor& x, const Tensor& weights, std::int64_t minlength);
Tensor histc(const Tensor& x, std::int64_t bins, Scalar low, Scalar high);

}  // namespace pydlx::ops
