// Powers, branch-free (see functors/math.h). On GPUs that of double is CUDA's own.
#pragma once
#include "functors/math.h"

namespace pydlx::math {

// C99 results around r = |x|^y.
template <class T>
PYDLX_HD T pow_specials(T x, T y, T r) {
  const T half = T(0.5) * y;
  r = abs(x) == T(1) ? T(1) : r;            // log 1 = 0, also against infinite y
  T sign = trunc(half) != half ? x : T(1);  // odd y keep the sign of x
  sign = trunc(y) == y ? sign : T(1);
  r = copysign(r, sign);
  const T real = trunc(y) == y ? r : kNaN<T>;  // finite negative numbers have only integral powers
  const T finite = x > -kInfinity<T> ? real : r;
  r = x < T(0) ? finite : r;
  r = x == T(1) ? T(1) : r;
  return y == T(0) ? T(1) : r;
}

// Through double, whose 29 extra bits absorb the cancellation in y log x. Max error 0.6 ULP.
PYDLX_HD float pow(float x, float y) {
  const double t = static_cast<double>(y) * log(static_cast<double>(abs(x)));
  return pow_specials(x, y, static_cast<float>(exp(t)));
}

// log a for a > 0 as high + low with some 65 bits: 2 atanh(s) of s = f / (2 + f), whose first two terms have two parts.
PYDLX_HD double log_parts(double a, double& low) {
  double e;
  const double f = split(a, e), d = 2.0 + f, d_rest = f - (d - 2.0), inverse = 1.0 / d;
  const double s = f * inverse, sd = s * d;
  const double s_rest = ((f - sd) - product_rest(s, d, sd) - s * d_rest) * inverse;
  const double z = s * s, z_rest = product_rest(s, s, z) + 2.0 * s * s_rest;
  // z / 3 + z^2 q(z); relative error of the logarithm 1.1e-20
  const double q = horner(z, 0.06598153949020940656, 0.0662841087831969461, 0.07693378531847779034,
                          0.09090892187764813837, 0.1111111125989500542, 0.1428571428505028273, 0.2000000000000112799);
  const double third = 0x1.5555555555555p-2, third_rest = 0x1.5555555555555p-56;
  const double t = z * third, t_rest = product_rest(z, third, t) + (z * third_rest + z_rest * third + z * z * q);
  const double u = s * t, u_rest = product_rest(s, t, u) + (s * t_rest + s_rest * t);
  // e log 2 + 2 s + 2 u, largest first
  const double a0 = e * 0x1.62e42fefa3000p-1, b0 = 2.0 * s, sum = a0 + b0, sum_rest = (a0 - sum) + b0;
  const double total = sum + 2.0 * u, total_rest = (sum - total) + 2.0 * u;
  const double more = total_rest + (sum_rest + (2.0 * (u_rest + s_rest) + e * 0x1.3de6af278ece6p-42));
  const double high = total + more;
  low = (total - high) + more;
  return high;
}

// Max error 2 ULP.
PYDLX_HD double pow(double x, double y) {
  if constexpr (kOnDevice) return __builtin_pow(x, y);
  const double a = abs(x);
  double low, n;
  const double high = log_specials(a, log_parts(a, low)), t = y * high, rest = product_rest(y, high, t) + y * low;
  const double c = t > 800.0 ? 800.0 : (t < -800.0 ? -800.0 : t);
  const double r = reduce_ln2(c, n) + (abs(t) < 800.0 ? rest : 0.0);
  return pow_specials(x, y, scale(1.0 + (r + r * r * exp_tail(r)), n));
}

}  // namespace pydlx::math
