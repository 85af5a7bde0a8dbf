// Sorting and selecting along rows. Rows of up to kShort elements are sorted in shared memory by a bitonic network
// (Batcher 1968) over (key, position) items, which all differ; longer ones by radix sort. The first few of a long row
// are selected, then sorted.
#pragma once
#include "cuda/sort/select.cuh"

namespace pydlx::cuda {
namespace {

constexpr int kShort = 2048;

// Rows to be sorted: n items of every row of x, which has `stride` elements; item i is element at[row * n + i], or i.
template <class T>
struct RowsToSort {
  const T* x;
  const std::uint32_t* at;
  std::int64_t rows, stride, n;
  std::int64_t keep;  // leading results wanted
  bool descending;
  T* values;  // [rows, keep], or null
  std::int64_t* index;

  __device__ __forceinline__ std::int64_t element(std::int64_t row, std::int64_t i) const {
    return at ? at[row * n + i] : i;
  }
  __device__ __forceinline__ void write(std::int64_t row, std::int64_t rank, std::int64_t i) const {
    const std::int64_t e = element(row, i);
    index[row * keep + rank] = e;
    if (values) values[row * keep + rank] = x[row * stride + e];
  }
};

// ---- short rows -----------------------------------------------------------------------------------------------------

using NarrowItem = std::uint64_t;  // key << 32 | position
struct WideItem {
  std::uint64_t key, at;
};
__device__ __forceinline__ bool before(NarrowItem a, NarrowItem b) { return a < b; }
__device__ __forceinline__ bool before(const WideItem& a, const WideItem& b) {
  return a.key < b.key || (a.key == b.key && a.at < b.at);
}
__device__ __forceinline__ std::int64_t item_place(NarrowItem a) { return static_cast<std::int64_t>(a & 0xffffffffu); }
__device__ __forceinline__ std::int64_t item_place(const WideItem& a) { return static_cast<std::int64_t>(a.at); }
template <int bytes>
struct ItemOf {
  using type = NarrowItem;
};
template <>
struct ItemOf<8> {
  using type = WideItem;
};

// A block sorts `group` rows, each in `width` items, a power of two.
template <class T>
__global__ void __launch_bounds__(kEachThreads)
    sort_short(const __grid_constant__ RowsToSort<T> s, int width, int group) {
  using Item = typename ItemOf<sizeof(T)>::type;
  __shared__ Item items[kShort];
  const int total = width * group, threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * group;
  for (int j = thread; j < total; j += threads) {
    const std::int64_t row = first_row + j / width;
    const int i = j % width;
    Item item;
    if (row < s.rows && i < s.n) {
      const word_t<T> key = key_of(s.x[row * s.stride + s.element(row, i)], s.descending);
      if constexpr (sizeof(T) == 8)
        item = {key, static_cast<std::uint64_t>(i)};
      else
        item = static_cast<NarrowItem>(key) << 32 | static_cast<NarrowItem>(i);
    } else {
      if constexpr (sizeof(T) == 8)
        item = {~std::uint64_t{0}, ~std::uint64_t{0}};
      else
        item = ~NarrowItem{0};  // behind every element
    }
    items[j] = item;
  }
  __syncthreads();
  for (int size = 2; size <= width; size *= 2)
    for (int step = size / 2; step > 0; step /= 2) {
      for (int j = thread; j < total / 2; j += threads) {
        const int i = 2 * j - (j & (step - 1));
        const bool up = size == width || (i & size) == 0;
        const Item a = items[i], b = items[i + step];
        if (before(b, a) == up) {
          items[i] = b;
          items[i + step] = a;
        }
      }
      __syncthreads();
    }
  for (int j = thread; j < total; j += threads) {
    const std::int64_t row = first_row + j / width;
    const int rank = j % width;
    if (row < s.rows && rank < s.keep) s.write(row, rank, item_place(items[j]));
  }
}

// ---- long rows ------------------------------------------------------------------------------------------------------

template <class T>
using radix_t = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;

template <class T>
struct WriteKeys {
  RowsToSort<T> s;
  radix_t<T>* keys;
  Divider by_row;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const auto [row, i] = by_row(e);
    keys[e] = key_of(s.x[row * s.stride + s.element(row, i)], s.descending);
  }
};
template <class T>
struct WriteSorted {
  RowsToSort<T> s;
  const std::uint32_t* order;
  Divider by_row;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const auto [row, rank] = by_row(e);
    s.write(row, rank, order[row * s.n + rank]);
  }
};

template <class T>
void sort_rows(const RowsToSort<T>& s) {
  if (s.rows <= 0 || s.n <= 0 || s.keep <= 0) return;
  if (s.n <= kShort) {
    int width = 2;
    while (width < s.n) width *= 2;
    // Short rows share a block, as long as there are blocks for the whole device.
    std::int64_t group = s.rows / (std::int64_t{4} * multiprocessors());
    group = group < 1 ? 1 : group < kShort / width ? group : kShort / width;
    const std::int64_t pairs = width * group / 2;
    const unsigned threads = pairs >= kEachThreads ? kEachThreads
                             : pairs <= kWarp      ? kWarp
                                                   : ceil_div(pairs, kWarp) * kWarp;
    launch(sort_short<T>, ceil_div(s.rows, group), threads, 0, s, width, static_cast<int>(group));
    return;
  }
  RadixSort<radix_t<T>> sort(s.rows, s.n);
  for_each(s.rows * s.n, WriteKeys<T>{s, sort.keys(), Divider(s.n, s.rows * s.n)});
  sort.run(8 * static_cast<int>(sizeof(T)));
  for_each(s.rows * s.keep, WriteSorted<T>{s, sort.at(), Divider(s.keep, s.rows * s.keep)});
}

// ---- selection ------------------------------------------------------------------------------------------------------

struct WritePlaces {
  std::uint32_t* at;
  std::int64_t keep;
  __device__ __forceinline__ void operator()(std::int64_t row, std::int64_t i, std::int64_t place, bool) const {
    at[row * keep + place] = static_cast<std::uint32_t>(i);
  }
};

// Positions of the first elements in sorted order, ascending. One block per row, in turns.
template <class T>
__global__ void __launch_bounds__(kEachThreads) select_first(const T* data, std::int64_t rows, std::int64_t n,
                                                             bool descending, const __grid_constant__ WritePlaces out) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* x = data + row * n;
    const Bar<T> bar = bar_of_rank(x, n, out.keep - 1, descending);
    each_selected<false>(x, 0, n, descending, bar, 0, 0,
                         [&](std::int64_t i, std::int64_t place, bool last) { out(row, i, place, last); });
  }
}

template <class T>
void topk_rows(const RowsToSort<T>& s) {
  if (s.rows <= 0 || s.keep <= 0) return;
  if (s.n <= kShort || s.keep * 2 > s.n) return sort_rows(s);
  const Scratch<std::uint32_t> at(s.rows * s.keep);
  const WritePlaces out{at.get(), s.keep};
  if (divides_rows(s.rows, s.n))
    select_divided<false>(s.x, s.rows, s.n, s.keep - 1, s.descending, false, out);
  else
    launch(select_first<T>, grid_for(s.rows, 32), kEachThreads, 0, s.x, s.rows, s.n, s.descending, out);
  RowsToSort<T> candidates = s;
  candidates.at = at.get();
  candidates.n = s.keep;
  sort_rows(candidates);
}

}  // namespace
}  // namespace pydlx::cuda
