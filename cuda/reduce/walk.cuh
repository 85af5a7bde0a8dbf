// The reduction driver. A block is a rectangle of outputs by positions of the reduced axes; threads add up positions
// that lie a block apart, the block merges its threads' states in a binary tree, and what several blocks found is
// merged in order by a second kernel. Which element meets which depends on the geometry alone.
#pragma once
#include <algorithm>
#include <type_traits>

#include "cuda/runtime/divisor.cuh"
#include "cuda/runtime/launch.h"
#include "cuda/runtime/pack.cuh"
#include "cuda/runtime/rows.cuh"
#include "cuda/runtime/scratch.h"
#include "functors/types.h"
#include "kernels.h"
#include "kernels/reduce.h"

namespace pydlx::cuda {
namespace {

using functors::compute_t;

constexpr int kThreads = 256;
constexpr std::int64_t kMaxSplits = 512;
constexpr int kAhead = 4;  // loads in flight before the first is used

struct ReduceArgs {
  const char* in;
  void *out, *out2, *out3;
  Axes outer, inner, result;        // outer: bytes of the input; result: elements of the outputs
  std::int64_t outputs, positions;  // both in packs where packs are read
  std::int64_t split;               // positions per block
  int lanes;                        // threads of a block along the positions; the others go along the outputs
  bool outputs_adjacent;            // consecutive threads take consecutive outputs
  double param[2];
  std::int64_t inner_numel;
};

// An operation: State init(); State add(State, value, position); State merge(State, State), which must not depend on
// the order of its arguments beyond rounding; void finish<Out>(const ReduceArgs&, State, std::int64_t at).
// Packs lie along the positions, which then are adjacent.
template <class Op, class T, int V>
__global__ void __launch_bounds__(kThreads) reduce(const __grid_constant__ ReduceArgs a, typename Op::State* partial) {
  using State = typename Op::State;
  __shared__ State shared[kThreads];
  const int t = static_cast<int>(threadIdx.x), columns = kThreads / a.lanes;
  const int column = a.outputs_adjacent ? t % columns : t / a.lanes,
            lane = a.outputs_adjacent ? t / columns : t % a.lanes;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.y) * a.split;
  const std::int64_t end = begin + a.split < a.positions ? begin + a.split : a.positions;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * columns; first < a.outputs;
       first += static_cast<std::int64_t>(gridDim.x) * columns) {
    const std::int64_t output = first + column;
    State s = Op::init();
    if (output < a.outputs) {
      const char* x = a.in + a.outer.offset(output);
      const auto read = [&](std::int64_t i) {
        return get<T, V>(reinterpret_cast<const T*>(x + (V > 1 ? i * kPackBytes : a.inner.offset(i))));
      };
      const auto add = [&](const Pack<T, V>& v, std::int64_t i) {
#pragma unroll
        for (int j = 0; j < V; ++j) s = Op::add(s, static_cast<typename Op::In>(v.v[j]), i * V + j);
      };
      std::int64_t i = begin + lane;
      for (; i + (kAhead - 1) * a.lanes < end; i += kAhead * a.lanes) {
        Pack<T, V> v[kAhead];
#pragma unroll
        for (int k = 0; k < kAhead; ++k) v[k] = read(i + k * a.lanes);
#pragma unroll
        for (int k = 0; k < kAhead; ++k) add(v[k], i + k * a.lanes);
      }
      for (; i < end; i += a.lanes) add(read(i), i);
    }
    shared[lane * columns + column] = s;
    __syncthreads();
    for (int half = a.lanes / 2; half > 0; half /= 2) {
      if (lane < half)
        shared[lane * columns + column] =
            Op::merge(shared[lane * columns + column], shared[(lane + half) * columns + column]);
      __syncthreads();
    }
    if (lane == 0 && output < a.outputs) {
      if (gridDim.y == 1)
        Op::template finish<T>(a, shared[column], a.result.offset(output));
      else
        partial[static_cast<std::int64_t>(blockIdx.y) * a.outputs + output] = shared[column];
    }
    __syncthreads();
  }
}

