// The forward pass of attention with 16-bit floats by the instructions of sm_90a, after Shah et al. 2024,
// "FlashAttention-3": one thread of a producing warpgroup lets the copy engine bring queries, keys and values; two
// consuming warpgroups own 64 queries each. A warpgroup starts the scores of a tile of keys, then the weighted values
// of the tile before, and turns scores into weights while the values are still being added.
//
// Blocks keep their place and take tiles of queries in a fixed order; every sum belongs to one thread. Scores are in
// units of log2(e).
#include "core/verbose.h"
#include "cuda/attention/hopper.cuh"

namespace pydlx::cuda {
namespace {

constexpr int kStages = 2, kGroupQueries = kPanelSide, kQueries = kConsumers * kGroupQueries, kKeys = 128;

// D features: a power of two, the operands' rounded up.
template <int D>
struct Layout {
  static constexpr int kPanels = D / kPanelSide;  // of features
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

using Scores = float[kKeys / 2];  // a thread's, places by sum_row and sum_column
using Weights = Packed<kKeys>;

template <class T, int D>
__device__ __forceinline__ void start_scores(Scores& s, std::uint32_t queries, std::uint32_t keys) {
  wgmma_fence();
#pragma unroll
  for (int d = 0; d < D; d += 16) {
    const int panel = d / kPanelSide, inside = d % kPanelSide;
    const auto a = operand_descriptor(queries + static_cast<std::uint32_t>(panel * Layout<D>::kQueryPanel), true);
    const auto b = operand_descriptor(keys + static_cast<std::uint32_t>(panel * Layout<D>::kKeyPanel), true);
    wgmma<T, false, false>(s, advance_k(a, inside, true), advance_k(b, inside, true), d > 0);
  }
  wgmma_commit();
}
template <class T, int D>
__device__ __forceinline__ void start_values(float (&out)[D / 2], const Weights& w, std::uint32_t values) {
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < kKeys; k += 16) {
    const auto b = operand_descriptor(
        values + static_cast<std::uint32_t>(k / kPanelSide * Layout<D>::kPanels * kPanelBytes), false);
    const std::uint32_t (&a)[4] = reinterpret_cast<const std::uint32_t (&)[4]>(w[k / 4]);
    add_wgmma<T, true>(out, a, advance_k(b, k % kPanelSide, false));
  }
  wgmma_commit();
}

// Running maximum, sum and what a tile of keys makes of them.
struct RowStatistics {
  float top[2] = {-math::kInfinity<float>, -math::kInfinity<float>}, total[2] = {};
};

// Scores to weights in place; how much earlier sums fade.
__device__ __forceinline__ void to_weights(Scores& s, RowStatistics& rows, float (&fade)[2], const Attention& a,
                                           const AttentionBand& band, int q0, int k0) {
  if (!band.whole(q0, kGroupQueries, k0, kKeys)) leave_out(s, band, q0, k0);
  const float scale = static_cast<float>(a.scale) * kLog2E;  // positive
  float largest[2] = {-math::kInfinity<float>, -math::kInfinity<float>}, shift[2], sum[2] = {};
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) largest[i / 2 % 2] = s[i] > largest[i / 2 % 2] ? s[i] : largest[i / 2 % 2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float top = Larger()(rows.top[half], across_four(largest[half], Larger()) * scale);
    shift[half] = top == -math::kInfinity<float> ? 0.0f : top;
    fade[half] = exp2_approximately(rows.top[half] - shift[half]);
    rows.top[half] = top;
  }
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) {
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

// The rows of a warp once more, with products with weights of zero left out, which mean "absent": for values with
// infinities or NaN behind a mask. One row after another by the whole warp.
template <class T, int D>
__device__ void write_guarded(const Attention& a, const AttentionOrder::Place& at, std::int64_t q0) {
  const int warp_row = static_cast<int>(threadIdx.x) % kWarpgroup / kWarp * 16,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  const T *keys = rows_at<T>(a.k, at.batch, at.kv_head), *values = rows_at<T>(a.v, at.batch, at.kv_head);
  const float scale = static_cast<float>(a.scale) * kLog2E;
  for (std::int64_t i = q0 + warp_row; i < q0 + warp_row + 16 && i < a.q_len; ++i) {
    const std::int64_t row = (at.batch * a.heads + at.head) * a.q_len + i, first = i - a.before > 0 ? i - a.before : 0,
                       last = i + a.after < a.k_len - 1 ? i + a.after : a.k_len - 1;
    const float top = static_cast<const float*>(a.top)[row], inverse = static_cast<const float*>(a.inverse)[row];
    const T* const query = rows_at<T>(a.q, at.batch, at.head) + i * a.q.row;
    float sum[D / kWarp] = {};
    for (std::int64_t j = first; j <= last; ++j) {
      const float product = warp_product(query, keys + j * a.k.row, lane, a.head_dim);
      const float weight = static_cast<float>(static_cast<T>(exp2_approximately(product * scale - top)));
      if (weight == 0) continue;
#pragma unroll
      for (int n = 0; n < D / kWarp; ++n)
        if (const int f = n * kWarp + lane; f < a.value_dim)
          sum[n] += weight * static_cast<float>(values[j * a.v.row + f]);
    }
#pragma unroll
    for (int n = 0; n < D / kWarp; ++n)
      if (const int f = n * kWarp + lane; f < a.value_dim)
        (static_cast<T*>(a.out.data) + at.batch * a.out.batch + at.head * a.out.head)[i * a.out.row + f] =
            static_cast<T>(sum[n] * inverse);
  }
}

template <class T, int D>
__device__ __forceinline__ void consume(const HopperAttention& p, const unsigned char* shared, const Barriers& b) {
  using L = Layout<D>;
  const Attention& a = p.a;
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;
  const bool speaks = threadIdx.x % kWarp == 0;  // for its warp
  const std::uint32_t q = shared_address(shared + group * kGroupQueries * 128);
  const std::uint32_t keys_at = shared_address(shared + L::kKeysAt), values_at = shared_address(shared + L::kValuesAt);
  const auto tile = [](std::uint32_t at, int stage) { return at + static_cast<std::uint32_t>(stage * L::kTileBytes); };
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
      Scores s;
      Weights w;
      float fade[2];
      wait(b.k_full + turn.stage(), turn.parity());
      hold(s);
      start_scores<T, D>(s, q, tile(keys_at, turn.stage()));
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
        start_scores<T, D>(s, q, tile(keys_at, turn.stage()));
        wait(b.v_full + before.stage(), before.parity());
        start_values<T, D>(out, w, tile(values_at, before.stage()));
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
      start_values<T, D>(out, w, tile(values_at, turn.stage()));
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
      write_guarded<T, D>(a, at, q0);
    }
  }
}

