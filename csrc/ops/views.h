// Views: new geometry on the same storage. Differentiable, and in-place changes of a view reach its base (see set_history_inplace).
#pragma once
#include "autograd/node.h"
#include "core/tensor.h"

namespace pydlx::ops {

Tensor as_strided(const Tensor& x, const Dims& sizes, const Dims& strides, std::int64_t offset);
// x with the window replaced by src; out of place.
Tensor as_strided_scatter(const Tensor& x, const Tensor& src, const Dims& sizes, const Dims& strides, std::int64_t offset);
// The history of a strided window onto `base`, for views whose base was changed in place.
Ref<Node> as_strided_node(const Tensor& base, const Dims& sizes, const Dims& strides, std::int64_t offset);

Tensor view(const Tensor& x, const Dims& sizes);     // ShapeError when the strides do not allow it
Tensor reshape(const Tensor& x, const Dims& sizes);  // a view where possible, else a copy
Tensor expand(const Tensor& x, const Dims& sizes);   // -1 keeps a size
Tensor permute(const Tensor& x, const Dims& order);
Tensor transpose(const Tensor& x, std::int64_t a, std::int64_t b);
Tensor squeeze(const Tensor& x, const Dims& axes);   // empty: all axes of size 1
Tensor unsqueeze(const Tensor& x, std::int64_t axis);
Tensor slice(const Tensor& x, std::int64_t axis, std::int64_t start, std::int64_t stop, std::int64_t step);
Tensor select(const Tensor& x, std::int64_t axis, std::int64_t index);
Tensor narrow(const Tensor& x, std::int64_t axis, std::int64_t start, std::int64_t length);

Scalar item(const Tensor& x);  // the single element, as a number

}  // namespace pydlx::ops
