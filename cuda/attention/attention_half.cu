// Scaled dot-product attention of 16-bit floats on the tensor cores, after Dao 2023, "FlashAttention-2": four warps own
// 16 rows of a tile each, keep their sums in registers, and walk over tiles of the other operand, which arrive in
// shared memory while the previous ones are worked on. Scores and sums are float; weights are rounded to the operands'
// type.
//
// The backward pass is two kernels of one shape, one whose rows are queries (dq) and one whose rows are keys (dk, dv).
// Each sum belongs to one warp: no atomics, and one order.
#include "cuda/attention/hopper.h"
#include "cuda/attention/scores.cuh"
#include "cuda/runtime/mma.cuh"
#include "cuda/runtime/scratch.h"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp, kRows = kWarps * 16;

// ---- tiles ----------------------------------------------------------------------------------------------------------

// Lines of D features, zeros beyond the operand's rows and features.
template <int D, int kLines>
struct Tile {
  static constexpr int kWidth = D / kChunk, kChunks = kLines * kWidth;
  uint4* data;

  template <class T>
  __device__ __forceinline__ void fetch(const T* rows, std::int64_t stride, std::int64_t first, std::int64_t count,
                                        std::int64_t features) const {
#pragma unroll 4
    for (int e = static_cast<int>(threadIdx.x); e < kChunks; e += kThreads) {
      const int line = e / kWidth, chunk = e % kWidth;
      const bool valid = first + line < count && chunk * kChunk < features;
      cp_async_16(data + chunk_at<kWidth>(line, chunk), valid ? rows + (first + line) * stride + chunk * kChunk : rows,
                  valid);
    }
  }
  // 16 lines by 16 features, as the left operand, or as the right operand of two products with eight lines each.
  __device__ __forceinline__ void load_lines(std::uint32_t (&r)[4], int line, int feature) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    ldmatrix_x4<false>(r, data + chunk_at<kWidth>(line + lane % 16, feature / kChunk + lane / 16));
  }
  // 16 lines by 16 features as the right operand of two products that sum over lines, with eight features each.
  __device__ __forceinline__ void load_summed(std::uint32_t (&r)[4], int line, int feature) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    ldmatrix_x4<true>(r, data + chunk_at<kWidth>(line + lane / 16 * 8 + lane % 8, feature / kChunk + lane / 8 % 2));
  }
  template <class T>
  __device__ __forceinline__ T element(int line, int feature) const {
    return reinterpret_cast<const T*>(data + chunk_at<kWidth>(line, feature / kChunk))[feature % kChunk];
  }
  // Asked by a whole warp.
  template <class T>
  __device__ __forceinline__ bool finite() const {
    constexpr std::uint32_t exponent = std::is_same_v<T, Half> ? 0x7c00u : 0x7f80u;
    bool bad = false;
    for (int e = static_cast<int>(threadIdx.x) % kWarp; e < kChunks; e += kWarp) {
      const uint4 x = data[e];
      for (const std::uint32_t w : {x.x, x.y, x.z, x.w})
        bad = bad || (w & exponent) == exponent || (w >> 16 & exponent) == exponent;
    }
    return !__any_sync(kFullMask, bad);
  }
};

// The places of a thread's values in a 16 x 8 result: value e is (row_of(e), column_of(e)).
__device__ __forceinline__ int row_of(int e) { return static_cast<int>(threadIdx.x) % kWarp / 4 + e / 2 * 8; }
__device__ __forceinline__ int column_of(int e) { return static_cast<int>(threadIdx.x) % 4 * 2 + e % 2; }
__device__ __forceinline__ int first_row() { return static_cast<int>(threadIdx.x) / kWarp * 16; }

// The warp's rows of a times the lines of b.
template <class T, int D, int kLines>
__device__ __forceinline__ void row_products(float (&s)[kLines / 8][4], const Tile<D, kRows>& a,
                                             const Tile<D, kLines>& b) {
#pragma unroll
  for (int n = 0; n < kLines / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) s[n][e] = 0;
#pragma unroll 2  // all of it would bring fragments in long before their use
  for (int d = 0; d < D; d += 16) {
    std::uint32_t x[4];
    a.load_lines(x, first_row(), d);
#pragma unroll
    for (int n = 0; n < kLines / 16; ++n) {
      std::uint32_t y[4];
      b.load_lines(y, n * 16, d);
      mma_16816<T>(s[2 * n], x, {y[0], y[2]});
      mma_16816<T>(s[2 * n + 1], x, {y[1], y[3]});
    }
  }
}

