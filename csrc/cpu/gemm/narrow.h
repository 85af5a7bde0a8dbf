// Products of 16-bit floats with float32 sums. Operands are turned into words (see words.h) while they are packed, so
// nothing but the blocks in cache is ever widened, and each result is rounded once.
//
// As in driver.h, the order of every sum follows from the sizes and strides of the whole product, never from how C is
// cut for threads and tiles.
#pragma once
#include "core/scratch.h"
#include "core/verbose.h"
#include "cpu/gemm/cuts.h"
#include "cpu/gemm/finish.h"
#include "cpu/gemm/micro.h"
#include "cpu/gemm/words.h"
#include "kernels/gemm.h"

namespace pydlx::PYDLX_ISA {
namespace {

inline constexpr std::int64_t kPanel = kTileColumns<float>;
using tuning::kPackedRows;
using tuning::kPackedWords;
inline constexpr int kFewRows = 4;  // for strips

struct NarrowPlan {
  bool inner = false;  // inner products along K
  bool strip = false;  // a few rows against long rows of B
  bool pack_a = false;
  std::int64_t steps = 0;       // words along K
  std::int64_t kc = 0, nc = 0;  // a packed block of B, in words and columns
};

// Element (i, p) at x[i * row + p * col] -> word s of line i at out[i * ld + s], zeros up to a whole vector of words.
template <class P>
void pack_words_rows(const typename P::T* x, std::int64_t row, std::int64_t col, std::int64_t lines, std::int64_t depth,
                     std::int64_t ld, float* out) {
  using T = typename P::T;
  constexpr int L = kWords, D = P::kDepth;
  const std::int64_t steps = ceil_div(depth, D), whole = depth / (L * D) * L;
  if (col == 1) {
    for (std::int64_t i = 0; i < lines; ++i) {
      const T* src = x + i * row;
      float* dst = out + i * ld;
      for (std::int64_t s = 0; s < whole; s += L) store<float>(dst + s, P::along(src + s * D, L * D));
      if (whole < steps) store<float>(dst + whole, P::along(src + whole * D, static_cast<int>(depth - whole * D)));
    }
    return;
  }
  for (std::int64_t i = 0; i < lines; i += L) {
    const int count = static_cast<int>(min_of(L, lines - i));
    for (std::int64_t s = 0; s < steps; s += L) {
      Words r[L];
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) {
        const std::int64_t p = (s + l) * D;
        r[l] = Words{};
        if (p < depth) {
          const T* src = x + i * row + p * col;
          r[l] = row == 1 ? P::across(src, col, p + 1 < depth, count) : P::gather(src, row, col, p + 1 < depth, count);
        }
      }
      transpose_square<float>(r);
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l)
        if (l < count) store<float>(out + (i + l) * ld + s, r[l]);
    }
  }
}

// Lines that are neighbours in memory, as they pass: word s of line i at out[s * ld + i].
template <class P>
void pack_words_steps(const typename P::T* x, std::int64_t col, std::int64_t lines, std::int64_t depth, std::int64_t ld,
                      float* out) {
  constexpr int L = kWords, D = P::kDepth;
  for (std::int64_t p = 0; p < depth; p += D, x += D * col, out += ld)
    for (std::int64_t i = 0; i < lines; i += L)
      store<float>(out + i, P::across(x + i, col, p + 1 < depth, static_cast<int>(min_of(L, lines - i))));
}

