// What scans carry along a line. Shared by the CPU and CUDA backends: `step` adds an element, `join` the result of the
// elements that follow. float32 sums and products are carried in float64, so that a long scan is as accurate at its end
// as at its start.
#pragma once
#include "functors/types.h"

namespace pydlx::functors {

// log(1 + e^x). The C library's functions have shorter chains of dependent operations than those of math.h, and here
// every step waits for the one before it.
PYDLX_HD double log1p_exp(double x) {
#if defined(__CUDA_ARCH__)
  return ::log1p(::exp(x));
#else
  return __builtin_log1p(__builtin_exp(x));
#endif
}

template <class T>
struct CarryOf {
  using type = double;
};
template <>
struct CarryOf<std::int64_t> {
  using type = std::uint64_t;
};  // wraps without undefined behaviour
template <class T>
using carry_t = typename CarryOf<T>::type;

template <class T>
struct CumSum {
  using State = carry_t<T>;
  static constexpr bool indexed = false;
  PYDLX_HD static State init() { return 0; }
  PYDLX_HD static void step(State& s, T x, std::int64_t) { s += static_cast<State>(x); }
  PYDLX_HD static void join(State& s, State next) { s += next; }
  PYDLX_HD static T value(State s) { return static_cast<T>(s); }
};
template <class T>
struct CumProd {
  using State = carry_t<T>;
  static constexpr bool indexed = false;
  PYDLX_HD static State init() { return 1; }
  PYDLX_HD static void step(State& s, T x, std::int64_t) { s *= static_cast<State>(x); }
  PYDLX_HD static void join(State& s, State next) { s *= next; }
  PYDLX_HD static T value(State s) { return static_cast<T>(s); }
};
template <class T>
struct LogCumSumExp {
  using State = double;
  static constexpr bool indexed = false;
  PYDLX_HD static State init() { return -__builtin_huge_val(); }
  PYDLX_HD static void step(State& s, T x, std::int64_t) { join(s, static_cast<double>(x)); }
  PYDLX_HD static void join(State& s, State v) {
    const double high = s > v ? s : v, low = s > v ? v : s;
    // Equal infinities would subtract to NaN; a NaN on either side survives through the other branch.
    s = s == v && s - v != 0 ? s : high + log1p_exp(low - high);
  }
  PYDLX_HD static T value(State s) { return static_cast<T>(s); }
};
// The last of equals wins, and so does the last NaN: PyTorch's rule.
template <bool largest, class T>
struct CumExtremum {
  using A = compute_t<T>;
  struct State {
    A value;
    std::int64_t at;
  };
  static constexpr bool indexed = true;
  PYDLX_HD static State init() { return {A(0), -1}; }
  PYDLX_HD static void step(State& s, T x, std::int64_t i) {
    const A v = static_cast<A>(x);
    if (s.at < 0 || v != v || (s.value == s.value && (largest ? v >= s.value : v <= s.value))) s = {v, i};
  }
  PYDLX_HD static void join(State& s, State next) {
    const A v = next.value;
    const bool take = s.at < 0 || v != v || (s.value == s.value && (largest ? v >= s.value : v <= s.value));
    if (next.at >= 0 && take) s = next;
  }
  PYDLX_HD static T value(State s) { return static_cast<T>(s.value); }
};

}  // namespace pydlx::functors
