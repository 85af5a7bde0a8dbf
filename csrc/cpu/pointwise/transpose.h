// Transposition of small tiles, by squares in registers.
#pragma once
#include "cpu/gemm/vec.h"

namespace pydlx::PYDLX_ISA {
namespace {

// Vectors that carry words of W bytes through a transposition; their type does not matter otherwise.
template <class W>
struct LaneOf {
  static constexpr bool kVectors = false;
};
template <>
struct LaneOf<std::uint32_t> {
  static constexpr bool kVectors = true;
  using type = float;
};
template <>
struct LaneOf<std::uint64_t> {
  static constexpr bool kVectors = true;
  using type = double;
};

// out[r][c] = in[c][r] for r < rows, c < cols.
template <class W>
void transpose_tile(W* out, std::int64_t out_row, const W* in, std::int64_t in_col, std::int64_t rows,
                    std::int64_t cols) {
  if (cols < 8) {  // few channels: read along the planes
    for (std::int64_t c = 0; c < cols; ++c)
      for (std::int64_t r = 0; r < rows; ++r) out[r * out_row + c] = in[c * in_col + r];
    return;
  }
  std::int64_t whole_rows = 0, whole_cols = 0;  // done by squares in registers
  if constexpr (LaneOf<W>::kVectors) {
    using L = typename LaneOf<W>::type;
    constexpr int n = kLanesOf<L>;
    whole_rows = rows / n * n;
    whole_cols = cols / n * n;
    const L* from = reinterpret_cast<const L*>(in);
    L* to = reinterpret_cast<L*>(out);
    for (std::int64_t r = 0; r < whole_rows; r += n)
      for (std::int64_t c = 0; c < whole_cols; c += n) {
        Vector<L> v[n];
#pragma GCC unroll 16
        for (int l = 0; l < n; ++l) v[l] = load(from + (c + l) * in_col + r);
        transpose_square<L>(v);
#pragma GCC unroll 16
        for (int l = 0; l < n; ++l) store(to + (r + l) * out_row + c, v[l]);
      }
  }
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = r < whole_rows ? whole_cols : 0; c < cols; ++c) out[r * out_row + c] = in[c * in_col + r];
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
