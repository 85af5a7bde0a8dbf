// Division variants, clamping and the other ops of two and three operands declared in math.h.
#include <cmath>
#include <limits>

#include "kernels/pointwise.h"
#include "ops/elementwise_op.h"
#include "ops/math.h"
#include "ops/reduce.h"
#include "ops/views.h"

namespace pydlx::ops {

using detail::binary_op;
using detail::fit;
using detail::number;
using detail::zero;

namespace {

void refuse_zero_divisor(const char* name, const Tensor& a, const Tensor& b) {
  if (is_floating(result_type({&a, &b})) || b.numel() == 0 || a.numel() == 0) return;
  bool zeros;
  if (b.ndim() == 0 && b.is_cpu()) {
    zeros = load_scalar(b.data(), b.dtype()).i == 0;
  } else {
    zeros = item(sum(eq(b, zero()), {}, false)).i != 0;
  }
  require(!zeros, name, "other", ErrorKind::Runtime,
          "expected non-zero integers, got a zero divisor (ZeroDivisionError)");
}

Tensor keep(const Tensor& g, const Tensor&, const Tensor&) { return g; }
Tensor none(const Tensor& g, const Tensor&, const Tensor&) { return zeros_like(g); }

void refuse_bool(const char* name, const Tensor& a, const Tensor& b) {
  require(a.dtype() != DType::Bool || b.dtype() != DType::Bool, name, "", ErrorKind::DType,
          "expected numbers, got bool tensors");
}

}  // namespace

Tensor floor_divide(const Tensor& a, const Tensor& b) {
  refuse_bool("floor_divide", a, b);
  refuse_zero_divisor("floor_divide", a, b);
  return binary_op(BinaryOp::floor_divide, "floor_divide", a, b, false, none, none);
}

Tensor divide(const Tensor& a, const Tensor& b, const std::optional<std::string>& rounding_mode) {
  if (!rounding_mode) return div(a, b);
  if (*rounding_mode == "floor") return floor_divide(a, b);
  require(*rounding_mode == "trunc", "div", "rounding_mode", ErrorKind::Value,
          "expected None, 'floor' or 'trunc', got '", *rounding_mode, "'");
  refuse_bool("div", a, b);
  refuse_zero_divisor("div", a, b);
  return binary_op(BinaryOp::trunc_divide, "div", a, b, false, none, none);
}

Tensor remainder(const Tensor& a, const Tensor& b) {
  refuse_bool("remainder", a, b);
  refuse_zero_divisor("remainder", a, b);
  return binary_op(BinaryOp::remainder, "remainder", a, b, false, keep,
                   [](const Tensor& g, const Tensor& x, const Tensor& y) { return neg(mul(g, floor_divide(x, y))); });
}

Tensor fmod(const Tensor& a, const Tensor& b) {
  refuse_bool("fmod", a, b);
  refuse_zero_divisor("fmod", a, b);
  return binary_op(BinaryOp::fmod, "fmod", a, b, false, keep, [](const Tensor& g, const Tensor& x, const Tensor& y) {
    return neg(mul(g, divide(x, y, "trunc")));
  });
}

Tensor rsub(const Tensor& a, const Tensor& b, Scalar alpha) { return sub(b, a, alpha); }

Tensor atan2(const Tensor& a, const Tensor& b) {
  auto norm = [](const Tensor& x, const Tensor& y) {  // at the origin the gradient counts as 0
    const Tensor n = add(mul(x, x), mul(y, y));
    return where(eq(n, zero()), number(1), n);
  };
  return binary_op(
      BinaryOp::atan2, "atan2", a, b, true,
      [norm](const Tensor& g, const Tensor& x, const Tensor& y) { return mul(g, div(y, norm(x, y))); },
      [norm](const Tensor& g, const Tensor& x, const Tensor& y) { return neg(mul(g, div(x, norm(x, y)))); });
}

Tensor hypot(const Tensor& a, const Tensor& b) {
  return binary_op(
      BinaryOp::hypot, "hypot", a, b, true,
      [](const Tensor& g, const Tensor& x, const Tensor& y) { return mul(g, div(x, hypot(x, y))); },
      [](const Tensor& g, const Tensor& x, const Tensor& y) { return mul(g, div(y, hypot(x, y))); });
}

namespace {
// The gradient goes to the operand that was chosen; the first one on ties.
template <class Chosen>
Tensor choose(BinaryOp op, BinaryOp for_integers, const char* name, const Tensor& a, const Tensor& b, Chosen first) {
  const bool floats = is_floating(result_type({&a, &b}));
  return binary_op(
      floats ? op : for_integers, name, a, b, false,
      [first](const Tensor& g, const Tensor& x, const Tensor& y) { return where(first(x, y), g, zero()); },
      [first](const Tensor& g, const Tensor& x, const Tensor& y) { return where(first(x, y), zero(), g); });
}
}  // namespace

Tensor fmax(const Tensor& a, const Tensor& b) {  // add on bools is or
  return choose(BinaryOp::fmax, BinaryOp::maximum, "fmax", a, b,
                [](const Tensor& x, const Tensor& y) { return add(ge(x, y), ne(y, y)); });
}
Tensor fmin(const Tensor& a, const Tensor& b) {
  return choose(BinaryOp::fmin, BinaryOp::minimum, "fmin", a, b,
                [](const Tensor& x, const Tensor& y) { return add(le(x, y), ne(y, y)); });
}

Tensor copysign(const Tensor& a, const Tensor& b) {
  return binary_op(
      BinaryOp::copysign, "copysign", a, b, true,
      [](const Tensor& g, const Tensor& x, const Tensor& y) { return mul(g, sign(mul(x, copysign(number(1), y)))); },
      none);
}

Tensor heaviside(const Tensor& a, const Tensor& b) {
  return binary_op(BinaryOp::heaviside, "heaviside", a, b, false, none, none);
}

Tensor xlogy(const Tensor& a, const Tensor& b) {
  return binary_op(
      BinaryOp::xlogy, "xlogy", a, b, true,
      [](const Tensor& g, const Tensor& x, const Tensor& y) {
        return mul(g, where(mul(eq(x, zero()), le(y, zero())), zero(), log(y)));
      },
      [](const Tensor& g, const Tensor& x, const Tensor& y) { return mul(g, div(x, y)); });
}

Tensor logaddexp(const Tensor& a, const Tensor& b) {
  return binary_op(
      BinaryOp::logaddexp, "logaddexp", a, b, false,
      [](const Tensor& g, const Tensor& x, const Tensor& y) { return mul(g, sigmoid(sub(x, y))); },
      [](const Tensor& g, const Tensor& x, const Tensor& y) { return mul(g, sigmoid(sub(y, x))); });
}

// 16-bit floats go through float32, so that steps in between are not rounded to 16 bits.
Tensor logaddexp2(const Tensor& a, const Tensor& b) {
  constexpr double ln2 = 0.69314718055994530942;
  const DType dtype = float_type(result_type({&a, &b})), wide = promote(dtype, DType::Float32);
  const Tensor x = mul(to_dtype(a, wide), number(ln2)), y = mul(to_dtype(b, wide), number(ln2));
  return to_dtype(mul(logaddexp(x, y), number(1 / ln2)), dtype);
}
// a 2^b. Powers that the result's dtype does not hold may still bring a into its range: integer exponents are applied
// in float64, to float64 in three steps.
Tensor ldexp(const Tensor& a, const Tensor& b) {
  const DType dtype = float_type(result_type({&a, &b}));
  if (is_floating(b.dtype())) return mul(to_dtype(a, dtype), pow(number(2), to_dtype(b, dtype)));
  const int steps = dtype == DType::Float64 ? 3 : 1;
  const auto integer = [](std::int64_t v) { return wrap_scalar(v); };
  // Beyond 800 per step everything is 0 or infinite.
  Tensor left = clamp(to_dtype(b, DType::Int64), integer(-800 * steps), integer(800 * steps));
  Tensor y = to_dtype(a, DType::Float64);
  for (int step = steps; step > 0; --step) {
    const Tensor part = step > 1 ? floor_divide(left, integer(step)) : left;
    y = mul(y, exp2(to_dtype(part, DType::Float64)));
    left = sub(left, part);
  }
  return to_dtype(y, dtype);
}

// ---- three operands -------------------------------------------------------------------------------------------------

namespace {

template <class F>
Tensor ternary(TernaryOp op, const char* name, const Tensor& a, const Tensor& b, const Tensor& c, bool to_float,
               double value, F make_backward) {
  Tensor y = run_ternary(op, name, a, b, c, to_float, false, PointwiseParams{{value, 0, 0, 0}});
  if (any_requires_grad(a, b, c) && is_floating(y.dtype())) record(name, y, {&a, &b, &c}, make_backward());
  return y;
}
template <class F>
Tensor& ternary_(TernaryOp op, const char* name, Tensor& a, const Tensor& b, const Tensor& c, bool to_float,
                 double value, F f) {
  if (any_requires_grad(a, b, c)) return detail::assign(name, a, f);
  check_inplace(a, name);
  run_ternary(op, name, a, b, c, to_float, true, PointwiseParams{{value, 0, 0, 0}});
  return a;
}
void check_value(const char* name, const Tensor& a, const Tensor& b, const Tensor& c, Scalar value) {
  require(!value.is_float() || is_floating(result_type({&a, &b, &c})), name, "value", ErrorKind::DType,
          "expected an integer for integer tensors, got ", value.to_double());
}

}  // namespace

Tensor lerp(const Tensor& a, const Tensor& b, const Tensor& weight) {
  return ternary(TernaryOp::lerp, "lerp", a, b, weight, false, 0, [&] {
    return [sa = a.sizes(), sb = b.sizes(), sw = weight.sizes(), dt = a.dtype(), dw = weight.dtype(),
            a = save_if(weight.requires_grad(), a), b = save_if(weight.requires_grad(), b),
            w = save(detail::settled(weight, a.dtype()))](Backward& bw) {
      const Tensor g = bw.grad(), t = w.get(bw);
      if (bw.needs(0)) bw.set(0, fit(mul(g, sub(number(1), t)), sa, dt));
      if (bw.needs(1)) bw.set(1, fit(mul(g, t), sb, dt));
      if (bw.needs(2)) bw.set(2, fit(mul(g, sub(b.get(bw), a.get(bw))), sw, dw));
    };
  });
}
Tensor& lerp_(Tensor& a, const Tensor& b, const Tensor& weight) {
  return ternary_(TernaryOp::lerp, "lerp_", a, b, weight, false, 0,
                  [&](const Tensor& x) { return lerp(x, b, weight); });
}

Tensor addcmul(const Tensor& a, const Tensor& b, const Tensor& c, Scalar value) {
  check_value("addcmul", a, b, c, value);
  return ternary(TernaryOp::addcmul, "addcmul", a, b, c, false, value.to_double(), [&] {
    return
        [sa = a.sizes(), sb = b.sizes(), sc = c.sizes(), da = a.dtype(), db = b.dtype(), dc = c.dtype(),
         v = wrap_scalar(value), b = save_if(c.requires_grad(), b), c = save_if(b.requires_grad(), c)](Backward& bw) {
          if (bw.needs(0)) bw.set(0, fit(bw.grad(), sa, da));
          if (bw.needs(1)) bw.set(1, fit(mul(bw.grad(), mul(c.get(bw), v)), sb, db));
          if (bw.needs(2)) bw.set(2, fit(mul(bw.grad(), mul(b.get(bw), v)), sc, dc));
        };
  });
}
Tensor& addcmul_(Tensor& a, const Tensor& b, const Tensor& c, Scalar value) {
  check_value("addcmul_", a, b, c, value);
  return ternary_(TernaryOp::addcmul, "addcmul_", a, b, c, false, value.to_double(),
                  [&](const Tensor& x) { return addcmul(x, b, c, value); });
}

Tensor addcdiv(const Tensor& a, const Tensor& b, const Tensor& c, Scalar value) {
  return ternary(TernaryOp::addcdiv, "addcdiv", a, b, c, true, value.to_double(), [&] {
    return [sa = a.sizes(), sb = b.sizes(), sc = c.sizes(), da = a.dtype(), db = b.dtype(), dc = c.dtype(),
            v = wrap_scalar(value), b = save_if(c.requires_grad(), b), c = save(c)](Backward& bw) {
      const Tensor d = c.get(bw);
      if (bw.needs(0)) bw.set(0, fit(bw.grad(), sa, da));
      if (bw.needs(1)) bw.set(1, fit(mul(bw.grad(), div(v, d)), sb, db));
      if (bw.needs(2)) bw.set(2, fit(neg(mul(bw.grad(), mul(div(div(b.get(bw), d), d), v))), sc, dc));
    };
  });
}
Tensor& addcdiv_(Tensor& a, const Tensor& b, const Tensor& c, Scalar value) {
  return ternary_(TernaryOp::addcdiv, "addcdiv_", a, b, c, true, value.to_double(),
                  [&](const Tensor& x) { return addcdiv(x, b, c, value); });
}

// ---- clamp ----------------------------------------------------------------------------------------------------------

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

double bound(const Tensor& t, double missing) {
  return t.defined() ? load_scalar(t.data(), t.dtype()).to_double() : missing;
}

void check_bounds(const Tensor& low, const Tensor& high) {
  require(low.defined() || high.defined(), "clamp", "min", ErrorKind::Value,
          "expected min, max or both, got None twice");
}
// Tensors between two numbers have a kernel of their own, unless the numbers would raise the category.
bool by_numbers(const Tensor& x, const Tensor& low, const Tensor& high) {
  const auto plain = [&](const Tensor& t) {
    return !t.defined() ||
           (is_number(t) && !std::isnan(bound(t, 0)) && dtype_category(t.dtype()) <= dtype_category(x.dtype()));
  };
  return x.dtype() != DType::Bool && plain(low) && plain(high);
}
// Bounds of integers come as the bits of 64-bit integers. Beyond what the dtype can hold they are its own bounds, or
// refused if nothing that it can hold is inside.
PointwiseParams bounds(const char* op, const Tensor& x, const Tensor& low, const Tensor& high) {
  if (is_floating(x.dtype())) return {{bound(low, -kInf), bound(high, kInf), 0, 0}};
  const std::int64_t smallest = integer_min(x.dtype()), largest = integer_max(x.dtype());
  const auto integer = [](const Tensor& t, std::int64_t missing) {
    return t.defined() ? load_scalar(t.data(), t.dtype()).to_int() : missing;
  };
  const std::int64_t from = integer(low, smallest), to = integer(high, largest);
  require(from <= largest, op, "min", ErrorKind::Value, "expected a number that fits ", x.dtype(), ", got ", from);
  require(to >= smallest, op, "max", ErrorKind::Value, "expected a number that fits ", x.dtype(), ", got ", to);
  return {{bit_cast<double>(std::max(from, smallest)), bit_cast<double>(std::min(to, largest)), 0, 0}};
}
// `beyond`, or where the bound is NaN, which then is the result.
Tensor or_nan(const Tensor& beyond, const Tensor& limit) {
  return is_floating(limit.dtype()) ? add(beyond, ne(limit, limit)) : beyond;  // add on bools is or
}

}  // namespace

