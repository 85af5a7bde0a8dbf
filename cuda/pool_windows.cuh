// Pooling by windows, of tensors with fewer than 2^31 elements: places and windows in 32 bits, windows of two and three
// positions unrolled, neighbouring channels by packs where they are last. Gradients gather from the windows that hold a
// position, in order.
#pragma once
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/pairs.cuh"
#include "functors/types.h"
#include "kernels/pool.h"

namespace pydlx::cuda {
namespace {

using functors::compute_t;

// for_each() for functions that keep a window in registers.
template <class F>
__global__ void __launch_bounds__(kEachThreads, 2) each_place(const __grid_constant__ F f, std::int64_t n) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kEachThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kEachThreads + threadIdx.x; i < n; i += step) f(i);
}
template <class F>
void for_each_place(std::int64_t n, const F& f) {
  if (n > 0) launch(each_place<F>, grid_for(ceil_div(n, kEachThreads), 32), kEachThreads, 0, f, n);
}

// Windows along an axis, as in kernels/pool.h.
struct PoolAxis {
  int in = 1, out = 1, kernel = 1, stride = 1, pad = 0, dilation = 1;
  bool adaptive = false, counts_pad = true;
  FastDivisor by_in, by_out, by_stride;

  struct Span {
    int first, end;
  };
  // From where on a window looks, in steps of `dilation`, and where it ends; both may be outside.
  __device__ __forceinline__ Span window(int o) const {
    if (adaptive)
      return {static_cast<int>(by_out.quotient(static_cast<std::uint32_t>(o * in))),
              static_cast<int>(by_out.quotient(static_cast<std::uint32_t>((o + 1) * in + out - 1)))};
    const int first = o * stride - pad;
    return {first, first + kernel * dilation};
  }
  // What an average counts.
  __device__ __forceinline__ int count(int o) const {
    const Span w = window(o);
    const int low = counts_pad ? w.first : (w.first > 0 ? w.first : 0), most = counts_pad ? in + pad : in;
    return (w.end < most ? w.end : most) - low;
  }
  // The windows that may hold position i.
  __device__ __forceinline__ Span holders(int i) const {
    if (adaptive) {
      const int end = static_cast<int>(by_in.quotient(static_cast<std::uint32_t>((i + 1) * out + in - 1)));
      return {static_cast<int>(by_in.quotient(static_cast<std::uint32_t>(i * out))), end < out ? end : out};
    }
    const int at = i + pad, before = at - (kernel - 1) * dilation,
              last = static_cast<int>(by_stride.quotient(static_cast<std::uint32_t>(at)));
    const int first =
        before > 0 ? static_cast<int>(by_stride.quotient(static_cast<std::uint32_t>(before + stride - 1))) : 0;
    return {first, last + 1 < out ? last + 1 : out};
  }
};

struct PoolWindows {
  PoolAxis axis[3];
  bool divisor_given;  // the same for all windows
  double divisor;
  FastDivisor split[3];  // of places

