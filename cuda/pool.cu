// Max and average pooling, and the index-driven passes behind max_unpool and second gradients. Gradients gather what
// reaches an input, so there are no atomics on floats. What is here for windows is for sizes beyond 32 bits; the rest
// is in pool_windows.cuh.
#include "cuda/pool_windows.cuh"
#include "cuda/runtime/faults.h"
#include "cuda/sort/claim.cuh"
#include "functors/pool_window.h"
#include "kernels/pool.h"

namespace pydlx::cuda {
namespace {

using namespace functors;

// Position -> plane and place along the three axes of `size`.
struct Place {
  std::int64_t plane, at[3];
};
struct Places {
  Divider size[3];
  Places(const std::int64_t (&n)[3], std::int64_t total)
      : size{Divider(n[0], total), Divider(n[1], total), Divider(n[2], total)} {}
  __device__ __forceinline__ Place operator()(std::int64_t e) const {
    Place p;
    for (int a = 2; a >= 0; --a) {
      const Quotient q = size[a](e);
      p.at[a] = q.rest;
      e = q.quotient;
    }
    p.plane = e;
    return p;
  }
};

std::int64_t volume(const std::int64_t (&n)[3]) { return n[0] * n[1] * n[2]; }

// What a sum over the window is divided by. The product of three spans may exceed 64 bits.
template <class T>
__device__ __forceinline__ T divisor_of(const Pool& p, const Window& d, const Window& h, const Window& w) {
  return p.divisor ? static_cast<T>(p.divisor)
                   : static_cast<T>(d.span) * static_cast<T>(h.span) * static_cast<T>(w.span);
}

template <class T>
struct Max {
  Pool p;
  Places place_of;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    using A = compute_t<T>;
    const Place o = place_of(e);
    const Window d = window_of(p, 0, o.at[0]), h = window_of(p, 1, o.at[1]), w = window_of(p, 2, o.at[2]);
    const T* x = static_cast<const T*>(p.x) + o.plane * p.in[0] * p.in[1] * p.in[2];
    A best = -static_cast<A>(__builtin_huge_val());
    std::int64_t at = (d.first * p.in[1] + h.first) * p.in[2] + w.first;
    for (std::int64_t i = 0; i < d.count; ++i)
      for (std::int64_t j = 0; j < h.count; ++j) {
        const std::int64_t row = ((d.first + i * d.step) * p.in[1] + h.first + j * h.step) * p.in[2] + w.first;
        for (std::int64_t k = 0; k < w.count; ++k) {
          const A v = static_cast<A>(x[row + k * w.step]);
          if (v > best || v != v) {  // NaN wins, the last one of several
            best = v;
            at = row + k * w.step;
          }
        }
      }
    static_cast<T*>(p.y)[e] = static_cast<T>(best);
    if (p.index) p.index[e] = at;
    if (p.pixel) p.pixel[e] = at / p.in[2];
  }
};

template <class T>
struct Average {
  Pool p;
  Places place_of;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const Place o = place_of(e);
    const Window d = window_of(p, 0, o.at[0]), h = window_of(p, 1, o.at[1]), w = window_of(p, 2, o.at[2]);
    const T* x = static_cast<const T*>(p.x) + o.plane * p.in[0] * p.in[1] * p.in[2];
    compute_t<T> sum = 0;
    for (std::int64_t i = 0; i < d.count; ++i)
      for (std::int64_t j = 0; j < h.count; ++j) {
        const T* row = x + ((d.first + i * d.step) * p.in[1] + h.first + j * h.step) * p.in[2] + w.first;
        for (std::int64_t k = 0; k < w.count; ++k) sum += static_cast<compute_t<T>>(row[k * w.step]);
      }
    static_cast<T*>(p.y)[e] = static_cast<T>(sum / divisor_of<compute_t<T>>(p, d, h, w));
  }
};

// The outputs whose windows may hold input i along an axis; covers() tells.
struct Reach {
  std::int64_t first, end;
};
__device__ __forceinline__ Reach reach_of(const Pool& p, int axis, std::int64_t i) {
  const std::int64_t n = p.in[axis], m = p.out[axis];
  if (p.adaptive) return {i * m / n, smaller(m, quotient_up((i + 1) * m, n))};
  const std::int64_t at = i + p.pad[axis], reach = (p.kernel[axis] - 1) * p.dilation[axis], s = p.stride[axis];
  return {at > reach ? quotient_up(at - reach, s) : 0, smaller(m, at / s + 1)};
}
__device__ __forceinline__ bool covers(const Pool& p, int axis, std::int64_t i, const Window& w) {
  return i >= w.first && i < w.first + w.count * w.step &&
         (p.adaptive || p.dilation[axis] == 1 || (i - w.first) % w.step == 0);
}

