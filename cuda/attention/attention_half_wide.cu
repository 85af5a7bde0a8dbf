// The backward pass of attention of 16-bit floats with 129 to 256 features on the tensor cores: the kernels of
// attention_half_backward.cu by eight warps, because four cannot hold the sums of 64 rows. For the scores four warps
// own 16 rows each of one half of a tile's columns, four of the other; the weights of the tile, rounded to the
// operands' type, go through shared memory; and for the sums two warps own 32 rows each of one quarter of the features,
// and so on. Every sum still belongs to one warp: no atomics, and one order.
#include "core/verbose.h"
#include "cuda/attention/half_backward.cuh"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

constexpr int D = kMostFeatures;
constexpr int kParts = 2, kWideThreads = kParts * kThreads;
constexpr int kQuarters = 4, kSumRows = 32;
static_assert(kWideThreads / kWarp == kQuarters * kRows / kSumRows);

using WideRows = Tile<D, kRows, kWideThreads>;
template <int kColumns>
using WideColumns = Tile<D, kColumns, kWideThreads>;
template <int kColumns>
using Weights = Tile<kColumns, kRows, kWideThreads>;

// The first of the warp's columns of a tile in scores.
template <int kColumns>
__device__ __forceinline__ int first_column() {
  return static_cast<int>(threadIdx.x) / kThreads * (kColumns / kParts);
}

// The warp's rows, 16 of them from first_row() on.
template <class T, int kColumns>
__device__ __forceinline__ void put_weights(const Weights<kColumns>& to, const float (&w)[kColumns / kParts / 8][4]) {
#pragma unroll
  for (int n = 0; n < kColumns / kParts / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; e += 2)
      to.set_pair(first_row() + row_of(e), first_column<kColumns>() + n * 8 + column_of(e),
                  pair_of<T>(w[n][e], w[n][e + 1]));
}

// A warp's sums: two blocks of 16 rows, and as many of its features as the operand's number of them leaves to a
// quarter.
struct WideSums {
  static constexpr int kFeatures = D / kQuarters;
  float v[kSumRows / 16][kFeatures / 8][4] = {};

  static __device__ __forceinline__ int rows(int thread) { return thread / kWarp % (kRows / kSumRows) * kSumRows; }
  static __device__ __forceinline__ int features(std::int64_t of) {
    return (static_cast<int>(of) + 16 * kQuarters - 1) / (16 * kQuarters) * 16;
  }
  static __device__ __forceinline__ int first(int thread, int features) {
    return thread / (kRows / kSumRows * kWarp) * features;
  }

  // += w b over the lines of b.
  template <class T, int kColumns>
  __device__ __forceinline__ void add_weighted(const Weights<kColumns>& w, const WideColumns<kColumns>& b,
                                               std::int64_t of) {
    const int thread = once_more(static_cast<int>(threadIdx.x)), lane = thread % kWarp, mine = features(of),
              row = rows(thread), from = first(thread, mine);
    std::uint32_t x[kColumns / 16][kSumRows / 16][4];
#pragma unroll
    for (int k = 0; k < kColumns / 16; ++k)
#pragma unroll
      for (int i = 0; i < kSumRows / 16; ++i) w.load_rows(x[k][i], row + i * 16, k * 16, lane);
#pragma unroll
    for (int n = 0; n < kFeatures / 16; ++n) {
      if (n > 0 && n * 16 >= mine) break;
#pragma unroll
      for (int k = 0; k < kColumns / 16; ++k) {
        std::uint32_t y[4];
        b.load_summed(y, k * 16, from + n * 16, lane);
#pragma unroll
        for (int i = 0; i < kSumRows / 16; ++i) {
          mma_16816<T>(v[i][2 * n], x[k][i], {y[0], y[1]});
          mma_16816<T>(v[i][2 * n + 1], x[k][i], {y[2], y[3]});
        }
      }
    }
  }
  // The same with products with zero left out, see add_guarded().
  template <class T, int kColumns>
  __device__ __forceinline__ void add_guarded(const Weights<kColumns>& w, const WideColumns<kColumns>& b,
                                              std::int64_t of) {
    const int thread = once_more(static_cast<int>(threadIdx.x)), row0 = rows(thread),
              from = first(thread, features(of));
    constexpr int kEach = kFeatures / 2, kCount = kSumRows / 16 * kEach;
    float copy[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) copy[i] = v[i / kEach][i % kEach / 4][i % 4];
#pragma unroll 1
    for (int i = 0; i < kCount; ++i) {
      const int row = row0 + i / kEach * 16 + row_of(i % 4), feature = from + i % kEach / 4 * 8 + column_of(i % 4);
      float x = copy[i];
#pragma unroll 1
      for (int line = 0; line < kColumns; ++line)
        if (const float u = static_cast<float>(w.template element<T>(row, line)); u != 0)
          x += u * static_cast<float>(b.template element<T>(line, feature));
      copy[i] = x;
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i / kEach][i % kEach / 4][i % 4] = copy[i];
  }
  template <class T, int kColumns>
  __device__ __forceinline__ void add(const Weights<kColumns>& w, const WideColumns<kColumns>& b, bool whole,
                                      std::int64_t of) {
    if (whole || b.template finite<T>())
      add_weighted<T, kColumns>(w, b, of);
    else
      add_guarded<T, kColumns>(w, b, of);
  }

