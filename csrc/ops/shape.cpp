// Rearranging axes and elements.
#include "ops/shape.h"

#include <algorithm>
#include <limits>

#include "autograd/node.h"
#include "core/in_flight.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/index.h"
#include "ops/pointwise.h"
#include "ops/views.h"

namespace pydlx::ops {

// ---- views
// ---------------------------------------------------------------------------------------------------------------------------

namespace {

// Adjoint of unfold: each window's gradient is added where the window was. `step` neighbours inside the windows never
// meet those of another window: they are added for all windows at once, or else one window at a time.
Tensor unfold_backward(const Tensor& g, const Dims& sizes, int dim, std::int64_t size, std::int64_t step) {
  Tensor out = full(sizes, 0, g.dtype(), g.device());
  const int last = g.ndim() - 1;
  const std::int64_t windows = sizes.empty() ? 1 : g.sizes()[dim];
  const Tensor d = detach(g);
  {
    const GradModeGuard off(false);
    if (sizes.empty()) {
      if (size > 0) add_(out, select(d, 0, 0));
    } else if ((size - 1) / step < windows) {
      for (std::int64_t j = 0; j < size; j += step) {
        const std::int64_t width = std::min(step, size - j);
        Dims s = sizes, strides = out.strides();
        s[dim] = windows;
        s.push_back(width);
        strides.push_back(strides[dim]);
        strides[dim] *= windows > 1 ? step : 1;
        Tensor target = alias(out, s, strides, j * out.strides()[dim]);
        const Tensor part = narrow(d, last, j, width);
        j == 0 ? copy_raw(target, part) : static_cast<void>(add_(target, part));
      }
    } else {
      for (std::int64_t j = 0; j < windows; ++j) {
        Dims s = sizes;
        s[dim] = size;
        Tensor target = alias(out, s, out.strides(), j * step * out.strides()[dim]);
        add_(target, movedim(select(d, dim, j), {last - 1}, {dim}));
      }
    }
  }
  if (any_requires_grad(g))
    record("unfold_backward", out, {&g},
           [dim, size, step](Backward& bw) { bw.set(0, unfold(bw.grad(), dim, size, step)); });
  return out;
}

}  // namespace

Tensor unfold(const Tensor& x, std::int64_t axis, std::int64_t size, std::int64_t step) {
  const char* op = "unfold";
  const int dim = wrap_axis(axis, x.ndim(), op, "dimension");
  const std::int64_t n = x.ndim() == 0 ? 1 : x.sizes()[dim];
  require(step > 0, op, "step", ErrorKind::Value, "expected a positive step, got ", step);
  require(size >= 0 && size <= n, op, "size", ErrorKind::Value, "expected a window size in [0, ", n, "], got ", size);
  require(x.ndim() < kMaxDims, op, "input", ErrorKind::Shape, "expected fewer than ", kMaxDims, " dimensions");
  Dims sizes = x.sizes(), strides = x.strides();
  const std::int64_t window_stride = x.ndim() == 0 ? 1 : strides[dim];
  if (x.ndim() > 0) {
    sizes[dim] = (n - size) / step + 1;
    strides[dim] = sizes[dim] > 1 ? strides[dim] * step : strides[dim];
  }
  sizes.push_back(size);
  strides.push_back(window_stride);
  return view_op(op, x, sizes, strides, x.offset(), [is = x.sizes(), dim, size, step](Backward& bw) {
    bw.set(0, unfold_backward(bw.grad(), is, dim, size, step));
  });
}

Tensor diagonal(const Tensor& x, std::int64_t offset, std::int64_t dim1, std::int64_t dim2) {
  const char* op = "diagonal";
  require(x.ndim() >= 2, op, "input", ErrorKind::Shape, "expected at least two dimensions, got shape ", x.sizes());
  const int a = wrap_axis(dim1, x.ndim(), op, "dim1"), b = wrap_axis(dim2, x.ndim(), op, "dim2");
  require(a != b, op, "dim2", ErrorKind::Value, "expected two different axes, got ", dim1, " and ", dim2);
  const std::int64_t rows = x.sizes()[a], cols = x.sizes()[b];
  offset = std::clamp(offset, -rows, cols);
  const std::int64_t n =
      std::max<std::int64_t>(offset >= 0 ? std::min(rows, cols - offset) : std::min(rows + offset, cols), 0);
  const Dims dense = contiguous_strides(x.sizes());
  Window w;
  w.offset = x.offset();
  if (n > 0) {
    w.dense_offset = offset >= 0 ? offset * dense[b] : -offset * dense[a];
    w.offset += offset >= 0 ? offset * x.strides()[b] : -offset * x.strides()[a];
  }
  for (int i = 0; i < x.ndim(); ++i) {
    if (i == a || i == b) continue;
    w.sizes.push_back(x.sizes()[i]);
    w.strides.push_back(x.strides()[i]);
    w.dense_strides.push_back(dense[i]);
  }
  w.sizes.push_back(n);
  w.strides.push_back(x.strides()[a] + x.strides()[b]);
  w.dense_strides.push_back(dense[a] + dense[b]);
  return window(op, x, std::move(w));
}

Tensor movedim(const Tensor& x, const Dims& source, const Dims& destination) {
  const char* op = "movedim";
  require(source.size() == destination.size(), op, "destination", ErrorKind::Value,
          "expected as many axes as in source ", source, ", got ", destination);
  Dims order = Dims::filled(x.sizes().size(), -1);
  std::vector<bool> moved(x.ndim() + 1);
  for (std::size_t i = 0; i < source.size(); ++i) {
    const int s = wrap_axis(source[i], x.ndim(), op, "source"),
              d = wrap_axis(destination[i], x.ndim(), op, "destination");
    if (x.ndim() == 0) continue;
    require(!moved[s], op, "source", ErrorKind::Value, "axis ", s, " appears more than once in ", source);
    require(order[d] < 0, op, "destination", ErrorKind::Value, "axis ", d, " appears more than once in ", destination);
    moved[s] = true;
    order[d] = s;
  }
  int next = 0;
  for (auto& o : order) {
    if (o >= 0) continue;
    while (moved[next]) ++next;
    o = next++;
  }
  return permute(x, order);
}

Tensor flatten(const Tensor& x, std::int64_t start, std::int64_t end) {
  const int a = wrap_axis(start, x.ndim(), "flatten", "start_dim"), b = wrap_axis(end, x.ndim(), "flatten", "end_dim");
  require(a <= b, "flatten", "end_dim", ErrorKind::Value, "expected an axis not before start_dim ", a, ", got ", b);
  if (x.ndim() == 0) return reshape(x, {1});
  if (a == b) return x;
  Dims sizes;
  std::int64_t n = 1;
  for (int i = 0; i < x.ndim(); ++i) {
    if (i >= a && i <= b)
      n *= x.sizes()[i];
    else
      sizes.push_back(x.sizes()[i]);
  }
  sizes.insert(a, n);
  return reshape(x, sizes);
}

Tensor unflatten(const Tensor& x, std::int64_t axis, const Dims& wanted) {
  const char* op = "unflatten";
  require(x.ndim() > 0, op, "input", ErrorKind::Shape, "expected at least one dimension, got a 0-d tensor");
  const int dim = wrap_axis(axis, x.ndim(), op);
  require(!wanted.empty(), op, "sizes", ErrorKind::Shape, "expected at least one size");
  std::int64_t known = 1;
  int unknown = -1;
  for (int i = 0; i < wanted.ndim(); ++i) {
    if (wanted[i] == -1 && unknown < 0)
      unknown = i;
    else
      known = checked_mul(known, wanted[i], op);
  }
  const std::int64_t n = x.sizes()[dim];
  Dims inner = wanted;
  if (unknown >= 0 && known > 0 && n % known == 0) inner[unknown] = n / known, known = n;
  require(known == n && std::all_of(inner.begin(), inner.end(), [](auto s) { return s >= 0; }), op, "sizes",
          ErrorKind::Shape, "expected sizes that multiply to ", n, " (axis ", dim, " of shape ", x.sizes(), "), got ",
          wanted);
  Dims sizes = x.sizes();
  sizes.erase(dim);
  for (int i = 0; i < inner.ndim(); ++i) sizes.insert(dim + i, inner[i]);
  // Splitting an axis is always possible without a copy.
  return view(x, sizes);
}

Tensor t(const Tensor& x) {
  require(x.ndim() <= 2, "t", "input", ErrorKind::Shape, "expected at most two dimensions, got shape ", x.sizes(),
          "; use transpose()");
  return x.ndim() < 2 ? view(x, x.sizes()) : transpose(x, 0, 1);
}

Tensor adjoint(const Tensor& x) {
  require(x.ndim() >= 2, "adjoint", "input", ErrorKind::Shape, "expected at least two dimensions, got shape ",
          x.sizes());
  return transpose(x, -2, -1);
}

Tensor view_dtype(const Tensor& x, DType dtype) {
  const char* op = "view";
  const auto from = static_cast<std::int64_t>(itemsize(x.dtype())), to = static_cast<std::int64_t>(itemsize(dtype));
  Dims sizes = x.sizes(), strides = x.strides();
  std::int64_t offset = x.offset();
  if (from != to) {
    require(x.ndim() > 0, op, "dtype", ErrorKind::Shape, "expected a dtype of ", from, " bytes for a 0-d tensor, got ",
            dtype);
    require(strides.back() == 1 || sizes.back() <= 1, op, "dtype", ErrorKind::Shape,
            "expected a last axis with stride 1, got strides ", strides, "; use contiguous()");
    if (from > to) {
      const std::int64_t k = from / to;
      for (auto& s : strides) s *= k;
      offset *= k;
      sizes.back() *= k;
    } else {
      const std::int64_t k = to / from;
      bool fits = sizes.back() % k == 0 && offset % k == 0;
      for (int i = 0; i + 1 < x.ndim(); ++i) fits = fits && (strides[i] % k == 0 || sizes[i] <= 1);
      require(fits, op, "dtype", ErrorKind::Shape, "expected a last axis, strides and offset divisible by ", k,
              " to view ", x.dtype(), " as ", dtype, ", got shape ", sizes, " with strides ", strides);
      for (auto& s : strides) s /= k;
      offset /= k;
      sizes.back() /= k;
    }
    strides.back() = 1;
  }
  require(reinterpret_cast<std::uintptr_t>(x.impl()->storage->data) % static_cast<std::uintptr_t>(to) == 0, op, "dtype",
          ErrorKind::Value, "expected memory aligned to the ", to, " bytes of ", dtype, "; use clone() first");
  Tensor v = alias(x, x.sizes(), x.strides(), 0);
  v.impl()->dtype = dtype;
  v.impl()->offset = offset;
  v.impl()->set_geometry(std::move(sizes), std::move(strides));
  return v;
}

Tensor at_least(const Tensor& x, int ndim) {
  if (x.ndim() >= ndim) return x;
  if (x.ndim() == 0) return reshape(x, Dims::filled(ndim, 1));
  if (ndim == 2) return unsqueeze(x, 0);
  return x.ndim() == 1 ? unsqueeze(unsqueeze(x, 0), -1) : unsqueeze(x, -1);
}

// ---- the same tensor with new geometry
// -----------------------------------------------------------------------------------------------

namespace {
// Gives x the geometry and the history of a view of it.
Tensor& become(const char* op, Tensor& x, const Tensor& view) {
  require(!(any_requires_grad(x) && is_leaf(x)), op, "input", ErrorKind::Gradient,
          "a leaf tensor that requires grad is being changed in place; use the out-of-place form");
  require(GradMode::enabled() || is_leaf(x), op, "input", ErrorKind::Gradient,
          "the result of a recorded operation cannot change its shape in no_grad mode; use the out-of-place form");
  TensorImpl& impl = *x.impl();
  const Alone alone(op);
  impl.offset = view.offset();
  impl.set_geometry(view.sizes(), view.strides());
  if (any_requires_grad(x)) set_history(x, view.impl()->meta->grad_fn, view.impl()->meta->output_nr);
  return x;
}
}  // namespace

Tensor& squeeze_(Tensor& x, const Dims& axes) { return become("squeeze_", x, squeeze(x, axes)); }
Tensor& unsqueeze_(Tensor& x, std::int64_t dim) { return become("unsqueeze_", x, unsqueeze(x, dim)); }
Tensor& transpose_(Tensor& x, std::int64_t a, std::int64_t b) { return become("transpose_", x, transpose(x, a, b)); }
Tensor& t_(Tensor& x) { return become("t_", x, t(x)); }

Tensor& resize_(Tensor& x, const Dims& sizes, MemoryFormat format) {
  const char* op = "resize_";
  require(!x.requires_grad(), op, "input", ErrorKind::Gradient,
          "expected a tensor without gradient; use reshape() or detach() first");
  const std::int64_t n = checked_numel(sizes, op);
  format_strides(sizes, format, op);  // checks the number of axes before anything changes
  const Alone alone(op);
  const std::int64_t bytes =
      checked_mul(checked_add(n, x.offset(), op), static_cast<std::int64_t>(itemsize(x.dtype())), op);
  TensorImpl& impl = *x.impl();
  if (static_cast<std::size_t>(bytes) > impl.storage->nbytes) {
    // The old elements keep their places, the new ones are zero.
    Tensor grown = full({n}, 0, x.dtype(), x.device());
    const std::int64_t have = static_cast<std::int64_t>(impl.storage->nbytes / itemsize(x.dtype())) - x.offset();
    if (have > 0) copy_raw(alias(grown, {have}, {1}, 0), alias(x, {have}, {1}, x.offset()));
    impl.storage = grown.impl()->storage;
    impl.offset = 0;
    impl.base = nullptr;
  }
  impl.set_geometry(sizes, format_strides(sizes, format, op));
  return x;
}

// ---- copies
// --------------------------------------------------------------------------------------------------------------------------

Tensor diag_embed(const Tensor& x, std::int64_t offset, std::int64_t dim1, std::int64_t dim2) {
  const char* op = "diag_embed";
  require(x.ndim() >= 1, op, "input", ErrorKind::Shape, "expected at least one dimension, got a 0-d tensor");
  const int a = wrap_axis(dim1, x.ndim() + 1, op, "dim1"), b = wrap_axis(dim2, x.ndim() + 1, op, "dim2");
  require(a != b, op, "dim2", ErrorKind::Value, "expected two different axes, got ", dim1, " and ", dim2);
  require(offset > -(std::int64_t{1} << 40) && offset < (std::int64_t{1} << 40), op, "offset", ErrorKind::Value,
          "expected an offset within 2^40, got ", offset);
  const std::int64_t n = x.sizes().back() + std::abs(offset);
  Dims sizes = x.sizes();
  sizes.resize(sizes.size() - 1);
  sizes.insert(std::min(a, b), n);
  sizes.insert(std::max(a, b), n);
  Tensor out = full(sizes, 0, x.dtype(), x.device());
  if (x.numel() > 0) copy_raw(detach(diagonal(out, offset, a, b)), x);
  if (any_requires_grad(x))
    record(op, out, {&x}, [offset, a, b](Backward& bw) { bw.set(0, diagonal(bw.grad(), offset, a, b)); });
  return out;
}

Tensor diag(const Tensor& x, std::int64_t k) {
  require(x.ndim() == 1 || x.ndim() == 2, "diag", "input", ErrorKind::Shape,
          "expected one or two dimensions, got shape ", x.sizes());
  return x.ndim() == 1 ? diag_embed(x, k, 0, 1) : clone(diagonal(x, k, 0, 1));
}

namespace {
// A copy of x in which the view `of` makes is overwritten.
template <class F>
Tensor replaced(const char* op, const Tensor& x, const Tensor& src, F of) {
  Tensor out = clone(x);
  Tensor part = of(out);
  require(src.sizes() == part.sizes(), op, "src", ErrorKind::Shape, "expected shape ", part.sizes(), ", got ",
          src.sizes());
  copy_(part, src);
  return out;
}
}  // namespace

Tensor slice_scatter(const Tensor& x, const Tensor& src, std::int64_t dim, std::optional<std::int64_t> start,
                     std::optional<std::int64_t> end, std::int64_t step) {
  return replaced("slice_scatter", x, src, [&](const Tensor& t) {
    return slice(t, dim, start.value_or(0), end.value_or(std::numeric_limits<std::int64_t>::max()), step);
  });
}
Tensor select_scatter(const Tensor& x, const Tensor& src, std::int64_t dim, std::int64_t index) {
  return replaced("select_scatter", x, src, [&](const Tensor& t) { return select(t, dim, index); });
}
Tensor diagonal_scatter(const Tensor& x, const Tensor& src, std::int64_t offset, std::int64_t dim1, std::int64_t dim2) {
  return replaced("diagonal_scatter", x, src, [&](const Tensor& t) { return diagonal(t, offset, dim1, dim2); });
}

// A wrapped diagonal of a tall matrix starts again one row after it reached the last column.
Tensor& fill_diagonal_(Tensor& x, const Tensor& value, bool wrap) {
  require(x.ndim() == 2, "fill_diagonal_", "input", ErrorKind::Shape, "expected a matrix, got shape ", x.sizes());
  const std::int64_t rows = x.size(0), columns = x.size(1);
  require_number_fits("fill_diagonal_", "fill_value", value, x.dtype());
  std::int64_t row = 0;
  do {
    Tensor d = diagonal(narrow(x, 0, row, std::min(columns, rows - row)), 0, 0, 1);
    copy_(d, value);
    row += columns + 1;
  } while (wrap && row < rows);
  return x;
}

Tensor diagflat(const Tensor& x, std::int64_t offset) { return diag_embed(reshape(x, {-1}), offset, 0, 1); }

Tensor flip(const Tensor& x, const Dims& wanted) {
  Dims axes, strides = x.strides();
  std::int64_t offset = x.offset();
  for (auto d : wanted) {
    const int a = wrap_axis(d, x.ndim(), "flip", "dims");
    require(std::find(axes.begin(), axes.end(), a) == axes.end(), "flip", "dims", ErrorKind::Value, "axis ", a,
            " appears more than once in ", wanted);
    axes.push_back(a);
    if (x.ndim() == 0 || x.numel() == 0) continue;
    offset += (x.sizes()[a] - 1) * strides[a];
    strides[a] = -strides[a];
  }
  Tensor out = empty_like(x);
  copy_raw(out, alias(x, x.sizes(), strides, offset));  // read backwards
  if (any_requires_grad(x)) record("flip", out, {&x}, [axes](Backward& bw) { bw.set(0, flip(bw.grad(), axes)); });
  return out;
}

namespace {

// The last `shift` elements of an axis before the others, 0 < shift < size. The gradient rolls back.
Tensor roll_axis(const Tensor& x, int axis, std::int64_t shift) {
  const std::int64_t rest = x.size(axis) - shift;
  Tensor r;
  {
    const GradModeGuard off(false);
    r = cat({narrow(x, axis, rest, shift), narrow(x, axis, 0, rest)}, axis);
  }
  if (any_requires_grad(x))
    record("roll", r, {&x}, [axis, rest](Backward& bw) { bw.set(0, roll_axis(bw.grad(), axis, rest)); });
  return r;
}

}  // namespace

Tensor roll(const Tensor& x, const Dims& shifts, const Dims& axes) {
  const char* op = "roll";
  if (axes.empty()) {
    require(shifts.size() == 1, op, "shifts", ErrorKind::Value, "expected one shift when dims is not given, got ",
            shifts);
    return reshape(roll(reshape(x, {-1}), shifts, {0}), x.sizes());
  }
  require(shifts.size() == axes.size(), op, "shifts", ErrorKind::Value, "expected one shift per axis, got ", shifts,
          " for ", axes);
  Tensor r = x;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const int a = wrap_axis(axes[i], x.ndim(), op, "dims");
    const std::int64_t n = x.ndim() == 0 ? 0 : r.sizes()[a];
    if (n == 0) continue;
    const std::int64_t shift = (shifts[i] % n + n) % n;
    if (shift != 0) r = roll_axis(r, a, shift);
  }
  return r.is_same(x) ? clone(x) : r;
}

