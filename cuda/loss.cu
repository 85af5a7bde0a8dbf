// Cross-entropy and negative log-likelihood on [outer, classes, inner]. Cross-entropy keeps one log-sum-exp per row;
// probabilities are never stored: backward writes (p - onehot) g in one pass.
#include "cuda/online.cuh"
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/faults.h"
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

// f(c, V logits from class c on) for this thread's classes of a dense row. Several packs are on their way before the
// first is used.
template <class T, int V, class F>
__device__ __forceinline__ void each_logit(const RowThread& at, std::int64_t classes, const T* x, const F& f) {
  constexpr int kAhead = 4;
  const std::int64_t step = std::int64_t{at.lanes} * V;
  for (std::int64_t c = std::int64_t{at.lane} * V; c < classes; c += kAhead * step) {
    Pack<T, V> p[kAhead];
#pragma unroll
    for (int q = 0; q < kAhead; ++q)
      if (c + q * step < classes) p[q] = get<T, V>(x + c + q * step);
#pragma unroll
    for (int q = 0; q < kAhead; ++q) {
      if (c + q * step >= classes) break;
      compute_t<T> v[V];
      widen(p[q], v);
      f(c + q * step, v);
    }
  }
}

// What a row is told to the world, from its maximum and sum of exponentials. Smoothing: `soft` is the sum of the
// weighted logits next to the maximum.
template <class T, class A>
__device__ __forceinline__ void finish_row(const CrossEntropy& k, std::int64_t row, const Online<A>& s, A soft,
                                           A total_weight, FaultReport* faults) {
  const A* w = static_cast<const A*>(k.weight);
  const Target t = target_of(k, row, faults);
  const A log_sum = static_cast<A>(math::log(s.sum));
  static_cast<A*>(k.lse)[row] = s.max + log_sum;
  A loss = 0, weight = 0;
  if (!t.ignored) {
    weight = w ? w[t.index] : A(1);
    const T x = static_cast<const T*>(k.x)[(row / k.inner * k.classes + t.index) * k.inner + row % k.inner];
    // A class of weight 0 takes no part, even with an infinite logit.
    if (weight != 0) loss = static_cast<A>(1 - k.smoothing) * weight * (log_sum - (static_cast<A>(x) - s.max));
    if (k.smoothing > 0)
      loss += static_cast<A>(k.smoothing / static_cast<double>(k.classes)) * (total_weight * log_sum - soft);
  }
  static_cast<A*>(k.loss)[row] = loss;
  static_cast<A*>(k.row_weight)[row] = weight;
}

template <class T, int V>
__global__ void __launch_bounds__(kRowThreads, 2)
    cross_entropy_rows(const __grid_constant__ CrossEntropy k, RowLayout layout, FaultReport* faults) {
  using A = compute_t<T>;
  __shared__ Online<A> shared[kRowThreads];
  A* shared_sums = reinterpret_cast<A*>(shared);
  const RowThread at(layout);
  const A* w = static_cast<const A*>(k.weight);
  const bool smooth = k.smoothing > 0;
  const A total_weight = smooth ? weight_total<A>(k, shared_sums) : A(0);
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < k.outer;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t row = first + at.row, classes = row < k.outer ? k.classes : 0;
    const T* x = static_cast<const T*>(k.x) + row * k.classes;
    Online<A> s = nothing_yet<A>();
    each_logit<T, V>(at, classes, x, [&](std::int64_t, const A(&v)[V]) { include<T>(s, v); });
    s = settled(at.all(s, shared, MergeOnline()));
    A soft = 0;
    if (smooth) {
      each_logit<T, V>(at, classes, x, [&](std::int64_t c, const A(&v)[V]) {
#pragma unroll
        for (int j = 0; j < V; ++j) soft += (v[j] - s.max) * (w ? w[c + j] : A(1));
      });
      soft = at.all(soft, shared_sums, Adder());
    }
    if (row < k.outer && at.lane == 0) finish_row<T>(k, row, s, soft, total_weight, faults);
  }
}

