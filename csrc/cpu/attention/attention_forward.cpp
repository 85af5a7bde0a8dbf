// Attention in tiles, with memory that grows only linearly with the sequence: scores exist for one block of queries and
// keys at a time and the softmax is corrected as new keys arrive (Milakov and Gimelshein 2018; Dao et al. 2022,
// "FlashAttention").
//
// Blocks are fixed by the shape, and keys are visited in order, so results do not depend on the number of threads.
#include "cpu/attention/attention.h"

namespace pydlx::PYDLX_ISA {
namespace {

using tuning::kForwardKeys;
using tuning::kQueries;

struct Plan {
  std::int64_t keys;  // in a block
  std::int64_t rows;  // queries in a piece
  bool copy_values;   // their rows are not adjacent
};

std::int64_t scratch_floats(const Attention& a, const Plan& p) {
  return p.keys * (a.head_dim + (p.copy_values ? a.value_dim : 0)) + kQueries * (p.keys + kPad) + 2 * p.rows +
         (a.threshold ? p.keys + 2 * kWords : 0);
}

// The softmax of `rows` <= L rows of scores: exponentials replace the scores; `top` and `total` carry the largest score
// and the sum. keep: what earlier results must be multiplied by.
struct Rows {
  const Attention& a;
  const Head& h;
  std::int64_t i, k0, ld;  // number of the first query and key
  std::uint32_t* words;
};
void softmax_rows(const Rows& r, int rows, const Range* range, float* s, float* top, float* total, float* keep) {
  V best[L];
#pragma GCC unroll 16
  for (int l = 0; l < L; ++l) best[l] = splat<float>(-kInf);
  for (int l = 0; l < rows; ++l) {
    float* row = s + l * r.ld;
    const std::int64_t begin = range[l].begin, end = range[l].end;
    mask_row(r.a, r.h, r.i + l, r.k0, begin, end, row);
    V m0 = splat<float>(-kInf), m1 = m0, m2 = m0, m3 = m0;
    std::int64_t j = begin;
    for (; j + 4 * L <= end; j += 4 * L) {
      m0 = vmax<float>(load(row + j), m0);
      m1 = vmax<float>(load(row + j + L), m1);
      m2 = vmax<float>(load(row + j + 2 * L), m2);
      m3 = vmax<float>(load(row + j + 3 * L), m3);
    }
    for (; j < end; j += L) m0 = vmax<float>(load(row + j), m0);
    best[l] = vmax<float>(vmax<float>(m0, m1), vmax<float>(m2, m3));
  }
  const V old = load(top), found = max_each(best), now = found > old ? found : old, none = splat<float>(-kInf);
  const V shift = now == none ? V{} : now;  // nothing allowed yet: every exponential is 0
  alignas(64) float shifts[L];
  store<float>(shifts, shift);
  store<float>(top, now);
  V sums[L];
#pragma GCC unroll 16
  for (int l = 0; l < L; ++l) sums[l] = V{};
  for (int l = 0; l < rows; ++l) {
    float* row = s + l * r.ld;
    const std::int64_t begin = range[l].begin, end = range[l].end;
    const V m = splat<float>(shifts[l]);
    V s0{}, s1{}, s2{}, s3{};
    std::int64_t j = begin;
    for (; j + 4 * L <= end; j += 4 * L) {
      const V e0 = exp2_negative(load(row + j) - m), e1 = exp2_negative(load(row + j + L) - m),
              e2 = exp2_negative(load(row + j + 2 * L) - m), e3 = exp2_negative(load(row + j + 3 * L) - m);
      store<float>(row + j, e0);
      store<float>(row + j + L, e1);
      store<float>(row + j + 2 * L, e2);
      store<float>(row + j + 3 * L, e3);
      s0 += e0;
      s1 += e1;
      s2 += e2;
      s3 += e3;
    }
    for (; j < end; j += L) {
      const V e0 = exp2_negative(load(row + j) - m);
      store<float>(row + j, e0);
      s0 += e0;
    }
    sums[l] = (s0 + s1) + (s2 + s3);
    if (r.a.threshold) {  // dropped after the sum: the softmax itself is whole
      const std::uint32_t* w = random_words(
          r.a, r.h.first + static_cast<std::uint64_t>((r.i + l) * r.a.k_len + r.k0 + begin), end - begin, r.words);
      const float scale = static_cast<float>(r.a.keep_scale);
      for (j = begin; j < end; ++j) row[j] = w[j - begin] >= r.a.threshold ? row[j] * scale : 0.0f;
    }
  }
  const V kept = exp2_negative(old - shift);
  store<float>(keep, kept);
  store<float>(total, load(total) * kept + sum_each<float>(sums));
}

// One head, queries q_begin .. q_end (begin a multiple of kQueries).
void forward_rows(const Attention& a, const Head& h, std::int64_t q_begin, std::int64_t q_end, const Plan& plan,
                  float* scratch) {
  const std::int64_t ld = plan.keys + kPad;
  float* packed = scratch;  // a block of keys, transposed and scaled
  float* copied = packed + plan.keys * a.head_dim;
  float* scores = copied + (plan.copy_values ? plan.keys * a.value_dim : 0);
  float* top = scores + kQueries * ld;
  float* total = top + plan.rows;
  std::uint32_t* words = reinterpret_cast<std::uint32_t*>(total + plan.rows);
  for (std::int64_t i = 0; i < plan.rows; ++i) {
    top[i] = -kInf;
    total[i] = 0;
  }
  const bool guarded = limited(a);
  const float factor = static_cast<float>(a.scale * kLog2E);
  const Range all = seen_keys(a, q_begin, q_end, 0, a.k_len);
  for (std::int64_t k0 = all.begin / plan.keys * plan.keys; k0 < all.end; k0 += plan.keys) {
    const std::int64_t nk = lesser(plan.keys, all.end - k0);
    pack_transposed(h.k + k0 * a.k.row, a.k.row, nk, a.head_dim, factor, packed);
    const float* v = h.v + k0 * a.v.row;
    std::int64_t v_row = a.v.row;
    if (plan.copy_values) {
      copy_rows(v, v_row, nk, a.value_dim, copied);
      v = copied;
      v_row = a.value_dim;
    }
    const bool clean = !guarded || all_finite(v, v_row, nk, a.value_dim);
    for (std::int64_t q0 = q_begin; q0 < q_end; q0 += kQueries) {
      const std::int64_t nq = lesser(kQueries, q_end - q0);
      const Tiles tiles(nq);
      Range tile[kQueries / kTileRows], row[kQueries + L];
      bool any = false;
      for (std::int64_t t = 0; t < tiles.count; ++t) {
        tile[t] = seen_keys(a, q0 + tiles.begin(t), q0 + tiles.end(t), k0, nk);
        tile[t].begin = tile[t].begin / W * W;  // whole panels are computed
        any = any || tile[t].end > 0;
        for (std::int64_t i = tiles.begin(t); i < tiles.end(t); ++i) row[i] = tile[t];
      }
      if (!any) continue;
      const Epilogue<float> plain{1.0f, 0.0f, nullptr, false};
      for (std::int64_t j = 0; j < nk; j += W)  // a panel of keys stays in the first-level cache
        for (std::int64_t t = 0; t < tiles.count; ++t)
          if (tile[t].begin <= j && tile[t].end > j) {
            const std::int64_t r0 = tiles.begin(t);
            run_tile<float>(static_cast<int>(tiles.end(t) - r0), static_cast<int>(lesser(W, tile[t].end - j)),
                            a.head_dim, h.q + (q0 + r0) * a.q.row, a.q.row, 1, packed + j * a.head_dim, W,
                            scores + r0 * ld + j, ld, plain);
          }
      float keep[kQueries];
      const std::int64_t at = q0 - q_begin;
      for (std::int64_t i = 0; i < nq; i += L)
        softmax_rows({a, h, q0 + i, k0, ld, words}, static_cast<int>(lesser(L, nq - i)), row + i, scores + i * ld,
                     top + at + i, total + at + i, keep + i);
      for (std::int64_t t = 0; t < tiles.count; ++t) {
        if (tile[t].end == 0) continue;
        const std::int64_t r0 = tiles.begin(t), r1 = tiles.end(t);
        const bool first = greater(0, q0 + r0 - a.before) >= k0;  // no earlier block held a key of this tile
        if (!first)
          for (std::int64_t i = r0; i < r1; ++i)
            if (keep[i] != 1) {
              float* out = h.out + (q0 + i) * a.out.row;
              for (std::int64_t c = 0; c < a.value_dim; ++c) out[c] *= keep[i];
            }
        const std::int64_t begin = tile[t].begin;
        tile_product(r1 - r0, a.value_dim, tile[t].end - begin, scores + r0 * ld + begin, ld, 1, v + begin * v_row,
                     v_row, h.out + (q0 + r0) * a.out.row, a.out.row, first ? 0.0f : 1.0f, clean);
      }
    }
  }
  for (std::int64_t i = q_begin; i < q_end; ++i) {
    float* out = h.out + i * a.out.row;
    const float sum = total[i - q_begin];
    if (sum == 0) {  // no key allowed (or none at all): zeros
      for (std::int64_t c = 0; c < a.value_dim; ++c) out[c] = 0;
      h.top[i] = -kInf;
      h.inverse[i] = 0;
    } else {
      const float inverse = 1.0f / sum;
      for (std::int64_t c = 0; c < a.value_dim; ++c) out[c] *= inverse;
      h.top[i] = top[i - q_begin];
      h.inverse[i] = inverse;
    }
  }
}

bool forward(const Attention& a) {
  // A head is cut into pieces of whole query blocks; about a million multiplications or more each, but enough of them
  // to share out.
  const std::int64_t heads = a.batch * a.heads, blocks = (a.q_len + kQueries - 1) / kQueries;
  std::int64_t per_piece = blocks;
  while (per_piece > 2 && heads * ((blocks + per_piece - 1) / per_piece) < 4 * num_threads())
    per_piece = (per_piece + 1) / 2;
  const std::int64_t pieces = (blocks + per_piece - 1) / per_piece;
  const double work = 4.0 * static_cast<double>(a.q_len) * static_cast<double>(a.k_len) *
                      static_cast<double>(a.head_dim) / static_cast<double>(pieces);
  const std::int64_t grain = work > 1e6 ? 1 : static_cast<std::int64_t>(1e6 / (work + 1)) + 1;
  const std::int64_t widest = a.head_dim > a.value_dim ? a.head_dim : a.value_dim;
  Plan plan;
  plan.keys = lesser(widest <= 96    ? kForwardKeys
                     : widest <= 192 ? kForwardKeys / 2
                                     : kForwardKeys / 4,
                     greater(whole(a.k_len, W), W));
  plan.rows = per_piece * kQueries;
  plan.copy_values = a.v.row != a.value_dim && a.q_len > kQueries / 2;
  const std::size_t bytes = static_cast<std::size_t>(scratch_floats(a, plan)) * sizeof(float);
  bool failed = false;
  parallel_for(heads * pieces, grain, [&](std::int64_t begin, std::int64_t end) {
    float* scratch = static_cast<float*>(thread_scratch(ScratchSlot::attention, bytes));
    if (!scratch) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t head = t / pieces, q0 = t % pieces * plan.rows;
      const Head h = head_of(a, head / a.heads, head % a.heads);
      forward_rows(a, h, q0, lesser(a.q_len, q0 + plan.rows), plan, scratch);
    }
  });
  return !failed;
}

}  // namespace

void register_attention_forward(KernelTable& t) {
  family<AttentionKernels>(t).forward[static_cast<int>(DType::Float32)] = forward;
}

}  // namespace pydlx::PYDLX_ISA
