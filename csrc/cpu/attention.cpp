// Attention in tiles, with memory that grows only linearly with the sequence: scores exist for one block of queries and
// keys at a time and the softmax is corrected as new keys arrive (Milakov and Gimelshein 2018; Dao et al. 2022,
// "FlashAttention"). The backward pass recomputes the scores from the saved log-sum-exp.
//
// Blocks are fixed by the shape, and keys are visited in order, so results do not depend on the number of threads.
#include "kernels/attention.h"

#include "core/scratch.h"
#include "cpu/gemm/gemm.h"
#include "cpu/gemm/vec.h"

namespace pydlx::PYDLX_ISA {
namespace {

using V = Vector<float>;
constexpr int L = kLanesOf<float>;
constexpr float kInf = __builtin_inff();

// Forward: scores of 48 x 512 (96 KB) and a packed block of keys stay in the second-level cache.
constexpr std::int64_t kQueries = 48, kKeys = 512;
// Backward: two score blocks of 32 KB each.
constexpr std::int64_t kBackQueries = 48, kBackKeys = 128;

PYDLX_INLINE std::int64_t lesser(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// e^x for x <= 0 (and NaN): Cody-Waite reduction and a polynomial of degree 6, 1 ULP; below -87.3 the result is 0.
PYDLX_INLINE V exp_negative(V x) {
  typedef typename VectorOf<float>::index I;
  const V low = splat<float>(-87.3f), magic = splat<float>(12582912.0f);
  const V c = x < low ? low : x;
  const V shifted = c * 1.44269504f + magic;
  const V n = shifted - magic;
  V r = c - n * 0x1.62E400p-1f;
  r = r - n * 0x1.7F7D1Cp-20f;
  V p = splat<float>(1.3888889e-3f);
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const I bits = ((I)shifted - (I)magic + 127) << 23;
  const V y = p * (V)bits;
  return x < low ? V{} : y;
}

PYDLX_INLINE float add_lanes(V v) {
  alignas(64) float x[L];
  store<float>(x, v);
  for (int half = L / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  return x[0];
}
PYDLX_INLINE float max_lanes(V v) {
  alignas(64) float x[L];
  store<float>(x, v);
  float m = x[0];
  for (int i = 1; i < L; ++i) m = x[i] > m ? x[i] : m;
  return m;
}

struct Head {
  const float *q, *k, *v;
  float *out, *lse;
  const char* mask;
};

Head head_of(const Attention& a, std::int64_t b, std::int64_t h) {
  const std::int64_t g = h / (a.heads / a.kv_heads);
  auto at = [](const HeadRows& x, std::int64_t batch, std::int64_t head) {
    return static_cast<float*>(x.data) + batch * x.batch + head * x.head;
  };
  const std::int64_t mask_at = b * a.mask_batch + h * a.mask_head;
  return {at(a.q, b, h),
          at(a.k, b, g),
          at(a.v, b, g),
          at(a.out, b, h),
          static_cast<float*>(a.lse) + (b * a.heads + h) * a.q_len,
          a.mask ? static_cast<const char*>(a.mask) + mask_at * (a.mask_is_bool ? 1 : 4) : nullptr};
}

// Excluded scores of row i, keys k0 .. k0 + n, become -inf, whatever they were; the row is padded with -inf to whole
// vectors.
void mask_row(const Attention& a, const char* mask, std::int64_t i, std::int64_t k0, std::int64_t n, float* s) {
  if (mask) {
    if (a.mask_is_bool) {
      const unsigned char* m = reinterpret_cast<const unsigned char*>(mask) + i * a.mask_row + k0 * a.mask_col;
      if (a.mask_col == 1)
        for (std::int64_t j = 0; j < n; ++j) s[j] = m[j] ? s[j] : -kInf;
      else
        for (std::int64_t j = 0; j < n; ++j) s[j] = m[j * a.mask_col] ? s[j] : -kInf;
    } else {
      const float* m = reinterpret_cast<const float*>(mask) + i * a.mask_row + k0 * a.mask_col;
      if (a.mask_col == 1)
        for (std::int64_t j = 0; j < n; ++j) s[j] = m[j] == -kInf ? -kInf : s[j] + m[j];
      else
        for (std::int64_t j = 0; j < n; ++j) s[j] = m[j * a.mask_col] == -kInf ? -kInf : s[j] + m[j * a.mask_col];
    }
  }
  if (a.causal)
    for (std::int64_t j = i + 1 - k0 > 0 ? i + 1 - k0 : 0; j < n; ++j) s[j] = -kInf;
  for (std::int64_t j = n; j % L; ++j) s[j] = -kInf;
}

bool all_finite(const float* x, std::int64_t row, std::int64_t rows, std::int64_t cols) {
  float bad = 0;  // 0 * x is 0 for finite x and NaN otherwise
  for (std::int64_t r = 0; r < rows; ++r) {
    float part = 0;
    for (std::int64_t c = 0; c < cols; ++c) part += x[r * row + c] * 0.0f;
    bad += part;
  }
  return bad == 0;
}

// C += A B where a zero in A means "absent": infinities and NaN in rows of B that no query may see do not leak. Slow;
// only used when B holds such values.
void add_present(const Block& g) {
  for (std::int64_t i = 0; i < g.m; ++i)
    for (std::int64_t j = 0; j < g.n; ++j) {
      float* c = g.c + i * g.c_row + j;
      float sum = g.beta == 0 ? 0.0f : *c;
      for (std::int64_t p = 0; p < g.k; ++p) {
        const float x = g.a[i * g.a_row + p * g.a_col];
        if (x != 0) sum += x * g.b[p * g.b_row + j];
      }
      *c = sum;
    }
}

// One head, queries q_begin .. q_end (a multiple of kQueries apart).
void forward_rows(const Attention& a, const Head& h, std::int64_t q_begin, std::int64_t q_end, float* scratch) {
  float* packed = scratch;                                          // keys of a block, transposed
  float* scores = packed + packed_columns_f32(kKeys) * a.head_dim;  // kQueries x kKeys
  float* row_max = scores + kQueries * kKeys;                       // q_end - q_begin
  const bool guarded = a.mask || a.causal;
  for (std::int64_t i = q_begin; i < q_end; ++i) {
    row_max[i - q_begin] = -kInf;
    h.lse[i] = 0;  // the running sum until the end
  }
  const std::int64_t k_stop = a.causal ? lesser(a.k_len, q_end) : a.k_len;
  for (std::int64_t k0 = 0; k0 < k_stop; k0 += kKeys) {
    const std::int64_t nk = lesser(kKeys, a.k_len - k0);
    pack_f32(h.k + k0 * a.k.row, 1, a.k.row, a.head_dim, nk, packed);
    const bool clean = !guarded || all_finite(h.v + k0 * a.v.row, a.v.row, nk, a.value_dim);
    for (std::int64_t q0 = q_begin; q0 < q_end; q0 += kQueries) {
      const std::int64_t nq = lesser(kQueries, q_end - q0);
      if (a.causal && k0 > q0 + nq - 1) continue;
      const std::int64_t n = a.causal ? lesser(nk, q0 + nq - k0) : nk;
      Block qk;
      qk.m = nq;
      qk.n = n;
      qk.k = a.head_dim;
      qk.a = h.q + q0 * a.q.row;
      qk.a_row = a.q.row;
      qk.b = packed;
      qk.packed = true;
      qk.c = scores;
      qk.c_row = kKeys;
      qk.alpha = static_cast<float>(a.scale);
      block_f32(qk);
      for (std::int64_t i = 0; i < nq; ++i) {
        float* s = scores + i * kKeys;
        mask_row(a, h.mask, q0 + i, k0, n, s);
        V top = splat<float>(-kInf);
        for (std::int64_t j = 0; j < n; j += L) top = vmax<float>(load(s + j), top);
        float& m = row_max[q0 + i - q_begin];
        const float found = max_lanes(top), now = found > m ? found : m;
        const float shift = now == -kInf ? 0.0f : now;  // nothing allowed yet: every exponential is 0
        V sum0{}, sum1{};
        const V vs = splat<float>(shift);
        std::int64_t j = 0;
        for (; j + L < n; j += 2 * L) {
          const V e0 = exp_negative(load(s + j) - vs), e1 = exp_negative(load(s + j + L) - vs);
          store<float>(s + j, e0);
          store<float>(s + j + L, e1);
          sum0 += e0;
          sum1 += e1;
        }
        if (j < n) {
          const V e0 = exp_negative(load(s + j) - vs);
          store<float>(s + j, e0);
          sum0 += e0;
        }
        float& l = h.lse[q0 + i];
        float* out = h.out + (q0 + i) * a.out.row;
        if (k0 > 0 && m != now) {
          const float keep = m == -kInf ? 0.0f : exp_negative(splat<float>(m - now))[0];
          l *= keep;
          for (std::int64_t c = 0; c < a.value_dim; ++c) out[c] *= keep;
        }
        l += add_lanes(sum0 + sum1);
        m = now;
      }
      Block pv;
      pv.m = nq;
      pv.n = a.value_dim;
      pv.k = n;
      pv.a = scores;
      pv.a_row = kKeys;
      pv.b = h.v + k0 * a.v.row;
      pv.b_row = a.v.row;
      pv.c = h.out + q0 * a.out.row;
      pv.c_row = a.out.row;
      pv.beta = k0 > 0 ? 1.0f : 0.0f;
      clean ? block_f32(pv) : add_present(pv);
    }
  }
  for (std::int64_t i = q_begin; i < q_end; ++i) {
    float* out = h.out + i * a.out.row;
    const float l = h.lse[i];
    if (l == 0) {  // no key allowed (or none at all): zeros
      for (std::int64_t c = 0; c < a.value_dim; ++c) out[c] = 0;
      h.lse[i] = -kInf;
    } else {
      const float inverse = 1.0f / l;
      for (std::int64_t c = 0; c < a.value_dim; ++c) out[c] *= inverse;
      h.lse[i] = row_max[i - q_begin] + __builtin_logf(l);
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
  const std::size_t floats =
      static_cast<std::size_t>(packed_columns_f32(kKeys) * a.head_dim + kQueries * kKeys + per_piece * kQueries + L);
  bool failed = false;
  parallel_for(heads * pieces, grain, [&](std::int64_t begin, std::int64_t end) {
    float* scratch = static_cast<float*>(thread_scratch(ScratchSlot::attention, floats * sizeof(float)));
    if (!scratch) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t head = t / pieces, q0 = t % pieces * per_piece * kQueries;
      const Head h = head_of(a, head / a.heads, head % a.heads);
      forward_rows(a, h, q0, lesser(a.q_len, q0 + per_piece * kQueries), scratch);
    }
  });
  return !failed;
}

// One key/value head: dk and dv of its keys, and dq of all queries of its group.
void backward_head(const AttentionBackward& w, std::int64_t batch, std::int64_t kv_head, float* scratch) {
  const Attention& a = w.forward;
  const std::int64_t group = a.heads / a.kv_heads, width = packed_columns_f32(kBackKeys);
  float* packed_k = scratch;
  float* packed_v = packed_k + width * a.head_dim;
  float* p = packed_v + width * a.value_dim;
  float* ds = p + kBackQueries * kBackKeys;
  float* delta = ds + kBackQueries * kBackKeys;  // group x q_len: rowsum(dout * out)
  const std::int64_t kv = batch * a.kv_heads + kv_head;
  float* dk = static_cast<float*>(w.dk) + kv * a.k_len * a.head_dim;
  float* dv = static_cast<float*>(w.dv) + kv * a.k_len * a.value_dim;
  std::memset(dk, 0, static_cast<std::size_t>(a.k_len * a.head_dim) * sizeof(float));
  std::memset(dv, 0, static_cast<std::size_t>(a.k_len * a.value_dim) * sizeof(float));
  auto dout_of = [&](std::int64_t head) {
    return static_cast<const float*>(w.dout.data) + batch * w.dout.batch + head * w.dout.head;
  };
  for (std::int64_t g = 0; g < group; ++g) {
    const std::int64_t head = kv_head * group + g;
    const Head h = head_of(a, batch, head);
    const float* dout = dout_of(head);
    std::memset(static_cast<float*>(w.dq) + (batch * a.heads + head) * a.q_len * a.head_dim, 0,
                static_cast<std::size_t>(a.q_len * a.head_dim) * sizeof(float));
    for (std::int64_t i = 0; i < a.q_len; ++i) {
      const float *o = h.out + i * a.out.row, *d = dout + i * w.dout.row;
      V sum{};
      std::int64_t c = 0;
      for (; c + L <= a.value_dim; c += L) sum += load(o + c) * load(d + c);
      float rest = add_lanes(sum);
      for (; c < a.value_dim; ++c) rest += o[c] * d[c];
      delta[g * a.q_len + i] = rest;
    }
  }
  const bool guarded = a.mask || a.causal;
  const V scale = splat<float>(static_cast<float>(a.scale));
  for (std::int64_t k0 = 0; k0 < a.k_len; k0 += kBackKeys) {
    const Head kh = head_of(a, batch, kv_head * group);
    const std::int64_t nk = lesser(kBackKeys, a.k_len - k0);
    const float *k = kh.k + k0 * a.k.row, *v = kh.v + k0 * a.v.row;
    pack_f32(k, 1, a.k.row, a.head_dim, nk, packed_k);
    pack_f32(v, 1, a.v.row, a.value_dim, nk, packed_v);
    const bool clean = !guarded || all_finite(k, a.k.row, nk, a.head_dim);
    for (std::int64_t g = 0; g < group; ++g) {
      const std::int64_t head = kv_head * group + g;
      const Head h = head_of(a, batch, head);
      const float* dout = dout_of(head);
      float* dq = static_cast<float*>(w.dq) + (batch * a.heads + head) * a.q_len * a.head_dim;
      const std::int64_t q_first = a.causal ? k0 / kBackQueries * kBackQueries : 0;
      for (std::int64_t q0 = q_first; q0 < a.q_len; q0 += kBackQueries) {
        const std::int64_t nq = lesser(kBackQueries, a.q_len - q0);
        const std::int64_t n = a.causal ? lesser(nk, q0 + nq - k0) : nk;
        if (n <= 0) continue;
        Block b;
        b.m = nq;
        b.n = n;
        b.k = a.head_dim;
        b.a = h.q + q0 * a.q.row;
        b.a_row = a.q.row;
        b.b = packed_k;
        b.packed = true;
        b.c = p;
        b.c_row = kBackKeys;
        b.alpha = static_cast<float>(a.scale);
        block_f32(b);
        b.k = a.value_dim;
        b.a = dout + q0 * w.dout.row;
        b.a_row = w.dout.row;
        b.b = packed_v;
        b.c = ds;
        b.alpha = 1;
        block_f32(b);
        for (std::int64_t i = 0; i < nq; ++i) {
          float *s = p + i * kBackKeys, *d = ds + i * kBackKeys;
          mask_row(a, h.mask, q0 + i, k0, n, s);
          const float lse = h.lse[q0 + i];
          const V shift = splat<float>(lse == -kInf ? 0.0f : lse), minus = splat<float>(delta[g * a.q_len + q0 + i]);
          for (std::int64_t j = 0; j < n; j += L) {
            const V x = load(s + j) - shift;
            const V e = exp_negative(x > V{} ? V{} : x);  // rounding may lift a score above the log-sum-exp by an ULP
            store<float>(s + j, e);
            const V t = e * (load(d + j) - minus) * scale;
            store<float>(d + j, e == V{} ? V{} : t);
          }
        }
        // dv += p^T dout, dk += ds^T q, dq += ds k
        Block t;
        t.m = n;
        t.n = a.value_dim;
        t.k = nq;
        t.a = p;
        t.a_row = 1;
        t.a_col = kBackKeys;
        t.b = dout + q0 * w.dout.row;
        t.b_row = w.dout.row;
        t.c = dv + k0 * a.value_dim;
        t.c_row = a.value_dim;
        t.beta = 1;
        block_f32(t);
        t.n = a.head_dim;
        t.a = ds;
        t.b = h.q + q0 * a.q.row;
        t.b_row = a.q.row;
        t.c = dk + k0 * a.head_dim;
        t.c_row = a.head_dim;
        block_f32(t);
        t.m = nq;
        t.k = n;
        t.a_row = kBackKeys;
        t.a_col = 1;
        t.b = k;
        t.b_row = a.k.row;
        t.c = dq + q0 * a.head_dim;
        clean ? block_f32(t) : add_present(t);
      }
    }
  }
}

bool backward(const AttentionBackward& w) {
  const Attention& a = w.forward;
  const std::int64_t width = packed_columns_f32(kBackKeys);
  const std::size_t floats = static_cast<std::size_t>(
      width * (a.head_dim + a.value_dim) + 2 * kBackQueries * kBackKeys + a.heads / a.kv_heads * a.q_len + L);
  bool failed = false;
  parallel_for(a.batch * a.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    float* scratch = static_cast<float*>(thread_scratch(ScratchSlot::attention, floats * sizeof(float)));
    if (!scratch) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    for (std::int64_t t = begin; t < end; ++t) backward_head(w, t / a.kv_heads, t % a.kv_heads, scratch);
  });
  return !failed;
}

}  // namespace

void register_attention(KernelTable& t) {
  auto& k = family<AttentionKernels>(t);
  k.forward[static_cast<int>(DType::Float32)] = forward;
  k.backward[static_cast<int>(DType::Float32)] = backward;
}

}  // namespace pydlx::PYDLX_ISA
