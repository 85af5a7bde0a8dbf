// Elementary functions as branch-free scalar code that compilers vectorise, identical on every backend. NaN propagates
// through the arithmetic; conditions are single comparisons, because GCC does not vectorise selections on combined
// ones. tests/test_ulp.py measures the error bounds stated here. Polynomials are minimax fits (Remez) over the reduced
// range; the reductions follow Cody and Waite, "Software Manual for the Elementary Functions" (1980), and Muller,
// "Elementary Functions" (2016).
#pragma once
#include <cstdint>

#include "core/half.h"

namespace pydlx::math {

template <class T>
inline constexpr T kInfinity = static_cast<T>(__builtin_huge_val());
template <class T>
inline constexpr T kNaN = static_cast<T>(__builtin_nan(""));

PYDLX_HD float abs(float x) { return bit_cast<float>(bit_cast<std::uint32_t>(x) & 0x7fffffffu); }
PYDLX_HD double abs(double x) { return bit_cast<double>(bit_cast<std::uint64_t>(x) & 0x7fffffffffffffffull); }
PYDLX_HD float copysign(float x, float s) {
  return bit_cast<float>((bit_cast<std::uint32_t>(x) & 0x7fffffffu) | (bit_cast<std::uint32_t>(s) & 0x80000000u));
}
PYDLX_HD double copysign(double x, double s) {
  return bit_cast<double>((bit_cast<std::uint64_t>(x) & 0x7fffffffffffffffull) |
                          (bit_cast<std::uint64_t>(s) & 0x8000000000000000ull));
}

// Exact or correctly rounded by the hardware.
PYDLX_HD float sqrt(float x) { return __builtin_sqrtf(x); }
PYDLX_HD double sqrt(double x) { return __builtin_sqrt(x); }
PYDLX_HD float floor(float x) { return __builtin_floorf(x); }
PYDLX_HD double floor(double x) { return __builtin_floor(x); }
PYDLX_HD float ceil(float x) { return __builtin_ceilf(x); }
PYDLX_HD double ceil(double x) { return __builtin_ceil(x); }
PYDLX_HD float trunc(float x) { return __builtin_truncf(x); }
PYDLX_HD double trunc(double x) { return __builtin_trunc(x); }
PYDLX_HD float round(float x) { return __builtin_rintf(x); }  // halves go to even
PYDLX_HD double round(double x) { return __builtin_rint(x); }

// Horner's scheme; the first coefficient belongs to the highest power.
template <class T>
PYDLX_HD T horner(T, T c) {
  return c;
}
template <class T, class... Rest>
PYDLX_HD T horner(T x, T high, T next, Rest... rest) {
  return horner(x, high * x + next, static_cast<T>(rest)...);
}

// ---- exponentials ---------------------------------------------------------------------------------------------------

// p * 2^n in two steps, so that a subnormal result is rounded only once. |n| <= 2 * (bias - 1)
PYDLX_HD float scale(float p, std::int32_t n) {
  const std::int32_t half = n >> 1;
  return p * bit_cast<float>((half + 127) << 23) * bit_cast<float>((n - half + 127) << 23);
}
PYDLX_HD double scale(double p, std::int64_t n) {
  const std::int64_t half = n >> 1;
  return p * bit_cast<double>((half + 1023) << 52) * bit_cast<double>((n - half + 1023) << 52);
}

// x = n ln2 + r with |r| <= ln2 / 2. Adding 1.5 * 2^mantissa rounds to the nearest integer and leaves n in the low
// bits; the high part of ln2 has so few bits that n * high is exact.
PYDLX_HD float reduce_ln2(float x, float& n) {
  const float magic = 12582912.0f;
  n = (x * 1.44269504f + magic) - magic;
  return (x - n * 0x1.62E400p-1f) - n * 0x1.7F7D1Cp-20f;
}
PYDLX_HD double reduce_ln2(double x, double& n) {
  const double magic = 6755399441055744.0;
  n = (x * 1.4426950408889634 + magic) - magic;
  return (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
}
PYDLX_HD std::int32_t to_int(float n) {
  return bit_cast<std::int32_t>(n + 12582912.0f) - 0x4b400000;
}  // |n| <= 2^22, integral
PYDLX_HD std::int64_t to_int(double n) { return bit_cast<std::int64_t>(n + 6755399441055744.0) - 0x4338000000000000ll; }

// (e^r - 1 - r) / r^2 on |r| <= ln2 / 2; relative error 1.4e-9 and 1.4e-18.
PYDLX_HD float exp_tail(float r) {
  return horner(r, 1.990784076e-04f, 1.393382205e-03f, 8.333285339e-03f, 4.166646302e-02f, 1.666666716e-01f, 0.5f);
}
PYDLX_HD double exp_tail(double r) {
  return horner(r, 2.092175969737440264e-9, 2.510541980152892449e-8, 2.755725240562738497e-7, 2.755725491182898519e-6,
                2.480158734786812348e-5, 1.984126987520658124e-4, 1.388888888887417269e-3, 8.333333333326024456e-3,
                4.166666666666668414e-2, 1.666666666666667107e-1, 0.5);
}

template <class T>
inline constexpr T kExpMax = sizeof(T) == 4 ? static_cast<T>(89) : static_cast<T>(710);  // above: infinity
template <class T>
inline constexpr T kExpMin = sizeof(T) == 4 ? static_cast<T>(-104.5) : static_cast<T>(-746);  // below: 0

// Max error 1.0 ULP (float), 1.0 ULP (double), subnormal results included.
template <class T>
PYDLX_HD T exp_impl(T x) {
  T n;
  const T r = reduce_ln2(x > kExpMax<T> ? kExpMax<T> : (x < kExpMin<T> ? kExpMin<T> : x), n);
  return scale(T(1) + (r + r * r * exp_tail(r)), to_int(n));
}
PYDLX_HD float exp(float x) { return exp_impl(x); }
PYDLX_HD double exp(double x) { return exp_impl(x); }

// 2^x = 2^n e^(r ln2), r = x - n exact. Max error 1.2 ULP.
template <class T>
PYDLX_HD T exp2_impl(T x) {
  const T high = sizeof(T) == 4 ? T(130) : T(1030), low = sizeof(T) == 4 ? T(-155) : T(-1080);
  const T c = x > high ? high : (x < low ? low : x);
  const T n = round(c), r = (c - n) * T(0.693147180559945309417);
  return scale(T(1) + (r + r * r * exp_tail(r)), to_int(n));
}
PYDLX_HD float exp2(float x) { return exp2_impl(x); }
PYDLX_HD double exp2(double x) { return exp2_impl(x); }

// e^x - 1 = 2 (2^(n-1) (e^r - 1) + (2^(n-1) - 1/2)); the halved scale cannot overflow. For x in the range that matters,
// NaN, or 0 with the sign lost. Max error 2 ULP.
template <class T>
PYDLX_HD T expm1_clamped(T x) {
  T n;
  const T r = reduce_ln2(x, n);
  const T m = r + r * r * exp_tail(r);
  T s;  // 2^(n-1)
  if constexpr (sizeof(T) == 4)
    s = bit_cast<float>((to_int(n) + 126) << 23);
  else
    s = bit_cast<double>((to_int(n) + 1022) << 52);
  return T(2) * (s * m + (s - T(0.5)));
}
template <class T>
PYDLX_HD T expm1_impl(T x) {
  const T low = sizeof(T) == 4 ? T(-20) : T(-40);
  return copysign(expm1_clamped(x > kExpMax<T> ? kExpMax<T> : (x < low ? low : x)), x);
}
PYDLX_HD float expm1(float x) { return expm1_impl(x); }
PYDLX_HD double expm1(double x) { return expm1_impl(x); }

// ---- logarithms -----------------------------------------------------------------------------------------------------

// x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt 2), for positive finite x, subnormal or not. f is exact.
PYDLX_HD float split(float x, float& e) {
  const bool tiny = x < 0x1p-126f;
  // unsigned: other arguments give a result that is replaced later, but must not overflow
  const std::uint32_t bits = bit_cast<std::uint32_t>(tiny ? x * 0x1p23f : x);
  const std::int32_t k = static_cast<std::int32_t>(bits - 0x3f3504f3u) >> 23;
  e = static_cast<float>(k) - (tiny ? 23.0f : 0.0f);
  return bit_cast<float>(bits - (static_cast<std::uint32_t>(k) << 23)) - 1.0f;
}
PYDLX_HD double split(double x, double& e) {
  const bool tiny = x < 0x1p-1022;
  const std::uint64_t bits = bit_cast<std::uint64_t>(tiny ? x * 0x1p52 : x);
  const std::int64_t k = static_cast<std::int64_t>(bits - 0x3fe6a09e667f3bcdull) >> 52;
  // k + 1.5 * 2^52 as bits: int64 -> double without the conversion that AVX2 lacks
  e = (bit_cast<double>(k + 0x4338000000000000ll) - 6755399441055744.0) - (tiny ? 52.0 : 0.0);
  return bit_cast<double>(bits - (static_cast<std::uint64_t>(k) << 52)) - 1.0;
}

// log(1 + f) - f. Float: relative error of the whole 7.5e-10. Double: through 2 atanh(f / (2 + f)), error 3e-16 of the
// last term.
PYDLX_HD float log_tail(float f) {
  const float p = horner(f, 6.746637821e-02f, -1.167565063e-01f, 1.188816279e-01f, -1.240558997e-01f, 1.421955228e-01f,
                         -1.666799635e-01f, 2.000211924e-01f, -2.500000894e-01f, 3.333331347e-01f);
  const float z = f * f;
  return z * f * p - 0.5f * z;
}
PYDLX_HD double log_tail(double f) {
  const double s = f / (2.0 + f), z = s * s, h = 0.5 * f * f;
  const double p = horner(z, 0.1461909555602532595, 0.1533149788057243969, 0.1818289620399856413, 0.2222221103180599148,
                          0.2857142862665096342, 0.3999999999989788909, 0.6666666666666669749);
  return s * (h + z * p) - h;
}

// C99 results outside the positive finite numbers.
template <class T>
PYDLX_HD T log_specials(T x, T y) {
  y = x == kInfinity<T> ? x : y;
  return x > T(0) ? y : (x == T(0) ? -kInfinity<T> : kNaN<T>);
}

// Max error 1.0 ULP.
PYDLX_HD float log(float x) {
  float e;
  const float f = split(x, e);
  return log_specials(x, e * 0x1.62E400p-1f + (f + (e * 0x1.7F7D1Cp-20f + log_tail(f))));
}
PYDLX_HD double log(double x) {
  double e;
  const double f = split(x, e);
  return log_specials(x, e * 6.93147180369123816490e-01 + (f + (e * 1.90821492927058770002e-10 + log_tail(f))));
}

// log(x) / log(base) with the constant split in two, so that f times it keeps its low bits. Max error 2.5 ULP.
PYDLX_HD float log_base(float x, float scale_high, float scale_low, float unit_high, float unit_low) {
  float e;
  const float f = split(x, e), t = log_tail(f);
  // f = high part with 12 bits + rest: its product with the 12-bit scale_high is exact
  const float fh = bit_cast<float>(bit_cast<std::uint32_t>(f) & 0xfffff000u), fl = (f - fh) + t;
  const float small = fh * scale_low + fl * scale_low + fl * scale_high + e * unit_low;
  return log_specials(x, e * unit_high + (fh * scale_high + small));
}
PYDLX_HD float log2(float x) { return log_base(x, 1.4423828125f, 0.000312228388963f, 1.0f, 0.0f); }
PYDLX_HD float log10(float x) {
  return log_base(x, 0.434326171875f, -3.16899717482e-5f, 0.301025390625f, 4.6050389812e-6f);
}
PYDLX_HD double log2(double x) { return __builtin_log2(x); }
PYDLX_HD double log10(double x) { return __builtin_log10(x); }

// log(u) plus the rounding error of u = 1 + x, to first order. Max error 2 ULP.
template <class T>
PYDLX_HD T log1p(T x) {
  const T u = T(1) + x;
  const T lost = x >= T(1) ? T(1) - (u - x) : x - (u - T(1));
  const T y = log(u) + lost / u;
  return u == T(1) ? x : (u > T(0) && u < kInfinity<T> ? y : log(u));
}

// ---- hyperbolic and sigmoid -----------------------------------------------------------------------------------------

// With m = e^(2|x|) - 1: tanh|x| = m / (m + 2). Max error 3 ULP.
template <class T>
PYDLX_HD T tanh(T x) {
  const T a = abs(x), limit = sizeof(T) == 4 ? T(10) : T(20);
  const T m = expm1_clamped(T(2) * (a > limit ? limit : a));
  return copysign(m / (m + T(2)), x);
}

// Written on e^-|x|, so that it neither overflows nor loses the tail. Max error 2.5 ULP.
template <class T>
PYDLX_HD T sigmoid(T x) {
  const T e = exp(-abs(x));
  return (x < T(0) ? e : T(1)) / (T(1) + e);
}

// ---- trigonometric --------------------------------------------------------------------------------------------------

// x - k pi/2 for |x| <= kTrigLimit: computed in double, whose 53 bits leave 24 correct ones next to any multiple of
// pi/2.
inline constexpr float kTrigLimit = 1e6f;
PYDLX_HD float reduce_pi_2(float x, std::int32_t& k) {
  const double magic = 6755399441055744.0;
  const double shifted = static_cast<double>(x) * 0.63661977236758134 + magic, n = shifted - magic;
  k = static_cast<std::int32_t>(bit_cast<std::int64_t>(shifted));
  return static_cast<float>((static_cast<double>(x) - n * 0x1.921fb544p+0) - n * 0x1.0b4611a626331p-34);
}
PYDLX_HD float sin_reduced(float r) {
  const float z = r * r;
  return r + r * z * horner(z, 2.717971256e-06f, -1.983929687e-04f, 8.333329111e-03f, -1.666666716e-01f);
}
PYDLX_HD float cos_reduced(float r) {
  const float z = r * r;
  return 1.0f +
         (z * z * horner(z, -2.720433656e-07f, 2.479944305e-05f, -1.388888340e-03f, 4.166666791e-02f) - 0.5f * z);
}
PYDLX_HD float quadrant(float r, std::int32_t k) {
  const float v = (k & 1) != 0 ? cos_reduced(r) : sin_reduced(r);
  return (k & 2) != 0 ? -v : v;
}
// Max error 1.5 ULP for |x| <= kTrigLimit; callers send larger arguments to the C library.
PYDLX_HD float sin_small(float x) {
  std::int32_t k;
  const float r = reduce_pi_2(x, k);
  return quadrant(r, k);
}
PYDLX_HD float cos_small(float x) {
  std::int32_t k;
  const float r = reduce_pi_2(x, k);
  return quadrant(r, k + 1);
}

// atan on [0, 1], relative error of the fit 4e-9.
PYDLX_HD float atan_unit(float q) {
  const float z = q * q;
  return q + q * z *
                 horner(z, -2.030231757e-03f, 1.198830362e-02f, -3.320943192e-02f, 6.003169715e-02f, -8.526863158e-02f,
                        1.099525541e-01f, -1.427263319e-01f, 1.999935061e-01f, -3.333332539e-01f);
}
// Max error 2 ULP.
PYDLX_HD float atan(float x) {
  const float a = abs(x), r = atan_unit(a > 1.0f ? 1.0f / a : a);
  return copysign(a > 1.0f ? (1.57079637f - r) - 4.37113883e-8f : r, x);
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

// ---- error function -------------------------------------------------------------------------------------------------

// erf(x) for |x| <= 0.94: x + x q(x^2), so that the rounding of q hardly shows. Relative error of the fit 6e-10.
PYDLX_HD float erf_small(float x) {
  return x + x * horner(x * x, 8.193777467e-05f, -8.099877159e-04f, 5.197154824e-03f, -2.685779147e-02f,
                        1.128366590e-01f, -3.761263192e-01f, 1.283792257e-01f);
}
// e^(a^2) erfc(a) for a in [0, 15] in t = 1 / (1 + a/2), relative error 4.4e-8.
template <class T>
PYDLX_HD T erfcx(T a) {
  const T t = T(1) / (T(1) + T(0.5) * a);
  return t * horner(t, T(-5.938610435e-02f), T(2.861224115e-01f), -4.904035330e-01f, 2.817305326e-01f,
                    -2.914700098e-02f, 2.037520409e-01f, 2.428351939e-01f, 2.824120820e-01f, 2.820843458e-01f);
}
inline constexpr float kErfSplit = 0.92f;

// Max error 2 ULP.
PYDLX_HD float erf(float x) {
  const float a = abs(x), c = a > 4.0f ? 4.0f : a;
  const float large = 1.0f - exp(-c * c) * erfcx(c);
  return a < kErfSplit ? erf_small(x) : copysign(large, x);
}
PYDLX_HD double erf(double x) { return __builtin_erf(x); }
// In double where erf x is nearly 1/2 and more: an error of the square would be multiplied by x^2, and the polynomial
// loses digits beside erf x. Max error 2 ULP, subnormal results included.
PYDLX_HD float erfc(float x) {
  const float a = abs(x), c = a > 15.0f ? 15.0f : a;
  const double d = c;
  const float large = static_cast<float>(exp(-d * d) * erfcx(d));
  return a < 0.47f ? 1.0f - erf_small(x) : (x < 0.0f ? 2.0f - large : large);
}
PYDLX_HD double erfc(double x) { return __builtin_erfc(x); }

// The normal distribution: cdf and density * sqrt(2 pi). The tail keeps its relative accuracy (1 + erf would cancel).
PYDLX_HD float normal_cdf(float x, float& kernel) {
  const float z = x * 0.70710678f, a = abs(z), c = a > 13.0f ? 13.0f : a;
  kernel = exp(-c * c);
  const float tail = 0.5f * kernel * erfcx(c);
  return x < 0.0f ? tail : 1.0f - tail;
}
PYDLX_HD double normal_cdf(double x, double& kernel) {
  kernel = exp(-0.5 * x * x);
  return 0.5 * __builtin_erfc(-x * 0.70710678118654752440);
}

// ---- power ----------------------------------------------------------------------------------------------------------

// Through double, whose 29 extra bits absorb the cancellation in y log x. Max error 0.6 ULP.
PYDLX_HD float pow(float x, float y) {
  const double t = static_cast<double>(y) * log(static_cast<double>(abs(x)));
  const float half = 0.5f * y;
  float r = static_cast<float>(exp(t));
  r = abs(x) == 1.0f ? 1.0f : r;                // log 1 = 0, also against infinite y
  float sign = trunc(half) != half ? x : 1.0f;  // odd y keep the sign of x
  sign = trunc(y) == y ? sign : 1.0f;
  r = copysign(r, sign);
  const float real = trunc(y) == y ? r : kNaN<float>;  // finite negative numbers have only integral powers
  const float finite = x > -kInfinity<float> ? real : r;
  r = x < 0.0f ? finite : r;
  r = x == 1.0f ? 1.0f : r;
  return y == 0.0f ? 1.0f : r;
}
PYDLX_HD double pow(double x, double y) { return __builtin_pow(x, y); }

}  // namespace pydlx::math
