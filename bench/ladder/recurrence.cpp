// A recurrent layer (LSTM), from four dot products per unit to one packed product and gates in registers.
//
//   i, f, g, o = W_ih x_t + W_hh h_(t-1) + bias      i, f, o through the logistic function, g through tanh
//   c_t = f c_(t-1) + i g,   h_t = o tanh(c_t)       h and c begin with zeros
//
// x: steps x batch x n, out (all h_t) the same, W_ih and W_hh: 4 n x n, the gates one after the other (PyTorch's
// layout), float32. Each step needs the one before, so that only what happens within a step can be parallel: with one
// sequence that is a matrix times a vector, limited by how fast 4 n^2 weights come from the cache (n = 256: 1 MB per
// step); with many sequences it is a matrix product, limited by arithmetic. The two tables of the README show the two
// cases.
#include <sched.h>

#include <atomic>

#include "ladder.h"

namespace {

struct Shape {
  Int steps, batch, n;
  Int rows() const { return steps * batch; }
};

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// 1. The definition: for every step, sequence and unit eight dot products, each a chain of dependent additions, and
// five exponentials one by one.
void definition(Int steps, Int batch, Int n, const float* x, const float* w_ih, const float* w_hh, const float* bias,
                float* out) {
  float* c = scratch<0>(batch * n);
  std::memset(c, 0, static_cast<std::size_t>(batch * n) * sizeof(float));
  for (Int t = 0; t < steps; ++t)
    for (Int b = 0; b < batch; ++b)
      for (Int j = 0; j < n; ++j) {
        float gate[4];
        for (Int g = 0; g < 4; ++g) {
          float sum = bias[g * n + j];
          for (Int p = 0; p < n; ++p) sum += w_ih[(g * n + j) * n + p] * x[(t * batch + b) * n + p];
          for (Int p = 0; p < n && t > 0; ++p) sum += w_hh[(g * n + j) * n + p] * out[((t - 1) * batch + b) * n + p];
          gate[g] = sum;
        }
        float& state = c[b * n + j];
        state = sigmoid(gate[1]) * state + sigmoid(gate[0]) * std::tanh(gate[2]);
        out[(t * batch + b) * n + j] = sigmoid(gate[3]) * std::tanh(state);
      }
}

// The layout of steps 2 to 7: groups of as many units as a vector has lanes. A group's weights are a panel of n rows,
// one per input, with its four gates side by side: [group][input][gate][lane]. A row of the panel is four vectors,
// which follow each other through memory in the order of use, and their sums are i, f, g and o of the same units.
constexpr Int kGroup = 4 * kLanes;

void pack(Int n, const float* w, Int begin, Int end, float* packed) {
  for (Int u = begin; u < end; ++u)
    for (Int g = 0; g < 4; ++g)
      for (Int p = 0; p < n; p += kLanes) {
        V square[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) square[i] = load(w + (g * n + u * kLanes + i) * n + p);
        transpose(square);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(packed + (u * n + p + i) * kGroup + g * kLanes, square[i]);
      }
}

// Rows of a tile that is four vectors wide.
constexpr int kRows = kLanes == 16 ? 6 : 2;

// The inputs' part of all gates of all steps: [step and sequence][group][gate][lane].
void input_product(const Shape& s, const float* x, const float* packed, Int begin, Int end, float* gates) {
  for (Int r = 0; r < s.rows(); r += 192)  // 192 rows of x stay in the second-level cache
    for (Int u = begin; u < end; ++u)
      strip<false, 4, kRows>(s.rows() - r < 192 ? s.rows() - r : 192, s.n, x + r * s.n, s.n, 1,
                             packed + u * s.n * kGroup, kGroup, gates + r * 4 * s.n + u * kGroup, 4 * s.n);
}

// 2. The inputs do not depend on the state: their half of the arithmetic moves out of the loop over steps and becomes
// one matrix product over all steps and sequences, which the register tile of gemm.cpp does near the peak. The other
// half stays as it was.
void inputs_first(Int steps, Int batch, Int n, const float* x, const float* w_ih, const float* w_hh, const float* bias,
                  float* out) {
  const Shape s{steps, batch, n};
  float* c = scratch<0>(batch * n);
  float* packed = scratch<1>(4 * n * n);
  float* gates = scratch<2>(s.rows() * 4 * n);
  pack(n, w_ih, 0, n / kLanes, packed);
  input_product(s, x, packed, 0, n / kLanes, gates);
  std::memset(c, 0, static_cast<std::size_t>(batch * n) * sizeof(float));
  for (Int row = 0; row < s.rows(); ++row)
    for (Int j = 0; j < n; ++j) {
      float gate[4];
      for (Int g = 0; g < 4; ++g) {
        float sum = gates[row * 4 * n + j / kLanes * kGroup + g * kLanes + j % kLanes] + bias[g * n + j];
        for (Int p = 0; p < n && row >= batch; ++p) sum += w_hh[(g * n + j) * n + p] * out[(row - batch) * n + p];
        gate[g] = sum;
      }
      float& state = c[row % batch * n + j];
      state = sigmoid(gate[1]) * state + sigmoid(gate[0]) * std::tanh(gate[2]);
      out[row * n + j] = sigmoid(gate[3]) * std::tanh(state);
    }
}

// 1 / (1 + e^-x) and tanh x from e^-|x|, which never overflows.
V sigmoid(V x) {
  const V e = exponential(x < V{} ? x : -x), one = splat(1.0f);
  return (x < V{} ? e : one) / (one + e);
}
V tanh(V x) {
  const V e = exponential((x < V{} ? x : -x) * 2.0f), t = (1.0f - e) / (1.0f + e);
  return x < V{} ? -t : t;
}

// Four sums of one group and sequence -> state and output, in vectors or number by number.
template <bool kVector>
inline void finish(const V* sum, const float* bias, Int n, float* c, float* h) {
  V gate[4];
#pragma GCC unroll 4
  for (Int g = 0; g < 4; ++g) gate[g] = sum[g] + load(bias + g * n);
  if constexpr (kVector) {
    const V state = sigmoid(gate[1]) * load(c) + sigmoid(gate[0]) * tanh(gate[2]);
    store(c, state);
    store(h, sigmoid(gate[3]) * tanh(state));
  } else {
    for (int l = 0; l < kLanes; ++l) {
      c[l] = sigmoid(gate[1][l]) * c[l] + sigmoid(gate[0][l]) * std::tanh(gate[2][l]);
      h[l] = sigmoid(gate[3][l]) * std::tanh(c[l]);
    }
  }
}

// One group of R sequences: R x 4 sums run over the state of the step before. With kWays > 1 the inputs are dealt out
// to so many sets of sums, which are added in the end: more chains where R x 4 are too few to hide the latency.
template <int R, int kWays, bool kVector>
inline void units(Int n, const float* h_before, const float* panel, const float* gates, const float* bias, float* c,
                  float* h) {
  V sum[kWays][R][4]{};
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) sum[0][i][g] = load(gates + i * 4 * n + g * kLanes);
  if (h_before)
    for (Int p = 0; p < n; p += kWays)
#pragma GCC unroll 8
      for (int way = 0; way < kWays; ++way) {
        V row[4];
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) row[g] = load(panel + (p + way) * kGroup + g * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) {
          const V x = splat(h_before[i * n + p + way]);
#pragma GCC unroll 4
          for (int g = 0; g < 4; ++g) sum[way][i][g] += x * row[g];
        }
      }
