// Sorting, selection, searching and counting.
#include "cuda/runtime/faults.h"
#include "cuda/sort/rows.cuh"
#include "kernels/sort.h"

namespace pydlx::cuda {
namespace {

template <class T>
RowsToSort<T> rows_of(const Sort& s, std::int64_t keep) {
  return {static_cast<const T*>(s.in), nullptr, s.rows, s.n, s.n, keep, s.descending,
          static_cast<T*>(s.values),   s.index};
}

template <class T>
void sort_entry(const Sort& s) {
  sort_rows(rows_of<T>(s, s.n));
}
template <class T>
void topk_entry(const Sort& s) {
  topk_rows(rows_of<T>(s, s.k));
}

// One block per row, in turns.
template <class T>
__global__ void __launch_bounds__(kEachThreads) kth(const __grid_constant__ Sort s) {
  __shared__ long long found;
  __shared__ std::int64_t slots[kWarp];
  for (std::int64_t row = blockIdx.x; row < s.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(s.in) + row * s.n;
    if (threadIdx.x == 0) found = INT64_MAX;
    __syncthreads();
    if (s.nan_first) {
      for (std::int64_t i = threadIdx.x; i < s.n; i += kEachThreads)
        if (is_nan(x[i])) {
          atomicMin(&found, static_cast<long long>(i));
          break;
        }
      __syncthreads();
    }
    if (found == INT64_MAX) {
      std::int64_t equal, seen = 0;
      const word_t<T> key = key_of_rank(x, s.n, s.k, s.descending, equal);
      for (std::int64_t tile = 0; tile < s.n && seen < equal; tile += kEachThreads) {
        const std::int64_t i = tile + threadIdx.x;
        const bool same = i < s.n && key_of(x[i], s.descending) == key;
        std::int64_t total;
        const std::int64_t earlier = seen + exclusive_sum<std::int64_t>(same ? 1 : 0, slots, total);
        if (same && earlier == equal - 1) found = i;
        seen += total;
      }
      __syncthreads();
    }
    if (threadIdx.x == 0) {
      s.index[row] = found;
      static_cast<T*>(s.values)[row] = x[found];
    }
    __syncthreads();  // all have read what the next row changes
  }
}
template <class T>
void kth_entry(const Sort& s) {
  if (s.rows > 0 && s.n > 0) launch(kth<T>, grid_for(s.rows, 32), kEachThreads, 0, s);
}

template <class T>
struct Search {
  SearchSorted s;
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    const std::int64_t row = s.sorted_rows == 1 ? 0 : divide(i, s.m).quotient;
    const T* x = static_cast<const T*>(s.sorted) + row * s.n;
    const std::int64_t* order = s.sorter ? s.sorter + row * s.n : nullptr;
    const word_t<T> v = key_of(static_cast<const T*>(s.values)[i], false);
    std::int64_t low = 0, high = s.n;
    while (low < high) {
      const std::int64_t mid = low + (high - low) / 2;
      const word_t<T> k = key_of(x[order ? order[mid] : mid], false);
      if (s.right ? k <= v : k < v)
        low = mid + 1;
      else
        high = mid;
    }
    s.out[i] = low;
  }
};
template <class T>
void search(const SearchSorted& s) {
  for_each(s.rows * s.m, Search<T>{s});
}

// ---- counting -------------------------------------------------------------------------------------------------------

struct Count {
  Bincount b;
  FaultReport* faults;
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    const std::int64_t v = b.in[i];
    if (v < 0 || v >= b.bins)
      report(faults, Fault::index, i);
    else
      atomicAdd(static_cast<unsigned long long*>(b.out) + v, 1ull);  // of integers: the order does not matter
  }
};
std::int64_t count(const Bincount& b) {
  for_each(b.n, Count{b, fault_report()});
  return -1;
}

struct BinKeys {
  Bincount b;
  std::uint64_t* keys;
  FaultReport* faults;
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    const std::int64_t v = b.in[i];
    const bool bad = v < 0 || v >= b.bins;
    if (bad) report(faults, Fault::index, i);
    keys[i] = static_cast<std::uint64_t>(bad ? b.bins : v);
  }
};
// The first of equal bins adds up all of them, in input order.
template <class W>
struct AddWeights {
  Bincount b;
  const std::uint64_t* keys;
  const std::uint32_t* at;
  __device__ __forceinline__ void operator()(std::int64_t j) const {
    const std::uint64_t bin = keys[j];
    if (bin == static_cast<std::uint64_t>(b.bins) || (j > 0 && keys[j - 1] == bin)) return;
    W sum = static_cast<W*>(b.out)[bin];
    for (std::int64_t q = j; q < b.n && keys[q] == bin; ++q) sum += static_cast<const W*>(b.weights)[at[q]];
    static_cast<W*>(b.out)[bin] = sum;
  }
};
template <class W>
std::int64_t weigh(const Bincount& b) {
  require(b.n < (std::int64_t{1} << 32), "bincount", "input", ErrorKind::Value,
          "expected fewer than 2^32 weighted elements on a GPU, got ", b.n);
  if (b.n <= 0) return -1;
  RadixSort<std::uint64_t> sort(1, b.n);
  for_each(b.n, BinKeys{b, sort.keys(), fault_report()});
  sort.run(bits_below(b.bins + 1));
  for_each(b.n, AddWeights<W>{b, sort.keys(), sort.at()});
  return -1;
}

std::int64_t workspace_bytes(std::int64_t) { return 0; }  // kernels take their own from the stream's cache

}  // namespace

void register_sort(KernelTable& t) {
  SortKernels& s = family<SortKernels>(t);
  s.workspace_bytes = workspace_bytes;
  each_type(AllTypes{}, [&]<class T>() {
    using U = functors::stored_t<T>;
    s.sort[idx<T>] = sort_entry<U>;
    s.topk[idx<T>] = topk_entry<U>;
    s.kth[idx<T>] = kth_entry<U>;
    s.search[idx<T>] = search<U>;
  });
  s.count = count;
  s.weigh[static_cast<int>(DType::Float32)] = weigh<float>;
  s.weigh[static_cast<int>(DType::Float64)] = weigh<double>;
}

}  // namespace pydlx::cuda
