// The backward pass of attention with 16-bit floats by the instructions of sm_90a. Two kernels of one shape, which work
// like the forward pass: a warp of a producing warpgroup lets the copy engine bring two operands' rows, which stay for
// a round (and those of the next round before it begins), and tiles of the other two operands' lines, called columns;
// two consuming warpgroups own 64 rows each.
//
//   rows are      columns are    products per tile
//   queries, dO   keys, values   S = Q K^T, dP = dO V^T, dQ += dS K
//   keys, values  queries, dO    S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q
//
// with P = exp2(S - top) inverse and dS = P (dP - delta), delta = rowsum(dO * out). That is seven products, where one
// kernel over keys takes five and adds dQ up in memory: by atomics, whose order changes from run to run, or by blocks
// that wait for each other, with 64 x D floats read and written again for every tile and a float copy of dQ. Here every
// sum belongs to one thread and has one order, no block waits for another, and no memory is needed.
//
// A product of 64 x 64 x D takes 2 D cycles of a multiprocessor's tensor cores (2048 multiply-adds each). Shared memory
// (128 bytes a cycle) gives the operands of S or dP in 2 D cycles as well, the right operand of a sum, whose left one
// is in registers, in D: 5 D of 6 D for queries, 6 D of 8 D for keys. P and dS go from sums to left operands without
// moving: the places of both are the same.
#include "cuda/attention/hopper.cuh"