#pragma GCC unroll 8
  for (int way = 1; way < kWays; ++way)
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) sum[0][i][g] += sum[way][i][g];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) finish<kVector>(sum[0][i], bias, n, c + i * n, h + i * n);
}

// All sequences of a group, R at a time, then the rest.
template <int R, bool kWays, bool kVector>
inline void sequences(Int count, Int n, const float* h_before, const float* panel, const float* gates,
                      const float* bias, float* c, float* h) {
  constexpr int ways = kWays && kLanes == 16 && R <= 2 ? 4 / R : kWays && R == 1 ? 2 : 1;
  for (; count >= R; count -= R) {
    units<R, ways, kVector>(n, h_before, panel, gates, bias, c, h);
    h_before = h_before ? h_before + R * n : nullptr;
    gates += R * 4 * n;
    c += R * n;
    h += R * n;
  }
  if constexpr (R > 1)
    if (count > 0) sequences<R - 1, kWays, kVector>(count, n, h_before, panel, gates, bias, c, h);
}

// What the threads of steps 3 to 7 have in common.
struct Memory {
  float *w_ih, *w_hh, *gates, *c;
  std::atomic<Int> arrived{0};
};

// Everything for groups begin to end of a layer. Threads meet after each step, because the next one needs all of h.
// The barrier is one counter that only grows; waiting in a loop answers in a tenth of a microsecond, where sleeping and
// waking through the system take fifty.
template <int R, bool kWays, bool kVector, bool kTurn>
void groups(const Shape& s, const float* x, const float* w_ih, const float* w_hh, const float* bias, float* out,
            Memory& m, Int begin, Int end, Int threads) {
  const Int n = s.n;
  pack(n, w_ih, begin, end, m.w_ih);
  pack(n, w_hh, begin, end, m.w_hh);
  input_product(s, x, m.w_ih, begin, end, m.gates);
  for (Int b = 0; b < s.batch; ++b)
    std::memset(m.c + b * n + begin * kLanes, 0, static_cast<std::size_t>((end - begin) * kLanes) * sizeof(float));
  for (Int t = 0; t < s.steps; ++t) {
    const float* before = t > 0 ? out + (t - 1) * s.batch * n : nullptr;
    for (Int i = begin; i < end; ++i) {
      const Int u = kTurn && t % 2 ? begin + end - 1 - i : i;
      sequences<R, kWays, kVector>(s.batch, n, before, m.w_hh + u * n * kGroup,
                                   m.gates + t * s.batch * 4 * n + u * kGroup, bias + u * kLanes, m.c + u * kLanes,
                                   out + t * s.batch * n + u * kLanes);
    }
    if (threads == 1) continue;
    m.arrived.fetch_add(1, std::memory_order_acq_rel);
    for (Int spins = 0; m.arrived.load(std::memory_order_acquire) < threads * (t + 1); ++spins)
      spins < 10000 ? __builtin_ia32_pause() : static_cast<void>(sched_yield());
  }
}