// Packs lie along the outputs: a thread has V of them.
template <class Op, class T, int V>
__global__ void __launch_bounds__(kThreads)
    reduce_columns(const __grid_constant__ ReduceArgs a, typename Op::State* partial) {
  using State = typename Op::State;
  __shared__ State shared[V * kThreads];
  const int t = static_cast<int>(threadIdx.x), columns = kThreads / a.lanes, column = t % columns, lane = t / columns;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.y) * a.split;
  const std::int64_t end = begin + a.split < a.positions ? begin + a.split : a.positions;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * columns; first < a.outputs;
       first += static_cast<std::int64_t>(gridDim.x) * columns) {
    State s[V];
#pragma unroll
    for (int j = 0; j < V; ++j) s[j] = Op::init();
    if (first + column < a.outputs) {
      const char* x = a.in + a.outer.offset((first + column) * V);
      for (std::int64_t i = begin + lane; i < end; i += kAhead * a.lanes) {
        Pack<T, V> v[kAhead];
#pragma unroll
        for (int k = 0; k < kAhead; ++k)
          if (i + k * a.lanes < end) v[k] = get<T, V>(reinterpret_cast<const T*>(x + a.inner.offset(i + k * a.lanes)));
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
          if (i + k * a.lanes >= end) break;
#pragma unroll
          for (int j = 0; j < V; ++j) s[j] = Op::add(s[j], static_cast<typename Op::In>(v[k].v[j]), i + k * a.lanes);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < V; ++j) shared[j * kThreads + t] = s[j];
    __syncthreads();
    for (int o = t; o < V * columns; o += kThreads) {
      const int j = o / columns, c = o % columns;
      const std::int64_t output = (first + c) * V + j;
      if (first + c >= a.outputs) continue;
      State total = shared[j * kThreads + c];
      for (int l = 1; l < a.lanes; ++l) total = Op::merge(total, shared[j * kThreads + l * columns + c]);
      if (gridDim.y == 1)
        Op::template finish<T>(a, total, a.result.offset(output));
      else
        partial[static_cast<std::int64_t>(blockIdx.y) * a.outputs * V + output] = total;
    }
    __syncthreads();
  }
}

// By a thread for every output, or by a warp where there is much to merge.
template <class Op, class T>
__global__ void __launch_bounds__(kThreads)
    finish_splits(const __grid_constant__ ReduceArgs a, const typename Op::State* partial, std::int64_t outputs,
                  int splits, int lanes) {
  using State = typename Op::State;
  const int lane = static_cast<int>(threadIdx.x) % lanes, rows = kThreads / lanes;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * rows;
  for (std::int64_t o = static_cast<std::int64_t>(blockIdx.x) * rows + threadIdx.x / lanes; o < outputs; o += step) {
    State s = lane < splits ? partial[lane * outputs + o] : Op::init();
    for (int k = lane + lanes; k < splits; k += lanes) s = Op::merge(s, partial[k * outputs + o]);
    if (lanes == kWarp)
      for (int w = kWarp / 2; w > 0; w /= 2) s = Op::merge(s, shuffle_xor(s, w));
    if (lane == 0) Op::template finish<T>(a, s, a.result.offset(o));
  }
}

// Whether all of these steps, in elements, are multiples of v.
inline bool are_multiples(const std::int64_t* step, int from, int n, std::int64_t v) {
  for (int d = from; d < n; ++d)
    if (step[d] % v != 0) return false;
  return true;
}