  template <class T>
  __device__ __forceinline__ void store(const HeadRows& to, std::int64_t batch, std::int64_t head, std::int64_t row0,
                                        std::int64_t count, std::int64_t of) const {
    const int thread = static_cast<int>(threadIdx.x), mine = features(of), from = first(thread, mine);
    const std::int64_t end = from + mine < of ? from + mine : of;
#pragma unroll
    for (int i = 0; i < kSumRows / 16; ++i)
      cuda::store<T>(v[i], to, batch, head, row0 + rows(thread) + i * 16, count, from, end);
  }
};

// Shared memory of both kernels: two tiles of rows, stages of two tiles of columns, weights for two sums, statistics of
// the columns, and slots for what is not unrolled.
template <int columns, int stages>
struct WideShared {
  static constexpr int kColumns = columns, kStages = stages;
  static constexpr int kNext = kStages - 1;  // tiles that are on their way while one is worked on
  WideRows rows[2];
  Weights<kColumns> weights[2];
  float* slots;
  static constexpr std::size_t kBytes =
      16 * (2 * WideRows::kChunks + 2 * kStages * WideColumns<kColumns>::kChunks + 2 * Weights<kColumns>::kChunks) +
      sizeof(float) * kRows * kColumns + sizeof(Statistics) * kStages * kColumns;

  __device__ __forceinline__ explicit WideShared(uint4* at) {
#pragma unroll
    for (int i = 0; i < 2; ++i, at += WideRows::kChunks) rows[i].data = at;
    tiles = at;
    at += 2 * kStages * WideColumns<kColumns>::kChunks;
#pragma unroll
    for (int i = 0; i < 2; ++i, at += Weights<kColumns>::kChunks) weights[i].data = at;
    slots = reinterpret_cast<float*>(at);
  }
  // Computed, because the compiler would keep what is chosen by a stage in local memory.
  __device__ __forceinline__ WideColumns<kColumns> tile(int stage, int i) const {
    return {tiles + (2 * stage + i) * WideColumns<kColumns>::kChunks};
  }
  __device__ __forceinline__ Statistics* numbers(int stage) const {
    return reinterpret_cast<Statistics*>(slots + kRows * kColumns) + stage * kColumns;
  }

 private:
  uint4* tiles;
};

// What each of `count` tiles of columns goes through: start(t, stage) brings it, use(t, stage) works on it.
template <class Shared, class Start, class Use>
__device__ __forceinline__ void each_tile(std::int64_t count, const Start& start, const Use& use) {
  start(std::int64_t{0}, 0);
  cp_async_commit();
  int stage = 0;
#pragma unroll 1
  for (std::int64_t t = 0; t < count; ++t) {
    if constexpr (Shared::kStages == 2) {
      start(t + 1, stage ^ 1);
      cp_async_commit();
    }
    cp_async_wait<Shared::kNext>();
    __syncthreads();
    use(t, stage);
    __syncthreads();
    if constexpr (Shared::kStages == 1) {
      start(t + 1, 0);
      cp_async_commit();
    }
    stage ^= Shared::kNext;
  }
  cp_async_wait<0>();
  __syncthreads();  // the next head overwrites the tiles
}

