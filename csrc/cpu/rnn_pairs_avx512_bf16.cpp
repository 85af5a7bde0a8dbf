// Recurrent layers of bfloat16 by the processor's products of pairs (cpu/gemm/pairs.h): sums, gates, cell states and
// carried gradients in float32 and never rounded between steps. The walk over steps is that of rnn_sequence.cpp.
//
// A panel is the 64 columns of a register tile: 16 units of every gate side by side, or 64 units of a cell with one
// gate. What a panel's products leave is what its gates read, in the order narrow_columns() (kernels/rnn.h) names.
#include "cpu/gemm/pairs.h"
#include "cpu/rnn_gates_avx512.h"
#include "cpu/rnn_steps.h"
#include "kernels/rnn.h"

namespace pydlx::PYDLX_ISA {
namespace {

using T = BFloat16;

constexpr int kLane = kWords;
constexpr std::int64_t kSpeed = 200;     // see task_grain
constexpr std::int64_t kInputRows = 96;  // of the input that meet a panel of weights in the first level
constexpr std::int64_t kFewInputs = Pairs::kInnerRows;

PYDLX_INLINE std::int64_t words_of(std::int64_t k) { return ceil_div(k, 2); }
// Elements of a padded row of pairs: whole vectors, which inner products read to the end.
PYDLX_INLINE std::int64_t padded(std::int64_t k) { return ceil_div(k, 2 * kLane) * 2 * kLane; }

template <class U>
PYDLX_INLINE U* take(char*& at, std::int64_t count) {
  U* p = reinterpret_cast<U*>(at);
  at += ceil_div(count * static_cast<std::int64_t>(sizeof(U)), 64) * 64;
  return p;
}

struct ForwardMemory {
  float *w_ih, *w_hh, *bias, *carry;
  T *state, *x;
  std::int64_t bytes;
};
template <CellKind kind>
ForwardMemory forward_memory(const NarrowForward& q) {
  const std::int64_t panels = narrow_columns(kind, q.hidden) / kPanel;
  char *start = static_cast<char*>(q.scratch), *at = start;
  ForwardMemory m;
  m.bias = take<float>(at, panels * kPanel);
  m.carry = take<float>(at, q.batch * narrow_units(q.hidden));
  m.state = take<T>(at, 2 * q.batch * padded(q.hidden));
  m.x = q.total <= kFewInputs ? take<T>(at, q.total * padded(q.input)) : nullptr;
  m.w_ih = q.total > kFewInputs ? take<float>(at, panels * words_of(q.input) * kPanel) : nullptr;
  m.w_hh = q.batch > kFewSequences ? take<float>(at, panels * words_of(q.hidden) * kPanel) : nullptr;
  m.bytes = at - start;
  return m;
}

// One operand of the panels' products: W [gates * hidden, k], and its panels where they were packed.
struct Weights {
  const T* w;
  const float* packed;
  std::int64_t k;
};

template <CellKind kind>
struct Shape {
  static constexpr int gates = static_cast<int>(gates_of(kind));
  static constexpr int units = static_cast<int>(narrow_group(kind));
  // Vectors of a panel that a product fills.
  static PYDLX_INLINE int vectors(std::int64_t hidden, std::int64_t u0) {
    return gates > 1 ? gates : static_cast<int>(ceil_div(min_of(units, hidden - u0), kLane));
  }
};

template <CellKind kind>
void pack_panels(const T* w, std::int64_t hidden, std::int64_t k, float* out) {
  using S = Shape<kind>;
  const std::int64_t size = words_of(k) * kPanel;
  parallel_for(ceil_div(hidden, S::units), 65536 / size + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t u0 = i * S::units;
      for (int g = 0; g < S::gates; ++g)
        pack_words_b<Pairs>(w + (g * hidden + u0) * k, 1, k, k, min_of(S::units, hidden - u0),
                            out + i * size + g * kLane);
    }
  });
}

