#include "ops/views.h"

#include <algorithm>

#include "ops/elementwise.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"

namespace pydlx::ops {

Tensor make_view(const Tensor& x, Dims sizes, Dims strides, std::int64_t offset) {
  Tensor v = alias(x, std::move(sizes), std::move(strides), offset);
  v.impl()->base = x.impl()->base ? x.impl()->base : x.ref();
  v.impl()->made_without_grad = !GradMode::enabled();
  return v;
}

namespace {

// Lowest and highest element offset a geometry touches, relative to its start.
std::int64_t reach(const Dims& sizes, const Dims& strides) {
  std::int64_t r = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) return -1;
    r = checked_add(r, checked_mul(sizes[i] - 1, strides[i], "as_strided"), "as_strided");
  }
  return r;
}

// A flat zero buffer that covers a window which starts at `offset`; windows index it after subtracting that offset.
Tensor window_buffer(const Tensor& like, std::int64_t span) { return full({span}, 0, like.dtype(), like.device()); }

// Adjoint of as_strided: adds the window's gradient into the geometry of the input. Both geometries are laid over one
// flat buffer that spans them; overlapping windows (unfold) accumulate, overlapping inputs (expand) share what arrived.
Tensor as_strided_backward(Tensor g, const Dims& in_sizes, const Dims& in_strides, std::int64_t in_offset, Dims sizes,
                           const Dims& strides, std::int64_t offset) {
  // Axes that stay on one element: their gradients are simply added up.
  Dims still;
  for (int i = 0; i < sizes.ndim(); ++i)
    if (strides[i] == 0 && sizes[i] > 1) {
      still.push_back(i);
      sizes[i] = 1;
    }
  if (!still.empty()) g = sum(g, still, true);
  const std::int64_t low = std::min(in_offset, offset);
  const std::int64_t high = std::max(in_offset + reach(in_sizes, in_strides), offset + reach(sizes, strides));
  Tensor buffer = window_buffer(g, std::max<std::int64_t>(high - low + 1, 0));
  if (g.numel() > 0) {
    if (!may_self_overlap(sizes, strides)) {
      buffer = as_strided_scatter(buffer, g, sizes, strides, offset - low);
    } else {
      // Peel the axes one by one: each index tuple's slice is added separately along the axes that overlap.
      Dims inner_sizes = sizes, inner_strides = strides;
      Dims peeled;
      while (may_self_overlap(inner_sizes, inner_strides)) {
        // Remove the axis with the smallest count among those left: fewest additions.
        int best = -1;
        for (int i = 0; i < inner_sizes.ndim(); ++i)
          if (inner_sizes[i] > 1 && (best < 0 || inner_sizes[i] < inner_sizes[best])) best = i;
        peeled.push_back(best);
        inner_sizes[best] = 1;
      }
      std::int64_t count = 1;
      for (auto a : peeled) count *= sizes[a];
      for (std::int64_t k = 0; k < count; ++k) {
        std::int64_t rest = k, shift = 0;
        Tensor part = g;
        for (auto a : peeled) {
          const std::int64_t i = rest % sizes[a];
          rest /= sizes[a];
          part = narrow(part, a, i, 1);
          shift += i * strides[a];
        }
        if (GradMode::enabled()) {
          const Tensor old = as_strided(buffer, inner_sizes, inner_strides, offset - low + shift);
          buffer = as_strided_scatter(buffer, add(old, part), inner_sizes, inner_strides, offset - low + shift);
        } else {
          Tensor window = alias(buffer, inner_sizes, inner_strides, offset - low + shift);
          add_(window, part);
        }
      }
    }
  }
  Tensor r = as_strided(buffer, in_sizes, in_strides, in_offset - low);
  if (may_self_overlap(in_sizes, in_strides)) {
    // Each input element stands at several indices; split the gradient evenly over them.
    double copies = 1;
    for (std::size_t i = 0; i < in_sizes.size(); ++i)
      if (in_strides[i] == 0) copies *= static_cast<double>(in_sizes[i]);
    r = div(r, wrap_scalar(copies));
  }
  return clone(r);
}

}  // namespace

