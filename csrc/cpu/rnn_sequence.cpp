// Recurrent layers over whole sequences, float32. One team of threads runs all steps; a thread owns the same units in
// every step, so that its share of the recurrent weights stays in its second-level cache. With more than a few rows the
// weights are packed once, the gates of the same units side by side: one pass of register tiles gives all gates of
// these units, which are applied while they are in the first-level cache.
#include "core/scratch.h"
#include "cpu/gemm/micro.h"
#include "cpu/rnn_cells.h"
#include "cpu/rnn_steps.h"
#include "cpu/vector_rows.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int kLane = kLanesOf<float>;
constexpr std::int64_t kTile = kTileColumns<float>;

// A panel of packed weights holds `units` units: [hidden][gate][units].
template <CellKind kind>
struct PanelShape {
  static constexpr int gates = static_cast<int>(gates_of(kind));
  static constexpr int units = gates == 1 ? 4 * kLane : kLane;
  static constexpr int columns = gates * units;
};

constexpr std::int64_t kSpeed = 100;  // see task_grain

// c[rows x columns] = a[rows x k] b (+ c) (+ bias), rows of a, b, c so far apart.
void multiply(std::int64_t rows, std::int64_t columns, std::int64_t k, const float* a, std::int64_t a_row,
              const float* b, std::int64_t b_row, float* c, std::int64_t c_row, float beta,
              const float* bias = nullptr) {
  const std::int64_t tiles = ceil_div(rows, kTileRows);
  for (std::int64_t j = 0; j < columns; j += kTile) {
    const Epilogue<float> e{1, beta, bias ? bias + j : nullptr, false};
    for (std::int64_t t = 0; t < tiles; ++t) {
      const std::int64_t r0 = rows * t / tiles, r1 = rows * (t + 1) / tiles;
      run_tile<float>(static_cast<int>(r1 - r0), static_cast<int>(min_of(kTile, columns - j)), k, a + r0 * a_row, a_row,
                      1, b + j, b_row, c + r0 * c_row + j, c_row, e);
    }
  }
}

// The sums of a panel for MR rows of the state, from W [gates * hidden, hidden] as it lies.
template <CellKind kind, int MR>
void multiply_in_place(std::int64_t rows, std::int64_t hidden, const float* h, const float* w, std::int64_t u0,
                       float* sums) {
  using S = PanelShape<kind>;
  constexpr int NR = kLane / MR;
  const float* pa[MR];
  for (int i = 0; i < MR; ++i) pa[i] = h + min_of(i, rows - 1) * hidden;
  for (int g = 0; g < S::gates; ++g)
    for (int v = 0; v < S::units && u0 + v < hidden; v += NR) {
      const float* pb[NR];
      for (int l = 0; l < NR; ++l) pb[l] = w + (g * hidden + min_of(u0 + v + l, hidden - 1)) * hidden;
      alignas(64) float out[kLane];
      inner_tile<float, MR, false>(hidden, pa, pb, out);
      for (int i = 0; i < rows; ++i)
        std::memcpy(sums + i * S::columns + g * S::units + v, out + i * NR, NR * sizeof(float));
    }
}

template <CellKind kind>
void multiply_few(std::int64_t rows, std::int64_t hidden, const float* h, const float* w, std::int64_t u0,
                  float* sums) {
  constexpr int kMost = kLane >= 16 ? 4 : 2;
  for (std::int64_t r = 0; r < rows; r += kMost) {
    const std::int64_t have = min_of(kMost, rows - r);
    float* out = sums + r * PanelShape<kind>::columns;
    if (have == 1)
      multiply_in_place<kind, 1>(have, hidden, h + r * hidden, w, u0, out);
    else if (have == 2)
      multiply_in_place<kind, 2>(have, hidden, h + r * hidden, w, u0, out);
    else
      multiply_in_place<kind, kMost>(have, hidden, h + r * hidden, w, u0, out);
  }
}