// sums[rows x panel] = a[rows x k] times a packed panel of `steps` words. Rows of A are a_row elements apart.
void multiply(std::int64_t rows, int vectors, std::int64_t k, const T* a, std::int64_t a_row, const float* b,
              float* sums, std::int64_t sums_row, bool first) {
  PairTile t{};
  t.steps = k / 2;
  t.ragged = k % 2 != 0;
  t.a_row = a_row * static_cast<std::int64_t>(sizeof(T));
  t.a_step = 2 * sizeof(T);
  t.b = b;
  t.sums_row = sums_row;
  t.first = first;
  t.last = false;
  const std::int64_t tiles = ceil_div(rows, kTileRows);
  for (std::int64_t i = 0; i < tiles; ++i) {
    const std::int64_t r0 = rows * i / tiles, r1 = rows * (i + 1) / tiles;
    t.a = reinterpret_cast<const char*>(a + r0 * a_row);
    t.sums = sums + r0 * sums_row;
    kPairTiles[vectors - 1][r1 - r0 - 1](t);
  }
}

// The same for MR rows, padded with zeros, from W as it lies.
template <CellKind kind, int MR>
void multiply_in_place(std::int64_t rows, std::int64_t hidden, const T* a, std::int64_t a_row, const Weights& w,
                       std::int64_t u0, float* sums, std::int64_t sums_row) {
  using S = Shape<kind>;
  constexpr int NR = kLane / MR;
  const float* pa[MR];
  for (int i = 0; i < MR; ++i) pa[i] = reinterpret_cast<const float*>(a + min_of(i, rows - 1) * a_row);
  for (int g = 0; g < S::gates; ++g)
    for (int v = 0; v < S::units && u0 + v < hidden; v += NR) {
      const T* pb[NR];
      for (int l = 0; l < NR; ++l) pb[l] = w.w + (g * hidden + min_of(u0 + v + l, hidden - 1)) * w.k;
      alignas(64) float out[kLane];
      inner_words<Pairs, MR, false>(w.k, pa, pb, out);
      for (int i = 0; i < rows; ++i) std::memcpy(sums + i * sums_row + g * kLane + v, out + i * NR, NR * sizeof(float));
    }
}

template <CellKind kind>
void multiply_panel(std::int64_t rows, std::int64_t hidden, const T* a, std::int64_t a_row, const Weights& w,
                    std::int64_t u0, float* sums, std::int64_t sums_row) {
  using S = Shape<kind>;
  if (w.packed)
    return multiply(rows, S::vectors(hidden, u0), w.k, a, a_row, w.packed + u0 / S::units * words_of(w.k) * kPanel,
                    sums, sums_row, true);
  for (std::int64_t r = 0; r < rows; r += 4) {
    const std::int64_t have = min_of(4, rows - r);
    if (have == 1)
      multiply_in_place<kind, 1>(have, hidden, a + r * a_row, a_row, w, u0, sums + r * sums_row, sums_row);
    else if (have == 2)
      multiply_in_place<kind, 2>(have, hidden, a + r * a_row, a_row, w, u0, sums + r * sums_row, sums_row);
    else
      multiply_in_place<kind, 4>(have, hidden, a + r * a_row, a_row, w, u0, sums + r * sums_row, sums_row);
  }
}

// The input's share of all gates.
template <CellKind kind>
void input_product(const NarrowForward& q, const Weights& w, const T* x, std::int64_t x_row) {
  const std::int64_t columns = narrow_columns(kind, q.hidden), panels = columns / kPanel,
                     blocks = ceil_div(q.total, kInputRows),
                     ns = ceil_div(q.total, blocks) * q.input * kPanel / kSpeed + 1;
  parallel_for(blocks * panels, 10000 / ns + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t block = i / panels, panel = i % panels, r0 = q.total * block / blocks,
                         r1 = q.total * (block + 1) / blocks;
      multiply_panel<kind>(r1 - r0, q.hidden, x + r0 * x_row, x_row, w, panel * Shape<kind>::units,
                           q.gates + r0 * columns + panel * kPanel, columns);
    }
  });
}

