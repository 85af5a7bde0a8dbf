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
  template <class A>
  __device__ Online<A> operator()(Online<A> a, Online<A> b) const {
    if (b.sum == A(0)) return a;
    if (a.sum == A(0)) return b;
    // The same bits whichever comes first: one of the products is with 1, and the other one may be fused with the sum.
    const bool swapped = (b.max > a.max) | (b.max != b.max);
    const Online<A> most = swapped ? b : a, less = swapped ? a : b;
    return {most.max, most.sum + less.sum * relative(less.max, most.max)};
  }
};

}  // namespace
}  // namespace pydlx::cuda
