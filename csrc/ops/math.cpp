#include "ops/math.h"

#include <cmath>
#include <limits>

#include "kernels/pointwise.h"
#include "ops/elementwise_op.h"

namespace pydlx::ops {

using detail::number;
using detail::unary_op;
using detail::zero;

namespace {

constexpr double kLn2 = 0.69314718055994530942, kLn10 = 2.30258509299404568402, kTwoOverSqrtPi = 1.12837916709551257390;
constexpr double kPi = 3.14159265358979323846;

// Piecewise constant functions: the gradient is zero.
Tensor step_function(UnaryOp op, const char* name, const Tensor& x) {
  if (op != UnaryOp::sign && !is_floating(x.dtype())) return clone(x);
  return unary_op(op, name, x, false,
                  [](const Tensor&) { return [](Backward& bw) { bw.set(0, zeros_like(bw.grad())); }; });
}

}  // namespace

// ---- rounding and signs ---------------------------------------------------------------------------------------------

Tensor sign(const Tensor& x) { return x.dtype() == DType::Bool ? clone(x) : step_function(UnaryOp::sign, "sign", x); }
Tensor floor(const Tensor& x) { return step_function(UnaryOp::floor, "floor", x); }
Tensor ceil(const Tensor& x) { return step_function(UnaryOp::ceil, "ceil", x); }
Tensor trunc(const Tensor& x) { return step_function(UnaryOp::trunc, "trunc", x); }
Tensor round(const Tensor& x, std::int64_t decimals) {
  if (decimals == 0 || !is_floating(x.dtype())) return step_function(UnaryOp::round, "round", x);
  require(decimals >= -300 && decimals <= 300, "round", "decimals", ErrorKind::Value, "expected -300 to 300, got ",
          decimals);
  // Powers of ten up to 10^22 are exact in double; dividing by the positive power keeps both directions exact.
  const Tensor ten = number(std::pow(10.0, static_cast<double>(std::abs(decimals))));
  return decimals > 0 ? div(round(mul(x, ten), 0), ten) : mul(round(div(x, ten), 0), ten);
}
Tensor frac(const Tensor& x) {
  require(is_floating(x.dtype()), "frac", "input", ErrorKind::DType, "expected a floating point tensor, got ",
          x.dtype());
  return unary_op(UnaryOp::frac, "frac", x, false,
                  [](const Tensor&) { return [](Backward& bw) { bw.set(0, bw.grad()); }; });
}
Tensor positive(const Tensor& x) {
  require(x.dtype() != DType::Bool, "positive", "input", ErrorKind::DType, "expected numbers, got bool");
  return x;
}

Tensor nan_to_num(const Tensor& x, std::optional<double> nan, std::optional<double> posinf,
                  std::optional<double> neginf) {
  if (!is_floating(x.dtype())) return clone(x);
  double largest = 0;
  switch (x.dtype()) {
    case DType::Float16:
      largest = 65504;
      break;
    case DType::BFloat16:
      largest = 0x1.FEp127;
      break;
    case DType::Float32:
      largest = std::numeric_limits<float>::max();
      break;
    default:
      largest = std::numeric_limits<double>::max();
  }
  PointwiseParams params{{nan.value_or(0.0), posinf.value_or(largest), neginf.value_or(-largest), 0}};
  return unary_op(
      UnaryOp::nan_to_num, "nan_to_num", x, false,
      [&](const Tensor&) {
        return [x = save(x)](Backward& bw) {
          const Tensor finite = lt(abs(detach(x.get(bw))), number(std::numeric_limits<double>::infinity()));
          bw.set(0, where(finite, bw.grad(), zero()));
        };
      },
      params);
}

// ---- functions of one operand ---------------------------------------------------------------------------------------

Tensor square(const Tensor& x) { return pow(x, wrap_scalar(2)); }
Tensor rsqrt(const Tensor& x) {
  return unary_op(UnaryOp::rsqrt, "rsqrt", x, true, [](const Tensor& y) {
    return [y = Saved(y, 0)](Backward& bw) {
      const Tensor t = y.get(bw);
      bw.set(0, mul(bw.grad(), mul(pow(t, number(3)), number(-0.5))));
    };
  });
}
Tensor reciprocal(const Tensor& x) {
  return unary_op(UnaryOp::reciprocal, "reciprocal", x, true, [](const Tensor& y) {
    return [y = Saved(y, 0)](Backward& bw) {
      const Tensor t = y.get(bw);
      bw.set(0, neg(mul(bw.grad(), mul(t, t))));
    };
  });
}
Tensor exp2(const Tensor& x) {
  return unary_op(UnaryOp::exp2, "exp2", x, true, [](const Tensor& y) {
    return [y = Saved(y, 0)](Backward& bw) {
      const Tensor t = y.get(bw);
      bw.set(0, mul(bw.grad(), mul(t, number(kLn2))));
    };
  });
}
Tensor expm1(const Tensor& x) {
  return unary_op(UnaryOp::expm1, "expm1", x, true, [](const Tensor& y) {
    return [y = Saved(y, 0)](Backward& bw) {
      const Tensor t = y.get(bw);
      bw.set(0, mul(bw.grad(), add(t, number(1))));
    };
  });
}
Tensor log(const Tensor& x) {
  return unary_op(UnaryOp::log, "log", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, div(bw.grad(), t));
    };
  });
}
Tensor log2(const Tensor& x) {
  return unary_op(UnaryOp::log2, "log2", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, div(bw.grad(), mul(t, number(kLn2))));
    };
  });
}
Tensor log10(const Tensor& x) {
  return unary_op(UnaryOp::log10, "log10", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, div(bw.grad(), mul(t, number(kLn10))));
    };
  });
}
Tensor log1p(const Tensor& x) {
  return unary_op(UnaryOp::log1p, "log1p", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, div(bw.grad(), add(t, number(1))));
    };
  });
}
Tensor sin(const Tensor& x) {
  return unary_op(UnaryOp::sin, "sin", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, mul(bw.grad(), cos(t)));
    };
  });
}
Tensor cos(const Tensor& x) {
  return unary_op(UnaryOp::cos, "cos", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, neg(mul(bw.grad(), sin(t))));
    };
  });
}
Tensor tan(const Tensor& x) {
  return unary_op(UnaryOp::tan, "tan", x, true, [](const Tensor& y) {
    return [y = Saved(y, 0)](Backward& bw) {
      const Tensor t = y.get(bw);
      bw.set(0, mul(bw.grad(), add(square(t), number(1))));
    };
  });
}
Tensor asin(const Tensor& x) {
  return unary_op(UnaryOp::asin, "asin", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, mul(bw.grad(), rsqrt(sub(number(1), square(t)))));
    };
  });
}
Tensor acos(const Tensor& x) {
  return unary_op(UnaryOp::acos, "acos", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, neg(mul(bw.grad(), rsqrt(sub(number(1), square(t))))));
    };
  });
}
Tensor atan(const Tensor& x) {
  return unary_op(UnaryOp::atan, "atan", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, div(bw.grad(), add(square(t), number(1))));
    };
  });
}
Tensor sinh(const Tensor& x) {
  return unary_op(UnaryOp::sinh, "sinh", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, mul(bw.grad(), cosh(t)));
    };
  });
}
Tensor cosh(const Tensor& x) {
  return unary_op(UnaryOp::cosh, "cosh", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, mul(bw.grad(), sinh(t)));
    };
  });
}
Tensor asinh(const Tensor& x) {
  return unary_op(UnaryOp::asinh, "asinh", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, mul(bw.grad(), rsqrt(add(square(t), number(1)))));
    };
  });
}
Tensor acosh(const Tensor& x) {
  return unary_op(UnaryOp::acosh, "acosh", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, mul(bw.grad(), rsqrt(sub(square(t), number(1)))));
    };
  });
}
Tensor atanh(const Tensor& x) {
  return unary_op(UnaryOp::atanh, "atanh", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, div(bw.grad(), sub(number(1), square(t))));
    };
  });
}
Tensor erf(const Tensor& x) {
  return unary_op(UnaryOp::erf, "erf", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, mul(bw.grad(), mul(exp(neg(square(t))), number(kTwoOverSqrtPi))));
    };
  });
}
Tensor erfc(const Tensor& x) {
  return unary_op(UnaryOp::erfc, "erfc", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, mul(bw.grad(), mul(exp(neg(square(t))), number(-kTwoOverSqrtPi))));
    };
  });
}
Tensor erfinv(const Tensor& x) {
  return unary_op(UnaryOp::erfinv, "erfinv", x, true, [](const Tensor& y) {
    return [y = Saved(y, 0)](Backward& bw) {
      const Tensor t = y.get(bw);
      bw.set(0, mul(bw.grad(), mul(exp(square(t)), number(1 / kTwoOverSqrtPi))));
    };
  });
}
Tensor lgamma(const Tensor& x) {
  return unary_op(UnaryOp::lgamma, "lgamma", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, mul(bw.grad(), digamma(t)));
    };
  });
}