// sum += w b over the lines of b.
template <class T, int D, int kLines>
__device__ __forceinline__ void add_weighted(float (&sum)[D / 8][4], const float (&w)[kLines / 8][4],
                                             const Tile<D, kLines>& b) {
#pragma unroll
  for (int k = 0; k < kLines / 16; ++k) {
    const float (&u)[4] = w[2 * k], (&v)[4] = w[2 * k + 1];
    const std::uint32_t x[4] = {pair_of<T>(u[0], u[1]), pair_of<T>(u[2], u[3]), pair_of<T>(v[0], v[1]),
                                pair_of<T>(v[2], v[3])};
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
      std::uint32_t y[4];
      b.load_summed(y, k * 16, n * 16);
      mma_16816<T>(sum[2 * n], x, {y[0], y[2]});
      mma_16816<T>(sum[2 * n + 1], x, {y[1], y[3]});
    }
  }
}

// The same where b holds infinities or NaN and a weight of zero means "absent": products with zero are left out.
template <class T, int D, int kLines>
__device__ __forceinline__ void add_guarded(float (&sum)[D / 8][4], const float (&w)[kLines / 8][4],
                                            const Tile<D, kLines>& b, float* weights) {
  float* mine = weights + first_row() * kLines;
#pragma unroll
  for (int n = 0; n < kLines / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      mine[row_of(e) * kLines + n * 8 + column_of(e)] = static_cast<float>(static_cast<T>(w[n][e]));
  __syncwarp();
  // Rolled, over a copy in local memory: unrolled this would take all registers.
  float copy[D / 2];
#pragma unroll
  for (int i = 0; i < D / 2; ++i) copy[i] = sum[i / 4][i % 4];
#pragma unroll 1
  for (int i = 0; i < D / 2; ++i) {
    const int row = row_of(i % 4) * kLines, column = i / 4 * 8 + column_of(i % 4);
    float x = copy[i];
#pragma unroll 1
    for (int line = 0; line < kLines; ++line)
      if (const float u = mine[row + line]; u != 0) x += u * static_cast<float>(b.template element<T>(line, column));
    copy[i] = x;
  }
#pragma unroll
  for (int i = 0; i < D / 2; ++i) sum[i / 4][i % 4] = copy[i];
  __syncwarp();
}

template <class T, int D, int kLines>
__device__ __forceinline__ void add(float (&sum)[D / 8][4], const float (&w)[kLines / 8][4], const Tile<D, kLines>& b,
                                    bool whole, float* weights) {
  if (whole || b.template finite<T>())
    add_weighted<T>(sum, w, b);
  else
    add_guarded<T>(sum, w, b, weights);
}

template <class T, int D>
__device__ __forceinline__ void store(const float (&sum)[D / 8][4], const HeadRows& to, std::int64_t batch,
                                      std::int64_t head, std::int64_t first, std::int64_t rows, std::int64_t features,
                                      float scale_low = 1, float scale_high = 1) {
  T* y = static_cast<T*>(to.data) + batch * to.batch + head * to.head;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t row = first + first_row() + row_of(2 * half);
    if (row >= rows) continue;
    const float scale = half ? scale_high : scale_low;
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
      if (n * 8 + column_of(0) < features)
        *reinterpret_cast<std::uint32_t*>(y + row * to.row + n * 8 + column_of(0)) =
            pair_of<T>(sum[n][2 * half] * scale, sum[n][2 * half + 1] * scale);
  }
}

// ---- scores ---------------------------------------------------------------------------------------------------------

// Whether every query of a tile sees every key of it, so that nothing has to be asked per score.
__device__ __forceinline__ bool all_seen(const Attention& a, std::int64_t q0, int queries, std::int64_t k0, int keys) {
  return !a.mask && q0 + queries <= a.q_len && k0 + keys <= a.k_len && k0 >= q0 + queries - 1 - a.before &&
         k0 + keys - 1 <= q0 + a.after;
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
  float* const mine = slots + threadIdx.x;
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) mine[(n * 4 + e) * kThreads] = p[n][e];
#pragma unroll 1
  for (int i = 0; i < N * 4; ++i) {
    float& x = mine[i * kThreads];
    x = score(a, batch, head, query(i / 4, i % 4), key(i / 4, i % 4), x);
  }
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) p[n][e] = mine[(n * 4 + e) * kThreads];
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

