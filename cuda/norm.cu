// Layer and RMS normalisation. The packs of a row stay in the registers of its threads; of longer rows they are read
// again from the caches. The backward pass sums the gradients of weight and bias while it writes that of the input.
#include "cuda/channel_walk.cuh"
#include "cuda/runtime/pairs.cuh"
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
        A v[V], more[V];
        widen(row.x[q], v);
        widen(get<T, V>(residual + i), more);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] += more[j];
        row.x[q] = narrowed<T>(v);
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
        A v[V];
        widen(row.x[q], v);
#pragma unroll
        for (int j = 0; j < V; ++j) mean += v[j];
      });
      mean = at.all(mean, shared, Adder()) / static_cast<A>(k.cols);
    }
    A square = 0;
    each_pack<V, kept>(at, cols, [&](int q, std::int64_t i) {
      read(q, i);
      A v[V];
      widen(row.x[q], v);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const A d = v[j] - mean;
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
      A v[V], parameter[V];
      widen(row.x[q], v);
#pragma unroll
      for (int j = 0; j < V; ++j) v[j] = (v[j] - mean) * rstd;
      if (w) {
        widen(get<T, V>(w + i), parameter);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] *= parameter[j];
      }
      if (b) {
        widen(get<T, V>(b + i), parameter);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] += parameter[j];
      }
      put(y + i, narrowed<T>(v));
    });
  }
}

// The gradients of weight and bias are sums over rows. The pass that writes dx adds them up on its way: a block per
// part of the rows, parts as the geometry alone has it, and the parts are added in order. There are as many as 132
// multiprocessors take in six waves, or so that they are long enough for their sums to be a small part of what is
// written.
struct RowParts {
  static constexpr std::int64_t kMost = 1584, kLeastRows = 16;
  std::int64_t part, count;
  RowParts(std::int64_t rows, int side_by_side) {
    const std::int64_t even = (rows + kMost - 1) / kMost, least = even > kLeastRows ? even : kLeastRows;
    part = (least + side_by_side - 1) / side_by_side * side_by_side;
    count = (rows + part - 1) / part;
  }
};

// The sums of dy and of dy xhat that a thread keeps in shared memory, of every pack of columns that it meets.
template <class A, int V>
struct ColumnTotals {
  static constexpr int Q = V < kPackOf<A> ? V : kPackOf<A>;
  static std::size_t bytes(std::int64_t cols, const RowLayout& layout) {
    const std::int64_t packs = (cols + V - 1) / V;
    return static_cast<std::size_t>((packs + layout.lanes - 1) / layout.lanes * 2 * V * kRowThreads) * sizeof(A);
  }
  // Where the Q sums of a kind begin that belong to a thread's pack number q, from element `part` Q on.
  static __device__ __forceinline__ int place(int q, int which, int part, int thread) {
    return (((q * 2 + which) * (V / Q) + part) * kRowThreads + thread) * Q;
  }
  A* sums = dynamic_shared<A>();

  __device__ __forceinline__ void clear(int packs) {
    for (int i = 0; i < packs * 2 * (V / Q); ++i)
      put<Space::shared>(sums + place(0, 0, i, static_cast<int>(threadIdx.x)), Pack<A, Q>{});
  }
  // f(sum, number of the element in the pack)
  template <class F>
  __device__ __forceinline__ void add(int q, int which, const F& f) {
#pragma unroll
    for (int part = 0; part < V / Q; ++part) {
      A* const at = sums + place(q, which, part, static_cast<int>(threadIdx.x));
      Pack<A, Q> sum = get<A, Q>(at);
#pragma unroll
      for (int j = 0; j < Q; ++j) f(sum.v[j], part * Q + j);
      put<Space::shared>(at, sum);
    }
  }
  // To out[2][cols], rows side by side in the block added in order.
  __device__ __forceinline__ void write(const RowThread& at, int cols, A* out) const {
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < 2 * cols; c += kRowThreads) {
      const int which = c >= cols ? 1 : 0, i = c - which * cols, pack = i / V, j = i % V;
      const int q = pack / at.lanes, lane = pack - q * at.lanes;
      const A* first = sums + place(q, which, j / Q, lane) + j % Q;
      A total = 0;
#pragma unroll 8
      for (int r = 0; r < at.rows; ++r) total += first[r * at.lanes * Q];
      out[c] = total;
    }
  }
};

