// Reading and writing at computed positions. Indices are checked by the kernels; a bad one raises IndexError naming its
// value, its position and the size it must fit. Contributions to one element are always added in ascending order of the
// index.
#pragma once
#include <optional>
#include <string>

#include "core/tensor.h"

namespace pydlx::ops {

// Advanced indexing: one entry per leading axis of x, undefined for "all of it". Integer tensors broadcast together; a
// bool tensor stands for the coordinates of its true elements. Adjacent indices are replaced in place by the broadcast
// axes, separated ones move them to the front.
Tensor index(const Tensor& x, const TensorList& indices);
Tensor& index_put_(Tensor& x, const TensorList& indices, const Tensor& values, bool accumulate);
Tensor index_put(const Tensor& x, const TensorList& indices, const Tensor& values, bool accumulate);

// out[.., i, ..] = x[.., index[i], ..] along one axis; index is 1-d or 0-d.
Tensor index_select(const Tensor& x, std::int64_t dim, const Tensor& index);
// x[.., index[i], ..] += alpha source[.., i, ..]
Tensor index_add(const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source, Scalar alpha);
Tensor& index_add_(Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source, Scalar alpha);
Tensor index_copy(const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source);
Tensor& index_copy_(Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source);
Tensor index_fill(const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& value);
Tensor& index_fill_(Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& value);

// out[i, j, k] = x[i, index[i, j, k], k] for dim 1; index may be smaller than x on the other axes.
Tensor gather(const Tensor& x, std::int64_t dim, const Tensor& index);
Tensor scatter(const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source);
Tensor& scatter_(Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source);
Tensor scatter_add(const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source);
Tensor& scatter_add_(Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source);
// reduce: "sum", "prod", "mean", "amax", "amin".
Tensor scatter_reduce(const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source,
                      const std::string& reduce, bool include_self);
Tensor& scatter_reduce_(Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source,
                        const std::string& reduce, bool include_self);

Tensor take(const Tensor& x, const Tensor& index);  // x flattened, at index
Tensor take_along_dim(const Tensor& x, const Tensor& indices, std::optional<std::int64_t> dim);
Tensor& put_(Tensor& x, const Tensor& index, const Tensor& source, bool accumulate);
Tensor put(const Tensor& x, const Tensor& index, const Tensor& source, bool accumulate);
Tensor masked_select(const Tensor& x, const Tensor& mask);
Tensor masked_scatter(const Tensor& x, const Tensor& mask, const Tensor& source);
Tensor& masked_scatter_(Tensor& x, const Tensor& mask, const Tensor& source);

Tensor nonzero(const Tensor& x);  // int64 coordinates of shape (count, ndim), in row-major order
// Each element k of the flattened repeats, repeats[k] times: positions for index_select.
Tensor repeat_positions(const Tensor& repeats, std::optional<std::int64_t> output_size);

}  // namespace pydlx::ops
