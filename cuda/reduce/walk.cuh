// The reduction driver. A block is a rectangle of outputs by positions of the reduced axes; threads add up positions
// that lie a block apart, the block merges its threads' states in a binary tree, and what several blocks found is
// merged in order by a second kernel. Which element meets which depends on the geometry alone.
#pragma once
#include <type_traits>

#include "cuda/runtime/divisor.cuh"
#include "cuda/runtime/launch.h"
#include "cuda/runtime/rows.cuh"
#include "cuda/runtime/scratch.h"
#include "functors/types.h"
#include "kernels.h"
#include "kernels/reduce.h"

namespace pydlx::cuda {
namespace {

using functors::compute_t;

constexpr int kThreads = 256;
constexpr std::int64_t kMaxSplits = 256;

struct ReduceArgs {
  const char* in;
  void *out, *out2, *out3;
  Axes outer, inner, result;  // outer: bytes of the input; result: elements of the outputs
  std::int64_t outputs, positions;
  std::int64_t split;     // positions per block
  int lanes;              // threads of a block along the positions; the others go along the outputs
  bool outputs_adjacent;  // consecutive threads take consecutive outputs
  double param[2];
  std::int64_t inner_numel;
};

// An operation: State init(); State add(State, value, position); State merge(State, State), which must not depend on
// the order of its arguments beyond rounding; void finish<Out>(const ReduceArgs&, State, std::int64_t at).
template <class Op, class T>
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
      constexpr int kAhead = 4;  // loads in flight before the first is used
      std::int64_t i = begin + lane;
      for (; i + (kAhead - 1) * a.lanes < end; i += kAhead * a.lanes) {
        T v[kAhead];
#pragma unroll
        for (int k = 0; k < kAhead; ++k) v[k] = *reinterpret_cast<const T*>(x + a.inner.offset(i + k * a.lanes));
#pragma unroll
        for (int k = 0; k < kAhead; ++k) s = Op::add(s, static_cast<typename Op::In>(v[k]), i + k * a.lanes);
      }
      for (; i < end; i += a.lanes)
        s = Op::add(s, static_cast<typename Op::In>(*reinterpret_cast<const T*>(x + a.inner.offset(i))), i);
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

template <class Op, class T>
__global__ void __launch_bounds__(kThreads)
    finish_splits(const __grid_constant__ ReduceArgs a, const typename Op::State* partial, int splits) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t o = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; o < a.outputs; o += step) {
    typename Op::State s = partial[o];
    for (int k = 1; k < splits; ++k) s = Op::merge(s, partial[k * a.outputs + o]);
    Op::template finish<T>(a, s, a.result.offset(o));
  }
}

template <class Op, class T>
void run_reduce(const Reduce& r, void* out3) {
  ReduceArgs a;
  a.in = static_cast<const char*>(r.in);
  a.out = r.out;
  a.out2 = r.out2;
  a.out3 = out3;
  a.outputs = r.outer_numel;
  a.positions = a.inner_numel = r.inner_numel;
  a.outer = Axes(r.outer_ndim, r.outer_size, r.outer_stride, r.outer_numel, sizeof(T));
  a.result = Axes(r.outer_ndim, r.outer_size, r.out_stride, r.outer_numel);
  a.inner = Axes(r.inner_ndim, r.inner_size, r.inner_stride, r.inner_numel, sizeof(T));
  a.param[0] = r.param[0];
  a.param[1] = r.param[1];
  if (a.outputs == 0) return;
  // Threads go along the axis with the smaller stride, so that a warp reads whole lines.
  const bool along_outputs =
      r.outer_ndim > 0 && r.inner_ndim > 0 && r.outer_size[0] > 1 && r.outer_stride[0] < r.inner_stride[0];
  a.outputs_adjacent = along_outputs;
  a.lanes = along_outputs ? kThreads / power_of_two_up_to(a.outputs, 32) : power_of_two_up_to(a.positions, kThreads);
  const int columns = kThreads / a.lanes;
  // Blocks for about two waves of the largest GPU (a constant: the order of sums must not depend on the device), each
  // with work for some rounds of its threads.
  const std::int64_t blocks = (a.outputs + columns - 1) / columns, per_block = std::int64_t{16} * a.lanes;
  std::int64_t splits = blocks >= 512 ? 1 : (a.positions + per_block - 1) / per_block;
  if (splits * blocks > 1024) splits = 1024 / blocks;
  splits = splits < 1 ? 1 : (splits > kMaxSplits ? kMaxSplits : splits);
  a.split = (a.positions + splits - 1) / splits;
  if (a.split < 1) a.split = 1;
  splits = a.positions == 0 ? 1 : (a.positions + a.split - 1) / a.split;
  const dim3 grid(grid_for(blocks, 64), static_cast<unsigned>(splits));
  if (splits == 1) return launch(reduce<Op, T>, grid, kThreads, 0, a, static_cast<typename Op::State*>(nullptr));
  const Scratch<typename Op::State> partial(splits * a.outputs);
  launch(reduce<Op, T>, grid, kThreads, 0, a, partial.get());
  launch(finish_splits<Op, T>, grid_for((a.outputs + kThreads - 1) / kThreads), kThreads, 0, a, partial.get(),
         static_cast<int>(splits));
}

template <ReduceOp op, class T, class Op>
void add_reduce(KernelTable& t) {
  family<ReduceKernels>(t).reduce[static_cast<int>(op)][static_cast<int>(DTypeOf<T>::value)] = [](const Reduce& r) {
    run_reduce<Op, T>(r, nullptr);
  };
}

}  // namespace
}  // namespace pydlx::cuda
