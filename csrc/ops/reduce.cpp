#include "ops/reduce.h"

#include <cmath>
#include <limits>

#include "autograd/mode.h"
#include "autograd/node.h"
#include "kernels/reduce.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/math.h"
#include "ops/pointwise.h"
#include "ops/reduce_core.h"
#include "ops/scan.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

DType sum_dtype(DType t) { return is_floating(t) ? t : DType::Int64; }

Tensor number(double v) { return wrap_scalar(v); }
Tensor zero() { return wrap_scalar(std::int64_t{0}); }

// The kernel's result, or `identity` everywhere when there is nothing to reduce.
Tensor reduce_or(double identity, ReduceOp op, const char* name, const Tensor& x, const ReducePlan& plan, DType out,
                 std::initializer_list<double> params = {}) {
  if (plan.n == 0) return full(plan.sizes, identity, out, x.device());
  return run_reduce(op, name, x, plan, out, params);
}

}  // namespace

// ---- sums and means
// --------------------------------------------------------------------------------------------------------------

namespace {

// How many elements are not 0, whether any is, or whether all are: see ReduceOp::nonzero.
Tensor nonzeros(const char* name, const Tensor& x, const ReducePlan& plan, double mode) {
  return reduce_or(mode == 2 ? 1 : 0, ReduceOp::nonzero, name, x, plan, mode == 0 ? DType::Int64 : DType::Bool, {mode});
}

// sum or mean (divide != 0) of x; the gradient spreads evenly. Of a bool, whose true is any byte but 0, it is a count.
Tensor additive(const char* name, const Tensor& x, const ReducePlan& plan, double divide) {
  if (x.dtype() == DType::Bool) return nonzeros(name, x, plan, 0);
  Tensor y = reduce_or(divide != 0 ? kNaN : 0, ReduceOp::sum, name, x, plan, sum_dtype(x.dtype()), {divide});
  if (any_requires_grad(x))
    record(name, y, {&x}, [is = x.sizes(), wide = plan.wide, divide](Backward& bw) {
      const Tensor g = divide != 0 && divide != 1 ? div(bw.grad(), number(divide)) : bw.grad();
      bw.set(0, expand(restore_axes(g, wide), is));
    });
  return y;
}

}  // namespace

Tensor sum(const Tensor& x, const Axes& axes, bool keepdim, MaybeDType dtype) {
  const Tensor y = additive("sum", with_dtype(x, dtype), reduce_plan("sum", x.sizes(), axes, keepdim), 0);
  return with_dtype(y, dtype);  // integers are summed in 64 bits
}
Tensor sum(const Tensor& x, const Dims& axes, bool keepdim) { return sum(x, Axes(axes), keepdim, std::nullopt); }

Tensor mean(const Tensor& input, const Axes& axes, bool keepdim, MaybeDType dtype) {
  const Tensor x = with_dtype(input, dtype);
  require_floating("mean", x);
  const ReducePlan plan = reduce_plan("mean", x.sizes(), axes, keepdim);
  // A mean over nothing divides by zero; -1 only marks "this is a mean" there, and the kernel does not run.
  return additive("mean", x, plan, plan.n == 0 ? -1.0 : static_cast<double>(plan.n));
}

Tensor nansum(const Tensor& input, const Axes& axes, bool keepdim, MaybeDType dtype) {
  const Tensor x = with_dtype(input, dtype);
  if (!is_floating(x.dtype())) return sum(x, axes, keepdim, dtype);
  const ReducePlan plan = reduce_plan("nansum", x.sizes(), axes, keepdim);
  Tensor y = reduce_or(0, ReduceOp::nansum, "nansum", x, plan, x.dtype());
  if (any_requires_grad(x))
    record("nansum", y, {&x}, [x = save(x), wide = plan.wide](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, where(eq(t, t), restore_axes(bw.grad(), wide), zero()));
    });
  return y;
}

Tensor nanmean(const Tensor& input, const Axes& axes, bool keepdim, MaybeDType dtype) {
  const Tensor x = with_dtype(input, dtype);
  require_floating("nanmean", x);
  const Tensor d = detach(x);
  return div(nansum(x, axes, keepdim), to_dtype(sum(eq(d, d), axes, keepdim, std::nullopt), x.dtype()));
}

// ---- products
// --------------------------------------------------------------------------------------------------------------------