// ---- forward --------------------------------------------------------------------------------------------------------

template <int D>
struct ForwardShared {
  static constexpr int kColumns = 64;
  using Rows = Tile<D, kRows>;
  using Columns = Tile<D, kColumns>;
  static constexpr std::size_t kBytes = 16 * (Rows::kChunks + 4 * Columns::kChunks) + sizeof(float) * kRows * kColumns;
};

// Grid: blocks of queries, batch * heads.
template <class T, int D>
__global__ void __launch_bounds__(kThreads) attention_forward(const __grid_constant__ Attention a) {
  using S = ForwardShared<D>;
  constexpr int kColumns = S::kColumns;
  uint4* const shared = dynamic_shared<uint4>();
  const typename S::Rows q_tile{shared};
  typename S::Columns k_tile[2], v_tile[2];
#pragma unroll
  for (int stage = 0; stage < 2; ++stage) {
    k_tile[stage].data = shared + S::Rows::kChunks + 2 * stage * S::Columns::kChunks;
    v_tile[stage].data = k_tile[stage].data + S::Columns::kChunks;
  }
  float* const weights = reinterpret_cast<float*>(shared + S::Rows::kChunks + 4 * S::Columns::kChunks);
  const std::int64_t q0 = static_cast<std::int64_t>(blockIdx.x) * kRows;
  const Range keys = seen_keys(a, q0, kRows, kColumns);
  const float keep_scale = static_cast<float>(a.keep_scale);
  for (std::int64_t bh = blockIdx.y; bh < a.batch * a.heads; bh += gridDim.y) {
    const std::int64_t batch = bh / a.heads, head = bh % a.heads, kv = head / (a.heads / a.kv_heads);
    const auto start = [&](std::int64_t k0, int stage) {
      if (k0 < keys.end) {
        k_tile[stage].fetch(rows_at<T>(a.k, batch, kv), a.k.row, k0, a.k_len, a.head_dim);
        v_tile[stage].fetch(rows_at<T>(a.v, batch, kv), a.v.row, k0, a.k_len, a.value_dim);
      }
      cp_async_commit();  // also when empty, so that the count of groups stays that of tiles
    };
    q_tile.fetch(rows_at<T>(a.q, batch, head), a.q.row, q0, a.q_len, a.head_dim);
    start(keys.begin, 0);
    float out[D / 8][4] = {}, top[2] = {-math::kInfinity<float>, -math::kInfinity<float>}, total[2] = {};
    int stage = 0;
    for (std::int64_t k0 = keys.begin; k0 < keys.end; k0 += kColumns, stage ^= 1) {
      start(k0 + kColumns, stage ^ 1);
      cp_async_wait<1>();
      __syncthreads();
      const bool whole = all_seen(a, q0, kRows, k0, kColumns);
      float p[kColumns / 8][4];
      row_products<T>(p, q_tile, k_tile[stage]);
      const auto query = [&](int, int e) { return q0 + first_row() + row_of(e); };
      const auto key = [&](int n, int e) { return k0 + n * 8 + column_of(e); };
      to_scores(p, a, batch, head, whole, weights, query, key);
      const std::uint32_t gone = dropped_bits<kColumns / 8>(a, batch, head, query, key);
      float largest[2] = {top[0], top[1]}, shift[2], sum[2] = {};
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) largest[e / 2] = p[n][e] > largest[e / 2] ? p[n][e] : largest[e / 2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        largest[half] = across_four(largest[half], Larger());
        shift[half] = largest[half] == -math::kInfinity<float> ? 0.0f : largest[half];
      }
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          p[n][e] = exp2_approximately(p[n][e] - shift[e / 2]);
          sum[e / 2] += p[n][e];
          // dropped after the sum: the softmax itself is whole
          if (a.threshold) p[n][e] = gone >> (n * 4 + e) & 1 ? 0.0f : p[n][e] * keep_scale;
        }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float fade = exp2_approximately(top[half] - shift[half]);
        total[half] = total[half] * fade + across_four(sum[half], Sum());
        top[half] = largest[half];
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          out[n][2 * half] *= fade;
          out[n][2 * half + 1] *= fade;
        }
      }
      add<T>(out, p, v_tile[stage], whole, weights);
      __syncthreads();  // the stage is free for the tile after the next
    }
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      inverse[half] = total[half] == 0 ? 0.0f : 1.0f / total[half];
      const std::int64_t row = q0 + first_row() + row_of(2 * half);
      if (row < a.q_len && column_of(0) == 0) {
        static_cast<float*>(a.top)[bh * a.q_len + row] = top[half];
        static_cast<float*>(a.inverse)[bh * a.q_len + row] = inverse[half];
      }
    }
    store<T, D>(out, a.out, batch, head, q0, a.q_len, a.value_dim, inverse[0], inverse[1]);
    cp_async_wait<0>();
    __syncthreads();  // the next head overwrites the tiles
  }
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

