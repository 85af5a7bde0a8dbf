// Walks over x[batch, channels, spatial] in packs of V elements: two sums per channel or plane, and maps whose
// parameters change from plane to plane. A plane need not begin where a pack does: packs lie as in memory, and those at
// the ends of a plane are shared with its neighbours. Without spatial axes neighbouring elements are channels, and a
// thread keeps its own.
#pragma once
#include "cuda/runtime/divisor.cuh"
#include "cuda/runtime/pack.cuh"
#include "cuda/runtime/rows.cuh"
#include "cuda/runtime/scratch.h"

namespace pydlx::cuda {
namespace {

// An operation on kOperands arrays of Element has
//   sums: Sum, centre(row), sample(n), add(Sum& a, Sum& b, Sum centre, auto sample, const Element (&v)[kOperands])
//   maps: Channel, channel(plane), value(const Channel&, const Element (&v)[kOperands]), out, and groups if samples
//         differ
// and in[kOperands], from which it takes them.
template <class Op, int V>
struct Loaded {
  using T = typename Op::Element;
  Pack<T, V> pack[Op::kOperands];
  __device__ __forceinline__ void load_from(const Op& op, std::int64_t i, std::int64_t n) {
#pragma unroll
    for (int o = 0; o < Op::kOperands; ++o) pack[o] = load<T, V>(op.in[o], i, n);
  }
  __device__ __forceinline__ void take(int j, T (&v)[Op::kOperands]) const {
#pragma unroll
    for (int o = 0; o < Op::kOperands; ++o) v[o] = pack[o].v[j];
  }
};

// What sample() gives where samples do not differ.
struct AnySample {};

// Packs that a thread has on their way before it uses the first one.
template <class Op>
inline constexpr int kPacksAhead = Op::kOperands == 1 ? 4 : 2;

// Blocks are a function of the shape alone, as sums depend on it: enough to keep the largest GPU busy when they do not
// come out even, each with some rounds of work.
inline std::int64_t parts_for(std::int64_t blocks, std::int64_t rounds) {
  const std::int64_t wanted = blocks >= 2048 ? 1 : 4096 / (blocks < 1 ? 1 : blocks), most = rounds < 256 ? rounds : 256;
  return wanted < most ? wanted : (most < 1 ? 1 : most);
}

// The share of `all` that each of so many takes, at least 1; and how many shares of a size there are.
constexpr std::int64_t share_of(std::int64_t all, std::int64_t by) { return all < 1 ? 1 : (all + by - 1) / by; }

// ---- sums over planes -----------------------------------------------------------------------------------------------

// A row is a channel of all samples, or a plane; positions are the packs that its planes lie in.
struct PlaneSums {
  std::int64_t elements, spatial, channels, rows, positions, part;
  bool planes;
  int pack;
  Divider packs;  // of a plane
  RowLayout layout;

