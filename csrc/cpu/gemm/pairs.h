// bfloat16 by the processor's own products: a word is two neighbours along K, and one instruction adds the products of
// sixteen such words to sixteen float32 sums. It takes and leaves subnormal numbers as zero (see docs/numerics.md).
#pragma once
#include "cpu/gemm/narrow.h"
#include "kernels/gemm.h"

namespace pydlx::PYDLX_ISA {
namespace {

PYDLX_INLINE Words pair_products(Words sum, Words a, Words b) {
  return (Words)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(__m512i)a, (__m512bh)(__m512i)b);
}

// Vectors of sums as bfloat16, `count` of the last one. Two make a cache line; halves of one would be stored one after
// the other.
template <int NV>
PYDLX_INLINE void store_pairs(BFloat16* to, const Words (&sums)[NV], int count) {
#pragma GCC unroll 8
  for (int j = 0; j < NV; j += 2) {
    BFloat16* c = to + j * kWords;
    if (j + 2 < NV || (j + 2 == NV && count == kWords)) {
      _mm512_storeu_si512(c, (__m512i)_mm512_cvtne2ps_pbh((__m512)sums[j + 1], (__m512)sums[j]));
    } else {
      narrow_store(c, sums[j], j == NV - 1 ? count : kWords);
      if (j + 1 < NV) narrow_store(c + kWords, sums[j + 1], count);
    }
  }
}

// One step along K: row i of a tile times NV vectors at `b`. Its word is word_of(i).
template <int MR, int NV, class F>
PYDLX_INLINE void add_pairs(Words (&acc)[MR][NV], const float* b, const F& word_of) {
  Words v[NV];
#pragma GCC unroll 8
  for (int j = 0; j < NV; ++j) v[j] = load(b + j * kWords);
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    const Words a = (Words)_mm512_set1_epi32(word_of(i));
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) acc[i][j] = pair_products(acc[i][j], a, v[j]);
  }
}
PYDLX_INLINE int word_at(const char* p) {
  int word;
  std::memcpy(&word, p, sizeof word);
  return word;
}
PYDLX_INLINE int half_word_at(const char* p) {  // the lower element alone
  std::uint16_t element;
  std::memcpy(&element, p, sizeof element);
  return element;
}

// What ends a tile: f(sum, value of its column) for all sums, `count` columns of the last vector.
template <int MR, int NV, class F>
PYDLX_INLINE void with_columns(Words (&acc)[MR][NV], const BFloat16* values, int count, const F& f) {
#pragma GCC unroll 8
  for (int j = 0; j < NV; ++j) {
    const Words v = widen_load(values + j * kWords, j == NV - 1 ? count : kWords);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) acc[i][j] = f(acc[i][j], v);
  }
}
template <int MR, int NV>
PYDLX_INLINE void scale_columns(Words (&acc)[MR][NV], const BFloat16* scale, int count) {
  with_columns(acc, scale, count, [](Words sum, Words v) __attribute__((always_inline)) { return sum * v; });
}
template <int MR, int NV>
PYDLX_INLINE void bias_columns(Words (&acc)[MR][NV], const BFloat16* bias, int count) {
  with_columns(acc, bias, count, [](Words sum, Words v) __attribute__((always_inline)) { return sum + v; });
}
template <int MR, int NV>
PYDLX_INLINE void relu_tile(Words (&acc)[MR][NV]) {
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) acc[i][j] = acc[i][j] < Words{} ? Words{} : acc[i][j];  // NaN stays NaN
}

struct PairTile {
  std::int64_t steps;  // whole words along K
  const char* a;
  std::int64_t a_row, a_step;  // bytes
  bool ragged;                 // after them, one element alone
  bool ahead;                  // fetch the rows that the next tile reads
  const float* b;
  float* sums;
  std::int64_t sums_row;
  bool first, last;
  BFloat16* c;
  std::int64_t c_row;
  int count;  // columns in the last vector
  const Finish<BFloat16>* end;
  const BFloat16 *bias, *row_bias, *row_scale;
};

// MR rows by NV vectors, held in registers while K runs.
template <int MR, int NV>
__attribute__((noinline)) void pair_tile(const PairTile& t) {
  constexpr int L = kWords;
  Words acc[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) acc[i][j] = t.first ? Words{} : load(t.sums + i * t.sums_row + j * L);
  const char* a = t.a;
  const float* b = t.b;
  const std::int64_t a_row = t.a_row, a_step = t.a_step;
  const std::int64_t run = t.ahead ? kWords : t.steps;
  for (std::int64_t s = 0; s < t.steps;) {
    if (t.ahead)
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) __builtin_prefetch(a + (MR + i) * a_row);
    for (const std::int64_t stop = min_of(t.steps, s + run); s < stop; ++s) {
      add_pairs(acc, b, [&](int i) __attribute__((always_inline)) { return word_at(a + i * a_row); });
      a += a_step;
      b += kPanel;
    }
  }
  if (t.ragged) add_pairs(acc, b, [&](int i) __attribute__((always_inline)) { return half_word_at(a + i * a_row); });
  if (!t.last) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) store<float>(t.sums + i * t.sums_row + j * L, acc[i][j]);
    return;
  }
  const Finish<BFloat16> end = *t.end;
  if (end.alpha != 1) {
    const Words alpha = splat<float>(end.alpha);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) acc[i][j] *= alpha;
  }
  if (end.beta != 0) {
    const Words beta = splat<float>(end.beta);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) acc[i][j] += beta * widen_load(t.c + i * t.c_row + j * L, j == NV - 1 ? t.count : L);
  }
  if (t.bias) bias_columns(acc, t.bias, t.count);
  if (t.row_scale) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const Words scale = splat<float>(static_cast<float>(t.row_scale[i]));
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) acc[i][j] *= scale;
    }
  }
  if (t.row_bias) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const Words bias = splat<float>(static_cast<float>(t.row_bias[i]));
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) acc[i][j] += bias;
    }
  }
  if (end.relu) relu_tile(acc);
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) store_pairs<NV>(t.c + i * t.c_row, acc[i], t.count);
}

