// The rarer functions: in double mostly the C library's, in float branch-free forms as in functors/math.h, several of
// which work in double and round once. Errors are at most a few ULP; tests/test_ulp.py measures the bounds stated here.
#pragma once
#include "functors/error_function.h"
#include "functors/power.h"
#include "functors/trigonometric.h"

namespace pydlx::math {

// e^a / 2 for a >= 0 without the overflow of e^a just below that of the hyperbolic functions.
PYDLX_HD float half_exp(float a) {
  float n;
  const float r = reduce_ln2(a > 90.0f ? 90.0f : a, n);
  return scale(1.0f + (r + r * r * exp_tail(r)), n - 1.0f);
}
// Below 1 a polynomial (relative error of the fit 6e-11), where the difference of exponentials would cancel. Max error
// 2 ULP.
PYDLX_HD float sinh(float x) {
  const float a = abs(x), h = half_exp(a), z = x * x;
  const float small = x + x * z * horner(z, 2.816957365e-06f, 1.983615876e-04f, 8.333350063e-03f, 1.666666650e-01f);
  return a < 1.0f ? small : copysign(h - 0.25f / h, x);
}
// Max error 2 ULP.
PYDLX_HD float cosh(float x) {
  const float h = half_exp(abs(x));
  return h + 0.25f / h;
}
// In double with a = n log 2 + r, from the even and the odd part of e^r: e^a / 2 = 2^(n-1) (cosh r + sinh r) and
// e^-a / 2 = 2^(-n-1) (cosh r - sinh r) share the polynomials (relative errors of the fits 5.5e-18 and 2.6e-19), and
// for n = 0 nothing cancels. Halved, so that nothing overflows early. Max error 2.5 ULP.
struct HyperbolicParts {
  double sinh_r, cosh_r_less_1, grown, shrunk;  // 2^(n-2), 2^(-n-2)
};
PYDLX_HD HyperbolicParts hyperbolic_parts(double x) {
  double n;
  const double a = abs(x), r = reduce_ln2(a > 710.6 ? 710.6 : a, n), z = r * r;
  const double s = r + r * z *
                           horner(z, 2.510904279784634639e-8, 2.755724419087421739e-6, 1.984126988614631358e-4,
                                  8.333333333321622099e-3, 0.1666666666666667684);
  const double c = 0.5 * z + z * z *
                                 horner(z, 2.092164131925073797e-9, 2.75572522040083467e-7, 2.480158734879562917e-5,
                                        1.388888888887346122e-3, 0.04166666666666668517);
  const std::int64_t k = to_int(n);
  return {s, c, bit_cast<double>((k + 1021) << 52), bit_cast<double>((1021 - (n > 100.0 ? 100 : k)) << 52)};
}
PYDLX_HD double sinh(double x) {
  if constexpr (kOnDevice) return __builtin_sinh(x);
  const HyperbolicParts p = hyperbolic_parts(x);
  const double sum = p.grown + p.shrunk, difference = p.grown - p.shrunk;
  const double y = 2.0 * (difference + (p.cosh_r_less_1 * difference + p.sinh_r * sum));
  return copysign(abs(x) < 0x1p-30 ? abs(x) : y, x);  // without the halving of subnormal numbers
}
PYDLX_HD double cosh(double x) {
  if constexpr (kOnDevice) return __builtin_cosh(x);
  const HyperbolicParts p = hyperbolic_parts(x);
  const double sum = p.grown + p.shrunk, difference = p.grown - p.shrunk;
  return 2.0 * (sum + (p.cosh_r_less_1 * sum + p.sinh_r * difference));
}
// The inverse hyperbolic functions as logarithms, of sums formed in double; near 0, where the logarithm
// loses what they are made of, polynomials (relative errors of the fits 6e-11 and 9e-11). Max error 1.5 ULP, atanh 2
// ULP.
PYDLX_HD float asinh(float x) {
  const float z = x * x;
  const float small = x + x * z *
                              horner(z, 9.165557111e-03f, -1.997853122e-02f, 3.001259112e-02f, -4.461320998e-02f,
                                     7.499889088e-02f, -1.666666528e-01f);
  const double a = abs(x);
  return abs(x) < 0.5f ? small : copysign(static_cast<float>(log(a + sqrt(a * a + 1.0))), x);
}
// Through log1p; from 2^500 on, where squares would overflow, log(2 a) does. Max error 3 ULP.
PYDLX_HD double asinh(double x) {
  if constexpr (kOnDevice) return __builtin_asinh(x);
  const double a = abs(x), z = a * a;
  const double near = a + z / (1.0 + sqrt(z + 1.0));
  return copysign(log1p(a > 0x1p500 ? a : near) + (a > 0x1p500 ? 0.69314718055994530942 : 0.0), x);
}
PYDLX_HD float acosh(float x) {
  const double a = x;
  return x < 1.0f ? kNaN<float> : static_cast<float>(log(a + sqrt((a - 1.0) * (a + 1.0))));
}
PYDLX_HD double acosh(double x) {
  if constexpr (kOnDevice) return __builtin_acosh(x);
  const double t = x - 1.0, near = t + sqrt(t * (t + 2.0));
  const double y = log1p(x > 0x1p500 ? x : near) + (x > 0x1p500 ? 0.69314718055994530942 : 0.0);
  return x < 1.0 ? kNaN<double> : y;
}
PYDLX_HD float atanh(float x) {
  const float z = x * x;
  const float small = x + x * z *
                              horner(z, 1.760188548e-01f, 2.446061158e-02f, 1.028460443e-01f, 1.096688974e-01f,
                                     1.429487540e-01f, 1.999972676e-01f, 3.333333607e-01f);
  const float a = abs(x);
  return a < 0.5f ? small : copysign(0.5f * log((1.0f + a) / (1.0f - a)), x);
}
PYDLX_HD double atanh(double x) {
  if constexpr (kOnDevice) return __builtin_atanh(x);
  const double a = abs(x), b = 2.0 * a;
  const double y = 0.5 * log1p(b + b * (a / (1.0 - a)));
  return copysign(a > 1.0 ? kNaN<double> : y, x);
}
PYDLX_HD float hypot(float a, float b) {  // exact squares in double cannot overflow
  const double x = a, y = b;
  const float r = static_cast<float>(__builtin_sqrt(x * x + y * y));
  return abs(a) == kInfinity<float> || abs(b) == kInfinity<float> ? kInfinity<float> : r;
}
// The larger exponent is taken out first. Max error 1.5 ULP.
PYDLX_HD double hypot(double a, double b) {
  if constexpr (kOnDevice) return __builtin_hypot(a, b);
  const double x = abs(a), y = abs(b), high = x > y ? x : y, bound = high > 0x1p1020 ? 0x1p1020 : high;
  const std::uint64_t exponent = bit_cast<std::uint64_t>(bound < 0x1p-1000 ? 0x1p-1000 : bound) & 0x7ff0000000000000ull;
  const double unit = bit_cast<double>(exponent), inverse = bit_cast<double>(0x7fe0000000000000ull - exponent);
  const double p = x * inverse, q = y * inverse, r = sqrt(p * p + q * q) * unit;
  return x == kInfinity<double> || y == kInfinity<double> ? kInfinity<double> : r;
}
PYDLX_HD float fmod(float a, float b) { return __builtin_fmodf(a, b); }
// fmod for |a| < 2^29 |b|, exact. In double a / b cannot round up to an integer n: it differs from n by a multiple of
// ulp(b) / |b| > 2^-24, and n's neighbours in double lie within 2^-24 of it. The product then has at most 53 bits, and
// the difference is a multiple of ulp(b) (or of ulp(a), if less) below |b|. Infinite b are allowed.
PYDLX_HD float fmod_small(float a, float b) {
  const double x = a, y = b;
  const float r = static_cast<float>(x - trunc(x / y) * y);
  return abs(a) < abs(b) ? a : copysign(r, a);
}
// The same for double and |a| < 2^52 |b|. The product and the difference are rounded together, that is, not at all: the
// result is a multiple of ulp(b) (or of ulp(a), if less) of at most |b|. A quotient just below an integer may round up
// to it, which a negative result shows.
PYDLX_HD double fmod_small(double a, double b) {
  const double x = abs(a), y = abs(b);
  const double r = __builtin_fma(-trunc(x / y), y, x), up = r < 0.0 ? r + y : r;
  return x < y ? a : copysign(up, a);
}
// Whether fmod_small does not serve: NaN, infinite a and zero b included.
PYDLX_HD bool fmod_is_large(float a, float b) { return !(abs(a) < 536870912.0 * abs(static_cast<double>(b))); }
PYDLX_HD bool fmod_is_large(double a, double b) {
  return !kHasFusedMultiply || !(abs(a) < 4503599627370496.0 * abs(b));
}
PYDLX_HD double fmod(double a, double b) { return __builtin_fmod(a, b); }

// The variant with an explicit sign result: the host's plain lgamma writes a global variable, which is a race between
// threads.
PYDLX_HD double lgamma(double x) {
#if defined(__CUDA_ARCH__)
  return ::lgamma(x);
#else
  int sign;
  return __builtin_lgamma_r(x, &sign);
#endif
}
// For x > 0, branch-free. Below 7.5 with n, a whole number near x, and t = x - n in [-3/4, 1/2]: t q(t) is
// log gamma(2 + t) (relative error of the fit 2.3e-18), and the logarithm of a product takes it to x, with little
// cancellation: next to x = 1, where both are small, what the logarithm begins with is t again. From there on
// Stirling's series, with log x - 1, of less rounding than log x. Max error 3.5 ULP.
PYDLX_HD double lgamma_positive(double x) {
  if constexpr (kOnDevice) return lgamma(x);
  const double n = x > 1.25 ? (x < 2.0 ? 2.0 : round(x)) : (x < 0.5 ? 0.0 : 1.0), t = x - n;
  const double z = t * t, y = z * z;
  const double q0 = 0.4227843350984671388 + 0.3224670334241131895 * t,
               q1 = -0.06735230105319778385 + 0.02058080842779071054 * t,
               q2 = -0.007385551028701296943 + 0.002890510330346225181 * t,
               q3 = -0.001192753910883138399 + 0.0005096695364117656785 * t,
               q4 = -0.0002231547675312123024 + 0.00009945732535339389447 * t,
               q5 = -0.00004492625004483816612 + 0.00002050897010162388673 * t,
               q6 = -9.438262835301752972e-6 + 4.365157857757005727e-6 * t,
               q7 = -2.05119646949993881e-6 + 9.847744457464697679e-7 * t,
               q8 = -3.943825346186424114e-7 + 1.747645744856348704e-7 * t,
               q9 = -2.249567873666732753e-7 + 2.489847699903211125e-8 * t,
               q10 = 8.831514799759366713e-8 + 8.991870459738648108e-8 * t;
  const double high = (q6 + z * q7) + y * ((q8 + z * q9) + y * q10);
  const double q = (q0 + z * q1) + y * ((q2 + z * q3) + y * ((q4 + z * q5) + y * high));
  const double down = ((n > 2.0 ? x - 1.0 : 1.0) * (n > 3.0 ? x - 2.0 : 1.0)) *
                      ((n > 4.0 ? x - 3.0 : 1.0) * (n > 5.0 ? x - 4.0 : 1.0)) * (n > 6.0 ? x - 5.0 : 1.0);
  const double up = n < 1.0 ? x * (x + 1.0) : x, product = n < 2.0 ? up : down;
  double e;
  const double f = split(x < 7.5 ? product : x, e), tail = e * 1.90821492927058770002e-10 + log_tail(f);
  const double sign = n < 2.0 ? -1.0 : 1.0, small = (t * q + sign * f) + sign * tail;
  const double log_less_1 = (e * 6.93147180369123816490e-01 - 1.0) + (f + tail), u = 1.0 / x, v = u * u;
  const double series = u * horner(v, -0.001621698353462325044, 0.0008361258371163560514, -0.0005951875960043908961,
                                   0.0007936505868464078691, -0.002777777777466860544, 0.08333333333333325752);
  const double large = (x - 0.5) * log_less_1 + (0.41893853320467274178 + series);
  return x < 7.5 ? sign * e * 6.93147180369123816490e-01 + small : large;
}
// 1 / (a + 0) + ... + 1 / (a + 7) = sum / product, as the recurrences of the gamma function need it. The first and the
// last term have the product w = a (a + 7) of their denominators, the next ones w + 6, w + 10 and w + 12.
struct Rising {
  double product, sum;
};
PYDLX_HD Rising rising8(double a) {
  const double w = a * (a + 7.0), p = w * (w + 6.0), q = (w + 10.0) * (w + 12.0);
  return {p * q, (2.0 * a + 7.0) * ((2.0 * w + 6.0) * q + (2.0 * w + 22.0) * p)};
}
// The same of the squares. (All terms are positive for a > 0.)
PYDLX_HD Rising rising8_squares(double a) {
  const double w = a * (a + 7.0), w0 = w * w, w1 = (w + 6.0) * (w + 6.0), w2 = (w + 10.0) * (w + 10.0),
               w3 = (w + 12.0) * (w + 12.0), p = w0 * w1, q = w2 * w3;
  const double s = (2.0 * w + 49.0) * w1 + (2.0 * w + 37.0) * w0, t = (2.0 * w + 29.0) * w3 + (2.0 * w + 25.0) * w2;
  return {p * q, s * q + t * p};
}
// sin(pi f) and cos(pi f) for |f| <= 1/2 by Taylor's series.
PYDLX_HD double sin_pi(double f) {
  const double r = 3.14159265358979323846 * f, z = r * r;
  return r * horner(z, 1.9572941063391261e-20, -8.2206352466243297e-18, 2.8114572543455206e-15, -7.6471637318198164e-13,
                    1.6059043836821613e-10, -2.5052108385441720e-8, 2.7557319223985893e-6, -1.9841269841269841e-4,
                    8.3333333333333333e-3, -1.6666666666666667e-1, 1.0);
}
PYDLX_HD double cos_pi(double f) {
  const double r = 3.14159265358979323846 * f, z = r * r;
  return horner(z, 4.1103176233121648e-19, -1.5619206968586226e-16, 4.7794773323873853e-14, -1.1470745597729725e-11,
                2.0876756987868099e-9, -2.7557319223985888e-7, 2.4801587301587302e-5, -1.3888888888888889e-3,
                4.1666666666666664e-2, -0.5, 1.0);
}

// Stirling's series (Abramowitz and Stegun 6.1.41) for |x| >= 8, by recurrence below; for x < 0 the reflection
// pi / |x sin(pi x)|. All in double. Max error 3 ULP, next to the zeros too.
PYDLX_HD float lgamma(float x) {
  const float ax = abs(x);
  const double a = ax, product = rising8(a).product;
  const double y = ax < 8.0f ? a + 8.0 : a, p = ax < 8.0f ? product : 1.0, u = 1.0 / y, z = u * u;
  const double series = u * horner(z, 6.41025641025641025641e-3, -1.91752691752691752692e-3, 8.41750841750841750842e-4,
                                   -5.95238095238095238095e-4, 7.93650793650793650794e-4, -2.77777777777777777778e-3,
                                   8.33333333333333333333e-2);
  const double stirling = ((y - 0.5) * log(y) - y) + (0.918938533204672741780 + series);
  const double s = abs(sin_pi(a - round(a)));
  const double rest = log(x < 0.0f ? 3.14159265358979323846 * p / (a * s) : p);
  float r = static_cast<float>(x < 0.0f ? rest - stirling : stirling - rest);
  r = (x - 1.0f) * (x - 2.0f) == 0.0f ? 0.0f : r;
  return ax == kInfinity<float> ? kInfinity<float> : r;
}

// psi(x): reflection for x < 0, recurrence up to 10, then the asymptotic series (Abramowitz and Stegun 6.3.5
// to 6.3.18).
PYDLX_HD double digamma(double x) {
  if (x == 0.0) return copysign(kInfinity<double>, -x);
  double y = 0.0;
  if (x < 0.0) {
    if (x == trunc(x)) return kNaN<double>;
    const double fraction = x - trunc(x);  // cot has period 1 in x; the small argument keeps its digits
    y = -3.14159265358979323846 / __builtin_tan(3.14159265358979323846 * fraction);
    x = 1.0 - x;
  }
  while (x < 10.0) {
    y -= 1.0 / x;
    x += 1.0;
  }
  const double z = 1.0 / (x * x);
  const double tail = x < 1e17
                          ? z * horner(z, 8.33333333333333333333e-2, -2.10927960927960927961e-2,
                                       7.57575757575757575758e-3, -4.16666666666666666667e-3, 3.96825396825396825397e-3,
                                       -8.33333333333333333333e-3, 8.33333333333333333333e-2)
                          : 0.0;
  return y + (__builtin_log(x) - 0.5 / x - tail);
}
// For x > 0, branch-free: eight steps of the recurrence as one quotient, and a minimax polynomial in place of the
// series (absolute error 7e-18).
PYDLX_HD double digamma_positive(double x) {
  const Rising rising = rising8(x);
  const double y = x < 8.0 ? x + 8.0 : x, u = 1.0 / y, z = u * u;
  const double tail = z * horner(z, -0.01772028436198771248, 0.007519445249744811396, -0.00416622254261441154,
                                 0.003968252370219423549, -0.008333333331222241144, 0.083333333333332881);
  const double psi = log(y) - 0.5 * u - tail;
  return x < 8.0 ? psi - rising.sum / rising.product : psi;
}
// The same in double for all float: cot(pi x) = cos / sin. Max error 3 ULP.
PYDLX_HD float digamma(float x) {
  const double d = x, a = x < 0.0f ? 1.0 - d : d, f = d - round(d);
  const Rising rising = rising8(a);
  const double y = a < 8.0 ? a + 8.0 : a, u = 1.0 / y, z = u * u;
  const double recurrence = rising.sum / rising.product;
  const double tail = z * horner(z, -4.43259803921568627451e-1, 8.33333333333333333333e-2, -2.10927960927960927961e-2,
                                 7.57575757575757575758e-3, -4.16666666666666666667e-3, 3.96825396825396825397e-3,
                                 -8.33333333333333333333e-3, 8.33333333333333333333e-2);
  const double psi = (log(y) - 0.5 * u - tail) - (a < 8.0 ? recurrence : 0.0);
  const double cot = 3.14159265358979323846 * cos_pi(f) / sin_pi(f);
  const float pole = x < 0.0f ? kNaN<float> : -copysign(kInfinity<float>, x);  // at 0 and the negative integers
  const float regular = static_cast<float>(x < 0.0f ? psi - cot : psi);
  const float at_integer = x > 0.0f ? regular : pole;
  return f == 0.0 ? at_integer : regular;
}

// psi'(x), the derivative of digamma: same scheme (Abramowitz and Stegun 6.4.6, 6.4.7, 6.4.12).
PYDLX_HD double trigamma(double x) {
  double sign = 1.0, y = 0.0;
  if (x < 0.5) {
    const double s = __builtin_sin(3.14159265358979323846 * (x - trunc(x)));
    if (s == 0.0) return kInfinity<double>;
    sign = -1.0;
    y = -9.86960440108935861883 / (s * s);
    x = 1.0 - x;
  }
  while (x < 10.0) {
    y += 1.0 / (x * x);
    x += 1.0;
  }
  const double z = 1.0 / (x * x);
  y += 1.0 / x + 0.5 * z +
       z / x *
           horner(z, 1.16666666666666666667, -2.53113553113553113553e-1, 7.57575757575757575758e-2,
                  -3.33333333333333333333e-2, 2.38095238095238095238e-2, -3.33333333333333333333e-2,
                  1.66666666666666666667e-1);
  return sign * y;
}
// For x > 0, branch-free, as digamma_positive; the sum of the squared reciprocals has positive terms only.
PYDLX_HD double trigamma_positive(double x) {
  const Rising rising = rising8_squares(x);
  const double y = x < 8.0 ? x + 8.0 : x, u = 1.0 / y, z = u * u;
  const double tail =
      z * u *
      horner(z, 0.859607764766189696, -0.247040592244705328, 0.07569557368537713761, -0.03333300324143536474,
             0.02380952296659141335, -0.03333333333252340938, 0.1666666666666665395);
  const double psi = u + (0.5 * z + tail);
  return x < 8.0 ? psi + rising.sum / rising.product : psi;
}
// The same without branches, all in double. With P = a (a + 1) ... (a + 7) the eight squared reciprocals of the
// recurrence add up to (P' / P)^2 - P'' / P. Max error 1.5 ULP.
PYDLX_HD float trigamma(float x) {
  const double d = x, a = x < 0.5f ? 1.0 - d : d, s = sin_pi(d - round(d));
  double product = a, first = 1.0, half_second = 0.0;
  for (int i = 1; i < 8; ++i) {
    const double next = a + i;
    half_second = half_second * next + first;
    first = first * next + product;
    product *= next;
  }
  const double inverse = 1.0 / product, q = first * inverse;
  const double recurrence = q * q - 2.0 * half_second * inverse;
  const double y = a < 8.0 ? a + 8.0 : a, u = 1.0 / y, z = u * u;
  const double series = u + 0.5 * z +
                        z * u *
                            horner(z, 1.16666666666666666667, -2.53113553113553113553e-1, 7.57575757575757575758e-2,
                                   -3.33333333333333333333e-2, 2.38095238095238095238e-2, -3.33333333333333333333e-2,
                                   1.66666666666666666667e-1);
  const double psi = series + (a < 8.0 ? recurrence : 0.0);
  return static_cast<float>(x < 0.5f ? 9.86960440108935861883 / (s * s) - psi : psi);
}

}  // namespace pydlx::math