// Units u0 .. u0 + units of every gate of W [gates * hidden, k] -> [k][gates][units], zero past the last unit.
template <CellKind kind>
void pack_panel(const float* w, std::int64_t hidden, std::int64_t k, std::int64_t u0, float* out) {
  using S = PanelShape<kind>;
  for (int g = 0; g < S::gates; ++g)
    for (int v = 0; v < S::units; v += kLane) {
      const std::int64_t have = hidden - u0 - v;
      const int rows = have <= 0 ? 0 : static_cast<int>(min_of(have, kLane));
      const float* src = w + (g * hidden + u0 + v) * k;
      float* dst = out + g * S::units + v;
      std::int64_t p = 0;
      for (; p + kLane <= k; p += kLane) {
        Vector<float> r[kLane];
#pragma GCC unroll 16
        for (int l = 0; l < kLane; ++l) r[l] = l < rows ? load(src + l * k + p) : Vector<float>{};
        transpose_square<float>(r);
#pragma GCC unroll 16
        for (int l = 0; l < kLane; ++l) store<float>(dst + (p + l) * S::columns, r[l]);
      }
      for (; p < k; ++p)
        for (int l = 0; l < kLane; ++l) dst[p * S::columns + l] = l < rows ? src[l * k + p] : 0.0f;
    }
}

// Pointers to up to kLane units of one row, one per gate where it matters. What is only kept for the backward pass (all
// of `kept_*`, and the activations in x) is written with kKeep. The input's share is in `in` like the sums in `s`, or
// in x if that is null.
struct Units {
  float *x[4], *c, *h, *kept_h, *kept_c, *kept_candidate;
  const float *in, *s, *h_prev, *bias[3];
};

template <CellKind kind, bool kKeep, int kStride>
PYDLX_INLINE void apply_gates(const Units& u, int count) {
  using vmath::V;
  constexpr int G = static_cast<int>(gates_of(kind));
  V x[G], s[G], h, previous{};
  for (int g = 0; g < G; ++g)
    x[g] = u.in ? load(u.in + g * kStride) : load_count(u.x[g], count), s[g] = load(u.s + g * kStride);
  if (kKeep || kind == CellKind::gru) previous = load_count(u.h_prev, count);
  if constexpr (kKeep) store_count(u.kept_h, previous, count);
  if constexpr (kind == CellKind::tanh) {
    h = x[0] = vmath::tanh(x[0] + s[0]);
  } else if constexpr (kind == CellKind::relu) {
    const V v = x[0] + s[0];
    h = x[0] = v < 0.0f ? V{} : v;
  } else if constexpr (kind == CellKind::lstm) {
    const V before = load_count(u.c, count);
    if constexpr (kKeep) store_count(u.kept_c, before, count);
    for (int g = 0; g < G; ++g) x[g] = g == 2 ? vmath::tanh(x[g] + s[g]) : vmath::sigmoid(x[g] + s[g]);
    const V state = x[1] * before + x[0] * x[2];
    store_count(u.c, state, count);
    h = x[3] * vmath::tanh(state);
  } else {
    for (int g = 0; g < G; ++g) s[g] += load_count(u.bias[g], count);
    for (int g = 0; g < 2; ++g) x[g] = vmath::sigmoid(x[g] + s[g]);
    if constexpr (kKeep) store_count(u.kept_candidate, s[2], count);
    x[2] = vmath::tanh(x[2] + x[0] * s[2]);
    h = x[2] + x[1] * (previous - x[2]);
  }
  if constexpr (kKeep)
    for (int g = 0; g < G; ++g) store_count(u.x[g], x[g], count);
  store_count(u.h, h, count);
}