  // Whether everything that is computed stays below 2^31.
  static bool fit(const Pool& p) {
    constexpr std::int64_t kMost = std::int64_t{1} << 31;
    std::int64_t in = p.planes, out = p.planes;
    for (int a = 0; a < 3; ++a) {
      in *= p.in[a];
      out *= p.out[a];
      if (p.adaptive ? (p.out[a] + 1) * (p.in[a] + 1) >= kMost
                     : p.kernel[a] >= kMost || p.stride[a] >= kMost || p.dilation[a] >= kMost || p.pad[a] >= kMost ||
                           p.kernel[a] * p.dilation[a] >= kMost / 4 || p.out[a] * p.stride[a] >= kMost / 4 ||
                           p.pad[a] >= kMost / 4 || p.in[a] >= kMost / 4)
        return false;
    }
    return in < kMost && out < kMost;
  }
  // Places are counted along `places`, its last axis in packs of v.
  PoolWindows(const Pool& p, const std::int64_t (&places)[3], int v) {
    for (int a = 0; a < 3; ++a) {
      PoolAxis& x = axis[a];
      x.in = static_cast<int>(p.in[a]);
      x.out = static_cast<int>(p.out[a]);
      x.adaptive = p.adaptive;
      x.counts_pad = p.count_include_pad;
      if (!p.adaptive) {
        x.kernel = static_cast<int>(p.kernel[a]);
        x.stride = static_cast<int>(p.stride[a]);
        x.pad = static_cast<int>(p.pad[a]);
        x.dilation = static_cast<int>(p.dilation[a]);
      }
      x.by_in = FastDivisor(static_cast<std::uint32_t>(p.in[a]));
      x.by_out = FastDivisor(static_cast<std::uint32_t>(p.out[a]));
      x.by_stride = FastDivisor(static_cast<std::uint32_t>(x.stride));
      split[a] = FastDivisor(static_cast<std::uint32_t>(a == 2 ? places[a] / v : places[a]));
    }
    bool alike = !p.adaptive;  // all windows count the same
    for (int a = 0; a < 3 && alike; ++a)
      alike = (p.count_include_pad || p.pad[a] == 0) &&
              (p.out[a] - 1) * p.stride[a] + p.kernel[a] <= p.in[a] + (p.count_include_pad ? 2 : 1) * p.pad[a];
    divisor_given = p.divisor != 0 || alike;
    divisor = p.divisor ? static_cast<double>(p.divisor)
                        : static_cast<double>(p.kernel[0]) * static_cast<double>(p.kernel[1]) *
                              static_cast<double>(p.kernel[2]);
  }
};

struct PoolPlace {
  int plane, at[3];
};
// K0 == 1: there is no more than one position along the first axis.
template <int V, int K0>
__device__ __forceinline__ PoolPlace pool_place(const PoolWindows& p, std::int64_t e) {
  PoolPlace place;
  auto rest = static_cast<std::uint32_t>(e);
#pragma unroll
  for (int a = 2; a >= (K0 == 1 ? 1 : 0); --a) {
    const std::uint32_t q = p.split[a].quotient(rest);
    place.at[a] = static_cast<int>(rest - q * p.split[a].divisor) * (a == 2 ? V : 1);
    rest = q;
  }
  if (K0 == 1) place.at[0] = 0;
  place.plane = static_cast<int>(rest);
  return place;
}

// f(flat position in the plane, pack) for what a window sees, in order. A window of K0 x K1 x K2 positions is on its
// way before the first is used, without dilation; 0 is any number, 1 an axis without windows.
template <int V, int K0, int K1, int K2, class T, class F>
__device__ __forceinline__ void each_position(const PoolWindows& p, const PoolPlace& o, const T* plane, const F& f) {
  const PoolAxis &d = p.axis[0], &h = p.axis[1], &w = p.axis[2];
  const auto inside = [](const PoolAxis& a, int i) { return static_cast<unsigned>(i) < static_cast<unsigned>(a.in); };
  if constexpr (K0 * K1 * K2 > 1) {
    constexpr int kTaps = K0 * K1 * K2;
    const int first[3] = {o.at[0] * d.stride - d.pad, o.at[1] * h.stride - h.pad, o.at[2] * w.stride - w.pad};
    const int step[2] = {h.in * w.in, w.in}, start = first[0] * step[0] + first[1] * step[1] + first[2];
    Pack<T, V> x[kTaps];
    bool seen[kTaps];
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      const int a = k / (K1 * K2), b = k / K2 % K1, c = k % K2;
      seen[k] = (K0 == 1 || inside(d, first[0] + a)) && (K1 == 1 || inside(h, first[1] + b)) &&
                (K2 == 1 || inside(w, first[2] + c));
      if (seen[k]) x[k] = get<T, V>(plane + (start + a * step[0] + b * step[1]) + c);
    }
#pragma unroll
    for (int k = 0; k < kTaps; ++k)
      if (seen[k]) f(start + k / (K1 * K2) * step[0] + k / K2 % K1 * step[1] + k % K2, x[k]);
  } else {
    const PoolAxis::Span wd = d.window(o.at[0]), wh = h.window(o.at[1]),
                         ww = K2 == 1 ? PoolAxis::Span{o.at[2], o.at[2] + 1} : w.window(o.at[2]);
    for (int i = wd.first; i < wd.end; i += d.dilation) {
      if (!inside(d, i)) continue;
      for (int j = wh.first; j < wh.end; j += h.dilation) {
        if (!inside(h, j)) continue;
        const int row = (i * h.in + j) * w.in;
        for (int k = ww.first; k < ww.end; k += w.dilation)
          if (K2 == 1 || inside(w, k)) f(row + k, get<T, V>(plane + row + k));
      }
    }
  }
}

