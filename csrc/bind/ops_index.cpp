// Rows of the ops that read and write at indices.
#include "bind/rows.h"
#include "ops/elementwise.h"
#include "ops/index.h"
#include "ops/pointwise.h"
#include "ops/shape.h"
#include "ops/views.h"

namespace pydlx::bind {

namespace {

Object nonzero(const Call& c, const Tensor& x, bool as_tuple) {
  const Tensor at = ops::nonzero(as_tuple && x.ndim() == 0 ? ops::reshape(detach(x), {1}) : x);
  if (!as_tuple) return Object(wrap(at));
  return Object(to_python(c, at.sizes()[1] == 0 ? TensorList{} : ops::unbind(at, 1)));
}
PyObject* bind_nonzero(const Call& c) { return nonzero(c, parse_tensor(c, 0), parse_bool(c, 1)).release(); }
PyObject* bind_where(const Call& c) { return nonzero(c, parse_tensor(c, 0), true).release(); }
Tensor argwhere(const Tensor& x) { return ops::nonzero(x); }

// Positive numbers and single values for `value` overloads.
Tensor scatter_value(const Tensor& x, std::int64_t dim, const Tensor& index, Scalar value) {
  return ops::scatter(x, dim, index, wrap_scalar(value));
}
Tensor& scatter_value_(Tensor& x, std::int64_t dim, const Tensor& index, Scalar value) {
  return ops::scatter_(x, dim, index, wrap_scalar(value));
}

const char* legacy_reduction(const char* op, const std::string& reduce) {
  if (reduce == "add") return "sum";
  if (reduce == "multiply") return "prod";
  fail(op, "reduce", ErrorKind::Value, "expected 'add' or 'multiply', got '", reduce, "'; scatter_reduce has more");
}
Tensor scatter_with(const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& src,
                    const std::string& reduce) {
  return ops::scatter_reduce(x, dim, index, src, legacy_reduction("scatter", reduce), true);
}
Tensor& scatter_with_(Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& src, const std::string& reduce) {
  return ops::scatter_reduce_(x, dim, index, src, legacy_reduction("scatter_", reduce), true);
}
Tensor scatter_value_with(const Tensor& x, std::int64_t dim, const Tensor& index, Scalar value,
                          const std::string& reduce) {
  return scatter_with(x, dim, index, wrap_scalar(value), reduce);
}
Tensor& scatter_value_with_(Tensor& x, std::int64_t dim, const Tensor& index, Scalar value, const std::string& reduce) {
  return scatter_with_(x, dim, index, wrap_scalar(value), reduce);
}
Tensor gather(const Tensor& x, std::int64_t dim, const Tensor& index, bool) { return ops::gather(x, dim, index); }
Tensor repeat_interleave_counts(const Tensor& repeats, std::optional<std::int64_t> output_size) {
  return ops::repeat_positions(repeats, output_size);
}

}  // namespace

void bind_index(OpRegistry& r) {
  r.add({
      {"index_put(Tensor input, Tensor[] indices, Tensor values, bool accumulate=False) -> Tensor",
       call<&ops::index_put>, kBoth, "A copy with values written (or added) at the indices."},
      {"index_put_(Tensor input, Tensor[] indices, Tensor values, bool accumulate=False) -> Tensor",
       call<&ops::index_put_>, kBoth, "input[indices] = values"},
      {"index_select(Tensor input, int dim, Tensor index) -> Tensor", call<&ops::index_select>, kBoth | kOut,
       "Slices along dim at the given positions."},
      {"index_add(Tensor input, int dim, Tensor index, Tensor source, *, Number alpha=1) -> Tensor",
       call<&ops::index_add>, kBoth | kOut, "input with alpha * source added to slices, in order."},
      {"index_add_(Tensor input, int dim, Tensor index, Tensor source, *, Number alpha=1) -> Tensor",
       call<&ops::index_add_>, kMethod, "index_add in place"},
      {"index_copy(Tensor input, int dim, Tensor index, Tensor source) -> Tensor", call<&ops::index_copy>, kBoth | kOut,
       "input with slices replaced."},
      {"index_copy_(Tensor input, int dim, Tensor index, Tensor source) -> Tensor", call<&ops::index_copy_>, kMethod,
       "index_copy in place"},
      {"index_fill(Tensor input, int dim, Tensor index, Operand value) -> Tensor", call<&ops::index_fill>, kBoth,
       "input with slices set to a value."},
      {"index_fill_(Tensor input, int dim, Tensor index, Operand value) -> Tensor", call<&ops::index_fill_>, kMethod,
       "index_fill in place"},
      {"gather(Tensor input, int dim, Tensor index, *, bool sparse_grad=False) -> Tensor", call<&gather>, kBoth | kOut,
       "out[i, j] = input[i, index[i, j]] for dim 1; index has the result's shape."},
      {"scatter(Tensor input, int dim, Tensor index, Tensor src) -> Tensor", call<&ops::scatter>, kBoth | kOut,
       "A copy with out[i, index[i, j]] = src[i, j] for dim 1; the last of several writes stays."},
      {"scatter(Tensor input, int dim, Tensor index, Number value) -> Tensor", call<&scatter_value>, kBoth | kOut},
      {"scatter(Tensor input, int dim, Tensor index, Tensor src, *, str reduce) -> Tensor", call<&scatter_with>,
       kBoth | kOut},
      {"scatter(Tensor input, int dim, Tensor index, Number value, *, str reduce) -> Tensor", call<&scatter_value_with>,
       kBoth | kOut},
      {"scatter_(Tensor input, int dim, Tensor index, Tensor src) -> Tensor", call<&ops::scatter_>, kMethod,
       "scatter in place"},
      {"scatter_(Tensor input, int dim, Tensor index, Number value) -> Tensor", call<&scatter_value_>, kMethod},
      {"scatter_(Tensor input, int dim, Tensor index, Tensor src, *, str reduce) -> Tensor", call<&scatter_with_>,
       kMethod},
      {"scatter_(Tensor input, int dim, Tensor index, Number value, *, str reduce) -> Tensor",
       call<&scatter_value_with_>, kMethod},
      {"scatter_add(Tensor input, int dim, Tensor index, Tensor src) -> Tensor", call<&ops::scatter_add>, kBoth | kOut,
       "A copy with out[i, index[i, j]] += src[i, j] for dim 1, in order of j."},
      {"scatter_add_(Tensor input, int dim, Tensor index, Tensor src) -> Tensor", call<&ops::scatter_add_>, kMethod,
       "scatter_add in place"},
      {"scatter_reduce(Tensor input, int dim, Tensor index, Tensor src, str reduce, *, bool include_self=True) -> "
       "Tensor",
       call<&ops::scatter_reduce>, kBoth | kOut,
       "Combines src into a copy with 'sum', 'prod', 'mean', 'amax' or 'amin'."},
      {"scatter_reduce_(Tensor input, int dim, Tensor index, Tensor src, str reduce, *, bool include_self=True) -> "
       "Tensor",
       call<&ops::scatter_reduce_>, kMethod, "scatter_reduce in place"},
      {"take(Tensor input, Tensor index) -> Tensor", call<&ops::take>, kBoth | kOut,
       "Elements of the flattened input."},
      {"take_along_dim(Tensor input, Tensor indices, int? dim=None) -> Tensor", call<&ops::take_along_dim>,
       kBoth | kOut, "gather with broadcasting; dim None flattens."},
      {"put(Tensor input, Tensor index, Tensor source, bool accumulate=False) -> Tensor", call<&ops::put>, kFunction,
       "A copy with elements of the flattened input written."},
      {"put(Tensor input, Tensor index, Tensor source, bool accumulate=False) -> Tensor", call<&ops::put>, kMethod},
      {"put_(Tensor input, Tensor index, Tensor source, bool accumulate=False) -> Tensor", call<&ops::put_>, kMethod,
       "put in place"},
      {"masked_select(Tensor input, Tensor mask) -> Tensor", call<&ops::masked_select>, kBoth | kOut,
       "Elements where the mask is true, as a vector."},
      {"masked_scatter(Tensor input, Tensor mask, Tensor source) -> Tensor", call<&ops::masked_scatter>, kBoth,
       "A copy with the first elements of source at the true positions, in order."},
      {"masked_scatter_(Tensor input, Tensor mask, Tensor source) -> Tensor", call<&ops::masked_scatter_>, kMethod,
       "masked_scatter in place"},
      {"nonzero(Tensor input, *, bool as_tuple=False) -> Tensor", bind_nonzero, kBoth,
       "Coordinates of nonzero elements, one per row; as a tuple of one vector per axis with as_tuple."},
      {"argwhere(Tensor input) -> Tensor", call<&argwhere>, kBoth, "Coordinates of nonzero elements, one per row."},
      {"where(Tensor condition) -> Tensor[]", bind_where, kFunction, "nonzero(condition, as_tuple=True)"},
      {"repeat_interleave(Tensor repeats, *, int? output_size=None) -> Tensor", call<&repeat_interleave_counts>,
       kFunction, "Each position k, repeats[k] times."},
  });
}

}  // namespace pydlx::bind