Tensor clamp(const Tensor& x, const Tensor& low, const Tensor& high) {
  check_bounds(low, high);
  if (by_numbers(x, low, high)) {
    const PointwiseParams params = bounds("clamp", x, low, high);
    return detail::unary_op(
        UnaryOp::clamp, "clamp", x, false,
        [&](const Tensor&) {
          return [x = save(x), low, high, params](Backward& bw) {
            const Tensor t = detach(x.get(bw));
            if (!bw.create_graph) {
              bw.set(0, run_binary(BinaryOp::clamp_backward, "clamp_backward", bw.grad(), t, false, false, params));
              return;
            }
            bw.set(0, where(mul(ge(t, number(params.p[0])), le(t, number(params.p[1]))), bw.grad(), zero()));
          };
        },
        params);
  }
  Tensor y = to_dtype(x, low.defined() && high.defined() ? result_type({&x, &low, &high})
                                                         : result_type({&x, low.defined() ? &low : &high}));
  if (low.defined()) y = where(or_nan(lt(y, low), low), low, y);
  if (high.defined()) y = where(or_nan(gt(y, high), high), high, y);
  return y;
}
Tensor& clamp_(Tensor& x, const Tensor& low, const Tensor& high) {
  check_bounds(low, high);
  auto f = [&](const Tensor& t) { return clamp(t, low, high); };
  if (!by_numbers(x, low, high)) return detail::assign("clamp_", x, f);
  return detail::assign_unary(UnaryOp::clamp, "clamp_", x, false, f, bounds("clamp_", x, low, high));
}
Tensor clamp_min(const Tensor& x, const Tensor& low) { return clamp(x, low, Tensor()); }
Tensor clamp_max(const Tensor& x, const Tensor& high) { return clamp(x, Tensor(), high); }

}  // namespace pydlx::ops
