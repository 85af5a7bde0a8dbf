// What the attention kernels on mma.sync have in common: warps that own 16 rows of a tile each, keep their sums in
// registers, and walk over tiles of the other operand, which arrive in shared memory while the previous ones are worked
// on.
#pragma once
#include "cuda/attention/scores.cuh"
#include "cuda/runtime/mma.cuh"

namespace pydlx::cuda {
namespace {

constexpr std::int64_t kMostFeatures = 256;

constexpr int kWarps = 4, kThreads = kWarps * kWarp, kRows = kWarps * 16;

// The places of a thread's values in a 16 x 8 result: value e is (row_of(e), column_of(e)).
__device__ __forceinline__ int row_of(int e) { return static_cast<int>(threadIdx.x) % kWarp / 4 + e / 2 * 8; }
__device__ __forceinline__ int column_of(int e) { return static_cast<int>(threadIdx.x) % 4 * 2 + e % 2; }
__device__ __forceinline__ int first_row() { return static_cast<int>(threadIdx.x) / kWarp % kWarps * 16; }

// One block per rows of a tile, and as many as a grid can have for the heads.
inline dim3 blocks(std::int64_t rows, std::int64_t heads) {
  return {ceil_div(rows, kRows), static_cast<unsigned>(heads < 65535 ? heads : 65535)};
}

// Whether every query of a tile sees every key of it, so that nothing has to be asked per score.
__device__ __forceinline__ bool all_seen(const Attention& a, std::int64_t q0, int queries, std::int64_t k0, int keys) {
  return !a.mask && q0 + queries <= a.q_len && k0 + keys <= a.k_len && k0 >= q0 + queries - 1 - a.before &&
         k0 + keys - 1 <= q0 + a.after;
}

// A thread's slots for 4 N values, kWarp apart. Those of a warp are where add_guarded() keeps the warp's weights, and
// nobody else's: warps do not wait for each other between the two.
template <int N>
__device__ __forceinline__ float* slots_of(float* memory) {
  return memory + threadIdx.x / kWarp * (N * 4 * kWarp) + threadIdx.x % kWarp;
}

template <int N>
__device__ __forceinline__ float* to_slots(const float (&p)[N][4], float* memory) {
  float* const mine = slots_of<N>(memory);
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) mine[(n * 4 + e) * kWarp] = p[n][e];
  return mine;
}

// Products to scores. `query` and `key` give the places of value n, e. What asks per score is a rolled loop over slots
// of shared memory, because unrolled it would take all registers.
template <int N, class Query, class Key>
__device__ __forceinline__ void to_scores(float (&p)[N][4], const Attention& a, std::int64_t batch, std::int64_t head,
                                          bool whole, float* slots, const Query& query, const Key& key) {
  if (whole && !a.slopes) {
    const float scale = static_cast<float>(a.scale) * kLog2E;
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) p[n][e] *= scale;
    return;
  }
  float* const mine = to_slots(p, slots);
#pragma unroll 1
  for (int i = 0; i < N * 4; ++i) {
    float& x = mine[i * kWarp];
    x = score(a, batch, head, query(i / 4, i % 4), key(i / 4, i % 4), x);
  }
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) p[n][e] = mine[(n * 4 + e) * kWarp];
}

// Which of a thread's weights are dropped: bit 4 n + e.
template <int N, class Query, class Key>
__device__ __forceinline__ std::uint32_t dropped_bits(const Attention& a, std::int64_t batch, std::int64_t head,
                                                      const Query& query, const Key& key) {
  static_assert(N * 4 <= 32);
  std::uint32_t bits = 0;
  if (a.threshold) {
#pragma unroll 1
    for (int n = 0; n < N * 4; ++n) {
      const std::int64_t i = query(n / 4, n % 4), j = key(n / 4, n % 4);
      if (i < a.q_len && j < a.k_len && dropped(a, batch, head, i, j)) bits |= 1u << n;
    }
  }
  return bits;
}

// The softmax of a thread's two rows so far (Milakov and Gimelshein 2018).
struct RunningSoftmax {
  float top[2] = {-math::kInfinity<float>, -math::kInfinity<float>}, total[2] = {};

  // Scores become weights relative to the largest score so far. `fade` is what the sums before are multiplied by.
  template <int N>
  __device__ __forceinline__ void add(float (&p)[N][4], float (&fade)[2]) {
    float largest[2] = {top[0], top[1]}, shift[2], sum[2] = {};
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) largest[e / 2] = p[n][e] > largest[e / 2] ? p[n][e] : largest[e / 2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      largest[half] = across_four(largest[half], Larger());
      shift[half] = largest[half] == -math::kInfinity<float> ? 0.0f : largest[half];
    }
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        p[n][e] = exp2_approximately(p[n][e] - shift[e / 2]);
        sum[e / 2] += p[n][e];
      }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      fade[half] = exp2_approximately(top[half] - shift[half]);
      total[half] = total[half] * fade[half] + across_four(sum[half], Sum());
      top[half] = largest[half];
    }
  }

  // The statistics of the warp's rows, of which `first` is the first; `inverse` is what sums are multiplied by.
  __device__ __forceinline__ void store(const Attention& a, std::int64_t bh, std::int64_t first,
                                        float (&inverse)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      inverse[half] = total[half] == 0 ? 0.0f : 1.0f / total[half];
      const std::int64_t row = first + row_of(2 * half);
      if (row < a.q_len && column_of(0) == 0) {
        static_cast<float*>(a.top)[bh * a.q_len + row] = top[half];
        static_cast<float*>(a.inverse)[bh * a.q_len + row] = inverse[half];
      }
    }
  }
};

// Weights with the dropped ones set to zero, after the softmax, which is whole; `gone`: dropped_bits().
template <int N>
__device__ __forceinline__ void drop(float (&p)[N][4], const Attention& a, std::uint32_t gone) {
  if (!a.threshold) return;
  const float keep_scale = static_cast<float>(a.keep_scale);
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) p[n][e] = gone >> (n * 4 + e) & 1 ? 0.0f : p[n][e] * keep_scale;
}

// ---- backward -------------------------------------------------------------------------------------------------------
//
// With D = rowsum(dout * out): dV = P^T dout, dS = scale P (dout V^T - D), dQ = dS K, dK = dS^T Q. With dropout P in dV
// and dout V^T carry the mask.

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
