// Batch and group normalisation of x[batch, channels, spatial]. Sums over many elements are cut into parts by the
// geometry, and the parts are added in order.
#include "cuda/reduce/moments.cuh"
#include "cuda/runtime/rows.cuh"
#include "cuda/runtime/scratch.h"
#include "functors/math.h"
#include "functors/types.h"
#include "kernels.h"
#include "kernels/norm.h"

namespace pydlx::cuda {
namespace {

// ---- sums of dy and dy (x - m) over rows that are batch-strided channels or single planes --------------------------

struct PairSums {
  std::int64_t rows, length, split;
  std::int64_t channels, spatial;
  bool planes;  // a row is one plane; otherwise one channel of every sample
  RowLayout layout;
};

__device__ __forceinline__ std::int64_t place(const PairSums& p, std::int64_t row, std::int64_t i) {
  if (p.planes) return row * p.spatial + i;
  return (i / p.spatial * p.channels + row) * p.spatial + i % p.spatial;
}

// parts: [splits, 2, rows]
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    pair_sums(const __grid_constant__ ChannelNorm k, const __grid_constant__ PairSums p, compute_t<T>* parts) {
  using A = compute_t<T>;
  __shared__ A shared[kRowThreads];
  const RowThread at(p.layout);
  const T *x = static_cast<const T*>(k.x), *dy = static_cast<const T*>(k.dy);
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.y) * p.split;
  const std::int64_t end = begin + p.split < p.length ? begin + p.split : p.length;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < p.rows;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t row = first + at.row;
    A a = 0, b = 0;
    if (row < p.rows) {
      const A m = static_cast<const A*>(k.mean)[p.planes ? row / (k.channels / k.groups) : row];
      for (std::int64_t i = begin + at.lane; i < end; i += at.lanes) {
        const std::int64_t o = place(p, row, i);
        const A g = static_cast<A>(dy[o]);
        a += g;
        b += g * (static_cast<A>(x[o]) - m);
      }
    }
    a = at.all(a, shared, Adder());
    b = at.all(b, shared, Adder());
    if (at.lane == 0 && row < p.rows) {
      A* out = parts + static_cast<std::int64_t>(blockIdx.y) * 2 * p.rows + row;
      out[0] = a;
      out[p.rows] = b;
    }
  }
}

// How many parts: enough blocks for the largest GPU, each with some rounds of work.
std::int64_t splits_for(std::int64_t rows, std::int64_t length, RowLayout layout) {
  const std::int64_t blocks = (rows + layout.rows() - 1) / layout.rows(), per_block = std::int64_t{16} * layout.lanes;
  std::int64_t splits = blocks >= 512 ? 1 : 1024 / blocks;
  if (splits > (length + per_block - 1) / per_block) splits = (length + per_block - 1) / per_block;
  return splits < 1 ? 1 : (splits > 64 ? 64 : splits);
}

// ---- batch norm -----------------------------------------------------------------------------------------------------

// Writes mean, biased variance and 1 / sqrt(var + eps) of a channel; param[0]: eps.
template <class A>
struct BatchMoments : Moments<A> {
  template <class T>
  static __device__ void finish(const ReduceArgs& a, typename Moments<A>::State s, std::int64_t at) {
    s = Moments<A>::centred(s);
    const A var = static_cast<A>(s.square / s.n);
    static_cast<A*>(a.out)[at] = var;
    static_cast<A*>(a.out2)[at] = static_cast<A>(s.pivot);
    static_cast<A*>(a.out3)[at] = A(1) / math::sqrt(var + static_cast<A>(a.param[0]));
  }
};

template <class T>
void batch_stats(const ChannelNorm& k) {
  Reduce r;
  r.in = k.x;
  r.out = k.var;
  r.out2 = k.mean;
  r.outer_ndim = 1;
  r.outer_numel = r.outer_size[0] = k.channels;
  r.outer_stride[0] = k.spatial;
  r.out_stride[0] = 1;
  r.inner_ndim = 2;
  r.inner_numel = k.batch * k.spatial;
  r.inner_size[0] = k.spatial;
  r.inner_stride[0] = 1;
  r.inner_size[1] = k.batch;
  r.inner_stride[1] = k.channels * k.spatial;
  if (k.spatial == 1) {  // one axis, so that the driver sees neighbouring channels as neighbours
    r.inner_ndim = 1;
    r.inner_size[0] = k.batch;
    r.inner_stride[0] = k.channels;
  }
  r.param[0] = k.eps;
  run_reduce<BatchMoments<compute_t<T>>, T>(r, k.rstd);
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) batch_apply_kernel(const __grid_constant__ ChannelNorm k) {
  using A = compute_t<T>;
  const A *mean = static_cast<const A*>(k.mean), *rstd = static_cast<const A*>(k.rstd),
          *w = static_cast<const A*>(k.weight), *b = static_cast<const A*>(k.bias);
  const std::int64_t n = k.batch * k.channels * k.spatial, step = static_cast<std::int64_t>(gridDim.x) * kRowThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kRowThreads + threadIdx.x; i < n; i += step) {
    const std::int64_t c = i / k.spatial % k.channels;
    const A scale = w ? rstd[c] * w[c] : rstd[c], shift = b ? b[c] : A(0);
    static_cast<T*>(k.out)[i] =
        static_cast<T>((static_cast<A>(static_cast<const T*>(k.x)[i]) - mean[c]) * scale + shift);
  }
}