template <CellKind kind>
void sum_biases(const NarrowForward& q, float* out) {
  using S = Shape<kind>;
  const T *ih = static_cast<const T*>(q.b_ih), *hh = static_cast<const T*>(q.b_hh);
  std::memset(out, 0, static_cast<std::size_t>(narrow_columns(kind, q.hidden)) * sizeof(float));
  if (!ih) return;
  for (std::int64_t u = 0; u < q.hidden; ++u) {
    float* b = out + u / S::units * kPanel + u % S::units;
    for (int g = 0; g < S::gates; ++g) {
      const float i = ih[g * q.hidden + u], h = hh[g * q.hidden + u];
      if (kind == CellKind::gru && g == 2) {
        b[2 * kLane] = i;
        b[3 * kLane] = h;
      } else {
        b[g * kLane] = i + h;
      }
    }
  }
}

// One row of a vector of units: x, the input's share; s, the recurrent one; carry, c of LSTM or h of GRU. Leaves the
// activations in x for the backward pass.
template <CellKind kind, bool kKeep>
PYDLX_INLINE Words apply_gates(float* x, const float* s, const float* bias, float* carry, float* kept_c) {
  const auto sum = [&](int g) __attribute__((always_inline)) {
    return load(x + g * kLane) + (load(s + g * kLane) + load(bias + g * kLane));
  };
  const auto keep = [&](int g, Words v) __attribute__((always_inline)) {
    if constexpr (kKeep) store<float>(x + g * kLane, v);
  };
  if constexpr (kind == CellKind::tanh || kind == CellKind::relu) {
    const Words v = sum(0), h = kind == CellKind::tanh ? narrow_tanh(v) : v < Words{} ? Words{} : v;
    keep(0, h);
    return h;
  } else if constexpr (kind == CellKind::lstm) {
    const Words i = narrow_sigmoid(sum(0)), f = narrow_sigmoid(sum(1)), g = narrow_tanh(sum(2)),
                o = narrow_sigmoid(sum(3)), before = load(carry), c = f * before + i * g;
    if constexpr (kKeep) store<float>(kept_c, before);
    keep(0, i);
    keep(1, f);
    keep(2, g);
    keep(3, o);
    store<float>(carry, c);
    return o * narrow_tanh(c);
  } else {
    const Words r = narrow_sigmoid(sum(0)), z = narrow_sigmoid(sum(1)),
                part = load(s + 2 * kLane) + load(bias + 3 * kLane),
                n = narrow_tanh(load(x + 2 * kLane) + load(bias + 2 * kLane) + r * part), p = load(carry),
                h = n + z * (p - n);
    keep(0, r);
    keep(1, z);
    keep(2, n);
    keep(3, part);
    store<float>(carry, h);
    return h;
  }
}

// One step for one panel and rows r0 .. r1; row 0 of the step is `offset` rows into the sequence.
template <CellKind kind, bool kKeep>
void forward_rows(const NarrowForward& q, const ForwardMemory& m, const T* before, T* after, std::int64_t offset,
                  std::int64_t u0, std::int64_t r0, std::int64_t r1) {
  using S = Shape<kind>;
  const std::int64_t n = q.hidden, ld = padded(n), blocks = ceil_div(r1 - r0, kBlockRows),
                     columns = narrow_columns(kind, n), units = narrow_units(n), panel = u0 / S::units * kPanel;
  const Weights w{static_cast<const T*>(q.w_hh), m.w_hh, n};
  alignas(64) float sums[kBlockRows * kPanel];
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t rb = r0 + (r1 - r0) * block / blocks, rows = r0 + (r1 - r0) * (block + 1) / blocks - rb;
    multiply_panel<kind>(rows, n, before + rb * ld, ld, w, u0, sums, kPanel);
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t r = rb + i, at = offset + r;
      for (std::int64_t v = 0, u = u0; v < S::units && u < n; v += kLane, u += kLane) {
        const Words h = apply_gates<kind, kKeep>(q.gates + at * columns + panel + v, sums + i * kPanel + v,
                                                 m.bias + panel + v, m.carry + r * units + u,
                                                 kKeep && kind == CellKind::lstm ? q.c_prev + at * units + u : nullptr);
        const int count = static_cast<int>(min_of(kLane, n - u));
        if constexpr (kKeep) {
          const __m256i old = load_16(before + r * ld + u);
          _mm256_mask_storeu_epi16(static_cast<T*>(q.h_prev) + at * n + u, first_lanes(count), old);
        }
        narrow_store(static_cast<T*>(q.y) + at * n + u, h, count);
        narrow_store(after + r * ld + u, h, count);
      }
    }
  }
}