namespace {

// d prod / dx_i is the product of the other elements. Without zeros that is y / x; with zeros it is built from products
// over the parts before and after each element.
Tensor prod_backward(const Tensor& g, const Tensor& x, const Tensor& y, int axis, bool create_graph) {
  const Tensor d = detach(x);
  if (!item(any(eq(d, zero()), std::nullopt, false)).to_int()) return div(mul(g, y), x);
  if (!create_graph) return mul(g, product_of_others(x, axis));
  const std::int64_t n = x.sizes()[axis];
  const Tensor at = axis_positions(n, axis, x.ndim(), x.device());
  Tensor total;
  for (std::int64_t i = 0; i < n; ++i) {
    const Tensor others =
        mul(prod(narrow(x, axis, 0, i), axis, true), prod(narrow(x, axis, i + 1, n - i - 1), axis, true));
    const Tensor part = where(eq(at, wrap_scalar(i)), mul(g, others), zero());
    total = total.defined() ? add(total, part) : part;
  }
  return total;
}

Tensor prod_over(const Tensor& x, const ReducePlan& plan) {
  if (x.dtype() == DType::Bool) return to_dtype(nonzeros("prod", x, plan, 2), DType::Int64);
  Tensor y = reduce_or(1, ReduceOp::prod, "prod", x, plan, sum_dtype(x.dtype()));
  if (any_requires_grad(x))
    record("prod", y, {&x}, [x = save(x), y = Saved(y, 0), wide = plan.wide, axes = plan.axes](Backward& bw) {
      const Tensor t = x.get(bw);
      if (t.numel() == 0) return bw.set(0, zeros_like(t));
      if (t.ndim() == 0) return bw.set(0, bw.grad());
      if (axes.size() == 1)
        return bw.set(0, prod_backward(restore_axes(bw.grad(), wide), t, restore_axes(y.get(bw), wide),
                                       static_cast<int>(axes[0]), bw.create_graph));
      const Tensor flat =
          prod_backward(reshape(bw.grad(), {1}), reshape(t, {-1}), reshape(y.get(bw), {1}), 0, bw.create_graph);
      bw.set(0, reshape(flat, t.sizes()));
    });
  return y;
}

}  // namespace

Tensor prod(const Tensor& input, MaybeDType dtype) {
  const Tensor x = with_dtype(input, dtype);
  return with_dtype(prod_over(x, reduce_plan("prod", x.sizes(), std::nullopt, false)), dtype);
}
Tensor prod(const Tensor& input, std::int64_t axis, bool keepdim, MaybeDType dtype) {
  const Tensor x = with_dtype(input, dtype);
  return with_dtype(prod_over(x, reduce_plan("prod", x.sizes(), Dims{axis}, keepdim)), dtype);
}

// ---- variance
// --------------------------------------------------------------------------------------------------------------------

namespace {

// var or std with its mean. d var / dx = 2 (x - mean) / (n - correction); std divides that by 2 std, and is flat where
// std is 0.
std::pair<Tensor, Tensor> moments(const char* name, const Tensor& x, const Axes& axes, std::optional<Scalar> given,
                                  bool keepdim, bool root) {
  require_floating(name, x);
  const double correction = given ? given->to_double() : 1.0;
  const ReducePlan plan = reduce_plan(name, x.sizes(), axes, keepdim);
  Tensor y, mean_of;
  if (plan.n == 0) {
    y = full(plan.sizes, kNaN, x.dtype(), x.device());
    mean_of = full(plan.sizes, kNaN, x.dtype(), x.device());
  } else {
    y = run_reduce(ReduceOp::var, name, x, plan, x.dtype(), {correction, root ? 1.0 : 0.0}, &mean_of, x.dtype());
  }
  if (!any_requires_grad(x)) return {y, mean_of};
  TensorList outputs = {y, mean_of};
  record_many(name, outputs, {&x}, [x = save(x), y = Saved(y, 0), plan, correction, root](Backward& bw) {
    const Tensor t = x.get(bw);
    const double n = static_cast<double>(plan.n), free = std::max(n - correction, 0.0);
    Tensor result;
    if (bw.has_grad(0)) {
      Tensor g = bw.grad(0);
      if (root) {
        const Tensor s = y.get(bw);
        g = where(eq(s, zero()), zero(), div(g, add(s, s)));
      }
      const Tensor centred = sub(t, mean(t, plan.axes, true));
      result = mul(mul(centred, restore_axes(g, plan.wide)), number(2.0 / free));
    }
    if (bw.has_grad(1)) {
      const Tensor m = expand(div(restore_axes(bw.grad(1), plan.wide), number(n)), t.sizes());
      result = result.defined() ? add(result, m) : m;
    }
    if (result.defined()) bw.set(0, result);
  });
  return {outputs[0], outputs[1]};
}

}  // namespace

Tensor var(const Tensor& x, const Axes& axes, std::optional<Scalar> c, bool keepdim) {
  return moments("var", x, axes, c, keepdim, false).first;
}
Tensor std_dev(const Tensor& x, const Axes& axes, std::optional<Scalar> c, bool keepdim) {
  return moments("std", x, axes, c, keepdim, true).first;
}
std::pair<Tensor, Tensor> var_mean(const Tensor& x, const Axes& axes, std::optional<Scalar> c, bool keepdim) {
  return moments("var_mean", x, axes, c, keepdim, false);
}
std::pair<Tensor, Tensor> std_mean(const Tensor& x, const Axes& axes, std::optional<Scalar> c, bool keepdim) {
  return moments("std_mean", x, axes, c, keepdim, true);
}

// ---- norms
// -----------------------------------------------------------------------------------------------------------------------