Tensor as_strided(const Tensor& x, const Dims& sizes, const Dims& strides, std::int64_t offset) {
  checked_numel(sizes, "as_strided");
  require(sizes.size() == strides.size(), "as_strided", "stride", ErrorKind::Shape, "expected one stride per size (",
          sizes.size(), "), got ", strides.size());
  for (auto s : strides)
    require(s >= 0, "as_strided", "stride", ErrorKind::Value, "expected non-negative strides, got ", strides);
  require(offset >= 0, "as_strided", "storage_offset", ErrorKind::Value, "expected a non-negative offset, got ",
          offset);
  const std::int64_t last = checked_add(offset, reach(sizes, strides), "as_strided");
  const auto capacity = static_cast<std::int64_t>(x.impl()->storage->nbytes / itemsize(x.dtype()));
  require(last < capacity || last < offset, "as_strided", "size", ErrorKind::Shape, "the window ", sizes,
          " with strides ", strides, " at offset ", offset, " reaches element ", last, ", but the storage holds ",
          capacity);
  return view_op("as_strided", x, sizes, strides, offset,
                 [is = x.sizes(), ist = x.strides(), io = x.offset(), sizes, strides, offset](Backward& bw) {
                   bw.set(0, as_strided_backward(bw.grad(), is, ist, io, sizes, strides, offset));
                 });
}

Ref<Node> as_strided_node(const Tensor& base, const Dims& sizes, const Dims& strides, std::int64_t offset) {
  return make_node("as_strided", {&base},
                   [is = base.sizes(), ist = base.strides(), io = base.offset(), sizes, strides, offset](Backward& bw) {
                     bw.set(0, as_strided_backward(bw.grad(), is, ist, io, sizes, strides, offset));
                   });
}

Tensor as_strided_scatter(const Tensor& x, const Tensor& src, const Dims& sizes, const Dims& strides,
                          std::int64_t offset) {
  require(src.sizes() == sizes, "as_strided_scatter", "src", ErrorKind::Shape, "expected shape ", sizes, ", got ",
          src.sizes());
  Tensor out;
  {
    const GradModeGuard off(false);
    out = clone_with_strides(detach(x), x.strides());
    Tensor window = as_strided(out, sizes, strides, offset - x.offset() + out.offset());
    copy_raw(window, src);
  }
  if (any_requires_grad(x, src))
    record("as_strided_scatter", out, {&x, &src},
           [sizes, strides, offset = offset - x.offset(), layout = out.strides()](Backward& bw) {
             // The window is described in the memory of x; a gradient may arrive in any other layout.
             const Tensor g = bw.grad().strides() == layout ? bw.grad() : clone_with_strides(bw.grad(), layout);
             if (bw.needs(0)) {
               const Tensor zero = full(sizes, 0, g.dtype(), g.device());
               bw.set(0, as_strided_scatter(g, zero, sizes, strides, offset + g.offset()));
             }
             if (bw.needs(1)) bw.set(1, clone(as_strided(g, sizes, strides, offset + g.offset())));
           });
  return out;
}

