// Elementary functions as branch-free scalar code that compilers vectorise, identical on every backend. NaN propagates
// through the arithmetic; conditions are single comparisons, because GCC does not vectorise selections on combined
// ones. tests/test_ulp.py measures the error bounds stated here. Polynomials are minimax fits (Remez) over the reduced
// range; the reductions follow Cody and Waite, "Software Manual for the Elementary Functions" (1980), and Muller,
// "Elementary Functions" (2016).
#pragma once
#include <cstdint>
#include <type_traits>

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

// On GPUs the less common functions of double are the CUDA library's.
#if defined(__CUDA_ARCH__)
inline constexpr bool kOnDevice = true;
#else
inline constexpr bool kOnDevice = false;
#endif
#if defined(__FMA__) || defined(__CUDA_ARCH__)
inline constexpr bool kHasFusedMultiply = true;
#else
inline constexpr bool kHasFusedMultiply = false;
#endif

// a b - p, exact for p = a b rounded (Dekker 1971 without the instruction; |a|, |b| < 2^995).
PYDLX_HD double product_rest(double a, double b, double p) {
  if constexpr (kHasFusedMultiply) return __builtin_fma(a, b, -p);
  const double ta = a * 134217729.0, tb = b * 134217729.0, ah = ta - (ta - a), bh = tb - (tb - b);
  return ((ah * bh - p) + ah * (b - bh) + (a - ah) * bh) + (a - ah) * (b - bh);
}

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