template <CellKind kind, bool kKeep>
void forward_steps(const NarrowForward& q, const ForwardMemory& m) {
  using S = Shape<kind>;
  const std::int64_t n = q.hidden, panels = ceil_div(n, S::units), row_cuts = ceil_div(q.batch, 2 * kBlockRows),
                     state = q.batch * padded(n), tasks = panels * row_cuts,
                     grain = task_grain(tasks, q.batch / row_cuts, n, kPanel, kSpeed);
  parallel_phases(q.steps, tasks, grain, [&](std::int64_t s, std::int64_t begin, std::int64_t end) {
    const std::int64_t t = time_of(q, s), rows = q.rows[t];
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t i = in_turn(s, begin, end, task), cut = i % row_cuts;
      forward_rows<kind, kKeep>(q, m, m.state + s % 2 * state, m.state + (s + 1) % 2 * state, q.offset[t],
                                i / row_cuts * S::units, rows * cut / row_cuts, rows * (cut + 1) / row_cuts);
    }
  });
}

// Rows of bfloat16, or zeros for null, -> float32 rows padded with zeros; and back.
void widen_rows(const void* from, std::int64_t rows, std::int64_t n, std::int64_t ld, float* to) {
  const T* x = static_cast<const T*>(from);
  std::memset(to, 0, static_cast<std::size_t>(rows * ld) * sizeof(float));
  for (std::int64_t r = 0; x && r < rows; ++r)
    for (std::int64_t u = 0; u < n; ++u) to[r * ld + u] = x[r * n + u];
}
void narrow_rows(const float* from, std::int64_t rows, std::int64_t n, std::int64_t ld, void* to) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t u = 0; u < n; u += kLane)
      narrow_store(static_cast<T*>(to) + r * n + u, load(from + r * ld + u), static_cast<int>(min_of(kLane, n - u)));
}

template <CellKind kind>
void forward(const NarrowForward& q) {
  const ForwardMemory m = forward_memory<kind>(q);
  const std::int64_t n = q.hidden, ld = padded(n);
  sum_biases<kind>(q, m.bias);
  const T *x = static_cast<const T*>(q.x), *w_ih = static_cast<const T*>(q.w_ih);
  if (m.x) {
    std::memset(m.x, 0, static_cast<std::size_t>(q.total * padded(q.input)) * sizeof(T));
    for (std::int64_t r = 0; r < q.total; ++r)
      std::memcpy(m.x + r * padded(q.input), x + r * q.input, static_cast<std::size_t>(q.input) * sizeof(T));
    input_product<kind>(q, {w_ih, nullptr, q.input}, m.x, padded(q.input));
  } else {
    pack_panels<kind>(w_ih, n, q.input, m.w_ih);
    input_product<kind>(q, {w_ih, m.w_ih, q.input}, x, q.input);
  }
  if (m.w_hh) pack_panels<kind>(static_cast<const T*>(q.w_hh), n, n, m.w_hh);
  // Both halves of the state: a row that begins late (against time) finds h0 in either.
  std::memset(m.state, 0, static_cast<std::size_t>(2 * q.batch * ld) * sizeof(T));
  for (std::int64_t r = 0; r < 2 * q.batch; ++r)
    std::memcpy(m.state + r * ld, static_cast<const T*>(q.h0) + r % q.batch * n,
                static_cast<std::size_t>(n) * sizeof(T));
  widen_rows(kind == CellKind::lstm ? q.c0 : q.h0, q.batch, n, narrow_units(n), m.carry);
  if (q.h_prev)
    forward_steps<kind, true>(q, m);
  else
    forward_steps<kind, false>(q, m);
  last_states(q, sizeof(T));
  if (kind == CellKind::lstm) narrow_rows(m.carry, q.batch, n, narrow_units(n), q.c);
}

