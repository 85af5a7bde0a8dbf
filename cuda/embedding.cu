// Table look-ups, sums of them, their gradients by sorting, one-hot rows.
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/faults.h"
#include "cuda/runtime/pack.cuh"
#include "cuda/sort/radix.cuh"
#include "cuda/sort/runs.cuh"
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
  Divider by_words;
  FaultReport* faults;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const auto [i, c] = by_words(e);
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
  for_each(k.n * words, LookUp<W>{static_cast<const W*>(k.weight), k.index, static_cast<W*>(k.out), k.rows, words,
                                  Divider(words, k.n * words), fault_report()});
  return true;
}

std::int64_t forward(const EmbeddingForward& k) {
  look_up<Word16>(k) || look_up<std::uint32_t>(k) || look_up<std::uint8_t>(k);
  return -1;
}

// ---- sums of rows ---------------------------------------------------------------------------------------------------

// Whether rows of so many elements at these addresses can be taken in packs of 16 bytes.
template <class T>
bool in_packs(std::int64_t cols, const void* a, const void* b) {
  return cols % (16 / static_cast<std::int64_t>(sizeof(T))) == 0 &&
         (reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b)) % 16 == 0;
}

// One thread per bag, part of its indices and V columns: out[bag, part] = the sum of the rows over the divisor.
template <class T, class Out, int V>
struct SumBag {
  EmbeddingBag k;
  Out* out;
  std::int64_t parts, longest;  // indices of a part
  compute_t<T> divisor;
  FaultReport* faults;
  Divider by_packs, by_parts;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const auto [line, c] = by_packs(e);
    const auto [bag, part] = by_parts(line);
    const std::int64_t last = (part + 1) * longest < k.length ? (part + 1) * longest : k.length;
    const T* const weight = static_cast<const T*>(k.weight) + c * V;
    compute_t<T> sum[V] = {};
#pragma unroll 2
    for (std::int64_t i = part * longest; i < last; ++i) {
      const std::int64_t row = k.index[bag * k.length + i];
      if (static_cast<std::uint64_t>(row) >= static_cast<std::uint64_t>(k.rows)) {
        if (c == 0) report(faults, Fault::index, bag * k.length + i);
        continue;
      }
      const Pack<T, V> x = get<T, V>(weight + row * k.cols);
#pragma unroll
      for (int l = 0; l < V; ++l) sum[l] += static_cast<compute_t<T>>(x.v[l]);
    }
    Pack<Out, V> y;
#pragma unroll
    for (int l = 0; l < V; ++l) y.v[l] = static_cast<Out>(sum[l] / divisor);
    put(out + e * V, y);
  }
};

template <class T>
struct SumParts {
  const compute_t<T>* part;
  T* out;
  std::int64_t parts, cols;
  compute_t<T> divisor;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const auto [bag, c] = divide(e, cols);
    compute_t<T> sum = 0;
    for (std::int64_t i = 0; i < parts; ++i) sum += part[(bag * parts + i) * cols + c];
    out[e] = static_cast<T>(sum / divisor);
  }
};

template <class T, class Out>
void sum_bags(const EmbeddingBag& k, Out* out, std::int64_t parts, std::int64_t longest, compute_t<T> divisor) {
  const auto sum = [&]<int V>() {
    const std::int64_t packs = k.cols / V, n = k.bags * parts * packs;
    for_each(n,
             SumBag<T, Out, V>{k, out, parts, longest, divisor, fault_report(), Divider(packs, n), Divider(parts, n)});
  };
  in_packs<T>(k.cols, k.weight, out) ? sum.template operator()<16 / static_cast<int>(sizeof(T))>()
                                     : sum.template operator()<1>();
}

