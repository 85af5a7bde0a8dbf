// What both passes of attention share: one head's operands, which keys a block of queries sees, masks on a row of
// scores, dropout bits and the exponential.
//
// Scores are kept in units of log2(e), so that the softmax needs powers of two only: the packed keys are multiplied by
// scale * log2(e).
#pragma once
#include "core/scratch.h"
#include "cpu/gemm/pack.h"
#include "cpu/random/stream.h"
#include "kernels/attention.h"

namespace pydlx::PYDLX_ISA {
namespace {

using V = Vector<float>;
constexpr int L = kLanesOf<float>;
constexpr std::int64_t W = kTileColumns<float>;
constexpr float kInf = __builtin_inff();
constexpr double kLog2E = 1.4426950408889634074;
constexpr std::int64_t kPad = 16;  // rows of scores a multiple of 1 KB apart would share cache sets

PYDLX_INLINE std::int64_t lesser(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
PYDLX_INLINE std::int64_t greater(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
PYDLX_INLINE std::int64_t whole(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }

// 2^t for t <= 0 (and NaN): t = n + f with |f| <= 1/2, and the minimax polynomial of degree 5 for 2^f with relative
// error 9e-8 and value 1 at 0. Below -126 the result is 0.
PYDLX_INLINE V exp2_negative(V t) {
#if defined(PYDLX_ISA_avx512)
  const V n = (V)_mm512_maskz_roundscale_ps(0xffff, (__m512)t, 0), f = t - n;
#else
  typedef typename VectorOf<float>::index I;
  const V low = splat<float>(-126.0f), magic = splat<float>(12582912.0f);
  const V c = t < low ? low : t, shifted = c + magic, n = shifted - magic, f = c - n;
#endif
  V p = splat<float>(0x1.5bba12p-10f);
  p = p * f + 0x1.3cea88p-7f;
  p = p * f + 0x1.c6b752p-5f;
  p = p * f + 0x1.ebf9bcp-3f;
  p = p * f + 0x1.62e42ap-1f;
  p = p * f + 1.0f;
#if defined(PYDLX_ISA_avx512)
  const __mmask16 keep = _mm512_cmp_ps_mask((__m512)t, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  return (V)_mm512_maskz_scalef_ps(keep, (__m512)p, (__m512)n);
#else
  const I bits = ((I)shifted - (I)magic + 127) << 23;
  const V y = p * (V)bits;
  return t < low ? V{} : y;
#endif
}

// Lane i of the result is the largest lane of r[i].
PYDLX_INLINE V max_each(V (&r)[L]) {
#pragma GCC unroll 4
  for (int half = L / 2; half >= 1; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i)
      r[i] = vmax<float>(interleave<float, 0>(r[i], r[i + half]), interleave<float, 1>(r[i], r[i + half]));
  return r[0];
}

PYDLX_INLINE float add_lanes(V v) {
  alignas(64) float x[L];
  store<float>(x, v);
  for (int half = L / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  return x[0];
}

template <class T>
PYDLX_INLINE float* rows_at(const HeadRows& x, T batch, T head) {
  return static_cast<float*>(x.data) + batch * x.batch + head * x.head;
}

struct Head {
  const float *q, *k, *v;
  float *out, *top, *inverse;
  const char* mask;
  float slope;          // in units of log2(e)
  std::uint64_t first;  // number of its first weight, for dropout
};

PYDLX_INLINE Head head_of(const Attention& a, std::int64_t b, std::int64_t h) {
  const std::int64_t g = h / (a.heads / a.kv_heads), mask_at = b * a.mask_batch + h * a.mask_head;
  Head r;
  r.q = rows_at(a.q, b, h);
  r.k = rows_at(a.k, b, g);
  r.v = rows_at(a.v, b, g);
  r.out = rows_at(a.out, b, h);
  r.top = static_cast<float*>(a.top) + (b * a.heads + h) * a.q_len;
  r.inverse = static_cast<float*>(a.inverse) + (b * a.heads + h) * a.q_len;
  r.mask = a.mask ? static_cast<const char*>(a.mask) + mask_at * (a.mask_is_bool ? 1 : 4) : nullptr;
  r.slope = a.slopes
                ? static_cast<const float*>(a.slopes)[b * a.slope_batch + h * a.slope_head] * static_cast<float>(kLog2E)
                : 0.0f;
  r.first = static_cast<std::uint64_t>(b * a.heads + h) * static_cast<std::uint64_t>(a.q_len) *
            static_cast<std::uint64_t>(a.k_len);
  return r;
}

struct Range {
  std::int64_t begin, end;
};

// Keys k0 .. k0 + nk, counted from k0, that any of the queries q0 .. q1 sees.
PYDLX_INLINE Range seen_keys(const Attention& a, std::int64_t q0, std::int64_t q1, std::int64_t k0, std::int64_t nk) {
  const std::int64_t begin = greater(0, q0 - a.before - k0), end = lesser(nk, q1 + a.after - k0);
  return end > begin ? Range{begin, end} : Range{0, 0};
}
// Queries q0 .. q0 + nq, counted from q0, that see any of the keys k0 .. k1.
PYDLX_INLINE Range seeing_queries(const Attention& a, std::int64_t k0, std::int64_t k1, std::int64_t q0,
                                  std::int64_t nq) {
  const std::int64_t begin = greater(0, k0 - a.after - q0), end = lesser(nq, k1 + a.before - q0);
  return end > begin ? Range{begin, end} : Range{0, 0};
}

PYDLX_INLINE bool limited(const Attention& a) {
  return a.mask || a.before < kUnlimitedKeys || a.after < kUnlimitedKeys;
}

// A score with an additive mask; numbers near the largest float are not brought to units of log2(e), where they would
// become infinite.
PYDLX_INLINE float biased(float score, float bias) {
  const float scaled = bias < -2e38f || bias > 2e38f ? bias : bias * static_cast<float>(kLog2E);
  return bias == -kInf ? -kInf : score + scaled;
}

// Bias, and -inf for what query i must not see, in the scores s[begin .. end) of keys k0 + begin ...; up to the next
// whole vector the row is padded with -inf. Excluded scores are replaced whatever they were.
inline void mask_row(const Attention& a, const Head& h, std::int64_t i, std::int64_t k0, std::int64_t begin,
                     std::int64_t end, float* s) {
  if (h.slope != 0)
    for (std::int64_t j = begin; j < end; ++j) {
      const int distance = static_cast<int>(k0 + j - i);
      s[j] -= h.slope * static_cast<float>(distance < 0 ? -distance : distance);
    }
  if (h.mask) {
    if (a.mask_is_bool) {
      const unsigned char* m = reinterpret_cast<const unsigned char*>(h.mask) + i * a.mask_row + k0 * a.mask_col;
      if (a.mask_col == 1)
        for (std::int64_t j = begin; j < end; ++j) s[j] = m[j] ? s[j] : -kInf;
      else
        for (std::int64_t j = begin; j < end; ++j) s[j] = m[j * a.mask_col] ? s[j] : -kInf;
    } else {
      const float* m = reinterpret_cast<const float*>(h.mask) + i * a.mask_row + k0 * a.mask_col;
      if (a.mask_col == 1)
        for (std::int64_t j = begin; j < end; ++j) s[j] = biased(s[j], m[j]);
      else
        for (std::int64_t j = begin; j < end; ++j) s[j] = biased(s[j], m[j * a.mask_col]);
    }
  }
  const Range own = seen_keys(a, i, i + 1, k0, end);
  if (own.end <= begin) {
    for (std::int64_t j = begin; j < end; ++j) s[j] = -kInf;
  } else {
    for (std::int64_t j = begin; j < own.begin; ++j) s[j] = -kInf;
    for (std::int64_t j = own.end; j < end; ++j) s[j] = -kInf;
  }
  for (std::int64_t j = end; j % L; ++j) s[j] = -kInf;
}

// Words of the random stream for weights first .. first + n; `words` holds n + 64 + 64.
inline const std::uint32_t* random_words(const Attention& a, std::uint64_t first, std::int64_t n,
                                         std::uint32_t* words) {
  const std::int64_t skip = static_cast<std::int64_t>(first % 4);
  for (std::int64_t done = 0; done < skip + n; done += kWords)
    random_bits(a.seed, a.offset + first / 4 + static_cast<std::uint64_t>(done / 4),
                *reinterpret_cast<std::uint32_t (*)[kWords]>(words + done));
  return words + skip;
}

inline bool all_finite(const float* x, std::int64_t row, std::int64_t rows, std::int64_t cols) {
  V bad{};  // 0 * x is 0 for finite x and NaN otherwise
  float rest = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* p = x + r * row;
    std::int64_t c = 0;
    for (; c + L <= cols; c += L) bad += load(p + c) * 0.0f;
    for (; c < cols; ++c) rest += p[c] * 0.0f;
  }
  return add_lanes(bad) + rest == 0;
}

inline void copy_rows(const float* x, std::int64_t row, std::int64_t rows, std::int64_t cols, float* out) {
  for (std::int64_t r = 0; r < rows; ++r)
    std::memcpy(out + r * cols, x + r * row, static_cast<std::size_t>(cols) * sizeof(float));
}

// Keys (or values) as panels of columns, each [features][W], times `factor`.
inline void pack_transposed(const float* x, std::int64_t row, std::int64_t rows, std::int64_t features, float factor,
                            float* out) {
  pack_b<float>(x, 1, row, features, rows, out);
  if (factor == 1) return;
  const std::int64_t n = whole(rows, W) * features;
  for (std::int64_t i = 0; i < n; i += L) store<float>(out + i, load(out + i) * factor);
}

// The rows of a block in register tiles of almost equal height.
struct Tiles {
  std::int64_t rows, count;
  PYDLX_INLINE explicit Tiles(std::int64_t n) : rows(n), count((n + kTileRows - 1) / kTileRows) {}
  PYDLX_INLINE std::int64_t begin(std::int64_t t) const { return rows * t / count; }
  PYDLX_INLINE std::int64_t end(std::int64_t t) const { return rows * (t + 1) / count; }
};

// C = A B + beta C for one tile's rows and any number of columns; B as rows. In A, a zero means "absent" unless
// `clean`: infinities and NaN in rows of B that no query may see do not leak (slow, and only used when B holds such
// values).
inline void tile_product(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t a_row,
                         std::int64_t a_col, const float* b, std::int64_t b_row, float* c, std::int64_t c_row,
                         float beta, bool clean) {
  if (!clean) {
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        float sum = beta == 0 ? 0.0f : c[i * c_row + j];
        for (std::int64_t p = 0; p < k; ++p) {
          const float x = a[i * a_row + p * a_col];
          if (x != 0) sum += x * b[p * b_row + j];
        }
        c[i * c_row + j] = sum;
      }
    return;
  }
  const Epilogue<float> e{1.0f, beta, nullptr, false};
  for (std::int64_t j = 0; j < n; j += W)
    run_tile<float>(static_cast<int>(m), static_cast<int>(lesser(W, n - j)), k, a, a_row, a_col, b + j, b_row, c + j,
                    c_row, e);
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
