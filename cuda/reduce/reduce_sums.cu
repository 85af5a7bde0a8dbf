// Sums, products, norms, moments, counts and log-sum-exp. As on the CPU, floating sums are carried in double.
#include "cuda/reduce/moments.cuh"
#include "cuda/reduce/walk.cuh"
#include "functors/math.h"

namespace pydlx::cuda {
namespace {

struct Plain {
  template <class V>
  static __device__ V map(V x) {
    return x;
  }
};
struct SkipNan {
  template <class V>
  static __device__ V map(V x) {
    return x == x ? x : V(0);
  }
};
struct Magnitude {
  template <class V>
  static __device__ V map(V x) {
    return x < V(0) ? -x : x;
  }
};
struct Square {
  template <class V>
  static __device__ V map(V x) {
    return x * x;
  }
};

enum class Finish { plain, divide, root };

// Out is what the result is stored as when the input has another type: int64 for integers.
template <class A, class S, class Map, Finish end, class Out = void>
struct Sum {
  using In = A;
  using State = S;
  static __device__ State init() { return S(0); }
  static __device__ State add(State s, A x, std::int64_t) { return s + Map::map(static_cast<S>(x)); }
  static __device__ State merge(State a, State b) { return a + b; }
  template <class T>
  static __device__ void finish(const ReduceArgs& a, State s, std::int64_t at) {
    using O = std::conditional_t<std::is_void_v<Out>, T, Out>;
    if constexpr (end == Finish::divide) s = a.param[0] != 0 ? s / static_cast<S>(a.param[0]) : s;
    if constexpr (end == Finish::root) s = math::sqrt(s);
    static_cast<O*>(a.out)[at] = static_cast<O>(static_cast<std::conditional_t<std::is_void_v<Out>, A, S>>(s));
  }
};

template <class A, class S, class Out = void>
struct Product {
  using In = A;
  using State = S;
  static __device__ State init() { return S(1); }
  static __device__ State add(State s, A x, std::int64_t) { return s * static_cast<S>(x); }
  static __device__ State merge(State a, State b) { return a * b; }
  template <class T>
  static __device__ void finish(const ReduceArgs& a, State s, std::int64_t at) {
    using O = std::conditional_t<std::is_void_v<Out>, T, Out>;
    static_cast<O*>(a.out)[at] = static_cast<O>(static_cast<std::conditional_t<std::is_void_v<Out>, A, S>>(s));
  }
};

template <class A>
struct Variance : Moments<A> {
  template <class T>
  static __device__ void finish(const ReduceArgs& a, typename Moments<A>::State s, std::int64_t at) {
    s = Moments<A>::centred(s);
    const double free = s.n - a.param[0];
    double v = s.square / (free > 0 ? free : 0.0);
    if (a.param[1] != 0) v = math::sqrt(v);
    static_cast<T*>(a.out)[at] = static_cast<T>(static_cast<A>(v));
    if (a.out2) static_cast<T*>(a.out2)[at] = static_cast<T>(static_cast<A>(s.pivot));
  }
};

template <class A>
struct Nonzero {
  using In = A;
  using State = std::int64_t;
  static __device__ State init() { return 0; }
  static __device__ State add(State s, A x, std::int64_t) { return s + (x != A(0)); }
  static __device__ State merge(State a, State b) { return a + b; }
  template <class T>
  static __device__ void finish(const ReduceArgs& a, State s, std::int64_t at) {
    if (a.param[0] == 0)
      static_cast<std::int64_t*>(a.out)[at] = s;
    else
      static_cast<bool*>(a.out)[at] = a.param[0] == 1 ? s > 0 : s == a.inner_numel;
  }
};

// The largest element so far and the sum of exponentials relative to it.
template <class A>
struct LogSumExp {
  using In = A;
  struct State {
    A max, sum;
  };
  static __device__ State init() { return {-math::kInfinity<A>, A(0)}; }
  // The reference point: the maximum, or 0 where that is infinite, so that inf - inf cannot make a NaN.
  static __device__ A pivot(A m) { return math::abs(m) == math::kInfinity<A> ? A(0) : m; }
  static __device__ State add(State s, A x, std::int64_t) {
    if (x <= s.max && s.sum > A(0)) return {s.max, s.sum + math::exp(x - pivot(s.max))};  // one exponential
    return merge(s, {x, math::exp(x - pivot(x))});
  }
  static __device__ State merge(State a, State b) {
    if (b.sum == A(0)) return a;
    if (a.sum == A(0)) return b;
    const A m = (b.max > a.max) | (b.max != b.max) ? b.max : a.max, p = pivot(m);
    return {m, a.sum * math::exp(pivot(a.max) - p) + b.sum * math::exp(pivot(b.max) - p)};
  }
  template <class T>
  static __device__ void finish(const ReduceArgs& a, State s, std::int64_t at) {
    static_cast<T*>(a.out)[at] =
        static_cast<T>(static_cast<A>(math::log(static_cast<double>(s.sum)) + static_cast<double>(pivot(s.max))));
  }
};

// Unsigned arithmetic wraps where signed overflow would be undefined; the bits are the same.
template <class T>
void add_integer(KernelTable& t) {
  using Wide = std::int64_t;
  add_reduce<ReduceOp::sum, T, Sum<Wide, std::uint64_t, Plain, Finish::plain, Wide>>(t);
  add_reduce<ReduceOp::prod, T, Product<Wide, std::uint64_t, Wide>>(t);
  add_reduce<ReduceOp::nonzero, T, Nonzero<Wide>>(t);
}
template <class T>
void add_float(KernelTable& t) {
  using A = compute_t<T>;
  add_reduce<ReduceOp::sum, T, Sum<A, double, Plain, Finish::divide>>(t);
  add_reduce<ReduceOp::prod, T, Product<A, double>>(t);
  add_reduce<ReduceOp::nansum, T, Sum<A, double, SkipNan, Finish::divide>>(t);
  add_reduce<ReduceOp::norm1, T, Sum<A, double, Magnitude, Finish::plain>>(t);
  add_reduce<ReduceOp::norm2, T, Sum<A, double, Square, Finish::root>>(t);
  add_reduce<ReduceOp::var, T, Variance<A>>(t);
  add_reduce<ReduceOp::nonzero, T, Nonzero<A>>(t);
  add_reduce<ReduceOp::logsumexp, T, LogSumExp<A>>(t);
}

}  // namespace

void register_reduce_sums(KernelTable& t) {
  add_integer<std::uint8_t>(t);
  add_integer<std::int8_t>(t);
  add_integer<std::int16_t>(t);
  add_integer<std::int32_t>(t);
  add_integer<std::int64_t>(t);
  add_float<Half>(t);
  add_float<BFloat16>(t);
  add_float<float>(t);
  add_float<double>(t);
  ReduceFn* row = family<ReduceKernels>(t).reduce[static_cast<int>(ReduceOp::nonzero)];
  row[static_cast<int>(DType::Bool)] = row[static_cast<int>(DType::UInt8)];
}

}  // namespace pydlx::cuda
