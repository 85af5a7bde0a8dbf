// Register tiles. A tile of C (MR rows, NV vectors) stays in registers while K runs: B is read as vectors along its
// rows, A is broadcast element by element. A may have any strides, so transposed and packed operands use the same code.
#pragma once
#include "cpu/gemm/vec.h"
#include "cpu/past_caches.h"
#include "cpu/tuning/tuning.h"

namespace pydlx::PYDLX_ISA {
namespace {

// What happens to a finished tile: c = act(alpha * sum + beta * c + bias).
template <class T>
struct Epilogue {
  T alpha, beta;  // beta 0: c is not read
  const T* bias;  // at the tile's first column, or null
  bool relu;
  bool past_caches = false;   // c's rows begin at whole cache lines and are larger than any cache: not read into one
  const T* coming = nullptr;  // k elements for a later tile, asked for while this one multiplies, or null
};

using tuning::kTileRows;
using tuning::kTileVectors;
template <class T>
inline constexpr int kTileColumns = kTileVectors * kLanesOf<T>;

template <class T>
using MicroFn = void (*)(std::int64_t k, const T* a, std::int64_t a_row, std::int64_t a_col, const T* b,
                         std::int64_t b_row, T* c, std::int64_t c_row, const Epilogue<T>& e, int tail);

// With kPart the last vector holds only `tail` columns.
template <class T, int MR, int NV, bool kPart>
__attribute__((noinline)) void micro(std::int64_t k, const T* a, std::int64_t a_row, std::int64_t a_col, const T* b,
                                     std::int64_t b_row, T* c, std::int64_t c_row, const Epilogue<T>& e, int tail) {
  constexpr int L = kLanesOf<T>;
  using V = Vector<T>;
  const Lanes lanes(kPart ? tail : 1);
  V acc[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) acc[i][j] = V{};
  // A tile this long (768 cycles) gives its part of C time to arrive.
  if (k >= 64 && !e.past_caches) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) __builtin_prefetch(c + i * c_row + j * L, 1);
  }
  // Zeros in the unused lanes of a packed panel make a full load harmless, but an operand read in place ends at its
  // last column.
  const T* const coming = e.coming ? e.coming : a;
  for (std::int64_t p = 0; p < k; ++p) {
    V row[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) row[j] = kPart && j == NV - 1 ? load_part(b + j * L, lanes) : load(b + j * L);
    // The same line several times, but a burst of requests would make the loads of this tile wait.
    __builtin_prefetch(coming + p);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const V v = splat<T>(a[i * a_row]);
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) acc[i][j] += v * row[j];
    }
    a += a_col;
    b += b_row;
  }
  asm("" : "+r"(c));  // or 24 addresses wait in registers and on the stack while the loop runs
  if (e.alpha != T(1)) {
    const V s = splat<T>(e.alpha);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) acc[i][j] *= s;
  }
  if (e.beta != T(0)) {
    const V s = splat<T>(e.beta);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j)
        acc[i][j] += s * (kPart && j == NV - 1 ? load_part(c + i * c_row + j * L, lanes) : load(c + i * c_row + j * L));
  }
  if (e.bias) {
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) {
      const V v = kPart && j == NV - 1 ? load_part(e.bias + j * L, lanes) : load(e.bias + j * L);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) acc[i][j] += v;
    }
  }
  if (e.relu) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) acc[i][j] = acc[i][j] < V{} ? V{} : acc[i][j];  // NaN stays NaN
  }
  if (!kPart && e.past_caches) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) store_past_caches<T>(c + i * c_row + j * L, acc[i][j]);
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) {
      if (kPart && j == NV - 1)
        store_part(c + i * c_row + j * L, acc[i][j], lanes);
      else
        store<T>(c + i * c_row + j * L, acc[i][j]);
    }
}

// [rows - 1]: full width, and [vectors - 1][rows - 1] for the last columns.
template <class T>
struct MicroTable {
  MicroFn<T> full[kTileRows];
  MicroFn<T> part[kTileVectors][kTileRows];
};

template <class T, int NV, bool kPart>
constexpr void fill_rows(MicroFn<T> (&f)[kTileRows]) {
  f[0] = micro<T, 1, NV, kPart>;
  f[1] = micro<T, 2, NV, kPart>;
  f[2] = micro<T, 3, NV, kPart>;
  f[3] = micro<T, 4, NV, kPart>;
  f[4] = micro<T, 5, NV, kPart>;
  f[5] = micro<T, 6, NV, kPart>;
}
template <class T>
constexpr MicroTable<T> make_micro_table() {
  MicroTable<T> t{};
  fill_rows<T, kTileVectors, false>(t.full);
  fill_rows<T, 1, true>(t.part[0]);
  fill_rows<T, 2, true>(t.part[1]);
  if constexpr (kTileVectors == 4) {
    fill_rows<T, 3, true>(t.part[2]);
    fill_rows<T, 4, true>(t.part[3]);
  }
  return t;
}
template <class T>
constexpr MicroTable<T> kMicro = make_micro_table<T>();

// One tile of `rows` x `cols` (cols <= kTileColumns).
template <class T>
PYDLX_INLINE void run_tile(int rows, int cols, std::int64_t k, const T* a, std::int64_t a_row, std::int64_t a_col,
                           const T* b, std::int64_t b_row, T* c, std::int64_t c_row, const Epilogue<T>& e) {
  constexpr int L = kLanesOf<T>;
  if (cols == kTileColumns<T>) {
    kMicro<T>.full[rows - 1](k, a, a_row, a_col, b, b_row, c, c_row, e, 0);
  } else {
    const int vectors = (cols + L - 1) / L;
    kMicro<T>.part[vectors - 1][rows - 1](k, a, a_row, a_col, b, b_row, c, c_row, e, cols - (vectors - 1) * L);
  }
}

template <class T>
inline constexpr int kFetchAhead = tuning::kFetchAheadBytes / static_cast<int>(sizeof(T));
using tuning::kFetchBytes;

// Inner products, for a short A against a B whose columns are contiguous: vectors run along K and each of the MR x NR
// results ends as the sum of the lanes of one accumulator. MR * NR = lanes, so one vector collects all results. Rows
// and columns past the end are clamped by the caller (pointers repeat) and not stored.
template <class T, int MR, bool kFetch>
__attribute__((noinline)) void inner_tile(std::int64_t k, const T* const* a, const T* const* b, T* sums) {
  constexpr int L = kLanesOf<T>, NR = L / MR;
  using V = Vector<T>;
  V acc[L];
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) acc[i] = V{};
  const T* pa[MR];
  const T* pb[NR];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) pa[i] = a[i];
#pragma GCC unroll 16
  for (int j = 0; j < NR; ++j) pb[j] = b[j];
  std::int64_t p = 0;
  for (; p + L <= k; p += L) {
    V va[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) va[i] = load(pa[i] + p);
#pragma GCC unroll 16
    for (int j = 0; j < NR; ++j) {
      const V vb = load(pb[j] + p);
      if constexpr (kFetch) __builtin_prefetch(pb[j] + p + kFetchAhead<T>);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) acc[i * NR + j] += va[i] * vb;
    }
  }
  if (p < k) {
    const Lanes lanes(static_cast<int>(k - p));
    V va[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) va[i] = load_part(pa[i] + p, lanes);
#pragma GCC unroll 16
    for (int j = 0; j < NR; ++j) {
      const V vb = load_part(pb[j] + p, lanes);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) acc[i * NR + j] += va[i] * vb;
    }
  }
  store<T>(sums, sum_each<T>(acc));
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
