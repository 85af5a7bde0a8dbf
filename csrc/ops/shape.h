// Joining, splitting and rearranging. Splitting gives views; joining copies.
#pragma once
#include <optional>
#include <string>

#include "core/memory_format.h"
#include "core/tensor.h"

namespace pydlx::ops {

// Joining.
Tensor cat(const TensorList& tensors, std::int64_t dim);
Tensor stack(const TensorList& tensors, std::int64_t dim);
Tensor hstack(const TensorList& tensors);
Tensor vstack(const TensorList& tensors);
Tensor dstack(const TensorList& tensors);
Tensor column_stack(const TensorList& tensors);
Tensor block_diag(const TensorList& matrices);

// Splitting: views that may not be changed in place while gradients are recorded (several views, one node).
TensorList split(const Tensor& x, std::int64_t size, std::int64_t dim);
TensorList split_with_sizes(const Tensor& x, const Dims& sizes, std::int64_t dim);
TensorList tensor_split(const Tensor& x, std::int64_t sections, std::int64_t dim);
TensorList tensor_split_at(const Tensor& x, const Dims& indices, std::int64_t dim);
TensorList chunk(const Tensor& x, std::int64_t chunks, std::int64_t dim);
TensorList unbind(const Tensor& x, std::int64_t dim);

// Views.
Tensor unfold(const Tensor& x, std::int64_t dim, std::int64_t size,
              std::int64_t step);  // windows; appended as last axis
Tensor diagonal(const Tensor& x, std::int64_t offset, std::int64_t dim1, std::int64_t dim2);
Tensor movedim(const Tensor& x, const Dims& source, const Dims& destination);
Tensor flatten(const Tensor& x, std::int64_t start, std::int64_t end);
Tensor unflatten(const Tensor& x, std::int64_t dim, const Dims& sizes);
Tensor t(const Tensor& x);
Tensor adjoint(const Tensor& x);
Tensor view_dtype(const Tensor& x, DType dtype);
Tensor at_least(const Tensor& x, int ndim);  // atleast_1d, atleast_2d, atleast_3d
TensorList broadcast_tensors(const TensorList& tensors);

// The same tensor object with new geometry.
Tensor& squeeze_(Tensor& x, const Dims& axes);
Tensor& unsqueeze_(Tensor& x, std::int64_t dim);
Tensor& transpose_(Tensor& x, std::int64_t a, std::int64_t b);
Tensor& t_(Tensor& x);
Tensor& resize_(Tensor& x, const Dims& sizes, MemoryFormat format = MemoryFormat::contiguous);

// Copies.
Tensor diag_embed(const Tensor& x, std::int64_t offset, std::int64_t dim1, std::int64_t dim2);
Tensor diag(const Tensor& x, std::int64_t diagonal);
// x with a slice, a select or a diagonal replaced by src.
Tensor slice_scatter(const Tensor& x, const Tensor& src, std::int64_t dim, std::optional<std::int64_t> start,
                     std::optional<std::int64_t> end, std::int64_t step);
Tensor select_scatter(const Tensor& x, const Tensor& src, std::int64_t dim, std::int64_t index);
Tensor diagonal_scatter(const Tensor& x, const Tensor& src, std::int64_t offset, std::int64_t dim1, std::int64_t dim2);
Tensor& fill_diagonal_(Tensor& x, const Tensor& value, bool wrap);
Tensor diagflat(const Tensor& x, std::int64_t offset);
Tensor flip(const Tensor& x, const Dims& axes);
Tensor roll(const Tensor& x, const Dims& shifts, const Dims& axes);
Tensor rot90(const Tensor& x, std::int64_t k, const Dims& axes);
Tensor repeat(const Tensor& x, const Dims& counts);
Tensor tile(const Tensor& x, const Dims& counts);
Tensor repeat_interleave(const Tensor& x, const Tensor& repeats, std::optional<std::int64_t> dim,
                         std::optional<std::int64_t> output_size);
TensorList meshgrid(const TensorList& tensors, const std::string& indexing);
Tensor cartesian_prod(const TensorList& tensors);
Tensor combinations(const Tensor& x, std::int64_t r, bool with_replacement);

}  // namespace pydlx::ops
