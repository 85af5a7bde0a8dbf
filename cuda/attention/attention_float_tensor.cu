// Scaled dot-product attention of float32 on the tensor cores, forward.
#include "cuda/attention/float.cuh"
#include "cuda/attention/float_tensor.h"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

// One tile of keys and one of values: values arrive during the products with keys, the next keys during the sums of
// values, and two or three blocks on a multiprocessor work while others wait.
template <Digits precision, int features, int columns, int parts>
struct Forward {
  static constexpr Digits digits = precision;
  static constexpr int D = features, kColumns = columns, kBlocks = D == 64 ? 3 : 2;
  using Rows = NearRows<digits, D, digits == Digits::all ? parts : 1>;
  using Tile = FloatTile<D, kColumns>;
  static constexpr std::size_t kBytes = Rows::kBytes + 2 * Tile::kBytes + sizeof(float) * kRows * kColumns;
};

// Grid: blocks of queries, batch * heads.
template <class S>
__global__ void __launch_bounds__(kThreads, S::kBlocks)
    attention_forward(const __grid_constant__ Attention a, bool whole_chunks) {
  constexpr int D = S::D, kColumns = S::kColumns, N = kColumns / 8;
  float4* const shared = dynamic_shared<float4>();
  const typename S::Rows rows{shared};
  const typename S::Tile k_tile{shared + S::Rows::kBytes / sizeof(float4)}, v_tile{k_tile.data + S::Tile::kChunks};
  float* const slots = reinterpret_cast<float*>(v_tile.data + S::Tile::kChunks);
  const std::int64_t q0 = static_cast<std::int64_t>(blockIdx.x) * kRows;
  const Range keys = seen_keys(a, q0, kRows, kColumns);
  for (std::int64_t bh = blockIdx.y; bh < a.batch * a.heads; bh += gridDim.y) {
    const int batch = static_cast<int>(bh / a.heads), head = static_cast<int>(bh % a.heads),
              kv = head / static_cast<int>(a.heads / a.kv_heads);
    const auto q = [&] { return Lines(a.q, batch, head, a.q_len, a.head_dim); };
    const auto k = [&] { return Lines(a.k, batch, kv, a.k_len, a.head_dim); };
    const auto v = [&] { return Lines(a.v, batch, kv, a.k_len, a.value_dim); };
    const auto fetch = [&](const typename S::Tile& to, const auto& from, std::int64_t k0) {
      if (k0 < keys.end) to.fetch(from(), k0, whole_chunks);
      cp_async_commit();
    };
    rows.bring(q(), q0);
    float out[D / 8][4];
    RunningSoftmax softmax;
    for (bool plainly = false;; plainly = true) {
      fetch(k_tile, k, keys.begin);
#pragma unroll
      for (int i = 0; i < D / 2; ++i) out[i / 4][i % 4] = 0;
      softmax = {};
#pragma unroll 1
      for (std::int64_t k0 = keys.begin; k0 < keys.end; k0 += kColumns) {
        cp_async_wait<0>();
        __syncthreads();  // the keys are there, and nobody reads the values before
        fetch(v_tile, v, k0);
        const auto query = [&](int, int e) { return q0 + first_row() + row_of(e); };
        const auto key = [&](int n, int e) { return k0 + n * 8 + column_of(e); };
        float p[N][4], fade[2];
        row_products<S::digits, true>(p, rows, k_tile, static_cast<int>(a.head_dim));
        replace_special(p, slots, q, k, query, key);
        cp_async_wait<0>();
        __syncthreads();  // the values are there, and nobody reads the keys
        fetch(k_tile, k, k0 + kColumns);
        to_scores(p, a, batch, head, all_seen(a, q0, kRows, k0, kColumns), slots, query, key);
        softmax.add(p, fade);
        drop(p, a, dropped_bits<N>(a, batch, head, query, key));
#pragma unroll
        for (int n = 0; n < D / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) out[n][e] *= fade[e / 2];
        if (plainly)
          add_plainly<D>(out, p, v_tile, limited(a), slots);
        else
          add_weighted<S::digits, D>(out, p, v_tile, static_cast<int>(a.value_dim));
      }
      cp_async_wait<0>();
      __syncthreads();  // the tiles may be overwritten
      if (plainly || !any_of_block<kWarps>(any_special(out))) break;
    }
    float inverse[2];
    softmax.store(a, bh, q0 + first_row(), inverse);
    store(out, a.out, batch, head, q0 + first_row(), a.q_len, a.value_dim, whole_chunks, inverse[0], inverse[1]);
  }
}

template <class S>
void run(const Attention& a) {
  const bool whole_chunks = in_chunks(a.k, a.head_dim) && in_chunks(a.v, a.value_dim) && in_chunks(a.out, a.value_dim);
  if (verbose_on)
    verbose_note("; %s, tiles of %d queries and %d keys%s", units_of<float>(S::digits), kRows, S::kColumns,
                 whole_chunks ? "" : ", word by word");
  allow_shared<attention_forward<S>>(S::kBytes);
  launch(attention_forward<S>, blocks(a.q_len, a.batch * a.heads), kThreads, S::kBytes, a, whole_chunks);
}

template <Digits digits>
void forward(const Attention& a) {
  const std::int64_t features = a.head_dim > a.value_dim ? a.head_dim : a.value_dim;
  const std::size_t limit = shared_memory_limit();
  if (features <= 64) return run<Forward<digits, 64, 32, 2>>(a);
  if (features <= 128) {
    using Split = Forward<digits, 128, 32, 2>;
    return 2 * Split::kBytes <= limit ? run<Split>(a) : run<Forward<digits, 128, 32, 1>>(a);
  }
  using Wide = Forward<digits, 256, 16, 1>;
  Wide::kBytes <= limit ? run<Wide>(a) : run<Forward<digits, 256, 8, 1>>(a);
}

}  // namespace

bool attention_forward_tensor(const Attention& a) {
  if (!takes_tensor_cores(a)) return false;
  matmul_precision() == MatmulPrecision::high ? forward<Digits::all>(a) : forward<Digits::eleven>(a);
  return true;
}

void register_attention_float_tensor(KernelTable&) {}  // attention_float.cu asks for it

}  // namespace pydlx::cuda
