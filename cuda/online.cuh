// The maximum of a row and the sum of exponentials relative to it, found together in one pass (Milakov and Gimelshein
// 2018, "Online normalizer calculation for softmax").
#pragma once
#include "cuda/runtime/launch.h"
#include "functors/math.h"
#include "functors/types.h"

namespace pydlx::cuda {
namespace {

template <class A>
struct Online {
  A max, sum;
};
template <class A>
__device__ A relative(A x, A max) {
  return x == max ? A(1) : math::exp(x - max);  // infinities may still be overtaken: no NaN yet
}
template <class A>
__device__ Online<A> nothing_yet() {
  return {-math::kInfinity<A>, A(0)};
}
template <class A>
__device__ void include(Online<A>& s, A x) {
  if (x <= s.max)
    s.sum += relative(x, s.max);
  else
    s = {x, s.sum == A(0) ? A(1) : s.sum * math::exp(s.max - x) + A(1)};
}
// e^x, x <= 0, for results of T. Next to 16-bit floats the special function unit's error, (2 + |x|) 2^-23 of the
// result, is nothing, and math::exp takes more than twenty instructions.
template <class T>
__device__ __forceinline__ functors::compute_t<T> power_of_e(functors::compute_t<T> x) {
#if !defined(PYDLX_CUDA_EMULATED)
  if constexpr (sizeof(T) == 2) return __expf(x);
#endif
  return math::exp(x);
}
// The same in a sum that has a term of about 1: subnormal ones are 0.
template <class T>
__device__ __forceinline__ functors::compute_t<T> term_of_e(functors::compute_t<T> x) {
#if !defined(PYDLX_CUDA_EMULATED)
  if constexpr (sizeof(T) == 2) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
    return y;
  }
#endif
  return math::exp(x);
}
// V elements of T at once: the sum moves to another maximum at most once. NaN reaches the sum.
template <class T, class A, int V>
__device__ __forceinline__ void include(Online<A>& s, const A (&x)[V]) {
  A max = s.max;
#pragma unroll
  for (int j = 0; j < V; ++j) max = x[j] > max ? x[j] : max;
  if (max != s.max) s = {max, s.sum == A(0) ? A(0) : s.sum * math::exp(s.max - max)};
  const A pivot = math::abs(max) == math::kInfinity<A> ? A(0) : max;  // infinities may still be overtaken: no NaN yet
#pragma unroll
  for (int j = 0; j < V; ++j) s.sum += term_of_e<T>(x[j] - pivot);
}
// What the definition gives for a row of -inf or with +inf in it: inf - inf, which is NaN.
template <class A>
__device__ Online<A> settled(Online<A> s) {
  return {s.max, math::abs(s.max) == math::kInfinity<A> ? math::kNaN<A> : s.sum};
}
struct MergeOnline {
  // Not fused with the sum of two, which would be other bits for (b, a) than for (a, b).
  __device__ static float rounded(float x, float y) { return __fmul_rn(x, y); }
  __device__ static double rounded(double x, double y) { return __dmul_rn(x, y); }
  template <class A>
  __device__ Online<A> operator()(Online<A> a, Online<A> b) const {
    if (b.sum == A(0)) return a;
    if (a.sum == A(0)) return b;
    const A m = (b.max > a.max) | (b.max != b.max) ? b.max : a.max;
    return {m, rounded(a.sum, relative(a.max, m)) + rounded(b.sum, relative(b.max, m))};
  }
};

}  // namespace
}  // namespace pydlx::cuda
