// Few rows against a matrix whose columns are contiguous (the weight of a linear layer): turning that matrix for the
// register tiles would cost more than it is used, so its columns are broadcast as they lie, A is turned instead, and
// the tiles of the transposed result are turned back while they are in cache.
#pragma once
#include "core/scratch.h"
#include "cpu/gemm/cuts.h"
#include "cpu/gemm/finish.h"
#include "cpu/gemm/pack.h"

namespace pydlx::PYDLX_ISA {
namespace {

using tuning::kBlockM;
inline constexpr std::int64_t kTurnedBytes = 4 << 20;

// Whether this beats inner products, for few rows, or turning B for the tiles, for more. Measured with 16 and 8
// lanes.
template <class T>
PYDLX_INLINE bool turned(const Gemm& g) {
  constexpr std::int64_t L = kLanesOf<T>;
  if (g.b_row != 1 || g.b_col == 1 || g.k < 64 || g.n < 2 * L) return false;
  if (g.m * g.k * static_cast<std::int64_t>(sizeof(T)) > kTurnedBytes) return false;
  if (g.m <= tuning::kInnerRows) return g.m > L * 3 / 4 && (g.m <= L || g.m > L * 5 / 4);
  // Lanes past the last row multiply too; turning an element takes as long as so many of its products.
  constexpr std::int64_t kTurn = L * 3 / 4;
  const std::int64_t lanes = ceil_div(g.m, L) * L;
  return lanes * g.k * g.n + kTurn * g.m * (g.k + g.n) <= (g.m + kTurn - 1) * g.k * g.n;
}

// One vector of columns: twice as many rows as elsewhere, or there would be too few sums to hide the latency of each.
inline constexpr int kTallRows = 2 * kTileRows;
template <class T>
constexpr MicroFn<T> kTall[kTallRows] = {micro<T, 1, 1, true>,  micro<T, 2, 1, true>,  micro<T, 3, 1, true>,
                                         micro<T, 4, 1, true>,  micro<T, 5, 1, true>,  micro<T, 6, 1, true>,
                                         micro<T, 7, 1, true>,  micro<T, 8, 1, true>,  micro<T, 9, 1, true>,
                                         micro<T, 10, 1, true>, micro<T, 11, 1, true>, micro<T, 12, 1, true>};
static_assert(kTallRows == 12);

// C(i, j) from turned(j, i), i < m, j < n.
template <class T>
void turn_back(const Gemm& g, const T* turned, std::int64_t ld, std::int64_t n, T* c, const T* bias) {
  constexpr std::int64_t L = kLanesOf<T>;
  const Vector<T> alpha = splat<T>(static_cast<T>(g.alpha)), beta = splat<T>(static_cast<T>(g.beta));
  for (std::int64_t i = 0; i < g.m; i += L)
    for (std::int64_t j = 0; j < n; j += L) {
      Vector<T> r[L];
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) r[l] = load(turned + (j + l) * ld + i);
      transpose_square<T>(r);
      const int columns = static_cast<int>(min_of(L, n - j)), rows = static_cast<int>(min_of(L, g.m - i));
      const Lanes lanes(columns);
      const Vector<T> add = bias ? load_part(bias + j, lanes) : Vector<T>{};
      for (int l = 0; l < rows; ++l) {
        T* out = c + (i + l) * g.c_row + j;
        Vector<T> v = r[l] * alpha;
        if (g.beta != 0) v += beta * load_part(out, lanes);
        if (bias) v += add;
        if (g.activation == Activation::relu) v = v < Vector<T>{} ? Vector<T>{} : v;  // NaN stays NaN
        if (columns == L)
          store<T>(out, v);
        else
          store_part(out, v, lanes);
      }
    }
}

// Columns j0..j1 of all rows. False, with nothing written, without memory for the copies.
template <class T>
bool turned_region(const Gemm& g, std::int64_t block_k, const T* a, const T* b, T* c, const T* bias, std::int64_t j0,
                   std::int64_t j1) {
  constexpr std::int64_t L = kLanesOf<T>;
  const std::int64_t vectors = ceil_div(g.m, L), panels = ceil_div(vectors, kTileVectors), ld = (vectors + 1) * L,
                     tile_rows = vectors == 1 ? kTallRows : kTileRows,
                     chunk = ceil_div(min_of(kBlockM, j1 - j0), L) * L;
  T* const packed = static_cast<T*>(
      thread_scratch(ScratchSlot::gemm, static_cast<std::size_t>(g.k * vectors * L + chunk * ld) * sizeof(T)));
  if (!packed) return false;
  T* const sums = packed + g.k * vectors * L;
  const auto first_vector = [&](std::int64_t panel) { return vectors * panel / panels; };  // 5 are 3 + 2, not 4 + 1
  for (std::int64_t q = 0; q < panels; ++q) {
    const std::int64_t i = first_vector(q) * L, end = first_vector(q + 1) * L;
    pack_rows<T>(a + i * g.a_row, g.a_col, g.a_row, g.k, min_of(end, g.m) - i, end - i, packed + i * g.k);
  }
  const bool far = g.k * g.n * static_cast<std::int64_t>(sizeof(T)) > kFetchBytes;
  for (std::int64_t jc = j0; jc < j1; jc += chunk) {
    const std::int64_t nc = min_of(chunk, j1 - jc), row_tiles = ceil_div(nc, tile_rows);
    for (std::int64_t pc = 0; pc < g.k; pc += block_k) {
      const std::int64_t kc = min_of(block_k, g.k - pc);
      const Epilogue<T> sum{T(1), pc == 0 ? T(0) : T(1), nullptr, false};
      for (std::int64_t rt = 0; rt < row_tiles; ++rt) {
        const std::int64_t r0 = nc * rt / row_tiles, r1 = nc * (rt + 1) / row_tiles;
        const T* const columns = b + (jc + r0) * g.b_col + pc;
        const T* const coming = b + (jc + r1) * g.b_col + pc;
        const std::int64_t fetched = far ? min_of(tile_rows, j1 - jc - r1) : 0;
        for (std::int64_t q = 0; q < panels; ++q) {
          for (std::int64_t r = fetched * q / panels; r < fetched * (q + 1) / panels; ++r)
            for (std::int64_t p = 0; p < kc; p += 64 / static_cast<int>(sizeof(T)))
              __builtin_prefetch(coming + r * g.b_col + p);
          const std::int64_t i = first_vector(q) * L, end = first_vector(q + 1) * L;
          const int count = static_cast<int>(r1 - r0), width = static_cast<int>(min_of(end, g.m) - i);
          const T* const x = packed + i * g.k + pc * (end - i);
          T* const to = sums + r0 * ld + i;
          if (vectors == 1)
            kTall<T>[count - 1](kc, columns, g.b_col, 1, x, L, to, ld, sum, width);
          else
            run_tile<T>(count, width, kc, columns, g.b_col, std::int64_t{1}, x, end - i, to, ld, sum);
        }
      }
    }
    turn_back<T>(g, sums, ld, nc, c + jc, bias ? bias + jc : nullptr);
    if (by_rows(g.activation)) activate_region(g.activation, c, g.c_row, 1, 0, g.m, jc, jc + nc);
  }
  return true;
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
