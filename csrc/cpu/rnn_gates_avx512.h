// Gates of recurrent layers on vectors of float32 whose results become bfloat16: errors below 1e-6, relative, which is
// a thousandth of that rounding, at half the instructions of functors/math.h.
#pragma once
#include "cpu/gemm/words.h"

namespace pydlx::PYDLX_ISA {
namespace {

// 1 / d by the processor's 14 bits and one step of Newton's method: 2e-8.
PYDLX_INLINE Words reciprocal(Words d) {
  const Words r = (Words)_mm512_maskz_rcp14_ps(0xffff, (__m512)d);
  return r + r * (splat<float>(1) - d * r);
}
// Between -limit and limit; NaN stays NaN, because minimum and maximum give their second operand then.
PYDLX_INLINE Words clamped(Words x, float limit) {
  const __m512 low = _mm512_maskz_min_ps(0xffff, (__m512)splat<float>(limit), (__m512)x);
  return (Words)_mm512_maskz_max_ps(0xffff, (__m512)splat<float>(-limit), low);
}
struct PowerOfTwo {
  Words scale, rest;  // 2^x = scale * (1 + rest)
};
// Minimax polynomial of (2^r - 1) / r on |r| <= 1/2: 4.4e-7.
PYDLX_INLINE PowerOfTwo power_of_two(Words x) {
  const Words n = (Words)_mm512_maskz_roundscale_ps(0xffff, (__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Words r = x - n;
  Words p = splat<float>(1.333353682e-3f);
  p = p * r + splat<float>(9.666245418e-3f);
  p = p * r + splat<float>(5.550500218e-2f);
  p = p * r + splat<float>(2.402235134e-1f);
  p = p * r + splat<float>(6.931471435e-1f);
  return {(Words)_mm512_maskz_scalef_ps(0xffff, (__m512)splat<float>(1), (__m512)n), p * r};
}
PYDLX_INLINE Words narrow_sigmoid(Words x) {
  const PowerOfTwo e = power_of_two(clamped(x * splat<float>(-1.44269504f), 126));
  return reciprocal(splat<float>(1) + (e.scale + e.scale * e.rest));
}
// With m = e^(2x) - 1: m / (m + 2). Small x keep their relative accuracy, since m has no cancellation.
PYDLX_INLINE Words narrow_tanh(Words x) {
  const PowerOfTwo e = power_of_two(clamped(x * splat<float>(2.88539008f), 30));
  const Words m = e.scale * e.rest + (e.scale - splat<float>(1));
  return m * reciprocal(m + splat<float>(2));
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