// f(flat output, its windows) for those that hold a position.
template <class F>
__device__ __forceinline__ void each_window(const Pool& p, const Place& i, const F& f) {
  const Reach rd = reach_of(p, 0, i.at[0]), rh = reach_of(p, 1, i.at[1]), rw = reach_of(p, 2, i.at[2]);
  for (std::int64_t a = rd.first; a < rd.end; ++a) {
    const Window d = window_of(p, 0, a);
    if (!covers(p, 0, i.at[0], d)) continue;
    for (std::int64_t b = rh.first; b < rh.end; ++b) {
      const Window h = window_of(p, 1, b);
      if (!covers(p, 1, i.at[1], h)) continue;
      for (std::int64_t c = rw.first; c < rw.end; ++c) {
        const Window w = window_of(p, 2, c);
        if (covers(p, 2, i.at[2], w)) f(((i.plane * p.out[0] + a) * p.out[1] + b) * p.out[2] + c, d, h, w);
      }
    }
  }
}

template <class T>
struct AverageGrad {
  Pool p;
  Places place_of;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    using A = compute_t<T>;
    A sum = 0;
    each_window(p, place_of(e), [&](std::int64_t o, const Window& d, const Window& h, const Window& w) {
      sum += static_cast<A>(static_cast<const T*>(p.y)[o]) / divisor_of<A>(p, d, h, w);
    });
    static_cast<T*>(p.x)[e] = static_cast<T>(sum);
  }
};

template <class T>
struct MaxGrad {
  Pool p;
  Places place_of;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    using A = compute_t<T>;
    const Place i = place_of(e);
    const std::int64_t here = (i.at[0] * p.in[1] + i.at[1]) * p.in[2] + i.at[2];
    A sum = 0;
    each_window(p, i, [&](std::int64_t o, const Window&, const Window&, const Window&) {
      if (p.index[o] == here) sum += static_cast<A>(static_cast<const T*>(p.y)[o]);
    });
    static_cast<T*>(p.x)[e] = static_cast<T>(sum);
  }
};

template <class T>
void max_pool(const Pool& p) {
  const std::int64_t n = p.planes * volume(p.out);
  if (n == 0 || !PoolWindows::fit(p)) return for_each_place(n, Max<T>{p, Places(p.out, n)});
  for_windows<T>(p, [&]<int V, int K0, int K1, int K2>() {
    for_each_place(n / V, MaxWindow<T, V, K0, K1, K2>{PoolWindows(p, p.out, V), static_cast<const T*>(p.x),
                                                      static_cast<T*>(p.y), p.index, p.pixel});
  });
}
template <class T>
void average_pool(const Pool& p) {
  const std::int64_t n = p.planes * volume(p.out);
  if (n == 0 || !PoolWindows::fit(p)) return for_each_place(n, Average<T>{p, Places(p.out, n)});
  for_windows<T>(p, [&]<int V, int K0, int K1, int K2>() {
    for_each_place(n / V, AverageWindow<T, V, K0, K1, K2>{PoolWindows(p, p.out, V), static_cast<const T*>(p.x),
                                                          static_cast<T*>(p.y)});
  });
}
template <class T>
void average_grad(const Pool& p) {
  constexpr int V = kPackOf<T>;
  const std::int64_t n = p.planes * volume(p.in);
  const auto* y = static_cast<const T*>(p.y);
  auto* x = static_cast<T*>(p.x);
  if (n == 0 || volume(p.out) == 0 || !PoolWindows::fit(p))
    return for_each_place(n, AverageGrad<T>{p, Places(p.in, n)});
  if (pool_packs<T>(p)) return for_each_place(n / V, AverageWindowGrad<T, V>{PoolWindows(p, p.in, V), y, x});
  for_each_place(n, AverageWindowGrad<T, 1>{PoolWindows(p, p.in, 1), y, x});
}
template <class T>
void max_grad(const Pool& p) {
  constexpr int V = kPackOf<T>;
  const std::int64_t n = p.planes * volume(p.in);
  const auto* y = static_cast<const T*>(p.y);
  auto* x = static_cast<T*>(p.x);
  if (n == 0 || volume(p.out) == 0 || !PoolWindows::fit(p)) return for_each_place(n, MaxGrad<T>{p, Places(p.in, n)});
  if (pool_packs<T>(p)) return for_each_place(n / V, MaxWindowGrad<T, V>{PoolWindows(p, p.in, V), y, p.index, x});
  for_each_place(n, MaxWindowGrad<T, 1>{PoolWindows(p, p.in, 1), y, p.index, x});
}