Memory remember(const Shape& s) {
  return {scratch<1>(4 * s.n * s.n), scratch<3>(4 * s.n * s.n), scratch<2>(s.rows() * 4 * s.n),
          scratch<0>(s.batch * s.n)};
}

template <int R, bool kWays, bool kVector, bool kTurn>
void serial(Int steps, Int batch, Int n, const float* x, const float* w_ih, const float* w_hh, const float* bias,
            float* out) {
  const Shape s{steps, batch, n};
  Memory m = remember(s);
  groups<R, kWays, kVector, kTurn>(s, x, w_ih, w_hh, bias, out, m, 0, n / kLanes, 1);
}

// 3. The state's weights are packed like the inputs', once per call, and 16 units are computed at a time with four sums
// in registers: unit stride, vectors, and one read of each weight per sequence and step. Four sums are four chains.
constexpr auto packed = serial<1, false, false, false>;

// 4. Gates in vectors. Five exponentials per unit and step were a function call each; as polynomials they take 16 units
// at once. And since i, f, g and o of the same units end in the same lanes of four registers, they never see memory.
constexpr auto gates = serial<1, false, true, false>;

// 5. Enough sums. Six sequences share each weight that is loaded: 24 sums, as in the matrix product, and a weight is
// read batch / 6 times per step instead of batch. A single sequence has nothing to share; its inputs are dealt out to
// four sets of sums, so that latency cannot be what it waits for, and the time stays the same: it is the 1 MB of
// weights per step, which its second-level cache, 1 MB for everything, cannot keep.
constexpr auto tiles = serial<kRows, true, true, false>;

// 6. Every other step goes through the groups backwards. A cache that discards what was used longest ago is useless
// against a cycle slightly larger than itself: all of it is gone when the next round begins. Turning round finds the
// part that was used last. Many sequences do not care: each weight that arrives is used for all of them.
constexpr auto turning = serial<kRows, true, true, true>;

// 7. Threads own groups of units for the whole sequence: each packs its own weights, and half of them, 512 KB, stays in
// its second-level cache from step to step. Only h is exchanged, 1 KB per sequence and step.
void threads(Int steps, Int batch, Int n, const float* x, const float* w_ih, const float* w_hh, const float* bias,
             float* out) {
  const Shape s{steps, batch, n};
  Memory m = remember(s);
#pragma omp parallel
  {
    const Int me = omp_get_thread_num(), count = omp_get_num_threads(), all = n / kLanes;
    groups<kRows, true, true, true>(s, x, w_ih, w_hh, bias, out, m, all * me / count, all * (me + 1) / count, count);
  }
}

}  // namespace

extern "C" {
extern const Step steps[] = {
    STEP("definition", "eight dot products per unit", definition, 1),
    STEP("inputs first", "one product for all steps' inputs", inputs_first, 1),
    STEP("packed", "gates side by side, 4 sums", packed, 1),
    STEP("gates", "polynomials, in registers", gates, 1),
    STEP("tiles", "6 sequences or 4 ways: 16 to 24 sums", tiles, 1),
    STEP("turning", "every other step backwards", turning, 1),
    STEP("threads", "units shared out, one barrier a step", threads, 0),
};
extern const int step_count = sizeof steps / sizeof *steps;
}