// dS of a weight. What stands behind the mask does not matter, whatever it is.
__device__ __forceinline__ float slope_of(const Attention& a, float weight, float product, bool lost, float delta) {
  if (a.threshold) product = lost ? 0.0f : product * static_cast<float>(a.keep_scale);
  return weight == 0 ? 0.0f : weight * (product - delta) * static_cast<float>(a.scale);
}

// Shared memory of both kernels: two tiles of rows, two stages of two tiles of columns, statistics of the columns, and
// slots for what is not unrolled.
template <int D, int kColumns>
struct BackwardShared {
  using Rows = Tile<D, kRows>;
  using Columns = Tile<D, kColumns>;
  Rows rows[2];
  Columns columns[2][2];
  Statistics* numbers[2];
  float* weights;
  static constexpr std::size_t kBytes = 16 * (2 * Rows::kChunks + 4 * Columns::kChunks) +
                                        2 * kColumns * sizeof(Statistics) + sizeof(float) * kRows * kColumns;

  __device__ __forceinline__ explicit BackwardShared(uint4* at) {
#pragma unroll
    for (int i = 0; i < 2; ++i, at += Rows::kChunks) rows[i].data = at;
#pragma unroll
    for (int i = 0; i < 4; ++i, at += Columns::kChunks) columns[i / 2][i % 2].data = at;
    weights = reinterpret_cast<float*>(at);
    numbers[0] = reinterpret_cast<Statistics*>(weights + kRows * kColumns);
    numbers[1] = numbers[0] + kColumns;
  }
};

// Grid: blocks of queries, batch * heads.
template <class T, int D>
__global__ void __launch_bounds__(kThreads)
    attention_dq(const __grid_constant__ AttentionBackward w, const float* delta) {
  constexpr int kColumns = 64;
  const BackwardShared<D, kColumns> s(dynamic_shared<uint4>());
  const Attention& a = w.forward;
  const std::int64_t q0 = static_cast<std::int64_t>(blockIdx.x) * kRows;
  const Range keys = seen_keys(a, q0, kRows, kColumns);
  for (std::int64_t bh = blockIdx.y; bh < a.batch * a.heads; bh += gridDim.y) {
    const std::int64_t batch = bh / a.heads, head = bh % a.heads, kv = head / (a.heads / a.kv_heads);
    const auto start = [&](std::int64_t k0, int stage) {
      if (k0 < keys.end) {
        s.columns[stage][0].fetch(rows_at<T>(a.k, batch, kv), a.k.row, k0, a.k_len, a.head_dim);
        s.columns[stage][1].fetch(rows_at<T>(a.v, batch, kv), a.v.row, k0, a.k_len, a.value_dim);
      }
      cp_async_commit();
    };
    s.rows[0].fetch(rows_at<T>(a.q, batch, head), a.q.row, q0, a.q_len, a.head_dim);
    s.rows[1].fetch(rows_at<T>(w.dout, batch, head), w.dout.row, q0, a.q_len, a.value_dim);
    start(keys.begin, 0);
    const Statistics of[2] = {statistics(a, delta, bh, q0 + first_row() + row_of(0)),
                              statistics(a, delta, bh, q0 + first_row() + row_of(2))};
    float dq[D / 8][4] = {};
    int stage = 0;
    for (std::int64_t k0 = keys.begin; k0 < keys.end; k0 += kColumns, stage ^= 1) {
      start(k0 + kColumns, stage ^ 1);
      cp_async_wait<1>();
      __syncthreads();
      const bool whole = all_seen(a, q0, kRows, k0, kColumns);
      float p[kColumns / 8][4], d[kColumns / 8][4];
      row_products<T>(p, s.rows[0], s.columns[stage][0]);
      row_products<T>(d, s.rows[1], s.columns[stage][1]);
      const auto query = [&](int, int e) { return q0 + first_row() + row_of(e); };
      const auto key = [&](int n, int e) { return k0 + n * 8 + column_of(e); };
      to_scores(p, a, batch, head, whole, s.weights, query, key);
      const std::uint32_t gone = dropped_bits<kColumns / 8>(a, batch, head, query, key);
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          p[n][e] = slope_of(a, exp2_approximately(p[n][e] - of[e / 2].shift) * of[e / 2].inverse, d[n][e],
                             gone >> (n * 4 + e) & 1, of[e / 2].delta);
      add<T>(dq, p, s.columns[stage][0], whole, s.weights);
      __syncthreads();
    }
    store<T, D>(dq, w.dq, batch, head, q0, a.q_len, a.head_dim);
    cp_async_wait<0>();
    __syncthreads();
  }
}