// The same for rows that lie side by side: pixels, whose classes are `inner` apart.
template <class T, int V, bool kept>
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_columns(const __grid_constant__ CrossEntropy k, const __grid_constant__ Columns c,
                          FaultReport* faults) {
  using A = compute_t<T>;
  __shared__ Pack<A, V> shared[kRowThreads];
  const RowThread at(c.layout);
  const A* w = static_cast<const A*>(k.weight);
  const bool smooth = k.smoothing > 0;
  const A total_weight = smooth ? weight_total<A>(k, reinterpret_cast<A*>(shared)) : A(0);
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < c.packs;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const ColumnPlace<V> place(c, first + at.row);
    const T* x = static_cast<const T*>(k.x) + place.base;
    Pack<T, V> p[kColumnAhead];
    const auto read = [&](int q, std::int64_t r) { p[q] = get<T, V>(x + r * c.inner); };
    Online<A> s[V];
    include_columns<T, V>(at, c, place, x, p, s);
    merge_columns(at, s, shared);
    Pack<A, V> soft = {};
    if (smooth) {
      for (std::int64_t i = at.lane; i < place.n; i += kColumnAhead * at.lanes) {
        if constexpr (!kept) each_ahead(at, i, place.n, read);
        each_ahead(at, i, place.n, [&](int q, std::int64_t r) {
          A v[V];
          widen(p[q], v);
          const A factor = w ? w[r] : A(1);
#pragma unroll
          for (int j = 0; j < V; ++j) soft.v[j] += (v[j] - s[j].max) * factor;
        });
      }
      soft = at.all(soft, shared, EachColumn<Adder>());
    }
    if (first + at.row >= c.packs || at.lane != 0) continue;
#pragma unroll
    for (int j = 0; j < V; ++j) finish_row<T>(k, place.line + j, s[j], soft.v[j], total_weight, faults);
  }
}

// dx = g ((1 - s) w_t (p - onehot) + s / C (W p - w)), with W the sum of the weights: slope p - soft w, and less `hard`
// at the target.
template <class A>
struct RowSlopes {
  A lse, hard, soft, slope;
  std::int64_t target;
  bool none;  // ignored, or no gradient: zero even where x is not finite

  __device__ __forceinline__ RowSlopes(const CrossEntropy& k, std::int64_t row, A total_weight) {
    const A* w = static_cast<const A*>(k.weight);
    const Target t = target_of(k, row, nullptr);  // targets were reported in forward
    lse = static_cast<const A*>(k.lse)[row];
    const A g = static_cast<const A*>(k.grad)[row * k.grad_stride];
    hard = t.ignored ? A(0) : g * static_cast<A>(1 - k.smoothing) * (w ? w[t.index] : A(1));
    soft = t.ignored ? A(0) : g * static_cast<A>(k.smoothing / static_cast<double>(k.classes));
    slope = hard + soft * total_weight;
    target = t.index;
    none = slope == 0 && soft == 0;
  }
};

