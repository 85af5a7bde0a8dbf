// Mean and variance in one pass.
#pragma once
#include "cuda/reduce/walk.cuh"

namespace pydlx::cuda {
namespace {

// Moments about a value near the mean, the first one that a thread meets, so that nothing cancels; states are merged by
// Chan, Golub and LeVeque's update (1979). In double.
template <class A>
struct Moments {
  using In = A;
  struct State {
    double n, pivot, sum, square;  // sums of x - pivot and of its square
  };
  static __device__ State init() { return {0, 0, 0, 0}; }
  static __device__ State add(State s, A x, std::int64_t) {
    if (s.n == 0) return {1, static_cast<double>(x), 0, 0};
    const double d = static_cast<double>(x) - s.pivot;
    return {s.n + 1, s.pivot, s.sum + d, s.square + d * d};
  }
  // The same with the mean as the pivot: the sum is then 0, the square the sum of squared deviations.
  static __device__ State centred(State s) {
    if (s.n == 0) return s;
    const double m2 = s.square - s.sum * (s.sum / s.n);
    return {s.n, s.pivot + s.sum / s.n, 0, m2 < 0 ? 0.0 : m2};
  }
  static __device__ State merge(State a, State b) {
    a = centred(a);
    b = centred(b);
    if (b.n == 0) return a;
    if (a.n == 0) return b;
    const double n = a.n + b.n, delta = b.pivot - a.pivot;
    return {n, a.pivot + delta * (b.n / n), 0, a.square + b.square + delta * delta * (a.n * b.n / n)};
  }
};

}  // namespace
}  // namespace pydlx::cuda