// p * 2^n in two steps, so that a subnormal result is rounded only once. n is whole, |n| <= 2 * (bias - 1). The sum's
// low bits are the sum of the two exponents, the constant's own are shifted out.
PYDLX_HD float scale(float p, float n) {
  const std::uint32_t k = bit_cast<std::uint32_t>(n + (12582912.0f + 254.0f)), half = k >> 1;
  return p * bit_cast<float>(half << 23) * bit_cast<float>((k - half) << 23);
}
PYDLX_HD double scale(double p, double n) {
  const std::uint64_t k = bit_cast<std::uint64_t>(n + (6755399441055744.0 + 2046.0)), half = k >> 1;
  return p * bit_cast<double>(half << 52) * bit_cast<double>((k - half) << 52);
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
template <class T>
PYDLX_HD T long_exp_tail(T r) {  // in pairs of terms: the latency of one long chain would be what loops wait for
  const T z = r * r, y = z * z;
  const T p0 = 0.5 + 1.666666666666667107e-1 * r, p1 = 4.166666666666668414e-2 + 8.333333333326024456e-3 * r,
          p2 = 1.388888888887417269e-3 + 1.984126987520658124e-4 * r,
          p3 = 2.480158734786812348e-5 + 2.755725491182898519e-6 * r,
          p4 = 2.755725240562738497e-7 + 2.510541980152892449e-8 * r;
  return (p0 + z * p1) + y * ((p2 + z * p3) + y * (p4 + z * 2.092175969737440264e-9));
}
PYDLX_HD double exp_tail(double r) { return long_exp_tail(r); }

template <class T>
inline constexpr T kExpMax = sizeof(T) == 4 ? static_cast<T>(89) : static_cast<T>(710);  // above: infinity
template <class T>
inline constexpr T kExpMin = sizeof(T) == 4 ? static_cast<T>(-104.5) : static_cast<T>(-746);  // below: 0

// Max error 1.0 ULP (float), 1.0 ULP (double), subnormal results included.
template <class T>
PYDLX_HD T exp_impl(T x) {
  T n;
  const T r = reduce_ln2(x > kExpMax<T> ? kExpMax<T> : (x < kExpMin<T> ? kExpMin<T> : x), n);
  return scale(T(1) + (r + r * r * exp_tail(r)), n);
}
PYDLX_HD float exp(float x) { return exp_impl(x); }
PYDLX_HD double exp(double x) { return exp_impl(x); }

// 2^x = 2^n e^(r ln2), r = x - n exact. Max error 1.2 ULP.
template <class T>
PYDLX_HD T exp2_impl(T x) {
  const T high = sizeof(T) == 4 ? T(130) : T(1030), low = sizeof(T) == 4 ? T(-155) : T(-1080);
  const T c = x > high ? high : (x < low ? low : x);
  const T n = round(c), r = (c - n) * T(0.693147180559945309417);
  return scale(T(1) + (r + r * r * exp_tail(r)), n);
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

// x = 2^(k - bias) (1 + f) with 1 + f in [sqrt(1/2), sqrt 2), for positive normal x. f is exact. Unsigned: other
// arguments give a result that is replaced later, but must not overflow.
PYDLX_HD float significand(float x, std::uint32_t& k) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(x);
  k = (bits + (0x3f800000u - 0x3f3504f3u)) >> 23;
  return bit_cast<float>(bits - ((k - 127) << 23)) - 1.0f;
}
PYDLX_HD double significand(double x, std::uint64_t& k) {
  const std::uint64_t bits = bit_cast<std::uint64_t>(x);
  k = (bits + (0x3ff0000000000000ull - 0x3fe6a09e667f3bcdull)) >> 52;
  return bit_cast<double>(bits - ((k - 1023) << 52)) - 1.0;
}
PYDLX_HD float exponent_of(std::uint32_t k) { return static_cast<float>(static_cast<std::int32_t>(k)) - 127.0f; }
PYDLX_HD double exponent_of(std::uint64_t k) {  // without the conversion that AVX2 lacks
  return bit_cast<double>(k | 0x4330000000000000ull) - (4503599627370496.0 + 1023.0);
}
// The same with e = k - bias for positive finite x, subnormal or not.
PYDLX_HD float split(float x, float& e) {
  const bool tiny = x < 0x1p-126f;
  std::uint32_t k;
  const float f = significand(tiny ? x * 0x1p23f : x, k);
  e = exponent_of(k) - (tiny ? 23.0f : 0.0f);
  return f;
}
PYDLX_HD double split(double x, double& e) {
  const bool tiny = x < 0x1p-1022;
  std::uint64_t k;
  const double f = significand(tiny ? x * 0x1p52 : x, k);
  e = exponent_of(k) - (tiny ? 52.0 : 0.0);
  return f;
}

// log(1 + f) - f. Float: relative error of the whole 7.5e-10. Double: through 2 atanh(f / (2 + f)), error 3e-16 of the
// last term.
PYDLX_HD float log_tail(float f) {
  const float p = horner(f, 6.746637821e-02f, -1.167565063e-01f, 1.188816279e-01f, -1.240558997e-01f, 1.421955228e-01f,
                         -1.666799635e-01f, 2.000211924e-01f, -2.500000894e-01f, 3.333331347e-01f);
  const float z = f * f;
  return z * f * p - 0.5f * z;
}
template <class T>
PYDLX_HD T long_log_tail(T f) {
  const T s = f / (2.0 + f), z = s * s, y = z * z, h = 0.5 * f * f;
  const T p0 = 0.6666666666666669749 + 0.3999999999989788909 * z,
          p1 = 0.2857142862665096342 + 0.2222221103180599148 * z,
          p2 = 0.1818289620399856413 + 0.1533149788057243969 * z;
  return s * (h + z * (p0 + y * (p1 + y * (p2 + 0.1461909555602532595 * y)))) - h;
}
PYDLX_HD double log_tail(double f) { return long_log_tail(f); }

// C99 results outside the positive finite numbers.
template <class T>
PYDLX_HD T log_specials(T x, T y) {
  y = x == kInfinity<T> ? x : y;
  return x > T(0) ? y : (x == T(0) ? -kInfinity<T> : kNaN<T>);
}

// e log 2 + (f + tail), log 2 in two parts, the first of so few bits that its product with e is exact.
PYDLX_HD float log_sum(float e, float f, float tail) { return e * 0x1.62E400p-1f + (f + (e * 0x1.7F7D1Cp-20f + tail)); }
PYDLX_HD double log_sum(double e, double f, double tail) {
  return e * 6.93147180369123816490e-01 + (f + (e * 1.90821492927058770002e-10 + tail));
}

// Max error 1.0 ULP.
template <class T>
PYDLX_HD T log_impl(T x) {
  T e;
  const T f = split(x, e);
  return log_specials(x, log_sum(e, f, log_tail(f)));
}
PYDLX_HD float log(float x) { return log_impl(x); }
PYDLX_HD double log(double x) { return log_impl(x); }

// log(x) / log(base) with the constant split in two, so that f times it keeps its low bits. Max error 2.5 ULP.
PYDLX_HD float log_base(float x, float scale_high, float scale_low, float unit_high, float unit_low) {
  float e;
  const float f = split(x, e), t = log_tail(f);
  // f = high part with 12 bits + rest: its product with the 12-bit scale_high is exact
  const float fh = bit_cast<float>(bit_cast<std::uint32_t>(f) & 0xfffff000u), fl = (f - fh) + t;
  const float small = fh * scale_low + fl * scale_low + fl * scale_high + e * unit_low;
  return log_specials(x, e * unit_high + (fh * scale_high + small));
}
// Max error 1.5 ULP.
PYDLX_HD double log_base(double x, double scale_high, double scale_low, double unit_high, double unit_low) {
  double e;
  const double f = split(x, e), t = log_tail(f), y = f + t;
  const double high = bit_cast<double>(bit_cast<std::uint64_t>(y) & 0xffffffff00000000ull), low = (f - high) + t;
  const double small = (high * scale_low + e * unit_low) + low * scale_low + low * scale_high;
  const double a = e * unit_high, b = high * scale_high, s = a + b;  // both exact; |a| > |b| or a = 0
  return log_specials(x, s + (((a - s) + b) + small));
}
PYDLX_HD float log2(float x) { return log_base(x, 1.4423828125f, 0.000312228388963f, 1.0f, 0.0f); }
PYDLX_HD float log10(float x) {
  return log_base(x, 0.434326171875f, -3.16899717482e-5f, 0.301025390625f, 4.6050389812e-6f);
}
PYDLX_HD double log2(double x) {
  if constexpr (kOnDevice) return __builtin_log2(x);
  return log_base(x, 0x1.7154765p+0, 0x1.5c17f0bbbe880p-31, 1.0, 0.0);
}
PYDLX_HD double log10(double x) {
  if constexpr (kOnDevice) return __builtin_log10(x);
  return log_base(x, 0x1.bcb7b15p-2, 0x1.37287195355bbp-33, 0x1.34413509f7800p-2, 0x1.fef311f12b358p-46);
}

// log(u + lost) of u = 2^e (1 + f) and what its rounding lost: log u + d / (1 + f) with d = lost / 2^e, and 1 - f + f^2
// for the reciprocal, since d is tiny beside f unless f is. Doubled, for 2^-e of the largest u is subnormal.
template <class T>
PYDLX_HD T log_corrected(T u, T lost) {
  using Word = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr int mantissa = sizeof(T) == 4 ? 23 : 52;
  constexpr Word reciprocal = sizeof(T) == 4 ? 255 : 2047;
  Word k;
  const T f = significand(u, k), twice_d = lost * bit_cast<T>((reciprocal - k) << mantissa);
  return log_sum(exponent_of(k), f, log_tail(f) + twice_d * (T(0.5) + T(0.5) * (f * f - f)));
}
template <class T>
PYDLX_HD T lost_by_one_plus(T x, T u) {  // u = 1 + x
  return x >= T(1) ? T(1) - (u - x) : x - (u - T(1));
}
// Max error 2 ULP.
template <class T>
PYDLX_HD T log1p(T x) {
  const T u = T(1) + x, y = log_corrected(u, lost_by_one_plus(x, u));
  return u == T(1) ? x : log_specials(u, y);
}
// 2 atanh(s) - 2 s for |s| <= 1/5; relative errors of the whole 3e-9 and 1.4e-19.
PYDLX_HD float atanh_tail(float s) {
  const float z = s * s;
  return s * z * horner(z, 3.036522395e-01f, 3.995760937e-01f, 6.666694949e-01f);
}
PYDLX_HD double atanh_tail(double s) {
  const double z = s * s, y = z * z;
  const double p0 = 0.6666666666666659591 + 0.400000000000569516 * z,
               p1 = 0.285714285557679337 + 0.2222222430285779774 * z,
               p2 = 0.1818166551126372485 + 0.1539112341446387016 * z,
               p3 = 0.1317341203460741252 + 0.1384427829743060161 * z;
  return s * z * ((p0 + y * p1) + y * y * (p2 + y * p3));
}
// log(x / (1 - x)) = k log 2 + 2 atanh(s): 2^-k x lies between 2/3 and 3/2 of 1 - x, and s is their difference over
// their sum. The difference takes back what the rounding of 1 - x lost, and is exact where k is 0. Max error 2 ULP.
template <class T>
PYDLX_HD T logit(T x) {
  using Word = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr int mantissa = sizeof(T) == 4 ? 23 : 52;
  constexpr Word bias = sizeof(T) == 4 ? 127 : 1023, half = Word{1} << (mantissa - 1);
  constexpr T smallest = sizeof(T) == 4 ? T(0x1p-126) : T(0x1p-1022), grow = sizeof(T) == 4 ? T(0x1p23) : T(0x1p52);
  const T d = T(1) - x, lost = (T(1) - d) - x, n = x < smallest ? x * grow : x;
  const Word of_n = bit_cast<Word>(n), k = (of_n - bit_cast<Word>(d) + ((bias << mantissa) + half)) >> mantissa;
  const T m = bit_cast<T>(of_n - ((k - bias) << mantissa));
  const T s = ((m - d) - lost) / (m + d), e = exponent_of(k) - (x < smallest ? T(mantissa) : T(0));
  const T inside = log_sum(e, T(2) * s, atanh_tail(s)), below_one = x == T(1) ? kInfinity<T> : kNaN<T>;
  const T y = x < T(1) ? inside : below_one;
  return x > T(0) ? y : (x == T(0) ? -kInfinity<T> : kNaN<T>);
}
// log(1 + e) for e in [0, 1], as differences of exponentials give: 1 + e = 2^n (1 + f) without a rounding. Max error 2
// ULP.
template <class T>
PYDLX_HD T log1p_unit(T e) {
  const T f = e > T(0.41421356) ? T(0.5) * e - T(0.5) : e, n = e > T(0.41421356) ? T(1) : T(0);
  return log_sum(n, f, log_tail(f));
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

}  // namespace pydlx::math
