// Softmax and log-softmax along the middle axis of [outer, n, inner]. The packs of a dense row stay in the registers of
// its threads. Of longer ones, and of strided ones, one pass finds the maximum and the sum of exponentials together
// (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"), a second one writes.
#include "cuda/online.cuh"
#include "cuda/runtime/columns.cuh"
#include "functors/types.h"
#include "kernels.h"
#include "kernels/softmax.h"

namespace pydlx::cuda {
namespace {

using functors::compute_t;

// ---- dense rows -----------------------------------------------------------------------------------------------------

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
        A v[V];
        widen(row.x[q], v);
#pragma unroll
        for (int j = 0; j < V; ++j) s.max = larger(s.max, v[j]);
      });
      A* const values = reinterpret_cast<A*>(shared);
      s.max = at.all(s.max, values, Larger());
      each_pack<V, kept>(at, n, [&](int q, std::int64_t) {
        A v[V];
        widen(row.x[q], v);
#pragma unroll
        for (int j = 0; j < V; ++j) {
          const A e = power_of_e<T>(v[j] - s.max);  // NaN where the maximum is infinite
          if constexpr (!logarithm) power[q][j] = e;
          s.sum += e;
        }
      });
      s.sum = at.all(s.sum, values, Adder());
    } else {
      each_pack<V, kept>(at, n, [&](int q, std::int64_t i) {
        row.read(x, q, i);
        A v[V];
        widen(row.x[q], v);
        include<T>(s, v);
      });
      s = settled(at.all(s, shared, MergeOnline()));
    }
    const A shift = logarithm ? static_cast<A>(math::log(static_cast<double>(s.sum))) : A(1) / s.sum;
    each_pack<V, kept>(at, n, [&](int q, std::int64_t i) {
      if constexpr (!kept) row.read(x, q, i);
      A v[V];
      widen(row.x[q], v);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        if constexpr (logarithm)
          v[j] = v[j] - s.max - shift;
        else if constexpr (kept)
          v[j] = power[q][j] * shift;
        else
          v[j] = power_of_e<T>(v[j] - s.max) * shift;
      }
      put(y + i, narrowed<T>(v));
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
      A v[V], p[V];
      widen(gs.x[q], v);
      widen(ys.x[q], p);
#pragma unroll
      for (int j = 0; j < V; ++j) s += logarithm ? v[j] : v[j] * p[j];
    });
    s = at.all(s, shared, Adder());
    each_pack<V, kept>(at, n, [&](int q, std::int64_t i) {
      if constexpr (!kept) read(q, i);
      A v[V], p[V];
      widen(gs.x[q], v);
      widen(ys.x[q], p);
#pragma unroll
      for (int j = 0; j < V; ++j) v[j] = logarithm ? v[j] - power_of_e<T>(p[j]) * s : p[j] * (v[j] - s);
      put(dx + i, narrowed<T>(v));
    });
  }
}

// ---- strided rows ---------------------------------------------------------------------------------------------------

template <bool logarithm, class T, int V, bool kept>
__global__ void __launch_bounds__(kRowThreads)
    softmax_columns(const __grid_constant__ Softmax k, const __grid_constant__ Columns c) {
  using A = compute_t<T>;
  __shared__ Pack<A, V> shared[kRowThreads];
  const RowThread at(c.layout);
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < c.packs;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const ColumnPlace<V> place(c, first + at.row);
    const T* x = static_cast<const T*>(k.in) + place.base;
    T* y = static_cast<T*>(k.out) + place.base;
    Pack<T, V> p[kColumnAhead];
    Online<A> s[V];
    include_columns<T, V>(at, c, place, x, p, s);
    merge_columns(at, s, shared);
    A shift[V];
#pragma unroll
    for (int j = 0; j < V; ++j)
      shift[j] = logarithm ? static_cast<A>(math::log(static_cast<double>(s[j].sum))) : A(1) / s[j].sum;
    for (std::int64_t i = at.lane; i < place.n; i += kColumnAhead * at.lanes) {
      if constexpr (!kept)
        each_ahead(at, i, place.n, [&](int q, std::int64_t r) { p[q] = get<T, V>(x + r * c.inner); });
      each_ahead(at, i, place.n, [&](int q, std::int64_t r) {
        A v[V];
        widen(p[q], v);
#pragma unroll
        for (int j = 0; j < V; ++j)
          v[j] = logarithm ? v[j] - s[j].max - shift[j] : power_of_e<T>(v[j] - s[j].max) * shift[j];
        put(y + r * c.inner, narrowed<T>(v));
      });
    }
  }
}

template <bool logarithm, class T, int V, bool kept>
__global__ void __launch_bounds__(kRowThreads)
    softmax_backward_columns(const __grid_constant__ Softmax k, const __grid_constant__ Columns c) {
  using A = compute_t<T>;
  __shared__ Pack<A, V> shared[kRowThreads];
  const RowThread at(c.layout);
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < c.packs;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const ColumnPlace<V> place(c, first + at.row);
    const T *g = static_cast<const T*>(k.in) + place.base, *y = static_cast<const T*>(k.y) + place.base;
    T* dx = static_cast<T*>(k.out) + place.base;
    Pack<T, V> gs[kColumnAhead], ys[kColumnAhead];
    const auto read = [&](int q, std::int64_t r) {
      gs[q] = get<T, V>(g + r * c.inner);
      ys[q] = get<T, V>(y + r * c.inner);
    };
    Pack<A, V> s = {};
    for (std::int64_t i = at.lane; i < place.n; i += kColumnAhead * at.lanes) {
      each_ahead(at, i, place.n, read);
      each_ahead(at, i, place.n, [&](int q, std::int64_t) {
        A v[V], p[V];
        widen(gs[q], v);
        widen(ys[q], p);
#pragma unroll
        for (int j = 0; j < V; ++j) s.v[j] += logarithm ? v[j] : v[j] * p[j];
      });
    }
    s = at.all(s, shared, EachColumn<Adder>());
    for (std::int64_t i = at.lane; i < place.n; i += kColumnAhead * at.lanes) {
      if constexpr (!kept) each_ahead(at, i, place.n, read);
      each_ahead(at, i, place.n, [&](int q, std::int64_t r) {
        A v[V], p[V];
        widen(gs[q], v);
        widen(ys[q], p);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] = logarithm ? v[j] - power_of_e<T>(p[j]) * s.v[j] : p[j] * (v[j] - s.v[j]);
        put(dx + r * c.inner, narrowed<T>(v));
      });
    }
  }
}

template <bool backward, bool logarithm, class T>
void run(const Softmax& k) {
  const std::int64_t rows = k.outer * k.inner;
  if (rows == 0 || k.n == 0) return;
  const bool packs = packs_begin(k.in, k.out, backward ? k.y : nullptr);
  if (k.inner == 1)
    return for_rows_of<T>(k.n, packs, [&]<int V, bool kept>(RowLayout layout) {
      launch(backward ? softmax_backward_rows<logarithm, T, V, kept> : softmax_rows<logarithm, T, V, kept>,
             layout.grid(rows), kRowThreads, 0, k, layout);
    });
  for_columns_of<T>(k.outer, k.n, k.inner, packs, [&]<int V, bool kept>(const Columns& c) {
    launch(backward ? softmax_backward_columns<logarithm, T, V, kept> : softmax_columns<logarithm, T, V, kept>,
           c.grid(), kRowThreads, 0, k, c);
  });
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
