// Largest and smallest elements. NaN counts as the extremum; among equals the first position is returned.
#pragma once
#include <optional>
#include <utility>

#include "core/tensor.h"

namespace pydlx::ops {

// The gradient of amax, amin, aminmax and of whole-tensor max and min is shared evenly among equals.
Tensor amax(const Tensor& x, const Dims& axes, bool keepdim);
Tensor amin(const Tensor& x, const Dims& axes, bool keepdim);
std::pair<Tensor, Tensor> aminmax(const Tensor& x, std::optional<std::int64_t> axis, bool keepdim);
// Records y, the value (0-d) of one element of x: its gradient is shared evenly among all elements that equal it, among
// all NaN when it is NaN.
void record_evenly(const char* name, Tensor& y, const Tensor& x);
Tensor max_all(const Tensor& x);
Tensor min_all(const Tensor& x);
// Values and positions along one axis; the gradient goes to the chosen element.
std::pair<Tensor, Tensor> max_along(const Tensor& x, std::int64_t axis, bool keepdim);
std::pair<Tensor, Tensor> min_along(const Tensor& x, std::int64_t axis, bool keepdim);
Tensor argmax(const Tensor& x, std::optional<std::int64_t> axis,
              bool keepdim);  // no axis: position in the flattened tensor
Tensor argmin(const Tensor& x, std::optional<std::int64_t> axis, bool keepdim);

}  // namespace pydlx::ops
