// Gradients of attention. The scores are computed again, block by block, from the largest score and the sum of
// exponentials of each row that the forward pass saved (Dao et al. 2022, "FlashAttention", algorithm 4):
//   P = softmax, D = rowsum(dout * out), dV = P^T dout, dS = P * (dout V^T - D) scale, dQ = dS K, dK = dS^T Q.
// With dropout, P in dV and dout V^T carry the mask; D stays as it is.
#include "cpu/attention/attention.h"

namespace pydlx::PYDLX_ISA {
namespace {

using tuning::kQueries;
constexpr std::int64_t kLongest = tuning::kBackwardKeys, kStride = kLongest + kPad;

// Keys in a block: whole panels, and no short block at the end (197 keys are one block).
std::int64_t block_keys(std::int64_t k_len) {
  const std::int64_t blocks = greater(1, (k_len + kLongest - 1) / kLongest);
  return greater(W, whole((k_len + blocks - 1) / blocks, W));
}

struct Scratch {
  float *keys_t, *values_t;  // transposed panels; keys scaled
  float *keys, *q, *dout;    // copies of rows that are not adjacent, or null
  float *p, *ds;             // kQueries x kStride
  float* delta;              // group x q_len: rowsum(dout * out)
  std::uint32_t* words;
};

std::int64_t divide(const AttentionBackward& w, float* at, Scratch* s) {
  const Attention& a = w.forward;
  std::int64_t used = 0;
  const std::int64_t block = block_keys(a.k_len);
  auto take = [&](float*& pointer, std::int64_t n, bool needed = true) {
    pointer = at && needed ? at + used : nullptr;
    used += needed ? whole(n, 16) : 0;
  };
  float* words = nullptr;
  take(s->keys_t, block * a.head_dim);
  take(s->values_t, block * a.value_dim);
  take(s->keys, block * a.head_dim, a.k.row != a.head_dim);
  take(s->q, kQueries * a.head_dim, a.q.row != a.head_dim);
  take(s->dout, kQueries * a.value_dim, w.dout.row != a.value_dim);
  take(s->p, kQueries * kStride);
  take(s->ds, kQueries * kStride);
  take(s->delta, a.heads / a.kv_heads * a.q_len);
  take(words, block + 2 * kWords, a.threshold != 0);
  s->words = reinterpret_cast<std::uint32_t*>(words);
  return used;
}

void clear_rows(float* x, std::int64_t row, std::int64_t rows, std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; ++r) std::memset(x + r * row, 0, static_cast<std::size_t>(cols) * sizeof(float));
}

float dot(const float* x, const float* y, std::int64_t n) {
  V sum{};
  std::int64_t c = 0;
  for (; c + L <= n; c += L) sum += load(x + c) * load(y + c);
  float rest = add_lanes(sum);
  for (; c < n; ++c) rest += x[c] * y[c];
  return rest;
}

// Row i of a block of nk keys from k0: scores s and products dout V^T in d become P (with dropout) and dS. Outside the
// keys that were computed both are zero. dmask: this row's gradient of the mask, or null.
PYDLX_INLINE void weights_row(const Attention& a, const Head& h, std::int64_t i, std::int64_t k0, std::int64_t nk,
                              Range seen, float delta, float* s, float* d, float* dmask, std::uint32_t* words) {
  const std::int64_t begin = seen.begin, end = seen.end;
  const V none{};
  for (std::int64_t j = 0; j < begin; j += L) {
    store<float>(s + j, none);
    store<float>(d + j, none);
  }
  mask_row(a, h, i, k0, begin, end, s);
  const float top = h.top[i];
  const V shift = splat<float>(top == -kInf ? 0.0f : top), inverse = splat<float>(h.inverse[i]),
          minus = splat<float>(delta), scale = splat<float>(static_cast<float>(a.scale));
  if (!a.threshold) {
    std::int64_t j = begin;
    for (; j < end; j += L) {
      const V e = exp2_negative(load(s + j) - shift) * inverse;
      // What stands behind the mask does not matter, whatever it is.
      const V t = e == none ? none : e * (load(d + j) - minus);
      store<float>(s + j, e);
      store<float>(d + j, t * scale);
      if (dmask) store_count(dmask + j, t, static_cast<int>(lesser(L, end - j)));
    }
    for (; j < nk; j += L) {
      store<float>(s + j, none);
      store<float>(d + j, none);
    }
    return;
  }
  const std::uint32_t* w =
      random_words(a, h.first + static_cast<std::uint64_t>(i * a.k_len + k0 + begin), end - begin, words);
  const float keep = static_cast<float>(a.keep_scale);
  std::int64_t j = begin;
  for (; j < end; j += L) {
    const V e = exp2_negative(load(s + j) - shift) * inverse;
    store<float>(s + j, e);
  }
  for (std::int64_t c = begin; c < end; ++c) {
    const bool kept = w[c - begin] >= a.threshold;
    const float e = s[c], dp = kept ? d[c] * keep : 0.0f, t = e == 0 ? 0.0f : e * (dp - delta);
    s[c] = kept ? e * keep : 0.0f;
    d[c] = t * static_cast<float>(a.scale);
    if (dmask) dmask[c] = t;
  }
  for (std::int64_t c = end; c < j; ++c) d[c] = 0;
  for (; j < nk; j += L) {
    store<float>(s + j, none);
    store<float>(d + j, none);
  }
}

// Keys k_begin .. k_end of one key/value head: their dk and dv, and what they add to the dq of the head's group.
void backward_keys(const AttentionBackward& w, std::int64_t batch, std::int64_t kv_head, std::int64_t k_begin,
                   std::int64_t k_end, std::int64_t slice, float* scratch) {
  const Attention& a = w.forward;
  const std::int64_t group = a.heads / a.kv_heads;
  Scratch buffers;
  const std::int64_t block = block_keys(a.k_len);
  divide(w, scratch, &buffers);
  HeadRows dq_rows = w.dq;
  if (w.slices > 1)
    dq_rows = {static_cast<float*>(w.dq_slices) + slice * a.batch * a.heads * a.q_len * a.head_dim,
               a.heads * a.q_len * a.head_dim, a.q_len * a.head_dim, a.head_dim};
  float *dk = rows_at(w.dk, batch, kv_head), *dv = rows_at(w.dv, batch, kv_head);
  clear_rows(dk + k_begin * w.dk.row, w.dk.row, k_end - k_begin, a.head_dim);
  clear_rows(dv + k_begin * w.dv.row, w.dv.row, k_end - k_begin, a.value_dim);
  for (std::int64_t g = 0; g < group; ++g) {
    const std::int64_t head = kv_head * group + g;
    const Head h = head_of(a, batch, head);
    const float* dout = rows_at(w.dout, batch, head);
    clear_rows(rows_at(dq_rows, batch, head), dq_rows.row, a.q_len, a.head_dim);
    for (std::int64_t i = 0; i < a.q_len; ++i)
      buffers.delta[g * a.q_len + i] = dot(h.out + i * a.out.row, dout + i * w.dout.row, a.value_dim);
  }
  const bool guarded = limited(a);
  const float factor = static_cast<float>(a.scale * kLog2E);
  const Epilogue<float> plain{1.0f, 0.0f, nullptr, false};
  const Head kh = head_of(a, batch, kv_head * group);
  for (std::int64_t k0 = k_begin; k0 < k_end; k0 += block) {
    const std::int64_t nk = lesser(block, k_end - k0);
    const float *k = kh.k + k0 * a.k.row, *v = kh.v + k0 * a.v.row;
    std::int64_t k_row = a.k.row;
    pack_transposed(k, a.k.row, nk, a.head_dim, factor, buffers.keys_t);
    pack_transposed(v, a.v.row, nk, a.value_dim, 1, buffers.values_t);
    if (buffers.keys) {
      copy_rows(k, k_row, nk, a.head_dim, buffers.keys);
      k = buffers.keys;
      k_row = a.head_dim;
    }
    const bool clean_keys = !guarded || all_finite(k, k_row, nk, a.head_dim);
    const Range some = seeing_queries(a, k0, k0 + nk, 0, a.q_len);
    for (std::int64_t g = 0; g < group; ++g) {
      const std::int64_t head = kv_head * group + g;
      const Head h = head_of(a, batch, head);
      float *dq = rows_at(dq_rows, batch, head),
            *dmask =
                w.dmask ? static_cast<float*>(w.dmask) + (batch * a.heads + head) * a.q_len * a.k_len + k0 : nullptr;
      for (std::int64_t q0 = some.begin / kQueries * kQueries; q0 < some.end; q0 += kQueries) {
        const std::int64_t nq = lesser(kQueries, a.q_len - q0);
        const float *q = h.q + q0 * a.q.row, *dout = rows_at(w.dout, batch, head) + q0 * w.dout.row;
        std::int64_t q_row = a.q.row, dout_row = w.dout.row;
        if (buffers.q) {
          copy_rows(q, q_row, nq, a.head_dim, buffers.q);
          q = buffers.q;
          q_row = a.head_dim;
        }
        if (buffers.dout) {
          copy_rows(dout, dout_row, nq, a.value_dim, buffers.dout);
          dout = buffers.dout;
          dout_row = a.value_dim;
        }
        const bool clean_queries = !guarded || all_finite(q, q_row, nq, a.head_dim);
        const Tiles rows(nq), keys(nk);
        Range tile[kQueries / kTileRows];
        for (std::int64_t t = 0; t < rows.count; ++t) {
          tile[t] = seen_keys(a, q0 + rows.begin(t), q0 + rows.end(t), k0, nk);
          tile[t].begin = tile[t].begin / W * W;
        }
        for (std::int64_t j = 0; j < nk; j += W)
          for (std::int64_t t = 0; t < rows.count; ++t)
            if (tile[t].begin <= j && tile[t].end > j) {
              const std::int64_t r0 = rows.begin(t);
              const int height = static_cast<int>(rows.end(t) - r0),
                        width = static_cast<int>(lesser(W, tile[t].end - j));
              run_tile<float>(height, width, a.head_dim, q + r0 * q_row, q_row, 1, buffers.keys_t + j * a.head_dim, W,
                              buffers.p + r0 * kStride + j, kStride, plain);
              run_tile<float>(height, width, a.value_dim, dout + r0 * dout_row, dout_row, 1,
                              buffers.values_t + j * a.value_dim, W, buffers.ds + r0 * kStride + j, kStride, plain);
            }
        for (std::int64_t t = 0; t < rows.count; ++t)
          for (std::int64_t i = rows.begin(t); i < rows.end(t); ++i)
            weights_row(a, h, q0 + i, k0, nk, tile[t], buffers.delta[g * a.q_len + q0 + i], buffers.p + i * kStride,
                        buffers.ds + i * kStride, dmask ? dmask + (q0 + i) * a.k_len : nullptr, buffers.words);
        for (std::int64_t t = 0; t < keys.count; ++t) {
          const std::int64_t c0 = keys.begin(t), c1 = keys.end(t);
          const Range r = seeing_queries(a, k0 + c0, k0 + c1, q0, nq);
          if (r.end == 0) continue;
          tile_product(c1 - c0, a.value_dim, r.end - r.begin, buffers.p + r.begin * kStride + c0, 1, kStride,
                       dout + r.begin * dout_row, dout_row, dv + (k0 + c0) * w.dv.row, w.dv.row, 1.0f, true);
          tile_product(c1 - c0, a.head_dim, r.end - r.begin, buffers.ds + r.begin * kStride + c0, 1, kStride,
                       q + r.begin * q_row, q_row, dk + (k0 + c0) * w.dk.row, w.dk.row, 1.0f, clean_queries);
        }
        for (std::int64_t t = 0; t < rows.count; ++t) {
          const std::int64_t r0 = rows.begin(t), begin = tile[t].begin;
          if (tile[t].end == 0) continue;
          tile_product(rows.end(t) - r0, a.head_dim, tile[t].end - begin, buffers.ds + r0 * kStride + begin, kStride, 1,
                       k + begin * k_row, k_row, dq + (q0 + r0) * dq_rows.row, dq_rows.row, 1.0f, clean_keys);
        }
      }
    }
  }
}

// dq of one head: its slices added in order.
void add_slices(const AttentionBackward& w, std::int64_t batch, std::int64_t head) {
  const Attention& a = w.forward;
  const std::int64_t n = a.q_len * a.head_dim;
  const float* first = static_cast<const float*>(w.dq_slices) + (batch * a.heads + head) * n;
  for (std::int64_t i = 0; i < a.q_len; ++i) {
    float* out = rows_at(w.dq, batch, head) + i * w.dq.row;
    for (std::int64_t c = 0; c < a.head_dim; ++c) out[c] = first[i * a.head_dim + c];
    for (std::int64_t s = 1; s < w.slices; ++s) {
      const float* part = first + s * a.batch * a.heads * n + i * a.head_dim;
      for (std::int64_t c = 0; c < a.head_dim; ++c) out[c] += part[c];
    }
  }
}

bool backward(const AttentionBackward& w) {
  const Attention& a = w.forward;
  Scratch unused;
  const std::size_t bytes = static_cast<std::size_t>(divide(w, nullptr, &unused)) * sizeof(float);
  const std::int64_t heads = a.batch * a.kv_heads,
                     length = whole((a.k_len + w.slices - 1) / w.slices, block_keys(a.k_len));  // of a slice
  bool failed = false;
  parallel_for(heads * w.slices, 1, [&](std::int64_t begin, std::int64_t end) {
    float* scratch = static_cast<float*>(thread_scratch(ScratchSlot::attention, bytes));
    if (!scratch) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t head = t / w.slices, slice = t % w.slices, k0 = lesser(a.k_len, slice * length);
      backward_keys(w, head / a.kv_heads, head % a.kv_heads, k0, lesser(a.k_len, k0 + length), slice, scratch);
    }
  });
  if (w.slices > 1 && !failed)
    parallel_for(a.batch * a.heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) add_slices(w, t / a.heads, t % a.heads);
    });
  return !failed;
}

}  // namespace

void register_attention_backward(KernelTable& t) {
  AttentionKernels& k = family<AttentionKernels>(t);
  k.backward[static_cast<int>(DType::Float32)] = backward;
  k.gives_dmask[static_cast<int>(DType::Float32)] = true;
}

}  // namespace pydlx::PYDLX_ISA
