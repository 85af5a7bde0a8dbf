// Elementary functions, powers, division variants, rounding and clamping.
#pragma once
#include <optional>
#include <string>

#include "core/tensor.h"

namespace pydlx::ops {

// Rounding and signs. floor, ceil, trunc and round copy integers unchanged.
Tensor sign(const Tensor& x);
Tensor floor(const Tensor& x);
Tensor ceil(const Tensor& x);
Tensor trunc(const Tensor& x);
Tensor round(const Tensor& x, std::int64_t decimals);  // halves go to even
Tensor frac(const Tensor& x);
Tensor positive(const Tensor& x);
Tensor nan_to_num(const Tensor& x, std::optional<double> nan, std::optional<double> posinf,
                  std::optional<double> neginf);

// Powers and exponentials.
Tensor square(const Tensor& x);
Tensor rsqrt(const Tensor& x);
Tensor reciprocal(const Tensor& x);
Tensor exp2(const Tensor& x);
Tensor expm1(const Tensor& x);
Tensor log(const Tensor& x);
Tensor log2(const Tensor& x);
Tensor log10(const Tensor& x);
Tensor log1p(const Tensor& x);
Tensor pow(const Tensor& base, const Tensor& exponent);  // either may be a wrapped number
Tensor& pow_(Tensor& base, const Tensor& exponent);
Tensor float_power(const Tensor& base, const Tensor& exponent);  // in float64

// Trigonometric and hyperbolic.
Tensor sin(const Tensor& x);
Tensor cos(const Tensor& x);
Tensor tan(const Tensor& x);
Tensor asin(const Tensor& x);
Tensor acos(const Tensor& x);
Tensor atan(const Tensor& x);
Tensor sinh(const Tensor& x);
Tensor cosh(const Tensor& x);
Tensor tanh(const Tensor& x);
Tensor asinh(const Tensor& x);
Tensor acosh(const Tensor& x);
Tensor atanh(const Tensor& x);
Tensor deg2rad(const Tensor& x);
Tensor rad2deg(const Tensor& x);

// Gradients from the output; composed from differentiable operations if asked for.
Tensor tanh_gradient(const Tensor& g, const Tensor& y, bool differentiable);
Tensor sigmoid_gradient(const Tensor& g, const Tensor& y, bool differentiable);

// Special functions.
Tensor sigmoid(const Tensor& x);
Tensor logit(const Tensor& x, std::optional<double> eps);
Tensor erf(const Tensor& x);
Tensor erfc(const Tensor& x);
Tensor erfinv(const Tensor& x);
Tensor lgamma(const Tensor& x);
Tensor digamma(const Tensor& x);
Tensor sinc(const Tensor& x);  // sin(pi x) / (pi x)

// Two operands. Integer division by zero is an error.
Tensor divide(const Tensor& a, const Tensor& b,
              const std::optional<std::string>& rounding_mode);  // none, "floor" or "trunc"
Tensor floor_divide(const Tensor& a, const Tensor& b);
Tensor remainder(const Tensor& a, const Tensor& b);
Tensor fmod(const Tensor& a, const Tensor& b);
Tensor rsub(const Tensor& a, const Tensor& b, Scalar alpha);
Tensor atan2(const Tensor& a, const Tensor& b);
Tensor hypot(const Tensor& a, const Tensor& b);
Tensor fmax(const Tensor& a, const Tensor& b);
Tensor fmin(const Tensor& a, const Tensor& b);
Tensor copysign(const Tensor& a, const Tensor& b);
Tensor heaviside(const Tensor& a, const Tensor& b);
Tensor xlogy(const Tensor& a, const Tensor& b);
Tensor logaddexp(const Tensor& a, const Tensor& b);
Tensor logaddexp2(const Tensor& a, const Tensor& b);
Tensor ldexp(const Tensor& a, const Tensor& b);  // a 2^b

// Three operands.
Tensor lerp(const Tensor& a, const Tensor& b, const Tensor& weight);
Tensor addcmul(const Tensor& a, const Tensor& b, const Tensor& c, Scalar value);
Tensor addcdiv(const Tensor& a, const Tensor& b, const Tensor& c, Scalar value);
Tensor& lerp_(Tensor& a, const Tensor& b, const Tensor& weight);
Tensor& addcmul_(Tensor& a, const Tensor& b, const Tensor& c, Scalar value);
Tensor& addcdiv_(Tensor& a, const Tensor& b, const Tensor& c, Scalar value);
// Bounds may be undefined (none), numbers or tensors. Where they cross the upper one wins.
Tensor clamp(const Tensor& x, const Tensor& low, const Tensor& high);
Tensor& clamp_(Tensor& x, const Tensor& low, const Tensor& high);
Tensor clamp_min(const Tensor& x, const Tensor& low);
Tensor clamp_max(const Tensor& x, const Tensor& high);

}  // namespace pydlx::ops
