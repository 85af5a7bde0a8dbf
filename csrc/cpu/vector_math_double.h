// Exponentials of double on explicit AVX-512 vectors, which have instructions for powers of two. The polynomials are
// those of functors/math.h, and so are the bounds, which tests/test_ulp_double.py measures.
#pragma once
#include "cpu/gemm/vec.h"
#include "functors/math.h"

#ifdef PYDLX_ISA_avx512
namespace pydlx::PYDLX_ISA::vmath {
namespace {

using D = Vector<double>;
using DI = VectorOf<double>::index;

// x where it is NaN. (The unmasked forms of these intrinsics warn.)
PYDLX_INLINE D at_most(D x, D limit) { return (D)_mm512_maskz_min_pd(0xFF, (__m512d)limit, (__m512d)x); }
PYDLX_INLINE D at_least(D x, D limit) { return (D)_mm512_maskz_max_pd(0xFF, (__m512d)limit, (__m512d)x); }
PYDLX_INLINE D minus_abs(D x) { return (D)((DI)x | (DI)splat<double>(-0.0)); }
PYDLX_INLINE D nearest(D x) { return (D)_mm512_maskz_roundscale_pd(0xFF, (__m512d)x, _MM_FROUND_TO_NEAREST_INT); }
PYDLX_INLINE D finish_exp(D r, D n) {
  const D p = 1.0 + (r + r * r * math::long_exp_tail(r));
  return (D)_mm512_maskz_scalef_pd(0xFF, (__m512d)p, (__m512d)n);
}
PYDLX_INLINE D exp_nonpositive(D x) {
  const D c = at_least(x, splat<double>(-746.0)), n = nearest(c * 1.4426950408889634);
  return finish_exp((c - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10, n);
}
PYDLX_INLINE D exp(D x) { return exp_nonpositive(at_most(x, splat<double>(710.0))); }
PYDLX_INLINE D exp2(D x) {
  const D c = at_least(at_most(x, splat<double>(1030.0)), splat<double>(-1080.0)), n = nearest(c);
  return finish_exp((c - n) * 0.693147180559945309417, n);
}
PYDLX_INLINE D sigmoid(D x) {
  const D e = exp_nonpositive(minus_abs(x));
  return (x < 0.0 ? e : splat<double>(1.0)) / (1.0 + e);
}
// log(1 + e^-|x|).
PYDLX_INLINE D softplus_tail(D x) {
  const D e = exp_nonpositive(minus_abs(x));
  const DI upper = e > 0.41421356;
  const D f = upper ? 0.5 * e - 0.5 : e, n = upper ? splat<double>(1.0) : D{};
  const D tail = n * 1.90821492927058770002e-10 + math::long_log_tail(f);
  return n * 6.93147180369123816490e-01 + (f + tail);
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA::vmath
#endif