template <class T, int D>
__global__ void __launch_bounds__(kThreads, 1) attention_wgmma(const __grid_constant__ HopperAttention p) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)  // empty for architectures without these instructions
  unsigned char* shared = dynamic_shared<unsigned char>();
  shared += (kSwizzlePeriod - shared_address(shared) % kSwizzlePeriod) % kSwizzlePeriod;
  const Barriers b(shared + Layout<D>::kBarriersAt);
  if (threadIdx.x == 0) {
    init_barrier(b.q_full, 1);
    init_barrier(b.q_empty, kConsumerWarps);
    for (int s = 0; s < kStages; ++s) {
      init_barrier(b.k_full + s, 1);
      init_barrier(b.k_empty + s, kConsumerWarps);
      init_barrier(b.v_full + s, 1);
      init_barrier(b.v_empty + s, kConsumerWarps);
    }
    publish_barriers();
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) / kWarpgroup == kConsumers) {
    fewer_registers<40>();
    if (threadIdx.x == kConsumers * kWarpgroup) produce<D>(p, shared, b);
  } else {
    more_registers<232>();
    consume<T, D>(p, shared, b);
  }
#endif
}

// ---- choice ---------------------------------------------------------------------------------------------------------

template <class T, int D>
void run(const HopperAttention& p) {
  launch_staying<attention_wgmma<T, D>>(p, p.order.work(), Layout<D>::kShared);
}

}  // namespace

template <class T>
bool attention_forward_hopper(const Attention& a) {
  const char* why = obstacle(a);
  HopperAttention p = {{}, {}, {}, a, {}, AttentionBand::of(a.k_len, a.before, a.after)};
  if (!why) {
    p.order = {(a.q_len + kQueries - 1) / kQueries, a.heads, a.kv_heads, a.batch, a.after < a.k_len};
    if (!encode<T>(p.q, a.q, a.head_dim, a.q_len, a.heads, a.batch, kQueries) ||
        !encode<T>(p.k, a.k, a.head_dim, a.k_len, a.kv_heads, a.batch, kKeys) ||
        !encode<T>(p.v, a.v, a.value_dim, a.k_len, a.kv_heads, a.batch, kPanelSide))
      why = "the driver encodes no tensor maps for these operands";
  }
  if (why) {
    if (verbose_on) verbose_note("; not wgmma: %s", why);
    return false;
  }
  const bool narrow = a.head_dim <= 64 && a.value_dim <= 64;
  if (verbose_on)
    verbose_note("; wgmma, tiles of %d queries and %d keys, %d features", kQueries, kKeys, narrow ? 64 : 128);
  narrow ? run<T, 64>(p) : run<T, 128>(p);
  return true;
}
template bool attention_forward_hopper<Half>(const Attention&);
template bool attention_forward_hopper<BFloat16>(const Attention&);

void register_attention_hopper(KernelTable&) {}  // attention_half.cu asks for it

}  // namespace pydlx::cuda
