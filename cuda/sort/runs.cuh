// What goes to equal places, combined after a stable sort by place. Runs of equal keys are in the order of the input;
// short ones are walked by a thread, long ones are cut into pieces whose lengths depend on the run's alone.
//
// A problem P has what a kernel needs to know: `key` and `at` (the sorted keys, and where they were), `count`, `lines`
// (places beside each other that share the keys), `Key`, `Value`, `wanted(key)`, and `place(key, line, length)` for a
// run of that length, which gives `old()`, `read(at)`, `combine(a, b)`, in any order, and `write(value)`.
#pragma once
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/rows.cuh"

namespace pydlx::cuda {
namespace {

constexpr std::int64_t kShortRun = 128, kMostPieces = 256;

// One thread per sorted element and line; the first of a short run does the work of all.
template <class P>
struct ShortRuns {
  P p;
  Divider lines;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const auto [j, line] = lines(e);
    const typename P::Key k = p.key[j];
    if (!p.wanted(k) || (j > 0 && p.key[j - 1] == k) || (j + kShortRun < p.count && p.key[j + kShortRun] == k)) return;
    std::int64_t end = j + 1;
    while (end < p.count && p.key[end] == k) ++end;
    const auto place = p.place(k, line, end - j);
    typename P::Value v = place.old();
#pragma unroll 4
    for (std::int64_t q = j; q < end; ++q) v = place.combine(v, place.read(p.at[q]));
    place.write(v);
  }
};

// The first sorted element whose key is not below k (above: is above k).
template <class K>
__device__ __forceinline__ std::int64_t bound_of(const K* key, std::int64_t low, std::int64_t high, K k, bool above) {
  while (low < high) {
    const std::int64_t mid = low + (high - low) / 2;
    if (above ? key[mid] <= k : key[mid] < k)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}

// A long run has at least as many elements whose number is a multiple of kShortRun as pieces: each of these elements
// has a piece, or none, and room for its values. There are fewer than 2^32 elements.
struct Piece {
  std::int64_t first = 0, length = 0, pieces = 0, piece = 0;
  template <class K>
  __device__ __forceinline__ Piece(const K* key, std::int64_t count, std::int64_t step) {
    constexpr std::int64_t kHalf = kShortRun / 2;
    const std::int64_t j = step * kShortRun;
    const K k = key[j];
    if (!((j >= kHalf && key[j - kHalf] == k) || (j + kHalf < count && key[j + kHalf] == k))) return;
    first = bound_of(key, 0, j, k, false);
    length = bound_of(key, j, count, k, true) - first;
    if (length <= kShortRun) return;
    pieces = static_cast<std::uint32_t>(length - 1) / static_cast<std::uint32_t>(each()) + 1;
    piece = step - (first + kShortRun - 1) / kShortRun;
  }
  __device__ __forceinline__ bool there() const { return piece < pieces; }
  __device__ __forceinline__ std::int64_t each() const {
    const std::int64_t even = (length + kMostPieces - 1) / kMostPieces;
    return even < 2 * kShortRun ? 2 * kShortRun : even;
  }
};

// Blocks take pieces, or the values of a run's pieces (`kEnd`). `width` threads lie along lines, the others take
// elements in turns.
template <class P, bool kEnd>
__global__ void __launch_bounds__(kEachThreads, 2)
    long_runs(const __grid_constant__ P p, int width, typename P::Value* partial) {
  using Value = typename P::Value;
  __shared__ Value shared[kEachThreads];
  const int column = static_cast<int>(threadIdx.x) % width, lane = static_cast<int>(threadIdx.x) / width,
            lanes = kEachThreads / width;
  const std::int64_t steps = (p.count + kShortRun - 1) / kShortRun;
  for (std::int64_t step = blockIdx.x; step < steps; step += gridDim.x) {
    const typename P::Key k = p.key[step * kShortRun];
    if (!p.wanted(k)) continue;
    const Piece run(p.key, p.count, step);
    if (!run.there() || (kEnd && (run.piece > 0 || run.pieces == 1))) continue;
    const std::int64_t begin = kEnd ? step : run.first + run.piece * run.each(), whole = run.first + run.length,
                       end = kEnd                         ? step + run.pieces
                             : begin + run.each() < whole ? begin + run.each()
                                                          : whole;
    for (std::int64_t group = std::int64_t{blockIdx.y} * width; group < p.lines;
         group += std::int64_t{gridDim.y} * width) {
      const std::int64_t line = group + column;
      const bool inside = line < p.lines;
      const auto place = p.place(k, inside ? line : 0, run.length);
      const auto value = [&](std::int64_t q) {
        if constexpr (kEnd)
          return partial[q * p.lines + line];
        else
          return place.read(p.at[q]);
      };
      int filled = static_cast<int>(end - begin < lanes ? end - begin : lanes);
      Value v{};
      if (inside && lane < filled) {
        v = value(begin + lane);
#pragma unroll 4
        for (std::int64_t q = begin + lane + lanes; q < end; q += lanes) v = place.combine(v, value(q));
        shared[threadIdx.x] = v;
      }
      for (int half = lanes / 2; half > 0; half /= 2) {
        __syncthreads();
        if (inside && lane < half && lane + half < filled)
          shared[threadIdx.x] = v = place.combine(v, shared[threadIdx.x + static_cast<unsigned>(half * width)]);
        filled = filled < half ? filled : half;
      }
      if (inside && lane == 0) {
        if (kEnd || run.pieces == 1)
          place.write(place.combine(place.old(), v));
        else
          partial[step * p.lines + line] = v;
      }
      __syncthreads();  // the next lines' values overwrite these
    }
  }
}

template <class P>
void combine_long_runs(const P& p) {
  if (p.count <= kShortRun || p.lines <= 0) return;
  const std::int64_t steps = (p.count + kShortRun - 1) / kShortRun;
  const int width = power_of_two_up_to(p.lines, kWarp);
  const std::int64_t across = (p.lines + width - 1) / width;
  const dim3 grid(grid_for(steps, 16), static_cast<unsigned>(across < 64 ? across : 64));
  const bool pieces = p.count > 2 * kShortRun;
  const Scratch<typename P::Value> partial(pieces ? checked_mul(steps, p.lines, "scatter") : 0);
  launch(long_runs<P, false>, grid, kEachThreads, 0, p, width, partial.get());
  if (pieces) launch(long_runs<P, true>, grid, kEachThreads, 0, p, width, partial.get());
}

// All runs, short and long.
template <class P>
void combine_runs(const P& p) {
  const std::int64_t n = p.count * p.lines;
  for_each(n, ShortRuns<P>{p, Divider(p.lines, n)});
  combine_long_runs(p);
}

}  // namespace
}  // namespace pydlx::cuda
