// Joining tensors, and splitting them into views that share one node.
#include <algorithm>

#include "autograd/node.h"
#include "kernels/indexing.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"
#include "ops/shape.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

DType joined_dtype(const TensorList& tensors) {
  DType d = tensors[0].dtype();
  for (const Tensor& t : tensors) d = promote(d, t.dtype());
  return d;
}

void check_list(const char* op, const TensorList& tensors) {
  require(!tensors.empty(), op, "tensors", ErrorKind::Value, "expected at least one tensor");
  for (const Tensor& t : tensors)
    require(t.device() == tensors[0].device(), op, "tensors", ErrorKind::Device,
            "expected all tensors on one device, got ", tensors[0].device(), " and ", t.device(),
            "; move one with .to()");
}

// PyTorch's leniency: a tensor of shape (0,) joins anything and adds nothing.
bool is_blank(const Tensor& t) { return t.ndim() == 1 && t.sizes()[0] == 0; }

// Copies `parts` side by side into `out` along `dim` in one go where their rows are short; otherwise, and where the
// device has no kernel for it, false: part by part then, which shares long rows among threads.
bool joined(const Tensor& out, const TensorList& parts, int dim) {
  constexpr std::int64_t kLongest = 64 << 10, kShortest = 32;  // bytes
  const auto fn = kernels<IndexingKernels>(out.device()).join;
  if (!fn || out.numel() == 0 || !out.contiguous_layout()) return false;
  const auto size = static_cast<std::int64_t>(itemsize(out.dtype()));
  JoinedRows rows;
  rows.rows = 1;
  for (int i = 0; i < dim; ++i) rows.rows *= out.sizes()[i];
  std::vector<const void*> at;
  std::vector<std::int64_t> bytes;
  bool single = true, tiny = false;
  for (const Tensor& t : parts) {
    if (t.numel() == 0) continue;
    if (t.dtype() != out.dtype() || !t.contiguous_layout()) return false;
    at.push_back(t.data());
    bytes.push_back(t.numel() / rows.rows * size);
    if (bytes.back() > kLongest) return false;
    single &= bytes.back() == size;
    tiny |= bytes.back() < kShortest;
  }
  if (tiny && !single && rows.rows > 1) return false;
  rows.out = out.data();
  rows.part = at.data();
  rows.part_bytes = bytes.data();
  rows.parts = static_cast<std::int64_t>(at.size());
  fn(rows);
  return true;
}

}  // namespace

Tensor cat(const TensorList& tensors, std::int64_t axis) {
  const char* op = "cat";
  check_list(op, tensors);
  const Tensor* model = &tensors[0];
  for (const Tensor& t : tensors)
    if (!is_blank(t)) {
      model = &t;
      break;
    }
  require(model->ndim() > 0, op, "tensors", ErrorKind::Shape,
          "expected at least one dimension, got a 0-d tensor; use stack()");
  const int dim = wrap_axis(axis, model->ndim(), op);
  Dims sizes = model->sizes();
  sizes[dim] = 0;
  for (std::size_t k = 0; k < tensors.size(); ++k) {
    const Tensor& t = tensors[k];
    if (is_blank(t)) continue;
    bool fits = t.ndim() == model->ndim();
    for (int i = 0; fits && i < t.ndim(); ++i) fits = i == dim || t.sizes()[i] == sizes[i];
    require(fits, op, "tensors", ErrorKind::Shape, "expected sizes that agree with ", model->sizes(),
            " apart from axis ", dim, ", got ", t.sizes(), " at position ", k);
    sizes[dim] = checked_add(sizes[dim], t.sizes()[dim], op);
  }
  MemoryFormat format = format_of(*model);
  for (const Tensor& t : tensors)
    if (!is_blank(t) && format_of(t) != format) format = MemoryFormat::contiguous;
  Tensor out = empty(sizes, joined_dtype(tensors), model->device(), format);
  const bool done = joined(out, tensors, dim);
  std::int64_t at = 0;
  Dims lengths;
  std::vector<bool> blanks;
  for (const Tensor& t : tensors) {
    const bool blank = is_blank(t) && model->ndim() != 1;
    const std::int64_t n = blank ? 0 : t.sizes()[dim];
    lengths.push_back(n);
    blanks.push_back(blank);
    if (!done && t.numel() > 0) copy_raw(alias(out, t.sizes(), out.strides(), at * out.strides()[dim]), t);
    at += n;
  }
  if (!any_requires_grad(tensors) || !is_floating(out.dtype())) return out;
  std::vector<DType> dtypes;
  for (const Tensor& t : tensors) dtypes.push_back(t.dtype());
  record(op, out, tensors, [dim, lengths, dtypes, blanks](Backward& bw) {
    std::int64_t start = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      if (bw.needs(i)) {
        Tensor g = narrow(bw.grad(), dim, start, lengths[i]);
        if (blanks[i]) g = full({0}, 0, bw.grad().dtype(), bw.grad().device());
        bw.set(i, to_dtype(g, dtypes[i]));
      }
      start += lengths[i];
    }
  });
  return out;
}