template <class T>
void batch_apply(const ChannelNorm& k) {
  const std::int64_t n = k.batch * k.channels * k.spatial;
  if (n > 0) launch(batch_apply_kernel<T>, grid_for((n + kRowThreads - 1) / kRowThreads, 32), kRowThreads, 0, k);
}

// Gradients of weight and bias from the parts, and what dx needs of them: [2, channels] mean of dy and slope.
template <class A>
__global__ void __launch_bounds__(kRowThreads)
    batch_sums(const __grid_constant__ ChannelNorm k, int splits, const A* parts, A* terms) {
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (c >= k.channels) return;
  A total = 0, total_x = 0;
  for (int p = 0; p < splits; ++p) {
    total += parts[p * 2 * k.channels + c];
    total_x += parts[p * 2 * k.channels + k.channels + c];
  }
  const A s = static_cast<const A*>(k.rstd)[c], count = static_cast<A>(k.batch * k.spatial);
  total_x *= s;
  if (k.dweight) static_cast<A*>(k.dweight)[c] = total_x;
  if (k.dbias) static_cast<A*>(k.dbias)[c] = total;
  terms[c] = k.training ? total / count : A(0);
  terms[k.channels + c] = k.training ? s * total_x / count : A(0);
}

// dx = w rstd (dy - mean(dy) - xhat mean(dy xhat)); in evaluation the statistics are constants: dx = w rstd dy.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    batch_dx(const __grid_constant__ ChannelNorm k, const compute_t<T>* terms) {
  using A = compute_t<T>;
  const A *mean = static_cast<const A*>(k.mean), *rstd = static_cast<const A*>(k.rstd),
          *w = static_cast<const A*>(k.weight);
  const std::int64_t n = k.batch * k.channels * k.spatial, step = static_cast<std::int64_t>(gridDim.x) * kRowThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kRowThreads + threadIdx.x; i < n; i += step) {
    const std::int64_t c = i / k.spatial % k.channels;
    const A scale = w ? rstd[c] * w[c] : rstd[c];
    const A g = static_cast<A>(static_cast<const T*>(k.dy)[i]), x = static_cast<A>(static_cast<const T*>(k.x)[i]);
    static_cast<T*>(k.out)[i] = static_cast<T>(scale * (g - terms[c] - (x - mean[c]) * terms[k.channels + c]));
  }
}

template <class T>
void batch_backward(const ChannelNorm& k) {
  using A = compute_t<T>;
  const std::int64_t n = k.batch * k.channels * k.spatial;
  if (k.channels == 0) return;
  PairSums p{k.channels, k.batch * k.spatial, 0, k.channels, k.spatial, false, {}};
  p.layout = k.spatial > 1 ? RowLayout::along(p.length) : RowLayout::side_by_side(p.length, k.channels);
  const std::int64_t splits = splits_for(p.rows, p.length, p.layout);
  p.split = (p.length + splits - 1) / splits;
  const Scratch<A> parts(splits * 2 * k.channels), terms(2 * k.channels);
  launch(pair_sums<T>, dim3(p.layout.grid(p.rows), static_cast<unsigned>(splits)), kRowThreads, 0, k, p, parts.get());
  launch(batch_sums<A>, ceil_div(k.channels, kRowThreads), kRowThreads, 0, k, static_cast<int>(splits), parts.get(),
         terms.get());
  if (k.out && n > 0)
    launch(batch_dx<T>, grid_for((n + kRowThreads - 1) / kRowThreads, 32), kRowThreads, 0, k, terms.get());
}

// ---- group norm -----------------------------------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kRowThreads)
    group_forward_kernel(const __grid_constant__ ChannelNorm k, RowLayout layout) {
  using A = compute_t<T>;
  __shared__ A shared[kRowThreads];
  const RowThread at(layout);
  const A *w = static_cast<const A*>(k.weight), *b = static_cast<const A*>(k.bias);
  const std::int64_t per_group = k.channels / k.groups, length = per_group * k.spatial, rows = k.batch * k.groups;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < rows;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t g = first + at.row;
    const bool mine = g < rows;
    const T* x = static_cast<const T*>(k.x) + g * length;
    A mean = 0, square = 0;
    if (mine)
      for (std::int64_t i = at.lane; i < length; i += at.lanes) mean += static_cast<A>(x[i]);
    mean = at.all(mean, shared, Adder()) / static_cast<A>(length);
    if (mine)
      for (std::int64_t i = at.lane; i < length; i += at.lanes) {
        const A d = static_cast<A>(x[i]) - mean;
        square += d * d;
      }
    square = at.all(square, shared, Adder());
    if (!mine) continue;
    const A s = A(1) / math::sqrt(square / static_cast<A>(length) + static_cast<A>(k.eps));
    if (at.lane == 0) {
      static_cast<A*>(k.mean)[g] = mean;
      static_cast<A*>(k.rstd)[g] = s;
    }
    T* y = static_cast<T*>(k.out) + g * length;
    for (std::int64_t i = at.lane; i < length; i += at.lanes) {
      const std::int64_t c = g % k.groups * per_group + i / k.spatial;
      y[i] = static_cast<T>((static_cast<A>(x[i]) - mean) * (w ? s * w[c] : s) + (b ? b[c] : A(0)));
    }
  }
}