  PlaneSums(std::int64_t batch, std::int64_t c, std::int64_t s, bool each_plane, int v)
      : elements(batch * c * s),
        spatial(s),
        channels(c),
        rows(each_plane ? batch * c : c),
        planes(each_plane),
        pack(v) {
    const std::int64_t per_plane = s % pack == 0 ? s / pack : (s + 2 * pack - 2) / pack;
    positions = per_plane * (each_plane ? 1 : batch);
    packs = Divider(per_plane, positions + 1);
    layout = RowLayout::along(positions);
    const std::int64_t parts =
        parts_for((rows + layout.rows() - 1) / layout.rows(), (positions + 8 * layout.lanes - 1) / (8 * layout.lanes));
    part = share_of(positions, parts);
  }
  std::int64_t parts() const { return share_of(positions, part); }
};

// out[row][2][parts]
template <class Op, int V>
__global__ void __launch_bounds__(kRowThreads)
    plane_sums(const __grid_constant__ Op op, const __grid_constant__ PlaneSums p, typename Op::Sum* out) {
  using Sum = typename Op::Sum;
  constexpr int kAhead = kPacksAhead<Op>;
  __shared__ Sum shared[kRowThreads];
  const RowThread at(p.layout);
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.y) * p.part;
  const std::int64_t end = begin + p.part < p.positions ? begin + p.part : p.positions;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * at.rows; first < p.rows;
       first += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t row = first + at.row;
    Sum a = 0, b = 0;
    if (row < p.rows) {
      const Sum centre = op.centre(row);
      for (std::int64_t q = begin + at.lane; q < end; q += kAhead * at.lanes) {
        Loaded<Op, V> x[kAhead];
        int low[kAhead], high[kAhead];  // elements of the pack that belong to the plane
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
          low[k] = high[k] = 0;
          if (q + k * at.lanes >= end) continue;
          const Quotient place = p.packs(q + k * at.lanes);
          const std::int64_t plane = p.planes ? row : place.quotient * p.channels + row, start = plane * p.spatial;
          const std::int64_t i = (start / V + place.rest) * V, before = start - i, rest = start + p.spatial - i;
          low[k] = before > 0 ? static_cast<int>(before) : 0;
          high[k] = rest < V ? static_cast<int>(rest) : V;
          if (low[k] < high[k]) x[k].load_from(op, i, p.elements);
        }
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
          typename Op::Element v[Op::kOperands];
          if (low[k] == 0 && high[k] == V) {
#pragma unroll
            for (int j = 0; j < V; ++j) {
              x[k].take(j, v);
              op.add(a, b, centre, AnySample(), v);
            }
          } else {
#pragma unroll
            for (int j = 0; j < V; ++j) {
              x[k].take(j, v);
              if (j >= low[k] && j < high[k]) op.add(a, b, centre, AnySample(), v);
            }
          }
        }
      }
    }
    a = at.all(a, shared, Adder());
    b = at.all(b, shared, Adder());
    if (at.lane == 0 && row < p.rows) {
      Sum* to = out + row * 2 * gridDim.y + blockIdx.y;
      to[0] = a;
      to[gridDim.y] = b;
    }
  }
}

// ---- sums over samples, without spatial axes ------------------------------------------------------------------------

struct ColumnSums {
  std::int64_t batch, channels, part;
  int columns;  // packs of channels side by side in a block

  ColumnSums(std::int64_t n, std::int64_t c, int pack) : batch(n), channels(c) {
    columns = power_of_two_up_to(c / pack, kWarp);
    const std::int64_t lanes = kRowThreads / columns,
                       parts = parts_for(blocks(pack), (n + 8 * lanes - 1) / (8 * lanes));
    part = share_of(n, parts);
  }
  std::int64_t blocks(int pack) const { return (channels / pack + columns - 1) / columns; }
  std::int64_t parts() const { return share_of(batch, part); }
};

// out[channel][2][parts]; channels is a multiple of V.
template <class Op, int V>
__global__ void __launch_bounds__(kRowThreads)
    column_sums(const __grid_constant__ Op op, const __grid_constant__ ColumnSums p, typename Op::Sum* out) {
  using Sum = typename Op::Sum;
  constexpr int kAhead = kPacksAhead<Op>;
  __shared__ Sum shared[2 * V * kRowThreads];
  const int columns = p.columns, lanes = kRowThreads / columns, thread = static_cast<int>(threadIdx.x),
            lane = thread / columns;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * columns * V, c = first + thread % columns * V;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.y) * p.part;
  const std::int64_t end = begin + p.part < p.batch ? begin + p.part : p.batch;
  Sum a[V] = {}, b[V] = {};
  if (c < p.channels) {
    Sum centre[V];
#pragma unroll
    for (int j = 0; j < V; ++j) centre[j] = op.centre(c + j);
    for (std::int64_t r = begin + lane; r < end; r += kAhead * lanes) {
      Loaded<Op, V> x[kAhead];
      decltype(op.sample(r)) sample[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        if (r + k * lanes >= end) break;
        x[k].load_from(op, (r + k * lanes) * p.channels + c, INT64_MAX);
        sample[k] = op.sample(r + k * lanes);
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        if (r + k * lanes >= end) break;
#pragma unroll
        for (int j = 0; j < V; ++j) {
          typename Op::Element v[Op::kOperands];
          x[k].take(j, v);
          op.add(a[j], b[j], centre[j], sample[k], v);
        }
      }
    }
  }
