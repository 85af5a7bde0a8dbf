// Batch and group normalisation of x[batch, channels, spatial]: two passes over x in either direction, one for sums per
// channel or plane, one that writes. Sums are cut into parts by the geometry, and the parts are added in order.
#include "cuda/channel_walk.cuh"
#include "cuda/runtime/each.cuh"
#include "functors/math.h"
#include "functors/running.h"
#include "functors/types.h"
#include "kernels.h"
#include "kernels/norm.h"

namespace pydlx::cuda {
namespace {

using functors::compute_t;

template <class A>
const A* floats(const void* p) {
  return static_cast<const A*>(p);
}

// ---- statistics -----------------------------------------------------------------------------------------------------

// An element of the row stands for its mean, so that nothing cancels in double; what is not finite is left to the sums.
template <class T>
__device__ __forceinline__ double pivot_of(const T* x) {
  const double p = static_cast<double>(static_cast<compute_t<T>>(*x));
  return p - p == 0 ? p : 0.0;
}

// Sums of x - pivot and of its square; a row is a channel, or one of the planes of a group.
template <class T>
struct Spread {
  using Element = T;
  using Sum = double;
  static constexpr int kOperands = 1;
  const T* in[1];
  std::int64_t per_row;   // rows with one pivot
  std::int64_t distance;  // between their pivots
  __device__ __forceinline__ Sum centre(std::int64_t row) const { return pivot_of(in[0] + row / per_row * distance); }
  __device__ __forceinline__ AnySample sample(std::int64_t) const { return {}; }
  __device__ __forceinline__ void add(Sum& a, Sum& b, Sum centre, AnySample, const T (&v)[1]) const {
    const double d = static_cast<double>(static_cast<compute_t<T>>(v[0])) - centre;
    a += d;
    b += d * d;
  }
};

// Mean, biased variance and 1 / sqrt(var + eps) of `rows` neighbouring rows, by a warp.
template <class T>
struct FinishSpread {
  using A = compute_t<T>;
  Spread<T> spread;
  const double* sums;
  std::int64_t parts, count;
  double eps;
  A *mean, *rstd, *var;
  functors::Running<A> running;
  __device__ __forceinline__ void operator()(std::int64_t i, bool writes) const {
    const std::int64_t first = i * spread.per_row, n = spread.per_row * parts;
    const auto term = [&](int which) {
      return [=, this](std::int64_t k) { return sums[((first + k / parts) * 2 + which) * parts + k % parts]; };
    };
    const double sum = warp_total<double>(n, term(0)), square = warp_total<double>(n, term(1));
    if (!writes) return;
    const double shift = sum / static_cast<double>(count), m2 = square - sum * shift;
    const A v = static_cast<A>((m2 < 0 ? 0.0 : m2) / static_cast<double>(count));
    const A m = static_cast<A>(spread.centre(first) + shift);
    mean[i] = m;
    rstd[i] = A(1) / math::sqrt(v + static_cast<A>(eps));
    if (var) var[i] = v;
    running.move(i, m, v);
  }
};

// ---- what is done to every element ----------------------------------------------------------------------------------

// y = (x - mean) scale + shift; per channel, or per group of a sample.
template <class T>
struct Normalise {
  using Element = T;
  using A = compute_t<T>;
  static constexpr int kOperands = 1;
  const T* in[1];
  T* out;
  const A *mean, *rstd, *weight, *bias;
  Divider channels, per_group;
  bool groups;

  struct Channel {
    A mean, scale, shift;
  };
  __device__ __forceinline__ Channel channel(std::int64_t plane) const {
    const std::int64_t c = channels(plane).rest, s = groups ? per_group(plane).quotient : c;
    return {mean[s], weight ? rstd[s] * weight[c] : rstd[s], bias ? bias[c] : A(0)};
  }
  __device__ __forceinline__ A value(const Channel& c, const T (&v)[1]) const {
    return (static_cast<A>(v[0]) - c.mean) * c.scale + c.shift;
  }
};

template <class T>
Normalise<T> normalise(const ChannelNorm& k) {
  using A = compute_t<T>;
  const std::int64_t planes = k.batch * k.channels;
  return {{static_cast<const T*>(k.x)},
          static_cast<T*>(k.out),
          floats<A>(k.mean),
          floats<A>(k.rstd),
          floats<A>(k.weight),
          floats<A>(k.bias),
          Divider(k.channels, planes),
          Divider(k.groups > 0 ? k.channels / k.groups : 1, planes),
          k.groups > 0};
}

// Sums of dy and dy (x - mean).
template <class T>
struct Slopes {
  using Element = T;
  using Sum = compute_t<T>;
  static constexpr int kOperands = 2;
  const T* in[2];
  const Sum* mean;
  std::int64_t per_row;  // rows with one mean
  __device__ __forceinline__ Sum centre(std::int64_t row) const { return mean[row / per_row]; }
  __device__ __forceinline__ AnySample sample(std::int64_t) const { return {}; }
  __device__ __forceinline__ void add(Sum& a, Sum& b, Sum centre, AnySample, const T (&v)[2]) const {
    const Sum g = static_cast<Sum>(v[0]);
    a += g;
    b += g * (static_cast<Sum>(v[1]) - centre);
  }
};

template <class T>
Slopes<T> slopes(const ChannelNorm& k) {
  return {{static_cast<const T*>(k.dy), static_cast<const T*>(k.x)},
          floats<compute_t<T>>(k.mean),
          k.groups > 0 ? k.channels / k.groups : 1};
}

// dx = rstd (w dy - flat - (x - mean) slope) with what is subtracted per channel, or per group of a sample.
template <class T>
struct Gradient {
  using Element = T;
  using A = compute_t<T>;
  static constexpr int kOperands = 2;
  const T* in[2];
  T* out;
  const A *mean, *rstd, *weight, *flat, *slope;
  Divider channels, per_group;
  bool groups;

