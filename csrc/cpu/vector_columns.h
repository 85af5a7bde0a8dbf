// Neighbouring columns of floats on explicit vectors: several whole vectors of them, or the first `count` lanes of one.
#pragma once
#include "cpu/vector_rows.h"
#include "functors/math.h"

namespace pydlx::PYDLX_ISA::vmath {
namespace {

// Rows that are a power of two apart share sets of the first-level cache: what is needed again is kept here, unless
// there are too many rows.
template <int vectors>
struct ColumnBuffer {
  static constexpr std::int64_t kRows = 96;
  alignas(kVectorBytes) float row[kRows][vectors * kWidth];

  static constexpr bool holds(std::int64_t rows) { return rows <= kRows; }
};

// The largest element of every column, and the sum of e^(element - largest). keep(i, v, d, e) sees vector v of row i:
// the difference and its exponential. It may overwrite that row of the buffer.
template <int vectors, class T, class Keep>
PYDLX_INLINE void column_totals(const T* x, std::int64_t n, std::int64_t stride, int count,
                                ColumnBuffer<vectors>& buffer, V* largest, V* sum, const Keep& keep) {
  const bool staged = buffer.holds(n);
  V m[vectors], s[vectors] = {};
  for (int v = 0; v < vectors; ++v) m[v] = all(-__builtin_inff());
  for (std::int64_t i = 0; i < n; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      const V a = load_count(x + i * stride + v * kWidth, count);
      if (staged) store(buffer.row[i] + v * kWidth, a);
      m[v] = at_least(a, m[v]);
    }
  for (std::int64_t i = 0; i < n; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      const V a = staged ? load(buffer.row[i] + v * kWidth) : load_count(x + i * stride + v * kWidth, count);
      const V d = a - m[v], e = exp_nonpositive(d);
      s[v] += e;
      keep(i, v, d, e);
    }
  for (int v = 0; v < vectors; ++v) largest[v] = m[v], sum[v] = s[v];
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA::vmath