using PairFn = void (*)(const PairTile&);
constexpr PairFn kPairTiles[kTileVectors][kTileRows] = {
    {pair_tile<1, 1>, pair_tile<2, 1>, pair_tile<3, 1>, pair_tile<4, 1>, pair_tile<5, 1>, pair_tile<6, 1>},
    {pair_tile<1, 2>, pair_tile<2, 2>, pair_tile<3, 2>, pair_tile<4, 2>, pair_tile<5, 2>, pair_tile<6, 2>},
    {pair_tile<1, 3>, pair_tile<2, 3>, pair_tile<3, 3>, pair_tile<4, 3>, pair_tile<5, 3>, pair_tile<6, 3>},
    {pair_tile<1, 4>, pair_tile<2, 4>, pair_tile<3, 4>, pair_tile<4, 4>, pair_tile<5, 4>, pair_tile<6, 4>}};

struct Pairs {
  using T = BFloat16;
  static constexpr int kDepth = 2;
  static constexpr bool kInPlace = true;
  static constexpr bool kFinishesInTile = true;
  static constexpr std::int64_t kInnerRows = 12;
  static constexpr std::int64_t kBlockSteps = 512;
  static constexpr double kFlops = 2.5e6;
  static constexpr const char* kName = "pairs of bfloat16 (vdpbf16ps)";

  static PYDLX_INLINE Words along(const T* p, int count) {
    return count == 2 * kWords ? (Words)_mm512_loadu_si512(p)
                               : (Words)_mm512_maskz_loadu_epi16(static_cast<__mmask32>((1u << count) - 1u), p);
  }
  static PYDLX_INLINE Words join(__m256i lo, __m256i hi) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (Words)_mm512_permutexvar_epi16(order, _mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(lo), hi, 1));
  }
  static PYDLX_INLINE Words across(const T* p, std::int64_t next, bool two, int count) {
    const __m256i lo = count == kWords ? load_16(p) : load_16(p, count);
    return join(lo, !two ? _mm256_setzero_si256() : count == kWords ? load_16(p + next) : load_16(p + next, count));
  }
  static PYDLX_INLINE Words gather(const T* p, std::int64_t stride, std::int64_t next, bool two, int count) {
    alignas(64) std::uint32_t words[kWords] = {};
    for (int i = 0; i < count; ++i) {
      words[i] = p[i * stride].bits;
      if (two) words[i] |= static_cast<std::uint32_t>(p[i * stride + next].bits) << 16;
    }
    return (Words)_mm512_load_si512(words);
  }
  static PYDLX_INLINE Words splat_word(const float* word) {
    int bits;
    std::memcpy(&bits, word, sizeof bits);
    return (Words)_mm512_set1_epi32(bits);
  }
  static PYDLX_INLINE Words multiply(Words sum, Words a, Words b) { return pair_products(sum, a, b); }

  static void block(const WordBlock<T>& w) {
    const std::int64_t row_tiles = ceil_div(w.m, kTileRows), col_tiles = ceil_div(w.n, kPanel);
    PairTile t;
    t.steps = w.steps - (w.ragged ? 1 : 0);
    t.a_row = w.a_row;
    t.a_step = w.a_step;
    t.ragged = w.ragged;
    t.ahead = w.ahead;
    t.sums_row = w.sums_row;
    t.first = w.first;
    t.last = w.last;
    t.c_row = w.c_row;
    t.end = &w.end;
    for (std::int64_t rt = 0; rt < row_tiles; ++rt)
      for (std::int64_t ct = 0; ct < col_tiles; ++ct) {
        const std::int64_t r0 = w.m * rt / row_tiles, r1 = w.m * (rt + 1) / row_tiles, j = ct * kPanel;
        const int cols = static_cast<int>(min_of(kPanel, w.n - j)), vectors = (cols + kWords - 1) / kWords;
        t.a = w.a + r0 * w.a_row;
        t.b = w.b + j * w.steps;
        t.sums = w.sums + r0 * w.sums_row + j;
        t.c = w.c + r0 * w.c_row + j;
        t.count = cols - (vectors - 1) * kWords;
        t.bias = w.end.bias ? w.end.bias + j : nullptr;
        t.row_bias = w.row_bias ? w.row_bias + r0 : nullptr;
        t.row_scale = w.row_scale ? w.row_scale + r0 : nullptr;
        kPairTiles[vectors - 1][r1 - r0 - 1](t);
      }
  }
};

}  // namespace
}  // namespace pydlx::PYDLX_ISA
