// Elementary functions of float on explicit vectors: the forms of functors/math.h where the compiler's own
// vectorisation costs too much (selections become long chains of masks, divisions and powers of two take several
// instructions where the machine has one). NaN propagates. tests/test_ulp.py measures the bounds stated here.
#pragma once
#include "cpu/erf_factor.h"
#include "cpu/gemm/vec.h"
#include "cpu/normal_tail.h"

namespace pydlx::PYDLX_ISA::vmath {
namespace {

using V = Vector<float>;
using I = VectorOf<float>::index;
inline constexpr int kWidth = kLanesOf<float>;

PYDLX_INLINE V all(float x) { return splat<float>(x); }

// x where it is NaN. (The unmasked forms of these intrinsics warn.)
PYDLX_INLINE V at_most(V x, V limit) {
#if defined(PYDLX_ISA_avx512)
  return (V)_mm512_maskz_min_ps(0xFFFF, (__m512)limit, (__m512)x);
#elif defined(PYDLX_ISA_avx2)
  return (V)_mm256_min_ps((__m256)limit, (__m256)x);
#else
  return limit < x ? limit : x;
#endif
}
PYDLX_INLINE V at_least(V x, V limit) {
#if defined(PYDLX_ISA_avx512)
  return (V)_mm512_maskz_max_ps(0xFFFF, (__m512)limit, (__m512)x);
#elif defined(PYDLX_ISA_avx2)
  return (V)_mm256_max_ps((__m256)limit, (__m256)x);
#else
  return limit > x ? limit : x;
#endif
}
PYDLX_INLINE V abs(V x) { return (V)((I)x & 0x7fffffff); }
PYDLX_INLINE V minus_abs(V x) { return (V)((I)x | static_cast<int>(0x80000000u)); }

// -a a - b, rounded once where there is an instruction for that.
PYDLX_INLINE V minus_square(V a, V b) {
#if defined(PYDLX_ISA_avx512)
  return (V)_mm512_fnmsub_ps((__m512)a, (__m512)a, (__m512)b);
#elif defined(PYDLX_ISA_avx2)
  return (V)_mm256_fnmsub_ps((__m256)a, (__m256)a, (__m256)b);
#else
  const V z = a * a, high = (V)((I)a & ~0xfff), low = a - high;  // products of halves are exact
  return (-z - b) - (((high * high - z) + high * low + low * high) + low * low);
#endif
}

// p 2^n for integral n in [-151, 129], rounded once.
PYDLX_INLINE V scale(V p, V n) {
#if defined(PYDLX_ISA_avx512)
  return (V)_mm512_maskz_scalef_ps(0xFFFF, (__m512)p, (__m512)n);
#else
  const I k = (I)(n + (12582912.0f + 254.0f)), half = k >> 1;  // the constant's own bits are shifted out
  return p * (V)(half << 23) * (V)((k - half) << 23);
#endif
}

// x = n ln2 + r with |r| <= ln2 / 2, and e^x from that. Polynomials are evaluated in pairs of terms (Estrin's scheme):
// the latency of long chains, not the number of operations, is what limits loops over them.
struct Reduced {
  V r, n;
};
PYDLX_INLINE Reduced reduce(V x) {
  const float magic = 12582912.0f;
  const V n = (x * 1.44269504f + magic) - magic;
  return {(x - n * 0x1.62E400p-1f) - n * 0x1.7F7D1Cp-20f, n};
}
// e^r - 1.
PYDLX_INLINE V expm1_reduced(V r) {
  const V z = r * r, q0 = 4.999999404e-01f + r * 1.666652113e-01f, q1 = 4.166838899e-02f + r * 8.368745446e-03f;
  return r + z * (q0 + z * (q1 + z * 1.381453942e-03f));
}
PYDLX_INLINE V finish_exp(V r, V n) { return scale(1.0f + expm1_reduced(r), n); }
// Max error 1.0 ULP.
PYDLX_INLINE V exp(V x) {
  const Reduced k = reduce(at_least(at_most(x, all(89.0f)), all(-104.5f)));
  return finish_exp(k.r, k.n);
}
// The same for x <= 0.
PYDLX_INLINE V exp_nonpositive(V x) {
  const Reduced k = reduce(at_least(x, all(-104.5f)));
  return finish_exp(k.r, k.n);
}

// 2^x with x = n + r exact. Max error 1.2 ULP.
PYDLX_INLINE V exp2(V x) {
  const V c = at_least(at_most(x, all(129.0f)), all(-151.0f));
  const V n = (c + 12582912.0f) - 12582912.0f;
  return finish_exp((c - n) * 0.693147181f, n);
}

// log(1 + f) - f for f in (-0.3, 0.42].
PYDLX_INLINE V log_tail(V f) {
  const V z = f * f, y = z * z;
  const V p0 = 3.333331347e-01f + f * -2.500000894e-01f, p1 = 2.000211924e-01f + f * -1.666799635e-01f,
          p2 = 1.421955228e-01f + f * -1.240558997e-01f, p3 = 1.188816279e-01f + f * -1.167565063e-01f;
  const V p = (p0 + z * p1) + y * ((p2 + z * p3) + y * 6.746637821e-02f);
  return z * f * p - 0.5f * z;
}
// log(1 + e) for e in [0, 1], as differences of exponentials give. Max error 1.5 ULP.
PYDLX_INLINE V log1p_unit(V e) {
  const I upper = e > 0.41421356f;  // 1 + e = 2 (1 + f)
  const V f = upper ? 0.5f * e - 0.5f : e, n = upper ? all(1.0f) : V{};
  return n * 0x1.62E400p-1f + (f + (n * 0x1.7F7D1Cp-20f + log_tail(f)));
}
// log x for x >= 1 as a sum of two: what is subtracted from both parts in turn is rounded as if the logarithm were
// exact. NaN where x is infinite or NaN.
struct LogParts {
  V high, low;
};
PYDLX_INLINE LogParts log_parts(V x) {
  const I bits = (I)x, k = (bits - 0x3f3504f3) >> 23;  // x = 2^k (1 + f)
  const V f = (V)(bits - (k << 23)) - 1.0f, n = __builtin_convertvector(k, V), a = n * 0x1.62E400p-1f, high = a + f;
  return {high, ((a - high) + f) + (n * 0x1.7F7D1Cp-20f + log_tail(f)) + (x - x)};
}

// log(1 + e^-|x|). Max error 2 ULP.
PYDLX_INLINE V softplus_tail(V x) { return log1p_unit(exp_nonpositive(minus_abs(x))); }

// Written on e^-|x|, so that it neither overflows nor loses the tail. Max error 2.5 ULP.
PYDLX_INLINE V sigmoid(V x) {
  const V e = exp_nonpositive(minus_abs(x));
  return (x < 0.0f ? e : all(1.0f)) / (1.0f + e);
}

// With m = e^(2|x|) - 1: tanh|x| = m / (m + 2). Max error 3 ULP.
PYDLX_INLINE V tanh(V x) {
  const Reduced k = reduce(2.0f * at_most(abs(x), all(10.0f)));
  const V s = scale(all(1.0f), k.n), m = s * expm1_reduced(k.r) + (s - 1.0f);
  return (V)((I)(m / (m + 2.0f)) | ((I)x & static_cast<int>(0x80000000u)));
}

#if defined(PYDLX_ISA_avx512)
// From 3.92 on erf rounds to 1. Max error 2 ULP.
PYDLX_INLINE V erf(V x) {
  const V a = abs(x), c = at_most(a, all(3.95f)), y = at_most(c * erf_factor(c), all(1.0f));
  return (V)((I)(a > 3.92f ? all(1.0f) : y) | ((I)x & static_cast<int>(0x80000000u)));
}
#endif

// Phi(-a) = scale(m + m t, n) and e^(-a^2 / 2) = scale(1 + t, n) for a in [0, 14.5]. The square is not rounded
// before what it has in common with a power of two is gone, so that the lower tail keeps its relative accuracy.
struct NormalTail {
  V m, t, n;
};
PYDLX_INLINE NormalTail normal_parts(V a) {
  // e^(-a^2 / 2) with r = twice the reduced argument: powers of two go into the coefficients
  const float magic = 12582912.0f;
  const V n = (a * a * -0.72134752f + magic) - magic;
  const V r = minus_square(a, n * 0x1.62E400p+0f) - n * 0x1.7F7D1Cp-19f, y = r * r;  // the first product is exact
  const V q0 = 1.249999851e-01f + r * 2.083315141e-02f, q1 = 2.604274312e-03f + r * 2.615232952e-04f;
  return {normal_tail(a), r * (0.5f + r * (q0 + y * (q1 + y * 2.158521784e-05f))), n};
}

PYDLX_INLINE V lower_tail(const NormalTail& k) {
#if defined(PYDLX_ISA_avx512) || defined(PYDLX_ISA_avx2)
  return scale(k.m + k.m * k.t, k.n);  // one rounding less than m (1 + t)
#else
  return k.m * scale(1.0f + k.t, k.n);
#endif
}

// Phi(x), the normal distribution, and e^(-x^2 / 2).
struct Normal {
  V cdf, kernel;
};
PYDLX_INLINE Normal normal(V x) {
  const NormalTail k = normal_parts(at_most(abs(x), all(14.5f)));
  const V tail = lower_tail(k);
  return {x < 0.0f ? tail : 1.0f - tail, scale(1.0f + k.t, k.n)};
}

// x Phi(x) as max(x, 0) - |x| Phi(-|x|). Max error 3.5 ULP with AVX-512, 5.5 ULP without.
PYDLX_INLINE V gelu(V x) {
  const V a = abs(at_most(x, all(14.5f)));  // infinite at -infinity, whose result is NaN
  const NormalTail k = normal_parts(at_most(a, all(14.5f)));
  return at_least(x, V{}) - a * lower_tail(k);
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA::vmath
