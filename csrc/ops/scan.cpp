#include "ops/scan.h"

#include <algorithm>
#include <limits>

#include "autograd/node.h"
#include "kernels/scan.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/extrema.h"
#include "ops/index.h"
#include "ops/math.h"
#include "ops/reduce.h"
#include "ops/reduce_core.h"
#include "ops/shape.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

Tensor zero() { return wrap_scalar(std::int64_t{0}); }

// Runs a scan kernel along `axis` (already wrapped); no gradient.
Tensor run_scan(ScanOp op, const char* name, const Tensor& input, int axis, bool reverse = false,
                bool exclusive = false, Tensor* index = nullptr) {
  const Tensor x = contiguous(detach(input));
  const bool counts = op == ScanOp::sum && x.dtype() == DType::Bool;
  Tensor y = empty(x.sizes(), counts ? DType::Int64 : x.dtype(), x.device());
  if (index) *index = empty(x.sizes(), DType::Int64, x.device());
  if (y.numel() == 0) return y;
  Scan k;
  k.in = x.data();
  k.out = y.data();
  k.index = index ? index->data_as<std::int64_t>() : nullptr;
  k.n = x.ndim() == 0 ? 1 : x.sizes()[axis];
  for (int i = 0; i < axis; ++i) k.outer *= x.sizes()[i];
  for (int i = axis + 1; i < x.ndim(); ++i) k.inner *= x.sizes()[i];
  k.reverse = reverse;
  k.exclusive = exclusive;
  kernel_or_fail(kernels<ScanKernels>(x.device()).scan[static_cast<int>(op)][static_cast<int>(x.dtype())], name,
                 x.device(), x.dtype())(k);
  return y;
}

Tensor summable(const Tensor& x, std::optional<DType> dtype) {
  return to_dtype(x, dtype ? *dtype : is_floating(x.dtype()) ? x.dtype() : DType::Int64);
}

bool can_count(const Tensor& x, int axis) {
  return x.dtype() == DType::Bool && axis + 1 == x.ndim() &&
         kernels<ScanKernels>(x.device()).scan[static_cast<int>(ScanOp::sum)][static_cast<int>(DType::Bool)] != nullptr;
}

// Integer scans run in int64 and are then narrowed to the dtype that was asked for.
template <class F>
Tensor scan_as(const Tensor& x, std::optional<DType> dtype, F run) {
  if (dtype && !is_floating(*dtype) && *dtype != DType::Int64)
    return to_dtype(run(to_dtype(to_dtype(x, *dtype), DType::Int64)), *dtype);
  return run(summable(x, dtype));
}

Tensor directed_cumsum(const Tensor& x, int axis, bool reverse) {
  Tensor y = run_scan(ScanOp::sum, "cumsum", x, axis, reverse);
  if (is_floating(x.dtype()) && any_requires_grad(x))
    record("cumsum", y, {&x}, [axis, reverse](Backward& bw) { bw.set(0, directed_cumsum(bw.grad(), axis, !reverse)); });
  return y;
}

// d y_k / d x_i is the product of x_0..x_k without x_i, for k >= i. Without zeros that is y_k / x_i. With zeros:
//   before the first zero   the formula holds, with the terms from the zero on vanishing;
//   at the first zero       the products continue without it;
//   after it                everything is 0.
Tensor cumprod_backward(const Tensor& g, const Tensor& x, const Tensor& y, int axis, bool create_graph) {
  const Tensor d = detach(x);
  const Tensor is_zero = eq(d, zero());
  if (!item(any(is_zero, std::nullopt, false)).to_int()) return div(directed_cumsum(mul(g, y), axis, true), x);
  const std::int64_t n = x.sizes()[axis];
  if (create_graph) {
    // Differentiable for any x, at quadratic cost: one column of the Jacobian at a time.
    const Tensor at = axis_positions(n, axis, x.ndim(), x.device());
    Tensor total;
    for (std::int64_t i = 0; i < n; ++i) {
      const Tensor here = eq(at, wrap_scalar(i));
      const Tensor others = cumprod(where(here, wrap_scalar(std::int64_t{1}), x), axis, std::nullopt);
      const Tensor tail = where(ge(at, wrap_scalar(i)), mul(g, others), zero());
      const Tensor part = where(here, sum(tail, Dims{axis}, true), zero());
      total = total.defined() ? add(total, part) : part;
    }
    return total;
  }
  const Tensor zeros_so_far = cumsum(is_zero, axis, std::nullopt);
  const Tensor one = wrap_scalar(std::int64_t{1});
  const Tensor before = eq(zeros_so_far, zero());
  const Tensor first = where(eq(zeros_so_far, one), is_zero, wrap_scalar(false));
  // Products with the first zero of each line taken out, only up to the second one.
  const Tensor without = run_scan(ScanOp::prod, "cumprod", where(first, one, d), axis);
  const Tensor plain = div(run_scan(ScanOp::sum, "cumprod", mul(g, y), axis, true), where(before, d, one));
  const Tensor skipped =
      run_scan(ScanOp::sum, "cumprod", where(ge(zeros_so_far, one), mul(g, without), zero()), axis, true);
  return where(before, plain, where(first, skipped, zero()));
}

}  // namespace

Tensor reverse_cumsum(const Tensor& x, int axis) { return directed_cumsum(x, axis, true); }

Tensor product_of_others(const Tensor& x, int axis) {
  const Tensor d = detach(x);
  return mul(run_scan(ScanOp::prod, "prod", d, axis, false, true), run_scan(ScanOp::prod, "prod", d, axis, true, true));
}

