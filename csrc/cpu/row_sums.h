// Sums of rows that a list picks: in the list's order, in float32 (float64 for doubles), rounded once.
#pragma once
#include "cpu/gemm/words.h"
#include "functors/types.h"

namespace pydlx::PYDLX_ISA {
namespace {

// Vectors that elements of type T are added in.
template <class T>
using SumVector = Vector<functors::compute_t<T>>;
template <class T>
inline constexpr int kSumLanes = kLanesOf<functors::compute_t<T>>;

template <class T>
struct PickedRows {
  const T* rows;
  std::int64_t step;  // elements from row to row
  const std::int64_t* pick;
  std::int64_t count;
  std::int64_t known = 0;  // entries of `pick` whose rows will be needed soon: lists of few rows follow one another
};

template <int kVectors, class T>
PYDLX_INLINE void sum_columns(const PickedRows<T>& p, std::int64_t c, int width, const T* before, double divisor,
                              T* out) {
  constexpr int lanes = kSumLanes<T>, kLine = 64 / static_cast<int>(sizeof(T)), kAhead = 10;
  SumVector<T> s[kVectors] = {};
  if (before)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) s[v] = load_count(before + c + v * lanes, width);
  for (std::int64_t j = 0; j < p.count; ++j) {
    const T* row = p.rows + p.pick[j] * p.step + c;
    if (j + kAhead < p.known) {
      const T* later = p.rows + p.pick[j + kAhead] * p.step + c;
#pragma GCC unroll 8
      for (int i = 0; i < kVectors * lanes; i += kLine) __builtin_prefetch(later + i);
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) s[v] += load_count(row + v * lanes, width);
  }
  if (divisor != 1)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) s[v] /= splat(static_cast<functors::compute_t<T>>(divisor));
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) store_count(out + c + v * lanes, s[v], width);
}

// out = (before + the picked rows) / divisor; `before` may be null, or `out` itself.
template <class T>
void sum_rows(const PickedRows<T>& p, const T* before, double divisor, T* out, std::int64_t cols) {
  constexpr int lanes = kSumLanes<T>;
  std::int64_t c = 0;
  for (; c + 8 * lanes <= cols; c += 8 * lanes) sum_columns<8>(p, c, lanes, before, divisor, out);
  for (; c + 2 * lanes <= cols; c += 2 * lanes) sum_columns<2>(p, c, lanes, before, divisor, out);
  for (; c < cols; c += lanes)
    sum_columns<1>(p, c, static_cast<int>(cols - c < lanes ? cols - c : lanes), before, divisor, out);
}

// Stable counting sort of positions by the place they go to, place(i) in [0, places) or negative for none: those of
// place v are order[start[v - 1]] .. order[start[v] - 1], ascending, where start[-1] stands for 0.
template <class Place>
void sort_by_place(std::int64_t n, std::int64_t places, std::int64_t* start, std::int64_t* order, const Place& place) {
  for (std::int64_t v = 0; v < places; ++v) start[v] = 0;
  for (std::int64_t i = 0; i < n; ++i)
    if (const std::int64_t v = place(i); v >= 0) ++start[v];
  std::int64_t total = 0;
  for (std::int64_t v = 0; v < places; ++v) {
    const std::int64_t count = start[v];
    start[v] = total;
    total += count;
  }
  for (std::int64_t i = 0; i < n; ++i)
    if (const std::int64_t v = place(i); v >= 0) order[start[v]++] = i;
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
