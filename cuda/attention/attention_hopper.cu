// The forward pass of attention with 16-bit floats by the instructions of sm_90a, after Shah et al. 2024,
// "FlashAttention-3": one thread of a producing warpgroup lets the copy engine bring queries, keys and values; two
// consuming warpgroups own 64 queries each. A warpgroup starts the scores of a tile of keys, then the weighted values
// of the tile before, and turns scores into weights while the values are still being added.
//
// Blocks keep their place and take tiles of queries in a fixed order; every sum belongs to one thread. Scores are in
// units of log2(e).
#include "cuda/attention/hopper.cuh"

namespace pydlx::cuda {
namespace {

constexpr int kStages = 2, kGroupQueries = kPanelSide, kQueries = kConsumers * kGroupQueries;

// D features: a power of two, the operands' rounded up.
template <int D>
struct Layout {
  static constexpr int kKeys = D > 128 ? 64 : 128;  // of a tile
  static constexpr int kPanels = D / kPanelSide;    // of features
  // Queries and keys: per panel of features a block of lines. Values: blocks of 64 keys of kPanels panels each.
  static constexpr int kQueryPanel = kQueries * 128, kKeyPanel = kKeys * 128;
  static constexpr int kQueryBytes = kPanels * kQueryPanel, kTileBytes = kPanels * kKeyPanel;
  static constexpr int kKeysAt = kQueryBytes, kValuesAt = kKeysAt + kStages * kTileBytes,
                       kBarriersAt = kValuesAt + kStages * kTileBytes;
  static constexpr std::size_t kShared = kBarriersAt + kSwizzlePeriod + (2 + 4 * kStages) * sizeof(Barrier);
  static_assert(kShared <= 227 << 10);
};

struct HopperAttention {
  CUtensorMap q, k, v;
  Attention a;
  AttentionOrder order;
  AttentionBand band;
};

struct Barriers {
  Barrier *q_full, *q_empty, *k_full, *k_empty, *v_full, *v_empty;
  __device__ __forceinline__ explicit Barriers(unsigned char* at) : q_full(reinterpret_cast<Barrier*>(at)) {
    q_empty = q_full + 1;
    k_full = q_empty + 1;
    k_empty = k_full + kStages;
    v_full = k_empty + kStages;
    v_empty = v_full + kStages;
  }
};

// ---- producer -------------------------------------------------------------------------------------------------------

template <int D>
__device__ __forceinline__ void produce(const HopperAttention& p, unsigned char* shared, const Barriers& b) {
  using L = Layout<D>;
  constexpr int kKeys = L::kKeys;
  Turn<kStages> turn;
  std::uint32_t q_parity = 0;
  for (std::int64_t index = blockIdx.x; index < p.order.work(); index += gridDim.x, q_parity ^= 1) {
    const AttentionOrder::Place at = p.order.place(index);
    const int batch = static_cast<int>(at.batch), head = static_cast<int>(at.head), kv = static_cast<int>(at.kv_head);
    const int q0 = static_cast<int>(at.tile) * kQueries;
    wait(b.q_empty, q_parity ^ 1);  // in the first round at once, like those below
    arrive_expecting(b.q_full, L::kQueryBytes);
#pragma unroll
    for (int f = 0; f < L::kPanels; ++f)
      load_box(shared + f * L::kQueryPanel, p.q, f * kPanelSide, q0, head, batch, b.q_full);
    const AttentionBand::Span keys = p.band.seen(q0, kQueries, kKeys);
    for (int k0 = keys.begin; k0 < keys.end; k0 += kKeys, turn.next()) {
      unsigned char* const k = shared + L::kKeysAt + turn.stage() * L::kTileBytes;
      unsigned char* const v = shared + L::kValuesAt + turn.stage() * L::kTileBytes;
      wait(b.k_empty + turn.stage(), turn.parity() ^ 1);
      arrive_expecting(b.k_full + turn.stage(), L::kTileBytes);
#pragma unroll
      for (int f = 0; f < L::kPanels; ++f)
        load_box(k + f * L::kKeyPanel, p.k, f * kPanelSide, k0, kv, batch, b.k_full + turn.stage());
      wait(b.v_empty + turn.stage(), turn.parity() ^ 1);
      arrive_expecting(b.v_full + turn.stage(), L::kTileBytes);
#pragma unroll
      for (int half = 0; half < kKeys / kPanelSide; ++half)
#pragma unroll
        for (int f = 0; f < L::kPanels; ++f)
          load_box(v + (half * L::kPanels + f) * kPanelBytes, p.v, f * kPanelSide, k0 + half * kPanelSide, kv, batch,
                   b.v_full + turn.stage());
    }
  }
}

// ---- consumers ------------------------------------------------------------------------------------------------------

template <int keys>
using Scores = float[keys / 2];  // a thread's, places by sum_row and sum_column

// Running maximum, sum and what a tile of keys makes of them.
struct RowStatistics {
  float top[2] = {-math::kInfinity<float>, -math::kInfinity<float>}, total[2] = {};
};

// Scores to weights in place; how much earlier sums fade.
template <int count>
__device__ __forceinline__ void to_weights(float (&s)[count], RowStatistics& rows, float (&fade)[2], const Attention& a,
                                           const AttentionBand& band, int q0, int k0) {
  constexpr int kKeys = 2 * count;
  if (!band.whole(q0, kGroupQueries, k0, kKeys)) leave_out(s, band, q0, k0);
  const float scale = static_cast<float>(a.scale) * kLog2E;  // positive
  float largest[2] = {-math::kInfinity<float>, -math::kInfinity<float>}, shift[2], sum[2] = {};
#pragma unroll
  for (int i = 0; i < count; ++i) largest[i / 2 % 2] = s[i] > largest[i / 2 % 2] ? s[i] : largest[i / 2 % 2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float top = Larger()(rows.top[half], across_four(largest[half], Larger()) * scale);
    shift[half] = top == -math::kInfinity<float> ? 0.0f : top;
    fade[half] = exp2_approximately(rows.top[half] - shift[half]);
    rows.top[half] = top;
  }
#pragma unroll
  for (int i = 0; i < count; ++i) {
    s[i] = exp2_approximately(s[i] * scale - shift[i / 2 % 2]);
    sum[i / 2 % 2] += s[i];
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) rows.total[half] = rows.total[half] * fade[half] + across_four(sum[half], Sum());
}

template <class T, int D>
__device__ __forceinline__ void finish_rows(const float (&out)[D / 2], const RowStatistics& rows, const Attention& a,
                                            const AttentionOrder::Place& at, int q0) {
  const std::int64_t first = (at.batch * a.heads + at.head) * a.q_len;
  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t row = q0 + sum_row(2 * half);
    inverse[half] = rows.total[half] == 0 ? 0.0f : 1.0f / rows.total[half];
    if (row >= a.q_len || sum_column(0) != 0) continue;
    static_cast<float*>(a.top)[first + row] = rows.top[half];
    static_cast<float*>(a.inverse)[first + row] = inverse[half];
  }
  store_sums<T>(out, a.out, at.batch, at.head, q0, a.q_len, a.value_dim, inverse);
}

template <class T, int D>
__device__ void write_guarded(const HopperAttention& p, const AttentionOrder::Place& at, int q0) {
  const Attention& a = p.a;
  const T *const keys = rows_at<T>(a.k, at.batch, at.kv_head), *const values = rows_at<T>(a.v, at.batch, at.kv_head);
  const float scale = static_cast<float>(a.scale) * kLog2E;
  each_row_of_warp(q0, a.q_len, [&](int i, int lane) {
    const std::int64_t row = (at.batch * a.heads + at.head) * a.q_len + i;
    const float top = static_cast<const float*>(a.top)[row], inverse = static_cast<const float*>(a.inverse)[row];
    const T* const query = rows_at<T>(a.q, at.batch, at.head) + i * a.q.row;
    const AttentionBand::Limits seen = p.band.limits(i, 0, p.band.columns);
    float sum[D / kWarp] = {};
    for (int j = seen.first; j <= seen.last && j < p.band.columns; ++j) {
      const float product = warp_product(query, keys + j * a.k.row, lane, a.head_dim);
      const float weight = rounded<T>(exp2_approximately(product * scale - top));
      if (weight == 0) continue;
#pragma unroll
      for (int n = 0; n < D / kWarp; ++n)
        if (const int f = n * kWarp + lane; f < a.value_dim)
          sum[n] += weight * static_cast<float>(values[j * a.v.row + f]);
    }
    store_row<T>(sum, a.out, at.batch, at.head, i, lane, a.value_dim, inverse);
  });
}

template <class T, int D>
__device__ __forceinline__ void consume(const HopperAttention& p, const unsigned char* shared, const Barriers& b) {
  using L = Layout<D>;
  constexpr int kKeys = L::kKeys;
  const Attention& a = p.a;
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;
  const bool speaks = threadIdx.x % kWarp == 0;  // for its warp
  const std::uint64_t q = operand_descriptor(shared_address(shared + group * kGroupQueries * 128), true),
                      keys_at = operand_descriptor(shared_address(shared + L::kKeysAt), true),
                      values_at = operand_descriptor(shared_address(shared + L::kValuesAt), false);
  const auto tile = [](std::uint64_t first, int stage) { return advance(first, stage * L::kTileBytes); };
  const auto start_scores_of = [&](Scores<kKeys>& s, int stage) {
    start_scores<T, D, L::kQueryPanel, L::kKeyPanel>(s, q, tile(keys_at, stage));
  };
  Turn<kStages> turn;
  std::uint32_t q_parity = 0;
  for (std::int64_t index = blockIdx.x; index < p.order.work(); index += gridDim.x, q_parity ^= 1) {
    const AttentionOrder::Place at = p.order.place(index);
    const int tile0 = static_cast<int>(at.tile) * kQueries, q0 = tile0 + group * kGroupQueries;
    const AttentionBand::Span keys = p.band.seen(tile0, kQueries, kKeys);
    float out[D / 2] = {};
    RowStatistics rows;
    bool again = false;  // the same in all threads of a warp
    wait(b.q_full, q_parity);
    if (keys.begin < keys.end) {
      Scores<kKeys> s;
      Packed<kKeys> w;
      float fade[2];
      wait(b.k_full + turn.stage(), turn.parity());
      hold(s);
      start_scores_of(s, turn.stage());
      wgmma_wait<0>();
      hold(s);
      if (speaks) arrive(b.k_empty + turn.stage());
      to_weights(s, rows, fade, a, p.band, q0, keys.begin);
      pack<T>(w, s);
      const auto guarded = [&](const Turn<kStages>& t, int k0) {
        return !p.band.whole(q0, kGroupQueries, k0, kKeys) &&
               !finite<T>(shared + L::kValuesAt + t.stage() * L::kTileBytes, L::kTileBytes);
      };
      for (int k0 = keys.begin + kKeys; k0 < keys.end; k0 += kKeys) {
        const Turn<kStages> before = turn;
        turn.next();
        wait(b.k_full + turn.stage(), turn.parity());
        hold(s);
        hold(out);
        hold(w);
        start_scores_of(s, turn.stage());
        wait(b.v_full + before.stage(), before.parity());
        start_sums<T>(out, w, tile(values_at, before.stage()));
        wgmma_wait<1>();
        hold(s);
        if (speaks) arrive(b.k_empty + turn.stage());
        to_weights(s, rows, fade, a, p.band, q0, k0);
        wgmma_wait<0>();
        hold(out);
        hold(w);
        again = again || guarded(before, k0 - kKeys);
        if (speaks) arrive(b.v_empty + before.stage());
#pragma unroll
        for (int i = 0; i < D / 2; ++i) out[i] *= fade[i / 2 % 2];
        pack<T>(w, s);
      }
      hold(out);
      hold(w);
      wait(b.v_full + turn.stage(), turn.parity());
      start_sums<T>(out, w, tile(values_at, turn.stage()));
      wgmma_wait<0>();
      hold(out);
      hold(w);
      again = again || guarded(turn, (keys.end - 1 - keys.begin) / kKeys * kKeys + keys.begin);
      if (speaks) arrive(b.v_empty + turn.stage());
      turn.next();
    }
    if (speaks) arrive(b.q_empty);
    finish_rows<T, D>(out, rows, a, at, q0);
    if (again) {
      __syncwarp();  // the statistics are there
      write_guarded<T, D>(p, at, q0);
    }
  }
}

template <class T, int D>
__global__ void __launch_bounds__(kThreads, 1) attention_wgmma(const __grid_constant__ HopperAttention p) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)  // empty for architectures without these instructions
  unsigned char* const shared = swizzled_shared();
  const Barriers b(shared + Layout<D>::kBarriersAt);
  const auto init = [&] {
    init_ring(b.q_full, b.q_empty, 1, 1);
    init_ring(b.k_full, b.k_empty, kStages, 1);
    init_ring(b.v_full, b.v_empty, kStages, 1);
  };
  const auto produce_alone = [&] {
    if (threadIdx.x == kConsumers * kWarpgroup) produce<D>(p, shared, b);
  };
  share_work(init, produce_alone, [&] { consume<T, D>(p, shared, b); });
