// Gather and scatter along an indexed axis.
//
// Moves of whole rows use the widest words that divide rows and strides. Writes that may meet a place twice keep the
// order of the index: with many lines every line is walked by its own thread; otherwise elements are sorted by the
// place they go to, and one thread per place applies its contributions in order.
#include "cuda/pointwise/loop.cuh"
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/faults.h"
#include "cuda/sort/radix.cuh"
#include "functors/types.h"
#include "kernels/indexing.h"

namespace pydlx::cuda {
namespace {

struct alignas(16) Word16 {
  std::uint64_t v[2];
};

// ---- geometry -------------------------------------------------------------------------------------------------------

// IndexedRows without its pointers' types, and fast division where it is enough.
struct Rows {
  void* self;
  void* dense;
  const std::int64_t* index;
  std::int64_t count, self_size, self_step, dense_step, index_step;
  std::int64_t row, self_row, dense_row, index_row, slices;
  std::int64_t size[kMaxDims], self_stride[kMaxDims], dense_stride[kMaxDims], index_stride[kMaxDims];
  FastDivisor row_divisor, count_divisor, divisor[kMaxDims];
  int ndim;
  bool small;  // fewer than 2^31 elements

  __device__ __forceinline__ void split(std::int64_t e, std::int64_t n, const FastDivisor& d, std::int64_t& quotient,
                                        std::int64_t& rest) const {
    if (small) {
      const auto x = static_cast<std::uint32_t>(e);
      const std::uint32_t q = d.quotient(x);
      quotient = q;
      rest = x - q * d.divisor;
    } else {
      quotient = e / n;
      rest = e - quotient * n;
    }
  }
  // Adds what the slice contributes to the offsets of the operands.
  __device__ __forceinline__ void slice(std::int64_t s, std::int64_t& self_at, std::int64_t& dense_at,
                                        std::int64_t& index_at) const {
    for (int d = 0; d < ndim; ++d) {
      std::int64_t k;
      split(s, size[d], divisor[d], s, k);
      self_at += k * self_stride[d];
      dense_at += k * dense_stride[d];
      index_at += k * index_stride[d];
    }
  }
  // The element of self that the index means, or -1.
  __device__ __forceinline__ std::int64_t place(std::int64_t index_at) const {
    std::int64_t k = index[index_at];
    k += k < 0 ? self_size : 0;
    return static_cast<std::uint64_t>(k) < static_cast<std::uint64_t>(self_size) ? k : -1;
  }
};

// `word` elements are moved as one.
Rows rows_of(const IndexedRows& a, std::int64_t word = 1) {
  Rows r;
  r.self = a.self;
  r.dense = a.dense;
  r.index = a.index;
  r.count = a.count;
  r.self_size = a.self_size;
  r.self_step = a.self_step / word;
  r.dense_step = a.dense_step / word;
  r.index_step = a.index_step;
  r.row = a.row / word;
  r.self_row = a.self_row;
  r.dense_row = a.dense_row;
  r.index_row = a.index_row;
  r.slices = a.slices;
  r.ndim = a.ndim;
  r.small = a.slices * a.count * a.row < kSmallCount;
  for (int d = 0; d < a.ndim; ++d) {
    r.size[d] = a.size[d];
    r.self_stride[d] = a.self_stride[d] / word;
    r.dense_stride[d] = a.dense_stride[d] / word;
    r.index_stride[d] = a.index_stride[d];
    if (r.small) r.divisor[d] = FastDivisor(static_cast<std::uint32_t>(a.size[d]));
  }
  if (r.small) {
    r.row_divisor = FastDivisor(static_cast<std::uint32_t>(r.row));
    r.count_divisor = FastDivisor(static_cast<std::uint32_t>(r.count));
  }
  return r;
}

bool nothing_to_do(const IndexedRows& a) { return a.self_size <= 0 || a.count <= 0 || a.row <= 0 || a.slices <= 0; }

// ---- independent moves ----------------------------------------------------------------------------------------------

template <class W, bool to_self>
struct Move {
  Rows r;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    std::int64_t rest, n, s, i;
    r.split(e, r.row, r.row_divisor, rest, n);
    r.split(rest, r.count, r.count_divisor, s, i);
    std::int64_t self_at = n * r.self_row, dense_at = i * r.dense_step + n * r.dense_row,
                 index_at = i * r.index_step + n * r.index_row;
    r.slice(s, self_at, dense_at, index_at);
    const std::int64_t k = r.place(index_at);
    W* self = static_cast<W*>(r.self) + self_at + k * r.self_step;
    W* dense = static_cast<W*>(r.dense) + dense_at;
    if constexpr (to_self) {
      if (k >= 0) *self = *dense;
    } else {
      *dense = k >= 0 ? *self : W{};
    }
  }
};

// Elements of `width` bytes that can be moved as one word: rows dense on both sides, everything a multiple of it.
std::int64_t word_of(const IndexedRows& a, std::int64_t width) {
  if (a.index_row != 0 || (a.row > 1 && (a.self_row != 1 || a.dense_row != 1))) return 1;
  for (std::int64_t word = 16 / width; word > 1; word /= 2) {
    const auto fits = [&](std::int64_t n) { return n % word == 0; };
    bool ok = fits(a.row) && fits(a.self_step) && fits(a.dense_step) &&
              reinterpret_cast<std::uintptr_t>(a.self) % static_cast<std::uintptr_t>(word * width) == 0 &&
              reinterpret_cast<std::uintptr_t>(a.dense) % static_cast<std::uintptr_t>(word * width) == 0;
    for (int d = 0; d < a.ndim; ++d) ok = ok && fits(a.self_stride[d]) && fits(a.dense_stride[d]);
    if (ok) return word;
  }
  return 1;
}

template <bool to_self>
void move(const IndexedRows& a, std::int64_t width) {
  const std::int64_t word = word_of(a, width);
  const Rows r = rows_of(a, word);
  const std::int64_t n = r.slices * r.count * r.row;
  switch (word * width) {
    case 1:
      return for_each(n, Move<std::uint8_t, to_self>{r});
    case 2:
      return for_each(n, Move<std::uint16_t, to_self>{r});
    case 4:
      return for_each(n, Move<std::uint32_t, to_self>{r});
    case 8:
      return for_each(n, Move<std::uint64_t, to_self>{r});
    default:
      return for_each(n, Move<Word16, to_self>{r});
  }
}

// ---- ordered writes -------------------------------------------------------------------------------------------------

// What happens to an element of self; `write` besides the reductions of ScatterOp.
constexpr int kWrite = static_cast<int>(ScatterOp::COUNT);

template <class T>
__device__ __forceinline__ T combine(int op, T a, T b) {
  switch (op) {
    case static_cast<int>(ScatterOp::sum):
      return static_cast<T>(a + b);
    case static_cast<int>(ScatterOp::prod):
      return static_cast<T>(a * b);
    case static_cast<int>(ScatterOp::amax):
      return b > a || b != b ? b : a;  // NaN wins
    case static_cast<int>(ScatterOp::amin):
      return b < a || b != b ? b : a;
    default:
      return b;
  }
}

// One thread per line (slice and row element), which walks the index.
template <class T>
struct WalkLine {
  Rows r;
  int op;
  __device__ __forceinline__ void operator()(std::int64_t line) const {
    std::int64_t s, n;
    r.split(line, r.row, r.row_divisor, s, n);
    std::int64_t self_at = n * r.self_row, dense_at = n * r.dense_row, index_at = n * r.index_row;
    r.slice(s, self_at, dense_at, index_at);
    for (std::int64_t i = 0; i < r.count; ++i) {
      const std::int64_t k = r.place(index_at + i * r.index_step);
      if (k < 0) continue;
      T& self = static_cast<T*>(r.self)[self_at + k * r.self_step];
      self = combine<T>(op, self, static_cast<const T*>(r.dense)[dense_at + i * r.dense_step]);
    }
  }
};

// key[line * count + i] = the place within all lines; `lines` of them have an index of their own. Bad indices come
// last.
template <class K>
struct PlaceKeys {
  Rows r;
  K* key;
  K last;
  bool shared;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    std::int64_t line, i, s = 0, n = 0;
    r.split(e, r.count, r.count_divisor, line, i);
    if (!shared) r.split(line, r.row, r.row_divisor, s, n);
    std::int64_t self_at = 0, dense_at = 0, index_at = i * r.index_step + n * r.index_row;
    if (!shared) r.slice(s, self_at, dense_at, index_at);
    const std::int64_t k = r.place(index_at);
    key[e] = k < 0 ? last : static_cast<K>(line * r.self_size + k);
  }
};

