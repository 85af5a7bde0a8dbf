// Sums over all images and pixels: gradients of the weight of convolutions whose groups have few channels.
#pragma once
#include "cuda/conv/depthwise.cuh"
#include "cuda/runtime/scratch.h"

namespace pydlx::cuda {
namespace {

// What all kernels share: the sum's cut, and where sums go.
template <class T>
struct WeightSum : DepthwiseSum<T> {
  using Acc = typename DepthwiseSum<T>::Acc;
  std::int64_t rows;       // of taps, one per channel that is written and channel of the group that is read
  std::int64_t items = 0;  // that are summed
  std::int64_t sets = 0;   // of weights; a block has one
  std::int64_t parts = 1, length = 0;
  Acc* partial = nullptr;

  explicit WeightSum(const Conv& c)
      : DepthwiseSum<T>(c, ConvPass::forward), rows(c.shape.groups * c.shape.cout * c.shape.cin) {}
  // Enough blocks for the largest GPU, each of which sums `least` items at least.
  void cut(std::int64_t least) {
    constexpr std::int64_t kWanted = 1056, kMost = 512;
    parts = (kWanted + sets - 1) / sets;
    if (parts > items / least) parts = items / least;
    parts = parts < 1 ? 1 : (parts > kMost ? kMost : parts);
    length = (items + parts - 1) / parts;
    if (length > 0) parts = (items + length - 1) / length;
  }
  __host__ __device__ std::int64_t blocks() const { return sets * parts; }
  __device__ __forceinline__ void store(std::int64_t part, std::int64_t weight, Acc v) const {
    if (partial)
      partial[part * rows * this->taps + weight] = v;
    else
      static_cast<T*>(this->c.w)[weight] = static_cast<T>(v);
  }
};

// A block's set of weights, and its items.
struct Share {
  std::int64_t set, part, begin, end;
  template <class T>
  __device__ __forceinline__ Share(const WeightSum<T>& s, std::int64_t block) {
    const Quotient q = divide(block, s.parts);
    set = q.quotient;
    part = q.rest;
    begin = part * s.length;
    end = begin + s.length < s.items ? begin + s.length : s.items;
  }
};

constexpr int kAddColumns = 32, kAddRows = 16;

template <class T, class Acc>
__global__ void __launch_bounds__(kAddColumns* kAddRows)
    add_weight_parts(T* w, const Acc* partial, std::int64_t count, int parts) {
  __shared__ Acc sums[kAddRows][kAddColumns];
  const int column = static_cast<int>(threadIdx.x) % kAddColumns, row = static_cast<int>(threadIdx.x) / kAddColumns;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kAddColumns; first < count;
       first += static_cast<std::int64_t>(gridDim.x) * kAddColumns) {
    const std::int64_t i = first + column;
    Acc sum = 0;
#pragma unroll 4
    for (int part = row; part < parts; part += kAddRows)
      if (i < count) sum += partial[part * count + i];
    sums[row][column] = sum;
    __syncthreads();
    if (row == 0 && i < count) {
      for (int r = 1; r < kAddRows; ++r) sum += sums[r][column];
      w[i] = static_cast<T>(sum);
    }
    __syncthreads();
  }
}

// Launches a kernel on all blocks, and adds the parts.
template <class T, class Problem>
void run_sum(void (*kernel)(Problem), Problem p, int threads, std::size_t shared) {
  using Acc = typename WeightSum<T>::Acc;
  const unsigned blocks = grid_for(p.blocks(), 64);
  if (p.parts == 1) return launch(kernel, blocks, static_cast<unsigned>(threads), shared, p);
  const std::int64_t count = p.rows * p.taps;
  const Scratch<Acc> partial(p.parts * count);
  p.partial = partial.get();
  launch(kernel, blocks, static_cast<unsigned>(threads), shared, p);
  launch(add_weight_parts<T, Acc>, grid_for((count + kAddColumns - 1) / kAddColumns), kAddColumns * kAddRows, 0,
         static_cast<T*>(p.c.w), static_cast<const Acc*>(partial.get()), count, static_cast<int>(p.parts));
}

// Sums over the threads of the block; store(i, sum) is called once for each of N values, by any thread.
template <int N, class Acc, class Store>
__device__ __forceinline__ void sum_of_threads(const Acc (&v)[N], const Store& store) {
  __shared__ Acc warps[kDepthwiseThreads / kWarp][N];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    Acc sum = v[i];
#pragma unroll
    for (int d = kWarp / 2; d > 0; d /= 2) sum += __shfl_xor_sync(kFullMask, sum, d);
    if (lane == 0) warps[warp][i] = sum;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < N; i += static_cast<int>(blockDim.x)) {
    Acc sum = warps[0][i];
    for (int w = 1; w < static_cast<int>(blockDim.x) / kWarp; ++w) sum += warps[w][i];
    store(i, sum);
  }
  __syncthreads();  // the next sums overwrite these
}

}  // namespace
}  // namespace pydlx::cuda
