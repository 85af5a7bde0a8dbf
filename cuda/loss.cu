// Cross-entropy and negative log-likelihood on [outer, classes, inner]. Cross-entropy keeps one log-sum-exp per row;
// probabilities are never stored: backward writes (p - onehot) g in one pass.
#include "cuda/online.cuh"
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/faults.h"
#include "cuda/runtime/rows.cuh"
#include "functors/types.h"
#include "kernels.h"
#include "kernels/loss.h"

namespace pydlx::cuda {
namespace {

using functors::compute_t;

struct Target {
  std::int64_t index;
  bool ignored;
};
template <class K>
__device__ Target target_of(const K& k, std::int64_t row, FaultReport* faults) {
  const std::int64_t t = k.target[row];
  if (t == k.ignore_index) return {0, true};
  if (t < 0 || t >= k.classes) {
    if (faults) report(faults, Fault::target, row);
    return {0, true};
  }
  return {t, false};
}

// The sum of the class weights, by every thread of a block in the same order.
template <class A>
__device__ A weight_total(const CrossEntropy& k, A* shared) {
  const A* w = static_cast<const A*>(k.weight);
  if (!w) return static_cast<A>(k.classes);
  const RowThread whole(RowLayout{kRowThreads, false});
  A s = 0;
  for (std::int64_t c = threadIdx.x; c < k.classes; c += kRowThreads) s += w[c];
  return whole.all(s, shared, Adder());
}

// f(c, V logits from class c on) for this thread's classes of a row: packs of a dense one, or single logits any
// distance apart. Several are on their way before the first is used.
template <class T, int V, class F>
__device__ __forceinline__ void each_logit(const RowThread& at, const CrossEntropy& k, const T* x, const F& f) {
  constexpr int kAhead = 4;
  const std::int64_t step = std::int64_t{at.lanes} * V, distance = V > 1 ? 1 : k.inner;
  for (std::int64_t c = std::int64_t{at.lane} * V; c < k.classes; c += kAhead * step) {
    Pack<T, V> p[kAhead];
#pragma unroll
    for (int q = 0; q < kAhead; ++q)
      if (c + q * step < k.classes) p[q] = get<T, V>(x + (c + q * step) * distance);
#pragma unroll
    for (int q = 0; q < kAhead; ++q) {
      if (c + q * step >= k.classes) break;
      compute_t<T> v[V];
#pragma unroll
      for (int j = 0; j < V; ++j) v[j] = static_cast<compute_t<T>>(p[q].v[j]);
      f(c + q * step, v);
    }
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_kernel(const __grid_constant__ CrossEntropy k, RowLayout layout, FaultReport* faults) {
  using A = compute_t<T>;
  __shared__ Online<A> shared[kRowThreads];
  A* shared_sums = reinterpret_cast<A*>(shared);
  const RowThread at(layout);
  const A* w = static_cast<const A*>(k.weight);
  const bool smooth = k.smoothing > 0;
  const A total_weight = smooth ? weight_total<A>(k, shared_sums) : A(0);
  const std::int64_t rows = k.outer * k.inner;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < rows;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t row = first + at.row;
    const bool mine = row < rows;
    const T* x = static_cast<const T*>(k.x) + row / k.inner * k.classes * k.inner + row % k.inner;
    Online<A> s = nothing_yet<A>();
    if (mine) each_logit<T, V>(at, k, x, [&](std::int64_t, const A(&v)[V]) { include<T>(s, v); });
    s = settled(at.all(s, shared, MergeOnline()));
    A soft = 0;
    if (smooth) {
      if (mine)
        each_logit<T, V>(at, k, x, [&](std::int64_t c, const A(&v)[V]) {
#pragma unroll
          for (int j = 0; j < V; ++j) soft += (v[j] - s.max) * (w ? w[c + j] : A(1));
        });
      soft = at.all(soft, shared_sums, Adder());
    }
    if (!mine || at.lane != 0) continue;
    const Target t = target_of(k, row, faults);
    const A log_sum = static_cast<A>(math::log(s.sum));
    static_cast<A*>(k.lse)[row] = s.max + log_sum;
    A loss = 0, weight = 0;
    if (!t.ignored) {
      weight = w ? w[t.index] : A(1);
      // A class of weight 0 takes no part, even with an infinite logit.
      if (weight != 0)
        loss = static_cast<A>(1 - k.smoothing) * weight * (log_sum - (static_cast<A>(x[t.index * k.inner]) - s.max));
      if (smooth)
        loss += static_cast<A>(k.smoothing / static_cast<double>(k.classes)) * (total_weight * log_sum - soft);
    }
    static_cast<A*>(k.loss)[row] = loss;
    static_cast<A*>(k.row_weight)[row] = weight;
  }
}

// dx = g ((1 - s) w_t (p - onehot) + s / C (W p - w)), with W the sum of the weights.
template <class T, int V>
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_backward_kernel(const __grid_constant__ CrossEntropy k, RowLayout layout) {
  using A = compute_t<T>;
  __shared__ A shared[kRowThreads];
  const RowThread at(layout);
  const A* w = static_cast<const A*>(k.weight);
  const bool smooth = k.smoothing > 0;
  const A total_weight = smooth ? weight_total<A>(k, shared) : A(0);
  const std::int64_t rows = k.outer * k.inner;
  for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * at.rows + at.row; row < rows;
       row += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t base = row / k.inner * k.classes * k.inner + row % k.inner;
    const T* x = static_cast<const T*>(k.x) + base;
    T* dx = static_cast<T*>(k.dx) + base;
    const Target t = target_of(k, row, nullptr);  // targets were reported in forward
    const A lse = static_cast<const A*>(k.lse)[row], g = static_cast<const A*>(k.grad)[row * k.grad_stride];
    const A hard = t.ignored ? A(0) : g * static_cast<A>(1 - k.smoothing) * (w ? w[t.index] : A(1));
    const A soft = t.ignored ? A(0) : g * static_cast<A>(k.smoothing / static_cast<double>(k.classes));
    const A slope = hard + soft * total_weight;
    const bool none = slope == 0 && soft == 0;  // ignored, or no gradient: zero even where x is not finite
    each_logit<T, V>(at, k, x, [&](std::int64_t c, const A(&v)[V]) {
      Pack<T, V> out;
#pragma unroll
      for (int j = 0; j < V; ++j) {
        A d = slope * power_of_e<T>(v[j] - lse) - (c + j == t.index ? hard : A(0));
        if (smooth) d -= soft * (w ? w[c + j] : A(1));
        out.v[j] = static_cast<T>(none ? A(0) : d);
      }
      put(dx + (V > 1 ? c : c * k.inner), out);
    });
  }
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) nll_kernel(const __grid_constant__ NllLoss k, FaultReport* faults) {
  using A = compute_t<T>;
  const A* w = static_cast<const A*>(k.weight);
  const std::int64_t rows = k.outer * k.inner, step = static_cast<std::int64_t>(gridDim.x) * kRowThreads;
  for (std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * kRowThreads + threadIdx.x; r < rows; r += step) {
    const Target t = target_of(k, r, faults);
    const A weight = t.ignored ? A(0) : w ? w[t.index] : A(1);
    const auto [outer, inner] = divide(r, k.inner);
    const std::int64_t at = (outer * k.classes + t.index) * k.inner + inner;
    static_cast<T*>(k.loss)[r] =
        static_cast<T>(t.ignored ? A(0) : -weight * static_cast<A>(static_cast<const T*>(k.x)[at]));
    static_cast<A*>(k.row_weight)[r] = weight;
  }
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) nll_backward_kernel(const __grid_constant__ NllLoss k) {
  using A = compute_t<T>;
  const A* w = static_cast<const A*>(k.weight);
  const std::int64_t n = k.outer * k.classes * k.inner, step = static_cast<std::int64_t>(gridDim.x) * kRowThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kRowThreads + threadIdx.x; i < n; i += step) {
    const auto [line, inner] = divide(i, k.inner);
    const auto [outer, c] = divide(line, k.classes);
    const std::int64_t r = outer * k.inner + inner;
    const Target t = target_of(k, r, nullptr);
    const bool hit = !t.ignored && t.index == c;
    static_cast<T*>(k.dx)[i] =
        static_cast<T>(hit ? -(w ? w[c] : A(1)) * static_cast<A>(static_cast<const T*>(k.grad)[r]) : A(0));
  }
}

// f.operator()<V>(layout) with packs where rows are dense and begin where packs can.
template <class T, class F>
void for_logits(const CrossEntropy& k, const F& f) {
  constexpr int V = kPackOf<T>;
  if (k.inner > 1) return f.template operator()<1>(RowLayout::side_by_side(k.classes, k.outer * k.inner));
  if (packs_begin(k.x, k.dx) && k.classes % V == 0) return f.template operator()<V>(RowLayout::along(k.classes / V));
  f.template operator()<1>(RowLayout::along(k.classes));
}

template <class T>
std::int64_t cross_entropy(const CrossEntropy& k) {
  const std::int64_t rows = k.outer * k.inner;
  if (rows == 0) return -1;
  for_logits<T>(k, [&]<int V>(RowLayout layout) {
    launch(cross_entropy_kernel<T, V>, layout.grid(rows), kRowThreads, 0, k, layout, fault_report());
  });
  return -1;
}
template <class T>
void cross_entropy_backward(const CrossEntropy& k) {
  const std::int64_t rows = k.outer * k.inner;
  if (rows == 0) return;
  for_logits<T>(k, [&]<int V>(RowLayout layout) {
    launch(cross_entropy_backward_kernel<T, V>, layout.grid(rows), kRowThreads, 0, k, layout);
  });
}
template <class T>
std::int64_t nll_loss(const NllLoss& k) {
  const std::int64_t rows = k.outer * k.inner;
  if (rows > 0)
    launch(nll_kernel<T>, grid_for((rows + kRowThreads - 1) / kRowThreads, 32), kRowThreads, 0, k, fault_report());
  return -1;
}
template <class T>
void nll_loss_backward(const NllLoss& k) {
  const std::int64_t n = k.outer * k.classes * k.inner;
  if (n > 0) launch(nll_backward_kernel<T>, grid_for((n + kRowThreads - 1) / kRowThreads, 32), kRowThreads, 0, k);
}

}  // namespace

void register_loss(KernelTable& t) {
  LossKernels& k = family<LossKernels>(t);
  each_type(FloatTypes{}, [&]<class T>() {
    k.cross_entropy[idx<T>] = cross_entropy<T>;
    k.cross_entropy_backward[idx<T>] = cross_entropy_backward<T>;
    k.nll_loss[idx<T>] = nll_loss<T>;
    k.nll_loss_backward[idx<T>] = nll_loss_backward<T>;
  });
}

}  // namespace pydlx::cuda
