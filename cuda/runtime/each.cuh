// One thread per element, and sums over the threads of a block.
#pragma once
#include "cuda/runtime/divisor.cuh"
#include "cuda/runtime/launch.h"
#include "cuda/runtime/scratch.h"

namespace pydlx::cuda {
namespace {

constexpr int kEachThreads = 256;

template <class F>
__global__ void __launch_bounds__(kEachThreads) each(const __grid_constant__ F f, std::int64_t n) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kEachThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kEachThreads + threadIdx.x; i < n; i += step) f(i);
}

// f(i) for i < n in any order; f is plain data with a device call operator.
template <class F>
void for_each(std::int64_t n, const F& f) {
  if (n > 0) launch(each<F>, grid_for(ceil_div(n, kEachThreads), 32), kEachThreads, 0, f, n);
}

// Sum of v over the earlier threads of the block, and over all of them. All threads call; `slots` is shared memory for
// one value per warp.
template <class T>
__device__ __forceinline__ T exclusive_sum(T v, T* slots, T& total) {
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  T sum = v;
  for (unsigned d = 1; d < kWarp; d *= 2) {
    const T before = __shfl_up_sync(kFullMask, sum, d);
    if (lane >= d) sum += before;
  }
  if (lane == kWarp - 1) slots[warp] = sum;
  __syncthreads();
  T earlier = 0;
  total = 0;
  for (unsigned w = 0; w < warps; ++w) {
    if (w < warp) earlier += slots[w];
    total += slots[w];
  }
  __syncthreads();  // the slots may be used again
  return earlier + sum - v;
}

// ---- prefix sums of integers over a whole array ---------------------------------------------------------------------

constexpr int kSumItems = 8, kSumTile = kEachThreads * kSumItems;

__device__ __forceinline__ void load_sum_tile(const std::int64_t* in, std::int64_t n, std::int64_t first,
                                              std::int64_t (&v)[kSumItems], std::int64_t& sum) {
  sum = 0;
#pragma unroll
  for (int j = 0; j < kSumItems; ++j) {
    v[j] = first + j < n ? in[first + j] : 0;
    sum += v[j];
  }
}

__global__ void __launch_bounds__(kEachThreads)
    tile_totals(const std::int64_t* in, std::int64_t n, std::int64_t* totals) {
  __shared__ std::int64_t slots[kWarp];
  std::int64_t v[kSumItems], sum, total;
  load_sum_tile(in, n, static_cast<std::int64_t>(blockIdx.x) * kSumTile + threadIdx.x * kSumItems, v, sum);
  exclusive_sum(sum, slots, total);
  if (threadIdx.x == 0) totals[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kEachThreads) sum_tiles(const std::int64_t* in, std::int64_t* out, std::int64_t n,
                                                          const std::int64_t* before, std::int64_t* total_out) {
  __shared__ std::int64_t slots[kWarp];
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kSumTile + threadIdx.x * kSumItems;
  std::int64_t v[kSumItems], sum, total;
  load_sum_tile(in, n, first, v, sum);
  std::int64_t at = exclusive_sum(sum, slots, total) + (before ? before[blockIdx.x] : 0);
#pragma unroll
  for (int j = 0; j < kSumItems; ++j) {
    if (first + j >= n) break;
    out[first + j] = at;
    at += v[j];
    if (first + j == n - 1 && total_out) *total_out = at;
  }
}

// out[i] = sum of in[j] for j < i; in and out may be the same. The sum of all goes to `total`, if wanted.
[[maybe_unused]] void exclusive_sums(const std::int64_t* in, std::int64_t* out, std::int64_t n, std::int64_t* total) {
  const unsigned tiles = ceil_div(n, kSumTile);
  if (tiles <= 1) {
    launch(sum_tiles, 1, kEachThreads, 0, in, out, n, static_cast<const std::int64_t*>(nullptr), total);
    return;
  }
  const Scratch<std::int64_t> before(tiles);
  launch(tile_totals, tiles, kEachThreads, 0, in, n, before.get());
  exclusive_sums(before.get(), before.get(), tiles, nullptr);
  launch(sum_tiles, tiles, kEachThreads, 0, in, out, n, static_cast<const std::int64_t*>(before.get()), total);
}

}  // namespace
}  // namespace pydlx::cuda