namespace pydlx::cuda {
namespace {

constexpr int kGroupRows = kPanelSide, kRows = kConsumers * kGroupRows, kColumns = kPanelSide,
              kRounds = 2;  // whose rows are in shared memory

// D features: a power of two, the operands' rounded up. A tile is 64 lines, one panel per 64 features.
template <int D>
struct Layout {
  static constexpr int kPanels = D / kPanelSide, kTile = kPanels * kPanelBytes;
  // Per operand the tiles of both consumers, of a round and of the next one; per stage a tile per operand; per stage
  // three numbers for each column.
  static constexpr int kRowBytes = 2 * kConsumers * kTile, kStages = D > 64 ? 3 : 4, kStageBytes = 2 * kTile,
                       kNumberBytes = 3 * kColumns * static_cast<int>(sizeof(float));
  static constexpr int kStagesAt = kRounds * kRowBytes, kNumbersAt = kStagesAt + kStages * kStageBytes,
                       kBarriersAt = kNumbersAt + kStages * kNumberBytes;
  static constexpr std::size_t kShared = kBarriersAt + 2 * (kRounds + kStages) * sizeof(Barrier);
  static_assert(kShared <= 227 << 10);
};

// A block's tile of rows in a round, as AttentionOrder places it.
__device__ __forceinline__ int work_of(int round) { return static_cast<int>(blockIdx.x + round * gridDim.x); }
struct Place {
  int r0, head, kv_head, batch;
  __device__ __forceinline__ Place(const AttentionOrder& order, int round) {
    const AttentionOrder::Place at = order.place(work_of(round));
    r0 = static_cast<int>(at.tile) * kRows;
    head = static_cast<int>(at.head);
    kv_head = static_cast<int>(at.kv_head);
    batch = static_cast<int>(at.batch);
  }
};

struct HopperBackward {
  CUtensorMap rows[2], columns[2];  // boxes of a panel
  AttentionBackward w;
  const float* delta;
  AttentionOrder order;  // of tiles of kRows rows
  AttentionBand band;
  float scale, log2_scale;  // the second one for scores in units of log2(e)
};

struct Barriers {
  Barrier *rows_full, *rows_empty, *full, *empty;
  __device__ __forceinline__ Barriers(unsigned char* at, int stages) : rows_full(reinterpret_cast<Barrier*>(at)) {
    rows_empty = rows_full + kRounds;
    full = rows_empty + kRounds;
    empty = full + stages;
  }
};

// Heads of the columns that belong to a head of the rows.
template <bool of_keys>
struct ColumnHeads {
  int first, count;
  __device__ __forceinline__ ColumnHeads(const Attention& a, const Place& at) : first(at.kv_head), count(1) {
    if (of_keys) {
      count = static_cast<int>(a.heads / a.kv_heads);
      first *= count;
    }
  }
};

// What the forward pass left of a query, and delta.
struct QueryNumbers {
  float shift, inverse, delta;
  __device__ __forceinline__ QueryNumbers(const HopperBackward& p, std::int64_t batch, std::int64_t head, int query)
      : shift(0), inverse(0), delta(0) {
    const Attention& a = p.w.forward;
    if (query >= a.q_len) return;
    const std::int64_t row = (batch * a.heads + head) * a.q_len + query;
    const float top = static_cast<const float*>(a.top)[row];
    shift = top == -math::kInfinity<float> ? 0.0f : top;
    inverse = static_cast<const float*>(a.inverse)[row];
    delta = p.delta[row];
  }
};

// ---- producer: one warp ---------------------------------------------------------------------------------------------

template <int D>
__device__ __forceinline__ void load_tile(unsigned char* to, const CUtensorMap& map, int line, int head, int batch,
                                          Barrier* done) {
#pragma unroll
  for (int f = 0; f < Layout<D>::kPanels; ++f)
    load_box(to + f * kPanelBytes, map, f * kPanelSide, line, head, batch, done);
}

template <int D, bool of_keys>
__device__ __forceinline__ void produce(const HopperBackward& p, unsigned char* shared, const Barriers& b) {
  using L = Layout<D>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  Turn<L::kStages> turn;
  for (int round = 0; work_of(round) < p.order.work(); ++round) {
    const Place at(p.order, round);
    if (lane == 0) {
      // While the last columns of the round before are worked on. In the first rounds the wait ends at once, like that
      // below.
      const int place = round % kRounds;
      wait(b.rows_empty + place, round / kRounds % 2 ^ 1);
      arrive_expecting(b.rows_full + place, L::kRowBytes);
#pragma unroll
      for (int i = 0; i < 2 * kConsumers; ++i)
        load_tile<D>(shared + place * L::kRowBytes + i * L::kTile, p.rows[i / kConsumers],
                     at.r0 + i % kConsumers * kGroupRows, at.head, at.batch, b.rows_full + place);
    }
    const ColumnHeads<of_keys> heads(p.w.forward, at);
    const AttentionBand::Span seen = p.band.seen(at.r0, kRows, kColumns);
    for (int head = heads.first; head < heads.first + heads.count; ++head)
      for (int c0 = seen.begin; c0 < seen.end; c0 += kColumns, turn.next()) {
        Barrier* const full = b.full + turn.stage();
        wait(b.empty + turn.stage(), turn.parity() ^ 1);
        if (lane == 0) {
          unsigned char* const to = shared + L::kStagesAt + turn.stage() * L::kStageBytes;
          arrive_expecting(full, L::kStageBytes);
          load_tile<D>(to, p.columns[0], c0, head, at.batch, full);
          load_tile<D>(to + L::kTile, p.columns[1], c0, head, at.batch, full);
        }
        if (of_keys) {
          float* const to = reinterpret_cast<float*>(shared + L::kNumbersAt + turn.stage() * L::kNumberBytes);
#pragma unroll
          for (int c = lane; c < kColumns; c += kWarp) {
            const QueryNumbers n(p, at.batch, head, c0 + c);
            to[c] = n.shift;
            to[kColumns + c] = n.inverse;
            to[2 * kColumns + c] = n.delta;
          }
          arrive(full);  // every lane for itself
        }
      }
  }
}

// ---- consumers ------------------------------------------------------------------------------------------------------

using Scores = float[kColumns / 2];  // a thread's, places by sum_row and sum_column
using Weights = Packed<kColumns>;

// The numbers of the queries that a thread meets: those of its two rows, or of the columns of a stage. `group` is
// that of eight columns, e one of the thread's four values there.
struct RowNumbers {
  float shift[2], delta[2];
  __device__ __forceinline__ void load_weights(int) {}
  __device__ __forceinline__ void load_delta(int) {}
  __device__ __forceinline__ float weight(float s, float scale, int e) const {
    return exp2_approximately(s * scale - shift[e / 2]);
  }
  __device__ __forceinline__ float delta_of(int e) const { return delta[e / 2]; }
};
struct ColumnNumbers {
  struct alignas(8) Two {
    float of[2];
  };
  const Two* at;  // of the thread's first two columns
  Two shift, inverse, delta;
  __device__ __forceinline__ explicit ColumnNumbers(const unsigned char* stage)
      : at(reinterpret_cast<const Two*>(stage) + sum_column(0) / 2) {}
  __device__ __forceinline__ void load_weights(int group) {
    shift = at[group * 4];
    inverse = at[kColumns / 2 + group * 4];
  }
  __device__ __forceinline__ void load_delta(int group) { delta = at[kColumns + group * 4]; }
  __device__ __forceinline__ float weight(float s, float scale, int e) const {
    return exp2_approximately(s * scale - shift.of[e % 2]) * inverse.of[e % 2];
  }
  __device__ __forceinline__ float delta_of(int e) const { return delta.of[e % 2]; }
};

// Keeps loads from being brought in long before their use, which would take all registers.
__device__ __forceinline__ void in_order() {
#if !defined(PYDLX_CUDA_EMULATED)
  asm volatile("" ::: "memory");
#endif
}

template <class Numbers>
__device__ __forceinline__ void to_weights(Scores& s, Numbers of, float scale) {
#pragma unroll
  for (int group = 0; group < kColumns / 8; ++group) {
    of.load_weights(group);
#pragma unroll
    for (int e = 0; e < 4; ++e) s[group * 4 + e] = of.weight(s[group * 4 + e], scale, e);
    in_order();
  }
}
// dP to dS. What no row sees does not matter, whatever it is.
template <class Numbers>
__device__ __forceinline__ void to_slopes(Scores& d, const Scores& weights, Numbers of, bool whole) {
#pragma unroll
  for (int group = 0; group < kColumns / 8; ++group) {
    of.load_delta(group);
#pragma unroll
    for (int e = 0; e < 4; ++e) d[group * 4 + e] = weights[group * 4 + e] * (d[group * 4 + e] - of.delta_of(e));
    in_order();
  }
  if (whole) return;
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) d[i] = weights[i] == 0 ? 0.0f : d[i];
}

template <class T, int D, bool of_keys>
__device__ void write_guarded(const HopperBackward& p, const Place& at, int r0) {
  const AttentionBackward& w = p.w;
  const Attention& a = w.forward;
  const ColumnHeads<of_keys> heads(a, at);
  const T *const k = rows_at<T>(a.k, at.batch, at.kv_head), *const v = rows_at<T>(a.v, at.batch, at.kv_head);
  each_row_of_warp(r0, of_keys ? a.k_len : a.q_len, [&](int row, int lane) {
    const AttentionBand::Limits seen = p.band.limits(row, 0, p.band.columns);
    float slopes_sum[D / kWarp] = {}, weights_sum[D / kWarp] = {};
    for (int head = 0; head < heads.count; ++head) {
      const std::int64_t q_head = of_keys ? heads.first + head : at.head;
      const T *const q = rows_at<T>(a.q, at.batch, q_head), *const g = rows_at<T>(w.dout, at.batch, q_head);
      for (int column = seen.first; column <= seen.last && column < p.band.columns; ++column) {
        const std::int64_t i = of_keys ? column : row, j = of_keys ? row : column;
        const QueryNumbers n(p, at.batch, q_head, static_cast<int>(i));
        const float product = warp_product(q + i * a.q.row, k + j * a.k.row, lane, a.head_dim);
        const float weight = exp2_approximately(product * p.log2_scale - n.shift) * n.inverse;
        if (weight == 0) continue;
        const float slope = weight * (warp_product(g + i * w.dout.row, v + j * a.v.row, lane, a.value_dim) - n.delta);
        const float ds = rounded<T>(slope), kept = rounded<T>(weight);
        const T* const other = of_keys ? q + i * a.q.row : k + j * a.k.row;
#pragma unroll
        for (int m = 0; m < D / kWarp; ++m) {
          const int f = m * kWarp + lane;
          if (ds != 0 && f < a.head_dim) slopes_sum[m] += ds * static_cast<float>(other[f]);
          if (of_keys && kept != 0 && f < a.value_dim)
            weights_sum[m] += kept * static_cast<float>(g[i * w.dout.row + f]);
        }
      }
    }
    store_row<T>(slopes_sum, of_keys ? w.dk : w.dq, at.batch, at.head, row, lane, a.head_dim, p.scale);
    if (of_keys) store_row<T>(weights_sum, w.dv, at.batch, at.head, row, lane, a.value_dim, 1);
  });
}

template <class T, int D, bool of_keys>
__device__ __forceinline__ void consume(const HopperBackward& p, const unsigned char* shared, const Barriers& b) {
  using L = Layout<D>;
  // Whether the sums of a tile are added up while the scores of the next one are computed: as far as registers allow.
  constexpr bool kOverlap = D / 2 * (of_keys ? 2 : 1) < 128;
  const AttentionBackward& w = p.w;
  const Attention& a = w.forward;
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;
  const bool speaks = threadIdx.x % kWarp == 0;  // for its warp
  const std::uint32_t stages_at = shared_address(shared + L::kStagesAt);
  const std::uint64_t first_rows = operand_descriptor(shared_address(shared + group * L::kTile), true);
  Turn<L::kStages> turn;
  for (int round = 0; work_of(round) < p.order.work(); ++round) {
    const Place at(p.order, round);
    const int r0 = at.r0 + group * kGroupRows;
    float slopes_sum[D / 2] = {};                 // dQ or dK
    float weights_sum[of_keys ? D / 2 : 1] = {};  // dV
    RowNumbers mine = {};
    if (!of_keys) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const QueryNumbers n(p, at.batch, at.head, r0 + sum_row(2 * half));
        // The inverse is part of the shift: slopes of weights that do not add up to 1 could leave float16's range.
        mine.shift[half] = n.inverse == 0 ? math::kInfinity<float> : n.shift - math::log2(n.inverse);
        mine.delta[half] = n.delta;
      }
    }
    bool again = false;                // the same in all threads of a warp
    [[maybe_unused]] int before = -1;  // the stage whose sums are under way
    Scores s, d;
    Weights packed_weights, packed_slopes;
    const auto hold_sums = [&] {
      hold(slopes_sum);
      hold(packed_slopes);
      if constexpr (of_keys) {
        hold(weights_sum);
        hold(packed_weights);
      }
    };
    const std::uint64_t rows = advance(first_rows, round % kRounds * L::kRowBytes);
    wait(b.rows_full + round % kRounds, round / kRounds % 2);
    for (int heads = ColumnHeads<of_keys>(a, at).count; heads > 0; --heads) {
      const AttentionBand::Span seen = p.band.seen(once_more(r0) / kRows * kRows, kRows, kColumns);
      for (int c0 = seen.begin; c0 < seen.end; c0 += kColumns, turn.next()) {
        const std::uint32_t columns_at = stages_at + static_cast<std::uint32_t>(turn.stage() * L::kStageBytes);
        const std::uint64_t columns = operand_descriptor(columns_at, true),
                            summed_columns = operand_descriptor(columns_at, false);
        const auto numbers = [&] {
          if constexpr (of_keys)
            return ColumnNumbers(shared + L::kNumbersAt + turn.stage() * L::kNumberBytes);
          else
            return mine;
        };
        const int first_row = once_more(r0);
        const bool whole = p.band.whole(first_row, kGroupRows, c0, kColumns);
        wait(b.full + turn.stage(), turn.parity());
        hold(s);
        start_scores<T, D, kPanelBytes, kPanelBytes>(s, rows, columns);
        if constexpr (kOverlap) {
          wgmma_wait<1>();
          hold_sums();
          if (before >= 0 && speaks) arrive(b.empty + before);
          before = turn.stage();
        }
        hold(d);
        start_scores<T, D, kPanelBytes, kPanelBytes>(d, advance(rows, kConsumers * L::kTile),
                                                     advance(columns, L::kTile));
        wgmma_wait<1>();
        hold(s);
        if (!whole) leave_out(s, p.band, first_row, c0);
        to_weights(s, numbers(), p.log2_scale);
        wgmma_wait<0>();
        hold(d);
        to_slopes(d, s, numbers(), whole);
        // Nothing is packed while sums are under way: the compiler would let the products wait for each other.
        pack<T>(packed_slopes, d);
        if constexpr (of_keys) {
          pack<T>(packed_weights, s);
          __syncwarp();  // all lanes have read the columns' numbers before one gives them back
          start_sums<T>(weights_sum, packed_weights, advance(summed_columns, L::kTile));
        }
        start_sums<T>(slopes_sum, packed_slopes, summed_columns);
        again = again || (!whole && !finite<T>(shared + L::kStagesAt + turn.stage() * L::kStageBytes,
                                               of_keys ? L::kStageBytes : L::kTile));
        if constexpr (!kOverlap) {
          wgmma_wait<0>();
          hold_sums();
          if (speaks) arrive(b.empty + turn.stage());
        }
      }
    }
    if constexpr (kOverlap) {
      wgmma_wait<0>();
      hold_sums();
      if (before >= 0 && speaks) arrive(b.empty + before);
    }
    if (speaks) arrive(b.rows_empty + round % kRounds);
    const Place here(p.order, once_more(round));
    if constexpr (of_keys) {
      store_sums<T>(slopes_sum, w.dk, here.batch, here.head, r0, a.k_len, a.head_dim, {p.scale, p.scale});
      store_sums<T>(weights_sum, w.dv, here.batch, here.head, r0, a.k_len, a.value_dim, {1, 1});
    } else {
      store_sums<T>(slopes_sum, w.dq, here.batch, here.head, r0, a.q_len, a.head_dim, {p.scale, p.scale});
    }
    if (again) {
      __syncwarp();  // after the stores of all lanes
      write_guarded<T, D, of_keys>(p, here, r0);
    }
  }
}

