// Layer and RMS normalisation. The packs of a row stay in the registers of its threads; of longer rows they are read
// again from the caches.
#include "cuda/channel_walk.cuh"
#include "functors/math.h"
#include "functors/types.h"
#include "kernels.h"
#include "kernels/norm.h"

namespace pydlx::cuda {
namespace {

using functors::compute_t;

template <class T, int V, bool kept>
__global__ void __launch_bounds__(kRowThreads, 3)
    forward(const __grid_constant__ LayerNormForward k, const __grid_constant__ RowLayout layout) {
  using A = compute_t<T>;
  __shared__ A shared[kRowThreads];
  const RowThread at(layout);
  const T *w = static_cast<const T*>(k.weight), *b = static_cast<const T*>(k.bias);
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < k.rows;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t r = first + at.row, cols = r < k.rows ? k.cols : 0;
    const T* x = static_cast<const T*>(k.x) + r * k.cols;
    T* y = static_cast<T*>(k.y) + r * k.cols;
    RowPacks<T, V, kept> row;
    if constexpr (kept) each_pack<V, kept>(at, cols, [&](int q, std::int64_t i) { row.read(x, q, i); });
    if (k.residual) {
      const T* residual = static_cast<const T*>(k.residual) + r * k.cols;
      T* sum = static_cast<T*>(k.sum) + r * k.cols;
      each_pack<V, kept>(at, cols, [&](int q, std::int64_t i) {
        if constexpr (!kept) row.read(x, q, i);
        const Pack<T, V> more = get<T, V>(residual + i);
#pragma unroll
        for (int j = 0; j < V; ++j)
          row.x[q].v[j] = static_cast<T>(static_cast<A>(row.x[q].v[j]) + static_cast<A>(more.v[j]));
        put(sum + i, row.x[q]);
      });
      x = sum;  // a thread reads back only what it wrote
    }
    const auto read = [&](int q, std::int64_t i) {
      if constexpr (!kept) row.read(x, q, i);
    };
    // Two passes: the variance is summed from centred values, so it cannot cancel. RMS normalisation is the same around
    // 0.
    A mean = 0;
    if (k.mean) {
      each_pack<V, kept>(at, cols, [&](int q, std::int64_t i) {
        read(q, i);
#pragma unroll
        for (int j = 0; j < V; ++j) mean += static_cast<A>(row.x[q].v[j]);
      });
      mean = at.all(mean, shared, Adder()) / static_cast<A>(k.cols);
    }
    A square = 0;
    each_pack<V, kept>(at, cols, [&](int q, std::int64_t i) {
      read(q, i);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const A d = static_cast<A>(row.x[q].v[j]) - mean;
        square += d * d;
      }
    });
    const A var = at.all(square, shared, Adder()) / static_cast<A>(k.cols);
    const A rstd = A(1) / math::sqrt(var + static_cast<A>(k.eps));
    if (at.lane == 0 && cols > 0) {
      if (k.mean) static_cast<A*>(k.mean)[r] = mean;
      static_cast<A*>(k.rstd)[r] = rstd;
    }
    each_pack<V, kept>(at, cols, [&](int q, std::int64_t i) {
      read(q, i);
      Pack<T, V> factor{}, shift{}, out;
      if (w) factor = get<T, V>(w + i);
      if (b) shift = get<T, V>(b + i);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        A v = (static_cast<A>(row.x[q].v[j]) - mean) * rstd;
        if (w) v *= static_cast<A>(factor.v[j]);
        if (b) v += static_cast<A>(shift.v[j]);
        out.v[j] = static_cast<T>(v);
      }
      put(y + i, out);
    });
  }
}