// B(p, j) -> panels of kPanel columns, each [words][kPanel]; of the last panel as many whole vectors as are used.
template <class P>
void pack_words_b(const typename P::T* b, std::int64_t b_row, std::int64_t b_col, std::int64_t depth, std::int64_t n,
                  float* out) {
  using T = typename P::T;
  constexpr int L = kWords, D = P::kDepth;
  const std::int64_t steps = ceil_div(depth, D);
  if (b_row == 1 && b_col != 1) {
    for (std::int64_t j0 = 0; j0 < n; j0 += kPanel, out += steps * kPanel)
      for (std::int64_t j = 0; j < min_of(kPanel, n - j0); j += L)
        for (std::int64_t s = 0; s < steps; s += L) {
          const std::int64_t cols = min_of(L, n - j0 - j);
          const int count = static_cast<int>(min_of(L * D, depth - s * D));
          const T* src = b + (j0 + j) * b_col + s * D;
          Words r[L];
          if (cols == L && count == L * D) {
#pragma GCC unroll 16
            for (int l = 0; l < L; ++l) r[l] = P::along(src + l * b_col, L * D);
          } else {
#pragma GCC unroll 16
            for (int l = 0; l < L; ++l) r[l] = l < cols ? P::along(src + l * b_col, count) : Words{};
          }
          transpose_square<float>(r);
#pragma GCC unroll 16
          for (int l = 0; l < L; ++l)
            if (s + l < steps) store<float>(out + (s + l) * kPanel + j, r[l]);
        }
    return;
  }
  const std::int64_t whole = b_col == 1 ? n / L * L : 0;
  for (std::int64_t s = 0; s < steps; ++s) {
    const T* src = b + s * D * b_row;
    const bool two = s * D + 1 < depth;
    float* dst = out + s * kPanel;  // panel by panel: steps * kPanel words apart
    std::int64_t j = 0;
    for (; j + kPanel <= whole; j += kPanel, dst += steps * kPanel)
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) store<float>(dst + v * L, P::across(src + j + v * L, b_row, two, L));
    for (; j < n; j += kPanel, dst += steps * kPanel)
      for (std::int64_t at = j; at < min_of(n, j + kPanel); at += L) {
        const int count = static_cast<int>(min_of(L, n - at));
        store<float>(dst + at - j, b_col == 1 ? P::across(src + at, b_row, two, count)
                                              : P::gather(src + at * b_col, b_col, b_row, two, count));
      }
  }
}

template <class T>
PYDLX_INLINE void finish_one(float v, const Gemm& g, const T* bias, T* out) {
  v *= static_cast<float>(g.alpha);
  if (g.beta != 0) v += static_cast<float>(g.beta) * static_cast<float>(*out);
  if (bias) v += static_cast<float>(*bias);
  *out = static_cast<T>(g.activation == Activation::relu && v < 0 ? 0.0f : v);
}

// Without memory for packing: plain loops.
template <class T>
void plain_narrow(const Gemm& g, const T* a, const T* b, T* c, std::int64_t c_i, std::int64_t c_j, const T* bias,
                  std::int64_t bias_i, std::int64_t bias_j, std::int64_t i0, std::int64_t i1, std::int64_t j0,
                  std::int64_t j1) {
  for (std::int64_t i = i0; i < i1; ++i)
    for (std::int64_t j = j0; j < j1; ++j) {
      float s = 0;
      for (std::int64_t p = 0; p < g.k; ++p)
        s += static_cast<float>(a[i * g.a_row + p * g.a_col]) * static_cast<float>(b[p * g.b_row + j * g.b_col]);
      finish_one(s, g, bias ? bias + i * bias_i + j * bias_j : nullptr, c + i * c_i + j * c_j);
    }
}