namespace {

// Replaces one -1 by the size that fits; checks the element count.
Dims infer_sizes(const char* op, const Tensor& x, const Dims& wanted) {
  Dims sizes = wanted;
  std::int64_t known = 1;
  int unknown = -1;
  for (int i = 0; i < sizes.ndim(); ++i) {
    if (sizes[i] == -1) {
      require(unknown < 0, op, "shape", ErrorKind::Shape, "expected at most one -1, got ", wanted);
      unknown = i;
    } else {
      require(sizes[i] >= 0, op, "shape", ErrorKind::Shape, "expected non-negative sizes or one -1, got ", wanted);
      known = checked_mul(known, sizes[i], op);
    }
  }
  if (unknown >= 0) {
    require(known != 0, op, "shape", ErrorKind::Shape, "cannot infer the -1 in ", wanted,
            " because the other sizes multiply to 0");
    require(x.numel() % known == 0, op, "shape", ErrorKind::Shape, "expected sizes for ", x.numel(), " elements, got ",
            wanted);
    sizes[unknown] = x.numel() / known;
  } else {
    require(known == x.numel(), op, "shape", ErrorKind::Shape, "expected sizes for ", x.numel(), " elements, got ",
            wanted);
  }
  require(sizes.ndim() <= kMaxDims, op, "shape", ErrorKind::Shape, "expected at most ", kMaxDims, " dimensions, got ",
          sizes.ndim());
  return sizes;
}

// Strides of `sizes` over the memory of (old_sizes, old_strides); false when the new shape cuts through a gap.
bool view_strides(const Dims& old_sizes, const Dims& old_strides, const Dims& sizes, Dims& strides) {
  strides.resize(sizes.size());
  std::int64_t numel = 1;
  for (auto s : sizes) numel *= s;
  if (numel == 0) {
    strides = contiguous_strides(sizes);
    return true;
  }
  int v = sizes.ndim() - 1;
  std::int64_t base = old_sizes.empty() ? 1 : old_strides.back();
  std::int64_t block = 1, viewed = 1;  // elements in the current old run, and how many of them the new axes cover
  for (int o = old_sizes.ndim() - 1; o >= 0; --o) {
    block *= old_sizes[o];
    const bool run_ends = o == 0 || (old_sizes[o - 1] != 1 && old_strides[o - 1] != block * base);
    if (!run_ends) continue;
    while (v >= 0 && (viewed < block || sizes[v] == 1)) {
      strides[v] = viewed * base;
      viewed *= sizes[v];
      --v;
    }
    if (viewed != block) return false;
    if (o > 0) {
      base = old_strides[o - 1];
      block = viewed = 1;
    }
  }
  for (; v >= 0; --v) strides[v] = base;  // only size-1 axes can be left
  return true;
}

Tensor viewed(const char* op, const Tensor& x, const Dims& sizes, const Dims& strides) {
  return view_op(op, x, sizes, strides, x.offset(),
                 [is = x.sizes()](Backward& bw) { bw.set(0, reshape(bw.grad(), is)); });
}

}  // namespace

Tensor view(const Tensor& x, const Dims& wanted) {
  const Dims sizes = infer_sizes("view", x, wanted);
  Dims strides;
  require(view_strides(x.sizes(), x.strides(), sizes, strides), "view", "shape", ErrorKind::Shape, "a view of shape ",
          sizes, " is impossible for a tensor of shape ", x.sizes(), " with strides ", x.strides(), "; use reshape()");
  return viewed("view", x, sizes, strides);
}

Tensor reshape(const Tensor& x, const Dims& wanted) {
  const Dims sizes = infer_sizes("reshape", x, wanted);
  Dims strides;
  if (view_strides(x.sizes(), x.strides(), sizes, strides)) return viewed("reshape", x, sizes, strides);
  const Tensor c = contiguous(x);
  return viewed("reshape", c, sizes, contiguous_strides(sizes));
}

Tensor expand(const Tensor& x, const Dims& wanted) {
  require(wanted.ndim() >= x.ndim(), "expand", "size", ErrorKind::Shape, "expected at least ", x.ndim(), " sizes, got ",
          wanted);
  require(wanted.ndim() <= kMaxDims, "expand", "size", ErrorKind::Shape, "expected at most ", kMaxDims,
          " dimensions, got ", wanted.ndim());
  Dims sizes = wanted, strides = Dims::filled(wanted.size(), 0);
  const int lead = wanted.ndim() - x.ndim();
  for (int i = 0; i < wanted.ndim(); ++i) {
    if (i < lead) {
      require(sizes[i] >= 0, "expand", "size", ErrorKind::Shape, "expected non-negative sizes for new axes, got ",
              wanted);
      continue;
    }
    const auto old = x.sizes()[i - lead];
    if (sizes[i] == -1) sizes[i] = old;
    require(sizes[i] == old || (old == 1 && sizes[i] >= 0), "expand", "size", ErrorKind::Shape,
            "expected sizes that match ", x.sizes(), " or expand its axes of size 1, got ", wanted);
    strides[i] = sizes[i] == old ? x.strides()[i - lead] : 0;
  }
  checked_numel(sizes, "expand");
  return view_op("expand", x, sizes, strides, x.offset(),
                 [is = x.sizes()](Backward& bw) { bw.set(0, sum_to(bw.grad(), is)); });
}

