// Lines along the middle axis of [outer, n, inner]: neighbouring lines are neighbours in memory, and a thread takes V
// of them, a pack at a time.
#pragma once
#include "cuda/runtime/divisor.cuh"
#include "cuda/runtime/pairs.cuh"
#include "cuda/runtime/rows.cuh"

namespace pydlx::cuda {
namespace {

// Positions of a line that a thread has on their way at a time. A line of no more than that for each of its threads is
// read once.
inline constexpr int kColumnAhead = 4;

struct Columns {
  std::int64_t n, inner, packs;  // of all lines
  Divider across;                // packs of an outer index
  RowLayout layout;

  Columns(std::int64_t outer, std::int64_t length, std::int64_t neighbours, int v)
      : n(length), inner(neighbours), packs(outer * (neighbours / v)), across(neighbours / v, packs + kRowThreads) {
    // A warp reads 128 bytes in one piece, 32 where there would be few blocks otherwise: a function of the shape alone.
    const int most = v > 1 ? 8 : 32, least = v > 1 ? 2 : 8;
    int columns = power_of_two_up_to(packs, most);
    while (columns > least && packs < std::int64_t{256} * columns) columns /= 2;
    layout = {power_of_two_up_to((n + kColumnAhead - 1) / kColumnAhead, kRowThreads / columns), true};
  }
  bool kept() const { return n <= std::int64_t{kColumnAhead} * layout.lanes; }
  unsigned grid() const { return layout.grid(packs); }
};

// Where the lines of pack number `row` begin, and how long they are: 0 beyond the last.
template <int V>
struct ColumnPlace {
  std::int64_t base, n, line;
  __device__ __forceinline__ ColumnPlace(const Columns& c, std::int64_t row) : n(row < c.packs ? c.n : 0) {
    const Quotient at = c.across(row);
    base = at.quotient * c.n * c.inner + at.rest * V;
    line = at.quotient * c.inner + at.rest * V;
  }
};

// f(k, i) for the positions i = first + k lanes of a line.
template <class F>
__device__ __forceinline__ void each_ahead(const RowThread& at, std::int64_t first, std::int64_t n, const F& f) {
#pragma unroll
  for (int k = 0; k < kColumnAhead; ++k)
    if (first + k * at.lanes < n) f(k, first + k * at.lanes);
}

// Combines a value for each of the V lines of a thread.
template <class Combine>
struct EachColumn {
  template <class A, int V>
  __device__ Pack<A, V> operator()(Pack<A, V> a, const Pack<A, V>& b) const {
#pragma unroll
    for (int j = 0; j < V; ++j) a.v[j] = Combine()(a.v[j], b.v[j]);
    return a;
  }
};

// f.operator()<V, kept>(columns), with packs where they can be.
template <class T, class F>
void for_columns_of(std::int64_t outer, std::int64_t n, std::int64_t inner, bool packs, const F& f) {
  constexpr int V = kPackOf<T>;
  if (packs && inner % V == 0) {
    const Columns c(outer, n, inner, V);
    return c.kept() ? f.template operator()<V, true>(c) : f.template operator()<V, false>(c);
  }
  const Columns c(outer, n, inner, 1);
  c.kept() ? f.template operator()<1, true>(c) : f.template operator()<1, false>(c);
}

}  // namespace
}  // namespace pydlx::cuda