// Columns are queries here. Fewer of them, because the sums of two results fill the registers.
constexpr int kQueryColumns = 32;

// Grid: blocks of keys, batch * kv_heads.
template <class T, int D>
__global__ void __launch_bounds__(kThreads)
    attention_dkv(const __grid_constant__ AttentionBackward w, const float* delta) {
  constexpr int kColumns = kQueryColumns;
  const BackwardShared<D, kColumns> s(dynamic_shared<uint4>());
  const Attention& a = w.forward;
  const std::int64_t k0 = static_cast<std::int64_t>(blockIdx.x) * kRows, group = a.heads / a.kv_heads;
  const Range queries = seeing_queries(a, k0, kRows, kColumns);
  const std::int64_t per_head =
      queries.end > queries.begin ? (queries.end - queries.begin + kColumns - 1) / kColumns : 0;
  for (std::int64_t bk = blockIdx.y; bk < a.batch * a.kv_heads; bk += gridDim.y) {
    const std::int64_t batch = bk / a.kv_heads, kv = bk % a.kv_heads;
    // Tile number t of the group's heads, one after another.
    const auto start = [&](std::int64_t t, int stage) {
      if (t < per_head * group) {
        const std::int64_t head = kv * group + t / per_head, q0 = queries.begin + t % per_head * kColumns;
        s.columns[stage][0].fetch(rows_at<T>(a.q, batch, head), a.q.row, q0, a.q_len, a.head_dim);
        s.columns[stage][1].fetch(rows_at<T>(w.dout, batch, head), w.dout.row, q0, a.q_len, a.value_dim);
        for (int c = static_cast<int>(threadIdx.x); c < kColumns; c += kThreads)
          s.numbers[stage][c] = statistics(a, delta, batch * a.heads + head, q0 + c);
      }
      cp_async_commit();
    };
    s.rows[0].fetch(rows_at<T>(a.k, batch, kv), a.k.row, k0, a.k_len, a.head_dim);
    s.rows[1].fetch(rows_at<T>(a.v, batch, kv), a.v.row, k0, a.k_len, a.value_dim);
    start(0, 0);
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    for (std::int64_t t = 0; t < per_head * group; ++t) {
      const int stage = static_cast<int>(t & 1);
      start(t + 1, stage ^ 1);
      cp_async_wait<1>();
      __syncthreads();
      const std::int64_t head = kv * group + t / per_head, q0 = queries.begin + t % per_head * kColumns;
      const bool whole = all_seen(a, q0, kColumns, k0, kRows);
      float p[kColumns / 8][4], d[kColumns / 8][4];
      row_products<T>(p, s.rows[0], s.columns[stage][0]);
      row_products<T>(d, s.rows[1], s.columns[stage][1]);
      const auto query = [&](int n, int e) { return q0 + n * 8 + column_of(e); };
      const auto key = [&](int, int e) { return k0 + first_row() + row_of(e); };
      to_scores(p, a, batch, head, whole, s.weights, query, key);
      const std::uint32_t gone = dropped_bits<kColumns / 8>(a, batch, head, query, key);
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const Statistics& column = s.numbers[stage][n * 8 + column_of(e)];
          const float weight = exp2_approximately(p[n][e] - column.shift) * column.inverse;
          const bool lost = gone >> (n * 4 + e) & 1;
          d[n][e] = slope_of(a, weight, d[n][e], lost, column.delta);
          p[n][e] = lost ? 0.0f : a.threshold ? weight * static_cast<float>(a.keep_scale) : weight;
        }
      add<T>(dv, p, s.columns[stage][1], whole, s.weights);
      add<T>(dk, d, s.columns[stage][0], whole, s.weights);
      __syncthreads();
    }
    store<T, D>(dk, w.dk, batch, kv, k0, a.k_len, a.head_dim);
    store<T, D>(dv, w.dv, batch, kv, k0, a.k_len, a.value_dim);
    cp_async_wait<0>();
    __syncthreads();
  }
}