// ---- backward -------------------------------------------------------------------------------------------------------

struct BackwardMemory {
  float *packed, *dh, *dc;
  std::int64_t row, bytes;  // floats of a row of dh and dc
};
template <CellKind kind>
BackwardMemory backward_memory(const NarrowBackward& q) {
  char *start = static_cast<char*>(q.scratch), *at = start;
  BackwardMemory m;
  const std::int64_t panels = ceil_div(q.hidden, kPanel);
  m.row = panels * kPanel;
  m.dh = take<float>(at, q.batch * m.row);
  m.dc = kind == CellKind::lstm ? take<float>(at, q.batch * m.row) : nullptr;
  m.packed = take<float>(at, panels * words_of(gates_of(kind) * q.hidden) * kPanel);
  m.bytes = at - start;
  return m;
}

// The formulas of rnn_cells.h for a vector of units of one row.
template <CellKind kind>
PYDLX_INLINE void gate_gradients(const NarrowBackward& q, std::int64_t at, std::int64_t u, float* dh, float* dc) {
  constexpr std::int64_t G = gates_of(kind);
  const std::int64_t n = q.hidden;
  const int count = static_cast<int>(min_of(kLane, n - u));
  const float* a = q.gates + at * narrow_columns(kind, n) + (G == 1 ? u : u / kLane * kPanel);
  T *d = static_cast<T*>(q.dgates) + at * G * n + u, *e = static_cast<T*>(q.drecurrent) + at * G * n + u;
  const Words one = splat<float>(1);
  Words h = load(dh);
  if (q.dy) h += widen_load(static_cast<const T*>(q.dy) + at * n + u, count);
  if constexpr (kind == CellKind::tanh) {
    const Words y = load(a);
    narrow_store(d, h * (one - y * y), count);
  } else if constexpr (kind == CellKind::relu) {
    narrow_store(d, load(a) > Words{} ? h : Words{}, count);
  } else if constexpr (kind == CellKind::lstm) {
    const Words i = load(a), f = load(a + kLane), g = load(a + 2 * kLane), o = load(a + 3 * kLane),
                c = load(q.c_prev + at * narrow_units(n) + u), t = narrow_tanh(f * c + i * g),
                total = load(dc) + h * o * (one - t * t);
    narrow_store(d, total * g * i * (one - i), count);
    narrow_store(d + n, total * c * f * (one - f), count);
    narrow_store(d + 2 * n, total * i * (one - g * g), count);
    narrow_store(d + 3 * n, h * t * o * (one - o), count);
    store<float>(dc, total * f);
  } else {
    const Words r = load(a), z = load(a + kLane), g = load(a + 2 * kLane), s = load(a + 3 * kLane),
                p = widen_load(static_cast<const T*>(q.h_prev) + at * n + u, count), du = h * (one - z) * (one - g * g),
                dz = h * (p - g) * z * (one - z), dr = du * s * r * (one - r);
    narrow_store(d, dr, count);
    narrow_store(e, dr, count);
    narrow_store(d + n, dz, count);
    narrow_store(e + n, dz, count);
    narrow_store(d + 2 * n, du, count);
    narrow_store(e + 2 * n, du * r, count);
    store<float>(dh, h * z);
  }
}

