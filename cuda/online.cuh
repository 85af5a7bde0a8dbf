// The maximum of a row and the sum of exponentials relative to it, found together in one pass (Milakov and Gimelshein
// 2018, "Online normalizer calculation for softmax").
#pragma once
#include "cuda/runtime/columns.cuh"
#include "functors/math.h"
#include "functors/types.h"

namespace pydlx::cuda {
namespace {

// e^x, x <= 0, for results of T. math::exp of a float takes more than twenty instructions, the toolkit's eight, and
// both are 1 ULP off at most. Next to 16-bit floats the special function unit's error, (2 + |x|) 2^-23 of the result,
// is nothing.
template <class T>
__device__ __forceinline__ functors::compute_t<T> power_of_e(functors::compute_t<T> x) {
#if !defined(PYDLX_CUDA_EMULATED)
  if constexpr (sizeof(T) == 2) return __expf(x);
  if constexpr (sizeof(T) == 4) return ::expf(x);
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
  return power_of_e<T>(x);
}
template <class A>
__device__ __forceinline__ A larger(A a, A b) {  // a where b is NaN
#if !defined(PYDLX_CUDA_EMULATED)
  if constexpr (sizeof(A) == 4) return ::fmaxf(a, b);
#endif
  return b > a ? b : a;
}

struct Larger {
  template <class A>
  __device__ A operator()(A a, A b) const {
    return larger(a, b);
  }
};

template <class A>
struct Online {
  A max, sum;
};
template <class A>
__device__ A relative(A x, A max) {
  return x == max ? A(1) : power_of_e<A>(x - max);  // infinities may still be overtaken: no NaN yet
}
template <class A>
__device__ Online<A> nothing_yet() {
  return {-math::kInfinity<A>, A(0)};
}
// V elements of T at once: the sum moves to another maximum at most once. NaN reaches the sum.
template <class T, class A, int V>
__device__ __forceinline__ void include(Online<A>& s, const A (&x)[V]) {
  A max = s.max;
#pragma unroll
  for (int j = 0; j < V; ++j) max = larger(max, x[j]);
  if (max != s.max) s = {max, s.sum == A(0) ? A(0) : s.sum * power_of_e<A>(s.max - max)};
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
// The maxima and sums of what a thread meets of V neighbouring lines, which p holds afterwards if it is no more than p.
template <class T, int V, class A>
__device__ __forceinline__ void include_columns(const RowThread& at, const Columns& c, const ColumnPlace<V>& place,
                                                const T* x, Pack<T, V> (&p)[kColumnAhead], Online<A> (&s)[V]) {
#pragma unroll
  for (int j = 0; j < V; ++j) s[j] = nothing_yet<A>();
  for (std::int64_t i = at.lane; i < place.n; i += kColumnAhead * at.lanes) {
    each_ahead(at, i, place.n, [&](int q, std::int64_t r) { p[q] = get<T, V>(x + r * c.inner); });
    A v[V][kColumnAhead];
#pragma unroll
    for (int q = 0; q < kColumnAhead; ++q) {
      A w[V];
      widen(p[q], w);
#pragma unroll
      for (int j = 0; j < V; ++j) v[j][q] = i + q * at.lanes < place.n ? w[j] : -math::kInfinity<A>;
    }
#pragma unroll
    for (int j = 0; j < V; ++j) include<T>(s[j], v[j]);
  }
}
// What the lanes of V neighbouring lines found, settled: the maxima first, so that sums are moved once.
template <class A, int V>
__device__ __forceinline__ void merge_columns(const RowThread& at, Online<A> (&s)[V], Pack<A, V>* shared) {
  Pack<A, V> max, sum;
#pragma unroll
  for (int j = 0; j < V; ++j) max.v[j] = s[j].max;
  max = at.all(max, shared, EachColumn<Larger>());
#pragma unroll
  for (int j = 0; j < V; ++j) sum.v[j] = s[j].sum * relative(s[j].max, max.v[j]);
  sum = at.all(sum, shared, EachColumn<Adder>());
#pragma unroll
  for (int j = 0; j < V; ++j) s[j] = settled(Online<A>{max.v[j], sum.v[j]});
}

}  // namespace
}  // namespace pydlx::cuda