// dx from the means of h = dy weight and of h xhat.
template <class T, int V, bool kept>
__global__ void __launch_bounds__(kRowThreads)
    backward_rows(const __grid_constant__ LayerNormBackward k, const __grid_constant__ RowLayout layout) {
  using A = compute_t<T>;
  __shared__ A shared[kRowThreads];
  const RowThread at(layout);
  const T* w = static_cast<const T*>(k.weight);
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < k.rows;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t r = first + at.row, cols = r < k.rows ? k.cols : 0;
    const T *x = static_cast<const T*>(k.x) + r * k.cols, *dy = static_cast<const T*>(k.dy) + r * k.cols;
    RowPacks<T, V, kept> xs, gs;
    const auto read = [&](int q, std::int64_t i) {
      xs.read(x, q, i);
      gs.read(dy, q, i);
    };
    if constexpr (kept) each_pack<V, kept>(at, cols, read);
    const A m = cols > 0 && k.mean ? static_cast<const A*>(k.mean)[r] : A(0);
    const A s = cols > 0 ? static_cast<const A*>(k.rstd)[r] : A(0);
    Pack<T, V> factor{};
    const auto h = [&](int q, int j) {
      return w ? static_cast<A>(gs.x[q].v[j]) * static_cast<A>(factor.v[j]) : static_cast<A>(gs.x[q].v[j]);
    };
    A sum_h = 0, sum_hx = 0;
    each_pack<V, kept>(at, cols, [&](int q, std::int64_t i) {
      if constexpr (!kept) read(q, i);
      if (w) factor = get<T, V>(w + i);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const A v = h(q, j);
        sum_h += v;
        sum_hx += v * (static_cast<A>(xs.x[q].v[j]) - m) * s;
      }
    });
    const A mean_h = k.mean ? at.all(sum_h, shared, Adder()) / static_cast<A>(k.cols) : A(0);
    const A mean_hx = at.all(sum_hx, shared, Adder()) / static_cast<A>(k.cols);
    T* dx = static_cast<T*>(k.dx) + r * k.cols;
    const T* dsum = k.dsum ? static_cast<const T*>(k.dsum) + r * k.cols : nullptr;
    each_pack<V, kept>(at, cols, [&](int q, std::int64_t i) {
      if constexpr (!kept) read(q, i);
      Pack<T, V> more{}, out;
      if (w) factor = get<T, V>(w + i);
      if (dsum) more = get<T, V>(dsum + i);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const A v = s * (h(q, j) - mean_h - (static_cast<A>(xs.x[q].v[j]) - m) * s * mean_hx);
        out.v[j] = static_cast<T>(dsum ? v + static_cast<A>(more.v[j]) : v);
      }
      put(dx + i, out);
    });
  }
}

// Sums over rows of dy and of dy xhat.
template <class T>
struct WeightSlopes {
  using Element = T;
  using Sum = compute_t<T>;
  static constexpr int kOperands = 2;
  const T* in[2];
  const Sum *mean, *rstd;
  struct Row {
    Sum mean, rstd;
  };
  __device__ __forceinline__ Sum centre(std::int64_t) const { return 0; }
  __device__ __forceinline__ Row sample(std::int64_t r) const { return {mean ? mean[r] : Sum(0), rstd[r]}; }
  __device__ __forceinline__ void add(Sum& a, Sum& b, Sum, Row row, const T (&v)[2]) const {
    const Sum g = static_cast<Sum>(v[0]);
    a += g;
    b += g * (static_cast<Sum>(v[1]) - row.mean) * row.rstd;
  }
};

template <class T>
struct FinishWeights {
  using A = compute_t<T>;
  const A* sums;
  std::int64_t parts;
  T *dweight, *dbias;
  __device__ __forceinline__ void operator()(std::int64_t c, bool writes) const {
    const A* mine = sums + c * 2 * parts;
    const A b = warp_total<A>(parts, [=](std::int64_t i) { return mine[i]; });
    const A w = warp_total<A>(parts, [=, this](std::int64_t i) { return mine[parts + i]; });
    if (writes && dweight) dweight[c] = static_cast<T>(w);
    if (writes && dbias) dbias[c] = static_cast<T>(b);
  }
};

template <class T>
void layer_norm(const LayerNormForward& k) {
  if (k.rows == 0) return;
  for_rows_of<T>(k.cols, packs_begin(k.x, k.residual, k.sum, k.weight, k.bias, k.y),
                 [&]<int V, bool kept>(RowLayout layout) {
                   launch(forward<T, V, kept>, layout.grid(k.rows), kRowThreads, 0, k, layout);
                 });
}

template <class T>
void layer_norm_backward(const LayerNormBackward& k) {
  using A = compute_t<T>;
  if (k.dx && k.rows > 0)
    for_rows_of<T>(k.cols, packs_begin(k.dy, k.x, k.weight, k.dsum, k.dx), [&]<int V, bool kept>(RowLayout layout) {
      launch(backward_rows<T, V, kept>, layout.grid(k.rows), kRowThreads, 0, k, layout);
    });
  if ((!k.dweight && !k.dbias) || k.cols == 0) return;
  const WeightSlopes<T> slopes{{static_cast<const T*>(k.dy), static_cast<const T*>(k.x)},
                               static_cast<const A*>(k.mean),
                               static_cast<const A*>(k.rstd)};
  const SumParts<WeightSlopes<T>> parts(slopes, k.rows, k.cols);
  for_each_warp(k.cols,
                FinishWeights<T>{parts.sums.get(), parts.count, static_cast<T*>(k.dweight), static_cast<T*>(k.dbias)});
}

}  // namespace

void register_norm(KernelTable& t) {
  NormKernels& n = family<NormKernels>(t);
  each_type(FloatTypes{}, [&]<class T>() {
    n.layer_norm[idx<T>] = layer_norm<T>;
    n.layer_norm_backward[idx<T>] = layer_norm_backward<T>;
  });
}

}  // namespace pydlx::cuda
