// All steps of one direction of one recurrent layer in one kernel, see recurrent_plan.h. A group's blocks wait for each
// other once per step; what a step needs beside its sums is read before the wait. The formulas are those of rnn.cu, in
// float.
#pragma once
#include "cuda/rnn/recurrent_tile.cuh"
#include "cuda/runtime/grid.cuh"
#include "functors/math.h"
#include "kernels/rnn.h"

namespace pydlx::cuda {
namespace {

constexpr int kCounterStep = 32;  // words between two groups' counters: a line of the cache each

// What both directions share. Step t has rows[t] rows from offset[t] on; null: the whole batch in every step.
template <class T>
struct RecurrentSteps {
  std::int64_t steps, batch;
  const std::int64_t *rows, *offset;
  bool reverse;
  int hidden, units, blocks;  // of the layer; of a block; of a group
  std::int64_t group_rows;
  const T* weight;     // [gates * hidden, hidden]
  bool vectors, relu;  // rows of the summed axis are whole vectors; kind tanh: relu instead
  unsigned* arrivals;

  __device__ __forceinline__ std::int64_t time(std::int64_t s) const { return reverse ? steps - 1 - s : s; }
  __device__ __forceinline__ std::int64_t rows_at(std::int64_t t) const { return rows ? rows[t] : batch; }
  __device__ __forceinline__ std::int64_t offset_at(std::int64_t t) const { return offset ? offset[t] : t * batch; }
};

// Positions of unit u in a row of gates: u + gate * hidden, GRU's recurrent part of n at `candidate`.
template <class T>
struct RecurrentForward : RecurrentSteps<T> {
  const T* bias;  // GRU, or null
  float* gates;   // the input's share in, activations out where h_prev is
  std::int64_t gates_row;
  const T* h0;
  T *h, *y;  // last states; [total, hidden]
  float* c;  // LSTM: [batch, hidden], in and out
  T* h_prev;
  float *c_prev, *candidate;
  std::int64_t c_prev_row, candidate_row;
};

template <class T>
struct RecurrentBackward : RecurrentSteps<T> {
  const float *gates, *c_prev, *candidate;
  std::int64_t gates_row, c_prev_row, candidate_row;
  const T *h_prev, *dy;
  float *dh, *dc;           // [batch, hidden], in and out
  T *dgates, *dmultiplied;  // [total, gates * hidden]; what W_hh is multiplied with: the same, but for GRU
};

// A block's place.
struct RecurrentPlace {
  unsigned* arrivals;
  std::int64_t first_row, end_row;
  int first_unit, units;