namespace {
// psi'; its own derivative is not provided.
Tensor trigamma(const Tensor& x) {
  return unary_op(UnaryOp::trigamma, "trigamma", x, true, [](const Tensor&) {
    return [](Backward&) {
      fail("trigamma", "", ErrorKind::NotImplemented,
           "expected at most two derivatives of digamma; higher ones are not available");
    };
  });
}
}  // namespace

Tensor digamma(const Tensor& x) {
  return unary_op(UnaryOp::digamma, "digamma", x, true, [&](const Tensor&) {
    return [x = save(x)](Backward& bw) { bw.set(0, mul(bw.grad(), trigamma(x.get(bw)))); };
  });
}

Tensor tanh_gradient(const Tensor& g, const Tensor& y, bool differentiable) {
  if (!differentiable) return run_binary(BinaryOp::tanh_backward, "tanh_backward", g, y, false);
  return mul(g, sub(number(1), square(y)));
}

Tensor tanh(const Tensor& x) {
  return unary_op(UnaryOp::tanh, "tanh", x, true, [](const Tensor& y) {
    return [y = Saved(y, 0)](Backward& bw) { bw.set(0, tanh_gradient(bw.grad(), y.get(bw), bw.create_graph)); };
  });
}

Tensor sigmoid_gradient(const Tensor& g, const Tensor& y, bool differentiable) {
  if (!differentiable) return run_binary(BinaryOp::sigmoid_backward, "sigmoid_backward", g, y, false);
  return mul(g, mul(y, sub(number(1), y)));
}