// Where a window begins inside its plane.
__device__ __forceinline__ int first_position(const PoolWindows& p, const PoolPlace& o) {
  int at = 0;
#pragma unroll
  for (int a = 0; a < 3; ++a) {
    int i = p.axis[a].window(o.at[a]).first;
    while (i < 0) i += p.axis[a].dilation;
    at = at * p.axis[a].in + i;
  }
  return at;
}

template <class T, int V, int K0, int K1, int K2>
struct MaxWindow {
  PoolWindows p;
  const T* x;
  T* y;
  std::int64_t *index, *pixel;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    using A = compute_t<T>;
    const PoolPlace o = pool_place<V, K0>(p, e);
    const T* plane = x + static_cast<std::int64_t>(o.plane) * p.axis[0].in * p.axis[1].in * p.axis[2].in;
    A best[V];
    int at[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
      best[j] = -static_cast<A>(__builtin_huge_val());
      at[j] = -1;
    }
    each_position<V, K0, K1, K2>(p, o, plane, [&](int i, const Pack<T, V>& seen) {
      A v[V];
      widen(seen, v);
#pragma unroll
      for (int j = 0; j < V; ++j)
        if (v[j] > best[j] || v[j] != v[j]) {  // NaN wins, the last one of several
          best[j] = v[j];
          at[j] = i + j;
        }
    });
    put(y + e * V, narrowed<T>(best));
    if (!index && !pixel) return;
    Pack<std::int64_t, V> where;
    bool lost = false;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      where.v[j] = at[j];
      lost |= at[j] < 0;
    }
    if (lost) {  // all are -inf
      const int first = first_position(p, o);
#pragma unroll
      for (int j = 0; j < V; ++j)
        if (at[j] < 0) where.v[j] = first + j;
    }
    if (index) put(index + e * V, where);
    if (!pixel) return;
#pragma unroll
    for (int j = 0; j < V; ++j) where.v[j] = p.axis[2].by_in.quotient(static_cast<std::uint32_t>(where.v[j]));
    put(pixel + e * V, where);
  }
};

template <class T, int V, int K0, int K1, int K2>
struct AverageWindow {
  PoolWindows p;
  const T* x;
  T* y;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    using A = compute_t<T>;
    const PoolPlace o = pool_place<V, K0>(p, e);
    const T* plane = x + static_cast<std::int64_t>(o.plane) * p.axis[0].in * p.axis[1].in * p.axis[2].in;
    A sum[V] = {};
    each_position<V, K0, K1, K2>(p, o, plane, [&](int, const Pack<T, V>& seen) {
      A v[V];
      widen(seen, v);
#pragma unroll
      for (int j = 0; j < V; ++j) sum[j] += v[j];
    });
    A by = static_cast<A>(p.divisor);
    if (!p.divisor_given)
      by = static_cast<A>(p.axis[0].count(o.at[0])) * static_cast<A>(p.axis[1].count(o.at[1])) *
           static_cast<A>(V > 1 ? 1 : p.axis[2].count(o.at[2]));
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] /= by;
    put(y + e * V, narrowed<T>(sum));
  }
};