#pragma unroll
  for (int j = 0; j < V; ++j) {
    shared[2 * j * kRowThreads + thread] = a[j];
    shared[(2 * j + 1) * kRowThreads + thread] = b[j];
  }
  __syncthreads();
  for (int o = thread; o < 2 * V * columns; o += kRowThreads) {
    const int which = o / columns, column = o % columns;
    const std::int64_t channel = first + column * V + which / 2;
    if (channel >= p.channels) continue;
    Sum sum = 0;
    for (int k = 0; k < lanes; ++k) sum += shared[which * kRowThreads + k * columns + column];
    out[(channel * 2 + which % 2) * gridDim.y + blockIdx.y] = sum;
  }
}

// ---- totals ---------------------------------------------------------------------------------------------------------

// The sum of n numbers by a warp, in an order that n alone decides.
template <class A, class Term>
__device__ __forceinline__ A warp_total(std::int64_t n, const Term& term) {
  A sum = 0;
  for (std::int64_t i = threadIdx.x % kWarp; i < n; i += kWarp) sum += term(i);
  for (int w = kWarp / 2; w > 0; w /= 2) sum += __shfl_xor_sync(kFullMask, sum, w);
  return sum;
}

template <class F>
__global__ void __launch_bounds__(kRowThreads) each_warp(const __grid_constant__ F f, std::int64_t n) {
  constexpr int kWarps = kRowThreads / kWarp;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kWarps;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; i < n; i += step)
    f(i, threadIdx.x % kWarp == 0);
}
// f(i, whether this thread writes) by a warp for every i < n.
template <class F>
void for_each_warp(std::int64_t n, const F& f) {
  constexpr int kWarps = kRowThreads / kWarp;
  if (n > 0) launch(each_warp<F>, grid_for((n + kWarps - 1) / kWarps, 32), kRowThreads, 0, f, n);
}

// ---- maps -----------------------------------------------------------------------------------------------------------

template <class Op, int V>
__device__ __forceinline__ typename Op::Element mapped(const Op& op, const typename Op::Channel& channel,
                                                       const Loaded<Op, V>& x, int j) {
  typename Op::Element v[Op::kOperands];
  x.take(j, v);
  return static_cast<typename Op::Element>(op.value(channel, v));
}

// A pack meets two planes at most: spatial is not below V.
template <class Op, int V>
__global__ void __launch_bounds__(kRowThreads)
    map_planes(const __grid_constant__ Op op, const __grid_constant__ Divider spatial, std::int64_t n) {
  using T = typename Op::Element;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kRowThreads * V;
  for (std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kRowThreads + threadIdx.x) * V; i < n; i += step) {
    Loaded<Op, V> x;
    x.load_from(op, i, n);
    const Quotient at = spatial(i);
    const typename Op::Channel here = op.channel(at.quotient);
    Pack<T, V> y;
    if (at.rest + V <= spatial.size) {
#pragma unroll
      for (int j = 0; j < V; ++j) y.v[j] = mapped(op, here, x, j);
    } else {
      const int left = static_cast<int>(spatial.size - at.rest);
      const typename Op::Channel next = i + left < n ? op.channel(at.quotient + 1) : here;
#pragma unroll
      for (int j = 0; j < V; ++j) y.v[j] = mapped(op, j < left ? here : next, x, j);
    }
    store<T, V>(op.out, i, n, true, y);
  }
}

// channels is a multiple of V, spatial 1.
template <class Op, int V>
__global__ void __launch_bounds__(kRowThreads)
    map_columns(const __grid_constant__ Op op, std::int64_t batch, std::int64_t channels, int columns) {
  using T = typename Op::Element;
  constexpr int kAhead = 2;
  const int lanes = kRowThreads / columns, lane = static_cast<int>(threadIdx.x) / columns;
  const std::int64_t c = (static_cast<std::int64_t>(blockIdx.x) * columns + threadIdx.x % columns) * V;
  if (c >= channels) return;
  typename Op::Channel channel[V];
#pragma unroll
  for (int j = 0; j < V; ++j) channel[j] = op.channel(c + j);
  const std::int64_t step = static_cast<std::int64_t>(gridDim.y) * lanes;
  for (std::int64_t r = static_cast<std::int64_t>(blockIdx.y) * lanes + lane; r < batch; r += kAhead * step) {
    Loaded<Op, V> x[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      if (r + k * step < batch) x[k].load_from(op, (r + k * step) * channels + c, INT64_MAX);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (r + k * step >= batch) break;
      Pack<T, V> y;
#pragma unroll
      for (int j = 0; j < V; ++j) y.v[j] = mapped(op, channel[j], x[k], j);
      put(op.out + (r + k * step) * channels + c, y);
    }
  }
}