Tensor sigmoid(const Tensor& x) {
  return unary_op(UnaryOp::sigmoid, "sigmoid", x, true, [](const Tensor& y) {
    return [y = Saved(y, 0)](Backward& bw) { bw.set(0, sigmoid_gradient(bw.grad(), y.get(bw), bw.create_graph)); };
  });
}

Tensor logit(const Tensor& x, std::optional<double> eps) {
  const Tensor z = eps ? clamp(x, number(*eps), number(1 - *eps)) : x;
  return unary_op(UnaryOp::logit, "logit", z, true, [&](const Tensor&) {
    return [x = save(z)](Backward& bw) {
      const Tensor t = x.get(bw);
      bw.set(0, div(bw.grad(), mul(t, sub(number(1), t))));
    };
  });
}

Tensor sinc(const Tensor& x) {
  // Near 0 the gradient of sin(z) / z cancels, at 0 it is 0 / 0: there the Taylor series stands in.
  const Tensor z = mul(x, number(kPi)), near = le(abs(z), number(0.05));
  const Tensor s = square(where(near, z, zero())), far = where(near, number(1), z);
  const Tensor inner = sub(number(1), mul(mul(s, number(1.0 / 20)), sub(number(1), mul(s, number(1.0 / 42)))));
  return where(near, sub(number(1), mul(mul(s, number(1.0 / 6)), inner)), div(sin(far), far));
}

Tensor deg2rad(const Tensor& x) { return mul(x, number(kPi / 180)); }
Tensor rad2deg(const Tensor& x) { return mul(x, number(180 / kPi)); }

// ---- powers ---------------------------------------------------------------------------------------------------------