#endif
}

// ---- choice ---------------------------------------------------------------------------------------------------------

// Why it does not serve the operands, or null.
template <class T, int D>
const char* run(HopperAttention& p) {
  const Attention& a = p.a;
  constexpr int kKeys = Layout<D>::kKeys;
  if (!encode<T>(p.q, a.q, a.head_dim, a.q_len, a.heads, a.batch, kQueries) ||
      !encode<T>(p.k, a.k, a.head_dim, a.k_len, a.kv_heads, a.batch, kKeys) ||
      !encode<T>(p.v, a.v, a.value_dim, a.k_len, a.kv_heads, a.batch, kPanelSide))
    return kNoMaps;
  if (verbose_on) verbose_note("; wgmma, tiles of %d queries and %d keys, %d features", kQueries, kKeys, D);
  launch_staying<attention_wgmma<T, D>>(p, p.order.work(), Layout<D>::kShared);
  return nullptr;
}

}  // namespace

template <class T>
bool attention_forward_hopper(const Attention& a) {
  const char* why = obstacle(a, 256);
  if (!why) {
    HopperAttention p = {{}, {}, {}, a, {}, AttentionBand::of(a.k_len, a.before, a.after)};
    p.order = {(a.q_len + kQueries - 1) / kQueries, a.heads, a.kv_heads, a.batch, a.after < a.k_len};
    const std::int64_t features = a.head_dim > a.value_dim ? a.head_dim : a.value_dim;
    why = features <= 64 ? run<T, 64>(p) : features <= 128 ? run<T, 128>(p) : run<T, 256>(p);
  }
  return !refused(why);
}
template bool attention_forward_hopper<Half>(const Attention&);
template bool attention_forward_hopper<BFloat16>(const Attention&);

void register_attention_hopper(KernelTable&) {}  // attention_half.cu asks for it

}  // namespace pydlx::cuda
