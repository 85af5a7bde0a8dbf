// Functions that are too rare to vectorise: the C library's, and three that it lacks. Errors are at most a few ULP.
#pragma once
#include "functors/math.h"

namespace pydlx::math {

PYDLX_HD float sin(float x) { return __builtin_sinf(x); }
PYDLX_HD double sin(double x) { return __builtin_sin(x); }
PYDLX_HD float cos(float x) { return __builtin_cosf(x); }
PYDLX_HD double cos(double x) { return __builtin_cos(x); }
PYDLX_HD float tan(float x) { return __builtin_tanf(x); }
PYDLX_HD double tan(double x) { return __builtin_tan(x); }
PYDLX_HD float asin(float x) { return __builtin_asinf(x); }
PYDLX_HD double asin(double x) { return __builtin_asin(x); }
PYDLX_HD float acos(float x) { return __builtin_acosf(x); }
PYDLX_HD double acos(double x) { return __builtin_acos(x); }
PYDLX_HD double atan(double x) { return __builtin_atan(x); }
PYDLX_HD float sinh(float x) { return __builtin_sinhf(x); }
PYDLX_HD double sinh(double x) { return __builtin_sinh(x); }
PYDLX_HD float cosh(float x) { return __builtin_coshf(x); }
PYDLX_HD double cosh(double x) { return __builtin_cosh(x); }
PYDLX_HD float asinh(float x) { return __builtin_asinhf(x); }
PYDLX_HD double asinh(double x) { return __builtin_asinh(x); }
PYDLX_HD float acosh(float x) { return __builtin_acoshf(x); }
PYDLX_HD double acosh(double x) { return __builtin_acosh(x); }
PYDLX_HD float atanh(float x) { return __builtin_atanhf(x); }
PYDLX_HD double atanh(double x) { return __builtin_atanh(x); }
PYDLX_HD double atan2(double y, double x) { return __builtin_atan2(y, x); }
PYDLX_HD float hypot(float a, float b) {  // exact squares in double cannot overflow
  const double x = a, y = b;
  const float r = static_cast<float>(__builtin_sqrt(x * x + y * y));
  return abs(a) == kInfinity<float> || abs(b) == kInfinity<float> ? kInfinity<float> : r;
}
PYDLX_HD double hypot(double a, double b) { return __builtin_hypot(a, b); }
PYDLX_HD float fmod(float a, float b) { return __builtin_fmodf(a, b); }
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
PYDLX_HD float lgamma(float x) { return static_cast<float>(lgamma(static_cast<double>(x))); }

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
PYDLX_HD float erfinv(float x) { return static_cast<float>(erfinv(static_cast<double>(x))); }

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
PYDLX_HD float digamma(float x) { return static_cast<float>(digamma(static_cast<double>(x))); }

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
PYDLX_HD float trigamma(float x) { return static_cast<float>(trigamma(static_cast<double>(x))); }

}  // namespace pydlx::math