Tensor permute(const Tensor& x, const Dims& order) {
  require(order.ndim() == x.ndim(), "permute", "dims", ErrorKind::Shape, "expected ", x.ndim(), " axes, got ", order);
  Dims sizes, strides, axes, inverse = Dims::filled(order.size(), -1);
  for (int i = 0; i < order.ndim(); ++i) {
    const int a = wrap_axis(order[i], x.ndim(), "permute", "dims");
    require(inverse[a] < 0, "permute", "dims", ErrorKind::Value, "axis ", a, " appears more than once in ", order);
    inverse[a] = i;
    sizes.push_back(x.sizes()[a]);
    strides.push_back(x.strides()[a]);
  }
  return view_op("permute", x, sizes, strides, x.offset(),
                 [inverse](Backward& bw) { bw.set(0, permute(bw.grad(), inverse)); });
}

Tensor transpose(const Tensor& x, std::int64_t a, std::int64_t b) {
  const int i = wrap_axis(a, x.ndim(), "transpose", "dim0"), j = wrap_axis(b, x.ndim(), "transpose", "dim1");
  Dims sizes = x.sizes(), strides = x.strides();
  if (x.ndim() > 0) {
    std::swap(sizes[i], sizes[j]);
    std::swap(strides[i], strides[j]);
  }
  return view_op("transpose", x, sizes, strides, x.offset(),
                 [i, j](Backward& bw) { bw.set(0, transpose(bw.grad(), i, j)); });
}

Tensor squeeze(const Tensor& x, const Dims& wanted) {
  const Dims axes = wrap_axes(wanted, x.ndim(), "squeeze");
  Dims sizes, strides;
  for (int i = 0; i < x.ndim(); ++i) {
    const bool listed = std::find(axes.begin(), axes.end(), i) != axes.end();
    if (listed && x.sizes()[i] == 1) continue;
    sizes.push_back(x.sizes()[i]);
    strides.push_back(x.strides()[i]);
  }
  return view_op("squeeze", x, sizes, strides, x.offset(),
                 [is = x.sizes()](Backward& bw) { bw.set(0, reshape(bw.grad(), is)); });
}

Tensor unsqueeze(const Tensor& x, std::int64_t axis) {
  const int a = wrap_axis(axis, x.ndim() + 1, "unsqueeze");
  Dims sizes = x.sizes(), strides = x.strides();
  const std::int64_t step = a < x.ndim() ? x.sizes()[a] * x.strides()[a] : 1;
  sizes.insert(a, 1);
  strides.insert(a, step);
  require(sizes.ndim() <= kMaxDims, "unsqueeze", "dim", ErrorKind::Shape, "expected at most ", kMaxDims, " dimensions");
  return view_op("unsqueeze", x, sizes, strides, x.offset(),
                 [is = x.sizes()](Backward& bw) { bw.set(0, reshape(bw.grad(), is)); });
}

Tensor window_backward(const Tensor& g, const Dims& in_sizes, const Dims& dense_strides, std::int64_t dense_offset) {
  Tensor out = full(in_sizes, 0, g.dtype(), g.device());
  if (g.numel() > 0) copy_raw(alias(out, g.sizes(), dense_strides, dense_offset), g);
  if (any_requires_grad(g))
    record("window_backward", out, {&g}, [sizes = g.sizes(), dense_strides, dense_offset](Backward& bw) {
      const Tensor gg = contiguous(bw.grad());
      bw.set(0, window("window", gg, {sizes, dense_strides, dense_strides, gg.offset() + dense_offset, dense_offset}));
    });
  return out;
}

