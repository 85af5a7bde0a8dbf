// Scaled dot-product attention of float32 on the tensor cores, backward: two kernels of one shape, one whose rows are
// queries (dq) and one whose rows are keys (dk, dv). Each sum belongs to one warp: no atomics, and one order. Scores
// are those of the forward pass bit by bit, or the weights of a row with large ones would not add up to one.
#include "cuda/attention/float.cuh"
#include "cuda/attention/float_tensor.h"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

// Two operands' rows, a tile of each of the others, slots for what is not unrolled, and statistics of the columns.
template <Digits precision, int features, int columns, class RowsOf>
struct Backward {
  static constexpr Digits digits = precision;
  static constexpr int D = features, kColumns = columns;
  using Rows = RowsOf;
  using Tile = FloatTile<D, kColumns>;
  static constexpr std::size_t kBytes =
      2 * (Rows::kBytes + Tile::kBytes) + sizeof(float) * kRows * kColumns + sizeof(Statistics) * kColumns;

  Rows rows[2];
  Tile tiles[2];
  float* slots;
  Statistics* numbers;

  __device__ __forceinline__ explicit Backward(float4* at)
      : rows{Rows(at), Rows(at + Rows::kBytes / sizeof(float4))},
        tiles{{at + 2 * Rows::kBytes / sizeof(float4)}, {at + 2 * Rows::kBytes / sizeof(float4) + Tile::kChunks}},
        slots(reinterpret_cast<float*>(tiles[1].data + Tile::kChunks)),
        numbers(reinterpret_cast<Statistics*>(slots + kRows * kColumns)) {}

  // sum += w times the lines of a tile.
  template <int N>
  __device__ __forceinline__ void add(float (&sum)[D / 8][4], const float (&w)[N][4], const Tile& tile, int width,
                                      bool plainly, bool guarded) const {
    if (plainly)
      add_plainly<D>(sum, w, tile, guarded, slots);
    else
      add_weighted<digits, D>(sum, w, tile, width);
  }
};

template <int N>
__device__ __forceinline__ void clear(float (&sum)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) sum[n][e] = 0;
}

// Grid: blocks of queries, batch * heads. No sum depends on how many columns a tile has.
template <class S>
__global__ void __launch_bounds__(kThreads, 2)
    attention_dq(const __grid_constant__ AttentionBackward w, const float* delta, bool whole_chunks) {
  constexpr int D = S::D, kColumns = S::kColumns, N = kColumns / 8;
  S s(dynamic_shared<float4>());
  const Attention& a = w.forward;
  const std::int64_t q0 = static_cast<std::int64_t>(blockIdx.x) * kRows;
  const Range keys = seen_keys(a, q0, kRows, kColumns);
  for (std::int64_t bh = blockIdx.y; bh < a.batch * a.heads; bh += gridDim.y) {
    const int batch = static_cast<int>(bh / a.heads), head = static_cast<int>(bh % a.heads),
              kv = head / static_cast<int>(a.heads / a.kv_heads);
    const auto q = [&] { return Lines(a.q, batch, head, a.q_len, a.head_dim); };
    const auto g = [&] { return Lines(w.dout, batch, head, a.q_len, a.value_dim); };
    const auto k = [&] { return Lines(a.k, batch, kv, a.k_len, a.head_dim); };
    const auto v = [&] { return Lines(a.v, batch, kv, a.k_len, a.value_dim); };
    const auto fetch = [&](int i, const auto& from, std::int64_t k0) {
      if (k0 < keys.end) s.tiles[i].fetch(from(), k0, whole_chunks);
      cp_async_commit();
    };
    s.rows[0].bring(q(), q0);
    s.rows[1].bring(g(), q0);
    const Statistics of[2] = {statistics(a, delta, bh, q0 + first_row() + row_of(0)),
                              statistics(a, delta, bh, q0 + first_row() + row_of(2))};
    float dq[D / 8][4];
    for (bool plainly = false;; plainly = true) {
      fetch(1, v, keys.begin);
      fetch(0, k, keys.begin);
      clear(dq);
#pragma unroll 1
      for (std::int64_t k0 = keys.begin; k0 < keys.end; k0 += kColumns) {
        const auto query = [&](int, int e) { return q0 + first_row() + row_of(e); };
        const auto key = [&](int n, int e) { return k0 + n * 8 + column_of(e); };
        float p[N][4], d[N][4];
        cp_async_wait<1>();
        __syncthreads();  // the values are there
        row_products<S::digits, true>(d, s.rows[1], s.tiles[1], static_cast<int>(a.value_dim));
        replace_special(d, s.slots, g, v, query, key);
        cp_async_wait<0>();
        __syncthreads();  // the keys are there, and nobody reads the values
        fetch(1, v, k0 + kColumns);
        row_products<S::digits, true>(p, s.rows[0], s.tiles[0], static_cast<int>(a.head_dim));
        replace_special(p, s.slots, q, k, query, key);
        key_slopes(p, d, of, w, batch, head, all_seen(a, q0, kRows, k0, kColumns), s.slots, query, key);
        s.add(dq, p, s.tiles[0], static_cast<int>(a.head_dim), plainly, limited(a));
        __syncthreads();  // nobody reads the keys
        fetch(0, k, k0 + kColumns);
      }
      cp_async_wait<0>();
      __syncthreads();  // the tiles may be overwritten
      if (plainly || !any_of_block<kWarps>(any_special(dq))) break;
    }
    store(dq, w.dq, batch, head, q0 + first_row(), a.q_len, a.head_dim, whole_chunks);
  }
}

