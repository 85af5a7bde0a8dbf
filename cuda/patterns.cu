// Ranges, triangles, and the positions of true elements.
#include "cuda/pointwise/loop.cuh"
#include "cuda/runtime/each.cuh"
#include "kernels/indexing.h"

namespace pydlx::cuda {
namespace {

// ---- patterns -------------------------------------------------------------------------------------------------------

template <class T>
struct Range {
  RangeFill a;
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    T* out = static_cast<T*>(a.out);
    if (a.integral) {
      out[i] = static_cast<T>(
          static_cast<std::int64_t>(static_cast<std::uint64_t>(a.int_start) +
                                    static_cast<std::uint64_t>(i) * static_cast<std::uint64_t>(a.int_step)));
      return;
    }
    const bool second = a.symmetric && i >= a.n / 2;
    double v = second ? a.last - static_cast<double>(a.n - 1 - i) * a.step : a.start + static_cast<double>(i) * a.step;
    if (a.base != 0) v = ::pow(a.base, v);
    if constexpr (type_bit<T> == kFloat)
      out[i] = static_cast<T>(static_cast<compute_t<T>>(v));
    else
      out[i] = static_cast<T>(v >= -9223372036854775808.0 && v < 9223372036854775808.0 ? static_cast<std::int64_t>(v)
                                                                                       : INT64_MIN);
  }
};
template <class T>
void range(const RangeFill& a) {
  for_each(a.n, Range<T>{a});
}

template <class W>
struct TrianglePart {
  Triangle a;
  FastDivisor cols, rows;
  bool small;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    std::int64_t row, col;
    if (small) {
      const auto x = static_cast<std::uint32_t>(e);
      const std::uint32_t r = cols.quotient(x);
      col = x - r * cols.divisor;
      row = r - rows.quotient(r) * rows.divisor;
    } else {
      const std::int64_t r = e / a.cols;
      col = e - r * a.cols;
      row = r % a.rows;
    }
    const bool keep = a.upper ? col >= row + a.diagonal : col <= row + a.diagonal;
    static_cast<W*>(a.out)[e] = keep ? static_cast<const W*>(a.x)[e] : W(0);
  }
};
template <class W>
void triangle(const Triangle& a) {
  const std::int64_t n = a.batch * a.rows * a.cols;
  if (n <= 0) return;
  TrianglePart<W> part{a, {}, {}, n < kSmallCount};
  if (part.small) {
    part.cols = FastDivisor(static_cast<std::uint32_t>(a.cols));
    part.rows = FastDivisor(static_cast<std::uint32_t>(a.rows));
  }
  for_each(n, part);
}

// ---- finding elements -----------------------------------------------------------------------------------------------

constexpr int kFindItems = 4, kFindTile = kEachThreads * kFindItems;
static_assert(kNonzeroBlock % kFindTile == 0);

__global__ void __launch_bounds__(kEachThreads)
    count_true(const std::uint8_t* mask, std::int64_t n, std::int64_t* counts) {
  __shared__ std::int64_t slots[kWarp];
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kNonzeroBlock;
  std::int64_t count = 0, total;
  for (std::int64_t i = begin + threadIdx.x; i < n && i < begin + kNonzeroBlock; i += kEachThreads)
    count += mask[i] != 0;
  exclusive_sum(count, slots, total);
  if (threadIdx.x == 0) counts[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kEachThreads) find_true(const __grid_constant__ Nonzero a) {
  __shared__ int slots[kWarp];
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kNonzeroBlock;
  std::int64_t next = a.starts[blockIdx.x];
  for (std::int64_t tile = begin; tile < begin + kNonzeroBlock && tile < a.n; tile += kFindTile) {
    const std::int64_t first = tile + threadIdx.x * kFindItems;
    int count = 0, total;
    for (int j = 0; j < kFindItems; ++j) count += first + j < a.n && a.mask[first + j] != 0;
    std::int64_t to = next + exclusive_sum(count, slots, total);
    for (int j = 0; j < kFindItems; ++j) {
      if (first + j >= a.n || a.mask[first + j] == 0 || to >= a.total) continue;
      std::int64_t rest = first + j;
      for (int d = a.ndim - 1; d > 0; --d) {
        const std::int64_t q = rest / a.size[d];
        a.out[to * a.ndim + d] = rest - q * a.size[d];
        rest = q;
      }
      if (a.ndim > 0) a.out[to * a.ndim] = rest;
      ++to;
    }
    next += total;
  }
}

std::int64_t nonzero_count(const Nonzero& a) {
  if (a.n <= 0) return 0;
  const unsigned blocks = ceil_div(a.n, kNonzeroBlock);
  const Scratch<std::int64_t> total(1);
  launch(count_true, blocks, kEachThreads, 0, a.mask, a.n, a.starts);
  exclusive_sums(a.starts, a.starts, blocks, total.get());
  return read_back(total.get());
}
void nonzero(const Nonzero& a) {
  if (a.n > 0) launch(find_true, ceil_div(a.n, kNonzeroBlock), kEachThreads, 0, a);
}

// One warp per number.
struct Repeat {
  const std::int64_t* repeats;
  const std::int64_t* starts;
  std::int64_t* out;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const std::int64_t k = e / kWarp;
    for (std::int64_t i = e % kWarp; i < repeats[k]; i += kWarp) out[starts[k] + i] = k;
  }
};
void repeat_index(const std::int64_t* repeats, std::int64_t n, std::int64_t* out) {
  if (n <= 0) return;
  const Scratch<std::int64_t> starts(n);
  exclusive_sums(repeats, starts.get(), n, nullptr);
  for_each(n * kWarp, Repeat{repeats, starts.get(), out});
}

// ---- table ----------------------------------------------------------------------------------------------------------

template <class... Ts>
void fill_ranges(IndexingKernels& k, Types<Ts...>) {
  ((k.range[idx<Ts>] = range<Ts>), ...);
}
template <class... Ts>
void fill_triangles(IndexingKernels& k) {
  int i = 0;
  ((k.triangle[i++] = triangle<Ts>), ...);
}

}  // namespace

void register_patterns(KernelTable& t) {
  IndexingKernels& k = family<IndexingKernels>(t);
  fill_ranges(k, AllTypes{});
  fill_triangles<std::uint8_t, std::uint16_t, std::uint32_t, std::uint64_t>(k);
  k.nonzero_count = nonzero_count;
  k.nonzero = nonzero;
  k.repeat_index = repeat_index;
}

}  // namespace pydlx::cuda