Tensor rot90(const Tensor& x, std::int64_t k, const Dims& dims) {
  const char* op = "rot90";
  require(dims.size() == 2, op, "dims", ErrorKind::Value, "expected two axes, got ", dims);
  require(x.ndim() >= 2, op, "input", ErrorKind::Shape, "expected at least two dimensions, got shape ", x.sizes());
  const int a = wrap_axis(dims[0], x.ndim(), op, "dims"), b = wrap_axis(dims[1], x.ndim(), op, "dims");
  require(a != b, op, "dims", ErrorKind::Value, "expected two different axes, got ", dims);
  switch ((k % 4 + 4) % 4) {
    case 1:
      return transpose(flip(x, {b}), a, b);
    case 2:
      return flip(x, {a, b});
    case 3:
      return transpose(flip(x, {a}), a, b);
    default:
      return clone(x);
  }
}

Tensor repeat(const Tensor& x, const Dims& counts) {
  const char* op = "repeat";
  require(counts.ndim() >= x.ndim(), op, "repeats", ErrorKind::Shape, "expected at least ", x.ndim(), " counts, got ",
          counts);
  require(2 * counts.ndim() <= kMaxDims, op, "repeats", ErrorKind::Shape, "expected at most ", kMaxDims / 2,
          " counts, got ", counts);
  const int lead = counts.ndim() - x.ndim();
  Dims split, spread, result;
  for (int i = 0; i < counts.ndim(); ++i) {
    require(counts[i] >= 0, op, "repeats", ErrorKind::Value, "expected non-negative counts, got ", counts);
    const std::int64_t n = i < lead ? 1 : x.sizes()[i - lead];
    split.push_back(1);
    split.push_back(n);
    spread.push_back(counts[i]);
    spread.push_back(n);
    result.push_back(checked_mul(counts[i], n, op));
  }
  return reshape(contiguous(clone(expand(reshape(x, split), spread))), result);
}