// Grid: blocks of queries, batch * heads. No sum depends on how many columns a tile has.
template <class T, int kColumns, int kStages>
__global__ void __launch_bounds__(kWideThreads)
    attention_dq(const __grid_constant__ AttentionBackward w, const float* delta) {
  using S = WideShared<kColumns, kStages>;
  constexpr int N = kColumns / kParts / 8;
  const S s(dynamic_shared<uint4>());
  const Attention& a = w.forward;
  const std::int64_t q0 = static_cast<std::int64_t>(blockIdx.x) * kRows;
  const Range keys = seen_keys(a, q0, kRows, kColumns);
  const std::int64_t tiles = keys.end > keys.begin ? (keys.end - keys.begin + kColumns - 1) / kColumns : 0;
  for (std::int64_t bh = blockIdx.y; bh < a.batch * a.heads; bh += gridDim.y) {
    const std::int64_t batch = bh / a.heads, head = bh % a.heads, kv = head / (a.heads / a.kv_heads);
    s.rows[0].fetch(rows_at<T>(a.q, batch, head), a.q.row, q0, a.q_len, a.head_dim);
    s.rows[1].fetch(rows_at<T>(w.dout, batch, head), w.dout.row, q0, a.q_len, a.value_dim);
    const Statistics of[2] = {statistics(a, delta, bh, q0 + first_row() + row_of(0)),
                              statistics(a, delta, bh, q0 + first_row() + row_of(2))};
    const auto start = [&](std::int64_t t, int stage) {
      if (t >= tiles) return;
      const std::int64_t k0 = keys.begin + t * kColumns;
      s.tile(stage, 0).fetch(rows_at<T>(a.k, batch, kv), a.k.row, k0, a.k_len, a.head_dim);
      s.tile(stage, 1).fetch(rows_at<T>(a.v, batch, kv), a.v.row, k0, a.k_len, a.value_dim);
    };
    WideSums dq;
    each_tile<S>(tiles, start, [&](std::int64_t t, int stage) {
      const std::int64_t k0 = keys.begin + t * kColumns;
      const bool whole = all_seen(a, q0, kRows, k0, kColumns);
      float p[N][4], d[N][4];
      row_products<T>(p, s.rows[0], s.tile(stage, 0), static_cast<int>(a.head_dim), first_column<kColumns>());
      row_products<T>(d, s.rows[1], s.tile(stage, 1), static_cast<int>(a.value_dim), first_column<kColumns>());
      const auto query = [&](int, int e) { return q0 + first_row() + row_of(e); };
      const auto key = [&](int n, int e) { return k0 + first_column<kColumns>() + n * 8 + column_of(e); };
      key_slopes(p, d, of, w, batch, head, whole, s.slots, query, key);
      put_weights<T, kColumns>(s.weights[0], p);
      __syncthreads();
      dq.add<T, kColumns>(s.weights[0], s.tile(stage, 0), whole, a.head_dim);
    });
    dq.store<T>(w.dq, batch, head, q0, a.q_len, a.head_dim);
  }
}