template <class T, int V>
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_backward_rows(const __grid_constant__ CrossEntropy k, RowLayout layout) {
  using A = compute_t<T>;
  __shared__ A shared[kRowThreads];
  const RowThread at(layout);
  const A* w = static_cast<const A*>(k.weight);
  const bool smooth = k.smoothing > 0;
  const A total_weight = smooth ? weight_total<A>(k, shared) : A(0);
  for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * at.rows + at.row; row < k.outer;
       row += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const T* x = static_cast<const T*>(k.x) + row * k.classes;
    T* dx = static_cast<T*>(k.dx) + row * k.classes;
    const RowSlopes<A> row_of(k, row, total_weight);
    if (row_of.none) {
      for (std::int64_t c = std::int64_t{at.lane} * V; c < k.classes; c += std::int64_t{at.lanes} * V)
        put(dx + c, Pack<T, V>{});
      continue;
    }
    // The target is written once more by the thread that it belongs to, which reads it before: dx may be x.
    const bool owner = row_of.target / V % at.lanes == at.lane;
    const A hit = owner ? static_cast<A>(x[row_of.target]) : A(0);
    each_logit<T, V>(at, k.classes, x, [&](std::int64_t c, A(&v)[V]) {
#pragma unroll
      for (int j = 0; j < V; ++j) v[j] = row_of.slope * power_of_e<T>(v[j] - row_of.lse);
      if (smooth) {
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] -= row_of.soft * (w ? w[c + j] : A(1));
      }
      put(dx + c, narrowed<T>(v));
    });
    if (owner) {
      A d = row_of.slope * power_of_e<T>(hit - row_of.lse) - row_of.hard;
      if (smooth) d -= row_of.soft * (w ? w[row_of.target] : A(1));
      dx[row_of.target] = static_cast<T>(d);
    }
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_backward_columns(const __grid_constant__ CrossEntropy k, const __grid_constant__ Columns c) {
  using A = compute_t<T>;
  __shared__ A shared[kRowThreads];
  const RowThread at(c.layout);
  const A* w = static_cast<const A*>(k.weight);
  const A total_weight = k.smoothing > 0 ? weight_total<A>(k, shared) : A(0);
  for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * at.rows + at.row; row < c.packs;
       row += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const ColumnPlace<V> place(c, row);
    const T* x = static_cast<const T*>(k.x) + place.base;
    T* dx = static_cast<T*>(k.dx) + place.base;
    A lse[V], hard[V], soft[V], slope[V];
    std::int64_t target[V];
    unsigned none = 0;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const RowSlopes<A> mine(k, place.line + j, total_weight);
      lse[j] = mine.lse;
      hard[j] = mine.hard;
      soft[j] = mine.soft;
      slope[j] = mine.slope;
      target[j] = mine.target;
      none |= (mine.none ? 1u : 0u) << j;
    }
    for (std::int64_t i = at.lane; i < place.n; i += kColumnAhead * at.lanes) {
      Pack<T, V> p[kColumnAhead];
      each_ahead(at, i, place.n, [&](int q, std::int64_t r) { p[q] = get<T, V>(x + r * c.inner); });
      each_ahead(at, i, place.n, [&](int q, std::int64_t r) {
        const A factor = w ? w[r] : A(1);
        A v[V];
        widen(p[q], v);
#pragma unroll
        for (int j = 0; j < V; ++j) {
          const A d = slope[j] * power_of_e<T>(v[j] - lse[j]) - soft[j] * factor;
          v[j] = none >> j & 1u ? A(0) : r == target[j] ? d - hard[j] : d;
        }
        put(dx + r * c.inner, narrowed<T>(v));
      });
    }
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
struct NllGradient {  // at the targets
  NllLoss k;
  __device__ __forceinline__ void operator()(std::int64_t r) const {
    using A = compute_t<T>;
    const Target t = target_of(k, r, nullptr);
    if (t.ignored) return;
    const A* w = static_cast<const A*>(k.weight);
    const auto [outer, inner] = divide(r, k.inner);
    static_cast<T*>(k.dx)[(outer * k.classes + t.index) * k.inner + inner] =
        static_cast<T>(-(w ? w[t.index] : A(1)) * static_cast<A>(static_cast<const T*>(k.grad)[r]));
  }
};

// f.operator()<V>(layout) with packs where rows begin where packs can.
template <class T, class F>
void for_logits(const CrossEntropy& k, const F& f) {
  constexpr int V = kPackOf<T>;
  if (packs_begin(k.x, k.dx) && k.classes % V == 0) return f.template operator()<V>(RowLayout::along(k.classes / V));
  f.template operator()<1>(RowLayout::along(k.classes));
}

template <class T>
std::int64_t cross_entropy(const CrossEntropy& k) {
  if (k.outer * k.inner == 0) return -1;
  if (k.inner == 1)
    for_logits<T>(k, [&]<int V>(RowLayout layout) {
      launch(cross_entropy_rows<T, V>, layout.grid(k.outer), kRowThreads, 0, k, layout, fault_report());
    });
  else
    for_columns_of<T>(k.outer, k.classes, k.inner, packs_begin(k.x), [&]<int V, bool kept>(const Columns& c) {
      launch(cross_entropy_columns<T, V, kept>, c.grid(), kRowThreads, 0, k, c, fault_report());
    });
  return -1;
}
template <class T>
void cross_entropy_backward(const CrossEntropy& k) {
  if (k.outer * k.inner == 0) return;
  if (k.inner == 1)
    for_logits<T>(k, [&]<int V>(RowLayout layout) {
      launch(cross_entropy_backward_rows<T, V>, layout.grid(k.outer), kRowThreads, 0, k, layout);
    });
  else
    for_columns_of<T>(k.outer, k.classes, k.inner, packs_begin(k.x, k.dx), [&]<int V, bool>(const Columns& c) {
      launch(cross_entropy_backward_columns<T, V>, c.grid(), kRowThreads, 0, k, c);
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
  const std::size_t bytes = static_cast<std::size_t>(k.outer * k.classes * k.inner) * sizeof(T);
  if (bytes == 0) return;
  fill_bytes(k.dx, 0, bytes);
  for_each(k.outer * k.inner, NllGradient<T>{k});
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