// Rows i0..i1 and columns j0..j1 of one matrix of the batch, in register tiles.
template <class P>
void tiles_narrow(const Gemm& g, const NarrowPlan& plan, const typename P::T* a0, const typename P::T* b0,
                  typename P::T* c0, const typename P::T* bias, std::int64_t i0, std::int64_t i1, std::int64_t j0,
                  std::int64_t j1) {
  using T = typename P::T;
  constexpr std::int64_t D = P::kDepth;
  if (i0 >= i1 || j0 >= j1) return;
  const bool blocked = plan.kc < plan.steps;  // sums wait in memory between blocks of K
  const std::int64_t col_blocks = ceil_div(j1 - j0, plan.nc),
                     nc_max = ceil_div(ceil_div(j1 - j0, col_blocks), kPanel) * kPanel,
                     mc_max = plan.pack_a ? min_of(kPackedRows, i1 - i0) : i1 - i0,
                     group = blocked ? min_of(i1 - i0, max_of(kPackedRows, (1 << 20) / nc_max)) : i1 - i0,
                     sums_rows = blocked              ? group
                                 : P::kFinishesInTile ? 0
                                                      : kTileRows;
  const bool by_steps = g.a_row == 1;  // packed A: a step's words side by side, or a row's
  // Leading dimensions of packed A, off the cache-set period.
  const std::int64_t ld =
      by_steps ? ceil_div(mc_max, kWords) / 2 * 2 * kWords + kWords : ceil_div(plan.kc, kWords) * kWords + kWords;
  const std::int64_t need_b = plan.kc * nc_max, need_a = !plan.pack_a ? 0 : ld * (by_steps ? plan.kc : mc_max),
                     need_sums = sums_rows * nc_max;
  float* packed_b = static_cast<float*>(
      thread_scratch(ScratchSlot::gemm, static_cast<std::size_t>(need_b + need_a + need_sums) * sizeof(float)));
  if (!packed_b && need_b + need_a + need_sums > 0)
    return plain_narrow<T>(g, a0, b0, c0, g.c_row, 1, bias, 0, 1, i0, i1, j0, j1);
  float *packed_a = packed_b + need_b, *sums = packed_a + need_a;
  for (std::int64_t jc = j0; jc < j1; jc += nc_max) {
    const std::int64_t nc = min_of(nc_max, j1 - jc);
    for (std::int64_t ig = i0; ig < i1; ig += group) {
      const std::int64_t ig1 = min_of(ig + group, i1);
      std::int64_t sc = 0;
      do {  // once for k = 0 too: beta, bias and activation still apply
        const std::int64_t kc = min_of(plan.kc, plan.steps - sc), depth = min_of(kc * D, g.k - sc * D);
        pack_words_b<P>(b0 + sc * D * g.b_row + jc * g.b_col, g.b_row, g.b_col, depth, nc, packed_b);
        for (std::int64_t ic = ig; ic < ig1; ic += mc_max) {
          WordBlock<T> w;
          w.m = min_of(mc_max, ig1 - ic);
          w.n = nc;
          w.steps = kc;
          const T* a = a0 + ic * g.a_row + sc * D * g.a_col;
          w.a = reinterpret_cast<const char*>(a);
          w.a_row = g.a_row * static_cast<std::int64_t>(sizeof(T));
          w.a_step = D * static_cast<std::int64_t>(sizeof(T));
          w.ragged = !plan.pack_a && depth % D != 0;
          if (plan.pack_a) {
            if (by_steps)
              pack_words_steps<P>(a, g.a_col, w.m, depth, ld, packed_a);
            else
              pack_words_rows<P>(a, g.a_row, g.a_col, w.m, depth, ld, packed_a);
            w.a = reinterpret_cast<const char*>(packed_a);
            w.a_row = (by_steps ? 1 : ld) * static_cast<std::int64_t>(sizeof(float));
            w.a_step = (by_steps ? ld : 1) * static_cast<std::int64_t>(sizeof(float));
          }
          w.b = packed_b;
          w.sums = blocked ? sums + (ic - ig) * nc_max : sums;
          w.sums_row = nc_max;
          w.first = sc == 0;
          w.last = sc + kc == plan.steps;
          w.c = c0 + ic * g.c_row + jc;
          w.c_row = g.c_row;
          w.end = {static_cast<float>(g.alpha), static_cast<float>(g.beta), bias ? bias + jc : nullptr,
                   g.activation == Activation::relu};
          P::block(w);
        }
        sc += plan.kc;
      } while (sc < plan.steps);
    }
  }
}

