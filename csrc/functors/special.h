// The rarer functions: in double mostly the C library's, in float branch-free forms as in functors/math.h, several of
// which work in double and round once. Errors are at most a few ULP; tests/test_ulp.py measures the bounds stated here.
#pragma once
#include "functors/math.h"

namespace pydlx::math {

PYDLX_HD float sin(float x) { return __builtin_sinf(x); }
PYDLX_HD double sin(double x) { return __builtin_sin(x); }
PYDLX_HD float cos(float x) { return __builtin_cosf(x); }
PYDLX_HD double cos(double x) { return __builtin_cos(x); }
PYDLX_HD float tan(float x) { return __builtin_tanf(x); }
// The tangent of the reduced argument r (relative error of the fit 1.8e-8), or -1 / tan r. Max error 3 ULP for
// |x| <= kTrigLimit.
PYDLX_HD float tan_small(float x) {
  std::int32_t k;
  const float r = reduce_pi_2(x, k), z = r * r;
  const float t = r + r * z *
                          horner(z, 9.387657840e-03f, 3.116165951e-03f, 2.443243993e-02f, 5.341064635e-02f,
                                 1.333880692e-01f, 3.333315657e-01f);
  return (k & 1) != 0 ? -1.0f / t : t;
}
PYDLX_HD double tan(double x) { return __builtin_tan(x); }
// (asin(r) / r - 1) / r^2 in z = r^2 for r <= 1/2, relative error of the arc sine 3e-10.
PYDLX_HD float asin_tail(float z) {
  return horner(z, 3.752938457e-02f, 1.442983678e-02f, 3.180991246e-02f, 4.451670829e-02f, 7.500505383e-02f,
                1.666665997e-01f);
}
// Beyond 1/2 through the half angle, whose sine sqrt((1 - |x|) / 2) keeps its digits. Max error 2 ULP.
PYDLX_HD float asin(float x) {
  const float a = abs(x), z = a < 0.5f ? a * a : 0.5f - 0.5f * a, r = a < 0.5f ? a : sqrt(z);
  const float y = r + r * z * asin_tail(z);
  return copysign(a < 0.5f ? y : (1.57079637f - 2.0f * y) - 4.37113883e-8f, x);
}
PYDLX_HD double asin(double x) { return __builtin_asin(x); }
// Max error 2 ULP.
PYDLX_HD float acos(float x) {
  const float a = abs(x), z = a < 0.5f ? a * a : 0.5f - 0.5f * a, r = a < 0.5f ? x : sqrt(z);
  const float y = r + r * z * asin_tail(z);
  const float outer = x < 0.0f ? (3.14159274f - 2.0f * y) - 8.74227766e-8f : 2.0f * y;
  return a < 0.5f ? (1.57079637f - y) - 4.37113883e-8f : outer;
}
PYDLX_HD double acos(double x) { return __builtin_acos(x); }
PYDLX_HD double atan(double x) { return __builtin_atan(x); }
// e^a / 2 for a >= 0 without the overflow of e^a just below that of the hyperbolic functions.
PYDLX_HD float half_exp(float a) {
  float n;
  const float r = reduce_ln2(a > 90.0f ? 90.0f : a, n);
  return scale(1.0f + (r + r * r * exp_tail(r)), to_int(n) - 1);
}
// Below 1 a polynomial (relative error of the fit 6e-11), where the difference of exponentials would cancel. Max error
// 2 ULP.
PYDLX_HD float sinh(float x) {
  const float a = abs(x), h = half_exp(a), z = x * x;
  const float small = x + x * z * horner(z, 2.816957365e-06f, 1.983615876e-04f, 8.333350063e-03f, 1.666666650e-01f);
  return a < 1.0f ? small : copysign(h - 0.25f / h, x);
}
PYDLX_HD double sinh(double x) { return __builtin_sinh(x); }
// Max error 2 ULP.
PYDLX_HD float cosh(float x) {
  const float h = half_exp(abs(x));
  return h + 0.25f / h;
}
PYDLX_HD double cosh(double x) { return __builtin_cosh(x); }
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
PYDLX_HD double asinh(double x) { return __builtin_asinh(x); }
PYDLX_HD float acosh(float x) {
  const double a = x;
  return x < 1.0f ? kNaN<float> : static_cast<float>(log(a + sqrt((a - 1.0) * (a + 1.0))));
}
PYDLX_HD double acosh(double x) { return __builtin_acosh(x); }
PYDLX_HD float atanh(float x) {
  const float z = x * x;
  const float small = x + x * z *
                              horner(z, 1.760188548e-01f, 2.446061158e-02f, 1.028460443e-01f, 1.096688974e-01f,
                                     1.429487540e-01f, 1.999972676e-01f, 3.333333607e-01f);
  const float a = abs(x);
  return a < 0.5f ? small : copysign(0.5f * log((1.0f + a) / (1.0f - a)), x);
}
PYDLX_HD double atanh(double x) { return __builtin_atanh(x); }
PYDLX_HD double atan2(double y, double x) { return __builtin_atan2(y, x); }
PYDLX_HD float hypot(float a, float b) {  // exact squares in double cannot overflow
  const double x = a, y = b;
  const float r = static_cast<float>(__builtin_sqrt(x * x + y * y));
  return abs(a) == kInfinity<float> || abs(b) == kInfinity<float> ? kInfinity<float> : r;
}
PYDLX_HD double hypot(double a, double b) { return __builtin_hypot(a, b); }
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
#if defined(__FMA__) || defined(__CUDA_ARCH__)
constexpr bool kHasFusedMultiply = true;
#else
constexpr bool kHasFusedMultiply = false;
#endif
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
// 1 / (a + 0) + ... + 1 / (a + 7) = sum / product, as the recurrences of the gamma function need it.
struct Rising {
  double product, sum;
};
PYDLX_HD Rising rising8(double a) {
  double product = a, sum = 1.0;
  for (int i = 1; i < 8; ++i) {
    const double next = a + i;
    sum = sum * next + product;
    product *= next;
  }
  return {product, sum};
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

// Inverse of erf: Giles' approximation ("Approximating the erfinv function", 2010), then two Newton steps in double.
// Beyond 1/2 the steps work on erfc, where 1 - |x| is exact.
PYDLX_HD double erfinv(double x) {
  const double a = abs(x);
  if (!(a < 1.0)) return a == 1.0 ? copysign(kInfinity<double>, x) : kNaN<double>;
  double w = -__builtin_log((1.0 - a) * (1.0 + a)), y;
  if (w < 5.0) {
    w -= 2.5;
    y = horner(w, 2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
               -0.00417768164, 0.246640727, 1.50140941);
  } else {
    w = __builtin_sqrt(w) - 3.0;
    y = horner(w, -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
               0.00943887047, 1.00167406, 2.83297682);
  }
  y *= a;
  for (int step = 0; step < 2; ++step) {
    const double slope = 1.12837916709551257390 * __builtin_exp(-y * y);
    y -= (a < 0.5 ? __builtin_erf(y) - a : (1.0 - a) - __builtin_erfc(y)) / slope;
  }
  return copysign(y, x);
}
// Giles' variable w = -log(1 - x^2) and his two ranges in float, with polynomials of our own (relative errors of the
// fits 6e-9 and 2e-8). Max error 2.5 ULP.
PYDLX_HD float erfinv(float x) {
  const float w = -log((1.0f - x) * (1.0f + x)), v = w - 2.5f;
  const float u = sqrt(w) - 3.0f;
  const float centre =
      horner(v, -8.791014874e-09f, 2.323262167e-08f, 4.661700912e-07f, -3.462704483e-06f, -4.963345242e-06f,
             2.183444384e-04f, -1.252741883e-03f, -4.177386780e-03f, 2.466402862e-01f, 5.01409359e-01f);
  const float tail =
      horner(u, 9.850016113e-05f, -2.910190240e-04f, -3.300417909e-05f, 1.461594206e-03f, -3.609467751e-03f,
             5.696172895e-03f, -7.634707607e-03f, 9.444176688e-03f, 1.001674800e+00f, 2.832976820e+00f);
  const float y = w < 5.0f ? x + x * centre : x * tail;
  return copysign(abs(x) == 1.0f ? kInfinity<float> : y, x);
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