  template <class T>
  __device__ explicit RecurrentPlace(const RecurrentSteps<T>& p) {
    const int group = static_cast<int>(blockIdx.x) / p.blocks, member = static_cast<int>(blockIdx.x) % p.blocks;
    arrivals = p.arrivals + static_cast<std::int64_t>(group) * kCounterStep;
    first_row = group * p.group_rows;
    end_row = first_row + p.group_rows < p.batch ? first_row + p.group_rows : p.batch;
    first_unit = member * p.units;
    units = p.hidden - first_unit < p.units ? p.hidden - first_unit : p.units;
  }
};

// A thread's items: rows of a tile times units of a tile, units first. Always the same rows and units, so that what one
// step leaves in memory for the next one needs no barrier.
template <class Tile, int kTileUnits>
constexpr int kItemsOf = (Tile::kTile.rows * kTileUnits + kStepThreads - 1) / kStepThreads;

template <class Tile, int kTileUnits, class Work>
__device__ __forceinline__ void each_item(int units, const Work& work) {
#pragma unroll
  for (int i = 0; i < kItemsOf<Tile, kTileUnits>; ++i) {
    const int e = static_cast<int>(threadIdx.x) + i * kStepThreads, row = e / kTileUnits, unit = e % kTileUnits;
    if (row < Tile::kTile.rows && unit < units) work(i, row, unit);
  }
}
template <class Tile, CellKind kind>
__global__ void __launch_bounds__(kStepThreads, 1)
    recurrent_forward(const __grid_constant__ RecurrentForward<typename Tile::Element> p) {
  using T = typename Tile::Element;
  constexpr int G = static_cast<int>(gates_of(kind)), kTileUnits = Tile::kTile.columns / G;
  constexpr int kRows = Tile::kTile.rows, kItems = kItemsOf<Tile, kTileUnits>;
  const RecurrentPlace place(p);
  const std::int64_t n = p.hidden, line = weight_line(n, sizeof(T));
  const RecurrentMemory<Tile> memory(place.units * G * line);
  // Column unit * G + gate.
  for (int c = 0; c < place.units * G; ++c) {
    const T* from = p.weight + (c % G * n + place.first_unit + c / G) * n;
    for (std::int64_t k = threadIdx.x; k < line; k += kStepThreads)
      memory.weights[c * line + k] = k < n ? from[k] : T{};
  }
  __syncthreads();

  unsigned due = 0;
  for (std::int64_t s = 0; s < p.steps; ++s) {
    const std::int64_t t = p.time(s), offset = p.offset_at(t);
    const std::int64_t all = p.rows_at(t), end = all < place.end_row ? all : place.end_row;
    if (end <= place.first_row) continue;
    // The state before a step is the output of the step before; rows that begin here (only against time) are in h0.
    const std::int64_t running = s > 0 ? p.rows_at(p.time(s - 1)) : 0;
    const T* const before = s > 0 ? p.y + p.offset_at(p.time(s - 1)) * n : nullptr;
    const std::int64_t going_on = s + 1 < p.steps ? p.rows_at(p.time(s + 1)) : 0;
    bool waited = due == 0;
    for (std::int64_t r0 = place.first_row; r0 < end; r0 += kRows)
      for (int u0 = 0; u0 < place.units; u0 += kTileUnits) {
        const int units = place.units - u0 < kTileUnits ? place.units - u0 : kTileUnits;
        const auto state_before = [&](std::int64_t r) { return r < running ? before + r * n : p.h0 + r * n; };
        float x[kItems][G] = {}, c[kItems] = {};  // c: the state before, GRU's h
        each_item<Tile, kTileUnits>(units, [&](int i, int row, int unit) {
          if (r0 + row >= end) return;
          const int u = place.first_unit + u0 + unit;
          const float* from = p.gates + (offset + r0 + row) * p.gates_row + u;
#pragma unroll
          for (int g = 0; g < G; ++g) x[i][g] = from[g * n];
          if constexpr (kind == CellKind::lstm) c[i] = p.c[(r0 + row) * n + u];
          if constexpr (kind == CellKind::gru) c[i] = static_cast<float>(state_before(r0 + row)[u]);
        });
        if (!waited) wait_for_arrivals(place.arrivals, due);
        waited = true;
        multiply<Tile>(memory, memory.weights + u0 * G * line, line, units * G, p.hidden, p.vectors,
                       [&](int row) { return r0 + row < end ? state_before(r0 + row) : nullptr; });
        each_item<Tile, kTileUnits>(units, [&](int i, int row, int unit) {
          const std::int64_t r = r0 + row, at = offset + r;
          if (r >= end) return;
          const int u = place.first_unit + u0 + unit;
          float v[G], h, after[G];
#pragma unroll
          for (int g = 0; g < G; ++g) v[g] = whole_sum<Tile>(memory.sums, row, unit * G + g);
          if constexpr (kind == CellKind::lstm) {
            after[0] = math::sigmoid(x[i][0] + v[0]);
            after[1] = math::sigmoid(x[i][1] + v[1]);
            after[2] = math::tanh(x[i][2] + v[2]);
            after[3] = math::sigmoid(x[i][3] + v[3]);
            const float state = after[1] * c[i] + after[0] * after[2];
            if (p.h_prev) p.c_prev[at * p.c_prev_row + u] = c[i];
            p.c[r * n + u] = state;
            h = after[3] * math::tanh(state);
          } else if constexpr (kind == CellKind::gru) {
            if (p.bias) {
#pragma unroll
              for (int g = 0; g < G; ++g) v[g] += static_cast<float>(p.bias[g * n + u]);
            }
            after[0] = math::sigmoid(x[i][0] + v[0]);
            after[1] = math::sigmoid(x[i][1] + v[1]);
            after[2] = math::tanh(x[i][2] + after[0] * v[2]);
            h = after[2] + after[1] * (c[i] - after[2]);
            if (p.h_prev) p.candidate[at * p.candidate_row + u] = v[2];
          } else {
            const float sum = x[i][0] + v[0];
            h = after[0] = p.relu ? (sum < 0.0f ? 0.0f : sum) : math::tanh(sum);
          }
          if (p.h_prev) {
            p.h_prev[at * n + u] = state_before(r)[u];
            float* kept = p.gates + at * p.gates_row + u;
#pragma unroll
            for (int g = 0; g < G; ++g) kept[g * n] = after[g];
          }
          const T rounded = static_cast<T>(h);
          p.y[at * n + u] = rounded;
          if (r >= going_on) p.h[r * n + u] = rounded;  // against time rows never end before the last step
        });
      }
    arrive_at(place.arrivals);
    due += static_cast<unsigned>(p.blocks);
  }
}

// A step first finishes the gradient of its units of the state, which needs all gate gradients of the step after, then
// applies the cell's formulas to them. One more pass than steps: the last only finishes that of the first state.
template <class Tile, CellKind kind>
__global__ void __launch_bounds__(kStepThreads, 1)
    recurrent_backward(const __grid_constant__ RecurrentBackward<typename Tile::Element> p) {
  using T = typename Tile::Element;
  constexpr int G = static_cast<int>(gates_of(kind)), kTileUnits = Tile::kTile.columns, kRows = Tile::kTile.rows;
  constexpr int kItems = kItemsOf<Tile, kTileUnits>;
  constexpr bool lstm = kind == CellKind::lstm, gru = kind == CellKind::gru;
  const RecurrentPlace place(p);
  const std::int64_t n = p.hidden, depth = G * n, line = weight_line(depth, sizeof(T));
  const RecurrentMemory<Tile> memory(place.units * line);
  for (std::int64_t e = threadIdx.x; e < line * place.units; e += kStepThreads) {
    const std::int64_t k = e / place.units, u = e % place.units;
    memory.weights[u * line + k] = k < depth ? p.weight[k * n + place.first_unit + u] : T{};
  }
  __syncthreads();

  unsigned due = 0;
  for (std::int64_t s = 0; s <= p.steps; ++s) {
    const auto within = [&](std::int64_t rows) { return rows < place.end_row ? rows : place.end_row; };
    std::int64_t now = 0, offset = 0, later = 0;
    const T* after = nullptr;
    if (s < p.steps) {
      const std::int64_t t = p.time(p.steps - 1 - s);
      now = within(p.rows_at(t));
      offset = p.offset_at(t);
    }
    if (s > 0) {
      const std::int64_t t = p.time(p.steps - s);
      later = within(p.rows_at(t));
      after = p.dmultiplied + p.offset_at(t) * depth;
    }
    const std::int64_t end = now > later ? now : later;
    bool waited = false;
    for (std::int64_t r0 = place.first_row; r0 < end; r0 += kRows)
      for (int u0 = 0; u0 < place.units; u0 += kTileUnits) {
        const int units = place.units - u0 < kTileUnits ? place.units - u0 : kTileUnits;
        float g[kItems][G] = {}, before[kItems] = {}, candidate[kItems] = {}, dh[kItems] = {}, dc[kItems] = {};
        each_item<Tile, kTileUnits>(units, [&](int i, int row, int unit) {
          const std::int64_t r = r0 + row, at = offset + r;
          if (r >= end) return;
          const int u = place.first_unit + u0 + unit;
          dh[i] = r < later && !gru ? 0.0f : p.dh[r * n + u];
          if (r >= now) return;
          if (p.dy) dh[i] += static_cast<float>(p.dy[at * n + u]);
#pragma unroll
          for (int j = 0; j < G; ++j) g[i][j] = p.gates[at * p.gates_row + j * n + u];
          if constexpr (lstm) {
            before[i] = p.c_prev[at * p.c_prev_row + u];
            dc[i] = p.dc[r * n + u];
          }
          if constexpr (gru) {
            before[i] = static_cast<float>(p.h_prev[at * n + u]);
            candidate[i] = p.candidate[at * p.candidate_row + u];
          }
        });
        if (r0 < later) {
          if (!waited) wait_for_arrivals(place.arrivals, due);
          waited = true;
          multiply<Tile>(memory, memory.weights + u0 * line, line, units, static_cast<int>(depth), p.vectors,
                         [&](int row) { return r0 + row < later ? after + (r0 + row) * depth : nullptr; });
        }
        each_item<Tile, kTileUnits>(units, [&](int i, int row, int unit) {
          const std::int64_t r = r0 + row, at = offset + r;
          if (r >= end) return;
          const int u = place.first_unit + u0 + unit;
          const float d = dh[i] + (r < later ? whole_sum<Tile>(memory.sums, row, unit) : 0.0f);
          float out = d;
          if (r < now) {
            T* to = p.dgates + at * depth + u;
            if constexpr (lstm) {
              const float in = g[i][0], f = g[i][1], v = g[i][2], o = g[i][3];
              const float th = math::tanh(f * before[i] + in * v);
              const float total = dc[i] + d * o * (1.0f - th * th);
              to[0] = static_cast<T>(total * v * in * (1.0f - in));
              to[n] = static_cast<T>(total * before[i] * f * (1.0f - f));
              to[2 * n] = static_cast<T>(total * in * (1.0f - v * v));
              to[3 * n] = static_cast<T>(d * th * o * (1.0f - o));
              p.dc[r * n + u] = total * f;
            } else if constexpr (gru) {
              const float reset = g[i][0], z = g[i][1], v = g[i][2];
              const float du = d * (1.0f - z) * (1.0f - v * v);
              T* other = p.dmultiplied + at * depth + u;
              to[0] = other[0] = static_cast<T>(du * candidate[i] * reset * (1.0f - reset));
              to[n] = other[n] = static_cast<T>(d * (before[i] - v) * z * (1.0f - z));
              to[2 * n] = static_cast<T>(du);
              other[2 * n] = static_cast<T>(du * reset);
              out = d * z;
            } else {
              const float v = g[i][0];
              to[0] = static_cast<T>(p.relu ? (v > 0.0f ? d : 0.0f) : d * (1.0f - v * v));
            }
          }
          p.dh[r * n + u] = out;
        });
      }
    if (now > place.first_row) {
      arrive_at(place.arrivals);
      due += static_cast<unsigned>(p.blocks);
    }
  }
}

}  // namespace
}  // namespace pydlx::cuda