// MR rows of words (at a, `ld` words apart) against NR = kWords / MR columns of B, both along K.
template <class P, int MR, bool kFetch>
__attribute__((noinline)) void inner_words(std::int64_t k, const float* const* a, const typename P::T* const* b,
                                           float* sums) {
  constexpr int L = kWords, NR = L / MR, D = P::kDepth;
  Words acc[L];
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) acc[i] = Words{};
  const float* pa[MR];
  const typename P::T* pb[NR];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) pa[i] = a[i];
#pragma GCC unroll 16
  for (int j = 0; j < NR; ++j) pb[j] = b[j];
  std::int64_t p = 0;
  for (; p + L * D <= k; p += L * D) {
    Words va[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) va[i] = load(pa[i] + p / D);
#pragma GCC unroll 16
    for (int j = 0; j < NR; ++j) {
      const Words vb = P::along(pb[j] + p, L * D);
      if constexpr (kFetch) __builtin_prefetch(reinterpret_cast<const char*>(pb[j] + p) + 1024);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) acc[i * NR + j] = P::multiply(acc[i * NR + j], va[i], vb);
    }
  }
  if (p < k) {  // the packed rows of A end in zeros
    const int rest = static_cast<int>(k - p);
    Words va[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) va[i] = load(pa[i] + p / D);
#pragma GCC unroll 16
    for (int j = 0; j < NR; ++j) {
      const Words vb = P::along(pb[j] + p, rest);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) acc[i * NR + j] = P::multiply(acc[i * NR + j], va[i], vb);
    }
  }
  store<float>(sums, sum_each<float>(acc));
}

// Where the results of the two paths for few rows go: C(i, j) at c[i * c_i + j * c_j].
template <class T>
struct Placed {
  T* c;
  std::int64_t c_i, c_j;
  const T* bias;
  std::int64_t bias_i, bias_j;
};

template <class P, int MR>
void inner_narrow(const Gemm& g, const float* a, std::int64_t ld, const typename P::T* b,
                  const Placed<typename P::T>& to, std::int64_t j0, std::int64_t j1) {
  constexpr int NR = kWords / MR;
  const auto tile = g.k * g.n * 2 > kFetchBytes ? inner_words<P, MR, true> : inner_words<P, MR, false>;
  for (std::int64_t j = j0; j < j1; j += NR) {
    const typename P::T* pb[NR];
    for (int l = 0; l < NR; ++l) pb[l] = b + min_of(j + l, j1 - 1) * g.b_col;
    for (std::int64_t i = 0; i < g.m; i += MR) {
      const float* pa[MR];
      for (int l = 0; l < MR; ++l) pa[l] = a + min_of(i + l, g.m - 1) * ld;
      alignas(64) float sums[kWords];
      tile(g.k, pa, pb, sums);
      for (int r = 0; r < MR && i + r < g.m; ++r)
        for (int s = 0; s < NR && j + s < j1; ++s)
          finish_one(sums[r * NR + s], g, to.bias ? to.bias + (i + r) * to.bias_i + (j + s) * to.bias_j : nullptr,
                     to.c + (i + r) * to.c_i + (j + s) * to.c_j);
    }
  }
}

// The sums of a strip of columns wait in the first-level cache while rows of B pass, kStripSteps words at a time.
inline constexpr std::int64_t kStrip = 1024;

template <class P, int MR, int Steps>
PYDLX_INLINE void strip_words(const float* a, std::int64_t ld, const typename P::T* b, std::int64_t b_row, bool two,
                              std::int64_t n, float* sums) {
  constexpr int L = kWords, D = P::kDepth;
  Words x[Steps][MR];
#pragma GCC unroll 8
  for (int s = 0; s < Steps; ++s)
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) x[s][i] = P::splat_word(a + i * ld + s);
  for (std::int64_t j = 0; j < n; j += L) {
    const int count = static_cast<int>(min_of(L, n - j));
    Words v[MR];
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) v[i] = load(sums + i * kStrip + j);
    auto rows = [&](int columns) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int s = 0; s < Steps; ++s) {
        const Words w = P::across(b + s * D * b_row + j, b_row, two, columns);
#pragma GCC unroll 4
        for (int i = 0; i < MR; ++i) v[i] = P::multiply(v[i], x[s][i], w);
      }
    };
    if (count == L)
      rows(L);
    else
      rows(count);
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) store<float>(sums + i * kStrip + j, v[i]);
  }
}