// f(flat output, its places) for the windows that may hold the position i.
template <int V, class F>
__device__ __forceinline__ void each_holder(const PoolWindows& p, const PoolPlace& i, const F& f) {
  const PoolAxis::Span d = p.axis[0].holders(i.at[0]), h = p.axis[1].holders(i.at[1]),
                       w = V > 1 ? PoolAxis::Span{i.at[2], i.at[2] + 1} : p.axis[2].holders(i.at[2]);
  for (int a = d.first; a < d.end; ++a)
    for (int b = h.first; b < h.end; ++b)
      for (int c = w.first; c < w.end; ++c) f((a * p.axis[1].out + b) * p.axis[2].out + c, a, b, c);
}

// Averages have no dilation, so that all of those windows hold it.
template <class T, int V>
struct AverageWindowGrad {
  PoolWindows p;
  const T* y;
  T* x;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    using A = compute_t<T>;
    const PoolPlace i = pool_place<V, 0>(p, e);
    const T* plane = y + static_cast<std::int64_t>(i.plane) * p.axis[0].out * p.axis[1].out * p.axis[2].out;
    A sum[V] = {};
    each_holder<V>(p, i, [&](int o, int a, int b, int c) {
      A v[V];
      widen(get<T, V>(plane + o), v);
      if (!p.divisor_given) {
        const A by = static_cast<A>(p.axis[0].count(a)) * static_cast<A>(p.axis[1].count(b)) *
                     static_cast<A>(V > 1 ? 1 : p.axis[2].count(c));
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] /= by;
      }
#pragma unroll
      for (int j = 0; j < V; ++j) sum[j] += v[j];
    });
    if (p.divisor_given) {
#pragma unroll
      for (int j = 0; j < V; ++j) sum[j] /= static_cast<A>(p.divisor);
    }
    put(x + e * V, narrowed<T>(sum));
  }
};

template <class T, int V>
struct MaxWindowGrad {
  PoolWindows p;
  const T* y;
  const std::int64_t* index;
  T* x;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    using A = compute_t<T>;
    const PoolPlace i = pool_place<V, 0>(p, e);
    const std::int64_t plane = static_cast<std::int64_t>(i.plane) * p.axis[0].out * p.axis[1].out * p.axis[2].out;
    const int here = (i.at[0] * p.axis[1].in + i.at[1]) * p.axis[2].in + i.at[2];
    A sum[V] = {};
    each_holder<V>(p, i, [&](int o, int, int, int) {
      const Pack<std::int64_t, V> at = get<std::int64_t, V>(index + plane + o);
      A v[V];
      widen(get<T, V>(y + plane + o), v);
#pragma unroll
      for (int j = 0; j < V; ++j)
        if (at.v[j] == here + j) sum[j] += v[j];
    });
    put(x + e * V, narrowed<T>(sum));
  }
};

// Whether the last axis has no windows, but whole packs: channels.
template <class T>
bool pool_packs(const Pool& p) {
  return !p.adaptive && p.kernel[2] == 1 && p.stride[2] == 1 && p.pad[2] == 0 && p.in[2] == p.out[2] &&
         p.in[2] % kPackOf<T> == 0 && packs_begin(p.x, p.y, p.index, p.pixel);
}
inline bool has_windows(const Pool& p, int axis, std::int64_t k) {
  return !p.adaptive && p.kernel[axis] == k && p.dilation[axis] == 1;
}

// f.operator()<V, K0, K1, K2>() as suits the windows.
template <class T, class F>
void for_windows(const Pool& p, const F& f) {
  constexpr int V = kPackOf<T>;
  if (pool_packs<T>(p)) {
    if (has_windows(p, 0, 2) && has_windows(p, 1, 2)) return f.template operator()<V, 2, 2, 1>();
    if (has_windows(p, 0, 3) && has_windows(p, 1, 3)) return f.template operator()<V, 3, 3, 1>();
    return f.template operator()<V, 0, 0, 1>();
  }
  if (p.in[0] == 1 && p.out[0] == 1) {
    if (has_windows(p, 1, 2) && has_windows(p, 2, 2)) return f.template operator()<1, 1, 2, 2>();
    if (has_windows(p, 1, 3) && has_windows(p, 2, 3)) return f.template operator()<1, 1, 3, 3>();
  }
  f.template operator()<1, 0, 0, 0>();
}

}  // namespace
}  // namespace pydlx::cuda
