// Recurrent cells: all gates of a step in one pass over memory, one thread per hidden unit and row.
#include "cuda/runtime/each.cuh"
#include "functors/math.h"
#include "kernels/rnn.h"

namespace pydlx::cuda {
namespace {

template <class T, CellKind kind>
struct Forward {
  CellForward k;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const std::int64_t n = k.hidden;
    const auto [r, j] = divide(e, n);
    T* g = static_cast<T*>(k.gates) + r * n * gates_of(kind) + j;
    T& h = static_cast<T*>(k.h)[e];
    if constexpr (kind == CellKind::tanh) {
      h = g[0] = math::tanh(g[0]);
    } else if constexpr (kind == CellKind::relu) {
      h = g[0] = g[0] < T(0) ? T(0) : g[0];
    } else if constexpr (kind == CellKind::lstm) {
      T& c = static_cast<T*>(k.c)[e];
      const T i = math::sigmoid(g[0]), f = math::sigmoid(g[n]), u = math::tanh(g[2 * n]), o = math::sigmoid(g[3 * n]);
      const T state = f * c + i * u;
      g[0] = i;
      g[n] = f;
      g[2 * n] = u;
      g[3 * n] = o;
      c = state;
      h = o * math::tanh(state);
    } else {
      const T* s = static_cast<const T*>(k.recurrent) + r * n * 3 + j;
      const T p = static_cast<const T*>(k.h_prev)[e], candidate = s[2 * n];
      const T reset = math::sigmoid(g[0] + s[0]), z = math::sigmoid(g[n] + s[n]);
      const T u = math::tanh(g[2 * n] + reset * candidate);
      g[0] = reset;
      g[n] = z;
      g[2 * n] = u;
      h = u + z * (p - u);
      if (k.candidate) static_cast<T*>(k.candidate)[e] = candidate;
    }
  }
};
template <class T, CellKind kind>
void forward(const CellForward& k) {
  for_each(k.rows * k.hidden, Forward<T, kind>{k});
}

template <class T, CellKind kind>
struct Backward {
  CellBackward k;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const std::int64_t n = k.hidden;
    const auto [r, j] = divide(e, n);
    const T* g = static_cast<const T*>(k.gates) + r * n * gates_of(kind) + j;
    T* d = static_cast<T*>(k.dgates) + r * n * gates_of(kind) + j;
    T& dh_place = static_cast<T*>(k.dh)[e];
    const T dh = dh_place;
    if constexpr (kind == CellKind::tanh) {
      d[0] = dh * (T(1) - g[0] * g[0]);
    } else if constexpr (kind == CellKind::relu) {
      d[0] = g[0] > T(0) ? dh : T(0);
    } else if constexpr (kind == CellKind::lstm) {
      const T before = static_cast<const T*>(k.c_prev)[e];
      T& dc = static_cast<T*>(k.dc)[e];
      const T i = g[0], f = g[n], u = g[2 * n], o = g[3 * n];
      const T t = math::tanh(f * before + i * u);
      const T total = dc + dh * o * (T(1) - t * t);
      d[0] = total * u * i * (T(1) - i);
      d[n] = total * before * f * (T(1) - f);
      d[2 * n] = total * i * (T(1) - u * u);
      d[3 * n] = dh * t * o * (T(1) - o);
      dc = total * f;
    } else {
      const T p = static_cast<const T*>(k.h_prev)[e], s = static_cast<const T*>(k.candidate)[e];
      T* q = static_cast<T*>(k.drecurrent) + r * n * 3 + j;
      const T reset = g[0], z = g[n], u = g[2 * n];
      const T du = dh * (T(1) - z) * (T(1) - u * u);
      const T dz = dh * (p - u) * z * (T(1) - z);
      const T dr = du * s * reset * (T(1) - reset);
      d[0] = q[0] = dr;
      d[n] = q[n] = dz;
      d[2 * n] = du;
      q[2 * n] = du * reset;
      dh_place = dh * z;
    }
  }
};
template <class T, CellKind kind>
void backward(const CellBackward& k) {
  for_each(k.rows * k.hidden, Backward<T, kind>{k});
}

template <class T, CellKind kind>
void add_cell(CellKernels& k) {
  constexpr int t = static_cast<int>(DTypeOf<T>::value);
  k.forward[static_cast<int>(kind)][t] = forward<T, kind>;
  k.backward[static_cast<int>(kind)][t] = backward<T, kind>;
}
}  // namespace

void register_rnn(KernelTable& t) {
  CellKernels& k = family<CellKernels>(t);
  each_type(WideTypes{}, [&]<class T>() {
    add_cell<T, CellKind::tanh>(k);
    add_cell<T, CellKind::relu>(k);
    add_cell<T, CellKind::lstm>(k);
    add_cell<T, CellKind::gru>(k);
  });
}

}  // namespace pydlx::cuda
