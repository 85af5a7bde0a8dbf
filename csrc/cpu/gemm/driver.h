// Chooses a path for a matrix product, splits it over threads and walks the blocks.
//
// Every element of C is accumulated in one order that follows from the sizes and strides of the whole product (K in
// blocks of `kc`, each block in order; or by lanes in the inner-product path). How C is cut into pieces for threads and
// tiles therefore never changes a bit.
#pragma once
#include "core/scratch.h"
#include "core/verbose.h"
#include "cpu/gemm/cuts.h"
#include "cpu/gemm/dot.h"
#include "cpu/gemm/finish.h"
#include "cpu/gemm/pack.h"
#include "cpu/gemm/strip.h"
#include "cpu/gemm/turned.h"
#include "kernels/gemm.h"

namespace pydlx::PYDLX_ISA {
namespace {

struct Plan {
  bool inner = false;   // inner products along K instead of register tiles
  bool strip = false;   // a few rows against long rows of B
  bool turned = false;  // tiles of the transposed product
  bool pack_a = false, pack_b = false;
  std::int64_t kc = 0;
};

template <class T>
inline constexpr std::int64_t kBlockK = tuning::kBlockKBytes / static_cast<std::int64_t>(sizeof(T));
template <class T>
inline constexpr std::int64_t kBlockN =
    tuning::kBlockNBytes / static_cast<std::int64_t>(sizeof(T)) / kTileColumns<T> * kTileColumns<T>;
using tuning::kInnerRows;

// Rows a multiple of 1 KB apart share few cache sets, so walking down a column of the block evicts itself.
template <class T>
PYDLX_INLINE bool unfriendly(std::int64_t ld) {
  return ld * static_cast<std::int64_t>(sizeof(T)) % 1024 == 0;
}

// Strips beat register tiles for one row, and for a few when B does not fit the second-level cache.
template <class T>
PYDLX_INLINE bool strips(std::int64_t m, std::int64_t n, std::int64_t k) {
  return m <= kStripRows && n > kTileColumns<T> && k >= 16 &&
         (m == 1 || k * n * static_cast<std::int64_t>(sizeof(T)) > (512 << 10));
}

template <class T>
Plan make_plan(const Gemm& g) {
  Plan p;
  p.kc = g.k;
  if (turned<T>(g)) {
    p.turned = true;
    const std::int64_t blocks = ceil_div(g.k, kBlockK<T>);
    p.kc = ceil_div(ceil_div(g.k, blocks), 8) * 8;
    return p;
  }
  if (g.k >= 2 * kLanesOf<T> && g.b_row == 1 && (g.b_col != 1 || g.n == 1) && g.m <= kInnerRows) {
    p.inner = true;
    p.pack_a = g.a_col != 1;
    return p;
  }
  if (strips<T>(g.m, g.n, g.k) && g.b_col == 1) {
    p.strip = true;
    return p;
  }
  const std::int64_t b_bytes = g.k * g.n * static_cast<std::int64_t>(sizeof(T));
  // Copying a block of B pays when it is used often enough; few rows read it in place.
  p.pack_b = g.b_col != 1 ||
             (g.m > 4 * kTileRows && (b_bytes > (384 << 10) || (b_bytes > (96 << 10) && unfriendly<T>(g.b_row))));
  p.pack_a = g.n > 2 * kTileColumns<T> && g.k > 64 &&
             (g.a_col == 1 ? !p.pack_b && unfriendly<T>(g.a_row) : p.pack_b || g.a_row != 1);
  const std::int64_t limit = p.pack_b ? kBlockK<T> : g.m > kTileRows ? max_of(kBlockK<T>, 1024) : g.k;
  const std::int64_t blocks = ceil_div(g.k, limit > 0 ? limit : 1);
  if (blocks > 1) p.kc = ceil_div(ceil_div(g.k, blocks), 8) * 8;
  return p;
}

// Without memory for packing: plain loops.
template <class T>
void plain_region(const Gemm& g, const T* a, const T* b, T* c, const T* bias, std::int64_t i0, std::int64_t i1,
                  std::int64_t j0, std::int64_t j1) {
  for (std::int64_t i = i0; i < i1; ++i)
    for (std::int64_t j = j0; j < j1; ++j) {
      T s = 0;
      for (std::int64_t p = 0; p < g.k; ++p) s += a[i * g.a_row + p * g.a_col] * b[p * g.b_row + j * g.b_col];
      s *= static_cast<T>(g.alpha);
      T* out = c + i * g.c_row + j;
      if (g.beta != 0) s += static_cast<T>(g.beta) * *out;
      if (bias) s += bias[j];
      *out = g.activation == Activation::relu && s < T(0) ? T(0) : s;
    }
  if (by_rows(g.activation)) activate_region(g.activation, c, g.c_row, 1, i0, i1, j0, j1);
}

// Whether C is written once, in whole cache lines, and too large to be found in a cache afterwards.
template <class T>
PYDLX_INLINE bool writes_past_caches(const Gemm& g, const Plan& plan) {
  constexpr std::int64_t kSize = sizeof(T);
  return plan.kc >= g.k && g.beta == 0 && !by_rows(g.activation) && g.m * g.n * kSize >= kPastCaches &&
         g.c_row * kSize % kCacheLine == 0 && reinterpret_cast<std::uintptr_t>(g.c) % kCacheLine == 0 &&
         g.c_batch * kSize % kCacheLine == 0;
}

// Rows i0..i1 and columns j0..j1 of one matrix of the batch, in register tiles.
template <class T>
void tiles_region(const Gemm& g, const Plan& plan, const T* a0, const T* b0, T* c0, const T* bias, std::int64_t i0,
                  std::int64_t i1, std::int64_t j0, std::int64_t j1) {
  constexpr std::int64_t W = kTileColumns<T>;
  // Blocks of columns are about equally wide: every one of them reads all rows of A.
  const std::int64_t panels = ceil_div(j1 - j0, W),
                     nc_max = plan.pack_b ? ceil_div(panels, ceil_div(panels * W, kBlockN<T>)) * W : j1 - j0;
  const std::int64_t mc_max = plan.pack_a ? min_of(kBlockM, i1 - i0) : i1 - i0;
  const std::int64_t ld = plan.kc + 16;  // packed rows of A: off the cache-set period
  const std::size_t need_b = plan.pack_b ? static_cast<std::size_t>(nc_max * plan.kc) : 0;
  const std::size_t need_a = plan.pack_a ? static_cast<std::size_t>(mc_max * ld) : 0;
  T* packed_b = nullptr;
  if (need_a + need_b) {
    packed_b = static_cast<T*>(thread_scratch(ScratchSlot::gemm, (need_a + need_b) * sizeof(T)));
    if (!packed_b) return plain_region(g, a0, b0, c0, bias, i0, i1, j0, j1);
  }
  T* packed_a = packed_b + need_b;
  const bool past_caches = writes_past_caches<T>(g, plan);
  for (std::int64_t jc = j0; jc < j1; jc += nc_max) {
    const std::int64_t nc = min_of(nc_max, j1 - jc);
    std::int64_t pc = 0;
    do {  // once for k = 0 too: beta, bias and activation still apply
      const std::int64_t kc = min_of(plan.kc, g.k - pc);
      const bool first = pc == 0, last = pc + kc == g.k;
      const T* b = b0 + pc * g.b_row + jc * g.b_col;
      if (plan.pack_b) pack_b<T>(b, g.b_row, g.b_col, kc, nc, packed_b);
      for (std::int64_t ic = i0; ic < i1; ic += mc_max) {
        const std::int64_t mc = min_of(mc_max, i1 - ic), row_tiles = ceil_div(mc, kTileRows),
                           col_tiles = ceil_div(nc, W);
        const T* a = a0 + ic * g.a_row + pc * g.a_col;
        std::int64_t a_row = g.a_row, a_col = g.a_col;
        if (plan.pack_a) {
          pack_rows<T>(a, g.a_row, g.a_col, mc, kc, ld, packed_a);
          a = packed_a;
          a_row = ld;
          a_col = 1;
        }
        const bool fetch_a = plan.pack_b && a_col == 1;
        // Rows are spread evenly over the tiles: 13 become 5 + 4 + 4, never 6 + 6 + 1.
        auto tile = [&](std::int64_t rt, std::int64_t ct) __attribute__((always_inline)) {
          const std::int64_t r0 = mc * rt / row_tiles, r1 = mc * (rt + 1) / row_tiles, j = ct * W;
          // A row of the next tile per panel.
          const bool fetches = fetch_a && ct < kTileRows && r1 + ct < mc;
          const Epilogue<T> e{static_cast<T>(g.alpha),
                              first ? static_cast<T>(g.beta) : T(1),
                              last && bias ? bias + jc + j : nullptr,
                              last && g.activation == Activation::relu,
                              past_caches,
                              fetches ? a + (r1 + ct) * a_row : nullptr};
          run_tile<T>(static_cast<int>(r1 - r0), static_cast<int>(min_of(W, nc - j)), kc, a + r0 * a_row, a_row, a_col,
                      plan.pack_b ? packed_b + j * kc : b + j, plan.pack_b ? W : g.b_row,
                      c0 + (ic + r0) * g.c_row + jc + j, g.c_row, e);
          if (last && by_rows(g.activation))
            activate_region(g.activation, c0, g.c_row, 1, ic + r0, ic + r1, jc + j, jc + min_of(j + W, nc));
        };
        if (plan.pack_b) {  // the rows of A stay in the first-level cache while the panels of B come from the second
          for (std::int64_t rt = 0; rt < row_tiles; ++rt)
            for (std::int64_t ct = 0; ct < col_tiles; ++ct) tile(rt, ct);
        } else {  // B in place: finish with a panel before touching the next
          for (std::int64_t ct = 0; ct < col_tiles; ++ct)
            for (std::int64_t rt = 0; rt < row_tiles; ++rt) tile(rt, ct);
        }
      }
      pc += plan.kc;
    } while (pc < g.k);
  }
  if (past_caches) past_caches_done();
}

// C(i, j) at c[i * c_i + j * c_j] as inner products of contiguous rows of A (row stride lda) and columns of B (stride
// ldb), i < m small.
template <class T, int MR>
void inner_rows(const Gemm& g, const T* a, std::int64_t lda, const T* b, std::int64_t ldb, T* c, std::int64_t c_i,
                std::int64_t c_j, const T* bias, std::int64_t bias_i, std::int64_t bias_j, std::int64_t m,
                std::int64_t j0, std::int64_t j1) {
  constexpr int NR = kLanesOf<T> / MR;
  const auto tile = g.k * g.n * static_cast<std::int64_t>(sizeof(T)) > kFetchBytes ? inner_tile<T, MR, true>
                                                                                   : inner_tile<T, MR, false>;
  for (std::int64_t j = j0; j < j1; j += NR) {
    const T* pb[NR];
    for (int l = 0; l < NR; ++l) pb[l] = b + min_of(j + l, j1 - 1) * ldb;
    for (std::int64_t i = 0; i < m; i += MR) {
      const T* pa[MR];
      for (int l = 0; l < MR; ++l) pa[l] = a + min_of(i + l, m - 1) * lda;
      alignas(64) T sums[kLanesOf<T>];
      tile(g.k, pa, pb, sums);
      for (int r = 0; r < MR && i + r < m; ++r)
        for (int s = 0; s < NR && j + s < j1; ++s) {
          T* out = c + (i + r) * c_i + (j + s) * c_j;
          T v = sums[r * NR + s] * static_cast<T>(g.alpha);
          if (g.beta != 0) v += static_cast<T>(g.beta) * *out;
          if (bias) v += bias[(i + r) * bias_i + (j + s) * bias_j];
          *out = g.activation == Activation::relu && v < T(0) ? T(0) : v;
        }
    }
  }
}

template <class T>
void inner_region(const Gemm& g, const Plan& plan, const T* a, const T* b, T* c, std::int64_t c_i, std::int64_t c_j,
                  const T* bias, std::int64_t bias_i, std::int64_t bias_j, std::int64_t j0, std::int64_t j1) {
  std::int64_t lda = g.a_row;
  if (plan.pack_a) {
    lda = g.k;
    T* packed = static_cast<T*>(thread_scratch(ScratchSlot::gemm, static_cast<std::size_t>(g.m * lda) * sizeof(T)));
    if (!packed) {  // one element after another; same order for any split
      for (std::int64_t i = 0; i < g.m; ++i)
        for (std::int64_t j = j0; j < j1; ++j) {
          T s = 0;
          for (std::int64_t p = 0; p < g.k; ++p) s += a[i * g.a_row + p * g.a_col] * b[p + j * g.b_col];
          T* out = c + i * c_i + j * c_j;
          s = s * static_cast<T>(g.alpha) + (g.beta != 0 ? static_cast<T>(g.beta) * *out : T(0));
          if (bias) s += bias[i * bias_i + j * bias_j];
          *out = g.activation == Activation::relu && s < T(0) ? T(0) : s;
        }
      return;
    }
    pack_rows<T>(a, g.a_row, g.a_col, g.m, g.k, lda, packed);
    a = packed;
  }
  constexpr int L = kLanesOf<T>;
  if (g.m == 1)
    inner_rows<T, 1>(g, a, lda, b, g.b_col, c, c_i, c_j, bias, bias_i, bias_j, g.m, j0, j1);
  else if (g.m == 2 || L == 4)
    inner_rows<T, 2>(g, a, lda, b, g.b_col, c, c_i, c_j, bias, bias_i, bias_j, g.m, j0, j1);
  else if constexpr (L >= 8)
    inner_rows<T, L == 16 ? 4 : 2>(g, a, lda, b, g.b_col, c, c_i, c_j, bias, bias_i, bias_j, g.m, j0, j1);
  else
    inner_rows<T, 1>(g, a, lda, b, g.b_col, c, c_i, c_j, bias, bias_i, bias_j, g.m, j0, j1);
}

// What was chosen and why not inner products, for PYDLX_VERBOSE.
template <class T>
__attribute__((cold, noinline)) void describe_plan(const Gemm& g, const Plan& plan, bool flipped, std::int64_t cuts) {
  if (plan.inner) {
    verbose_note(": inner products along K%s%s", flipped ? ", operands exchanged" : "",
                 plan.pack_a ? ", A packed" : "");
  } else if (plan.strip) {
    verbose_note(": %lld row%s, sums of %d columns in the first-level cache%s", static_cast<long long>(g.m),
                 g.m == 1 ? "" : "s", kStripColumns<T>, flipped ? ", operands exchanged" : "");
  } else if (plan.turned) {
    verbose_note(": %d x %d register tiles of the transposed product, A turned, B in place, K blocks of %lld",
                 kTileRows, kTileColumns<T>, static_cast<long long>(plan.kc));
  } else {
    verbose_note(": %d x %d register tiles, %s, %s, K blocks of %lld; ", kTileRows, kTileColumns<T>,
                 plan.pack_a ? "A packed" : "A in place", plan.pack_b ? "B packed" : "B in place",
                 static_cast<long long>(plan.kc));
    if (g.k < 2 * kLanesOf<T>)
      verbose_note("not inner products: K below %d", 2 * kLanesOf<T>);
    else if (g.b_row != 1 || (g.b_col == 1 && g.n != 1))
      verbose_note("not inner products: columns of B are not contiguous");
    else
      verbose_note("not inner products: more than %d rows", static_cast<int>(kInnerRows));
  }
  verbose_note("; %lld piece%s", static_cast<long long>(g.batch * cuts), g.batch * cuts == 1 ? "" : "s");
}

template <class T>
void gemm_typed(const Gemm& given) {
  if (given.m <= 0 || given.n <= 0 || given.batch <= 0) return;
  if (is_dot<T>(given)) return dot_products<T>(given);
  Gemm g = given;
  std::int64_t c_i = g.c_row, c_j = 1, bias_i = 0, bias_j = 1;
  // A product with few columns is the transposed product with few rows. Inner products store element by element and
  // take any C.
  const bool flip =
      g.m > g.n && g.a_col == 1 && (g.n == 1 || (g.n <= kTileColumns<T> / 8 && g.a_row != 1)) && g.k >= 2 * kLanesOf<T>;
  const bool flip_vector =
      !flip && g.a_row == 1 &&
      ((g.n == 1 && g.m > 1 && g.c_row == 1 && !g.bias) || (g.m > g.n && strips<T>(g.n, g.m, g.k)));
  if (flip || flip_vector) {
    transpose_operands(g, given);
    c_i = 1;
    c_j = given.c_row;
    bias_i = 1;
    bias_j = 0;
    g.c_row = given.m;  // one row: any value
  }
  Plan plan = make_plan<T>(g);
  if (flip && !plan.inner) {  // only when A's rows are contiguous and adjacent: same layout seen both ways
    plan = {};
    plan.inner = true;
    plan.kc = g.k;
    plan.pack_a = g.a_col != 1;
  }

  const bool few = plan.inner || plan.strip || plan.turned;  // all rows at once; only columns are cut
  const std::int64_t unit = plan.inner ? 16 : kTileColumns<T>;
  const Cuts cuts = choose_cuts(g, sizeof(T), 1e6, few ? 1 : ceil_div(g.m, kTileRows), ceil_div(g.n, unit));
  if (verbose_on) [[unlikely]]
    describe_plan<T>(g, plan, flip || flip_vector, cuts.rows * cuts.cols);
  const T* bias = static_cast<const T*>(g.bias);
  parallel_for(g.batch * cuts.rows * cuts.cols, cuts.grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const Piece p = piece_of(cuts, t, few ? g.m : kTileRows, unit, g.m, g.n);
      const T* a = static_cast<const T*>(g.a) + p.batch * g.a_batch;
      const T* b = static_cast<const T*>(g.b) + p.batch * g.b_batch;
      T* c = static_cast<T*>(g.c) + p.batch * g.c_batch;
      if (plan.inner)
        inner_region<T>(g, plan, a, b, c, c_i, c_j, bias, bias_i, bias_j, p.j0, p.j1);
      else if (plan.strip)
        strip_region<T>(g, a, b, c, c_i, c_j, bias, bias_i, bias_j, p.j0, p.j1);
      else if (!plan.turned)
        tiles_region<T>(g, plan, a, b, c, bias, p.i0, p.i1, p.j0, p.j1);
      else if (!turned_region<T>(g, plan.kc, a, b, c, bias, p.j0, p.j1))
        plain_region<T>(g, a, b, c, bias, 0, g.m, p.j0, p.j1);
      if ((plan.inner || plan.strip) && by_rows(g.activation))
        activate_region(g.activation, c, c_i, c_j, 0, g.m, p.j0, p.j1);
    }
  });
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
