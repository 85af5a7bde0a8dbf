// Views: new geometry on the same storage. Differentiable, and in-place changes of a view reach its base (see
// set_history_inplace).
#pragma once
#include "autograd/node.h"
#include "core/tensor.h"

namespace pydlx::ops {

Tensor as_strided(const Tensor& x, const Dims& sizes, const Dims& strides, std::int64_t offset);
// x with the window replaced by src; out of place.
Tensor as_strided_scatter(const Tensor& x, const Tensor& src, const Dims& sizes, const Dims& strides,
                          std::int64_t offset);
// The history of a strided window onto `base`, for views whose base was changed in place.
Ref<Node> as_strided_node(const Tensor& base, const Dims& sizes, const Dims& strides, std::int64_t offset);

Tensor view(const Tensor& x, const Dims& sizes);     // ShapeError when the strides do not allow it
Tensor reshape(const Tensor& x, const Dims& sizes);  // a view where possible, else a copy
Tensor expand(const Tensor& x, const Dims& sizes);   // -1 keeps a size
Tensor permute(const Tensor& x, const Dims& order);
Tensor transpose(const Tensor& x, std::int64_t a, std::int64_t b);
Tensor squeeze(const Tensor& x, const Dims& axes);  // empty: all axes of size 1
Tensor unsqueeze(const Tensor& x, std::int64_t axis);
Tensor slice(const Tensor& x, std::int64_t axis, std::int64_t start, std::int64_t stop, std::int64_t step);
Tensor select(const Tensor& x, std::int64_t axis, std::int64_t index);
Tensor narrow(const Tensor& x, std::int64_t axis, std::int64_t start, std::int64_t length);

// A view given by its geometry, together with the geometry the same window has in a row-major tensor of x's sizes.
// Basic indexing, slice, select and diagonal are all of this kind; its gradient writes straight into one zeroed tensor.
struct Window {
  Dims sizes, strides, dense_strides;
  std::int64_t offset = 0, dense_offset = 0;  // `offset` is absolute in the storage
};
Tensor window(const char* name, const Tensor& x, Window w);
// Zeros of `in_sizes` with g written into the row-major window: the adjoint of `window`. The window must not overlap
// itself.
Tensor window_backward(const Tensor& g, const Dims& in_sizes, const Dims& dense_strides, std::int64_t dense_offset);

Scalar item(const Tensor& x);  // the single element, as a number

// A differentiable view: shares storage and version, remembers the tensor it views for in-place changes.
Tensor make_view(const Tensor& x, Dims sizes, Dims strides, std::int64_t offset);

template <class F>
Tensor view_op(const char* name, const Tensor& x, Dims sizes, Dims strides, std::int64_t offset, F backward) {
  Tensor v = make_view(x, std::move(sizes), std::move(strides), offset);
  if (any_requires_grad(x)) record(name, v, {&x}, std::move(backward));
  return v;
}

}  // namespace pydlx::ops
