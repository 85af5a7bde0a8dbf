// The maximum of a row and the sum of exponentials relative to it, found together in one pass (Milakov and Gimelshein
// 2018, "Online normalizer calculation for softmax").
#pragma once
#include "cuda/runtime/launch.h"
#include "functors/math.h"

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
    const A m = (b.max > a.max) | (b.max != b.max) ? b.max : a.max;
    return {m, a.sum * relative(a.max, m) + b.sum * relative(b.max, m)};
  }
};

}  // namespace
}  // namespace pydlx::cuda