// Grid: blocks of keys, batch * kv_heads. Columns are queries here. kKeys: dk, kValues: dv; of more than 128 features
// registers hold only one of them.
template <class S, bool kKeys, bool kValues>
__global__ void __launch_bounds__(kThreads, 2)
    attention_dkv(const __grid_constant__ AttentionBackward w, const float* delta, bool whole_chunks) {
  constexpr int D = S::D, kColumns = S::kColumns, N = kColumns / 8;
  S s(dynamic_shared<float4>());
  const Attention& a = w.forward;
  const std::int64_t k0 = static_cast<std::int64_t>(blockIdx.x) * kRows;
  const int group = static_cast<int>(a.heads / a.kv_heads);
  const Range queries = seeing_queries(a, k0, kRows, kColumns);
  for (std::int64_t bk = blockIdx.y; bk < a.batch * a.kv_heads; bk += gridDim.y) {
    const int batch = static_cast<int>(bk / a.kv_heads), kv = static_cast<int>(bk % a.kv_heads);
    const auto k = [&] { return Lines(a.k, batch, kv, a.k_len, a.head_dim); };
    const auto v = [&] { return Lines(a.v, batch, kv, a.k_len, a.value_dim); };
    const auto queries_of = [&](int head) { return Lines(a.q, batch, head, a.q_len, a.head_dim); };
    const auto gradients_of = [&](int head) { return Lines(w.dout, batch, head, a.q_len, a.value_dim); };
    // Tiles of the group's heads, one after another.
    const int end = queries.begin < queries.end ? (kv + 1) * group : 0;
    struct Place {
      int head;
      std::int64_t q0;
    };
    const auto after = [&](const Place& at) {
      return at.q0 + kColumns < queries.end ? Place{at.head, at.q0 + kColumns} : Place{at.head + 1, queries.begin};
    };
    const auto fetch_queries = [&](const Place& at) {
      if (at.head < end) {
        s.tiles[0].fetch(queries_of(at.head), at.q0, whole_chunks);
        for (int c = static_cast<int>(threadIdx.x); c < kColumns; c += kThreads)
          s.numbers[c] = statistics(a, delta, batch * a.heads + at.head, at.q0 + c);
      }
      cp_async_commit();
    };
    const auto fetch_gradients = [&](const Place& at) {
      if (at.head < end) s.tiles[1].fetch(gradients_of(at.head), at.q0, whole_chunks);
      cp_async_commit();
    };
    s.rows[0].bring(k(), k0);
    if constexpr (kKeys) s.rows[1].bring(v(), k0);
    [[maybe_unused]] float dk[D / 8][4], dv[D / 8][4];
    for (bool plainly = false;; plainly = true) {
      Place at{kv * group, queries.begin};
      fetch_queries(at);
      fetch_gradients(at);
      if constexpr (kKeys) clear(dk);
      if constexpr (kValues) clear(dv);
#pragma unroll 1
      for (; at.head < end; at = after(at)) {
        const auto query = [&](int n, int e) { return at.q0 + n * 8 + column_of(e); };
        const auto key = [&](int, int e) { return k0 + first_row() + row_of(e); };
        [[maybe_unused]] float p[N][4], d[N][4];
        cp_async_wait<1>();
        __syncthreads();  // the queries are there
        row_products<S::digits, false>(p, s.rows[0], s.tiles[0], static_cast<int>(a.head_dim));
        replace_special(p, s.slots, k, [&] { return queries_of(at.head); }, key, query);
        cp_async_wait<0>();
        __syncthreads();  // the gradients are there
        if constexpr (kKeys) {
          row_products<S::digits, false>(d, s.rows[1], s.tiles[1], static_cast<int>(a.value_dim));
          replace_special(d, s.slots, v, [&] { return gradients_of(at.head); }, key, query);
        }
        to_scores(p, a, batch, at.head, all_seen(a, at.q0, kColumns, k0, kRows), s.slots, query, key);
        const std::uint32_t gone = dropped_bits<N>(a, batch, at.head, query, key);
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const Statistics& column = s.numbers[n * 8 + column_of(e)];
            const float weight = exp2_approximately(p[n][e] - column.shift) * column.inverse;
            const bool lost = gone >> (n * 4 + e) & 1;
            if constexpr (kKeys)
              d[n][e] = slope_of(a, weight, d[n][e], lost, column.delta) * static_cast<float>(a.scale);
            p[n][e] = lost ? 0.0f : a.threshold ? weight * static_cast<float>(a.keep_scale) : weight;
          }
        if constexpr (kKeys) s.add(dk, d, s.tiles[0], static_cast<int>(a.head_dim), plainly, limited(a));
        __syncthreads();  // nobody reads the queries and their statistics
        fetch_queries(after(at));
        if constexpr (kValues) s.add(dv, p, s.tiles[1], static_cast<int>(a.value_dim), plainly, limited(a));
        __syncthreads();  // nobody reads the gradients
        fetch_gradients(after(at));
      }
      cp_async_wait<0>();
      __syncthreads();  // the tiles may be overwritten
      bool special = false;
      if constexpr (kKeys) special = any_special(dk);
      if constexpr (kValues) special = any_special(dv) || special;
      if (plainly || !any_of_block<kWarps>(special)) break;
    }
    if constexpr (kKeys) store(dk, w.dk, batch, kv, k0 + first_row(), a.k_len, a.head_dim, whole_chunks);
    if constexpr (kValues) store(dv, w.dv, batch, kv, k0 + first_row(), a.k_len, a.value_dim, whole_chunks);
  }
}

