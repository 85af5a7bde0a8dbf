// Copies of operand blocks in the order the register tiles read them.
#pragma once
#include "cpu/gemm/micro.h"

namespace pydlx::PYDLX_ISA {
namespace {

// B(p, j), p < k, j < n -> panels of kTileColumns columns, each [k][kTileColumns], unused columns zero.
template <class T>
void pack_b(const T* b, std::int64_t b_row, std::int64_t b_col, std::int64_t k, std::int64_t n, T* out) {
  constexpr int W = kTileColumns<T>, L = kLanesOf<T>;
  std::int64_t whole = 0;  // columns in whole panels, row by row: B is read in long runs, all panels grow in step
  if (b_col == 1) {
    whole = n / W * W;
    for (std::int64_t p = 0; p < k; ++p)
      for (std::int64_t j = 0; j < whole; j += W)
#pragma GCC unroll 4
        for (int v = 0; v < kTileVectors; ++v) store<T>(out + j * k + p * W + v * L, load(b + p * b_row + j + v * L));
    out += whole * k;
  }
  for (std::int64_t j0 = whole; j0 < n; j0 += W, out += k * W) {
    const int cols = static_cast<int>(n - j0 < W ? n - j0 : W);
    const T* src = b + j0 * b_col;
    if (cols < W && k > 0) std::memset(out, 0, static_cast<std::size_t>(k * W) * sizeof(T));
    if (b_row == 1) {
      for (int done = 0; done < cols; done += L)
        for (std::int64_t p = 0; p < k; p += L) {
          const int have = cols - done < L ? cols - done : L, rows = static_cast<int>(k - p < L ? k - p : L);
          Vector<T> r[L];
          if (have == L && rows == L) {
#pragma GCC unroll 16
            for (int l = 0; l < L; ++l) r[l] = load(src + (done + l) * b_col + p);
          } else {
            const Lanes lanes(rows);
#pragma GCC unroll 16
            for (int l = 0; l < L; ++l) r[l] = l < have ? load_part(src + (done + l) * b_col + p, lanes) : Vector<T>{};
          }
          transpose_square<T>(r);
          if (rows == L) {
#pragma GCC unroll 16
            for (int l = 0; l < L; ++l) store<T>(out + (p + l) * W + done, r[l]);
          } else {
#pragma GCC unroll 16
            for (int l = 0; l < L; ++l)
              if (l < rows) store<T>(out + (p + l) * W + done, r[l]);
          }
        }
      continue;
    }
    for (std::int64_t p = 0; p < k; ++p)
      for (int j = 0; j < cols; ++j) out[p * W + j] = src[p * b_row + j * b_col];
  }
}

// A(i, p), i < m, p < k -> row-major [m][ld]: for operands whose rows would fall on the same cache sets or whose
// strides are all large.
template <class T>
void pack_rows(const T* a, std::int64_t a_row, std::int64_t a_col, std::int64_t m, std::int64_t k, std::int64_t ld,
               T* out) {
  if (a_col == 1) {
    for (std::int64_t i = 0; i < m; ++i)
      std::memcpy(out + i * ld, a + i * a_row, static_cast<std::size_t>(k) * sizeof(T));
    return;
  }
  constexpr int L = kLanesOf<T>;
  // In squares, those of the same columns of A one after another: its columns are read in runs, and those of the next
  // squares are asked for ahead, which prefetchers that see strides of some KB do not.
  const std::int64_t whole = a_row == 1 ? m / L * L : 0;
  for (std::int64_t p = 0; p < k; p += L)
    for (std::int64_t i = 0; i < whole; i += L) {
      if (k - p < L) {
        for (std::int64_t q = p; q < k; ++q)
          for (int l = 0; l < L; ++l) out[(i + l) * ld + q] = a[i + l + q * a_col];
        continue;
      }
      Vector<T> r[L];
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) {
        r[l] = load(a + i + (p + l) * a_col);
        __builtin_prefetch(a + i + (p + L + l) * a_col);
      }
      transpose_square<T>(r);
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) store<T>(out + (i + l) * ld + p, r[l]);
    }
  for (std::int64_t i = whole; i < m; ++i)
    for (std::int64_t p = 0; p < k; ++p) out[i * ld + p] = a[i * a_row + p * a_col];
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
