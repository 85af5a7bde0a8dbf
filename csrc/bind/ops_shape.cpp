// Rows of the joining, splitting and rearranging ops.
#include "bind/memory_format.h"
#include "bind/rows.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"
#include "ops/shape.h"
#include "ops/views.h"

namespace pydlx::bind {

namespace {

Dims one(std::int64_t i) { return {i}; }
Tensor movedim_one(const Tensor& x, std::int64_t s, std::int64_t d) { return ops::movedim(x, one(s), one(d)); }
Tensor view_as(const Tensor& x, const Tensor& like) { return ops::view(x, like.sizes()); }
Tensor reshape_as(const Tensor& x, const Tensor& like) { return ops::reshape(x, like.sizes()); }
Tensor expand_as(const Tensor& x, const Tensor& like) { return ops::expand(x, like.sizes()); }
Tensor ravel(const Tensor& x) { return ops::reshape(ops::contiguous(x), {-1}); }
Tensor fliplr(const Tensor& x) {
  require(x.ndim() >= 2, "fliplr", "input", ErrorKind::Shape, "expected at least two dimensions, got shape ",
          x.sizes());
  return ops::flip(x, {1});
}
Tensor flipud(const Tensor& x) {
  require(x.ndim() >= 1, "flipud", "input", ErrorKind::Shape, "expected at least one dimension, got a 0-d tensor");
  return ops::flip(x, {0});
}
template <int N>
Tensor at_least(const Tensor& x) {
  return ops::at_least(x, N);
}
template <int N>
TensorList all_at_least(const TensorList& ts) {
  TensorList out;
  for (const Tensor& t : ts) out.push_back(ops::at_least(t, N));
  return out;
}
// hsplit and its relatives are tensor_split along a fixed axis.
template <int axis>
int split_axis(const Tensor& x, const char* op) {
  const int need = axis == 1 ? 1 : axis + 1;
  require(x.ndim() >= need, op, "input", ErrorKind::Shape, "expected at least ", need, " dimensions, got shape ",
          x.sizes());
  return axis == 1 && x.ndim() == 1 ? 0 : axis;
}
constexpr const char* kSplitNames[] = {"vsplit", "hsplit", "dsplit"};
template <int axis>
TensorList split_along(const Tensor& x, std::int64_t sections) {
  const char* op = kSplitNames[axis];
  require(axis != 0 || x.ndim() >= 2, op, "input", ErrorKind::Shape, "expected at least two dimensions, got shape ",
          x.sizes());
  const int dim = split_axis<axis>(x, op);
  require(sections > 0 && x.sizes()[dim] % sections == 0, op, "sections", ErrorKind::Value, "expected a divisor of ",
          x.sizes()[dim], ", got ", sections);
  return ops::tensor_split(x, sections, dim);
}
template <int axis>
TensorList split_along_at(const Tensor& x, const Dims& indices) {
  return ops::tensor_split_at(x, indices, split_axis<axis>(x, kSplitNames[axis]));
}
TensorList tensor_split_by(const Tensor& x, const Tensor& where, std::int64_t dim) {
  require(where.ndim() <= 1 && where.dtype() == DType::Int64, "tensor_split", "tensor_indices_or_sections",
          ErrorKind::DType, "expected a 0-d or 1-d int64 tensor, got ", where.dtype(), " of shape ", where.sizes());
  if (where.ndim() == 0) return ops::tensor_split(x, ops::item(where).to_int(), dim);
  Dims cuts;
  for (std::int64_t i = 0; i < where.numel(); ++i) cuts.push_back(ops::item(ops::select(detach(where), 0, i)).to_int());
  return ops::tensor_split_at(x, cuts, dim);
}
Tensor squeeze_all(const Tensor& x) { return ops::squeeze(x, {}); }
Tensor squeeze_some(const Tensor& x, const Dims& dims) {
  return dims.empty() ? ops::view(x, x.sizes()) : ops::squeeze(x, dims);
}
Tensor squeeze_one(const Tensor& x, std::int64_t dim) { return ops::squeeze(x, {dim}); }
Tensor& squeeze_one_(Tensor& x, std::int64_t dim) { return ops::squeeze_(x, {dim}); }
Tensor& squeeze_all_(Tensor& x) { return ops::squeeze_(x, {}); }
Tensor unflatten(const Tensor& x, std::int64_t dim, const Dims& sizes) { return ops::unflatten(x, dim, sizes); }
Tensor roll(const Tensor& x, const Dims& shifts, std::optional<Dims> dims) {
  return ops::roll(x, shifts, dims.value_or(Dims{}));
}
Tensor rot90(const Tensor& x, std::int64_t k, std::optional<Dims> dims) {
  return ops::rot90(x, k, dims.value_or(Dims{0, 1}));
}
Tensor repeat_interleave_int(const Tensor& x, std::int64_t n, std::optional<std::int64_t> dim,
                             std::optional<std::int64_t> size) {
  return ops::repeat_interleave(x, wrap_scalar(n), dim, size);
}
TensorList meshgrid(const TensorList& tensors, std::optional<std::string> indexing) {
  return ops::meshgrid(tensors, indexing.value_or("ij"));
}
Tensor& resize_as(Tensor& x, const Tensor& like) { return ops::resize_(x, like.sizes()); }
Tensor& resize(Tensor& x, const Dims& size, std::optional<MemoryFormat> format) {
  require(format != MemoryFormat::preserve, "resize_", "memory_format", ErrorKind::Runtime,
          "expected a format for the new sizes, got preserve_format");
  return ops::resize_(x, size, format.value_or(MemoryFormat::contiguous));
}

}  // namespace

void bind_shape(OpRegistry& r) {
  for (const char* signature :
       {"cat(Tensor[] tensors, int dim=0) -> Tensor", "concat(Tensor[] tensors, int dim=0) -> Tensor",
        "concatenate(Tensor[] tensors, int dim=0) -> Tensor"})
    r.add({{signature, call<&ops::cat>, kFunction | kOut, "Joins tensors along an existing axis."}});
  r.add({
      {"stack(Tensor[] tensors, int dim=0) -> Tensor", call<&ops::stack>, kFunction | kOut,
       "Joins tensors of equal shape along a new axis."},
      {"hstack(Tensor[] tensors) -> Tensor", call<&ops::hstack>, kFunction | kOut,
       "Joins along axis 1 (axis 0 for 1-d tensors)."},
      {"vstack(Tensor[] tensors) -> Tensor", call<&ops::vstack>, kFunction | kOut,
       "Joins along axis 0, 1-d tensors as rows."},
      {"row_stack(Tensor[] tensors) -> Tensor", call<&ops::vstack>, kFunction | kOut,
       "Joins along axis 0, 1-d tensors as rows."},
      {"dstack(Tensor[] tensors) -> Tensor", call<&ops::dstack>, kFunction | kOut, "Joins along axis 2."},
      {"column_stack(Tensor[] tensors) -> Tensor", call<&ops::column_stack>, kFunction | kOut,
       "Joins along axis 1, 1-d tensors as columns."},
      {"block_diag(Tensor[*] tensors) -> Tensor", call<&ops::block_diag>, kFunction,
       "Matrices along the diagonal of a larger one."},
      {"split(Tensor tensor, int split_size_or_sections, int dim=0) -> Tensor[]", call<&ops::split>, kBoth,
       "Views of the given length along an axis; the last may be shorter."},
      {"split(Tensor tensor, int[] split_size_or_sections, int dim=0) -> Tensor[]", call<&ops::split_with_sizes>, kBoth,
       "Views of the given lengths along an axis."},
      {"split(Tensor input, int split_size, int dim=0) -> Tensor[]", call<&ops::split>, kBoth},
      {"split(Tensor input, int[] split_size, int dim=0) -> Tensor[]", call<&ops::split_with_sizes>, kBoth},
      {"split_with_sizes(Tensor input, int[] split_sizes, int dim=0) -> Tensor[]", call<&ops::split_with_sizes>, kBoth,
       "Views of the given lengths along an axis."},
      {"tensor_split(Tensor input, int indices_or_sections, int dim=0) -> Tensor[]", call<&ops::tensor_split>, kBoth,
       "A number of views whose lengths differ by at most one."},
      {"tensor_split(Tensor input, int[] indices_or_sections, int dim=0) -> Tensor[]", call<&ops::tensor_split_at>,
       kBoth, "Views between the given cuts."},
      {"tensor_split(Tensor input, int sections, int dim=0) -> Tensor[]", call<&ops::tensor_split>, kBoth},
      {"tensor_split(Tensor input, int[] indices, int dim=0) -> Tensor[]", call<&ops::tensor_split_at>, kBoth},
      {"tensor_split(Tensor input, Tensor tensor_indices_or_sections, int dim=0) -> Tensor[]", call<&tensor_split_by>,
       kBoth},
      {"chunk(Tensor input, int chunks, int dim=0) -> Tensor[]", call<&ops::chunk>, kBoth,
       "At most `chunks` views of equal length, the last shorter."},
      {"unbind(Tensor input, int dim=0) -> Tensor[]", call<&ops::unbind>, kBoth, "One view per index of an axis."},
      {"vsplit(Tensor input, int indices_or_sections) -> Tensor[]", call<&split_along<0>>, kBoth,
       "tensor_split along axis 0."},
      {"vsplit(Tensor input, int[] indices_or_sections) -> Tensor[]", call<&split_along_at<0>>, kBoth},
      {"hsplit(Tensor input, int indices_or_sections) -> Tensor[]", call<&split_along<1>>, kBoth,
       "tensor_split along axis 1 (0 for 1-d tensors)."},
      {"hsplit(Tensor input, int[] indices_or_sections) -> Tensor[]", call<&split_along_at<1>>, kBoth},
      {"dsplit(Tensor input, int indices_or_sections) -> Tensor[]", call<&split_along<2>>, kBoth,
       "tensor_split along axis 2."},
      {"dsplit(Tensor input, int[] indices_or_sections) -> Tensor[]", call<&split_along_at<2>>, kBoth},
      {"unfold(Tensor input, int dimension, int size, int step) -> Tensor", call<&ops::unfold>, kMethod,
       "A view of all windows of an axis; the window becomes the last axis."},
      {"diagonal(Tensor input, int offset=0, int dim1=0, int dim2=1) -> Tensor", call<&ops::diagonal>, kBoth,
       "A view of a diagonal, as last axis."},
      {"diag(Tensor input, int diagonal=0) -> Tensor", call<&ops::diag>, kBoth | kOut,
       "Vector to diagonal matrix, matrix to its diagonal."},
      {"diag_embed(Tensor input, int offset=0, int dim1=-2, int dim2=-1) -> Tensor", call<&ops::diag_embed>, kBoth,
       "Matrices with the last axis on a diagonal."},
      {"diagflat(Tensor input, int offset=0) -> Tensor", call<&ops::diagflat>, kBoth,
       "Diagonal matrix of the flattened input."},
      {"flatten(Tensor input, int start_dim=0, int end_dim=-1) -> Tensor", call<&ops::flatten>, kBoth,
       "Merges a run of axes; a view where possible."},
      {"unflatten(Tensor input, int dim, int[] sizes) -> Tensor", call<&unflatten>, kBoth,
       "A view with one axis split in several."},
      {"ravel(Tensor input) -> Tensor", call<&ravel>, kBoth, "All elements in one axis."},
      {"t(Tensor input) -> Tensor", call<&ops::t>, kBoth, "Transpose of a matrix; vectors stay."},
      {"adjoint(Tensor input) -> Tensor", call<&ops::adjoint>, kBoth, "A view with the last two axes swapped."},
      {"view_as(Tensor input, Tensor other) -> Tensor", call<&view_as>, kMethod, "view(other.size())"},
      {"reshape_as(Tensor input, Tensor other) -> Tensor", call<&reshape_as>, kMethod, "reshape(other.size())"},
      {"expand_as(Tensor input, Tensor other) -> Tensor", call<&expand_as>, kMethod, "expand(other.size())"},
      {"broadcast_to(Tensor input, int[] size) -> Tensor", call<&ops::expand>, kBoth,
       "A view broadcast to the given shape."},
      {"broadcast_tensors(Tensor[*] tensors) -> Tensor[]", call<&ops::broadcast_tensors>, kFunction,
       "Views broadcast to their common shape."},
      {"atleast_1d(Tensor input) -> Tensor", call<&at_least<1>>, kFunction, "A view with at least one axis."},
      {"atleast_1d(Tensor[*] tensors) -> Tensor[]", call<&all_at_least<1>>, kFunction},
      {"atleast_2d(Tensor input) -> Tensor", call<&at_least<2>>, kFunction, "A view with at least two axes."},
      {"atleast_2d(Tensor[*] tensors) -> Tensor[]", call<&all_at_least<2>>, kFunction},
      {"atleast_3d(Tensor input) -> Tensor", call<&at_least<3>>, kFunction, "A view with at least three axes."},
      {"atleast_3d(Tensor[*] tensors) -> Tensor[]", call<&all_at_least<3>>, kFunction},
      {"meshgrid(Tensor[*] tensors, *, str? indexing=None) -> Tensor[]", call<&meshgrid>, kFunction,
       "Coordinate grids of 1-d tensors as broadcast views; indexing 'ij' (default) or 'xy'."},
      {"cartesian_prod(Tensor[*] tensors) -> Tensor", call<&ops::cartesian_prod>, kFunction,
       "All tuples of elements, one per row."},
      {"combinations(Tensor input, int r=2, bool with_replacement=False) -> Tensor", call<&ops::combinations>,
       kFunction, "All r-element subsets of a vector, one per row."},
      {"flip(Tensor input, int[*] dims) -> Tensor", call<&ops::flip>, kBoth, "A copy with axes reversed."},
      {"fliplr(Tensor input) -> Tensor", call<&fliplr>, kBoth, "A copy with axis 1 reversed."},
      {"flipud(Tensor input) -> Tensor", call<&flipud>, kBoth, "A copy with axis 0 reversed."},
      {"roll(Tensor input, int[] shifts, int[]? dims=None) -> Tensor", call<&roll>, kBoth,
       "A copy shifted cyclically."},
      {"rot90(Tensor input, int k=1, int[]? dims=None) -> Tensor", call<&rot90>, kBoth,
       "A copy rotated by 90 degrees k times in a plane of two axes."},
      {"repeat(Tensor input, int[*] repeats) -> Tensor", call<&ops::repeat>, kMethod,
       "Copies of the whole tensor along each axis."},
      {"tile(Tensor input, int[*] dims) -> Tensor", call<&ops::tile>, kBoth,
       "Copies of the whole tensor along the last axes."},
      {"repeat_interleave(Tensor input, int repeats, int? dim=None, *, int? output_size=None) -> Tensor",
       call<&repeat_interleave_int>, kBoth, "Each element (or slice along dim) several times in a row."},
      {"repeat_interleave(Tensor input, Tensor repeats, int? dim=None, *, int? output_size=None) -> Tensor",
       call<&ops::repeat_interleave>, kBoth, "Each element (or slice along dim) as often as its count says."},
      {"squeeze(Tensor input) -> Tensor", call<&squeeze_all>, kBoth, "A view without axes of size 1."},
      {"squeeze(Tensor input, int dim) -> Tensor", call<&squeeze_one>, kBoth},
      {"squeeze(Tensor input, int[] dim) -> Tensor", call<&squeeze_some>, kBoth,
       "A view without the given axes where their size is 1."},
      {"squeeze_(Tensor input) -> Tensor", call<&squeeze_all_>, kMethod, "squeeze in place"},
      {"squeeze_(Tensor input, int dim) -> Tensor", call<&squeeze_one_>, kMethod},
      {"squeeze_(Tensor input, int[] dim) -> Tensor", call<&ops::squeeze_>, kMethod, "squeeze in place"},
      {"unsqueeze_(Tensor input, int dim) -> Tensor", call<&ops::unsqueeze_>, kMethod, "unsqueeze in place"},
      {"transpose_(Tensor input, int dim0, int dim1) -> Tensor", call<&ops::transpose_>, kMethod, "transpose in place"},
      {"t_(Tensor input) -> Tensor", call<&ops::t_>, kMethod, "t in place"},
      {"resize_(Tensor input, int[*] size, *, object? memory_format=None) -> Tensor", call<&resize>, kMethod,
       "Changes the shape, keeping leading elements; new elements are 0."},
      {"resize_as_(Tensor input, Tensor the_template) -> Tensor", call<&resize_as>, kMethod,
       "resize_ to another tensor's shape"},
      {"swapaxes_(Tensor input, int axis0, int axis1) -> Tensor", call<&ops::transpose_>, kMethod, "swapaxes in place"},
      {"swapdims_(Tensor input, int dim0, int dim1) -> Tensor", call<&ops::transpose_>, kMethod, "swapdims in place"},
      {"slice_scatter(Tensor input, Tensor src, int dim=0, int? start=None, int? end=None, int step=1) -> Tensor",
       call<&ops::slice_scatter>, kBoth, "A copy with a slice replaced by src."},
      {"select_scatter(Tensor input, Tensor src, int dim, int index) -> Tensor", call<&ops::select_scatter>, kBoth,
       "A copy with one index of an axis replaced."},
      {"diagonal_scatter(Tensor input, Tensor src, int offset=0, int dim1=0, int dim2=1) -> Tensor",
       call<&ops::diagonal_scatter>, kBoth, "A copy with a diagonal replaced by src."},
      {"fill_diagonal_(Tensor input, Operand fill_value, bool wrap=False) -> Tensor", call<&ops::fill_diagonal_>,
       kMethod, "Sets the diagonal of a matrix; with wrap it starts again below the last column of a tall matrix."},
      {"view(Tensor input, dtype dtype) -> Tensor", call<&ops::view_dtype>, kMethod,
       "The same bytes as another dtype."},
  });
  for (const char* name : {"movedim", "moveaxis"}) {
    static std::vector<std::string> texts;  // signatures stay alive for the life of the process
    texts.reserve(8);
    texts.push_back(std::string(name) + "(Tensor input, int source, int destination) -> Tensor");
    r.add({{texts.back().c_str(), call<&movedim_one>, kBoth, "A view with an axis moved to another place."}});
    texts.push_back(std::string(name) + "(Tensor input, int[] source, int[] destination) -> Tensor");
    r.add({{texts.back().c_str(), call<&ops::movedim>, kBoth,
            "A view with axes moved to other places; the rest keep their order."}});
  }
  r.add({
      {"swapaxes(Tensor input, int axis0, int axis1) -> Tensor", call<&ops::transpose>, kBoth,
       "A view with two axes swapped."},
      {"swapdims(Tensor input, int dim0, int dim1) -> Tensor", call<&ops::transpose>, kBoth,
       "A view with two axes swapped."},
  });
}

}  // namespace pydlx::bind
