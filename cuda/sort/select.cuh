// Selection along rows: the key of the wanted rank, found digit by digit from the counts of each digit, then the
// elements up to it in order of position (radix selection; Alabi, Blanchard, Gordon and Steinbach 2012, "Fast
// k-selection algorithms for graphics processing units"). Many rows take a block each; a few long ones are divided
// among blocks.
#pragma once
#include "cuda/sort/radix.cuh"
#include "functors/sort_key.h"

namespace pydlx::cuda {
namespace {

using functors::is_nan;
using functors::key_of;
using functors::word_t;

// The key of a rank, and how many equal keys come up to that rank.
template <class T>
struct Bar {
  word_t<T> key;
  std::int64_t equal;
};

// Bits of the first `digits` digits of a key.
template <class K>
__device__ __forceinline__ K first_digits(int digits) {
  return digits == 0 ? K(0) : static_cast<K>(~K(0) << 8 * (static_cast<int>(sizeof(K)) - digits));
}
template <class K>
__device__ __forceinline__ int shift_of(int digit) {
  return 8 * (static_cast<int>(sizeof(K)) - 1 - digit);
}

// The digit of the key of rank `left` (from 0), where this thread's digit occurs `count` times; `left` becomes its rank
// among the keys of that digit. All threads of the block call.
__device__ __forceinline__ unsigned digit_of_rank(std::int64_t count, std::int64_t& left) {
  __shared__ std::int64_t slots[kWarp], rest;
  __shared__ unsigned digit;
  std::int64_t total;
  const std::int64_t before = exclusive_sum(count, slots, total);
  if (before <= left && left < before + count) {
    digit = threadIdx.x;
    rest = left - before;
  }
  __syncthreads();
  left = rest;
  const unsigned found = digit;
  __syncthreads();  // the variables may be used again
  return found;
}

// Elements from `begin` to `end` of a row that come up to the bar: f(i, place, last), with their place in order of
// position and whether it is the one of the wanted rank. `less` and `equal` of those sides came before. All threads of
// the block call.
template <bool only_last, class T, class F>
__device__ __forceinline__ void each_selected(const T* x, std::int64_t begin, std::int64_t end, bool descending,
                                              const Bar<T>& bar, std::int64_t less, std::int64_t equal, const F& f) {
  __shared__ std::int64_t slots[kWarp];
  for (std::int64_t tile = begin; tile < end && (!only_last || equal < bar.equal); tile += kEachThreads) {
    const std::int64_t i = tile + threadIdx.x;
    const word_t<T> key = i < end ? key_of(x[i], descending) : bar.key;
    const bool is_less = i < end && key < bar.key, is_equal = i < end && key == bar.key;
    std::int64_t total;  // both counts in one sum
    const std::int64_t counts = exclusive_sum((is_less ? std::int64_t{1} << 32 : 0) + (is_equal ? 1 : 0), slots, total);
    const std::int64_t less_before = less + (counts >> 32), equal_before = equal + (counts & 0xffffffff);
    if (is_less || (is_equal && equal_before < bar.equal))
      f(i, less_before + (equal_before < bar.equal ? equal_before : bar.equal),
        is_equal && equal_before == bar.equal - 1);
    less += total >> 32;
    equal += total & 0xffffffff;
  }
}

// ---- a block for each row -------------------------------------------------------------------------------------------

// All threads of the block call.
template <class T>
__device__ Bar<T> bar_of_rank(const T* x, std::int64_t n, std::int64_t rank, bool descending) {
  using K = word_t<T>;
  __shared__ unsigned long long count[kDigits];
  K prefix = 0;
  for (int digit = 0; digit < static_cast<int>(sizeof(K)); ++digit) {
    const K known = first_digits<K>(digit);
    const int shift = shift_of<K>(digit);
    count[threadIdx.x] = 0;
    __syncthreads();
#pragma unroll 4
    for (std::int64_t i = threadIdx.x; i < n; i += kEachThreads) {
      const K key = key_of(x[i], descending);
      if (static_cast<K>(key & known) == prefix) atomicAdd(&count[digit_of(key, shift)], 1ull);
    }
    __syncthreads();
    const unsigned found = digit_of_rank(static_cast<std::int64_t>(count[threadIdx.x]), rank);
    prefix = static_cast<K>(prefix | static_cast<K>(static_cast<K>(found) << shift));
  }
  return {prefix, rank + 1};
}

// ---- long rows, each divided among blocks ---------------------------------------------------------------------------

constexpr std::int64_t kSelectPart = 16 * kEachThreads;

template <class T>
struct Selection {
  const T* x;
  std::int64_t rows, n, rank;
  bool descending, nan_first;
  std::int64_t part, parts;  // elements of a block, blocks of a row
  unsigned* counts;          // [digits of a key, rows, kDigits], zeros at first
  unsigned* nan;             // [rows]: n less the position of the first NaN, or 0; only if nan_first
  std::int64_t* sides;       // [rows, parts]: elements before the bar << 32 | elements equal to it

  static constexpr int kPasses = static_cast<int>(sizeof(word_t<T>));

