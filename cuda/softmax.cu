// Softmax and log-softmax along the middle axis of [outer, n, inner]. The packs of a dense row stay in the registers of
// its threads. Of longer ones, and of strided ones, one pass finds the maximum and the sum of exponentials together
// (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"), a second one writes.
#include "cuda/online.cuh"
#include "cuda/runtime/rows.cuh"
#include "functors/types.h"
#include "kernels.h"
#include "kernels/softmax.h"

namespace pydlx::cuda {
namespace {

using functors::compute_t;

// ---- dense rows -----------------------------------------------------------------------------------------------------

struct Larger {
  template <class A>
  __device__ A operator()(A a, A b) const {
    return b > a ? b : a;
  }
};

template <bool logarithm, class T, int V, bool kept>
__global__ void __launch_bounds__(kRowThreads)
    softmax_rows(const __grid_constant__ Softmax k, const __grid_constant__ RowLayout layout) {
  using A = compute_t<T>;
  __shared__ Online<A> shared[kRowThreads];
  const RowThread at(layout);
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < k.outer;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t r = first + at.row, n = r < k.outer ? k.n : 0;
    const T* x = static_cast<const T*>(k.in) + r * k.n;
    T* y = static_cast<T*>(k.out) + r * k.n;
    RowPacks<T, V, kept> row;
    A power[kept && !logarithm ? kKeptPacks : 1][V];  // exponentials of a row that is kept
    Online<A> s = nothing_yet<A>();
    if constexpr (kept) {
      each_pack<V, kept>(at, n, [&](int q, std::int64_t i) { row.read(x, q, i); });
      each_pack<V, kept>(at, n, [&](int q, std::int64_t) {
#pragma unroll
        for (int j = 0; j < V; ++j) s.max = Larger()(s.max, static_cast<A>(row.x[q].v[j]));
      });
      A* const values = reinterpret_cast<A*>(shared);
      s.max = at.all(s.max, values, Larger());
      each_pack<V, kept>(at, n, [&](int q, std::int64_t) {
#pragma unroll
        for (int j = 0; j < V; ++j) {
          const A e = power_of_e<T>(static_cast<A>(row.x[q].v[j]) - s.max);  // NaN where the maximum is infinite
          if constexpr (!logarithm) power[q][j] = e;
          s.sum += e;
        }
      });
      s.sum = at.all(s.sum, values, Adder());
    } else {
      each_pack<V, kept>(at, n, [&](int q, std::int64_t i) {
        row.read(x, q, i);
        A v[V];
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] = static_cast<A>(row.x[q].v[j]);
        include<T>(s, v);
      });
      s = settled(at.all(s, shared, MergeOnline()));
    }
    const A shift = logarithm ? static_cast<A>(math::log(static_cast<double>(s.sum))) : A(1) / s.sum;
    each_pack<V, kept>(at, n, [&](int q, std::int64_t i) {
      if constexpr (!kept) row.read(x, q, i);
      Pack<T, V> out;
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const A v = static_cast<A>(row.x[q].v[j]);
        if constexpr (logarithm)
          out.v[j] = static_cast<T>(v - s.max - shift);
        else if constexpr (kept)
          out.v[j] = static_cast<T>(power[q][j] * shift);
        else
          out.v[j] = static_cast<T>(power_of_e<T>(v - s.max) * shift);
      }
      put(y + i, out);
    });
  }
}

template <bool logarithm, class T, int V, bool kept>
__global__ void __launch_bounds__(kRowThreads)
    softmax_backward_rows(const __grid_constant__ Softmax k, const __grid_constant__ RowLayout layout) {
  using A = compute_t<T>;
  __shared__ A shared[kRowThreads];
  const RowThread at(layout);
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < k.outer;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t r = first + at.row, n = r < k.outer ? k.n : 0;
    const T *g = static_cast<const T*>(k.in) + r * k.n, *y = static_cast<const T*>(k.y) + r * k.n;
    T* dx = static_cast<T*>(k.out) + r * k.n;
    RowPacks<T, V, kept> gs, ys;
    const auto read = [&](int q, std::int64_t i) {
      gs.read(g, q, i);
      ys.read(y, q, i);
    };
    if constexpr (kept) each_pack<V, kept>(at, n, read);
    A s = 0;
    each_pack<V, kept>(at, n, [&](int q, std::int64_t i) {
      if constexpr (!kept) read(q, i);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const A v = static_cast<A>(gs.x[q].v[j]);
        s += logarithm ? v : v * static_cast<A>(ys.x[q].v[j]);
      }
    });
    s = at.all(s, shared, Adder());
    each_pack<V, kept>(at, n, [&](int q, std::int64_t i) {
      if constexpr (!kept) read(q, i);
      Pack<T, V> out;
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const A v = static_cast<A>(gs.x[q].v[j]), p = static_cast<A>(ys.x[q].v[j]);
        out.v[j] = static_cast<T>(logarithm ? v - power_of_e<T>(p) * s : p * (v - s));
      }
      put(dx + i, out);
    });
  }
}