namespace {

// Any other p. dy/dx = x |x|^(p-2) / y^(p-1), taken as 0 where x or y is 0.
Tensor general_norm(const Tensor& x, double p, const ReducePlan& plan) {
  Tensor y;
  {
    const GradModeGuard off(false);
    y = pow(sum(pow(abs(detach(x)), number(p)), Axes(plan.axes), false, std::nullopt), number(1 / p));
    y = alias(y, plan.sizes, contiguous_strides(plan.sizes), 0);
  }
  if (any_requires_grad(x))
    record("norm", y, {&x}, [x = save(x), y = Saved(y, 0), plan, p](Backward& bw) {
      const Tensor t = x.get(bw), r = restore_axes(y.get(bw), plan.wide), g = restore_axes(bw.grad(), plan.wide);
      const Tensor one = wrap_scalar(std::int64_t{1}), flat_x = eq(t, zero()), flat_y = eq(r, zero());
      const Tensor slope = where(flat_x, zero(), mul(t, pow(abs(where(flat_x, one, t)), number(p - 2))));
      bw.set(0, mul(slope, where(flat_y, zero(), div(g, pow(where(flat_y, one, r), number(p - 1))))));
    });
  return y;
}

}  // namespace

Tensor vector_norm(const Tensor& input, Scalar order, const Axes& axes, bool keepdim, MaybeDType dtype) {
  const char* name = "norm";
  const Tensor x = with_dtype(input, dtype);
  require_floating(name, x);
  const double p = order.to_double();
  const ReducePlan plan = reduce_plan(name, x.sizes(), axes, keepdim);
  const bool extreme = std::isinf(p);
  require(plan.n > 0 || p >= 0, name, "input", ErrorKind::Shape, "expected elements to reduce for p = ", p,
          ", got shape ", x.sizes());
  require(plan.n > 0 || !extreme, name, "input", ErrorKind::Shape,
          "expected elements to reduce for p = inf, got shape ", x.sizes());
  if (p == 0) {
    Tensor y = to_dtype(reduce_or(0, ReduceOp::nonzero, name, x, plan, DType::Int64, {0.0}), x.dtype());
    if (any_requires_grad(x))  // flat wherever it has a slope
      record(name, y, {&x}, [x = save(x)](Backward& bw) { bw.set(0, zeros_like(x.get(bw))); });
    return y;
  }
  if (p != 1 && p != 2 && !extreme) return general_norm(x, p, plan);
  const ReduceOp op = p == 1   ? ReduceOp::norm1
                      : p == 2 ? ReduceOp::norm2
                      : p > 0  ? ReduceOp::amax_abs
                               : ReduceOp::amin_abs;
  Tensor y = reduce_or(0, op, name, x, plan, x.dtype());
  if (any_requires_grad(x))
    record(name, y, {&x}, [x = save(x), y = Saved(y, 0), plan, p](Backward& bw) {
      const Tensor t = x.get(bw), r = restore_axes(y.get(bw), plan.wide), g = restore_axes(bw.grad(), plan.wide);
      if (p == 1) return bw.set(0, mul(g, sign(detach(t))));
      if (p == 2)
        return bw.set(0, where(eq(r, zero()), zero(), mul(t, div(g, r))));  // flat at the origin, as in PyTorch
      const Tensor hit = to_dtype(eq(abs(detach(t)), detach(r)), t.dtype());
      bw.set(0, mul(div(g, sum(hit, plan.axes, true)), mul(sign(detach(t)), hit)));
    });
  return y;
}

Tensor logsumexp(const Tensor& input, const Dims& axes, bool keepdim) {
  const Tensor x = is_floating(input.dtype()) ? input : to_dtype(input, default_dtype());
  const ReducePlan plan = reduce_plan("logsumexp", x.sizes(), axes, keepdim);
  Tensor y = reduce_or(-std::numeric_limits<double>::infinity(), ReduceOp::logsumexp, "logsumexp", x, plan, x.dtype());
  if (any_requires_grad(x))
    record("logsumexp", y, {&x}, [x = save(x), y = Saved(y, 0), wide = plan.wide](Backward& bw) {
      bw.set(0, mul(restore_axes(bw.grad(), wide), exp(sub(x.get(bw), restore_axes(y.get(bw), wide)))));
    });
  return y;
}

// ---- truth
// -----------------------------------------------------------------------------------------------------------------------

namespace {

Tensor truth(const char* name, const Tensor& x, const Axes& axes, bool keepdim, double mode) {
  const Tensor y = nonzeros(name, x, reduce_plan(name, x.sizes(), axes, keepdim), mode);
  return x.dtype() == DType::UInt8 ? to_dtype(y, DType::UInt8) : y;  // PyTorch keeps uint8, the bool of old
}

}  // namespace

Tensor any(const Tensor& x, const Axes& axes, bool keepdim) { return truth("any", x, axes, keepdim, 1); }
Tensor all(const Tensor& x, const Axes& axes, bool keepdim) { return truth("all", x, axes, keepdim, 2); }
Tensor count_nonzero(const Tensor& x, const Axes& axes) {
  return nonzeros("count_nonzero", x, reduce_plan("count_nonzero", x.sizes(), axes, false), 0);
}

}  // namespace pydlx::ops
