// The backward formulas of the recurrent cells, shared by single steps and whole sequences.
#pragma once
#include "cpu/isa.h"
#include "functors/math.h"
#include "kernels/rnn.h"

namespace pydlx::PYDLX_ISA {
namespace {

// Units begin..end of row r. Never inlined: the compiler forgets that the pointers do not overlap where it does.
template <class T, CellKind kind>
__attribute__((noinline)) void cell_backward(const CellBackward& k, std::int64_t r, std::int64_t begin,
                                             std::int64_t end) {
  const std::int64_t n = k.hidden;
  const T* __restrict g = static_cast<const T*>(k.gates) + r * n * gates_of(kind);
  T* __restrict d = static_cast<T*>(k.dgates) + r * n * gates_of(kind);
  T* __restrict dh = static_cast<T*>(k.dh) + r * n;
  if constexpr (kind == CellKind::tanh) {
#pragma omp simd
    for (std::int64_t j = begin; j < end; ++j) d[j] = dh[j] * (T(1) - g[j] * g[j]);
  } else if constexpr (kind == CellKind::relu) {
#pragma omp simd
    for (std::int64_t j = begin; j < end; ++j) d[j] = g[j] > T(0) ? dh[j] : T(0);
  } else if constexpr (kind == CellKind::lstm) {
    const T* __restrict cp = static_cast<const T*>(k.c_prev) + r * n;
    T* __restrict dc = static_cast<T*>(k.dc) + r * n;
#pragma omp simd
    for (std::int64_t j = begin; j < end; ++j) {
      const T i = g[j], f = g[n + j], u = g[2 * n + j], o = g[3 * n + j];
      const T t = math::tanh(f * cp[j] + i * u);
      const T total = dc[j] + dh[j] * o * (T(1) - t * t);
      d[j] = total * u * i * (T(1) - i);
      d[n + j] = total * cp[j] * f * (T(1) - f);
      d[2 * n + j] = total * i * (T(1) - u * u);
      d[3 * n + j] = dh[j] * t * o * (T(1) - o);
      dc[j] = total * f;
    }
  } else {
    const T* __restrict p = static_cast<const T*>(k.h_prev) + r * n;
    const T* __restrict s = static_cast<const T*>(k.candidate) + r * n;
    T* __restrict e = static_cast<T*>(k.drecurrent) + r * n * 3;
#pragma omp simd
    for (std::int64_t j = begin; j < end; ++j) {
      const T reset = g[j], z = g[n + j], u = g[2 * n + j];
      const T du = dh[j] * (T(1) - z) * (T(1) - u * u);
      const T dz = dh[j] * (p[j] - u) * z * (T(1) - z);
      const T dr = du * s[j] * reset * (T(1) - reset);
      d[j] = e[j] = dr;
      d[n + j] = e[n + j] = dz;
      d[2 * n + j] = du;
      e[2 * n + j] = du * reset;
      dh[j] *= z;
    }
  }
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