// One thread per sorted element and line that shares the index; the first of equal places does the work of all.
template <class T, class K>
struct ApplySorted {
  Rows r;
  int op;
  const K* key;
  const std::uint32_t* at;
  K last;
  std::int64_t m;  // sorted elements
  bool shared;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const std::int64_t lines = shared ? r.slices * r.row : 1, j = divide(e, lines).quotient;
    const K k = key[j];
    if (k == last || (j > 0 && key[j - 1] == k)) return;
    const std::int64_t line = shared ? e - j * lines : static_cast<std::int64_t>(k) / r.self_size;
    const std::int64_t place =
        shared ? static_cast<std::int64_t>(k) : static_cast<std::int64_t>(k) - line * r.self_size;
    std::int64_t s, n;
    r.split(line, r.row, r.row_divisor, s, n);
    std::int64_t self_at = n * r.self_row + place * r.self_step, dense_at = n * r.dense_row, index_at = 0;
    r.slice(s, self_at, dense_at, index_at);
    const std::int64_t first = shared ? 0 : line * r.count;  // of this line in the unsorted order
    const T* dense = static_cast<const T*>(r.dense) + dense_at;
    T& self = static_cast<T*>(r.self)[self_at];
    T value = self;
    for (std::int64_t q = j; q < m && key[q] == k; ++q)
      value = combine<T>(op, value, dense[(at[q] - first) * r.dense_step]);
    self = value;
  }
};