template <class T>
std::int64_t bag(const EmbeddingBag& k) {
  using A = compute_t<T>;
  constexpr std::int64_t kPart = 256, kEnough = 1 << 16;  // few long bags are cut into parts, by the shape alone
  const A divisor = static_cast<A>(k.mean ? k.length : 1);
  if (k.length < 2 * kPart || k.bags * k.cols >= kEnough) {
    sum_bags<T>(k, static_cast<T*>(k.out), 1, k.length, divisor);
    return -1;
  }
  const std::int64_t parts = (k.length + kPart - 1) / kPart;
  const Scratch<A> sums(checked_mul(k.bags * parts, k.cols, "embedding_bag"));
  sum_bags<T>(k, sums.get(), parts, kPart, A(1));
  for_each(k.bags * k.cols, SumParts<T>{sums.get(), static_cast<T*>(k.out), parts, k.cols, divisor});
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

// Rows of the gradient, a table row's in order of occurrence; a line is V columns.
template <class T, class K, int V>
struct GradientRows {
  using Key = K;
  using A = compute_t<T>;
  using Value = Pack<A, V>;
  EmbeddingBackward k;
  const K* key;
  const std::uint32_t* at;
  std::int64_t count, lines;

  struct Place {
    T* out;
    const T* dy;
    std::int64_t cols;
    A factor;
    __device__ __forceinline__ Value old() const { return {}; }
    __device__ __forceinline__ Value read(std::uint32_t i) const {
      const Pack<T, V> x = get<T, V>(dy + i * cols);
      Value v;
#pragma unroll
      for (int l = 0; l < V; ++l) v.v[l] = static_cast<A>(x.v[l]) * factor;
      return v;
    }
    __device__ __forceinline__ Value combine(Value a, const Value& b) const {
#pragma unroll
      for (int l = 0; l < V; ++l) a.v[l] += b.v[l];
      return a;
    }
    __device__ __forceinline__ void write(const Value& v) const {
      Pack<T, V> x;
#pragma unroll
      for (int l = 0; l < V; ++l) x.v[l] = static_cast<T>(v.v[l]);
      put(out, x);
    }
  };
  __device__ __forceinline__ bool wanted(K v) const {
    return static_cast<std::int64_t>(v) < k.rows && static_cast<std::int64_t>(v) != k.padding_index;
  }
  __device__ __forceinline__ Place place(K v, std::int64_t line, std::int64_t length) const {
    return {static_cast<T*>(k.dweight) + static_cast<std::int64_t>(v) * k.cols + line * V,
            static_cast<const T*>(k.dy) + line * V, k.cols, k.by_frequency ? A(1) / static_cast<A>(length) : A(1)};
  }
};

// One thread per table row and V columns: zeros where there is nothing to add. Long runs are left to others.
template <class T, class K, int V>
struct SumRows {
  GradientRows<T, K, V> p;
  Divider lines;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const auto [v, line] = lines(e);
    const std::int64_t first = p.k.start[v], last = v == p.k.padding_index ? first : p.k.start[v + 1];
    if (last - first > kShortRun) return;
    const auto place = p.place(static_cast<K>(v), line, last - first);
    auto sum = place.old();
#pragma unroll 4
    for (std::int64_t j = first; j < last; ++j) sum = place.combine(sum, place.read(p.at[j]));
    place.write(sum);
  }
};

template <class T, class K, int V>
void sum_rows(const EmbeddingBackward& k, const RadixSort<K>& sort) {
  const std::int64_t packs = k.cols / V;
  const GradientRows<T, K, V> p{k, sort.keys(), sort.at(), k.n, packs};
  for_each(k.rows * packs, SumRows<T, K, V>{p, Divider(packs, k.rows * packs)});
  combine_long_runs(p);
}

template <class T, class K>
void sum_sorted(const EmbeddingBackward& k) {
  RadixSort<K> sort(1, k.n);
  for_each(k.n, RowKeys<K>{k.index, k.rows, sort.keys()});
  sort.run(bits_below(k.rows + 1));
  for_each(k.rows + 1, Starts<K>{sort.keys(), k.n, k.start});
  constexpr int V = 16 / static_cast<int>(sizeof(T));
  in_packs<T>(k.cols, k.dy, k.dweight) ? sum_rows<T, K, V>(k, sort) : sum_rows<T, K, 1>(k, sort);
}

template <class T>
void backward(const EmbeddingBackward& k) {
  require(k.n < (std::int64_t{1} << 32), "embedding_backward", "input", ErrorKind::Value,
          "expected fewer than 2^32 indices on a GPU, got ", k.n);
  if (k.n == 0)
    fill_bytes(k.dweight, 0, static_cast<std::size_t>(k.rows * k.cols) * sizeof(T));
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
  fill_bytes(k.out, 0, static_cast<std::size_t>(k.n) * static_cast<std::size_t>(k.classes) * sizeof(std::int64_t));
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
  each_type(FloatTypes{}, [&]<class T>() {
    k.backward[idx<T>] = backward<T>;
    k.bag[idx<T>] = bag<T>;
  });
}

}  // namespace pydlx::cuda