template <class S, bool kKeys, bool kValues>
void run_dkv(const AttentionBackward& w, const float* delta, bool whole_chunks) {
  const Attention& a = w.forward;
  if (a.batch * a.kv_heads * a.k_len == 0) return;
  allow_shared<attention_dkv<S, kKeys, kValues>>(S::kBytes);
  launch(attention_dkv<S, kKeys, kValues>, blocks(a.k_len, a.batch * a.kv_heads), kThreads, S::kBytes, w, delta,
         whole_chunks);
}

// False where there is not enough shared memory.
template <Digits digits, int D, int kColumns, class Rows>
bool run(const AttentionBackward& w, const float* delta) {
  using S = Backward<digits, D, kColumns, Rows>;
  if (S::kBytes > shared_memory_limit()) return false;
  const Attention& a = w.forward;
  bool whole_chunks = in_chunks(w.dout, a.value_dim);
  for (const HeadRows& x : {a.q, a.k, w.dq, w.dk}) whole_chunks = whole_chunks && in_chunks(x, a.head_dim);
  for (const HeadRows& x : {a.v, w.dv}) whole_chunks = whole_chunks && in_chunks(x, a.value_dim);
  if (verbose_on)
    verbose_note("; %s, tiles of %d by %d%s", units_of<float>(digits), kRows, kColumns,
                 whole_chunks ? "" : ", word by word");
  if (a.batch * a.heads * a.q_len > 0) {
    allow_shared<attention_dq<S>>(S::kBytes);
    launch(attention_dq<S>, blocks(a.q_len, a.batch * a.heads), kThreads, S::kBytes, w, delta, whole_chunks);
  }
  if constexpr (D > 128) {
    run_dkv<S, true, false>(w, delta, whole_chunks);
    run_dkv<S, false, true>(w, delta, whole_chunks);
  } else {
    run_dkv<S, true, true>(w, delta, whole_chunks);
  }
  return true;
}

// The widest tiles for which there is room: on GPUs of compute capability 9.0, 8.0, and 8.6 or 8.9.
template <Digits digits>
void backward(const AttentionBackward& w, const float* delta) {
  const std::int64_t features = w.forward.head_dim > w.forward.value_dim ? w.forward.head_dim : w.forward.value_dim;
  if (features <= 64) {
    using Split = NearRows<digits, 64, digits == Digits::all ? 2 : 1>;
    2 * Backward<digits, 64, 32, Split>::kBytes <= shared_memory_limit()
        ? run<digits, 64, 32, Split>(w, delta)
        : run<digits, 64, 32, NearRows<digits, 64, 1>>(w, delta);
  } else if (features <= 128) {
    using Rows = NearRows<digits, 128, 1>;
    run<digits, 128, 32, Rows>(w, delta) || run<digits, 128, 16, Rows>(w, delta);
  } else {
    using Rows = NearRows<digits, 256, 1>;
    run<digits, 256, 16, Rows>(w, delta) || run<digits, 256, 8, Rows>(w, delta) ||
        run<digits, 256, 16, FarRows<digits>>(w, delta);
  }
}

}  // namespace

bool attention_backward_tensor(const AttentionBackward& w, const float* delta) {
  if (!takes_tensor_cores(w.forward)) return false;
  matmul_precision() == MatmulPrecision::high ? backward<Digits::all>(w, delta) : backward<Digits::eleven>(w, delta);
  return true;
}

void register_attention_float_tensor_backward(KernelTable&) {}  // attention_float.cu asks for it

}  // namespace pydlx::cuda
