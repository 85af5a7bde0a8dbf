// Scaled dot-product attention of 16-bit floats on the tensor cores, backward: two kernels of one shape, one whose rows
// are queries (dq) and one whose rows are keys (dk, dv). Each sum belongs to one warp: no atomics, and one order. More
// than 128 features are served by attention_half_wide.cu.
#include "cuda/attention/half_backward.cuh"
#include "cuda/attention/hopper.h"
#include "cuda/runtime/scratch.h"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

// Shared memory of both kernels: two tiles of rows, two stages of two tiles of columns, statistics of the columns, and
// slots for what is not unrolled.
template <int D, int kColumns>
struct BackwardShared {
  using Rows = Tile<D, kRows>;
  using Columns = Tile<D, kColumns>;
  Rows rows[2];
  float* weights;
  static constexpr std::size_t kBytes = 16 * (2 * Rows::kChunks + 4 * Columns::kChunks) +
                                        2 * kColumns * sizeof(Statistics) + sizeof(float) * kRows * kColumns;

  __device__ __forceinline__ explicit BackwardShared(uint4* at) {
#pragma unroll
    for (int i = 0; i < 2; ++i, at += Rows::kChunks) rows[i].data = at;
    columns = at;
    weights = reinterpret_cast<float*>(at + 4 * Columns::kChunks);
  }
  // Computed, because the compiler would keep what is chosen by a stage in local memory.
  __device__ __forceinline__ Columns tile(int stage, int i) const {
    return {columns + (2 * stage + i) * Columns::kChunks};
  }
  __device__ __forceinline__ Statistics* numbers(int stage) const {
    return reinterpret_cast<Statistics*>(weights + kRows * kColumns) + stage * kColumns;
  }

 private:
  uint4* columns;
};

// Grid: blocks of queries, batch * heads. No sum depends on how many columns a tile has.
template <class T, int D, int kColumns>
__global__ void __launch_bounds__(kThreads, 2)
    attention_dq(const __grid_constant__ AttentionBackward w, const float* delta) {
  const BackwardShared<D, kColumns> s(dynamic_shared<uint4>());
  const Attention& a = w.forward;
  const std::int64_t q0 = static_cast<std::int64_t>(blockIdx.x) * kRows;
  const Range keys = seen_keys(a, q0, kRows, kColumns);
  for (std::int64_t bh = blockIdx.y; bh < a.batch * a.heads; bh += gridDim.y) {
    const std::int64_t batch = bh / a.heads, head = bh % a.heads, kv = head / (a.heads / a.kv_heads);
    const auto start = [&](std::int64_t k0, int stage) {
      if (k0 < keys.end) {
        s.tile(stage, 0).fetch(rows_at<T>(a.k, batch, kv), a.k.row, k0, a.k_len, a.head_dim);
        s.tile(stage, 1).fetch(rows_at<T>(a.v, batch, kv), a.v.row, k0, a.k_len, a.value_dim);
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
      row_products<T>(p, s.rows[0], s.tile(stage, 0), static_cast<int>(a.head_dim));
      row_products<T>(d, s.rows[1], s.tile(stage, 1), static_cast<int>(a.value_dim));
      const auto query = [&](int, int e) { return q0 + first_row() + row_of(e); };
      const auto key = [&](int n, int e) { return k0 + n * 8 + column_of(e); };
      key_slopes(p, d, of, w, batch, head, whole, s.weights, query, key);
      add<T>(dq, p, s.tile(stage, 0), whole, D, s.weights);
      __syncthreads();
    }
    store<T>(dq, w.dq, batch, head, q0 + first_row(), a.q_len, 0, a.head_dim);
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
        s.tile(stage, 0).fetch(rows_at<T>(a.q, batch, head), a.q.row, q0, a.q_len, a.head_dim);
        s.tile(stage, 1).fetch(rows_at<T>(w.dout, batch, head), w.dout.row, q0, a.q_len, a.value_dim);
        for (int c = static_cast<int>(threadIdx.x); c < kColumns; c += kThreads)
          s.numbers(stage)[c] = statistics(a, delta, batch * a.heads + head, q0 + c);
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
      row_products<T>(p, s.rows[0], s.tile(stage, 0), static_cast<int>(a.head_dim));
      row_products<T>(d, s.rows[1], s.tile(stage, 1), static_cast<int>(a.value_dim));
      const auto query = [&](int n, int e) { return q0 + n * 8 + column_of(e); };
      const auto key = [&](int, int e) { return k0 + first_row() + row_of(e); };
      to_scores(p, a, batch, head, whole, s.weights, query, key);
      const std::uint32_t gone = dropped_bits<kColumns / 8>(a, batch, head, query, key);
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const Statistics& column = s.numbers(stage)[n * 8 + column_of(e)];
          const float weight = exp2_approximately(p[n][e] - column.shift) * column.inverse;
          const bool lost = gone >> (n * 4 + e) & 1;
          d[n][e] = slope_of(a, weight, d[n][e], lost, column.delta) * static_cast<float>(a.scale);
          p[n][e] = lost ? 0.0f : a.threshold ? weight * static_cast<float>(a.keep_scale) : weight;
        }
      add<T>(dv, p, s.tile(stage, 1), whole, D, s.weights);
      add<T>(dk, d, s.tile(stage, 0), whole, D, s.weights);
      __syncthreads();
    }
    store<T>(dk, w.dk, batch, kv, k0 + first_row(), a.k_len, 0, a.head_dim);
    store<T>(dv, w.dv, batch, kv, k0 + first_row(), a.k_len, 0, a.value_dim);
    cp_async_wait<0>();
    __syncthreads();
  }
}

template <class T, int D, int kColumns>
void run_dq(const AttentionBackward& w, const float* delta) {
  constexpr std::size_t bytes = BackwardShared<D, kColumns>::kBytes;
  allow_shared<attention_dq<T, D, kColumns>>(bytes);
  launch(attention_dq<T, D, kColumns>, blocks(w.forward.q_len, w.forward.batch * w.forward.heads), kThreads, bytes, w,
         delta);
}
template <class T, int D>
void backward_with(const AttentionBackward& w, const float* delta) {
  const Attention& a = w.forward;
  if (a.batch * a.heads * a.q_len > 0) {
    constexpr int kWide = 64, kNarrow = 32;  // GPUs of compute capability 8.6 and 8.9 have 99 KiB
    if constexpr (BackwardShared<D, kWide>::kBytes <= 99 << 10)
      run_dq<T, D, kWide>(w, delta);
    else
      BackwardShared<D, kWide>::kBytes <= shared_memory_limit() ? run_dq<T, D, kWide>(w, delta)
                                                                : run_dq<T, D, kNarrow>(w, delta);
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
  const std::int64_t features = a.head_dim > a.value_dim ? a.head_dim : a.value_dim;
  if (features <= 64)
    backward_with<T, 64>(w, delta.get());
  else if (features <= 128)
    backward_with<T, 128>(w, delta.get());
  else
    attention_backward_wide<T>(w, delta.get());
  return true;
}

}  // namespace

void register_attention_half_backward(KernelTable& t) {
  AttentionKernels& k = family<AttentionKernels>(t);
  k.backward[idx<Half>] = backward<Half>;
  k.backward[idx<BFloat16>] = backward<BFloat16>;
  k.gives_dmask[idx<Half>] = k.gives_dmask[idx<BFloat16>] = true;
}

}  // namespace pydlx::cuda
