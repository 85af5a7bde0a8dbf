// Gather and scatter along an indexed axis.
//
// Moves of whole rows use the widest words that divide rows and strides. Writes that may meet a place twice keep the
// order of the index: with many lines every line is walked by its own thread; otherwise elements are sorted by the
// place they go to, and what goes to one place is combined in an order that the number of such elements fixes.
#include "cuda/pointwise/loop.cuh"
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/faults.h"
#include "cuda/sort/radix.cuh"
#include "cuda/sort/runs.cuh"
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

// Sorted elements that are combined with a place of every line that shares the index.
template <class T, class K>
struct Scattered {
  using Key = K;
  using Value = T;
  Rows r;
  int op;
  const K* key;
  const std::uint32_t* at;
  K last;
  std::int64_t count, lines;
  bool shared;

  struct Place {
    T* self;
    const T* dense;
    std::int64_t step, first;  // of this line in the unsorted order
    int op;
    __device__ __forceinline__ T old() const { return *self; }
    __device__ __forceinline__ T read(std::uint32_t i) const { return dense[(i - first) * step]; }
    __device__ __forceinline__ T combine(T a, T b) const { return cuda::combine<T>(op, a, b); }
    __device__ __forceinline__ void write(T v) const { *self = v; }
  };
  __device__ __forceinline__ bool wanted(K k) const { return k != last; }
  __device__ __forceinline__ Place place(K k, std::int64_t line, std::int64_t) const {
    if (!shared) line = static_cast<std::int64_t>(k) / r.self_size;
    const std::int64_t place = static_cast<std::int64_t>(k) - (shared ? 0 : line * r.self_size);
    std::int64_t s, n;
    r.split(line, r.row, r.row_divisor, s, n);
    std::int64_t self_at = n * r.self_row + place * r.self_step, dense_at = n * r.dense_row, index_at = 0;
    r.slice(s, self_at, dense_at, index_at);
    return {static_cast<T*>(r.self) + self_at, static_cast<const T*>(r.dense) + dense_at, r.dense_step,
            shared ? 0 : line * r.count, op};
  }
};

// Of writes to a place the last one stays.
template <class T, class K>
struct WriteLast {
  Scattered<T, K> p;
  Divider lines;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const auto [j, line] = lines(e);
    const K k = p.key[j];
    if (!p.wanted(k) || (j + 1 < p.count && p.key[j + 1] == k)) return;
    const auto place = p.place(k, line, 1);
    place.write(place.read(p.at[j]));
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
  const Scattered<T, K> p{r, op, sort.keys(), sort.at(), last, m, shared ? lines : 1, shared};
  if (op == kWrite)
    for_each(m * p.lines, WriteLast<T, K>{p, Divider(p.lines, m * p.lines)});
  else
    combine_runs(p);
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

// Rows that are added to rows, rounded once; a line is V columns.
template <class T, int V>
struct AddRows {
  using Key = std::uint32_t;
  using A = functors::compute_t<T>;
  using Value = Pack<A, V>;
  T* self;
  const T* dense;
  std::int64_t self_step, dense_step, lines, count;
  const std::uint32_t *key, *at;
  std::uint32_t last;

  struct Place {
    T* self;
    const T* dense;
    std::int64_t step;
    __device__ __forceinline__ static Value wide(const T* from) {
      const Pack<T, V> x = get<T, V>(from);
      Value v;
#pragma unroll
      for (int l = 0; l < V; ++l) v.v[l] = static_cast<A>(x.v[l]);
      return v;
    }
    __device__ __forceinline__ Value old() const { return wide(self); }
    __device__ __forceinline__ Value read(std::uint32_t i) const { return wide(dense + i * step); }
    __device__ __forceinline__ Value combine(Value a, const Value& b) const {
#pragma unroll
      for (int l = 0; l < V; ++l) a.v[l] += b.v[l];
      return a;
    }
    __device__ __forceinline__ void write(const Value& v) const {
      Pack<T, V> x;
#pragma unroll
      for (int l = 0; l < V; ++l) x.v[l] = static_cast<T>(v.v[l]);
      put(self, x);
    }
  };
  __device__ __forceinline__ bool wanted(std::uint32_t k) const { return k != last; }
  __device__ __forceinline__ Place place(std::uint32_t k, std::int64_t line, std::int64_t) const {
    return {self + k * self_step + line * V, dense + line * V, dense_step};
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
    combine_runs(AddRows<T, V>{static_cast<T*>(a.self), static_cast<const T*>(a.dense), a.self_step, a.dense_step,
                               a.row / V, a.count, sort.keys(), sort.at(), last});
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
