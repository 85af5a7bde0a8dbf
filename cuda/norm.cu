// Layer and RMS normalisation. A row is read three times; the second and third time it comes from the caches.
#include "cuda/runtime/rows.cuh"
#include "cuda/runtime/scratch.h"
#include "functors/math.h"
#include "functors/types.h"
#include "kernels.h"
#include "kernels/norm.h"

namespace pydlx::cuda {
namespace {

using functors::compute_t;

template <class T>
__global__ void __launch_bounds__(kRowThreads, 4) forward(const LayerNormForward k, RowLayout layout) {
  using A = compute_t<T>;
  __shared__ A shared[kRowThreads];
  const RowThread at(layout);
  const T *w = static_cast<const T*>(k.weight), *b = static_cast<const T*>(k.bias);
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < k.rows;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t r = first + at.row;
    const bool mine = r < k.rows;
    const T* x = static_cast<const T*>(k.x) + r * k.cols;
    T* y = static_cast<T*>(k.y) + r * k.cols;
    if (k.residual) {  // a thread reads back only what it wrote
      const T* residual = static_cast<const T*>(k.residual) + r * k.cols;
      T* sum = static_cast<T*>(k.sum) + r * k.cols;
      if (mine)
        for (std::int64_t i = at.lane; i < k.cols; i += at.lanes)
          sum[i] = static_cast<T>(static_cast<A>(x[i]) + static_cast<A>(residual[i]));
      x = sum;
    }
    // Two passes: the variance is summed from centred values, so it cannot cancel. RMS normalisation is the same around
    // 0.
    A mean = 0;
    if (k.mean) {
      if (mine)
        for (std::int64_t i = at.lane; i < k.cols; i += at.lanes) mean += static_cast<A>(x[i]);
      mean = at.all(mean, shared, Adder()) / static_cast<A>(k.cols);
    }
    A square = 0;
    if (mine)
      for (std::int64_t i = at.lane; i < k.cols; i += at.lanes) {
        const A d = static_cast<A>(x[i]) - mean;
        square += d * d;
      }
    const A var = at.all(square, shared, Adder()) / static_cast<A>(k.cols);
    const A rstd = A(1) / math::sqrt(var + static_cast<A>(k.eps));
    if (!mine) continue;
    if (at.lane == 0) {
      if (k.mean) static_cast<A*>(k.mean)[r] = mean;
      static_cast<A*>(k.rstd)[r] = rstd;
    }
    for (std::int64_t i = at.lane; i < k.cols; i += at.lanes) {
      A v = (static_cast<A>(x[i]) - mean) * rstd;
      if (w) v *= static_cast<A>(w[i]);
      if (b) v += static_cast<A>(b[i]);
      y[i] = static_cast<T>(v);
    }
  }
}

// dx from the means of h = dy weight and of h xhat.
template <class T>
__global__ void __launch_bounds__(kRowThreads) backward_rows(const LayerNormBackward k, RowLayout layout) {
  using A = compute_t<T>;
  __shared__ A shared[kRowThreads];
  const RowThread at(layout);
  const T* w = static_cast<const T*>(k.weight);
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < k.rows;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t r = first + at.row;
    const bool mine = r < k.rows;
    const T *x = static_cast<const T*>(k.x) + r * k.cols, *dy = static_cast<const T*>(k.dy) + r * k.cols;
    const A m = mine && k.mean ? static_cast<const A*>(k.mean)[r] : A(0);
    const A s = mine ? static_cast<const A*>(k.rstd)[r] : A(0);
    auto h = [&](std::int64_t i) { return w ? static_cast<A>(dy[i]) * static_cast<A>(w[i]) : static_cast<A>(dy[i]); };
    A sum_h = 0, sum_hx = 0;
    if (mine)
      for (std::int64_t i = at.lane; i < k.cols; i += at.lanes) {
        const A v = h(i);
        sum_h += v;
        sum_hx += v * (static_cast<A>(x[i]) - m) * s;
      }
    const A mean_h = k.mean ? at.all(sum_h, shared, Adder()) / static_cast<A>(k.cols) : A(0);
    const A mean_hx = at.all(sum_hx, shared, Adder()) / static_cast<A>(k.cols);
    if (!mine) continue;
    T* dx = static_cast<T*>(k.dx) + r * k.cols;
    const T* dsum = k.dsum ? static_cast<const T*>(k.dsum) + r * k.cols : nullptr;
    for (std::int64_t i = at.lane; i < k.cols; i += at.lanes) {
      const A v = s * (h(i) - mean_h - (static_cast<A>(x[i]) - m) * s * mean_hx);
      dx[i] = static_cast<T>(dsum ? v + static_cast<A>(dsum[i]) : v);
    }
  }
}