namespace {

// x^p for floating x and a host number, with the cheap cases spelled out. No gradient.
Tensor power_of(const Tensor& x, double p, bool inplace = false) {
  const char* name = inplace ? "pow_" : "pow";
  if (p == 2) return run_binary(BinaryOp::mul, name, x, x, false, inplace);
  if (p == 0.5) return run_unary(UnaryOp::sqrt, name, x, false, inplace);
  if (p == -0.5) return run_unary(UnaryOp::rsqrt, name, x, false, inplace);
  if (p == -1) return run_unary(UnaryOp::reciprocal, name, x, false, inplace);
  if (p == 3) return run_unary(UnaryOp::cube, name, x, false, inplace);
  return run_binary(BinaryOp::pow, name, x, number(p), false, inplace);
}

Tensor pow_gradient(const Tensor& g, const Tensor& x, double p, bool differentiable) {
  if (p == 0) return zeros_like(g);
  const Tensor power = p == 2 ? x : pow(x, number(p - 1));
  if (!differentiable) return run_binary(BinaryOp::mul_scaled, "pow_backward", g, power, false, false, {{p}});
  return mul(g, mul(power, number(p)));
}

}  // namespace

Tensor pow(const Tensor& base, const Tensor& exponent) {
  if (is_number(exponent)) {
    const Scalar p = load_scalar(exponent.data(), exponent.dtype());
    if (is_floating(base.dtype()) || p.is_float()) {
      const Tensor x = to_dtype(base, float_type(base.dtype()));
      Tensor y = power_of(detach(x), p.to_double());
      if (any_requires_grad(x))
        record("pow", y, {&x}, [x = save(x), p = p.to_double()](Backward& bw) {
          bw.set(0, pow_gradient(bw.grad(), x.get(bw), p, bw.create_graph));
        });
      return y;
    }
    require(p.i >= 0, "pow", "exponent", ErrorKind::Value, "expected a non-negative integer power of integers, got ",
            p.i, "; convert the base to a floating point dtype first");
    require_fits("pow", "exponent", p, base.dtype());
  }
  if (is_number(base) && is_floating(exponent.dtype()) && load_scalar(base.data(), base.dtype()).to_double() == 2)
    return exp2(exponent);
  Tensor y = run_binary(BinaryOp::pow, "pow", base, exponent, false);
  if (!any_requires_grad(base, exponent) || !is_floating(y.dtype())) return y;
  record("pow", y, {&base, &exponent},
         [sa = base.sizes(), sb = exponent.sizes(), da = base.dtype(), db = exponent.dtype(),
          a = save(detail::settled(base, y.dtype())), b = save(detail::settled(exponent, y.dtype())),
          y = any_requires_grad(exponent) ? Saved(y, 0) : Saved()](Backward& bw) {
           const Tensor g = bw.grad(), x = a.get(bw), p = b.get(bw);
           if (bw.needs(0)) {  // at exponent 0 the derivative is 0, also for base 0, where p x^(p-1) is 0 * infinity
             const Tensor slope = mul(p, pow(x, sub(p, number(1))));
             bw.set(0, detail::fit(where(eq(p, zero()), zero(), mul(g, slope)), sa, da));
           }
           if (bw.needs(1)) {  // 0^p = 0 for every p > 0: the derivative is 0 there, not 0 * log 0
             const Tensor flat = mul(eq(x, zero()), ge(p, zero()));  // bools: and
             bw.set(1, detail::fit(where(flat, zero(), mul(g, mul(y.get(bw), log(x)))), sb, db));
           }
         });
  return y;
}

Tensor& pow_(Tensor& base, const Tensor& exponent) {
  if (is_number(exponent) && is_floating(base.dtype()) && !any_requires_grad(base)) {
    check_inplace(base, "pow_");
    power_of(base, load_scalar(exponent.data(), exponent.dtype()).to_double(), true);
    return base;
  }
  return detail::assign("pow_", base, [&](const Tensor& x) { return pow(x, exponent); });
}

Tensor float_power(const Tensor& base, const Tensor& exponent) {
  return pow(to_dtype(base, DType::Float64), is_number(exponent) ? exponent : to_dtype(exponent, DType::Float64));
}

}  // namespace pydlx::ops