Tensor window(const char* name, const Tensor& x, Window w) {
  Tensor v = make_view(x, std::move(w.sizes), std::move(w.strides), w.offset);
  if (any_requires_grad(x))
    record(name, v, {&x},
           [is = x.sizes(), strides = std::move(w.dense_strides), offset = w.dense_offset](Backward& bw) {
             bw.set(0, window_backward(bw.grad(), is, strides, offset));
           });
  return v;
}

Tensor slice(const Tensor& x, std::int64_t axis, std::int64_t start, std::int64_t stop, std::int64_t step) {
  require(x.ndim() > 0, "slice", "input", ErrorKind::Index, "expected at least one dimension, got a 0-d tensor");
  const int a = wrap_axis(axis, x.ndim(), "slice");
  require(step > 0, "slice", "step", ErrorKind::Value, "expected a positive step, got ", step,
          "; use flip() to reverse");
  const std::int64_t n = x.sizes()[a];
  auto clip = [n](std::int64_t i) { return i < 0 ? std::max<std::int64_t>(i + n, 0) : std::min(i, n); };
  start = clip(start);
  stop = std::max(start, clip(stop));
  Dims sizes = x.sizes(), strides = x.strides();
  sizes[a] = (stop - start + std::min(step, n + 1) - 1) / std::min(step, n + 1);
  if (step > n) step = std::max<std::int64_t>(n, 1);  // at most one element is left; keeps the stride small
  strides[a] *= step;
  const Dims dense = contiguous_strides(x.sizes());
  Dims dense_strides = dense;
  dense_strides[a] *= step;
  if (sizes[a] == 0) start = 0;
  return window("slice", x, {sizes, strides, dense_strides, x.offset() + start * x.strides()[a], start * dense[a]});
}

Tensor select(const Tensor& x, std::int64_t axis, std::int64_t index) {
  require(x.ndim() > 0, "select", "input", ErrorKind::Index, "expected at least one dimension, got a 0-d tensor");
  const int a = wrap_axis(axis, x.ndim(), "select");
  const std::int64_t n = x.sizes()[a];
  require(index >= -n && index < n, "select", "index", ErrorKind::Index, "expected an index in [", -n, ", ", n - 1,
          "] for axis ", a, " of shape ", x.sizes(), ", got ", index);
  if (index < 0) index += n;
  Dims sizes = x.sizes(), strides = x.strides(), dense = contiguous_strides(x.sizes());
  const std::int64_t offset = x.offset() + index * strides[a], dense_offset = index * dense[a];
  sizes.erase(a);
  strides.erase(a);
  dense.erase(a);
  return window("select", x, {std::move(sizes), std::move(strides), std::move(dense), offset, dense_offset});
}

Tensor narrow(const Tensor& x, std::int64_t axis, std::int64_t start, std::int64_t length) {
  require(x.ndim() > 0, "narrow", "input", ErrorKind::Index, "expected at least one dimension, got a 0-d tensor");
  const int a = wrap_axis(axis, x.ndim(), "narrow");
  const std::int64_t n = x.sizes()[a];
  require(start >= -n && start <= n, "narrow", "start", ErrorKind::Index, "expected a start in [", -n, ", ", n,
          "], got ", start);
  if (start < 0) start += n;
  require(length >= 0 && length <= n - start, "narrow", "length", ErrorKind::Value, "expected a length in [0, ",
          n - start, "] after start ", start, " on an axis of size ", n, ", got ", length);
  return slice(x, a, start, start + length, 1);
}

Scalar item(const Tensor& x) {
  require(x.numel() == 1, "item", "input", ErrorKind::Shape, "expected a tensor with one element, got shape ",
          x.sizes());
  return scalar_of(x);
}

}  // namespace pydlx::ops