// Grid: blocks of keys, batch * kv_heads. Columns are queries here.
template <class T, int kColumns, int kStages>
__global__ void __launch_bounds__(kWideThreads)
    attention_dkv(const __grid_constant__ AttentionBackward w, const float* delta) {
  using S = WideShared<kColumns, kStages>;
  constexpr int N = kColumns / kParts / 8;
  const S s(dynamic_shared<uint4>());
  const Attention& a = w.forward;
  const std::int64_t k0 = static_cast<std::int64_t>(blockIdx.x) * kRows, group = a.heads / a.kv_heads;
  const Range queries = seeing_queries(a, k0, kRows, kColumns);
  const std::int64_t per_head =
      queries.end > queries.begin ? (queries.end - queries.begin + kColumns - 1) / kColumns : 0;
  for (std::int64_t bk = blockIdx.y; bk < a.batch * a.kv_heads; bk += gridDim.y) {
    const std::int64_t batch = bk / a.kv_heads, kv = bk % a.kv_heads;
    s.rows[0].fetch(rows_at<T>(a.k, batch, kv), a.k.row, k0, a.k_len, a.head_dim);
    s.rows[1].fetch(rows_at<T>(a.v, batch, kv), a.v.row, k0, a.k_len, a.value_dim);
    // Tile number t of the group's heads, one after another.
    const auto start = [&](std::int64_t t, int stage) {
      if (t >= per_head * group) return;
      const std::int64_t head = kv * group + t / per_head, q0 = queries.begin + t % per_head * kColumns;
      s.tile(stage, 0).fetch(rows_at<T>(a.q, batch, head), a.q.row, q0, a.q_len, a.head_dim);
      s.tile(stage, 1).fetch(rows_at<T>(w.dout, batch, head), w.dout.row, q0, a.q_len, a.value_dim);
      for (int c = static_cast<int>(threadIdx.x); c < kColumns; c += kWideThreads)
        s.numbers(stage)[c] = statistics(a, delta, batch * a.heads + head, q0 + c);
    };
    WideSums dk, dv;
    each_tile<S>(per_head * group, start, [&](std::int64_t t, int stage) {
      const std::int64_t head = kv * group + t / per_head, q0 = queries.begin + t % per_head * kColumns;
      const bool whole = all_seen(a, q0, kColumns, k0, kRows);
      float p[N][4], d[N][4];
      row_products<T>(p, s.rows[0], s.tile(stage, 0), static_cast<int>(a.head_dim), first_column<kColumns>());
      row_products<T>(d, s.rows[1], s.tile(stage, 1), static_cast<int>(a.value_dim), first_column<kColumns>());
      const auto query = [&](int n, int e) { return q0 + first_column<kColumns>() + n * 8 + column_of(e); };
      const auto key = [&](int, int e) { return k0 + first_row() + row_of(e); };
      to_scores(p, a, batch, head, whole, s.slots, query, key);
      const std::uint32_t gone = dropped_bits<N>(a, batch, head, query, key);
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const Statistics& column = s.numbers(stage)[first_column<kColumns>() + n * 8 + column_of(e)];
          const float weight = exp2_approximately(p[n][e] - column.shift) * column.inverse;
          const bool lost = gone >> (n * 4 + e) & 1;
          d[n][e] = slope_of(a, weight, d[n][e], lost, column.delta) * static_cast<float>(a.scale);
          p[n][e] = lost ? 0.0f : a.threshold ? weight * static_cast<float>(a.keep_scale) : weight;
        }
      put_weights<T, kColumns>(s.weights[0], p);
      put_weights<T, kColumns>(s.weights[1], d);
      __syncthreads();
      dv.add<T, kColumns>(s.weights[0], s.tile(stage, 1), whole, a.value_dim);
      dk.add<T, kColumns>(s.weights[1], s.tile(stage, 0), whole, a.head_dim);
    });
    dk.store<T>(w.dk, batch, kv, k0, a.k_len, a.head_dim);
    dv.store<T>(w.dv, batch, kv, k0, a.k_len, a.value_dim);
  }
}

template <class T, int kColumns, int kStages>
bool run(const AttentionBackward& w, const float* delta) {
  constexpr std::size_t bytes = WideShared<kColumns, kStages>::kBytes;
  if (bytes > shared_memory_limit()) return false;
  if (verbose_on) verbose_note("; mma.sync, tiles of %d by %d, stages: %d", kRows, kColumns, kStages);
  const Attention& a = w.forward;
  if (a.batch * a.heads * a.q_len > 0) {
    allow_shared<attention_dq<T, kColumns, kStages>>(bytes);
    launch(attention_dq<T, kColumns, kStages>, blocks(a.q_len, a.batch * a.heads), kWideThreads, bytes, w, delta);
  }
  if (a.batch * a.kv_heads * a.k_len > 0) {
    allow_shared<attention_dkv<T, kColumns, kStages>>(bytes);
    launch(attention_dkv<T, kColumns, kStages>, blocks(a.k_len, a.batch * a.kv_heads), kWideThreads, bytes, w, delta);
  }
  return true;
}
static_assert(WideShared<64, 2>::kBytes <= 227 << 10 && WideShared<32, 2>::kBytes <= 163 << 10 &&
              WideShared<16, 1>::kBytes <= 99 << 10);

}  // namespace

// The widest tiles for which there is room: on GPUs of compute capability 9.0, 8.0, and 8.6 or 8.9.
template <class T>
void attention_backward_wide(const AttentionBackward& w, const float* delta) {
  run<T, 64, 2>(w, delta) || run<T, 32, 2>(w, delta) || run<T, 16, 1>(w, delta);
}
template void attention_backward_wide<Half>(const AttentionBackward&, const float* delta);
template void attention_backward_wide<BFloat16>(const AttentionBackward&, const float* delta);

void register_attention_half_wide(KernelTable&) {}  // attention_half_backward.cu asks for it

}  // namespace pydlx::cuda