// One step for one panel, rows r0 .. r1 of the state `h` before the step, which row 0 of the step is `offset` rows into
// the sequence. `share`: the input's of these rows, or null.
template <CellKind kind, bool kKeep>
void forward_rows(const SequenceForward& q, const float* packed, const float* share, const float* h,
                  std::int64_t offset, std::int64_t u0, std::int64_t r0, std::int64_t r1) {
  using S = PanelShape<kind>;
  const std::int64_t n = q.hidden, blocks = ceil_div(r1 - r0, kBlockRows);
  alignas(64) float sums[kBlockRows * S::columns];
  alignas(64) const float zero[kLane] = {};
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t rb = r0 + (r1 - r0) * block / blocks, rows = r0 + (r1 - r0) * (block + 1) / blocks - rb;
    if (packed)
      multiply(rows, S::columns, n, h + rb * n, n, packed + u0 * S::gates * n, S::columns, sums, S::columns, 0);
    else
      multiply_few<kind>(rows, n, h + rb * n, static_cast<const float*>(q.weight), u0, sums);
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t at = offset + rb + i;
      for (std::int64_t j = u0; j < min_of(u0 + S::units, n); j += kLane) {
        Units a{};
        if (share)
          a.in = share + (rb - r0 + i) * S::columns + (j - u0);
        else
          for (int g = 0; g < S::gates; ++g) a.x[g] = static_cast<float*>(q.gates) + (at * S::gates + g) * n + j;
        a.s = sums + i * S::columns + (j - u0);
        a.h = static_cast<float*>(q.y) + at * n + j;
        a.h_prev = h + (rb + i) * n + j;
        if (kind == CellKind::lstm) a.c = static_cast<float*>(q.c) + (rb + i) * n + j;
        if (kind == CellKind::gru)
          for (int g = 0; g < 3; ++g) a.bias[g] = q.bias ? static_cast<const float*>(q.bias) + g * n + j : zero;
        if constexpr (kKeep) {
          a.kept_h = static_cast<float*>(q.h_prev) + at * n + j;
          if (kind == CellKind::lstm) a.kept_c = static_cast<float*>(q.c_prev) + at * n + j;
          if (kind == CellKind::gru) a.kept_candidate = static_cast<float*>(q.candidate) + at * n + j;
        }
        if (n - j >= kLane)
          apply_gates<kind, kKeep, S::units>(a, kLane);
        else
          apply_gates<kind, kKeep, S::units>(a, static_cast<int>(n - j));
      }
    }
  }
}

// What a pass of more than a few sequences packs, and room for the input's share of the gates of some steps: a panel's
// share is made when the first of them begins, and is still in the second-level cache when it is used. Where
// activations are kept they take the room of the weights there, and the share comes as one product from outside.
struct Joined {
  const float *recurrent = nullptr, *input = nullptr, *bias = nullptr;  // panels; bias may be null
  float* share = nullptr;
  std::int64_t rows = 0;   // of the share of one task
  std::int64_t steps = 1;  // that have their share made at once
};

// For a task's share: steps s .. s + j.steps, or rows r0 .. r1 of a single one.
template <CellKind kind>
void make_share(const SequenceForward& q, const Joined& j, float* share, std::int64_t s, std::int64_t u0,
                std::int64_t r0, std::int64_t r1) {
  using S = PanelShape<kind>;
  const std::int64_t a = time_of(q, s), b = time_of(q, min_of(q.steps, s + j.steps) - 1), first = min_of(a, b),
                     last = max_of(a, b), begin = q.offset[first] + r0,
                     rows = first == last ? r1 - r0 : q.offset[last] + q.rows[last] - begin;
  const float* bias = j.bias ? j.bias + u0 * S::gates : nullptr;
  // Blocks of k as the driver of products cuts them, so that results with and without gradients agree in most bits.
  constexpr std::int64_t kDepth = tuning::kBlockKBytes / static_cast<std::int64_t>(sizeof(float));
  const std::int64_t blocks = ceil_div(q.input, kDepth),
                     depth = blocks > 1 ? ceil_div(ceil_div(q.input, blocks), 8) * 8 : q.input;
  std::int64_t p = 0;
  do {
    multiply(rows, S::columns, min_of(depth, q.input - p), static_cast<const float*>(q.x) + begin * q.input + p,
             q.input, j.input + (u0 * q.input + p * S::units) * S::gates, S::columns, share, S::columns, p > 0 ? 1 : 0,
             p + depth < q.input ? nullptr : bias);
    p += depth;
  } while (p < q.input);
}