// As in rnn_sequence.cpp: a task finishes the gradient of its units of the state, then takes it through the gates.
template <CellKind kind>
void backward(const NarrowBackward& q) {
  constexpr std::int64_t G = gates_of(kind);
  const BackwardMemory m = backward_memory<kind>(q);
  const std::int64_t n = q.hidden, k = G * n, size = words_of(k) * kPanel;
  const T* w = static_cast<const T*>(q.w_hh);
  parallel_for(ceil_div(n, kPanel), 65536 / size + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      pack_words_b<Pairs>(w + i * kPanel, n, 1, k, min_of(kPanel, n - i * kPanel), m.packed + i * size);
  });
  widen_rows(q.dh_n, q.batch, n, m.row, m.dh);
  if (m.dc) widen_rows(q.dc_n, q.batch, n, m.row, m.dc);
  const T* drecurrent = static_cast<const T*>(kind == CellKind::gru ? q.drecurrent : q.dgates);
  const std::int64_t width = n < 4 * kPanel ? kPanel / 2 : kPanel, cols = ceil_div(n, width),
                     row_cuts = ceil_div(q.batch, 2 * kBlockRows), tasks = cols * row_cuts,
                     grain = task_grain(tasks, q.batch / row_cuts, k, width, kSpeed);
  // One more phase than steps: the last only finishes the gradient of the first state.
  parallel_phases(q.steps + 1, tasks, grain, [&](std::int64_t phase, std::int64_t begin, std::int64_t end) {
    std::int64_t rows = 0, offset = 0, later_rows = 0, later_offset = 0;
    if (phase < q.steps) {
      const std::int64_t t = time_of(q, q.steps - 1 - phase);
      rows = q.rows[t];
      offset = q.offset[t];
    }
    if (phase > 0) {
      const std::int64_t t = time_of(q, q.steps - phase);
      later_rows = q.rows[t];
      later_offset = q.offset[t];
    }
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t cut = i % row_cuts, u0 = i / row_cuts * width, u1 = min_of(n, u0 + width);
      const std::int64_t r0 = q.batch * cut / row_cuts, r1 = q.batch * (cut + 1) / row_cuts;
      if (r0 < min_of(r1, later_rows))
        multiply(min_of(r1, later_rows) - r0, static_cast<int>(ceil_div(u1 - u0, kLane)), k,
                 drecurrent + (later_offset + r0) * k, k, m.packed + u0 / kPanel * size + u0 % kPanel,
                 m.dh + r0 * m.row + u0, m.row, kind != CellKind::gru);
      for (std::int64_t r = r0; r < min_of(r1, rows); ++r)
        for (std::int64_t u = u0; u < u1; u += kLane)
          gate_gradients<kind>(q, offset + r, u, m.dh + r * m.row + u, m.dc ? m.dc + r * m.row + u : nullptr);
    }
  });
  narrow_rows(m.dh, q.batch, n, m.row, q.dh);
  if (m.dc) narrow_rows(m.dc, q.batch, n, m.row, q.dc);
}

template <CellKind kind>
void add_layers(CellKernels& k) {
  k.narrow_forward[static_cast<int>(kind)] = forward<kind>;
  k.narrow_backward[static_cast<int>(kind)] = backward<kind>;
}

// f<kind>(q) for a kind known at run time.
template <class F>
PYDLX_INLINE std::int64_t for_kind(CellKind kind, const F& f) {
  switch (kind) {
    case CellKind::tanh:
      return f.template operator()<CellKind::tanh>();
    case CellKind::relu:
      return f.template operator()<CellKind::relu>();
    case CellKind::lstm:
      return f.template operator()<CellKind::lstm>();
    default:
      return f.template operator()<CellKind::gru>();
  }
}

}  // namespace

void register_rnn_pairs_avx512_bf16(KernelTable& t) {
  CellKernels& k = family<CellKernels>(t);
  add_layers<CellKind::tanh>(k);
  add_layers<CellKind::relu>(k);
  add_layers<CellKind::lstm>(k);
  add_layers<CellKind::gru>(k);
  k.narrow_forward_scratch = [](CellKind kind, const NarrowForward& q) {
    return for_kind(kind, [&]<CellKind c>() { return forward_memory<c>(q).bytes; });
  };
  k.narrow_backward_scratch = [](CellKind kind, const NarrowBackward& q) {
    return for_kind(kind, [&]<CellKind c>() { return backward_memory<c>(q).bytes; });
  };
}

}  // namespace pydlx::PYDLX_ISA
