// The power of float32 on explicit AVX-512 vectors: exponents and significands come apart, and results are scaled, by
// one instruction each, where the scalar form in functors/math.h takes logarithm and exponential of full double
// precision. Included before the loops are instantiated.
#pragma once
#include "cpu/pointwise/loop.h"
#include "functors/binary.h"

#ifdef PYDLX_ISA_avx512
namespace pydlx::PYDLX_ISA {
namespace {

using Doubles = Vector<double>;

// |x|^y in double, within 1e-10 of itself: log2 by the series of the inverse hyperbolic tangent of (m - 1) / (m + 1)
// with the significand m in [3/4, 3/2), 2^t by Taylor's series. 0, infinities and NaN come out of the instructions.
PYDLX_INLINE Doubles power(Doubles x, Doubles y) {
  const Doubles m = (Doubles)_mm512_maskz_getmant_pd(0xFF, (__m512d)x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_zero);
  const Doubles e =
      (Doubles)_mm512_maskz_getexp_pd(0xFF, (__m512d)x) - (Doubles)_mm512_maskz_getexp_pd(0xFF, (__m512d)m);
  const Doubles s = (m - 1.0) / (m + 1.0), z = s * s, zz = z * z;
  const Doubles p0 = 2.885390081777927 + z * 0.9617966939259757, p1 = 0.5770780163555854 + z * 0.41219858311113244,
                p2 = 0.3205988979753252 + z * 0.2623081892525388, p3 = 0.22195308321368667 + z * 0.19235933878519512;
  const Doubles log2 = e + s * ((p0 + zz * p1) + zz * zz * (p2 + zz * p3));
  Doubles t = y * log2;
  t = (Doubles)_mm512_maskz_min_pd(0xFF, (__m512d)splat<double>(1000.0), (__m512d)t);  // NaN stays
  t = (Doubles)_mm512_maskz_max_pd(0xFF, (__m512d)splat<double>(-1000.0), (__m512d)t);
  const Doubles n = (Doubles)_mm512_maskz_roundscale_pd(0xFF, (__m512d)t, _MM_FROUND_TO_NEAREST_INT);
  const Doubles f = t - n, g = f * f, gg = g * g;
  const Doubles q0 = 1.0 + f * 0.6931471805599453, q1 = 0.2402265069591007 + f * 0.0555041086648216,
                q2 = 0.009618129107628477 + f * 0.0013333558146428443,
                q3 = 0.00015403530393381608 + f * 1.5252733804059841e-05;
  const Doubles r = (q0 + g * q1) + gg * ((q2 + g * q3) + gg * 1.3215486790144307e-06);
  return (Doubles)_mm512_maskz_scalef_pd(0xFF, (__m512d)r, (__m512d)n);
}
typedef float HalfVector __attribute__((vector_size(kVectorBytes / 2)));
PYDLX_INLINE Doubles lower(Vector<float> v) {
  const HalfVector h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
  return (Doubles)_mm512_maskz_cvtps_pd(0xFF, (__m256)h);
}
PYDLX_INLINE Doubles upper(Vector<float> v) {
  const HalfVector h = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  return (Doubles)_mm512_maskz_cvtps_pd(0xFF, (__m256)h);
}
PYDLX_INLINE Vector<float> truncated(Vector<float> v) {
  return (Vector<float>)_mm512_maskz_roundscale_ps(0xFFFF, (__m512)v, _MM_FROUND_TO_ZERO);
}

// Max error 0.6 ULP; the special values of math::pow, in its order.
template <>
struct Wide<Binary<BinaryOp::pow>> {
  using V = Vector<float>;
  using I = VectorOf<float>::index;
  PYDLX_INLINE static V apply(V x, V y, const double*) {
    const int sign_bit = static_cast<int>(0x80000000u);
    const V a = (V)((I)x & ~sign_bit), one = splat<float>(1.0f);
    const HalfVector low = (HalfVector)_mm512_maskz_cvtpd_ps(0xFF, (__m512d)power(lower(a), lower(y))),
                     high = (HalfVector)_mm512_maskz_cvtpd_ps(0xFF, (__m512d)power(upper(a), upper(y)));
    V r = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    r = a == 1.0f ? one : r;
    const V half = 0.5f * y;
    const I whole = truncated(y) == y, odd = whole & (truncated(half) != half);
    r = (V)(((I)r & ~sign_bit) | ((I)x & odd & sign_bit));
    const float infinity = __builtin_inff();
    r = (x < 0.0f) & (x > -infinity) & ~whole ? splat<float>(__builtin_nanf("")) : r;
    r = x == 1.0f ? one : r;
    return y == 0.0f ? one : r;
  }
};

}  // namespace
}  // namespace pydlx::PYDLX_ISA
#endif
