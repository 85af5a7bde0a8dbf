// Sorting, selection, searching and counting.
#include "cuda/runtime/faults.h"
#include "cuda/sort/rows.cuh"
#include "cuda/sort/runs.cuh"
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

template <class T>
struct WriteKth {
  Sort s;
  __device__ __forceinline__ void operator()(std::int64_t row, std::int64_t i, std::int64_t, bool last) const {
    if (!last) return;
    s.index[row] = i;
    static_cast<T*>(s.values)[row] = static_cast<const T*>(s.in)[row * s.n + i];
  }
};

// One block per row, in turns.
template <class T>
__global__ void __launch_bounds__(kEachThreads) kth(const __grid_constant__ Sort s) {
  __shared__ long long nan;
  const WriteKth<T> out{s};
  for (std::int64_t row = blockIdx.x; row < s.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(s.in) + row * s.n;
    if (threadIdx.x == 0) nan = INT64_MAX;
    __syncthreads();
    if (s.nan_first) {
      for (std::int64_t i = threadIdx.x; i < s.n; i += kEachThreads)
        if (is_nan(x[i])) {
          atomicMin(&nan, static_cast<long long>(i));
          break;
        }
      __syncthreads();
    }
    if (nan != INT64_MAX) {
      if (threadIdx.x == 0) out(row, nan, 0, true);
    } else {
      each_selected<true>(x, 0, s.n, s.descending, bar_of_rank(x, s.n, s.k, s.descending), 0, 0,
                          [&](std::int64_t i, std::int64_t place, bool last) { out(row, i, place, last); });
    }
    __syncthreads();  // all have read what the next row changes
  }
}
template <class T>
void kth_entry(const Sort& s) {
  if (s.rows <= 0 || s.n <= 0) return;
  if (divides_rows(s.rows, s.n))
    select_divided<true>(static_cast<const T*>(s.in), s.rows, s.n, s.k, s.descending, s.nan_first, WriteKth<T>{s});
  else
    launch(kth<T>, grid_for(s.rows, 32), kEachThreads, 0, s);
}

template <class T>
struct Search {
  SearchSorted s;
  Divider by_row;
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    const std::int64_t row = s.sorted_rows == 1 ? 0 : by_row(i).quotient;
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
  for_each(s.rows * s.m, Search<T>{s, Divider(s.m, s.rows * s.m)});
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
// Bins that fit into shared memory: every block counts for itself, so that a bin that many fall into does not have all
// of them wait for one address.
constexpr std::int64_t kFewBins = 8192;
__global__ void __launch_bounds__(kEachThreads) count_few(const __grid_constant__ Bincount b, FaultReport* faults) {
  unsigned* const counts = dynamic_shared<unsigned>();
  const int bins = static_cast<int>(b.bins), thread = static_cast<int>(threadIdx.x);
  for (int v = thread; v < bins; v += kEachThreads) counts[v] = 0;
  __syncthreads();
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kEachThreads;
#pragma unroll 4
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kEachThreads + thread; i < b.n; i += step) {
    const std::int64_t v = b.in[i];
    if (v < 0 || v >= bins)
      report(faults, Fault::index, i);
    else
      atomicAdd(counts + v, 1u);
  }
  __syncthreads();
  for (int v = thread; v < bins; v += kEachThreads)
    if (counts[v] > 0)
      atomicAdd(static_cast<unsigned long long*>(b.out) + v, static_cast<unsigned long long>(counts[v]));
}

std::int64_t count(const Bincount& b) {
  if (b.bins > kFewBins)
    for_each(b.n, Count{b, fault_report()});
  else if (b.n > 0)
    launch(count_few, grid_for(ceil_div(b.n, std::int64_t{16} * kEachThreads), 4), kEachThreads,
           static_cast<std::size_t>(b.bins) * sizeof(unsigned), b, fault_report());
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
template <class W>
struct BinWeights {
  using Key = std::uint64_t;
  using Value = W;
  Bincount b;
  const std::uint64_t* key;
  const std::uint32_t* at;
  std::int64_t count, lines = 1;

  struct Place {
    W* out;
    const W* weights;
    __device__ __forceinline__ W old() const { return *out; }
    __device__ __forceinline__ W read(std::uint32_t i) const { return weights[i]; }
    __device__ __forceinline__ W combine(W x, W y) const { return x + y; }
    __device__ __forceinline__ void write(W v) const { *out = v; }
  };
  __device__ __forceinline__ bool wanted(std::uint64_t bin) const { return bin != static_cast<std::uint64_t>(b.bins); }
  __device__ __forceinline__ Place place(std::uint64_t bin, std::int64_t, std::int64_t) const {
    return {static_cast<W*>(b.out) + bin, static_cast<const W*>(b.weights)};
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
  combine_runs(BinWeights<W>{b, sort.keys(), sort.at(), b.n});
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
