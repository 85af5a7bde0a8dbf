// Scaled dot-product attention of 16-bit floats on the tensor cores, forward.
#include "core/verbose.h"
#include "cuda/attention/half.cuh"
#include "cuda/attention/hopper.h"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

// With two stages, keys and values arrive while the tile before is worked on. With one, which leaves room for a second
// block of wide heads, values arrive during the products with keys and the next keys during the sums of values.
template <int D, int columns, int stages>
struct ForwardShared {
  static constexpr int kColumns = columns, kStages = stages;
  using Rows = Tile<D, kRows>;
  using Columns = Tile<D, kColumns>;
  static constexpr std::size_t kBytes =
      16 * (Rows::kChunks + 2 * kStages * Columns::kChunks) + sizeof(float) * kRows * kColumns;
};

// Grid: blocks of queries, batch * heads.
template <class T, int D, int kColumns, int kStages>
__global__ void __launch_bounds__(kThreads, 2) attention_forward(const __grid_constant__ Attention a) {
  using S = ForwardShared<D, kColumns, kStages>;
  uint4* const shared = dynamic_shared<uint4>();
  const typename S::Rows q_tile{shared};
  // Computed, because the compiler would keep what is chosen by a stage in local memory.
  const auto k_tile = [&](int stage) {
    return typename S::Columns{shared + S::Rows::kChunks + 2 * stage * S::Columns::kChunks};
  };
  const auto v_tile = [&](int stage) { return typename S::Columns{k_tile(stage).data + S::Columns::kChunks}; };
  float* const weights = reinterpret_cast<float*>(shared + S::Rows::kChunks + 2 * kStages * S::Columns::kChunks);
  const std::int64_t q0 = static_cast<std::int64_t>(blockIdx.x) * kRows;
  const Range keys = seen_keys(a, q0, kRows, kColumns);
  for (std::int64_t bh = blockIdx.y; bh < a.batch * a.heads; bh += gridDim.y) {
    const std::int64_t batch = bh / a.heads, head = bh % a.heads, kv = head / (a.heads / a.kv_heads);
    const auto fetch_keys = [&](std::int64_t k0, int stage) {
      if (k0 < keys.end) k_tile(stage).fetch(rows_at<T>(a.k, batch, kv), a.k.row, k0, a.k_len, a.head_dim);
    };
    const auto fetch_values = [&](std::int64_t k0, int stage) {
      if (k0 < keys.end) v_tile(stage).fetch(rows_at<T>(a.v, batch, kv), a.v.row, k0, a.k_len, a.value_dim);
    };
    q_tile.fetch(rows_at<T>(a.q, batch, head), a.q.row, q0, a.q_len, a.head_dim);
    fetch_keys(keys.begin, 0);
    if constexpr (kStages == 2) fetch_values(keys.begin, 0);
    cp_async_commit();
    float out[D / 8][4] = {};
    RunningSoftmax softmax;
    int stage = 0;
    for (std::int64_t k0 = keys.begin; k0 < keys.end; k0 += kColumns, stage ^= kStages - 1) {
      if constexpr (kStages == 2) {
        fetch_keys(k0 + kColumns, stage ^ 1);
        fetch_values(k0 + kColumns, stage ^ 1);
        cp_async_commit();  // also when empty, so that the count of groups stays that of tiles
      }
      cp_async_wait<kStages - 1>();
      __syncthreads();
      if constexpr (kStages == 1) {
        fetch_values(k0, 0);
        cp_async_commit();
      }
      const bool whole = all_seen(a, q0, kRows, k0, kColumns);
      float p[kColumns / 8][4];
      row_products<T>(p, q_tile, k_tile(stage), static_cast<int>(a.head_dim));
      if constexpr (kStages == 1) {
        cp_async_wait<0>();
        __syncthreads();
        fetch_keys(k0 + kColumns, 0);
        cp_async_commit();
      }
      const auto query = [&](int, int e) { return q0 + first_row() + row_of(e); };
      const auto key = [&](int n, int e) { return k0 + n * 8 + column_of(e); };
      to_scores(p, a, batch, head, whole, weights, query, key);
      float fade[2];
      softmax.add(p, fade);
      drop(p, a, dropped_bits<kColumns / 8>(a, batch, head, query, key));
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) out[n][e] *= fade[e / 2];
      add<T>(out, p, v_tile(stage), whole, static_cast<int>(a.value_dim), weights);
      if constexpr (kStages == 2) __syncthreads();  // the stage is free for the tile after the next
    }
    float inverse[2];
    softmax.store(a, bh, q0 + first_row(), inverse);
    store<T>(out, a.out, batch, head, q0 + first_row(), a.q_len, 0, a.value_dim, inverse[0], inverse[1]);
    cp_async_wait<0>();
    __syncthreads();  // the next head overwrites the tiles
  }
}

bool fits(std::int64_t head_dim, std::int64_t value_dim) {
  return head_dim % kChunk == 0 && value_dim % kChunk == 0 && head_dim <= kMostFeatures && value_dim <= kMostFeatures;
}

template <class T, int D, int kColumns = 64, int kStages = 2>
void forward_with(const Attention& a) {
  constexpr std::size_t bytes = ForwardShared<D, kColumns, kStages>::kBytes;
  allow_shared<attention_forward<T, D, kColumns, kStages>>(bytes);
  launch(attention_forward<T, D, kColumns, kStages>, blocks(a.q_len, a.batch * a.heads), kThreads, bytes, a);
}
// As many keys per tile as let two blocks, whose registers fill a multiprocessor, stand beside each other.
template <class T>
void forward_wide(const Attention& a) {
  constexpr int D = kMostFeatures, kWide = 64, kNarrow = 32;
  constexpr std::size_t kOfSystem = 1 << 10;  // per block, and once more than a block may have per multiprocessor
  const bool wide = 2 * (ForwardShared<D, kWide, 1>::kBytes + kOfSystem) <= shared_memory_limit() + kOfSystem;
  if (verbose_on) verbose_note("; mma.sync, tiles of %d queries and %d keys", kRows, wide ? kWide : kNarrow);
  wide ? forward_with<T, D, kWide, 1>(a) : forward_with<T, D, kNarrow, 1>(a);
}
template <class T>
bool forward(const Attention& a) {
  if (a.batch * a.heads * a.q_len > 0 && !attention_forward_hopper<T>(a)) {
    const std::int64_t features = a.head_dim > a.value_dim ? a.head_dim : a.value_dim;
    if (features <= 64)
      forward_with<T, 64>(a);
    else if (features <= 128)
      forward_with<T, 128>(a);
    else
      forward_wide<T>(a);
  }
  return true;
}

template <class T>
void add_attention(AttentionKernels& k) {
  k.forward[idx<T>] = forward<T>;
  k.fits[idx<T>] = fits;
}

}  // namespace

void register_attention_half(KernelTable& t) {
  add_attention<Half>(family<AttentionKernels>(t));
  add_attention<BFloat16>(family<AttentionKernels>(t));
}

}  // namespace pydlx::cuda