template <class P, int MR>
void strip_narrow(const Gemm& g, const float* a, std::int64_t ld, const typename P::T* b,
                  const Placed<typename P::T>& to, std::int64_t j0, std::int64_t j1) {
  constexpr int Steps = kVectorBytes == 64 && MR <= 2 ? 8 : 4, D = P::kDepth;
  const std::int64_t whole = g.k / D;
  alignas(64) float sums[MR * kStrip];
  for (std::int64_t j = j0; j < j1; j += kStrip) {
    const std::int64_t n = min_of(kStrip, j1 - j);
    std::memset(sums, 0, sizeof sums);
    std::int64_t s = 0;
    for (; s + Steps <= whole; s += Steps)
      strip_words<P, MR, Steps>(a + s, ld, b + s * D * g.b_row + j, g.b_row, true, n, sums);
    for (; s * D < g.k; ++s)
      strip_words<P, MR, 1>(a + s, ld, b + s * D * g.b_row + j, g.b_row, s * D + 1 < g.k, n, sums);
    for (int i = 0; i < MR; ++i)
      for (std::int64_t l = 0; l < n; ++l)
        finish_one(sums[i * kStrip + l], g, to.bias ? to.bias + i * to.bias_i + (j + l) * to.bias_j : nullptr,
                   to.c + i * to.c_i + (j + l) * to.c_j);
  }
}

// Columns j0..j1 of all rows: the paths for few rows, which share the packed words of A.
template <class P>
void few_narrow(const Gemm& g, const NarrowPlan& plan, const typename P::T* a, const typename P::T* b,
                const Placed<typename P::T>& to, std::int64_t j0, std::int64_t j1) {
  const std::int64_t ld = ceil_div(plan.steps, kWords) * kWords + kWords;
  float* words =
      static_cast<float*>(thread_scratch(ScratchSlot::gemm, static_cast<std::size_t>(g.m * ld) * sizeof(float)));
  if (!words)
    return plain_narrow<typename P::T>(g, a, b, to.c, to.c_i, to.c_j, to.bias, to.bias_i, to.bias_j, 0, g.m, j0, j1);
  pack_words_rows<P>(a, g.a_row, g.a_col, g.m, g.k, ld, words);
  if (plan.strip) {
    if (g.m == 1)
      strip_narrow<P, 1>(g, words, ld, b, to, j0, j1);
    else if (g.m == 2)
      strip_narrow<P, 2>(g, words, ld, b, to, j0, j1);
    else if (g.m == 3)
      strip_narrow<P, 3>(g, words, ld, b, to, j0, j1);
    else
      strip_narrow<P, 4>(g, words, ld, b, to, j0, j1);
  } else if (g.m == 1) {
    inner_narrow<P, 1>(g, words, ld, b, to, j0, j1);
  } else if (g.m == 2 || kWords < 16) {
    inner_narrow<P, 2>(g, words, ld, b, to, j0, j1);
  } else {
    inner_narrow < P, kWords<16 ? 2 : 4>(g, words, ld, b, to, j0, j1);
  }
}

template <class P>
NarrowPlan plan_narrow(const Gemm& g) {
  NarrowPlan p;
  p.steps = ceil_div(g.k, P::kDepth);
  if (p.steps >= 2 * kWords && g.b_row == 1 && (g.b_col != 1 || g.n == 1) && g.m <= P::kInnerRows) {
    p.inner = true;
    return p;
  }
  if (g.m <= kFewRows && g.n > kPanel && p.steps >= 8 && g.b_col == 1) {
    p.strip = true;
    return p;
  }
  const std::int64_t blocks = ceil_div(p.steps, P::kBlockSteps);
  p.kc = blocks > 1 ? ceil_div(ceil_div(p.steps, blocks), 8) * 8 : p.steps;
  p.nc = p.kc > 0 ? max_of(kPanel, min_of(4096, kPackedWords / p.kc / kPanel * kPanel)) : kPanel;
  // In place, two elements that are neighbours along K are a word. Even rows that share cache sets gain nothing from a
  // copy: six of them fit the ways of the first-level cache.
  p.pack_a = !P::kInPlace || g.a_col != 1;
  return p;
}

