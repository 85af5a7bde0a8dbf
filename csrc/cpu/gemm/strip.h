// One to four rows times a matrix: every element of B is used a few times only, so the product runs at the speed of
// reading B.
#pragma once
#include "cpu/gemm/micro.h"
#include "kernels/gemm.h"

namespace pydlx::PYDLX_ISA {
namespace {

inline constexpr int kStripRows = 4;  // at most this many rows of A
template <class T>
inline constexpr int kStripColumns = tuning::kStripBytes / static_cast<int>(sizeof(T));
using tuning::kStripDepth;

// Depth rows of B from b, columns 0..n, onto the sums. Every sum runs over K in order, as in the register tiles.
template <class T, int MR, int Depth, bool kFetch>
PYDLX_INLINE void strip_pass(const T* a, std::int64_t a_row, std::int64_t a_col, const T* b, std::int64_t b_row,
                             std::int64_t n, T* sums) {
  constexpr int L = kLanesOf<T>, S = kStripColumns<T>;
  using V = Vector<T>;
  V x[Depth][MR];
#pragma GCC unroll 8
  for (int r = 0; r < Depth; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) x[r][i] = splat<T>(a[i * a_row + r * a_col]);
  const std::int64_t whole = n / L * L;
  for (std::int64_t j = 0; j < whole; j += L) {
    V s[MR];
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) s[i] = load(sums + i * S + j);
#pragma GCC unroll 8
    for (int r = 0; r < Depth; ++r) {
      const V v = load(b + r * b_row + j);
      if constexpr (kFetch) __builtin_prefetch(b + (r + Depth) * b_row + j);
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i) s[i] += x[r][i] * v;
    }
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) store<T>(sums + i * S + j, s[i]);
  }
  if (whole < n) {
    const Lanes rest(static_cast<int>(n - whole));
#pragma GCC unroll 8
    for (int r = 0; r < Depth; ++r) {
      const V v = load_part(b + r * b_row + whole, rest);
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i) store<T>(sums + i * S + whole, load(sums + i * S + whole) + x[r][i] * v);
    }
  }
}

// C(i, j) at c[i * c_i + j * c_j] for j0 <= j < j1 and all MR rows; rows of B are contiguous.
template <class T, int MR>
void strip_rows(const Gemm& g, const T* a, const T* b, T* c, std::int64_t c_i, std::int64_t c_j, const T* bias,
                std::int64_t bias_i, std::int64_t bias_j, std::int64_t j0, std::int64_t j1) {
  constexpr int S = kStripColumns<T>, Depth = kStripDepth[MR - 1];
  // Four streams of rows do not fill the path to memory by themselves, eight do.
  const bool fetch = Depth < 8 && g.k * g.n * static_cast<std::int64_t>(sizeof(T)) > kFetchBytes;
  alignas(64) T sums[MR * S];
  for (std::int64_t j = j0; j < j1; j += S) {
    const std::int64_t n = j1 - j < S ? j1 - j : S;
    std::memset(sums, 0, sizeof sums);
    std::int64_t p = 0;
    if (fetch)
      for (; p + Depth <= g.k; p += Depth)
        strip_pass<T, MR, Depth, true>(a + p * g.a_col, g.a_row, g.a_col, b + p * g.b_row + j, g.b_row, n, sums);
    for (; p + Depth <= g.k; p += Depth)
      strip_pass<T, MR, Depth, false>(a + p * g.a_col, g.a_row, g.a_col, b + p * g.b_row + j, g.b_row, n, sums);
    for (; p < g.k; ++p)
      strip_pass<T, MR, 1, false>(a + p * g.a_col, g.a_row, g.a_col, b + p * g.b_row + j, g.b_row, n, sums);
    for (int i = 0; i < MR; ++i)
      for (std::int64_t s = 0; s < n; ++s) {
        T* out = c + i * c_i + (j + s) * c_j;
        T v = sums[i * S + s] * static_cast<T>(g.alpha);
        if (g.beta != 0) v += static_cast<T>(g.beta) * *out;
        if (bias) v += bias[i * bias_i + (j + s) * bias_j];
        *out = g.activation == Activation::relu && v < T(0) ? T(0) : v;
      }
  }
}

template <class T>
void strip_region(const Gemm& g, const T* a, const T* b, T* c, std::int64_t c_i, std::int64_t c_j, const T* bias,
                  std::int64_t bias_i, std::int64_t bias_j, std::int64_t j0, std::int64_t j1) {
  if (g.m == 1)
    strip_rows<T, 1>(g, a, b, c, c_i, c_j, bias, bias_i, bias_j, j0, j1);
  else if (g.m == 2)
    strip_rows<T, 2>(g, a, b, c, c_i, c_j, bias, bias_i, bias_j, j0, j1);
  else if (g.m == 3)
    strip_rows<T, 3>(g, a, b, c, c_i, c_j, bias, bias_i, bias_j, j0, j1);
  else
    strip_rows<T, 4>(g, a, b, c, c_i, c_j, bias, bias_i, bias_j, j0, j1);
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