Tensor tile(const Tensor& x, const Dims& counts) {
  Dims c = counts;
  while (c.ndim() < x.ndim()) c.insert(0, 1);
  return repeat(x, c);
}

Tensor repeat_interleave(const Tensor& x, const Tensor& repeats, std::optional<std::int64_t> axis,
                         std::optional<std::int64_t> output_size) {
  const char* op = "repeat_interleave";
  const Tensor source = axis && x.ndim() > 0 ? x : reshape(x, {-1});
  const int dim = axis ? wrap_axis(*axis, source.ndim(), op) : 0;
  if (repeats.numel() == 1) {  // one count for all: a broadcast copy
    require(is_integral(repeats.dtype()), op, "repeats", ErrorKind::DType, "expected an integer, got ",
            repeats.dtype());
    const std::int64_t n = item(reshape(repeats, {})).to_int();
    require(n >= 0, op, "repeats", ErrorKind::Value, "expected a non-negative count, got ", n);
    Dims spread = source.sizes(), result = source.sizes();
    spread.insert(dim + 1, n);
    result[dim] = checked_mul(result[dim], n, op);
    return reshape(contiguous(clone(expand(unsqueeze(source, dim + 1), spread))), result);
  }
  require(repeats.ndim() == 1 && repeats.numel() == source.sizes()[dim], op, "repeats", ErrorKind::Shape,
          "expected one count or ", source.sizes()[dim], " (axis ", dim, " of shape ", source.sizes(), "), got shape ",
          repeats.sizes());
  return index_select(source, dim, repeat_positions(repeats, output_size));
}

Tensor combinations(const Tensor& x, std::int64_t r, bool with_replacement) {
  const char* op = "combinations";
  require(x.ndim() == 1, op, "input", ErrorKind::Shape, "expected one dimension, got shape ", x.sizes());
  require(r >= 0 && r <= kMaxDims, op, "r", ErrorKind::Value, "expected a length in [0, ", kMaxDims, "], got ", r);
  if (r == 0) return empty({0}, x.dtype(), x.device());
  // Positions (i, j, ...) of an n^r grid with i < j < ... (i <= j with replacement), in row-major order.
  const std::int64_t n = x.numel();
  const Tensor places = nonzero(full({n}, 1, DType::Bool, x.device()));
  Tensor keep = full(Dims::filled(r, n), 1, DType::Bool, x.device());
  for (int a = 0; a + 1 < r; ++a) {
    Dims first = Dims::filled(r, 1), second = first;
    first[a] = n;
    second[a + 1] = n;
    const Tensor i = reshape(places, first), j = reshape(places, second);
    keep = mul(keep, with_replacement ? le(i, j) : lt(i, j));
  }
  const Tensor at = nonzero(keep);
  return reshape(index_select(x, 0, reshape(at, {-1})), at.sizes());
}

}  // namespace pydlx::ops
