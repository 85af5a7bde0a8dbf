// Gather and scatter: an index per element.
#include <algorithm>
#include <limits>

#include "kernels/indexing.h"
#include "ops/index.h"
#include "ops/index_rows.h"

namespace pydlx::ops {

namespace {

// x, index and the dense operand as tensors of at least one dimension, the index checked.
struct Call {
  int dim;
  Tensor index;
  bool checked;  // otherwise the kernel checks the indices, and `run_checked` reports
};

Call prepare(const char* op, const Tensor& x, std::int64_t axis, const Tensor& index, const Tensor* source,
             const Tensor& target = {}) {
  const int dim = wrap_axis(axis, x.ndim(), op);
  const Dims xs = x.ndim() == 0 ? Dims{1} : x.sizes(), is = index.ndim() == 0 ? Dims{1} : index.sizes();
  if (index.numel() > 0) {
    require(xs.size() == is.size(), op, "index", ErrorKind::Shape, "expected ", xs.size(),
            " dimensions like the input, got shape ", index.sizes());
    for (std::size_t i = 0; i < xs.size(); ++i)
      require(static_cast<int>(i) == dim || is[i] <= xs[i], op, "index", ErrorKind::Shape,
              "expected a shape no larger than the input's ", x.sizes(), " apart from axis ", dim, ", got ",
              index.sizes());
    if (source && source->ndim() > 0) {
      require(source->sizes().size() == is.size(), op, "src", ErrorKind::Shape, "expected ", is.size(),
              " dimensions like the index, got shape ", source->sizes());
      for (std::size_t i = 0; i < is.size(); ++i)
        require(is[i] <= source->sizes()[i], op, "src", ErrorKind::Shape,
                "expected a shape at least as large as the index's ", index.sizes(), ", got ", source->sizes());
    }
  }
  Tensor i = prepare_index(op, x, index);
  // A kernel that writes to a tensor of its own may meet a bad index half way: nobody sees the result.
  const bool later = !target.defined() && xs[dim] > 0 && kernels<IndexingKernels>(x.device()).checks_range;
  if (i.numel() > 0 && !later) check_range(op, i, 0, xs, dim);
  if (target.defined() && shares_memory(i, target)) i = clone(i);
  return {dim, i.ndim() == 0 ? reshape(i, {1}) : i, !later};
}

// Calls run(rows) and then complains about indices that were not checked before.
template <class F>
void run_checked(const char* op, const Call& c, const Tensor& self, IndexedRows rows, F run) {
  int wrong = 0;
  if (!c.checked) rows.out_of_range = &wrong;
  run(rows);
  if (wrong != 0) {
    check_range(op, c.index, 0, self.sizes(), c.dim);
    fail(op, "index", ErrorKind::Index, "expected indices that stay as they are during the call");
  }
}

Tensor with_axis(const Tensor& x) { return x.ndim() == 0 ? reshape(x, {1}) : x; }

// A source as the kernels want it: a single value, which may be the host's, is spread over the index, a larger tensor
// is used from its corner.
Tensor source_for(const Tensor& source, const Tensor& index) {
  return source.ndim() == 0 ? expand(to_device(source, index.device()), index.sizes()) : source;
}

// Gradient of the source from a gradient with the index's sizes.
Tensor source_gradient(const Tensor& g, const Dims& sizes, DType dtype) {
  Tensor r = to_dtype(g, dtype);
  if (sizes.empty()) return reshape(sum_to(r, Dims::filled(g.ndim(), 1)), {});
  if (r.sizes() == sizes) return r;
  return window_backward(r, sizes, contiguous_strides(sizes), 0);  // elements beyond the index were not used
}

void scatter_raw(const char* name, const Tensor& t, const Call& c, const Tensor& source) {
  if (c.index.numel() == 0) return;
  const Tensor self = with_axis(t);
  run_checked(name, c, self, along_axis(self, c.dim, c.index, source_for(source, c.index)),
              [&](const IndexedRows& r) { run_scatter(name, r, t); });
}
void reduce_raw(const char* name, ScatterOp how, const Tensor& target, const Call& c, const Tensor& source) {
  if (c.index.numel() == 0) return;
  accumulate_wide(target, [&](const Tensor& t) {
    const Tensor self = with_axis(t);
    run_checked(name, c, self, along_axis(self, c.dim, c.index, to_dtype(source_for(source, c.index), t.dtype())),
                [&](const IndexedRows& r) { run_reduce(name, how, r, t); });
  });
}

Tensor zero() { return wrap_scalar(std::int64_t{0}); }

Tensor scatter_impl(const char* name, const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source,
                    bool inplace) {
  const Call c = prepare(name, x, dim, index, &source, inplace ? x : Tensor());
  return write_op(
      name, x, source, inplace, [&](const Tensor& t, const Tensor& s) { scatter_raw(name, t, c, s); },
      [&] {
        return [i = save(index), dim = c.dim, sizes = source.sizes(), dtype = source.dtype()](Backward& bw) {
          const Tensor at = i.get(bw);
          if (bw.needs(0)) bw.set(0, scatter(bw.grad(), dim, at, zero()));
          if (bw.needs(1)) bw.set(1, source_gradient(gather(bw.grad(), dim, at), sizes, dtype));
        };
      });
}

Tensor scatter_add_impl(const char* name, const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source,
                        bool inplace) {
  const Call c = prepare(name, x, dim, index, &source, inplace ? x : Tensor());
  return write_op(
      name, x, source, inplace, [&](const Tensor& t, const Tensor& s) { reduce_raw(name, ScatterOp::sum, t, c, s); },
      [&] {
        return [i = save(index), dim = c.dim, sizes = source.sizes(), dtype = source.dtype()](Backward& bw) {
          if (bw.needs(0)) bw.set(0, bw.grad());
          if (bw.needs(1)) bw.set(1, source_gradient(gather(bw.grad(), dim, i.get(bw)), sizes, dtype));
        };
      });
}

enum class Reduction { sum, prod, mean, amax, amin };

Reduction parse_reduction(const char* op, const std::string& s) {
  if (s == "sum" || s == "add") return Reduction::sum;
  if (s == "prod" || s == "multiply") return Reduction::prod;
  if (s == "mean") return Reduction::mean;
  if (s == "amax") return Reduction::amax;
  if (s == "amin") return Reduction::amin;
  fail(op, "reduce", ErrorKind::Value, "expected 'sum', 'prod', 'mean', 'amax' or 'amin', got '", s, "'");
}

// The value that leaves the other operand of a reduction unchanged.
Scalar neutral(Reduction r, DType t) {
  if (r == Reduction::sum || r == Reduction::mean) return std::int64_t{0};
  if (r == Reduction::prod) return std::int64_t{1};
  const bool low = r == Reduction::amax;
  if (is_floating(t)) return low ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity();
  return low ? integer_min(t) : integer_max(t);
}

ScatterOp kernel_of(Reduction r) {
  switch (r) {
    case Reduction::prod:
      return ScatterOp::prod;
    case Reduction::amax:
      return ScatterOp::amax;
    case Reduction::amin:
      return ScatterOp::amin;
    default:
      return ScatterOp::sum;
  }
}

// How many values met at each element, at least 1.
Tensor contributions(const Tensor& like, const Call& c, bool include_self) {
  Tensor n = full(like.sizes(), include_self ? 1 : 0, is_floating(like.dtype()) ? DType::Float32 : DType::Int64,
                  like.device());
  reduce_raw("scatter_reduce", ScatterOp::sum, n, c, wrap_scalar(Scalar(std::int64_t{1}), n.dtype()));
  return maximum(n, wrap_scalar(std::int64_t{1}));
}

// Floor division for integers, as PyTorch divides here; plain division for floats.
void divide_raw(const Tensor& t, const Tensor& n) {
  if (is_floating(t.dtype())) {
    copy_raw(t, div(detach(t), to_dtype(n, t.dtype() == DType::Float64 ? DType::Float64 : DType::Float32)));
    return;
  }
  // floor(t / n) in float64 is off only beyond 2^53; the remainder test corrects it exactly.
  const Tensor wide = to_dtype(detach(t), DType::Int64);
  Tensor q = to_dtype(div(to_dtype(wide, DType::Float64), to_dtype(n, DType::Float64)), DType::Int64);
  for (int pass = 0; pass < 2; ++pass) {
    const Tensor r = sub(wide, mul(q, n));
    q = sub(add(q, to_dtype(ge(r, n), DType::Int64)), to_dtype(lt(r, zero()), DType::Int64));
  }
  copy_raw(t, q);
}

Tensor as_float(const Tensor& mask, DType dtype) { return to_dtype(mask, dtype); }

Tensor reduce_impl(const char* name, const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source,
                   const std::string& reduce, bool include_self, bool inplace) {
  const Reduction how = parse_reduction(name, reduce);
  const Call c = prepare(name, x, dim, index, &source, inplace ? x : Tensor());
  const bool wanted = any_requires_grad(x, source);
  require(!wanted || !inplace || how == Reduction::sum || how == Reduction::mean ||
              !(x.requires_grad() && GradMode::enabled()),
          name, "input", ErrorKind::Gradient, "the gradient of '", reduce,
          "' needs the old values; use the out-of-place form");
  const auto raw = [&](const Tensor& t, const Tensor& s) {
    if (!include_self) scatter_raw(name, t, c, wrap_scalar(neutral(how, t.dtype()), t.dtype()));
    reduce_raw(name, kernel_of(how), t, c, s);
    if (how == Reduction::mean) divide_raw(t, contributions(t, c, include_self));
  };
  const Tensor before = wanted && inplace ? clone(detach(x)) : x;
  return write_op(name, x, source, inplace, raw, [&] {
    return [i = save(index), d = c.dim, how, include_self, reduce, x = save(before), src = save(source),
            sizes = source.sizes(), dtype = source.dtype()](Backward& bw) {
      const Tensor at = i.get(bw), g = bw.grad();
      Tensor gx, gs;  // gs has the index's sizes
      if (how == Reduction::sum) {
        gx = g;
        if (bw.needs(1)) gs = gather(g, d, at);
      } else if (how == Reduction::mean) {
        const Call call = prepare("scatter_reduce", g, d, at, nullptr);
        gx = div(g, to_dtype(contributions(g, call, include_self), g.dtype()));
        if (bw.needs(1)) gs = gather(gx, d, at);
      } else {
        const Tensor self = x.get(bw);
        Tensor s = src.get(bw);
        if (s.ndim() == 0) s = expand(s, at.sizes());
        if (s.sizes() != at.sizes())
          s = as_strided(contiguous(s), at.sizes(), contiguous_strides(s.sizes()), contiguous(s).offset());
        const Tensor one = wrap_scalar(std::int64_t{1});
        if (how == Reduction::prod) {
          // Products without the factor itself; a single zero source is replaced by 1, two make the gradient vanish.
          const Tensor nonzero_self = where(eq(self, zero()), one, self);
          gx = div(mul(g, scatter_reduce(nonzero_self, d, at, s, "prod", include_self)), nonzero_self);
          if (bw.needs(1)) {
            const Tensor is_zero = eq(s, zero());
            const Tensor zeros =
                scatter_add(full(self.sizes(), 0, s.dtype(), s.device()), d, at, as_float(is_zero, s.dtype()));
            const Tensor alone = eq(mul(as_float(is_zero, s.dtype()), gather(zeros, d, at)), one);
            const Tensor others = scatter_reduce(self, d, at, where(alone, one, s), "prod", include_self);
            const Tensor result = scatter_reduce(self, d, at, s, "prod", include_self);
            gs =
                where(alone, gather(mul(g, others), d, at), div(gather(mul(g, result), d, at), where(is_zero, one, s)));
          }
        } else {
          // Shared evenly between all values that equal the extremum.
          const Tensor result = detach(scatter_reduce(detach(self), d, at, detach(s), reduce, include_self));
          const Tensor self_hit = as_float(eq(detach(self), result), g.dtype()),
                       source_hit = as_float(eq(detach(s), gather(result, d, at)), g.dtype());
          const Tensor kept = include_self ? self_hit : scatter(self_hit, d, at, zero());
          const Tensor share = div(g, maximum(scatter_add(kept, d, at, source_hit), one));
          gx = mul(self_hit, share);
          if (bw.needs(1)) gs = mul(source_hit, gather(share, d, at));
        }
      }
      if (bw.needs(0)) bw.set(0, include_self ? gx : scatter(gx, d, at, zero()));
      if (bw.needs(1)) bw.set(1, source_gradient(gs, sizes, dtype));
    };
  });
}

}  // namespace

Tensor gather(const Tensor& x, std::int64_t dim, const Tensor& index) {
  const char* op = "gather";
  const Call c = prepare(op, x, dim, index, nullptr);
  Tensor out = empty(c.index.sizes(), x.dtype(), x.device());
  if (out.numel() > 0) {
    const Tensor self = with_axis(detach(x));
    run_checked(op, c, self, along_axis(self, c.dim, c.index, out),
                [&](const IndexedRows& r) { run_gather(op, r, x); });
  }
  if (index.ndim() == 0) out = reshape(out, {});
  if (any_requires_grad(x))
    record(op, out, {&x}, [i = save(index), d = c.dim, sizes = x.sizes()](Backward& bw) {
      bw.set(0, scatter_add(full(sizes, 0, bw.grad().dtype(), bw.grad().device()), d, i.get(bw), bw.grad()));
    });
  return out;
}

Tensor scatter(const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source) {
  return scatter_impl("scatter", x, dim, index, source, false);
}
Tensor& scatter_(Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source) {
  scatter_impl("scatter_", x, dim, index, source, true);
  return x;
}
Tensor scatter_add(const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source) {
  return scatter_add_impl("scatter_add", x, dim, index, source, false);
}
Tensor& scatter_add_(Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source) {
  scatter_add_impl("scatter_add_", x, dim, index, source, true);
  return x;
}
Tensor scatter_reduce(const Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source,
                      const std::string& reduce, bool include_self) {
  return reduce_impl("scatter_reduce", x, dim, index, source, reduce, include_self, false);
}
Tensor& scatter_reduce_(Tensor& x, std::int64_t dim, const Tensor& index, const Tensor& source,
                        const std::string& reduce, bool include_self) {
  reduce_impl("scatter_reduce_", x, dim, index, source, reduce, include_self, true);
  return x;
}

// ---- flattened forms
// -----------------------------------------------------------------------------------------------------------------

Tensor take(const Tensor& x, const Tensor& i) {
  const Tensor at = prepare_index("take", x, i);
  return index(reshape(x, {-1}), {at});
}

Tensor take_along_dim(const Tensor& x, const Tensor& indices, std::optional<std::int64_t> axis) {
  const char* op = "take_along_dim";
  if (!axis) return gather(reshape(x, {-1}), 0, reshape(indices, {-1}));
  require(x.ndim() == indices.ndim(), op, "indices", ErrorKind::Shape, "expected ", x.ndim(), " dimensions, got shape ",
          indices.sizes());
  const int dim = wrap_axis(*axis, x.ndim(), op);
  Dims a = x.sizes(), b = indices.sizes();
  if (x.ndim() > 0) a[dim] = b[dim] = 1;
  Dims xs = broadcast_sizes(op, a, b), is = xs;
  if (x.ndim() > 0) {
    xs[dim] = x.sizes()[dim];
    is[dim] = indices.sizes()[dim];
  }
  return gather(expand(x, xs), dim, expand(indices, is));
}

Tensor put(const Tensor& x, const Tensor& i, const Tensor& source, bool accumulate) {
  const Tensor at = reshape(prepare_index("put", x, i), {-1});
  require(source.numel() == at.numel(), "put", "source", ErrorKind::Shape, "expected ", at.numel(),
          " elements like the index, got ", source.numel());
  return reshape(index_put(reshape(x, {-1}), {at}, reshape(source, {-1}), accumulate), x.sizes());
}
Tensor& put_(Tensor& x, const Tensor& i, const Tensor& source, bool accumulate) {
  check_inplace(x, "put_");
  return copy_(x, put(x, i, source, accumulate));
}

Tensor masked_scatter(const Tensor& x, const Tensor& mask, const Tensor& source) {
  const char* op = "masked_scatter";
  require(mask.dtype() == DType::Bool, op, "mask", ErrorKind::DType, "expected a bool tensor, got ", mask.dtype());
  require(source.dtype() == x.dtype(), op, "source", ErrorKind::DType, "expected ", x.dtype(), " like the input, got ",
          source.dtype());
  const Dims sizes = broadcast_sizes(op, {&x, &mask});
  const Tensor target = with_axis(x.sizes() == sizes ? x : expand(x, sizes)),
               m = with_axis(mask.sizes() == sizes ? mask : expand(mask, sizes));
  const Tensor at = nonzero(reshape(m, {-1}));
  const std::int64_t count = at.sizes()[0];
  require(source.numel() >= count, op, "source", ErrorKind::Shape, "expected at least ", count,
          " elements (one per true mask element), got ", source.numel());
  const Tensor values = narrow(reshape(source, {-1}), 0, 0, count);
  return reshape(index_put(reshape(target, {-1}), {reshape(at, {-1})}, values, false), sizes);
}
Tensor& masked_scatter_(Tensor& x, const Tensor& mask, const Tensor& source) {
  check_inplace(x, "masked_scatter_");
  require(broadcast_sizes("masked_scatter_", {&x, &mask}) == x.sizes(), "masked_scatter_", "mask", ErrorKind::Shape,
          "expected a shape that broadcasts to ", x.sizes(), ", got ", mask.sizes());
  return copy_(x, masked_scatter(x, mask, source));
}

}  // namespace pydlx::ops