Tensor cumsum(const Tensor& x, std::int64_t wanted, std::optional<DType> dtype) {
  const int axis = wrap_axis(wanted, x.ndim(), "cumsum");
  if (can_count(x, axis) && dtype.value_or(DType::Int64) == DType::Int64)
    return run_scan(ScanOp::sum, "cumsum", x, axis);
  return scan_as(x, dtype, [&](const Tensor& t) { return directed_cumsum(t, axis, false); });
}

Tensor cumprod(const Tensor& input, std::int64_t wanted, std::optional<DType> dtype) {
  const int axis = wrap_axis(wanted, input.ndim(), "cumprod");
  return scan_as(input, dtype, [&](const Tensor& x) {
    Tensor y = run_scan(ScanOp::prod, "cumprod", x, axis);
    if (is_floating(x.dtype()) && any_requires_grad(x))
      record("cumprod", y, {&x}, [x = save(x), y = Saved(y, 0), axis](Backward& bw) {
        const Tensor t = x.get(bw);
        bw.set(0, t.ndim() == 0 || t.numel() == 0 ? bw.grad()
                                                  : cumprod_backward(bw.grad(), t, y.get(bw), axis, bw.create_graph));
      });
    return y;
  });
}

namespace {

Tensor log_sum_exp_scan(const Tensor& x, int axis, bool reverse) {
  return run_scan(ScanOp::logsumexp, "logcumsumexp", x, axis, reverse);
}

// dx_i = exp(x_i) sum_{k >= i} g_k exp(-y_k)
Tensor logcumsumexp_backward(const Tensor& g, const Tensor& x, const Tensor& y, int axis, bool create_graph) {
  if (create_graph) {
    // Relative to the largest y of the line, which keeps the exponents in range unless the line spans hundreds.
    const Tensor shift = amax(detach(y), {axis}, true);
    return mul(exp(sub(x, shift)), directed_cumsum(mul(g, exp(sub(shift, y))), axis, true));
  }
  // The sum in the log domain, positive and negative gradients apart, so that nothing can overflow.
  const Tensor nothing = wrap_scalar(-std::numeric_limits<double>::infinity());
  auto part = [&](const Tensor& weight) {
    const Tensor logs = sub(where(gt(weight, zero()), log(weight), nothing), y);
    return exp(add(log_sum_exp_scan(logs, axis, true), x));
  };
  return sub(part(g), part(neg(g)));
}

}  // namespace

Tensor logcumsumexp(const Tensor& x, std::int64_t wanted) {
  const char* op = "logcumsumexp";
  require_floating(op, x);
  const int axis = wrap_axis(wanted, x.ndim(), op);
  Tensor y = log_sum_exp_scan(x, axis, false);
  if (any_requires_grad(x))
    record(op, y, {&x}, [x = save(x), y = Saved(y, 0), axis](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, t.numel() == 0 || t.ndim() == 0
                    ? bw.grad()
                    : logcumsumexp_backward(bw.grad(), t, y.get(bw), axis, bw.create_graph));
    });
  return y;
}

namespace {

std::pair<Tensor, Tensor> cumulative_extremum(ScanOp op, const char* name, const Tensor& x, std::int64_t wanted) {
  const int axis = wrap_axis(wanted, x.ndim(), name);
  Tensor index, values = run_scan(op, name, x, axis, false, false, &index);
  if (x.ndim() == 0) index = zeros_like(index);
  if (is_floating(x.dtype()) && any_requires_grad(x))
    record(name, values, {&x}, [index = save(index), axis](Backward& bw) {
      const Tensor g = bw.grad(), at = index.get(bw);
      if (g.ndim() == 0) return bw.set(0, g);
      bw.set(0, scatter_add(full(g.sizes(), 0, g.dtype(), g.device()), axis, at, g));
    });
  return {values, index};
}

}  // namespace

std::pair<Tensor, Tensor> cummax(const Tensor& x, std::int64_t axis) {
  return cumulative_extremum(ScanOp::max, "cummax", x, axis);
}
std::pair<Tensor, Tensor> cummin(const Tensor& x, std::int64_t axis) {
  return cumulative_extremum(ScanOp::min, "cummin", x, axis);
}

Tensor diff(const Tensor& input, std::int64_t order, std::int64_t wanted, const Tensor& prepend, const Tensor& append) {
  require(input.ndim() > 0, "diff", "input", ErrorKind::Shape, "expected at least one dimension, got a 0-d tensor");
  require(order >= 0, "diff", "n", ErrorKind::Value, "expected a non-negative order, got ", order);
  const int axis = wrap_axis(wanted, input.ndim(), "diff");
  Tensor x = input;
  if (order > 0 && (prepend.defined() || append.defined())) {
    TensorList parts;
    if (prepend.defined()) parts.push_back(prepend);
    parts.push_back(input);
    if (append.defined()) parts.push_back(append);
    x = cat(parts, axis);
  }
  for (std::int64_t k = 0; k < order && x.sizes()[axis] > 0; ++k) {
    const std::int64_t n = x.sizes()[axis] - 1;
    const Tensor later = narrow(x, axis, 1, n), earlier = narrow(x, axis, 0, n);
    x = x.dtype() == DType::Bool ? ne(later, earlier) : sub(later, earlier);
  }
  return x.is_same(input) ? clone(x) : x;
}

}  // namespace pydlx::ops
