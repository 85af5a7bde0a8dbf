// Advanced indexing and its relatives that share one index between all slices.
#include "ops/index.h"

#include <algorithm>

#include "kernels/indexing.h"
#include "kernels/pointwise.h"
#include "ops/index_rows.h"
#include "ops/reduce.h"

namespace pydlx::ops {

namespace {

// Positions of true elements: [count, ndim] coordinates, or [count] flat positions.
Tensor true_positions(const char* op, const Tensor& mask, bool flat) {
  const Tensor m = contiguous(to_dtype(detach(mask), DType::Bool));
  const auto& k = kernels<IndexingKernels>(m.device());
  Nonzero a;
  a.mask = m.data_as<std::uint8_t>();
  a.n = m.numel();
  a.ndim = flat ? 1 : m.ndim();
  std::copy_n(m.sizes().data(), m.ndim(), a.size);
  Tensor starts = empty({(a.n + kNonzeroBlock - 1) / kNonzeroBlock}, DType::Int64, m.device());
  a.starts = starts.data_as<std::int64_t>();
  const std::int64_t count = a.total = kernel_or_fail(k.nonzero_count, op, m.device(), m.dtype())(a);
  Tensor out = empty(flat ? Dims{count} : Dims{count, m.ndim()}, DType::Int64, m.device());
  a.out = out.data_as<std::int64_t>();
  if (count > 0) kernel_or_fail(k.nonzero, op, m.device(), m.dtype())(a);
  return out;
}

// Advanced indices resolved against one tensor: a list of offsets, and where the broadcast axes go in the result.
struct Plan {
  Tensor index;                               // contiguous int64
  std::int64_t self_size = 0, self_step = 0;  // indices lie in [-self_size, self_size)
  bool distinct = false;                      // comes from a mask: no position twice
  Dims lookup;                                // broadcast sizes of the indices
  Dims other_sizes, other_strides;            // axes that were not indexed
  int before = 0;                             // how many of them come before the broadcast axes