// ---- strided rows ---------------------------------------------------------------------------------------------------

template <bool logarithm, class T>
__global__ void __launch_bounds__(kRowThreads) softmax(const Softmax k, RowLayout layout) {
  using A = compute_t<T>;
  __shared__ Online<A> shared[kRowThreads];
  const RowThread at(layout);
  const std::int64_t rows = k.outer * k.inner;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < rows;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t row = first + at.row, base = row / k.inner * k.n * k.inner + row % k.inner;
    const bool mine = row < rows;
    const T* x = static_cast<const T*>(k.in) + base;
    T* y = static_cast<T*>(k.out) + base;
    Online<A> s = nothing_yet<A>();
    if (mine)
      for (std::int64_t i = at.lane; i < k.n; i += at.lanes) include(s, static_cast<A>(x[i * k.inner]));
    s = settled(at.all(s, shared, MergeOnline()));
    if (!mine) continue;
    if constexpr (logarithm) {
      const A shift = static_cast<A>(math::log(static_cast<double>(s.sum)));
      for (std::int64_t i = at.lane; i < k.n; i += at.lanes)
        y[i * k.inner] = static_cast<T>(static_cast<A>(x[i * k.inner]) - s.max - shift);
    } else {
      const A scale = A(1) / s.sum;
      for (std::int64_t i = at.lane; i < k.n; i += at.lanes)
        y[i * k.inner] = static_cast<T>(math::exp(static_cast<A>(x[i * k.inner]) - s.max) * scale);
    }
  }
}

template <bool logarithm, class T>
__global__ void __launch_bounds__(kRowThreads) softmax_backward(const Softmax k, RowLayout layout) {
  using A = compute_t<T>;
  __shared__ A shared[kRowThreads];
  const RowThread at(layout);
  const std::int64_t rows = k.outer * k.inner;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < rows;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t row = first + at.row, base = row / k.inner * k.n * k.inner + row % k.inner;
    const bool mine = row < rows;
    const T *g = static_cast<const T*>(k.in) + base, *y = static_cast<const T*>(k.y) + base;
    T* dx = static_cast<T*>(k.out) + base;
    A s = 0;
    if (mine)
      for (std::int64_t i = at.lane; i < k.n; i += at.lanes) {
        const A v = static_cast<A>(g[i * k.inner]);
        s += logarithm ? v : v * static_cast<A>(y[i * k.inner]);
      }
    s = at.all(s, shared, Adder());
    if (!mine) continue;
    for (std::int64_t i = at.lane; i < k.n; i += at.lanes) {
      const A v = static_cast<A>(g[i * k.inner]), p = static_cast<A>(y[i * k.inner]);
      dx[i * k.inner] = static_cast<T>(logarithm ? v - math::exp(p) * s : p * (v - s));
    }
  }
}

template <bool backward, bool logarithm, class T>
void run(const Softmax& k) {
  const std::int64_t rows = k.outer * k.inner;
  if (rows == 0 || k.n == 0) return;
  if (k.inner == 1)
    return for_rows_of<T>(
        k.n, packs_begin(k.in, k.out, backward ? k.y : nullptr), [&]<int V, bool kept>(RowLayout layout) {
          launch(backward ? softmax_backward_rows<logarithm, T, V, kept> : softmax_rows<logarithm, T, V, kept>,
                 layout.grid(rows), kRowThreads, 0, k, layout);
        });
  const RowLayout layout = RowLayout::side_by_side(k.n, rows);
  launch(backward ? softmax_backward<logarithm, T> : softmax<logarithm, T>, layout.grid(rows), kRowThreads, 0, k,
         layout);
}

}  // namespace

void register_softmax(KernelTable& t) {
  SoftmaxKernels& k = family<SoftmaxKernels>(t);
  each_type(FloatTypes{}, [&]<class T>() {
    k.forward[0][idx<T>] = run<false, false, T>;
    k.forward[1][idx<T>] = run<false, true, T>;
    k.backward[0][idx<T>] = run<true, false, T>;
    k.backward[1][idx<T>] = run<true, true, T>;
  });
}

}  // namespace pydlx::cuda
