// Table look-ups, their gradients by sorting, one-hot rows.
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/faults.h"
#include "cuda/sort/radix.cuh"
#include "functors/types.h"
#include "kernels/embedding.h"

namespace pydlx::cuda {
namespace {

using functors::compute_t;

struct alignas(16) Word16 {
  std::uint64_t v[2];
};

// ---- look-up --------------------------------------------------------------------------------------------------------

template <class W>
struct LookUp {
  const W* weight;
  const std::int64_t* index;
  W* out;
  std::int64_t rows, words;  // words of W in a row
  FaultReport* faults;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const auto [i, c] = divide(e, words);
    const std::int64_t v = index[i];
    if (v < 0 || v >= rows) {
      if (c == 0) report(faults, Fault::index, i);
      out[e] = W{};
    } else {
      out[e] = weight[v * words + c];
    }
  }
};

template <class W>
bool look_up(const EmbeddingForward& k) {
  if (k.row_bytes % static_cast<std::int64_t>(sizeof(W)) != 0 ||
      reinterpret_cast<std::uintptr_t>(k.weight) % sizeof(W) || reinterpret_cast<std::uintptr_t>(k.out) % sizeof(W))
    return false;
  const std::int64_t words = k.row_bytes / static_cast<std::int64_t>(sizeof(W));
  for_each(k.n * words,
           LookUp<W>{static_cast<const W*>(k.weight), k.index, static_cast<W*>(k.out), k.rows, words, fault_report()});
  return true;
}

std::int64_t forward(const EmbeddingForward& k) {
  look_up<Word16>(k) || look_up<std::uint32_t>(k) || look_up<std::uint8_t>(k);
  return -1;
}

// ---- gradient -------------------------------------------------------------------------------------------------------

template <class K>
struct RowKeys {
  const std::int64_t* index;
  std::int64_t rows;
  K* key;
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    const std::int64_t v = index[i];
    key[i] = static_cast<K>(v < 0 || v >= rows ? rows : v);  // what lies outside the table is sorted behind it
  }
};

// start[v] = the first of the sorted keys that is not below v, v = 0 .. rows.
template <class K>
struct Starts {
  const K* key;
  std::int64_t n;
  std::int64_t* start;
  __device__ __forceinline__ void operator()(std::int64_t v) const {
    std::int64_t low = 0, high = n;
    while (low < high) {
      const std::int64_t mid = low + (high - low) / 2;
      if (static_cast<std::int64_t>(key[mid]) < v)
        low = mid + 1;
      else
        high = mid;
    }
    start[v] = low;
  }
};

// One thread per table row and V columns, which adds in order of occurrence.
template <class T, int V>
struct SumRows {
  struct alignas(sizeof(T) * V) Pack {
    T v[V];
  };
  EmbeddingBackward k;
  const std::uint32_t* order;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    using A = compute_t<T>;
    const std::int64_t packs = k.cols / V;
    const auto [v, c] = divide(e, packs);
    const std::int64_t first = k.start[v], last = v == k.padding_index ? first : k.start[v + 1];
    const A factor = k.by_frequency ? A(1) / static_cast<A>(last - first) : A(1);
    A sum[V] = {};
    const Pack* dy = static_cast<const Pack*>(k.dy) + c;
#pragma unroll 4
    for (std::int64_t j = first; j < last; ++j) {
      const Pack x = dy[order[j] * packs];
#pragma unroll
      for (int l = 0; l < V; ++l) sum[l] += static_cast<A>(x.v[l]) * factor;
    }
    Pack out;
#pragma unroll
    for (int l = 0; l < V; ++l) out.v[l] = static_cast<T>(sum[l]);
    static_cast<Pack*>(k.dweight)[e] = out;
  }
};

template <class T, class K>
void sum_sorted(const EmbeddingBackward& k) {
  RadixSort<K> sort(1, k.n);
  for_each(k.n, RowKeys<K>{k.index, k.rows, sort.keys()});
  sort.run(bits_below(k.rows + 1));
  for_each(k.rows + 1, Starts<K>{sort.keys(), k.n, k.start});
  constexpr int V = 16 / static_cast<int>(sizeof(T));
  const bool aligned = (reinterpret_cast<std::uintptr_t>(k.dy) | reinterpret_cast<std::uintptr_t>(k.dweight)) % 16 == 0;
  if (aligned && k.cols % V == 0)
    for_each(k.rows * (k.cols / V), SumRows<T, V>{k, sort.at()});
  else
    for_each(k.rows * k.cols, SumRows<T, 1>{k, sort.at()});
}

template <class T>
void backward(const EmbeddingBackward& k) {
  require(k.n < (std::int64_t{1} << 32), "embedding_backward", "input", ErrorKind::Value,
          "expected fewer than 2^32 indices on a GPU, got ", k.n);
  if (k.n == 0)
    check(cudaMemsetAsync(k.dweight, 0, static_cast<std::size_t>(k.rows * k.cols) * sizeof(T), current_stream().handle),
          "cudaMemsetAsync");
  else if (k.rows < (std::int64_t{1} << 32) - 1)
    sum_sorted<T, std::uint32_t>(k);
  else
    sum_sorted<T, std::uint64_t>(k);
}

// ---- one-hot --------------------------------------------------------------------------------------------------------

struct SetOne {
  OneHot k;
  FaultReport* faults;
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    const std::int64_t v = k.index[i];
    if (v < 0 || v >= k.classes)
      report(faults, Fault::index, i);
    else
      k.out[i * k.classes + v] = 1;
  }
};
std::int64_t one_hot(const OneHot& k) {
  const std::size_t bytes = static_cast<std::size_t>(k.n) * static_cast<std::size_t>(k.classes) * sizeof(std::int64_t);
  if (bytes > 0) check(cudaMemsetAsync(k.out, 0, bytes, current_stream().handle), "cudaMemsetAsync");
  for_each(k.n, SetOne{k, fault_report()});
  return -1;
}

// A maximum of integers is the same in any order.
struct TakeLargest {
  const std::int64_t* index;
  std::int64_t n, threads;
  long long* top;
  __device__ __forceinline__ void operator()(std::int64_t t) const {
    long long best = INT64_MIN;
    for (std::int64_t i = t; i < n; i += threads) best = index[i] > best ? index[i] : best;
    atomicMax(top, best);
  }
};
struct SetSmallest {
  long long* top;
  __device__ __forceinline__ void operator()(std::int64_t) const { *top = INT64_MIN; }
};
std::int64_t largest(const OneHot& k) {
  const Scratch<long long> top(1);
  for_each(1, SetSmallest{top.get()});
  const std::int64_t threads = k.n < 16384 ? k.n : 16384;
  for_each(threads, TakeLargest{k.index, k.n, threads, top.get()});
  return read_back(top.get());
}

}  // namespace

void register_embedding(KernelTable& t) {
  EmbeddingKernels& k = family<EmbeddingKernels>(t);
  k.forward = forward;
  k.one_hot = one_hot;
  k.largest = largest;
  each_type(FloatTypes{}, [&]<class T>() { k.backward[idx<T>] = backward<T>; });
}

}  // namespace pydlx::cuda