  Dims result_sizes() const {
    Dims s;
    for (int i = 0; i < before; ++i) s.push_back(other_sizes[i]);
    for (auto n : lookup) s.push_back(n);
    for (int i = before; i < other_sizes.ndim(); ++i) s.push_back(other_sizes[i]);
    return s;
  }
};

bool is_mask(const Tensor& t) { return t.dtype() == DType::Bool || t.dtype() == DType::UInt8; }

Plan make_plan(const char* op, const Tensor& x, const TensorList& indices) {
  std::vector<Tensor> at(x.ndim());  // one integer index per axis
  int axis = 0, masks = 0, first = -1, last = -1, used = 0;
  Tensor flat_mask;  // a mask whose axes of x can be walked in one step needs flat positions only
  int flat_axes = 0;
  std::int64_t defined = 0;
  for (const Tensor& t : indices) defined += t.defined();
  for (const Tensor& given : indices) {
    // Indices from the CPU are welcome everywhere.
    const Tensor t = given.defined() && given.is_cpu() ? to_device(detach(given), x.device()) : given;
    const int span = t.defined() && is_mask(t) ? t.ndim() : 1;
    require(axis + span <= x.ndim(), op, "index", ErrorKind::Index, "too many indices for a tensor of shape ",
            x.sizes());
    if (!t.defined()) {
      ++axis;
      continue;
    }
    require(!is_floating(t.dtype()), op, "index", ErrorKind::Index, "expected integers or bools as an index, got ",
            t.dtype());
    require(t.device() == x.device(), op, "index", ErrorKind::Device, "expected an index on ", x.device(), ", got ",
            t.device());
    if (is_mask(t)) {
      require(t.ndim() > 0, op, "index", ErrorKind::Index, "expected a mask with at least one dimension");
      for (int k = 0; k < span; ++k)
        require(t.sizes()[k] == x.sizes()[axis + k], op, "index", ErrorKind::Index, "the mask of shape ", t.sizes(),
                " does not match shape ", x.sizes(), " at axis ", axis + k);
      ++masks;
      bool one_step = defined == 1;
      for (int k = axis; k + 1 < axis + span; ++k)
        one_step = one_step && x.strides()[k] == x.strides()[k + 1] * x.sizes()[k + 1];
      if (one_step) {
        flat_mask = t;
        flat_axes = span;
      } else {
        const Tensor coordinates = true_positions(op, t, false);
        for (int k = 0; k < span; ++k) at[axis + k] = select(coordinates, 1, k);
      }
    } else {
      at[axis] = to_dtype(detach(t), DType::Int64);
    }
    if (first < 0) first = axis;
    if (last >= 0 && axis != last + 1) used = -1;  // a gap: the broadcast axes go first
    last = axis + span - 1;
    axis += span;
  }
  require(first >= 0, op, "index", ErrorKind::Index, "expected at least one index tensor");
  Plan p;
  p.distinct = defined == 1 && masks == 1;
  if (flat_mask.defined()) {
    p.index = true_positions(op, flat_mask, true);
    p.self_size = flat_mask.numel();
    p.self_step = x.strides()[first + flat_axes - 1];
    p.lookup = p.index.sizes();
    for (int i = 0; i < x.ndim(); ++i)
      if (i < first || i >= first + flat_axes) {
        p.other_sizes.push_back(x.sizes()[i]);
        p.other_strides.push_back(x.strides()[i]);
      }
    p.before = first;
    return p;
  }
  int count = 0;
  for (const Tensor& t : at)
    if (t.defined()) {
      p.lookup = broadcast_sizes(op, p.lookup, t.sizes());
      ++count;
    }
  for (int i = 0; i < x.ndim(); ++i) {
    if (at[i].defined()) {
      if (count == 1) {
        p.index = contiguous(at[i]);
        check_range(op, p.index, -x.sizes()[i], x.sizes(), i);
        p.self_size = x.sizes()[i];
        p.self_step = x.strides()[i];
        continue;
      }
      const Tensor index = contiguous(at[i].sizes() == p.lookup ? at[i] : expand(at[i], p.lookup));
      const bool fresh = !p.index.defined();
      if (fresh) p.index = empty(p.lookup, DType::Int64, x.device());
      if (index.numel() == 0) continue;
      const auto fn = kernel_or_fail(kernels<IndexingKernels>(x.device()).add_offsets, op, x.device(), DType::Int64);
      const std::int64_t wrong = fn(p.index.data_as<std::int64_t>(), index.data_as<std::int64_t>(), index.numel(),
                                    x.sizes()[i], x.strides()[i], fresh);
      if (wrong >= 0) range_error(op, index, wrong, -x.sizes()[i], x.sizes(), i);
      p.self_size = fresh ? 1 : p.self_size;  // offsets: never negative, and below one more than their largest sum
      p.self_size += (x.sizes()[i] - 1) * x.strides()[i];
      p.self_step = 1;
    } else {
      p.other_sizes.push_back(x.sizes()[i]);
      p.other_strides.push_back(x.strides()[i]);
      if (used >= 0 && i < first) ++p.before;
    }
  }
  return p;
}

// The kernel arguments for `x` and a dense operand of the result's sizes whose broadcast axes can be walked in one
// step.
IndexedRows rows_of(const Plan& p, const Tensor& x, const Tensor& dense, std::int64_t dense_step) {
  IndexedRows r;
  r.self = x.data();
  r.dense = dense.data();
  r.index = p.index.data_as<std::int64_t>();
  r.count = p.index.numel();
  r.self_size = p.self_size;
  r.self_step = p.self_step;
  r.dense_step = dense_step;
  r.index_step = 1;
  r.distinct = p.distinct;
  OtherAxes axes;
  const int n = p.other_sizes.ndim(), k = p.lookup.ndim();
  for (int i = 0; i < n; ++i)
    axes.add(p.other_sizes[i], p.other_strides[i], dense.strides()[i < p.before ? i : i + k], 0);
  axes.inner = n - p.before;
  set_axes(r, axes);
  return r;
}

// Stride with which the axes [begin, begin + n) can be walked as one, or -1.
std::int64_t one_step(const Tensor& t, int begin, int n) {
  std::int64_t step = 0, expected = 0;
  bool any = false;
  for (int i = begin + n - 1; i >= begin; --i) {
    if (t.sizes()[i] == 1) continue;
    if (any && t.strides()[i] != expected) return -1;
    if (!any) step = t.strides()[i];
    any = true;
    expected = t.strides()[i] * t.sizes()[i];
  }
  return step;
}

// x[.., mask, ..] = one value, without looking for positions: x <- mask ? value : x.
bool fill_masked(const char* op, const Tensor& x, const TensorList& indices, const Tensor& value) {
  int axis = 0;
  const Tensor* mask = nullptr;
  for (const Tensor& t : indices) {
    if (t.defined()) {
      if (mask || t.dtype() != DType::Bool) return false;
      mask = &t;
    } else if (!mask) {
      ++axis;
    }
  }
  if (!mask || shares_memory(*mask, x) || value.numel() != 1 || mask->ndim() == 0 || axis + mask->ndim() > x.ndim() ||
      !(mask->device() == x.device()))
    return false;
  Dims shape = Dims::filled(x.sizes().size(), 1);
  for (int i = 0; i < mask->ndim(); ++i) {
    if (mask->sizes()[i] != x.sizes()[axis + i]) return false;  // reported by the general path
    shape[axis + i] = mask->sizes()[i];
  }
  if (x.numel() == 0) return true;
  const Tensor m = reshape(detach(*mask), shape), v = reshape(value, {}), self = detach(x);
  const auto fn = kernel_or_fail(kernels<PointwiseKernels>(x.device()).where[static_cast<int>(x.dtype())], op,
                                 x.device(), x.dtype());
  Elementwise e;
  build_elementwise(e, self, {&m, &v, &self});
  fn(e);
  return true;
}

void put_raw(const char* op, const Tensor& x, const TensorList& indices, const Tensor& values, bool accumulate) {
  if (!accumulate && fill_masked(op, x, indices, values)) return;
  TensorList safe = indices;  // an index may live in the memory that is written
  for (Tensor& t : safe)
    if (t.defined() && shares_memory(t, x)) t = clone(detach(t));
  const Plan p = make_plan(op, x, safe);
  const Dims sizes = p.result_sizes();
  Tensor v = values;
  while (v.ndim() > sizes.ndim() && v.sizes()[0] == 1) v = select(v, 0, 0);
  require(v.ndim() <= sizes.ndim() && broadcast_sizes(op, v.sizes(), sizes) == sizes, op, "values", ErrorKind::Shape,
          "expected a shape that broadcasts to ", sizes, ", got ", values.sizes());
  v = expand(v, sizes);
  std::int64_t step = one_step(v, p.before, p.lookup.ndim());
  if (step < 0) {
    v = contiguous(v);
    step = one_step(v, p.before, p.lookup.ndim());
  }
  const IndexedRows r = rows_of(p, x, v, step);
  if (!accumulate) return run_scatter(op, r, x);
  if (add_rows(r, x)) return;
  accumulate_wide(x, [&](const Tensor& t) {
    if (t.dtype() == x.dtype()) return run_reduce(op, ScatterOp::sum, r, t);
    put_raw(op, t, safe, to_dtype(v, t.dtype()), true);
  });
}

Tensor index_backward(const Tensor& g, const Dims& sizes, const TensorList& indices);

std::vector<Saved> save_all(const TensorList& ts) {
  std::vector<Saved> out;
  for (const Tensor& t : ts) out.push_back(save(t));
  return out;
}
TensorList get_all(const std::vector<Saved>& saved, const Backward& bw) {
  TensorList out;
  for (const Saved& s : saved) out.push_back(s.get(bw));
  return out;
}

// The adjoint of index: zeros with g added at the indexed positions. Its own gradient is index again.
Tensor index_backward(const Tensor& g, const Dims& sizes, const TensorList& indices) {
  Tensor out = full(sizes, 0, g.dtype(), g.device());
  put_raw("index_backward", out, indices, detach(g), true);
  if (any_requires_grad(g))
    record("index_backward", out, {&g},
           [s = save_all(indices)](Backward& bw) { bw.set(0, index(bw.grad(), get_all(s, bw))); });
  return out;
}

Tensor index_put_impl(const char* name, const Tensor& x, const TensorList& indices, const Tensor& values,
                      bool accumulate, bool inplace) {
  return write_op(
      name, x, values, inplace,
      [&](const Tensor& target, const Tensor& v) { put_raw(name, target, indices, v, accumulate); },
      [&] {
        return [s = save_all(indices), sizes = values.sizes(), dtype = values.dtype(), accumulate](Backward& bw) {
          const TensorList at = get_all(s, bw);
          if (bw.needs(0))
            bw.set(0, accumulate ? bw.grad() : index_put(bw.grad(), at, wrap_scalar(std::int64_t{0}), false));
          if (bw.needs(1)) {
            Tensor g = index(bw.grad(), at);
            Dims wanted = sizes;
            while (wanted.ndim() > g.ndim()) wanted.erase(0);
            bw.set(1, reshape(to_dtype(sum_to(g, wanted), dtype), sizes));
          }
        };
      });
}

}  // namespace

Tensor index(const Tensor& x, const TensorList& indices) {
  const Plan p = make_plan("index", x, indices);
  Tensor out = empty(p.result_sizes(), x.dtype(), x.device());
  if (out.numel() > 0) run_gather("index", rows_of(p, x, out, one_step(out, p.before, p.lookup.ndim())), x);
  if (any_requires_grad(x))
    record("index", out, {&x}, [s = save_all(indices), sizes = x.sizes()](Backward& bw) {
      bw.set(0, index_backward(bw.grad(), sizes, get_all(s, bw)));
    });
  return out;
}

Tensor index_put(const Tensor& x, const TensorList& indices, const Tensor& values, bool accumulate) {
  return index_put_impl("index_put", x, indices, values, accumulate, false);
}
Tensor& index_put_(Tensor& x, const TensorList& indices, const Tensor& values, bool accumulate) {
  index_put_impl("index_put_", x, indices, values, accumulate, true);
  return x;
}

// ---- one index for all slices
// ------------------------------------------------------------------------------------------------------

namespace {

// 0-d tensors behave like one element here.
Tensor with_axis(const Tensor& x) { return x.ndim() == 0 ? reshape(x, {1}) : x; }

Tensor shared_index(const char* op, const Tensor& x, int dim, const Tensor& index, const Tensor& target = {}) {
  require(index.ndim() <= 1, op, "index", ErrorKind::Shape, "expected a 1-d tensor, got shape ", index.sizes());
  Tensor i = prepare_index(op, x, index);
  check_range(op, i, 0, x.ndim() == 0 ? Dims{1} : x.sizes(), dim);
  return target.defined() && shares_memory(i, target) ? clone(i) : i;
}

void check_source(const char* op, const Tensor& x, int dim, const Tensor& index, const Tensor& source) {
  Dims want = x.sizes();
  if (x.ndim() > 0) want[dim] = index.numel();
  require(source.sizes() == want || (x.ndim() <= 1 && source.ndim() == 0 && index.numel() == 1) ||
              (x.ndim() == 0 && source.numel() == 1 && index.numel() == 1),
          op, "source", ErrorKind::Shape, "expected shape ", want, ", got ", source.sizes());
}

Tensor add_impl(const char* name, const Tensor& x, std::int64_t axis, const Tensor& index, const Tensor& source,
                Scalar alpha, bool inplace) {
  const int dim = wrap_axis(axis, x.ndim(), name);
  const Tensor i = shared_index(name, x, dim, index, inplace ? x : Tensor());
  check_source(name, x, dim, index, source);
  const bool scaled = alpha.is_float() ? alpha.f != 1 : alpha.i != 1;
  require(!alpha.is_float() || is_floating(x.dtype()), name, "alpha", ErrorKind::DType,
          "expected an integer for integer tensors");
  return write_op(
      name, x, source, inplace,
      [&](const Tensor& target, const Tensor& s) {
        if (!scaled && add_rows(along_shared(with_axis(target), dim, i, with_axis(s)), target)) return;
        accumulate_wide(target, [&](const Tensor& t) {
          Tensor v = to_dtype(s, t.dtype());
          if (scaled) v = mul(v, wrap_scalar(alpha));
          run_reduce(name, ScatterOp::sum, along_shared(with_axis(t), dim, i, with_axis(v)), t);
        });
      },
      [&] {
        return [i = save(index), dim, alpha, scaled, sizes = source.sizes(), dtype = source.dtype()](Backward& bw) {
          if (bw.needs(0)) bw.set(0, bw.grad());
          if (bw.needs(1)) {
            const Tensor g = reshape(index_select(bw.grad(), dim, i.get(bw)), sizes);
            bw.set(1, to_dtype(scaled ? mul(g, wrap_scalar(alpha)) : g, dtype));
          }
        };
      });
}

Tensor copy_impl(const char* name, const Tensor& x, std::int64_t axis, const Tensor& index, const Tensor& source,
                 bool inplace) {
  const int dim = wrap_axis(axis, x.ndim(), name);
  const Tensor i = shared_index(name, x, dim, index, inplace ? x : Tensor());
  check_source(name, x, dim, index, source);
  return write_op(
      name, x, source, inplace,
      [&](const Tensor& t, const Tensor& s) { run_scatter(name, along_shared(with_axis(t), dim, i, with_axis(s)), t); },
      [&] {
        return [i = save(index), dim, sizes = source.sizes(), dtype = source.dtype()](Backward& bw) {
          const Tensor at = i.get(bw);
          if (bw.needs(0)) bw.set(0, index_fill(bw.grad(), dim, at, wrap_scalar(std::int64_t{0})));
          if (bw.needs(1)) bw.set(1, to_dtype(reshape(index_select(bw.grad(), dim, at), sizes), dtype));
        };
      });
}

Tensor fill_impl(const char* name, const Tensor& x, std::int64_t axis, const Tensor& index, const Tensor& value,
                 bool inplace) {
  const int dim = wrap_axis(axis, x.ndim(), name);
  const Tensor i = shared_index(name, x, dim, index, inplace ? x : Tensor());
  require(value.ndim() == 0, name, "value", ErrorKind::Shape, "expected a number or a 0-d tensor, got shape ",
          value.sizes());
  Dims sizes = x.ndim() == 0 ? Dims{1} : x.sizes();
  sizes[dim] = i.numel();
  return write_op(
      name, x, value, inplace,
      [&](const Tensor& t, const Tensor& v) {
        run_scatter(name, along_shared(with_axis(t), dim, i, expand(v, sizes)), t);
      },
      [&] {
        return [i = save(index), dim, dtype = value.dtype()](Backward& bw) {
          const Tensor at = i.get(bw);
          if (bw.needs(0)) bw.set(0, index_fill(bw.grad(), dim, at, wrap_scalar(std::int64_t{0})));
          if (bw.needs(1)) {
            // A position listed twice was still written once: count what index_fill has taken away.
            const Tensor kept = index_fill(bw.grad(), dim, at, wrap_scalar(std::int64_t{0}));
            bw.set(1, to_dtype(sum(sub(bw.grad(), kept), {}, false), dtype));
          }
        };
      });
}

}  // namespace

Tensor index_select(const Tensor& x, std::int64_t axis, const Tensor& index) {
  const char* op = "index_select";
  const int dim = wrap_axis(axis, x.ndim(), op);
  const Tensor i = shared_index(op, x, dim, index);
  Dims sizes = x.ndim() == 0 ? Dims{1} : x.sizes();
  sizes[dim] = i.numel();
  Tensor out = empty(sizes, x.dtype(), x.device());
  run_gather(op, along_shared(with_axis(detach(x)), dim, i, out), x);
  if (x.ndim() == 0) out = reshape(out, {});
  if (any_requires_grad(x))
    record(op, out, {&x}, [i = save(index), dim, sizes = x.sizes()](Backward& bw) {
      bw.set(0, index_add(full(sizes, 0, bw.grad().dtype(), bw.grad().device()), dim, i.get(bw), bw.grad(), 1));
    });
  return out;
}

Tensor index_add(const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source, Scalar alpha) {
  return add_impl("index_add", x, dim, index, source, alpha, false);
}
Tensor& index_add_(Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source, Scalar alpha) {
  add_impl("index_add_", x, dim, index, source, alpha, true);
  return x;
}
Tensor index_copy(const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source) {
  return copy_impl("index_copy", x, dim, index, source, false);
}
Tensor& index_copy_(Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source) {
  copy_impl("index_copy_", x, dim, index, source, true);
  return x;
}
Tensor index_fill(const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& value) {
  return fill_impl("index_fill", x, dim, index, value, false);
}
Tensor& index_fill_(Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& value) {
  fill_impl("index_fill_", x, dim, index, value, true);
  return x;
}

// ---- finding elements
// --------------------------------------------------------------------------------------------------------------

Tensor nonzero(const Tensor& x) { return true_positions("nonzero", x, false); }

Tensor masked_select(const Tensor& x, const Tensor& mask) {
  require(mask.dtype() == DType::Bool, "masked_select", "mask", ErrorKind::DType, "expected a bool tensor, got ",
          mask.dtype());
  const Dims sizes = broadcast_sizes("masked_select", {&x, &mask});
  const Tensor xs = with_axis(x.sizes() == sizes ? x : expand(x, sizes)),
               m = with_axis(mask.sizes() == sizes ? mask : expand(mask, sizes));
  return index(xs, {m});
}

Tensor repeat_positions(const Tensor& repeats, std::optional<std::int64_t> output_size) {
  const char* op = "repeat_interleave";
  require(is_integral(repeats.dtype()), op, "repeats", ErrorKind::DType, "expected an integer tensor, got ",
          repeats.dtype());
  require(repeats.ndim() <= 1, op, "repeats", ErrorKind::Shape, "expected a number or a 1-d tensor, got shape ",
          repeats.sizes());
  // A copy: what is written below must be exactly the counts that were checked, whatever other threads do.
  Tensor r = empty(repeats.sizes(), DType::Int64, repeats.device());
  copy_raw(r, repeats);
  if (r.numel() == 0) return empty({0}, DType::Int64, r.device());
  const auto& k = kernels<IndexingKernels>(r.device());
  const std::int64_t limit = std::min(std::int64_t{1} << 40, (std::int64_t{1} << 62) / r.numel());
  const std::int64_t wrong =
      kernel_or_fail(k.check_index, op, r.device(), r.dtype())(r.data_as<std::int64_t>(), r.numel(), 0, limit);
  require(wrong < 0, op, "repeats", ErrorKind::Value, "expected counts from 0 to ", limit - 1,
          ", got another at position ", wrong);
  const std::int64_t total = item(sum(r, {}, false)).to_int();
  require(!output_size || *output_size == total, op, "output_size", ErrorKind::Value, "expected the sum of repeats, ",
          total, ", got ", output_size.value_or(0));
  Tensor out = empty({total}, DType::Int64, r.device());
  kernel_or_fail(k.repeat_index, op, r.device(), r.dtype())(r.data_as<std::int64_t>(), r.numel(),
                                                            out.data_as<std::int64_t>());
  return out;
}

}  // namespace pydlx::ops
