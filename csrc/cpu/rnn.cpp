// Recurrent cells: all gates of a step in one pass over memory.
#include "kernels/rnn.h"

#include "cpu/isa.h"
#include "cpu/rnn_cells.h"
#include "functors/math.h"

namespace pydlx::PYDLX_ISA {
namespace {

// About 10 us of transcendental work per chunk.
std::int64_t row_grain(std::int64_t hidden) { return 4096 / (hidden + 1) + 1; }

template <class T, CellKind kind>
void forward(const CellForward& k) {
  const std::int64_t n = k.hidden;
  parallel_for(k.rows, row_grain(n), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      T* __restrict g = static_cast<T*>(k.gates) + r * n * gates_of(kind);
      T* __restrict h = static_cast<T*>(k.h) + r * n;
      if constexpr (kind == CellKind::tanh) {
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) h[j] = g[j] = math::tanh(g[j]);
      } else if constexpr (kind == CellKind::relu) {
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) h[j] = g[j] = g[j] < T(0) ? T(0) : g[j];
      } else if constexpr (kind == CellKind::lstm) {
        T* __restrict c = static_cast<T*>(k.c) + r * n;
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) {
          const T i = math::sigmoid(g[j]), f = math::sigmoid(g[n + j]), u = math::tanh(g[2 * n + j]),
                  o = math::sigmoid(g[3 * n + j]);
          const T state = f * c[j] + i * u;
          g[j] = i;
          g[n + j] = f;
          g[2 * n + j] = u;
          g[3 * n + j] = o;
          c[j] = state;
          h[j] = o * math::tanh(state);
        }
      } else {
        const T* __restrict s = static_cast<const T*>(k.recurrent) + r * n * 3;
        const T* __restrict p = static_cast<const T*>(k.h_prev) + r * n;
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) {
          const T reset = math::sigmoid(g[j] + s[j]), z = math::sigmoid(g[n + j] + s[n + j]);
          const T u = math::tanh(g[2 * n + j] + reset * s[2 * n + j]);
          g[j] = reset;
          g[n + j] = z;
          g[2 * n + j] = u;
          h[j] = u + z * (p[j] - u);
        }
        if (k.candidate)
          std::memcpy(static_cast<T*>(k.candidate) + r * n, s + 2 * n, static_cast<std::size_t>(n) * sizeof(T));
      }
    }
  });
}

template <class T, CellKind kind>
void backward(const CellBackward& k) {
  parallel_for(k.rows, row_grain(k.hidden), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) cell_backward<T, kind>(k, r, 0, k.hidden);
  });
}

}  // namespace

void register_rnn(KernelTable& t) {
  CellKernels& k = family<CellKernels>(t);
  each_type(WideTypes{}, [&]<class T>() {
    k.forward[static_cast<int>(CellKind::tanh)][idx<T>] = forward<T, CellKind::tanh>;
    k.forward[static_cast<int>(CellKind::relu)][idx<T>] = forward<T, CellKind::relu>;
    k.forward[static_cast<int>(CellKind::lstm)][idx<T>] = forward<T, CellKind::lstm>;
    k.forward[static_cast<int>(CellKind::gru)][idx<T>] = forward<T, CellKind::gru>;
    k.backward[static_cast<int>(CellKind::tanh)][idx<T>] = backward<T, CellKind::tanh>;
    k.backward[static_cast<int>(CellKind::relu)][idx<T>] = backward<T, CellKind::relu>;
    k.backward[static_cast<int>(CellKind::lstm)][idx<T>] = backward<T, CellKind::lstm>;
    k.backward[static_cast<int>(CellKind::gru)][idx<T>] = backward<T, CellKind::gru>;
  });
}

}  // namespace pydlx::PYDLX_ISA