template <class P>
__attribute__((cold, noinline)) void describe_narrow(const NarrowPlan& plan, bool flipped, std::int64_t pieces) {
  verbose_note(": %s, ", P::kName);
  if (plan.inner)
    verbose_note("inner products along K%s", flipped ? ", operands exchanged" : "");
  else if (plan.strip)
    verbose_note("sums of %d columns in the first-level cache%s", static_cast<int>(kStrip),
                 flipped ? ", operands exchanged" : "");
  else
    verbose_note("%d x %d register tiles, %s, B packed, K blocks of %lld", kTileRows, static_cast<int>(kPanel),
                 plan.pack_a ? "A packed" : "A in place", static_cast<long long>(plan.kc * P::kDepth));
  verbose_note("; %lld piece%s", static_cast<long long>(pieces), pieces == 1 ? "" : "s");
}

template <class P>
void gemm_narrow(const Gemm& given) {
  using T = typename P::T;
  if (given.m <= 0 || given.n <= 0 || given.batch <= 0) return;
  Gemm g = given;
  Placed<T> to{nullptr, g.c_row, 1, static_cast<const T*>(g.bias), 0, 1};
  // A product with few columns is the transposed product with few rows.
  const std::int64_t steps = ceil_div(g.k, P::kDepth);
  const bool flip_inner = g.m > g.n && g.a_col == 1 && (g.n == 1 || (g.n <= 8 && g.a_row != 1)) && steps >= 2 * kWords,
             flip_strip = !flip_inner && g.m > g.n && g.a_row == 1 && g.n <= kFewRows && g.m > kPanel && steps >= 8,
             flip = flip_inner || flip_strip;
  if (flip) {
    transpose_operands(g, given);
    to = {nullptr, 1, given.c_row, to.bias, 1, 0};
  }
  NarrowPlan plan;
  if (flip) {
    plan.steps = steps;
    plan.inner = flip_inner;
    plan.strip = flip_strip;
  } else {
    plan = plan_narrow<P>(g);
  }
  const bool few = plan.inner || plan.strip;  // all rows at once; only columns are cut
  const std::int64_t unit = plan.inner ? 16 : kPanel;
  const Cuts cuts = choose_cuts(g, 2, P::kFlops, few ? 1 : ceil_div(g.m, kTileRows), ceil_div(g.n, unit));
  if (verbose_on) [[unlikely]]
    describe_narrow<P>(plan, flip, g.batch * cuts.rows * cuts.cols);
  parallel_for(g.batch * cuts.rows * cuts.cols, cuts.grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const Piece p = piece_of(cuts, t, few ? g.m : kTileRows, unit, g.m, g.n);
      const T* a = static_cast<const T*>(g.a) + p.batch * g.a_batch;
      const T* b = static_cast<const T*>(g.b) + p.batch * g.b_batch;
      T* c = static_cast<T*>(g.c) + p.batch * g.c_batch;
      if (few)
        few_narrow<P>(g, plan, a, b, {c, to.c_i, to.c_j, to.bias, to.bias_i, to.bias_j}, p.j0, p.j1);
      else
        tiles_narrow<P>(g, plan, a, b, c, to.bias, p.i0, p.i1, p.j0, p.j1);
      if (by_rows(g.activation))
        activate_region(g.activation, c, to.c_i, to.c_j, few ? 0 : p.i0, few ? g.m : p.i1, p.j0, p.j1);
    }
  });
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
