// Largest and smallest elements and their positions. NaN counts as the extremum.
#include "cuda/reduce/walk.cuh"
#include "functors/math.h"

namespace pydlx::cuda {
namespace {

// Whether b beats a.
template <bool largest, class A>
__device__ bool beats(A b, A a) {
  if constexpr (functors::type_bit<A> == functors::kFloat) {
    if (b != b) return a == a;
    if (a != a) return false;
  }
  return largest ? b > a : b < a;
}

template <class A, bool largest, bool magnitude>
struct Extremum {
  using In = A;
  struct State {
    A value;
    int any;
  };
  static __device__ State init() { return {A(0), 0}; }
  static __device__ State add(State s, A x, std::int64_t) {
    if constexpr (magnitude) x = math::abs(x);
    return merge(s, {x, 1});
  }
  static __device__ State merge(State a, State b) {
    if (b.any == 0) return a;
    return a.any == 0 || beats<largest>(b.value, a.value) ? b : a;
  }
  template <class T>
  static __device__ void finish(const ReduceArgs& a, State s, std::int64_t at) {
    static_cast<T*>(a.out)[at] = static_cast<T>(s.value);
  }
};

template <class A, bool largest>
struct Position {
  using In = A;
  struct State {
    A value;
    std::int64_t index;  // -1: nothing seen
  };
  static __device__ State init() { return {A(0), -1}; }
  static __device__ State add(State s, A x, std::int64_t i) { return merge(s, {x, i}); }
  static __device__ State merge(State a, State b) {
    if (b.index < 0) return a;
    if (a.index < 0 || beats<largest>(b.value, a.value)) return b;
    if (beats<largest>(a.value, b.value)) return a;
    return a.index < b.index ? a : b;  // equal: the first one
  }
  template <class T>
  static __device__ void finish(const ReduceArgs& a, State s, std::int64_t at) {
    if (a.out) static_cast<T*>(a.out)[at] = static_cast<T>(s.value);
    static_cast<std::int64_t*>(a.out2)[at] = s.index;
  }
};

template <class T, class A>
void add_any(KernelTable& t) {
  add_reduce<ReduceOp::amax, T, Extremum<A, true, false>>(t);
  add_reduce<ReduceOp::amin, T, Extremum<A, false, false>>(t);
  add_reduce<ReduceOp::argmax, T, Position<A, true>>(t);
  add_reduce<ReduceOp::argmin, T, Position<A, false>>(t);
}
template <class T>
void add_float(KernelTable& t) {
  using A = compute_t<T>;
  add_any<T, A>(t);
  add_reduce<ReduceOp::amax_abs, T, Extremum<A, true, true>>(t);
  add_reduce<ReduceOp::amin_abs, T, Extremum<A, false, true>>(t);
}

}  // namespace

void register_reduce_extrema(KernelTable& t) {
  add_any<std::uint8_t, std::int32_t>(t);
  add_any<std::int8_t, std::int32_t>(t);
  add_any<std::int16_t, std::int32_t>(t);
  add_any<std::int32_t, std::int32_t>(t);
  add_any<std::int64_t, std::int64_t>(t);
  add_float<Half>(t);
  add_float<BFloat16>(t);
  add_float<float>(t);
  add_float<double>(t);
  ReduceKernels& k = family<ReduceKernels>(t);
  for (const ReduceOp op : {ReduceOp::amax, ReduceOp::amin, ReduceOp::argmax, ReduceOp::argmin}) {
    ReduceFn* row = k.reduce[static_cast<int>(op)];  // a bool is a byte holding 0 or 1
    row[static_cast<int>(DType::Bool)] = row[static_cast<int>(DType::UInt8)];
  }
}

}  // namespace pydlx::cuda