Tensor stack(const TensorList& tensors, std::int64_t axis) {
  const char* op = "stack";
  check_list(op, tensors);
  const Dims& one = tensors[0].sizes();
  const int dim = wrap_axis(axis, one.ndim() + 1, op);
  for (std::size_t k = 0; k < tensors.size(); ++k)
    require(tensors[k].sizes() == one, op, "tensors", ErrorKind::Shape, "expected equal shapes, got ", one, " and ",
            tensors[k].sizes(), " at position ", k);
  Dims sizes = one;
  sizes.insert(dim, static_cast<std::int64_t>(tensors.size()));
  Tensor out = empty(sizes, joined_dtype(tensors), tensors[0].device());
  Dims strides = out.strides();
  strides.erase(dim);
  if (!joined(out, tensors, dim)) {
    std::int64_t at = 0;
    for (const Tensor& t : tensors) {
      copy_raw(alias(out, one, strides, at), t);
      at += out.strides()[dim];
    }
  }
  if (!any_requires_grad(tensors) || !is_floating(out.dtype())) return out;
  std::vector<DType> dtypes;
  for (const Tensor& t : tensors) dtypes.push_back(t.dtype());
  record(op, out, tensors, [dim, dtypes](Backward& bw) {
    for (std::size_t i = 0; i < dtypes.size(); ++i)
      if (bw.needs(i)) bw.set(i, to_dtype(select(bw.grad(), dim, static_cast<std::int64_t>(i)), dtypes[i]));
  });
  return out;
}

namespace {
TensorList raised(const TensorList& tensors, int ndim) {
  TensorList out;
  for (const Tensor& t : tensors) out.push_back(at_least(t, ndim));
  return out;
}
}  // namespace

Tensor hstack(const TensorList& tensors) {
  check_list("hstack", tensors);
  const TensorList ts = raised(tensors, 1);
  return cat(ts, ts[0].ndim() == 1 ? 0 : 1);
}
Tensor vstack(const TensorList& tensors) {
  check_list("vstack", tensors);
  return cat(raised(tensors, 2), 0);
}
Tensor dstack(const TensorList& tensors) {
  check_list("dstack", tensors);
  return cat(raised(tensors, 3), 2);
}
Tensor column_stack(const TensorList& tensors) {
  check_list("column_stack", tensors);
  TensorList columns;
  for (const Tensor& t : tensors) columns.push_back(t.ndim() <= 1 ? reshape(t, {t.numel(), 1}) : t);
  return cat(columns, 1);
}

Tensor block_diag(const TensorList& matrices) {
  if (matrices.empty()) return empty({1, 0}, default_dtype());
  check_list("block_diag", matrices);
  std::int64_t cols = 0;
  for (const Tensor& m : matrices) {
    require(m.ndim() <= 2, "block_diag", "tensors", ErrorKind::Shape, "expected at most two dimensions, got shape ",
            m.sizes());
    cols += m.ndim() == 0 ? 1 : m.sizes().back();
  }
  // Each block row is padded with zeros on both sides.
  TensorList rows;
  std::int64_t left = 0;
  const DType dtype = joined_dtype(matrices);
  for (const Tensor& m : matrices) {
    const Tensor b = at_least(m, 2);
    const std::int64_t h = b.sizes()[0], w = b.sizes()[1];
    rows.push_back(
        cat({full({h, left}, 0, dtype, m.device()), b, full({h, cols - left - w}, 0, dtype, m.device())}, 1));
    left += w;
  }
  return cat(rows, 0);
}

