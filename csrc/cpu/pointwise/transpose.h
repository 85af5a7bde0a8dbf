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
struct LaneOf<float> : LaneOf<std::uint32_t> {};
template <>
struct LaneOf<std::uint64_t> {
  static constexpr bool kVectors = true;
  using type = double;
};

// For elements of two bytes, pairs of neighbouring columns are the words of a square. Tiles of at least one square of
// rows; squares at the ends reach back over what others have done.
PYDLX_INLINE void transpose_pairs(std::uint16_t* out, std::int64_t out_row, const std::uint16_t* in,
                                  std::int64_t in_col, std::int64_t rows, std::int64_t cols) {
  constexpr int n = kLanesOf<float>;
  typedef std::uint16_t Line __attribute__((vector_size(2 * n), aligned(2), may_alias));
  typedef std::uint32_t Bits __attribute__((vector_size(4 * n)));
  typedef float Row __attribute__((vector_size(4 * n), aligned(2), may_alias));  // of the result
  const auto widened = [](const std::uint16_t* p) __attribute__((always_inline)) {
    return __builtin_convertvector(*reinterpret_cast<const Line*>(p), Bits);
  };
  const std::int64_t last = cols < 2 * n ? 0 : cols - 2 * n, width = cols < 2 * n ? cols : 2 * n;
  for (std::int64_t r0 = 0; r0 < rows; r0 += n) {
    const std::int64_t r = r0 + n <= rows ? r0 : rows - n;
    for (std::int64_t c0 = 0; c0 < cols; c0 += 2 * n) {
      const std::int64_t c = c0 < last ? c0 : last;
      const std::uint16_t* from = in + c * in_col + r;
      Vector<float> v[n];
      if (width == 2 * n) {
#pragma GCC unroll 16
        for (int l = 0; l < n; ++l)
          v[l] = (Vector<float>)(widened(from + 2 * l * in_col) | widened(from + (2 * l + 1) * in_col) << 16);
      } else {
#pragma GCC unroll 16
        for (int l = 0; l < n; ++l) {
          const Bits a = 2 * l < width ? widened(from + 2 * l * in_col) : Bits{},
                     b = 2 * l + 1 < width ? widened(from + (2 * l + 1) * in_col) : Bits{};
          v[l] = (Vector<float>)(a | b << 16);
        }
      }
      transpose_square<float>(v);
      std::uint16_t* to = out + r * out_row + c;
      if (width == 2 * n) {
#pragma GCC unroll 16
        for (int l = 0; l < n; ++l) *reinterpret_cast<Row*>(to + l * out_row) = v[l];
      } else {
        for (int l = 0; l < n; ++l) std::memcpy(to + l * out_row, &v[l], static_cast<std::size_t>(width) * 2);
      }
    }
  }
}

// A square of which some rows or columns are missing.
template <class L>
__attribute__((noinline)) void transpose_part(L* out, std::int64_t out_row, const L* in, std::int64_t in_col, int rows,
                                              int cols) {
  constexpr int n = kLanesOf<L>;
  const Lanes down(rows), across(cols);
  Vector<L> v[n];
#pragma GCC unroll 16
  for (int l = 0; l < n; ++l) v[l] = l < cols ? load_part(in + l * in_col, down) : Vector<L>{};
  transpose_square<L>(v);
#pragma GCC unroll 16
  for (int l = 0; l < n; ++l)
    if (l < rows) store_part(out + l * out_row, v[l], across);
}

// out[r][c] = in[c][r] for r < rows, c < cols.
template <class W>
void transpose_tile(W* out, std::int64_t out_row, const W* in, std::int64_t in_col, std::int64_t rows,
                    std::int64_t cols) {
  if (cols < 8) {  // few channels: read along the planes
    for (std::int64_t c = 0; c < cols; ++c)
      for (std::int64_t r = 0; r < rows; ++r) out[r * out_row + c] = in[c * in_col + r];
    return;
  }
  if constexpr (sizeof(W) == 2)
    if (rows >= kLanesOf<float>)
      return transpose_pairs(reinterpret_cast<std::uint16_t*>(out), out_row, reinterpret_cast<const std::uint16_t*>(in),
                             in_col, rows, cols);
  if constexpr (LaneOf<W>::kVectors) {
    using L = typename LaneOf<W>::type;
    constexpr int n = kLanesOf<L>;
    const std::int64_t whole_rows = rows / n * n, whole_cols = cols / n * n;
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
    for (std::int64_t r = 0; r < rows; r += n)
      for (std::int64_t c = r < whole_rows ? whole_cols : 0; c < cols; c += n)
        transpose_part<L>(to + r * out_row + c, out_row, from + c * in_col + r, in_col,
                          static_cast<int>(rows - r < n ? rows - r : n), static_cast<int>(cols - c < n ? cols - c : n));
  } else {
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < cols; ++c) out[r * out_row + c] = in[c * in_col + r];
  }
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