// ---- entries --------------------------------------------------------------------------------------------------------

constexpr std::int64_t kMostFeatures = 128;

bool fits(std::int64_t head_dim, std::int64_t value_dim) {
  return head_dim % kChunk == 0 && value_dim % kChunk == 0 && head_dim <= kMostFeatures && value_dim <= kMostFeatures;
}

dim3 blocks(std::int64_t rows, std::int64_t heads) {
  return {ceil_div(rows, kRows), static_cast<unsigned>(heads < 65535 ? heads : 65535)};
}

template <class T, int D>
void forward_with(const Attention& a) {
  constexpr std::size_t bytes = ForwardShared<D>::kBytes;
  allow_shared<attention_forward<T, D>>(bytes);
  launch(attention_forward<T, D>, blocks(a.q_len, a.batch * a.heads), kThreads, bytes, a);
}
template <class T>
bool forward(const Attention& a) {
  if (a.batch * a.heads * a.q_len > 0 && !attention_forward_hopper<T>(a)) {
    if (a.head_dim <= 64 && a.value_dim <= 64)
      forward_with<T, 64>(a);
    else
      forward_with<T, 128>(a);
  }
  return true;
}

template <class T, int D>
void backward_with(const AttentionBackward& w, const float* delta) {
  const Attention& a = w.forward;
  if (a.batch * a.heads * a.q_len > 0) {
    constexpr std::size_t bytes = BackwardShared<D, 64>::kBytes;
    allow_shared<attention_dq<T, D>>(bytes);
    launch(attention_dq<T, D>, blocks(a.q_len, a.batch * a.heads), kThreads, bytes, w, delta);
  }
  if (a.batch * a.kv_heads * a.k_len > 0) {
    constexpr std::size_t bytes = BackwardShared<D, kQueryColumns>::kBytes;
    allow_shared<attention_dkv<T, D>>(bytes);
    launch(attention_dkv<T, D>, blocks(a.k_len, a.batch * a.kv_heads), kThreads, bytes, w, delta);
  }
}
template <class T>
bool backward(const AttentionBackward& w) {
  const Attention& a = w.forward;
  const std::int64_t rows = a.batch * a.heads * a.q_len;
  const Scratch<float> delta(rows);
  if (rows > 0) run_delta<T>(w, delta.get());
  if (attention_backward_hopper<T>(w, delta.get())) return true;
  if (a.head_dim <= 64 && a.value_dim <= 64)
    backward_with<T, 64>(w, delta.get());
  else
    backward_with<T, 128>(w, delta.get());
  return true;
}

template <class T>
void add_attention(AttentionKernels& k) {
  constexpr int t = static_cast<int>(DTypeOf<T>::value);
  k.forward[t] = forward<T>;
  k.backward[t] = backward<T>;
  k.fits[t] = fits;
}

}  // namespace

void register_attention_half(KernelTable& t) {
  add_attention<Half>(family<AttentionKernels>(t));
  add_attention<BFloat16>(family<AttentionKernels>(t));
}

}  // namespace pydlx::cuda
