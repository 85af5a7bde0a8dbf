// Windows two columns wide that follow one another, the commonest of all: the two columns are taken apart in registers.
#pragma once
#include "cpu/gemm/vec.h"
#include "functors/pool_window.h"

namespace pydlx::PYDLX_ISA {
namespace {
namespace pairs {

// Inside every row, and of neighbours: axis 2 has no border to mind.
inline bool fit(const Pool& p) {
  return !p.adaptive && p.kernel[2] == 2 && p.stride[2] == 2 && p.dilation[2] == 1 && p.pad[2] == 0 &&
         2 * p.out[2] <= p.in[2];
}

template <class T>
struct Columns {
  Vector<T> low, high;
};
// The columns of `n` windows, at most a vector of them; zeros beyond.
template <class T>
PYDLX_INLINE Columns<T> load_columns(const T* x, int n) {
  constexpr int kLane = kLanesOf<T>;
  if (n == kLane) return {load(x), load(x + kLane)};
  Columns<T> c{load_count(x, 2 * n < kLane ? 2 * n : kLane), {}};
  if (2 * n > kLane) c.high = load_count(x + kLane, 2 * n - kLane);
  return c;
}
template <class T>
PYDLX_INLINE void store_columns(T* x, const Columns<T>& c, int n) {
  constexpr int kLane = kLanesOf<T>;
  store_count(x, c.low, 2 * n < kLane ? 2 * n : kLane);
  if (2 * n > kLane) store_count(x + kLane, c.high, 2 * n - kLane);
}
// The first (0) or second (1) columns.
template <int which, class T>
PYDLX_INLINE Vector<T> column(const Columns<T>& c) {
  typename VectorOf<T>::index pick{};
  for (int i = 0; i < kLanesOf<T>; ++i) pick[i] = 2 * i + which;
  return __builtin_shuffle(c.low, c.high, pick);
}

// Calls fn(output, windows) for vectors of outputs.
template <class T, class F>
PYDLX_INLINE void each_vector(const Pool& p, const F& fn) {
  constexpr std::int64_t kLane = kLanesOf<T>;
  for (std::int64_t o = 0; o < p.out[2]; o += kLane) fn(o, static_cast<int>(functors::smaller(kLane, p.out[2] - o)));
}

// A row of averages, and the way back: as average_row and average_grad_row.
template <class T>
void average_row(const Pool& p, const T* x, T* y, const functors::Window& d, const functors::Window& h, T divisor) {
  each_vector<T>(p, [&](std::int64_t o, int n) __attribute__((always_inline)) {
    Columns<T> sum{};
    for (std::int64_t i = 0; i < d.count; ++i)
      for (std::int64_t k = 0; k < h.count; ++k) {
        const std::int64_t row = ((d.first + i * d.step) * p.in[1] + h.first + k * h.step) * p.in[2];
        const Columns<T> c = load_columns(x + row + 2 * o, n);
        sum.low += c.low;
        sum.high += c.high;
      }
    store_count(y + o, (column<0>(sum) + column<1>(sum)) / splat(divisor), n);
  });
}
template <class T>
void average_grad_row(const Pool& p, T* x, const T* y, const functors::Window& d, const functors::Window& h,
                      T divisor) {
  each_vector<T>(p, [&](std::int64_t o, int n) __attribute__((always_inline)) {
    const Vector<T> share = load_count(y + o, n) / splat(divisor);
    const Columns<T> both{interleave<T, 0>(share, share), interleave<T, 1>(share, share)};
    for (std::int64_t i = 0; i < d.count; ++i)
      for (std::int64_t k = 0; k < h.count; ++k) {
        T* to = x + ((d.first + i * d.step) * p.in[1] + h.first + k * h.step) * p.in[2] + 2 * o;
        Columns<T> c = load_columns<T>(to, n);
        c.low += both.low;
        c.high += both.high;
        store_columns(to, c, n);
      }
  });
}

}  // namespace pairs
}  // namespace
}  // namespace pydlx::PYDLX_ISA