// ---- planes linked by an index --------------------------------------------------------------------------------------

// The wide element that belongs to narrow element e, or -1 and a report.
__device__ __forceinline__ std::int64_t wide_place(const PlaneIndex& p, std::int64_t e, FaultReport* faults) {
  const std::int64_t k = p.index[e];
  if (static_cast<std::uint64_t>(k) >= static_cast<std::uint64_t>(p.wide_size)) {
    report(faults, Fault::index, e);
    return -1;
  }
  return k;
}

template <class T>
struct Gather {
  PlaneIndex p;
  FaultReport* faults;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const std::int64_t k = wide_place(p, e, faults), plane = divide(e, p.narrow_size).quotient;
    static_cast<T*>(p.narrow)[e] = k < 0 ? T(0) : static_cast<const T*>(p.wide)[plane * p.wide_size + k];
  }
};
template <class T>
std::int64_t gather(const PlaneIndex& p) {
  for_each(p.planes * p.narrow_size, Gather<T>{p, fault_report()});
  return -1;
}

template <class T>
void clear(const PlaneIndex& p) {
  fill_bytes(p.wide, 0, static_cast<std::size_t>(p.planes * p.wide_size) * sizeof(T));
}

// A block adds planes one after another, in order of the narrow elements.
template <class T>
__global__ void __launch_bounds__(kEachThreads)
    add_planes(const __grid_constant__ PlaneIndex p, Claims claims, FaultReport* faults) {
  for (std::int64_t plane = blockIdx.x; plane < p.planes; plane += gridDim.x) {
    T* wide = static_cast<T*>(p.wide) + plane * p.wide_size;
    for (std::int64_t first = 0; first < p.narrow_size; first += kEachThreads) {
      const std::int64_t e = first + threadIdx.x;
      const bool inside = e < p.narrow_size;
      const std::int64_t k = inside ? wide_place(p, plane * p.narrow_size + e, faults) : -1;
      const T v = inside ? static_cast<const T*>(p.narrow)[plane * p.narrow_size + e] : T(0);
      claims.in_order(k, [&] { wide[k] += v; });
    }
  }
}

template <class T>
std::int64_t scatter_add(const PlaneIndex& p) {
  clear<T>(p);
  if (p.planes * p.narrow_size <= 0 || p.wide_size <= 0) return -1;
  const unsigned blocks = claim_blocks(p.planes, p.wide_size);
  const ClaimTable table(blocks, p.wide_size);
  launch(add_planes<T>, blocks, kEachThreads, 0, p, table.claims(), fault_report());
  return -1;
}

struct Mark {  // the last narrow element that names the place, counted from 1
  PlaneIndex p;
  unsigned long long* last;
  FaultReport* faults;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const std::int64_t k = wide_place(p, e, faults);
    if (k >= 0)
      atomicMax(last + divide(e, p.narrow_size).quotient * p.wide_size + k, static_cast<unsigned long long>(e) + 1);
  }
};
template <class T>
struct TakeMarked {
  PlaneIndex p;
  const unsigned long long* last;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    static_cast<T*>(p.wide)[e] = last[e] ? static_cast<const T*>(p.narrow)[last[e] - 1] : T(0);
  }
};
template <class T>
std::int64_t place(const PlaneIndex& p) {
  const std::int64_t n = p.planes * p.wide_size;
  if (n <= 0) return -1;
  const Scratch<unsigned long long> last(n);
  fill_bytes(last.get(), 0, static_cast<std::size_t>(n) * sizeof(unsigned long long));
  for_each(p.planes * p.narrow_size, Mark{p, last.get(), fault_report()});
  for_each(n, TakeMarked<T>{p, last.get()});
  return -1;
}

}  // namespace

void register_pool(KernelTable& t) {
  PoolKernels& k = family<PoolKernels>(t);
  each_type(FloatTypes{}, [&]<class T>() {
    k.max[idx<T>] = max_pool<T>;
    k.average[idx<T>] = average_pool<T>;
    k.average_grad[idx<T>] = average_grad<T>;
    k.max_grad[idx<T>] = max_grad<T>;
  });
  each_type(WideTypes{}, [&]<class T>() {
    k.gather[idx<T>] = gather<T>;
    k.scatter_add[idx<T>] = scatter_add<T>;
    k.place[idx<T>] = place<T>;
  });
}

}  // namespace pydlx::cuda
