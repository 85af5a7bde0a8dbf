// Circular functions and their inverses, branch-free (see functors/math.h). On GPUs those of double are CUDA's own.
#pragma once
#include "functors/math.h"

namespace pydlx::math {

// ---- reduction ------------------------------------------------------------------------------------------------------

// Larger arguments go to the C library.
inline constexpr double kTrigLimit = 1e6;
PYDLX_HD bool trig_is_large(float x) { return abs(x) > static_cast<float>(kTrigLimit); }
PYDLX_HD bool trig_is_large(double x) { return !kOnDevice && abs(x) > kTrigLimit; }

// x = k pi/2 + r - rest, |r| <= pi/4; `rest` is what r lost by rounding.
template <class T>
struct Angle {
  T r, rest;
  std::int64_t k;
};
// Computed in double, whose 53 bits leave 24 correct ones next to any multiple of pi/2.
PYDLX_HD double reduce_pi_2(float x, std::int32_t& k) {
  const double magic = 6755399441055744.0;
  const double shifted = static_cast<double>(x) * 0.63661977236758134 + magic, n = shifted - magic;
  k = static_cast<std::int32_t>(bit_cast<std::int64_t>(shifted));
  return (static_cast<double>(x) - n * 0x1.921fb544p+0) - n * 0x1.0b4611a626331p-34;
}
// pi/2 in three parts of 33 bits, whose products with n are exact, and a rest: correct next to any multiple of pi/2.
PYDLX_HD Angle<double> reduce_pi_2(double x) {
  const double magic = 6755399441055744.0;
  const double shifted = x * 0.63661977236758134 + magic, n = shifted - magic;
  const double a = x - n * 0x1.921fb544p+0;  // exact
  const double b = a - n * 0x1.0b4611a6p-34, b_rest = (a - b) - n * 0x1.0b4611a6p-34;
  const double c = b - n * 0x1.3198a2ep-69, c_rest = (b - c) - n * 0x1.3198a2ep-69;
  return {c, n * 0x1.b839a252049c1p-104 - (b_rest + c_rest), bit_cast<std::int64_t>(shifted)};
}

// ---- sine, cosine, tangent ------------------------------------------------------------------------------------------

PYDLX_HD float sin_reduced(float r) {
  const float z = r * r;
  return r + r * z * horner(z, 2.717971256e-06f, -1.983929687e-04f, 8.333329111e-03f, -1.666666716e-01f);
}
PYDLX_HD float cos_reduced(float r) {
  const float z = r * r;
  return 1.0f +
         (z * z * horner(z, -2.720433656e-07f, 2.479944305e-05f, -1.388888340e-03f, 4.166666791e-02f) - 0.5f * z);
}
// Relative errors of the fits 3.5e-18 and 4.7e-20.
PYDLX_HD double sin_reduced(Angle<double> a) {
  const double z = a.r * a.r;
  const double p = horner(z, 1.58968088299212737e-10, -2.505075841220303115e-8, 2.755731369434527382e-6,
                          -1.984126982981655718e-4, 8.333333333322427011e-3, -0.1666666666666663243);
  return a.r - (a.rest - a.r * z * p);  // keeps the sign of 0
}
PYDLX_HD double cos_reduced(Angle<double> a) {
  const double z = a.r * a.r;
  const double p = horner(z, -1.13596491165696485e-11, 2.087572331966568861e-9, -2.755731435288621114e-7,
                          2.480158728948511166e-5, -1.388888888887413126e-3, 0.0416666666666666019);
  return 1.0 + ((z * z * p + a.r * a.rest) - 0.5 * z);
}
PYDLX_HD float quadrant(float r, std::int32_t k) {
  const float v = (k & 1) != 0 ? cos_reduced(r) : sin_reduced(r);
  return (k & 2) != 0 ? -v : v;
}
PYDLX_HD double quadrant(Angle<double> a, std::int64_t k) {
  const double v = (k & 1) != 0 ? cos_reduced(a) : sin_reduced(a);
  return (k & 2) != 0 ? -v : v;
}
// Max error 1.5 ULP where trig_is_large says no.
PYDLX_HD float sin_small(float x) {
  std::int32_t k;
  const float r = static_cast<float>(reduce_pi_2(x, k));
  return quadrant(r, k);
}
PYDLX_HD float cos_small(float x) {
  std::int32_t k;
  const float r = static_cast<float>(reduce_pi_2(x, k));
  return quadrant(r, k + 1);
}
PYDLX_HD double sin_small(double x) {
  if constexpr (kOnDevice) return __builtin_sin(x);
  const Angle<double> a = reduce_pi_2(x);
  return quadrant(a, a.k);
}
PYDLX_HD double cos_small(double x) {
  if constexpr (kOnDevice) return __builtin_cos(x);
  const Angle<double> a = reduce_pi_2(x);
  return quadrant(a, a.k + 1);
}
PYDLX_HD float sin(float x) { return __builtin_sinf(x); }
PYDLX_HD double sin(double x) { return __builtin_sin(x); }
PYDLX_HD float cos(float x) { return __builtin_cosf(x); }
PYDLX_HD double cos(double x) { return __builtin_cos(x); }
PYDLX_HD float tan(float x) { return __builtin_tanf(x); }
PYDLX_HD double tan(double x) { return __builtin_tan(x); }

// The tangent of the reduced argument r (relative error of the fit 1.8e-8) in double, or -1 / tan r. Max error 1.5 ULP
// where trig_is_large says no.
PYDLX_HD float tan_small(float x) {
  std::int32_t k;
  const double r = reduce_pi_2(x, k), z = r * r;
  const double t = r + r * z *
                           horner(z, 9.387657840e-03, 3.116165951e-03, 2.443243993e-02, 5.341064635e-02,
                                  1.333880692e-01, 3.333315657e-01);
  return static_cast<float>((k & 1) != 0 ? -1.0 / t : t);
}
// Max error 3 ULP.
PYDLX_HD double tan_small(double x) {
  if constexpr (kOnDevice) return __builtin_tan(x);
  const Angle<double> a = reduce_pi_2(x);
  const double s = sin_reduced(a), c = cos_reduced(a);
  return ((a.k & 1) != 0 ? -c : s) / ((a.k & 1) != 0 ? s : c);
}

// ---- arc tangent ----------------------------------------------------------------------------------------------------

// atan on [0, 1], relative error of the fit 4e-9.
PYDLX_HD float atan_unit(float q) {
  const float z = q * q;
  return q + q * z *
                 horner(z, -2.030231757e-03f, 1.198830362e-02f, -3.320943192e-02f, 6.003169715e-02f, -8.526863158e-02f,
                        1.099525541e-01f, -1.427263319e-01f, 1.999935061e-01f, -3.333332539e-01f);
}
// (atan(q) / q - 1) q for |q| <= tan(pi / 8), relative error of the arc tangent 1.3e-18.
PYDLX_HD double atan_tail(double q) {
  const double z = q * q;
  return q * z *
         horner(z, -0.01793406680261892469, 0.03809015032459260597, -0.05040360607126962572, 0.0584813642638219236,
                -0.06663140131742849304, 0.07692063620702976889, -0.09090897965990567264, 0.1111111079149659092,
                -0.1428571428038047098, 0.1999999999995578648, -0.3333333333333320936);
}
// pi / 4 as a number of 50 bits, whose small multiples are exact, and the rest.
inline constexpr double kQuarterPi = 0x1.921fb54442d18p-1, kQuarterPiRest = 0x1.1a62633145c07p-55;
inline constexpr double kTanEighthPi = 0.41421356237309504880;

// Max error 2 ULP.
PYDLX_HD float atan(float x) {
  const float a = abs(x), r = atan_unit(a > 1.0f ? 1.0f / a : a);
  return copysign(a > 1.0f ? (1.57079637f - r) - 4.37113883e-8f : r, x);
}
// About 0, pi / 4 or pi / 2, whichever leaves |q| <= tan(pi / 8). Max error 2 ULP.
PYDLX_HD double atan(double x) {
  if constexpr (kOnDevice) return __builtin_atan(x);
  const double a = abs(x);
  const double high = a > 1.0 / kTanEighthPi ? a : a + 1.0, low = a > 1.0 / kTanEighthPi ? -1.0 : a - 1.0;
  const double q = (a > kTanEighthPi ? low : a) / (a > kTanEighthPi ? high : 1.0);
  const double beyond = a > 1.0 / kTanEighthPi ? 2.0 : 1.0, m = a > kTanEighthPi ? beyond : 0.0;
  return copysign(m * kQuarterPi + (q + (atan_tail(q) + m * kQuarterPiRest)), x);
}
// Max error 3 ULP; zeros and infinities as in C99.
PYDLX_HD float atan2(float y, float x) {
  const float ax = abs(x), ay = abs(y), high = ay > ax ? ay : ax, low = ay > ax ? ax : ay;
  float q = low == high ? 1.0f : low / high;
  q = high == 0.0f ? 0.0f : q;
  float r = atan_unit(q);
  r = ay > ax ? (1.57079637f - r) - 4.37113883e-8f : r;
  r = bit_cast<std::int32_t>(x) < 0 ? (3.14159274f - r) - 8.74227766e-8f : r;
  r = copysign(r, y);
  r = x != x ? x : r;
  return y != y ? y : r;
}
// m pi / 4 + atan(q) with a whole number m of 0 to 4. Max error 2.5 ULP.
PYDLX_HD double atan2(double y, double x) {
  if constexpr (kOnDevice) return __builtin_atan2(y, x);
  const double bx = abs(x), by = abs(y), larger = by > bx ? by : bx;
  const double grown = larger < 0x1p-900 ? 0x1p150 : 1.0;     // subnormal multiples would be coarse
  const double scale = larger > 0x1p1000 ? 0x1p-100 : grown;  // sums of the two stay finite
  const double ax = bx * scale, ay = by * scale, high = ay > ax ? ay : ax, low = ay > ax ? ax : ay;
  const double edge = low == high ? high : low - kTanEighthPi * high;  // two infinities count as equal
  const double difference = low == high ? 0.0 : low - high, sum = high == 0.0 ? 1.0 : low + high;
  const double whole = high == 0.0 ? 1.0 : high;
  double q = (edge > 0.0 ? difference : low) / (edge > 0.0 ? sum : whole), m = edge > 0.0 ? 1.0 : 0.0;
  q = ay > ax ? -q : q;
  m = ay > ax ? 2.0 - m : m;
  q = bit_cast<std::int64_t>(x) < 0 ? -q : q;
  m = bit_cast<std::int64_t>(x) < 0 ? 4.0 - m : m;
  const double r = copysign(m * kQuarterPi + (q + (atan_tail(q) + m * kQuarterPiRest)), y);
  return x != x ? x : (y != y ? y : r);
}

// ---- arc sine, arc cosine -------------------------------------------------------------------------------------------

// (asin(r) / r - 1) / r^2 in z = r^2 for r <= 1/2, relative errors of the arc sine 3e-10 and 1e-18.
PYDLX_HD float asin_tail(float z) {
  return horner(z, 3.752938457e-02f, 1.442983678e-02f, 3.180991246e-02f, 4.451670829e-02f, 7.500505383e-02f,
                1.666665997e-01f);
}
PYDLX_HD double asin_tail(double z) {
  return horner(z, 0.03270234635486411051, -0.02111703543807341016, 0.0217908878879458992, 0.003672077859055777188,
                0.01078935210754068848, 0.01139728698657736967, 0.01398101935323476687, 0.01735159542455844833,
                0.022372215910567015, 0.03038194267509595689, 0.04464285717529032499, 0.0749999999997009309,
                0.1666666666666676289);
}
// Beyond 1/2 through the half angle, whose sine sqrt((1 - |x|) / 2) keeps its digits; in double, so that the root is
// rounded only at the end. Max error 1.5 ULP.
PYDLX_HD float asin(float x) {
  const float a = abs(x), z = a < 0.5f ? a * a : 0.5f - 0.5f * a;
  const double r = a < 0.5f ? static_cast<double>(a) : sqrt(static_cast<double>(z));
  const double y = r + r * static_cast<double>(z * asin_tail(z));
  return copysign(static_cast<float>(a < 0.5f ? y : 1.57079632679489662 - 2.0 * y), x);
}
PYDLX_HD float acos(float x) {
  const float a = abs(x), z = a < 0.5f ? a * a : 0.5f - 0.5f * a;
  const double r = a < 0.5f ? static_cast<double>(x) : sqrt(static_cast<double>(z));
  const double y = r + r * static_cast<double>(z * asin_tail(z));
  const double outer = x < 0.0f ? 3.14159265358979324 - 2.0 * y : 2.0 * y;
  return static_cast<float>(a < 0.5f ? 1.57079632679489662 - y : outer);
}
// Max error 2.5 ULP.
PYDLX_HD double asin(double x) {
  if constexpr (kOnDevice) return __builtin_asin(x);
  const double a = abs(x), z = a < 0.5 ? a * a : 0.5 - 0.5 * a, r = a < 0.5 ? a : sqrt(z);
  const double tail = r * z * asin_tail(z);
  const double outer = (2.0 * kQuarterPi - 2.0 * r) - (2.0 * tail - 2.0 * kQuarterPiRest);
  return copysign(a < 0.5 ? r + tail : outer, x);
}
PYDLX_HD double acos(double x) {
  if constexpr (kOnDevice) return __builtin_acos(x);
  const double a = abs(x), z = a < 0.5 ? a * a : 0.5 - 0.5 * a, r = a < 0.5 ? x : sqrt(z);
  const double tail = r * z * asin_tail(z);
  const double outer = x < 0.0 ? (4.0 * kQuarterPi - 2.0 * r) - (2.0 * tail - 4.0 * kQuarterPiRest) : 2.0 * (r + tail);
  return a < 0.5 ? 2.0 * kQuarterPi - (r + (tail - 2.0 * kQuarterPiRest)) : outer;
}

}  // namespace pydlx::math