// ---- splitting
// -----------------------------------------------------------------------------------------------------------------------

namespace {

// Marks views that came out of one op together, and records their shared node.
template <class F>
TensorList several_views(const char* name, const Tensor& x, TensorList views, F backward) {
  if (!any_requires_grad(x)) return views;
  record_many(name, views, {&x}, std::move(backward));
  for (Tensor& v : views) v.impl()->made_without_grad = true;
  return views;
}

// Views of consecutive lengths; the caller made sure that they fit.
TensorList pieces(const char* name, const Tensor& x, int dim, const Dims& lengths) {
  TensorList views;
  views.reserve(lengths.size());
  std::int64_t start = 0;
  for (auto n : lengths) {
    Dims sizes = x.sizes();
    sizes[dim] = n;
    views.push_back(make_view(x, std::move(sizes), x.strides(), x.offset() + (n > 0 ? start * x.strides()[dim] : 0)));
    start += n;
  }
  return several_views(name, x, std::move(views), [dim, lengths, sizes = x.sizes()](Backward& bw) {
    const Tensor* any = nullptr;
    for (std::size_t i = 0; i < lengths.size(); ++i)
      if (bw.has_grad(i)) any = &bw.grad(i);
    if (!any) return;
    TensorList grads;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      Dims s = sizes;
      s[dim] = lengths[i];
      grads.push_back(bw.has_grad(i) ? bw.grad(i) : expand(full({}, 0, any->dtype(), any->device()), s));
    }
    bw.set(0, cat(grads, dim));
  });
}

int split_axis(const char* op, const Tensor& x, std::int64_t dim) {
  require(x.ndim() > 0, op, "input", ErrorKind::Shape, "expected at least one dimension, got a 0-d tensor");
  return wrap_axis(dim, x.ndim(), op);
}

}  // namespace

TensorList split(const Tensor& x, std::int64_t size, std::int64_t axis) {
  const int dim = split_axis("split", x, axis);
  const std::int64_t n = x.sizes()[dim];
  require(size > 0 || (size == 0 && n == 0), "split", "split_size_or_sections", ErrorKind::Value,
          "expected a positive size, got ", size);
  Dims lengths;
  for (std::int64_t left = n; left > 0; left -= size) lengths.push_back(std::min(size, left));
  if (lengths.empty()) lengths.push_back(0);
  return pieces("split", x, dim, lengths);
}

TensorList split_with_sizes(const Tensor& x, const Dims& lengths, std::int64_t axis) {
  const int dim = split_axis("split_with_sizes", x, axis);
  std::int64_t total = 0;
  for (auto n : lengths) {
    require(n >= 0, "split_with_sizes", "split_sizes", ErrorKind::Value, "expected non-negative sizes, got ", lengths);
    total = checked_add(total, n, "split_with_sizes");
  }
  require(total == x.sizes()[dim], "split_with_sizes", "split_sizes", ErrorKind::Value, "expected sizes that sum to ",
          x.sizes()[dim], " (axis ", dim, " of shape ", x.sizes(), "), got ", lengths);
  return pieces("split_with_sizes", x, dim, lengths);
}

TensorList tensor_split(const Tensor& x, std::int64_t sections, std::int64_t axis) {
  const int dim = split_axis("tensor_split", x, axis);
  require(sections > 0, "tensor_split", "sections", ErrorKind::Value, "expected a positive number of sections, got ",
          sections);
  const std::int64_t n = x.sizes()[dim];
  require(sections <= std::max<std::int64_t>(n, 65536), "tensor_split", "sections", ErrorKind::Value,
          "expected at most ", std::max<std::int64_t>(n, 65536), " sections for an axis of size ", n, ", got ",
          sections);
  Dims lengths;
  for (std::int64_t i = 0; i < sections; ++i) lengths.push_back(n / sections + (i < n % sections));
  return pieces("tensor_split", x, dim, lengths);
}