template <CellKind kind, bool kKeep>
void forward_steps(const SequenceForward& q, const Joined& joined) {
  using S = PanelShape<kind>;
  const std::int64_t n = q.hidden, panels = ceil_div(n, S::units), row_cuts = ceil_div(q.batch, 2 * kBlockRows);
  const std::int64_t tasks = panels * row_cuts, grain = task_grain(tasks, q.batch / row_cuts, n, S::columns, kSpeed);
  const float* y = static_cast<const float*>(q.y);
  parallel_phases(q.steps, tasks, grain, [&](std::int64_t s, std::int64_t begin, std::int64_t end) {
    const std::int64_t t = time_of(q, s), rows = q.rows[t], offset = q.offset[t];
    // The state before a step is the output of the step before; rows that begin here (only against time) are still in
    // h.
    const float* before = static_cast<const float*>(q.h);
    std::int64_t running = 0;
    if (s > 0) {
      const std::int64_t earlier = time_of(q, s - 1);
      before = y + q.offset[earlier] * n;
      running = q.rows[earlier];
    }
    const std::int64_t first = s / joined.steps * joined.steps,
                       made = min_of(time_of(q, first), time_of(q, min_of(q.steps, first + joined.steps) - 1));
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t i = in_turn(s, begin, end, task), u0 = i / row_cuts * S::units, cut = i % row_cuts;
      const std::int64_t r0 = rows * cut / row_cuts, r1 = rows * (cut + 1) / row_cuts;
      float* share = joined.share ? joined.share + i * joined.rows * S::columns : nullptr;
      if (share && s == first) make_share<kind>(q, joined, share, s, u0, r0, r1);
      if (share) share += (offset - q.offset[made]) * S::columns;
      const std::int64_t middle = running < r0 ? r0 : min_of(running, r1);
      if (r0 < middle) forward_rows<kind, kKeep>(q, joined.recurrent, share, before, offset, u0, r0, middle);
      if (share) share += (middle - r0) * S::columns;
      if (middle < r1)
        forward_rows<kind, kKeep>(q, joined.recurrent, share, static_cast<const float*>(q.h), offset, u0, middle, r1);
    }
  });
}

template <CellKind kind>
bool forward_sequence(const SequenceForward& q) {
  using S = PanelShape<kind>;
  const std::int64_t n = q.hidden, panels = ceil_div(n, S::units), k = q.input;
  Joined joined;
  if (q.batch > kFewSequences) {
    const std::int64_t columns = panels * S::columns, row_cuts = ceil_div(q.batch, 2 * kBlockRows);
    joined.steps = q.x ? max_of(1, tuning::kInputRows / q.batch) : 1;
    joined.rows = row_cuts == 1 ? joined.steps * q.batch : ceil_div(q.batch, row_cuts);
    const std::int64_t room = columns * (n + (q.x ? k + 1 + row_cuts * joined.rows : 0));
    float* const packed =
        static_cast<float*>(thread_scratch(ScratchSlot::recurrence, static_cast<std::size_t>(room) * sizeof(float)));
    if (!packed) return false;
    float *const input = packed + columns * n, *const bias = input + columns * k;
    joined.recurrent = packed;
    joined.input = input;
    if (q.x) joined.share = bias + columns;
    if (q.input_bias) joined.bias = bias;
    parallel_for(panels, 32768 / ((n + k) * S::columns) + 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t u0 = i * S::units;
        pack_panel<kind>(static_cast<const float*>(q.weight), n, n, u0, packed + i * n * S::columns);
        if (q.x) pack_panel<kind>(static_cast<const float*>(q.w_ih), n, k, u0, input + i * k * S::columns);
        if (q.input_bias) pack_panel<kind>(static_cast<const float*>(q.input_bias), n, 1, u0, bias + i * S::columns);
      }
    });
  }
  if (q.h_prev)
    forward_steps<kind, true>(q, joined);
  else
    forward_steps<kind, false>(q, joined);
  last_states(q, sizeof(float));
  return true;
}

PYDLX_INLINE void add_to(float* y, const float* x, std::int64_t n) {
#pragma omp simd
  for (std::int64_t j = 0; j < n; ++j) y[j] += x[j];
}