constexpr int kColumns = 32, kRowLanes = kRowThreads / kColumns;

// Sums over a chunk of rows of dy xhat and of dy: [chunks, 2, cols].
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    weight_parts(const LayerNormBackward k, std::int64_t chunk, compute_t<T>* parts) {
  using A = compute_t<T>;
  __shared__ A sum_w[kRowLanes][kColumns], sum_b[kRowLanes][kColumns];
  const int column = static_cast<int>(threadIdx.x) % kColumns, lane = static_cast<int>(threadIdx.x) / kColumns;
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kColumns + column;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.y) * chunk;
  const std::int64_t end = begin + chunk < k.rows ? begin + chunk : k.rows;
  A pw = 0, pb = 0;
  if (c < k.cols)
    for (std::int64_t r = begin + lane; r < end; r += kRowLanes) {
      const A g = static_cast<A>(static_cast<const T*>(k.dy)[r * k.cols + c]);
      const A m = k.mean ? static_cast<const A*>(k.mean)[r] : A(0);
      pw += g * (static_cast<A>(static_cast<const T*>(k.x)[r * k.cols + c]) - m) * static_cast<const A*>(k.rstd)[r];
      pb += g;
    }
  sum_w[lane][column] = pw;
  sum_b[lane][column] = pb;
  __syncthreads();
  for (int half = kRowLanes / 2; half > 0; half /= 2) {
    if (lane < half) {
      sum_w[lane][column] += sum_w[lane + half][column];
      sum_b[lane][column] += sum_b[lane + half][column];
    }
    __syncthreads();
  }
  if (lane == 0 && c < k.cols) {
    A* out = parts + static_cast<std::int64_t>(blockIdx.y) * 2 * k.cols + c;
    out[0] = sum_w[0][column];
    out[k.cols] = sum_b[0][column];
  }
}

template <class T>
__global__ void __launch_bounds__(kRowThreads)
    weight_sums(const LayerNormBackward k, int chunks, const compute_t<T>* parts) {
  using A = compute_t<T>;
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (c >= k.cols) return;
  A w = 0, b = 0;
  for (int p = 0; p < chunks; ++p) {
    w += parts[p * 2 * k.cols + c];
    b += parts[p * 2 * k.cols + k.cols + c];
  }
  if (k.dweight) static_cast<T*>(k.dweight)[c] = static_cast<T>(w);
  if (k.dbias) static_cast<T*>(k.dbias)[c] = static_cast<T>(b);
}

template <class T>
void layer_norm(const LayerNormForward& k) {
  if (k.rows == 0) return;
  const RowLayout layout = RowLayout::along(k.cols);
  launch(forward<T>, layout.grid(k.rows), kRowThreads, 0, k, layout);
}

template <class T>
void layer_norm_backward(const LayerNormBackward& k) {
  if (k.dx && k.rows > 0) {
    const RowLayout layout = RowLayout::along(k.cols);
    launch(backward_rows<T>, layout.grid(k.rows), kRowThreads, 0, k, layout);
  }
  if ((!k.dweight && !k.dbias) || k.cols == 0) return;
  const std::int64_t chunk = layer_norm_chunk_rows(k.rows), chunks = (k.rows + chunk - 1) / chunk;
  const Scratch<compute_t<T>> parts(chunks * 2 * k.cols);
  if (chunks > 0)
    launch(weight_parts<T>, dim3(ceil_div(k.cols, kColumns), static_cast<unsigned>(chunks)), kRowThreads, 0, k, chunk,
           parts.get());
  launch(weight_sums<T>, ceil_div(k.cols, kRowThreads), kRowThreads, 0, k, static_cast<int>(chunks), parts.get());
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