TensorList tensor_split_at(const Tensor& x, const Dims& indices, std::int64_t axis) {
  const int dim = split_axis("tensor_split", x, axis);
  // Cuts beyond the end or before the previous one give empty pieces, as slicing does. Pieces may overlap when cuts go
  // back.
  const std::int64_t n = x.sizes()[dim];
  TensorList out;
  std::int64_t start = 0;
  for (std::size_t i = 0; i <= indices.size(); ++i) {
    const std::int64_t end = i < indices.size() ? indices[i] : n;
    out.push_back(slice(x, dim, start, end, 1));
    start = end;
  }
  return out;
}

TensorList chunk(const Tensor& x, std::int64_t chunks, std::int64_t axis) {
  const int dim = split_axis("chunk", x, axis);
  require(chunks > 0, "chunk", "chunks", ErrorKind::Value, "expected a positive number of chunks, got ", chunks);
  const std::int64_t n = x.sizes()[dim], size = n / chunks + (n % chunks != 0);
  if (size == 0) {
    require(chunks <= 65536, "chunk", "chunks", ErrorKind::Value,
            "expected at most 65536 chunks of an axis of size 0, got ", chunks);
    return pieces("chunk", x, dim, Dims::filled(chunks, 0));
  }
  return split(x, size, dim);
}

TensorList unbind(const Tensor& x, std::int64_t axis) {
  const int dim = split_axis("unbind", x, axis);
  Dims sizes = x.sizes(), strides = x.strides();
  sizes.erase(dim);
  strides.erase(dim);
  TensorList views;
  const std::int64_t n = x.sizes()[dim];
  views.reserve(n);
  for (std::int64_t i = 0; i < n; ++i) views.push_back(make_view(x, sizes, strides, x.offset() + i * x.strides()[dim]));
  return several_views("unbind", x, std::move(views), [dim, n, sizes](Backward& bw) {
    const Tensor* any = nullptr;
    for (std::int64_t i = 0; i < n; ++i)
      if (bw.has_grad(i)) any = &bw.grad(i);
    if (!any) return;
    TensorList grads;
    for (std::int64_t i = 0; i < n; ++i)
      grads.push_back(bw.has_grad(i) ? bw.grad(i) : expand(full({}, 0, any->dtype(), any->device()), sizes));
    bw.set(0, stack(grads, dim));
  });
}

TensorList meshgrid(const TensorList& tensors, const std::string& indexing) {
  const char* op = "meshgrid";
  check_list(op, tensors);
  require(indexing == "ij" || indexing == "xy", op, "indexing", ErrorKind::Value, "expected 'ij' or 'xy', got '",
          indexing, "'");
  const bool swap = indexing == "xy" && tensors.size() >= 2;
  Dims grid;
  for (const Tensor& t : tensors) {
    require(t.ndim() <= 1, op, "tensors", ErrorKind::Shape, "expected 0-d or 1-d tensors, got shape ", t.sizes());
    require(t.dtype() == tensors[0].dtype(), op, "tensors", ErrorKind::DType, "expected equal dtypes, got ",
            tensors[0].dtype(), " and ", t.dtype());
    grid.push_back(t.numel());
  }
  TensorList out;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    Dims shape = Dims::filled(tensors.size(), 1);
    shape[i] = grid[i];
    Tensor g = expand(reshape(tensors[i], shape), grid);
    out.push_back(swap ? transpose(g, 0, 1) : g);
  }
  return out;
}

Tensor cartesian_prod(const TensorList& tensors) {
  check_list("cartesian_prod", tensors);
  for (const Tensor& t : tensors)
    require(t.ndim() == 1, "cartesian_prod", "tensors", ErrorKind::Shape, "expected 1-d tensors, got shape ",
            t.sizes());
  if (tensors.size() == 1) return tensors[0];
  TensorList columns;
  for (const Tensor& g : meshgrid(tensors, "ij")) columns.push_back(reshape(g, {-1}));
  return stack(columns, 1);
}

TensorList broadcast_tensors(const TensorList& tensors) {
  Dims sizes;
  for (const Tensor& t : tensors) sizes = broadcast_sizes("broadcast_tensors", sizes, t.sizes());
  TensorList out;
  for (const Tensor& t : tensors) out.push_back(expand(t, sizes));
  return out;
}

}  // namespace pydlx::ops