// ---- host -----------------------------------------------------------------------------------------------------------

template <class Op>
bool begins_packs(const Op& op) {
  if constexpr (Op::kOperands == 1)
    return packs_begin(op.in[0]);
  else
    return packs_begin(op.in[0], op.in[1]);
}

// Two sums per row, cut into parts by the geometry: [row][2][count].
template <class Op>
struct SumParts {
  using Element = typename Op::Element;
  using Sum = typename Op::Sum;
  std::int64_t count = 1;
  Scratch<Sum> sums;

  // Of the columns of op's [n, channels].
  SumParts(const Op& op, std::int64_t n, std::int64_t channels)
      : SumParts(op, channels, begins_packs(op) && channels % kColumnPack == 0 ? kColumnPack : 1, n) {}

  // Of the channels of all samples, or of the planes.
  SumParts(const Op& op, std::int64_t batch, std::int64_t channels, std::int64_t spatial, bool planes)
      : SumParts(op, PlaneSums(batch, channels, spatial, planes,
                               begins_packs(op) && spatial >= kPlanePack ? kPlanePack : 1)) {}

 private:
  static constexpr int kPlanePack = kPackOf<Element>;
  // Sums in double take twice the registers.
  static constexpr int kColumnPack = kPlanePack * static_cast<int>(sizeof(Sum)) > 32 ? 4 : kPlanePack;

  SumParts(const Op& op, std::int64_t channels, int pack, std::int64_t n)
      : count(ColumnSums(n, channels, pack).parts()), sums(channels * 2 * count) {
    const ColumnSums plan(n, channels, pack);
    if (channels > 0)
      launch(pack == 1 ? column_sums<Op, 1> : column_sums<Op, kColumnPack>,
             dim3(static_cast<unsigned>(plan.blocks(pack)), static_cast<unsigned>(count)), kRowThreads, 0, op, plan,
             sums.get());
  }
  SumParts(const Op& op, const PlaneSums& plan) : count(plan.parts()), sums(plan.rows * 2 * count) {
    if (plan.rows > 0)
      launch(plan.pack == 1 ? plane_sums<Op, 1> : plane_sums<Op, kPlanePack>,
             dim3(plan.layout.grid(plan.rows), static_cast<unsigned>(count)), kRowThreads, 0, op, plan, sums.get());
  }
};

template <class Op>
SumParts<Op> channel_sums(const Op& op, std::int64_t batch, std::int64_t channels, std::int64_t spatial) {
  return spatial == 1 ? SumParts<Op>(op, batch, channels) : SumParts<Op>(op, batch, channels, spatial, false);
}

template <class Op>
void map_channels(const Op& op, std::int64_t batch, std::int64_t channels, std::int64_t spatial) {
  constexpr int V = kPackOf<typename Op::Element>;
  const std::int64_t n = batch * channels * spatial;
  if (n == 0) return;
  const bool packs = begins_packs(op) && packs_begin(op.out);
  if (packs && spatial == 1 && channels % V == 0 && !op.groups) {
    const int columns = power_of_two_up_to(channels / V, kWarp), lanes = kRowThreads / columns;
    const std::int64_t across = (channels / V + columns - 1) / columns, down = (batch + 4 * lanes - 1) / (4 * lanes);
    const std::int64_t most = grid_for(across * down, 64);
    return launch(map_columns<Op, V>,
                  dim3(static_cast<unsigned>(across), static_cast<unsigned>((most + across - 1) / across)), kRowThreads,
                  0, op, batch, channels, columns);
  }
  const bool wide = packs && spatial >= V;
  const Divider plane(spatial, n);
  launch(wide ? map_planes<Op, V> : map_planes<Op, 1>,
         grid_for(ceil_div(n, std::int64_t{kRowThreads} * (wide ? V : 1)), 64), kRowThreads, 0, op, plane, n);
}

}  // namespace
}  // namespace pydlx::cuda