// dx from the planes' sums: [2, batch * channels] sum dy and sum dy (x - mean).
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    group_dx(const __grid_constant__ ChannelNorm k, RowLayout layout, const compute_t<T>* sums) {
  using A = compute_t<T>;
  __shared__ A shared[kRowThreads];
  const RowThread at(layout);
  const A* w = static_cast<const A*>(k.weight);
  const std::int64_t per_group = k.channels / k.groups, length = per_group * k.spatial, rows = k.batch * k.groups;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < rows;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t g = first + at.row, c0 = g % k.groups * per_group;
    const bool mine = g < rows;
    const A m = mine ? static_cast<const A*>(k.mean)[g] : A(0), s = mine ? static_cast<const A*>(k.rstd)[g] : A(0);
    A h = 0, hx = 0;
    if (mine)
      for (std::int64_t j = at.lane; j < per_group; j += at.lanes) {
        const A scale = w ? w[c0 + j] : A(1);
        h += scale * sums[g * per_group + j];
        hx += scale * sums[k.batch * k.channels + g * per_group + j] * s;
      }
    const A mean_h = at.all(h, shared, Adder()) / static_cast<A>(length);
    const A mean_hx = at.all(hx, shared, Adder()) / static_cast<A>(length);
    if (!mine) continue;
    const T *x = static_cast<const T*>(k.x) + g * length, *dy = static_cast<const T*>(k.dy) + g * length;
    T* dx = static_cast<T*>(k.out) + g * length;
    for (std::int64_t i = at.lane; i < length; i += at.lanes) {
      const A scale = w ? w[c0 + i / k.spatial] : A(1);
      dx[i] = static_cast<T>(s * (static_cast<A>(dy[i]) * scale - mean_h - (static_cast<A>(x[i]) - m) * s * mean_hx));
    }
  }
}

template <class A>
__global__ void __launch_bounds__(kRowThreads) group_weights(const __grid_constant__ ChannelNorm k, const A* sums) {
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (c >= k.channels) return;
  const std::int64_t group = c / (k.channels / k.groups);
  A a = 0, b = 0;
  for (std::int64_t n = 0; n < k.batch; ++n) {
    a += sums[n * k.channels + c];
    b += sums[(k.batch + n) * k.channels + c] * static_cast<const A*>(k.rstd)[n * k.groups + group];
  }
  if (k.dweight) static_cast<A*>(k.dweight)[c] = b;
  if (k.dbias) static_cast<A*>(k.dbias)[c] = a;
}

template <class T>
void group_forward(const ChannelNorm& k) {
  const std::int64_t rows = k.batch * k.groups;
  if (rows == 0) return;
  const RowLayout layout = RowLayout::along(k.channels / k.groups * k.spatial);
  launch(group_forward_kernel<T>, layout.grid(rows), kRowThreads, 0, k, layout);
}

template <class T>
void group_backward(const ChannelNorm& k) {
  using A = compute_t<T>;
  const std::int64_t planes = k.batch * k.channels;
  A* sums = static_cast<A*>(k.scratch);
  if (planes > 0) {
    PairSums p{planes,    k.spatial, k.spatial < 1 ? 1 : k.spatial, k.channels,
               k.spatial, true,      RowLayout::along(k.spatial)};
    launch(pair_sums<T>, p.layout.grid(planes), kRowThreads, 0, k, p, sums);
    if (k.out) {
      const RowLayout layout = RowLayout::along(k.channels / k.groups * k.spatial);
      launch(group_dx<T>, layout.grid(k.batch * k.groups), kRowThreads, 0, k, layout, sums);
    }
  }
  if ((k.dweight || k.dbias) && k.channels > 0)
    launch(group_weights<A>, ceil_div(k.channels, kRowThreads), kRowThreads, 0, k, sums);
}

}  // namespace

void register_channel_norm(KernelTable& t) {
  NormKernels& k = family<NormKernels>(t);
  each_type(FloatTypes{}, [&]<class T>() {
    k.batch_norm_stats[idx<T>] = batch_stats<T>;
    k.batch_norm_apply[idx<T>] = batch_apply<T>;
    k.batch_norm_backward[idx<T>] = batch_backward<T>;
    k.group_norm[idx<T>] = group_forward<T>;
    k.group_norm_backward[idx<T>] = group_backward<T>;
  });
}

}  // namespace pydlx::cuda