  struct Channel {
    A mean, scale, flat, slope;
  };
  __device__ __forceinline__ Channel channel(std::int64_t plane) const {
    const std::int64_t c = channels(plane).rest, s = groups ? per_group(plane).quotient : c;
    const A r = rstd[s];
    return {mean[s], weight ? r * weight[c] : r, r * flat[s], r * slope[s]};
  }
  __device__ __forceinline__ A value(const Channel& c, const T (&v)[2]) const {
    return c.scale * static_cast<A>(v[0]) - c.flat - (static_cast<A>(v[1]) - c.mean) * c.slope;
  }
};

template <class T>
Gradient<T> gradient(const ChannelNorm& k, const compute_t<T>* flat, const compute_t<T>* slope) {
  using A = compute_t<T>;
  const std::int64_t planes = k.batch * k.channels;
  return {{static_cast<const T*>(k.dy), static_cast<const T*>(k.x)},
          static_cast<T*>(k.out),
          floats<A>(k.mean),
          floats<A>(k.rstd),
          floats<A>(k.weight),
          flat,
          slope,
          Divider(k.channels, planes),
          Divider(k.groups > 0 ? k.channels / k.groups : 1, planes),
          k.groups > 0};
}

// ---- batch norm -----------------------------------------------------------------------------------------------------

// Statistics of `groups` runs of rows: channels of all samples, or planes.
template <class T>
void statistics(const ChannelNorm& k, std::int64_t runs, std::int64_t per_run, std::int64_t distance, bool planes) {
  using A = compute_t<T>;
  const Spread<T> spread{{static_cast<const T*>(k.x)}, per_run, distance};
  const SumParts<Spread<T>> parts = planes ? SumParts<Spread<T>>(spread, k.batch, k.channels, k.spatial, true)
                                           : channel_sums(spread, k.batch, k.channels, k.spatial);
  for_each_warp(runs, FinishSpread<T>{spread, parts.sums.get(), parts.count, k.batch * k.channels * k.spatial / runs,
                                      k.eps, static_cast<A*>(k.mean), static_cast<A*>(k.rstd), static_cast<A*>(k.var),
                                      functors::Running<A>(k)});
}

template <class T>
void batch_stats(const ChannelNorm& k) {
  if (k.channels > 0) statistics<T>(k, k.channels, 1, k.spatial, false);
}

template <class A>
struct UseRunning {
  ChannelNorm k;
  __device__ __forceinline__ void operator()(std::int64_t c) const { functors::use_running<A>(k, c); }
};
template <class T>
void batch_fixed(const ChannelNorm& k) {
  for_each(k.channels, UseRunning<compute_t<T>>{k});
}

template <class T>
void batch_apply(const ChannelNorm& k) {
  map_channels(normalise<T>(k), k.batch, k.channels, k.spatial);
}

// Gradients of weight and bias of a channel from its parts, and what dx subtracts: in evaluation the statistics are
// constants, and that is nothing.
template <class A>
struct FinishSlopes {
  ChannelNorm k;
  const A* sums;
  std::int64_t parts;
  A *flat, *slope;
  __device__ __forceinline__ void operator()(std::int64_t c, bool writes) const {
    const A* mine = sums + c * 2 * parts;
    const A total = warp_total<A>(parts, [=](std::int64_t i) { return mine[i]; });
    const A s = static_cast<const A*>(k.rstd)[c];
    const A total_x = warp_total<A>(parts, [=, this](std::int64_t i) { return mine[parts + i]; }) * s;
    if (!writes) return;
    if (k.dweight) static_cast<A*>(k.dweight)[c] = total_x;
    if (k.dbias) static_cast<A*>(k.dbias)[c] = total;
    const A w = k.weight ? static_cast<const A*>(k.weight)[c] : A(1), count = static_cast<A>(k.batch * k.spatial);
    flat[c] = k.training ? w * (total / count) : A(0);
    slope[c] = k.training ? w * (s * total_x / count) : A(0);
  }
};

template <class T>
void batch_backward(const ChannelNorm& k) {
  using A = compute_t<T>;
  if (k.channels == 0) return;
  const Scratch<A> terms(2 * k.channels);
  const SumParts<Slopes<T>> parts = channel_sums(slopes<T>(k), k.batch, k.channels, k.spatial);
  for_each_warp(k.channels, FinishSlopes<A>{k, parts.sums.get(), parts.count, terms.get(), terms.get() + k.channels});
  if (k.out) map_channels(gradient<T>(k, terms.get(), terms.get() + k.channels), k.batch, k.channels, k.spatial);
}

// ---- group norm -----------------------------------------------------------------------------------------------------

template <class T>
void group_forward(const ChannelNorm& k) {
  const std::int64_t runs = k.batch * k.groups;
  if (runs == 0) return;
  const std::int64_t per_group = k.channels / k.groups;
  statistics<T>(k, runs, per_group, per_group * k.spatial, true);
  map_channels(normalise<T>(k), k.batch, k.channels, k.spatial);
}

// What dx subtracts in a group of a sample, from the sums of its planes.
template <class A>
struct GroupTerms {
  ChannelNorm k;
  const A* sums;
  std::int64_t parts, per_group;
  A *flat, *slope;
  __device__ __forceinline__ void operator()(std::int64_t g, bool writes) const {
    const std::int64_t c = g % k.groups * per_group;
    const A* w = static_cast<const A*>(k.weight);
    const auto term = [&](int which) {
      return [=, this](std::int64_t i) {
        const std::int64_t plane = i / parts;
        return (w ? w[c + plane] : A(1)) * sums[((g * per_group + plane) * 2 + which) * parts + i % parts];
      };
    };
    const A count = static_cast<A>(per_group * k.spatial), s = static_cast<const A*>(k.rstd)[g];
    const A h = warp_total<A>(per_group * parts, term(0)), hx = warp_total<A>(per_group * parts, term(1)) * s;
    if (!writes) return;
    flat[g] = h / count;
    slope[g] = s * (hx / count);
  }
};

template <class A>
struct GroupWeights {
  ChannelNorm k;
  const A* sums;
  std::int64_t parts, per_group;
  __device__ __forceinline__ void operator()(std::int64_t c, bool writes) const {
    const A* rstd = static_cast<const A*>(k.rstd);
    const auto at = [&](std::int64_t i, int which) {
      return sums[((i / parts * k.channels + c) * 2 + which) * parts + i % parts];
    };
    const A a = warp_total<A>(k.batch * parts, [&](std::int64_t i) { return at(i, 0); });
    const A b = warp_total<A>(k.batch * parts,
                              [&](std::int64_t i) { return at(i, 1) * rstd[i / parts * k.groups + c / per_group]; });
    if (writes && k.dweight) static_cast<A*>(k.dweight)[c] = b;
    if (writes && k.dbias) static_cast<A*>(k.dbias)[c] = a;
  }
};

template <class T>
void group_backward(const ChannelNorm& k) {
  using A = compute_t<T>;
  if (k.channels == 0) return;
  const std::int64_t runs = k.batch * k.groups, per_group = k.channels / k.groups;
  const Scratch<A> terms(2 * runs);
  const SumParts<Slopes<T>> parts(slopes<T>(k), k.batch, k.channels, k.spatial, true);
  if (k.out) {
    for_each_warp(runs, GroupTerms<A>{k, parts.sums.get(), parts.count, per_group, terms.get(), terms.get() + runs});
    map_channels(gradient<T>(k, terms.get(), terms.get() + runs), k.batch, k.channels, k.spatial);
  }
  if (k.dweight || k.dbias) for_each_warp(k.channels, GroupWeights<A>{k, parts.sums.get(), parts.count, per_group});
}

}  // namespace

void register_channel_norm(KernelTable& t) {
  NormKernels& k = family<NormKernels>(t);
  each_type(FloatTypes{}, [&]<class T>() {
    k.batch_norm_stats[idx<T>] = batch_stats<T>;
    k.batch_norm_fixed[idx<T>] = batch_fixed<T>;
    k.batch_norm_apply[idx<T>] = batch_apply<T>;
    k.batch_norm_backward[idx<T>] = batch_backward<T>;
    k.group_norm[idx<T>] = group_forward<T>;
    k.group_norm_backward[idx<T>] = group_backward<T>;
  });
}

}  // namespace pydlx::cuda