template <class T, class K>
void scatter_sorted(const Rows& r, int op, bool shared) {
  const std::int64_t lines = r.slices * r.row, m = (shared ? 1 : lines) * r.count;
  const std::int64_t places = (shared ? 1 : lines) * r.self_size;
  const K last = static_cast<K>(places);
  RadixSort<K> sort(1, m);
  for_each(m, PlaceKeys<K>{r, sort.keys(), last, shared});
  sort.run(bits_below(places + 1));
  for_each(m * (shared ? lines : 1), ApplySorted<T, K>{r, op, sort.keys(), sort.at(), last, m, shared});
}

template <class T>
void scatter_ordered(const IndexedRows& a, int op) {
  const Rows r = rows_of(a);
  const std::int64_t lines = a.slices * a.row;
  bool shared = a.index_row == 0 || a.row == 1;
  for (int d = 0; d < a.ndim; ++d) shared = shared && (a.index_stride[d] == 0 || a.size[d] == 1);
  const std::int64_t m = (shared ? 1 : lines) * a.count;
  const bool enough_lines = lines >= std::int64_t{1024} * multiprocessors();
  if (a.count <= 32 || enough_lines || m >= (std::int64_t{1} << 32) - 1)
    for_each(lines, WalkLine<T>{r, op});
  else if ((shared ? 1 : lines) * a.self_size < (std::int64_t{1} << 32) - 1)
    scatter_sorted<T, std::uint32_t>(r, op, shared);
  else
    scatter_sorted<T, std::uint64_t>(r, op, shared);
}

// One place per thread: each element of self is met once.
template <class T>
struct CombineDistinct {
  Rows r;
  int op;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    std::int64_t rest, n, s, i;
    r.split(e, r.row, r.row_divisor, rest, n);
    r.split(rest, r.count, r.count_divisor, s, i);
    std::int64_t self_at = n * r.self_row, dense_at = i * r.dense_step + n * r.dense_row,
                 index_at = i * r.index_step + n * r.index_row;
    r.slice(s, self_at, dense_at, index_at);
    const std::int64_t k = r.place(index_at);
    if (k < 0) return;
    T& self = static_cast<T*>(r.self)[self_at + k * r.self_step];
    self = combine<T>(op, self, static_cast<const T*>(r.dense)[dense_at]);
  }
};

template <class W>
void gather(const IndexedRows& a) {
  if (!nothing_to_do(a)) move<false>(a, sizeof(W));
}
template <class W>
void scatter(const IndexedRows& a) {
  if (nothing_to_do(a)) return;
  if (a.distinct || a.count == 1)
    move<true>(a, sizeof(W));
  else
    scatter_ordered<W>(a, kWrite);
}
template <ScatterOp op, class T>
void reduce(const IndexedRows& a) {
  if (nothing_to_do(a)) return;
  if (a.distinct || a.count == 1)
    for_each(a.slices * a.count * a.row, CombineDistinct<T>{rows_of(a), static_cast<int>(op)});
  else
    scatter_ordered<T>(a, static_cast<int>(op));
}

// ---- sums of rows ---------------------------------------------------------------------------------------------------