template <class T, int D, bool of_keys>
__global__ void __launch_bounds__(kThreads, 1) attention_backward_wgmma(const __grid_constant__ HopperBackward p) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)  // empty for architectures without these instructions
  using L = Layout<D>;
  unsigned char* const shared = aligned_shared();
  const Barriers b(shared + L::kBarriersAt, L::kStages);
  const auto init = [&] {
    init_ring(b.rows_full, b.rows_empty, kRounds, 1);
    init_ring(b.full, b.empty, L::kStages, of_keys ? 1 + kWarp : 1);
  };
  const auto produce_by_warp = [&] {
    if (threadIdx.x < kConsumers * kWarpgroup + kWarp) produce<D, of_keys>(p, shared, b);
  };
  share_work(init, produce_by_warp, [&] { consume<T, D, of_keys>(p, shared, b); });
#endif
}

// ---- choice ---------------------------------------------------------------------------------------------------------

template <class T, int D, bool of_keys>
void run(const HopperBackward& p) {
  launch_staying<attention_backward_wgmma<T, D, of_keys>>(p, p.order.work(), Layout<D>::kShared);
}

}  // namespace

template <class T>
bool attention_backward_hopper(const AttentionBackward& w, const float* delta) {
  const Attention& a = w.forward;
  const char* why = obstacle(a, 128);
  if (!why) why = obstacle(w.dout, a.batch, a.heads, a.q_len);
  const auto tiles = [](std::int64_t rows) { return (rows + kRows - 1) / kRows; };
  constexpr std::int64_t kMostWork = std::int64_t{1} << 30;  // blocks count on an int, in steps of their number
  if (!why && (tiles(a.q_len) * a.heads * a.batch > kMostWork || tiles(a.k_len) * a.kv_heads * a.batch > kMostWork))
    why = "too many tiles";
  const float scale = static_cast<float>(a.scale);  // positive
  HopperBackward p = {{}, {}, w, delta, {}, {}, scale, scale * kLog2E};
  if (!why) {
    if (!encode<T>(p.rows[0], a.q, a.head_dim, a.q_len, a.heads, a.batch, kPanelSide) ||
        !encode<T>(p.rows[1], w.dout, a.value_dim, a.q_len, a.heads, a.batch, kPanelSide) ||
        !encode<T>(p.columns[0], a.k, a.head_dim, a.k_len, a.kv_heads, a.batch, kPanelSide) ||
        !encode<T>(p.columns[1], a.v, a.value_dim, a.k_len, a.kv_heads, a.batch, kPanelSide))
      why = kNoMaps;
  }
  if (refused(why)) return false;
  const bool narrow = a.head_dim <= 64 && a.value_dim <= 64;
  if (verbose_on)
    verbose_note("; wgmma, %d queries over tiles of %d keys, %d keys over tiles of %d queries, %d features", kRows,
                 kColumns, kRows, kColumns, narrow ? 64 : 128);
  // With a causal band the last queries see the most keys, and the first keys are seen by the most queries.
  p.order = {tiles(a.q_len), a.heads, a.kv_heads, a.batch, a.after < a.k_len};
  p.band = AttentionBand::of(a.k_len, a.before, a.after);
  narrow ? run<T, 64, false>(p) : run<T, 128, false>(p);
  p.order = {tiles(a.k_len), a.kv_heads, a.kv_heads, a.batch, false};
  p.band = AttentionBand::of(a.q_len, a.after, a.before);
  for (int i = 0; i < 2; ++i) {
    const CUtensorMap rows = p.rows[i];
    p.rows[i] = p.columns[i];
    p.columns[i] = rows;
  }
  narrow ? run<T, 64, true>(p) : run<T, 128, true>(p);
  return true;
}
template bool attention_backward_hopper<Half>(const AttentionBackward&, const float*);
template bool attention_backward_hopper<BFloat16>(const AttentionBackward&, const float*);

void register_attention_hopper_backward(KernelTable&) {}  // attention_half_backward.cu asks for it

}  // namespace pydlx::cuda