template <class A>
struct Means {
  A h, hx;
};

// The most of a block: what the kernel's own memory leaves of the 99 KiB that GPUs of compute capability 8.6 and 8.9
// have, in packs of columns for each thread.
template <class A>
constexpr std::size_t kTotalsBytes = (99 * 1024 - sizeof(Means<A>) * kRowThreads) / 8192 * 8192;

struct AddMeans {
  template <class A>
  __device__ Means<A> operator()(Means<A> a, Means<A> b) const {
    return {a.h + b.h, a.hx + b.hx};
  }
};

// dx from the means of h = dy weight and of h xhat; and the sums over the rows of a part, [2][cols].
template <class T, int V, bool kept, bool weights>
__global__ void __launch_bounds__(kRowThreads, 2)
    backward_rows(const __grid_constant__ LayerNormBackward k, const __grid_constant__ RowLayout layout,
                  std::int64_t part, compute_t<T>* partial) {
  using A = compute_t<T>;
  __shared__ Means<A> shared[kRowThreads];
  const RowThread at(layout);
  const T* w = static_cast<const T*>(k.weight);
  ColumnTotals<A, V> totals;
  const A share = A(1) / static_cast<A>(k.cols);
  const std::int64_t block = blockIdx.x, begin = block * (weights ? part : at.rows),
                     end = weights && begin + part < k.rows ? begin + part : k.rows;
  if constexpr (weights) totals.clear(static_cast<int>((k.cols / V + at.lanes - 1) / at.lanes));
  for (std::int64_t first = begin; first < end;
       first += (weights ? 1 : static_cast<std::int64_t>(gridDim.x)) * at.rows) {
    const std::int64_t r = first + at.row, cols = r < end ? k.cols : 0;
    const T *x = static_cast<const T*>(k.x) + r * k.cols, *dy = static_cast<const T*>(k.dy) + r * k.cols;
    RowPacks<T, V, kept> xs, gs;
    const auto read = [&](int q, std::int64_t i) {
      xs.read(x, q, i);
      gs.read(dy, q, i);
    };
    if constexpr (kept) each_pack<V, kept>(at, cols, read);
    const A m = cols > 0 && k.mean ? static_cast<const A*>(k.mean)[r] : A(0);
    const A s = cols > 0 ? static_cast<const A*>(k.rstd)[r] : A(0);
    // h = dy weight of a pack
    const auto weighted = [&](const A(&g)[V], std::int64_t i, A(&h)[V]) {
#pragma unroll
      for (int j = 0; j < V; ++j) h[j] = g[j];
      if (!w) return;
      A factor[V];
      widen(get<T, V>(w + i), factor);
#pragma unroll
      for (int j = 0; j < V; ++j) h[j] *= factor[j];
    };
    Means<A> sum = {};
    each_pack<V, kept>(at, cols, [&](int q, std::int64_t i) {
      if constexpr (!kept) read(q, i);
      A v[V], g[V], h[V];
      widen(xs.x[q], v);
      widen(gs.x[q], g);
      weighted(g, i, h);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        sum.h += h[j];
        sum.hx += h[j] * (v[j] - m);
      }
    });
    sum = at.all(sum, shared, AddMeans());
    const A mean_h = k.mean ? sum.h * share : A(0), mean_hx = sum.hx * s * share;
    T* dx = static_cast<T*>(k.dx) + r * k.cols;
    const T* dsum = k.dsum ? static_cast<const T*>(k.dsum) + r * k.cols : nullptr;
    each_pack<V, kept>(at, cols, [&](int q, std::int64_t i) {
      if constexpr (!kept) read(q, i);
      A v[V], g[V], h[V];
      widen(xs.x[q], v);
      widen(gs.x[q], g);
      weighted(g, i, h);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        v[j] = (v[j] - m) * s;
        h[j] = s * (h[j] - mean_h - v[j] * mean_hx);
      }
      if (dsum) {
        A more[V];
        widen(get<T, V>(dsum + i), more);
#pragma unroll
        for (int j = 0; j < V; ++j) h[j] += more[j];
      }
      put(dx + i, narrowed<T>(h));
      if constexpr (weights) {
        const int number = kept ? q : static_cast<int>(i) / (V * at.lanes);
        if (k.dbias) totals.add(number, 0, [&](A& sum, int j) { sum += g[j]; });
        totals.add(number, 1, [&](A& sum, int j) { sum += g[j] * v[j]; });
      }
    });
  }
  if constexpr (weights) totals.write(at, static_cast<int>(k.cols), partial + block * 2 * k.cols);
}

