// What the kernels of the backward pass of attention of 16-bit floats have in common (attention_half_backward.cu,
// attention_half_wide.cu).
//
// With D = rowsum(dout * out): dV = P^T dout, dS = scale P (dout V^T - D), dQ = dS K, dK = dS^T Q. With dropout P in dV
// and dout V^T carry the mask.
#pragma once
#include "cuda/attention/half.cuh"

namespace pydlx::cuda {

// Of 129 to kMostFeatures features. delta: rows' sums of dout * out.
template <class T>
void attention_backward_wide(const AttentionBackward&, const float* delta);

namespace {

struct Statistics {
  float shift, inverse, delta;
};
__device__ __forceinline__ Statistics statistics(const Attention& a, const float* delta, std::int64_t bh,
                                                 std::int64_t row) {
  if (row >= a.q_len) return {0, 0, 0};
  const float top = static_cast<const float*>(a.top)[bh * a.q_len + row];
  return {top == -math::kInfinity<float> ? 0.0f : top, static_cast<const float*>(a.inverse)[bh * a.q_len + row],
          delta[bh * a.q_len + row]};
}

// dS / scale of a weight. What stands behind the mask does not matter, whatever it is.
__device__ __forceinline__ float slope_of(const Attention& a, float weight, float product, bool lost, float delta) {
  if (a.threshold) product = lost ? 0.0f : product * static_cast<float>(a.keep_scale);
  return weight == 0 ? 0.0f : weight * (product - delta);
}

// The gradient of the mask. Rolled, like to_scores().
template <int N, class Query, class Key>
__device__ __forceinline__ void store_slopes(const float (&p)[N][4], const AttentionBackward& w, std::int64_t bh,
                                             float* slots, const Query& query, const Key& key) {
  const Attention& a = w.forward;
  const float* const mine = to_slots(p, slots);
#pragma unroll 1
  for (int i = 0; i < N * 4; ++i) {
    const std::int64_t row = query(i / 4, i % 4), column = key(i / 4, i % 4);
    if (row < a.q_len && column < a.k_len)
      static_cast<float*>(w.dmask)[(bh * a.q_len + row) * a.k_len + column] = mine[i * kWarp];
  }
}

// What keys of a tile add to dQ: p holds scores as products, d the products of dout and values; p becomes dS. `of` are
// the statistics of the thread's two queries.
template <int N, class Query, class Key>
__device__ __forceinline__ void key_slopes(float (&p)[N][4], const float (&d)[N][4], const Statistics (&of)[2],
                                           const AttentionBackward& w, std::int64_t batch, std::int64_t head,
                                           bool whole, float* slots, const Query& query, const Key& key) {
  const Attention& a = w.forward;
  to_scores(p, a, batch, head, whole, slots, query, key);
  const std::uint32_t gone = dropped_bits<N>(a, batch, head, query, key);
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      p[n][e] = slope_of(a, exp2_approximately(p[n][e] - of[e / 2].shift) * of[e / 2].inverse, d[n][e],
                         gone >> (n * 4 + e) & 1, of[e / 2].delta);
  if (w.dmask) store_slopes(p, w, batch * a.heads + head, slots, query, key);
  const float scale = static_cast<float>(a.scale);
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) p[n][e] *= scale;
}

}  // namespace
}  // namespace pydlx::cuda