// A task first finishes the gradient of its units of the state, which needs all gate gradients of the step after, then
// applies the cell's formulas to them.
template <CellKind kind>
bool backward_sequence(const SequenceBackward& q) {
  constexpr std::int64_t G = gates_of(kind);
  const std::int64_t n = q.hidden, width = n < 4 * kTile ? kTile / 2 : kTile, panels = ceil_div(n, width);
  const float* w = static_cast<const float*>(q.weight);
  float* packed = nullptr;
  if (q.batch > kFewSequences) {
    packed = static_cast<float*>(
        thread_scratch(ScratchSlot::recurrence, static_cast<std::size_t>(panels * G * n * width) * sizeof(float)));
    if (!packed) return false;
    parallel_for(panels, 65536 / (G * n * width) + 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        float* out = packed + i * G * n * width;
        const std::int64_t cols = min_of(width, n - i * width);
        for (std::int64_t p = 0; p < G * n; ++p)
          std::memcpy(out + p * width, w + p * n + i * width, static_cast<std::size_t>(cols) * sizeof(float));
      }
    });
  }
  const float* drecurrent = static_cast<const float*>(kind == CellKind::gru ? q.drecurrent : q.dgates);
  float* dh = static_cast<float*>(q.dh);
  const std::int64_t row_cuts = ceil_div(q.batch, 2 * kBlockRows), tasks = panels * row_cuts;
  const std::int64_t grain = task_grain(tasks, q.batch / row_cuts, G * n, width, kSpeed);
  // One more phase than steps: the last only finishes the gradient of the first state.
  parallel_phases(q.steps + 1, tasks, grain, [&](std::int64_t phase, std::int64_t begin, std::int64_t end) {
    CellBackward k;
    std::int64_t offset = 0, later_rows = 0, later_offset = 0;
    if (phase < q.steps) {
      const std::int64_t t = time_of(q, q.steps - 1 - phase);
      offset = q.offset[t];
      const auto at = [&](const void* base, std::int64_t cols) -> float* {
        return base ? const_cast<float*>(static_cast<const float*>(base)) + offset * cols : nullptr;
      };
      k.rows = q.rows[t];
      k.gates = at(q.gates, G * n);
      k.candidate = at(q.candidate, n);
      k.h_prev = at(q.h_prev, n);
      k.c_prev = at(q.c_prev, n);
      k.dgates = at(q.dgates, G * n);
      k.drecurrent = at(q.drecurrent, G * n);
    }
    if (phase > 0) {
      const std::int64_t t = time_of(q, q.steps - phase);
      later_rows = q.rows[t];
      later_offset = q.offset[t];
    }
    k.hidden = n;
    k.dh = q.dh;
    k.dc = q.dc;
    const float* dy = q.dy && phase < q.steps ? static_cast<const float*>(q.dy) + offset * n : nullptr;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t panel = i / row_cuts, cut = i % row_cuts, u0 = panel * width, u1 = min_of(n, u0 + width);
      const std::int64_t r0 = q.batch * cut / row_cuts, r1 = q.batch * (cut + 1) / row_cuts;
      if (r0 < min_of(r1, later_rows))
        multiply(min_of(r1, later_rows) - r0, u1 - u0, G * n, drecurrent + (later_offset + r0) * G * n, G * n,
                 packed ? packed + panel * G * n * width : w + u0, packed ? width : n, dh + r0 * n + u0, n,
                 kind == CellKind::gru ? 1 : 0);
      for (std::int64_t r = r0; r < min_of(r1, k.rows); ++r) {
        if (dy) add_to(dh + r * n + u0, dy + r * n + u0, u1 - u0);
        cell_backward<float, kind>(k, r, u0, u1);
      }
    }
  });
  return true;
}

template <CellKind kind>
void add_sequences(CellKernels& k) {
  constexpr int t = static_cast<int>(DType::Float32);
  k.forward_sequence[static_cast<int>(kind)][t] = forward_sequence<kind>;
  k.backward_sequence[static_cast<int>(kind)][t] = backward_sequence<kind>;
}

}  // namespace

void register_rnn_sequence(KernelTable& t) {
  CellKernels& k = family<CellKernels>(t);
  k.joined_from = kFewSequences + 1;
  add_sequences<CellKind::tanh>(k);
  add_sequences<CellKind::relu>(k);
  add_sequences<CellKind::lstm>(k);
  add_sequences<CellKind::gru>(k);
}

}  // namespace pydlx::PYDLX_ISA