template <class Op, class T>
void run_reduce(const Reduce& r, void* out3) {
  using State = typename Op::State;
  using Kernel = void (*)(ReduceArgs, State*);
  if (r.outer_numel == 0) return;
  // As many states as registers have room for.
  constexpr int kRoom = std::min(kPackOf<T>, 8), kColumnPack = sizeof(State) > 8 || kRoom < 4 ? 1 : kRoom;
  // Threads go along the axis with the smaller stride, so that a warp reads whole lines.
  const bool along_outputs =
      r.outer_ndim > 0 && r.inner_ndim > 0 && r.outer_size[0] > 1 && r.outer_stride[0] < r.inner_stride[0];
  const bool aligned = packs_begin(r.in);
  const bool rows = aligned && !along_outputs && r.inner_ndim == 1 && r.inner_stride[0] == 1 &&
                    r.inner_numel % kPackOf<T> == 0 && are_multiples(r.outer_stride, 0, r.outer_ndim, kPackOf<T>);
  const bool packs = kColumnPack > 1 && aligned && along_outputs && r.outer_stride[0] == 1 &&
                     r.outer_size[0] % kColumnPack == 0 && r.outer_numel >= 8 * kColumnPack &&
                     are_multiples(r.outer_stride, 1, r.outer_ndim, kColumnPack) &&
                     are_multiples(r.inner_stride, 0, r.inner_ndim, kColumnPack);
  ReduceArgs a;
  a.in = static_cast<const char*>(r.in);
  a.out = r.out;
  a.out2 = r.out2;
  a.out3 = out3;
  a.outputs = packs ? r.outer_numel / kColumnPack : r.outer_numel;
  a.inner_numel = r.inner_numel;
  a.positions = rows ? r.inner_numel / kPackOf<T> : r.inner_numel;
  a.outer = Axes(r.outer_ndim, r.outer_size, r.outer_stride, r.outer_numel, sizeof(T));
  a.result = Axes(r.outer_ndim, r.outer_size, r.out_stride, r.outer_numel);
  a.inner = Axes(r.inner_ndim, r.inner_size, r.inner_stride, r.inner_numel, sizeof(T));
  a.param[0] = r.param[0];
  a.param[1] = r.param[1];
  a.outputs_adjacent = along_outputs;
  a.lanes = along_outputs ? kThreads / power_of_two_up_to(a.outputs, 32)
                          : power_of_two_up_to(rows ? (a.positions + kAhead - 1) / kAhead : a.positions, kThreads);
  const int columns = kThreads / a.lanes;
  // Blocks for some waves of the largest GPU (a constant: the order of sums must not depend on the device), each
  // with work for some rounds of its threads.
  const std::int64_t blocks = (a.outputs + columns - 1) / columns, per_block = std::int64_t{16} * a.lanes;
  std::int64_t splits = blocks >= 1024 ? 1 : (a.positions + per_block - 1) / per_block;
  if (splits * blocks > 2048) splits = 2048 / blocks;
  splits = splits < 1 ? 1 : (splits > kMaxSplits ? kMaxSplits : splits);
  a.split = (a.positions + splits - 1) / splits;
  if (a.split < 1) a.split = 1;
  splits = a.positions == 0 ? 1 : (a.positions + a.split - 1) / a.split;
  const dim3 grid(grid_for(blocks, 64), static_cast<unsigned>(splits));
  Kernel kernel = rows ? reduce<Op, T, kPackOf<T>> : reduce<Op, T, 1>;
  if constexpr (kColumnPack > 1)
    if (packs) kernel = reduce_columns<Op, T, kColumnPack>;
  if (splits == 1) return launch(kernel, grid, kThreads, 0, a, static_cast<State*>(nullptr));
  const Scratch<State> partial(splits * r.outer_numel);
  launch(kernel, grid, kThreads, 0, a, partial.get());
  const int lanes = splits >= kWarp ? kWarp : 1;
  launch(finish_splits<Op, T>, grid_for((r.outer_numel * lanes + kThreads - 1) / kThreads), kThreads, 0, a,
         partial.get(), r.outer_numel, static_cast<int>(splits), lanes);
}

template <ReduceOp op, class T, class Op>
void add_reduce(KernelTable& t) {
  family<ReduceKernels>(t).reduce[static_cast<int>(op)][static_cast<int>(DTypeOf<T>::value)] = [](const Reduce& r) {
    run_reduce<Op, T>(r, nullptr);
  };
}

}  // namespace
}  // namespace pydlx::cuda