// The sums of the parts, for 16 columns by a block.
constexpr int kJoinedColumns = 16;
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    join_parts(const compute_t<T>* partial, std::int64_t parts, std::int64_t cols, T* dweight, T* dbias) {
  using A = compute_t<T>;
  constexpr int kLanes = kRowThreads / kJoinedColumns;
  __shared__ A shared[2][kLanes][kJoinedColumns];
  const int lane = static_cast<int>(threadIdx.x) / kJoinedColumns,
            column = static_cast<int>(threadIdx.x) % kJoinedColumns;
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kJoinedColumns + column;
  A flat = 0, slope = 0;
  if (c < cols)
#pragma unroll 4
    for (std::int64_t p = lane; p < parts; p += kLanes) {
      flat += partial[p * 2 * cols + c];
      slope += partial[(p * 2 + 1) * cols + c];
    }
  shared[0][lane][column] = flat;
  shared[1][lane][column] = slope;
  __syncthreads();
  if (lane > 1 || c >= cols) return;
  A total = 0;
  for (int l = 0; l < kLanes; ++l) total += shared[lane][l][column];
  if (T* const out = lane == 0 ? dbias : dweight) out[c] = static_cast<T>(total);
}

// Sums over rows of dy and of dy xhat, for rows too long to be summed on the way, and where dx is not wanted.
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
  T *dweight = static_cast<T*>(k.dweight), *dbias = static_cast<T*>(k.dbias);
  bool sums = (dweight || dbias) && k.cols > 0;
  if (k.dx && k.rows > 0)
    for_rows_of<T>(k.cols, packs_begin(k.dy, k.x, k.weight, k.dsum, k.dx), [&]<int V, bool kept>(RowLayout layout) {
      const std::size_t bytes = ColumnTotals<A, V>::bytes(k.cols, layout);
      if (!sums || bytes > kTotalsBytes<A>)
        return launch(backward_rows<T, V, kept, false>, layout.grid(k.rows), kRowThreads, 0, k, layout, std::int64_t{0},
                      static_cast<A*>(nullptr));
      const RowParts parts(k.rows, layout.rows());
      const Scratch<A> partial(parts.count * 2 * k.cols);
      allow_shared<backward_rows<T, V, kept, true>>(kTotalsBytes<A>);
      launch(backward_rows<T, V, kept, true>, static_cast<unsigned>(parts.count), kRowThreads, bytes, k, layout,
             parts.part, partial.get());
      launch(join_parts<T>, ceil_div(k.cols, kJoinedColumns), kRowThreads, 0, static_cast<const A*>(partial.get()),
             parts.count, k.cols, dweight, dbias);
      sums = false;
    });
  if (!sums) return;
  const WeightSlopes<T> slopes{{static_cast<const T*>(k.dy), static_cast<const T*>(k.x)},
                               static_cast<const A*>(k.mean),
                               static_cast<const A*>(k.rstd)};
  const SumParts<WeightSlopes<T>> parts(slopes, k.rows, k.cols);
  for_each_warp(k.cols, FinishWeights<T>{parts.sums.get(), parts.count, dweight, dbias});
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