// One thread per sorted index and V columns; the first of equal places adds the rows of all, in order, rounded once.
template <class T, int V>
struct AddRows {
  T* self;
  const T* dense;
  std::int64_t self_step, dense_step, packs, count;
  const std::uint32_t *key, *at;
  std::uint32_t last;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    using A = functors::compute_t<T>;
    const auto [j, c] = divide(e, packs);
    const std::uint32_t k = key[j];
    if (k == last || (j > 0 && key[j - 1] == k)) return;
    T* const place = self + k * self_step + c * V;
    Pack<T, V> x = get<T, V>(place);
    A sum[V];
#pragma unroll
    for (int l = 0; l < V; ++l) sum[l] = static_cast<A>(x.v[l]);
    for (std::int64_t q = j; q < count && key[q] == k; ++q) {
      x = get<T, V>(dense + at[q] * dense_step + c * V);
#pragma unroll
      for (int l = 0; l < V; ++l) sum[l] += static_cast<A>(x.v[l]);
    }
#pragma unroll
    for (int l = 0; l < V; ++l) x.v[l] = static_cast<T>(sum[l]);
    put(place, x);
  }
};

template <class T>
void add_rows(const IndexedRows& a, std::int64_t*, std::int64_t*) {
  if (nothing_to_do(a)) return;
  constexpr std::int64_t kMost = std::int64_t{1} << 31;  // positions and places are sorted as 32-bit numbers
  require(a.self_size < 2 * kMost - 1, "index_add", "input", ErrorKind::Value,
          "expected fewer than 2^32 - 1 rows on a GPU, got ", a.self_size);
  if (a.count > kMost) {
    IndexedRows head = a, tail = a;
    head.count = kMost;
    tail.count -= kMost;
    tail.index += kMost * a.index_step;
    tail.dense = static_cast<T*>(a.dense) + kMost * a.dense_step;
    add_rows<T>(head, nullptr, nullptr);
    return add_rows<T>(tail, nullptr, nullptr);
  }
  const auto last = static_cast<std::uint32_t>(a.self_size);
  RadixSort<std::uint32_t> sort(1, a.count);
  for_each(a.count, PlaceKeys<std::uint32_t>{rows_of(a), sort.keys(), last, true});
  sort.run(bits_below(a.self_size + 1));
  const auto add = [&]<int V>() {
    for_each(a.count * (a.row / V), AddRows<T, V>{static_cast<T*>(a.self), static_cast<const T*>(a.dense), a.self_step,
                                                  a.dense_step, a.row / V, a.count, sort.keys(), sort.at(), last});
  };
  constexpr int V = 16 / static_cast<int>(sizeof(T));
  word_of(a, sizeof(T)) == V ? add.template operator()<V>() : add.template operator()<1>();
}

// ---- checks and offsets ---------------------------------------------------------------------------------------------

struct CheckIndex {
  const std::int64_t* index;
  std::int64_t low, high;
  FaultReport* faults;
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    if (index[i] < low || index[i] >= high) report(faults, Fault::index, i);
  }
};
std::int64_t check_index(const std::int64_t* index, std::int64_t n, std::int64_t low, std::int64_t high) {
  for_each(n, CheckIndex{index, low, high, fault_report()});
  return -1;
}

struct AddOffsets {
  std::int64_t* out;
  const std::int64_t* index;
  std::int64_t size, step;
  bool first;
  FaultReport* faults;
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    std::int64_t k = index[i];
    if (k < -size || k >= size) {
      report(faults, Fault::index, i);
      k = 0;
    }
    k = (k < 0 ? k + size : k) * step;
    out[i] = first ? k : out[i] + k;
  }
};
std::int64_t add_offsets(std::int64_t* out, const std::int64_t* index, std::int64_t n, std::int64_t size,
                         std::int64_t step, bool first) {
  for_each(n, AddOffsets{out, index, size, step, first, fault_report()});
  return -1;
}

// ---- table ----------------------------------------------------------------------------------------------------------

template <int op, class... Ts>
void fill_reductions(IndexingKernels& k) {
  ((k.scatter_reduce[op][idx<Ts>] = reduce<static_cast<ScatterOp>(op), Ts>), ...);
  if constexpr (op + 1 < static_cast<int>(ScatterOp::COUNT)) fill_reductions<op + 1, Ts...>(k);
}
template <class... Ts>
void fill_widths(IndexingKernels& k) {
  int i = 0;
  ((k.gather[i] = gather<Ts>, k.scatter[i] = scatter<Ts>, ++i), ...);
}

}  // namespace

void register_indexing(KernelTable& t) {
  IndexingKernels& k = family<IndexingKernels>(t);
  fill_reductions<0, bool, std::uint8_t, std::int8_t, std::int16_t, std::int32_t, std::int64_t, float, double>(k);
  fill_widths<std::uint8_t, std::uint16_t, std::uint32_t, std::uint64_t>(k);
  each_type(FloatTypes{}, [&]<class T>() { k.add_rows[idx<T>] = add_rows<T>; });
  k.check_index = check_index;
  k.add_offsets = add_offsets;
}

}  // namespace pydlx::cuda
