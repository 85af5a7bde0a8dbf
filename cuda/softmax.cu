// Softmax and log-softmax along the middle axis of [outer, n, inner]. One pass finds the maximum and the sum of
// exponentials together (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"), a second one
// writes.
#include "cuda/online.cuh"
#include "cuda/runtime/rows.cuh"
#include "functors/types.h"
#include "kernels.h"
#include "kernels/softmax.h"

namespace pydlx::cuda {
namespace {

using functors::compute_t;

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

template <class Kernel>
void run(const Softmax& k, Kernel* kernel) {
  const std::int64_t rows = k.outer * k.inner;
  if (rows == 0 || k.n == 0) return;
  const RowLayout layout = k.inner == 1 ? RowLayout::along(k.n) : RowLayout::side_by_side(k.n, rows);
  launch(kernel, layout.grid(rows), kRowThreads, 0, k, layout);
}

}  // namespace

void register_softmax(KernelTable& t) {
  SoftmaxKernels& k = family<SoftmaxKernels>(t);
  each_type(FloatTypes{}, [&]<class T>() {
    k.forward[0][idx<T>] = [](const Softmax& s) { run(s, softmax<false, T>); };
    k.forward[1][idx<T>] = [](const Softmax& s) { run(s, softmax<true, T>); };
    k.backward[0][idx<T>] = [](const Softmax& s) { run(s, softmax_backward<false, T>); };
    k.backward[1][idx<T>] = [](const Softmax& s) { run(s, softmax_backward<true, T>); };
  });
}

}  // namespace pydlx::cuda