  __device__ __forceinline__ unsigned* counts_of(int digit, std::int64_t row) const {
    return counts + (digit * rows + row) * kDigits;
  }
  // What the counts of the first `digits` digits tell; all of them give the bar.
  __device__ Bar<T> bar(std::int64_t row, int digits) const {
    using K = word_t<T>;
    K prefix = 0;
    std::int64_t left = rank;
    for (int digit = 0; digit < digits; ++digit) {
      const unsigned found = digit_of_rank(counts_of(digit, row)[threadIdx.x], left);
      prefix = static_cast<K>(prefix | static_cast<K>(static_cast<K>(found) << shift_of<K>(digit)));
    }
    return {prefix, left + 1};
  }
};

// This block's elements.
template <class T>
struct SelectionPart {
  std::int64_t row, begin, end;
  const T* x;
  __device__ explicit SelectionPart(const Selection<T>& s)
      : row(blockIdx.x / s.parts),
        begin(blockIdx.x % s.parts * s.part),
        end(begin + s.part < s.n ? begin + s.part : s.n),
        x(s.x + row * s.n) {}
};

// Counts one digit of the keys that begin with the digits known before.
template <class T>
__global__ void __launch_bounds__(kEachThreads) count_next_digit(const __grid_constant__ Selection<T> s, int digit) {
  using K = word_t<T>;
  __shared__ unsigned count[kDigits];
  const SelectionPart<T> mine(s);
  const K prefix = s.bar(mine.row, digit).key, known = first_digits<K>(digit);
  const int shift = shift_of<K>(digit);
  count[threadIdx.x] = 0;
  __syncthreads();
  unsigned nan = 0;
#pragma unroll 4
  for (std::int64_t i = mine.begin + threadIdx.x; i < mine.end; i += kEachThreads) {
    const K key = key_of(mine.x[i], s.descending);
    if (static_cast<K>(key & known) == prefix) atomicAdd(&count[digit_of(key, shift)], 1u);
    if (digit == 0 && s.nan_first && nan == 0 && is_nan(mine.x[i])) nan = static_cast<unsigned>(s.n - i);
  }
  __syncthreads();
  if (count[threadIdx.x] > 0) atomicAdd(s.counts_of(digit, mine.row) + threadIdx.x, count[threadIdx.x]);
  if (nan > 0) atomicMax(s.nan + mine.row, nan);
}

template <class T>
__global__ void __launch_bounds__(kEachThreads) count_sides(const __grid_constant__ Selection<T> s) {
  __shared__ std::int64_t slots[kWarp];
  const SelectionPart<T> mine(s);
  const word_t<T> bar = s.bar(mine.row, s.kPasses).key;
  std::int64_t sides = 0, total;
#pragma unroll 4
  for (std::int64_t i = mine.begin + threadIdx.x; i < mine.end; i += kEachThreads) {
    const word_t<T> key = key_of(mine.x[i], s.descending);
    sides += (key < bar ? std::int64_t{1} << 32 : 0) + (key == bar ? 1 : 0);
  }
  exclusive_sum(sides, slots, total);
  if (threadIdx.x == 0) s.sides[blockIdx.x] = total;
}

// out(row, i, place, last); where nan_first finds one, the first NaN of the row is the last element.
template <bool only_last, class T, class Out>
__global__ void __launch_bounds__(kEachThreads)
    collect_selected(const __grid_constant__ Selection<T> s, const __grid_constant__ Out out) {
  const SelectionPart<T> mine(s);
  if (s.nan_first && s.nan[mine.row] > 0) {
    if (mine.begin == 0 && threadIdx.x == 0) out(mine.row, s.n - s.nan[mine.row], 0, true);
    return;
  }
  const Bar<T> bar = s.bar(mine.row, s.kPasses);
  const std::int64_t before = s.sides[blockIdx.x] - s.sides[mine.row * s.parts];
  each_selected<only_last>(mine.x, mine.begin, mine.end, s.descending, bar, before >> 32, before & 0xffffffff,
                           [&](std::int64_t i, std::int64_t place, bool last) { out(mine.row, i, place, last); });
}

// Whether rows of n elements are worth dividing, and few enough elements to count in 32 bits.
[[maybe_unused]] bool divides_rows(std::int64_t rows, std::int64_t n) {
  return n >= 4 * kSelectPart && rows < 2 * multiprocessors() && n < (std::int64_t{1} << 31) / rows;
}

// out(row, i, place, last) for all elements up to `rank` (from 0) in each row, in place's order of position; with
// nan_first only the first NaN of rows that have one. only_last: `out` asks for the last alone.
template <bool only_last, class T, class Out>
void select_divided(const T* x, std::int64_t rows, std::int64_t n, std::int64_t rank, bool descending, bool nan_first,
                    const Out& out) {
  const std::int64_t most = static_cast<std::int64_t>(8) * multiprocessors() / rows;
  std::int64_t part = ceil_div(n, most < 1 ? 1 : most);
  part = part < kSelectPart ? kSelectPart : ceil_div(part, kEachThreads) * std::int64_t{kEachThreads};
  const std::int64_t parts = ceil_div(n, part), counts = Selection<T>::kPasses * rows * kDigits;
  const Scratch<unsigned> memory(counts + rows);
  const Scratch<std::int64_t> sides(rows * parts);
  fill_bytes(memory.get(), 0, static_cast<std::size_t>(counts + rows) * sizeof(unsigned));
  const Selection<T> s{
      x, rows, n, rank, descending, nan_first, part, parts, memory.get(), memory.get() + counts, sides.get()};
  const auto blocks = static_cast<unsigned>(rows * parts);
  for (int digit = 0; digit < s.kPasses; ++digit) launch(count_next_digit<T>, blocks, kEachThreads, 0, s, digit);
  launch(count_sides<T>, blocks, kEachThreads, 0, s);
  exclusive_sums(sides.get(), sides.get(), rows * parts, nullptr);
  launch(collect_selected<only_last, T, Out>, blocks, kEachThreads, 0, s, out);
}

}  // namespace
}  // namespace pydlx::cuda
