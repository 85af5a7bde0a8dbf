// Gather and scatter along an indexed axis. Dividing the work and walking the slices is one ordinary function; only the
// block of (index, row) pairs inside a slice is instantiated per element type and operation.
#include "kernels/indexing.h"

#include "cpu/flags.h"
#include "cpu/isa.h"
#include "cpu/row_copy.h"
#include "cpu/row_sums.h"
#include "functors/types.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr std::int64_t kBlock = 16384;     // elements per parallel unit: some 10 us of scattered access
constexpr std::int64_t kNear = 512 << 10;  // bytes that stay in the second-level cache beside what streams by
constexpr std::int64_t kAhead = 2048;      // bytes of rows asked for before they are copied

// A block of work inside a slice. With `part_mask`, only indices whose group of 16 falls to `part` are meant: units
// that share a slice then write to disjoint places, and each place still meets its contributions in ascending order.
struct Range {
  std::int64_t i0, i1, n0, n1;
  std::int64_t part, part_mask;
};
using BlockFn = void (*)(const IndexedRows&, const Range&, char* self, char* dense, const std::int64_t* index);

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t lesser(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Unordered work is cut along the index and the rows. Ordered work keeps the whole index in one unit, so that every
// element of `self` meets its contributions in ascending order whatever the number of threads: many slices go to
// different threads whole; otherwise long rows are cut, and rows too short for that are divided by destination.
void run(const IndexedRows& a, std::int64_t width, bool ordered, BlockFn block) {
  std::int64_t step_i = a.count, step_n = a.row, parts = 1;
  const bool own_index = a.index_row != 0;  // an index per element: nothing is read twice when the row is cut
  const bool shared = ordered && a.slices < 64 && num_threads() > 1;
  if (own_index) {
    // As much of `self` as stays in the second-level cache while its indices pass; a share for every thread.
    const std::int64_t line = 64 / width, lines = kNear / (a.self_size * 64);
    if (lines >= 4) step_n = lesser(step_n, lines * line);
    if (shared) step_n = lesser(step_n, ceil_div(ceil_div(a.row, 2 * num_threads()), line) * line);
  } else if (shared) {
    const std::int64_t least = 1024 / width;
    if (a.row >= 8 * least)
      step_n = ceil_div(ceil_div(a.row, 16), least) * least;
    else if (a.row >= 16)
      while (parts < num_threads() && parts < 16) parts *= 2;  // scanning the index once per part costs less than a row
  }
  if (!ordered) {
    step_n = lesser(step_n, kBlock);
    step_i = lesser(a.count, ceil_div(kBlock, step_n));
  }
  const std::int64_t blocks_n = ceil_div(a.row, step_n), blocks_i = ceil_div(a.count, step_i),
                     per_slice = blocks_n * blocks_i * parts;
  const std::int64_t work = step_i * step_n / parts;
  parallel_for(a.slices * per_slice, work >= kBlock ? 1 : ceil_div(kBlock, work > 0 ? work : 1),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t u = begin; u < end; ++u) {
                   std::int64_t rest = u / per_slice;
                   const std::int64_t part = u % per_slice / parts;
                   char* self = static_cast<char*>(a.self);
                   char* dense = static_cast<char*>(a.dense);
                   const std::int64_t* index = a.index;
                   for (int d = 0; d < a.ndim; ++d) {
                     const std::int64_t k = rest % a.size[d];
                     rest /= a.size[d];
                     self += k * a.self_stride[d] * width;
                     dense += k * a.dense_stride[d] * width;
                     index += k * a.index_stride[d];
                   }
                   Range r;
                   r.i0 = (own_index ? part % blocks_i : part / blocks_n) * step_i;
                   r.n0 = (own_index ? part / blocks_i : part % blocks_n) * step_n;
                   r.i1 = r.i0 + step_i < a.count ? r.i0 + step_i : a.count;
                   r.n1 = r.n0 + step_n < a.row ? r.n0 + step_n : a.row;
                   r.part = u % parts;
                   r.part_mask = parts - 1;
                   block(a, r, self, dense, index);
                 }
               });
}

// The place of an index that is no place as it stands.
__attribute__((noinline, cold)) std::int64_t mended(const IndexedRows& a, std::int64_t k) {
  if (a.out_of_range && (k < a.index_low || k >= a.self_size)) __atomic_store_n(a.out_of_range, 1, __ATOMIC_RELAXED);
  k += k < 0 ? a.self_size : 0;
  return k >= 0 && k < a.self_size ? k : 0;
}
// The place an index means. Even where indices were checked before, memory shared with other threads may have changed
// since: never leave the tensor. `size` is that of a, which stores through pointers might have changed for all that the
// compiler knows.
inline __attribute__((always_inline)) std::int64_t place_of(const IndexedRows& a, std::int64_t k, std::int64_t size) {
  return static_cast<std::uint64_t>(k) < static_cast<std::uint64_t>(size) ? k : mended(a, k);
}

struct Read {
  template <class T>
  static inline __attribute__((always_inline)) void apply(T& self, T& dense) {
    dense = self;
  }
  template <class T>
  static inline __attribute__((always_inline)) void copy(const T* self, T* dense, std::int64_t n) {
    copy_run(dense, self, n);
  }
};

// Rows of one element next to each other in `self`, one index each: the gathers and scatters along the last axis.
// Places computed in vectors cost more: two or three instructions to take each out, or a load that waits for the
// vector's store.
template <class F, class T>
inline __attribute__((always_inline)) void along_row(const IndexedRows& a, const std::int64_t* index, T* self, T* dense,
                                                     std::int64_t n) {
  const std::int64_t size = a.self_size;
#pragma GCC unroll 4
  for (std::int64_t i = 0; i < n; ++i) F::apply(self[place_of(a, index[i], size)], dense[i]);
}

// Rows next to each other, an index for each of their elements: the gathers and scatters along an outer axis. Steps of
// a multiple of 4 KB put a column into one set of the first-level cache, where more misses at a time than it has ways
// wait for each other; then elements of different lines follow one another.
template <class F, class T>
inline __attribute__((always_inline)) void across_rows(const IndexedRows& a, const std::int64_t* index, T* self,
                                                       T* dense, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kBytes = static_cast<std::int64_t>(sizeof(T));
  const std::int64_t size = a.self_size, step = a.self_step, hop = step * kBytes % 4096 == 0 ? 64 / kBytes : 1;
  for (std::int64_t c = begin; c < lesser(end, begin + hop); ++c)
#pragma GCC unroll 4
    for (std::int64_t n = c; n < end; n += hop) F::apply(self[place_of(a, index[n], size) * step + n], dense[n]);
}

template <class F, class T>
void block_of(const IndexedRows& a, const Range& r, char* self_bytes, char* dense_bytes, const std::int64_t* index) {
  T* self = reinterpret_cast<T*>(self_bytes);
  T* dense = reinterpret_cast<T*>(dense_bytes);
  const std::int64_t size = a.self_size;
  if (a.row == 1 && a.self_step == 1 && a.dense_step == 1 && a.index_step == 1) {
    // The next slice will be read in no order that a prefetcher could follow.
    constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(T));
    if (a.ndim > 0 && a.count >= size / 8 && size <= 128 * kLine)
      for (std::int64_t k = 0; k < size; k += kLine) __builtin_prefetch(self + a.self_stride[0] + k);
    along_row<F>(a, index + r.i0, self, dense + r.i0, r.i1 - r.i0);
  } else if (a.row == 1) {
    for (std::int64_t i = r.i0; i < r.i1; ++i) {
      const std::int64_t k = place_of(a, index[i * a.index_step], size);
      F::apply(self[k * a.self_step], dense[i * a.dense_step]);
    }
  } else if (a.index_row == 0) {
    for (std::int64_t i = r.i0; i < r.i1; ++i) {
      const std::int64_t k = place_of(a, index[i * a.index_step], size);
      if (((k * a.self_step >> 4) & r.part_mask) != r.part) continue;
      T* s = self + k * a.self_step;
      T* d = dense + i * a.dense_step;
      if (a.self_row == 1 && a.dense_row == 1) {
        if constexpr (requires { F::copy(s, d, r.n1); }) {
          // A prefetcher begins anew in every row.
          const std::int64_t bytes = lesser(kAhead, (r.n1 - r.n0) * static_cast<std::int64_t>(sizeof(T))),
                             later = i + 1 + kAhead / bytes;
          if (later < r.i1) {
            const T* row = self + place_of(a, index[later * a.index_step], size) * a.self_step + r.n0;
            for (std::int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(reinterpret_cast<const char*>(row) + b);
          }
          F::copy(s + r.n0, d + r.n0, r.n1 - r.n0);
        } else {
#pragma omp simd
          for (std::int64_t n = r.n0; n < r.n1; ++n) F::apply(s[n], d[n]);
        }
      } else if (a.self_row == 1 && a.dense_row == 0) {  // one value for the row
        T value = d[0];
        for (std::int64_t n = r.n0; n < r.n1; ++n) F::apply(s[n], value);
      } else {
        for (std::int64_t n = r.n0; n < r.n1; ++n) F::apply(s[n * a.self_row], d[n * a.dense_row]);
      }
    }
  } else if (a.index_row == 1 && a.self_row == 1 && a.dense_row == 1) {
    for (std::int64_t i = r.i0; i < r.i1; ++i)
      across_rows<F>(a, index + i * a.index_step, self, dense + i * a.dense_step, r.n0, r.n1);
  } else {
    for (std::int64_t i = r.i0; i < r.i1; ++i) {
      const std::int64_t* index_i = index + i * a.index_step;
      T* d = dense + i * a.dense_step;
      for (std::int64_t n = r.n0; n < r.n1; ++n) {
        const std::int64_t k = place_of(a, index_i[n * a.index_row], size);
        F::apply(self[k * a.self_step + n * a.self_row], d[n * a.dense_row]);
      }
    }
  }
}

struct Write {
  template <class T>
  static inline __attribute__((always_inline)) void apply(T& self, T& dense) {
    self = dense;
  }
};
template <ScatterOp op>
struct Combine {
  // The greater or lesser, NaN before both. One comparison at a time: both together become a branch, which random data
  // mispredict.
  template <class T>
  static inline __attribute__((always_inline)) T chosen(T a, T b) {
    const T best = (op == ScatterOp::amax ? b > a : b < a) ? b : a;
    return b != b ? b : best;
  }
  template <class T>
  static inline __attribute__((always_inline)) void apply(T& self, T& dense) {
    const T a = self, b = dense;
    if constexpr (op == ScatterOp::sum)
      self = static_cast<T>(a + b);
    else if constexpr (op == ScatterOp::prod)
      self = static_cast<T>(a * b);
    else
      self = chosen(a, b);
  }
};

template <class T>
void gather(const IndexedRows& a) {
  run(a, sizeof(T), false, block_of<Read, T>);
}
template <class T>
void scatter(const IndexedRows& a) {
  run(a, sizeof(T), !a.distinct, block_of<Write, T>);
}
template <ScatterOp op, class T>
void reduce(const IndexedRows& a) {
  run(a, sizeof(T), !a.distinct, block_of<Combine<op>, T>);
}

// By places: what goes to one is added in registers.
template <class T>
void add_rows(const IndexedRows& a, std::int64_t* start, std::int64_t* order) {
  sort_by_place(a.count, a.self_size, start, order,
                [&](std::int64_t i) { return place_of(a, a.index[i * a.index_step], a.self_size); });
  const std::int64_t work = a.row * (a.count / a.self_size + 1);
  parallel_for(a.self_size, ceil_div(kBlock, work), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t v = begin; v < end; ++v) {
      const std::int64_t first = v == 0 ? 0 : start[v - 1];
      T* self = static_cast<T*>(a.self) + v * a.self_step;
      if (start[v] > first)
        sum_rows<T>({static_cast<const T*>(a.dense), a.dense_step, order + first, start[v] - first,
                     start[a.self_size - 1] - first},
                    self, 1, self, a.row);
    }
  });
}

template <int op, class... Ts>
void fill(IndexingKernels& k) {
  ((k.scatter_reduce[op][static_cast<int>(DTypeOf<Ts>::value)] = reduce<static_cast<ScatterOp>(op), Ts>), ...);
  if constexpr (op + 1 < static_cast<int>(ScatterOp::COUNT)) fill<op + 1, Ts...>(k);
}

// The unsigned comparison folds both bounds into one.
inline bool bad(std::int64_t i, std::int64_t low, std::int64_t high) {
  return static_cast<std::uint64_t>(i) - static_cast<std::uint64_t>(low) >=
         static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
}

// Counting in the index's own width lets the loop be vectorised.
bool any_bad(const std::int64_t* index, std::int64_t n, std::int64_t low, std::int64_t high) {
  std::int64_t count = 0;
#pragma omp simd reduction(+ : count)
  for (std::int64_t i = 0; i < n; ++i) count += bad(index[i], low, high) ? 1 : 0;
  return count != 0;
}

std::int64_t check_index(const std::int64_t* index, std::int64_t n, std::int64_t low, std::int64_t high) {
  std::int64_t first = INT64_MAX;
  parallel_for(n, 4 * kBlock, [&](std::int64_t b, std::int64_t e) {
    if (!any_bad(index + b, e - b, low, high)) [[likely]]
      return;
    for (std::int64_t i = b; i < e; ++i)
      if (bad(index[i], low, high)) {
        std::int64_t seen = __atomic_load_n(&first, __ATOMIC_RELAXED);
        while (i < seen && !__atomic_compare_exchange_n(&first, &seen, i, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
        return;
      }
  });
  return first == INT64_MAX ? -1 : first;
}

std::int64_t add_offsets(std::int64_t* out, const std::int64_t* index, std::int64_t n, std::int64_t size,
                         std::int64_t step, bool first) {
  const std::int64_t wrong = check_index(index, n, -size, size);
  if (wrong >= 0) return wrong;
  parallel_for(n, kBlock, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t i = b; i < e; ++i) {
      const std::int64_t k = (index[i] < 0 ? index[i] + size : index[i]) * step;
      out[i] = first ? k : out[i] + k;
    }
  });
  return -1;
}

std::int64_t nonzero_count(const Nonzero& a) {
  const std::int64_t blocks = ceil_div(a.n, kNonzeroBlock);
  parallel_for(blocks, 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t k = b; k < e; ++k) {
      const std::int64_t begin = k * kNonzeroBlock, end = begin + kNonzeroBlock < a.n ? begin + kNonzeroBlock : a.n;
      a.starts[k] = flags::count(a.mask + begin, end - begin);
    }
  });
  std::int64_t total = 0;
  for (std::int64_t k = 0; k < blocks; ++k) {
    const std::int64_t count = a.starts[k];
    a.starts[k] = total;
    total += count;
  }
  return total;
}

void nonzero(const Nonzero& a) {
  const std::int64_t blocks = ceil_div(a.n, kNonzeroBlock);
  parallel_for(blocks, 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t k = b; k < e; ++k) {
      const std::int64_t begin = k * kNonzeroBlock, end = begin + kNonzeroBlock < a.n ? begin + kNonzeroBlock : a.n;
      std::int64_t* out = a.out + a.starts[k] * a.ndim;
      // Room for what was counted, should another thread be changing the mask.
      std::int64_t left = (k + 1 < blocks ? a.starts[k + 1] : a.total) - a.starts[k];
      // Positions are first packed, then split into coordinates.
      constexpr std::int64_t kGroup = 1024;
      std::int64_t found[kGroup + flags::kSlack];
      for (std::int64_t g = begin; g < end; g += kGroup) {
        const std::int64_t stop = g + kGroup < end ? g + kGroup : end;
        std::int64_t count = flags::places(a.mask + g, stop - g, g, found);
        if (count > left) count = left;
        left -= count;
        if (a.ndim == 1) std::memcpy(out, found, static_cast<std::size_t>(count) * sizeof found[0]);
        for (std::int64_t j = 0; j < count && a.ndim > 1; ++j) {
          std::int64_t rest = found[j];
          for (int d = a.ndim - 1; d > 0; --d) {
            const std::int64_t q = rest / a.size[d];
            out[j * a.ndim + d] = rest - q * a.size[d];
            rest = q;
          }
          out[j * a.ndim] = rest;
        }
        out += count * a.ndim;
      }
      for (std::int64_t j = 0; j < left * a.ndim; ++j) out[j] = 0;
    }
  });
}

void repeat_index(const std::int64_t* repeats, std::int64_t n, std::int64_t* out) {
  for (std::int64_t k = 0; k < n; ++k)
    for (std::int64_t i = 0; i < repeats[k]; ++i) *out++ = k;
}

template <class T>
void range(const RangeFill& a) {
  parallel_for(a.n, kBlock, [&](std::int64_t b, std::int64_t e) {
    T* out = static_cast<T*>(a.out);
    if (a.integral) {
      for (std::int64_t i = b; i < e; ++i)
        out[i] = static_cast<T>(
            static_cast<std::int64_t>(static_cast<std::uint64_t>(a.int_start) +
                                      static_cast<std::uint64_t>(i) * static_cast<std::uint64_t>(a.int_step)));
      return;
    }
    for (std::int64_t i = b; i < e; ++i) {
      const bool second = a.symmetric && i >= a.n / 2;
      double v =
          second ? a.last - static_cast<double>(a.n - 1 - i) * a.step : a.start + static_cast<double>(i) * a.step;
      if (a.base != 0) v = __builtin_pow(a.base, v);
      if constexpr (functors::type_bit<T> == functors::kFloat)
        out[i] = static_cast<T>(static_cast<functors::compute_t<T>>(v));
      else
        out[i] = static_cast<T>(v >= -9223372036854775808.0 && v < 9223372036854775808.0 ? static_cast<std::int64_t>(v)
                                                                                         : INT64_MIN);
    }
  });
}

// Few parts meet in registers.
template <int kParts, class T>
void interleave_few(const JoinedRows& a, std::int64_t begin, std::int64_t end) {
  T* __restrict out = static_cast<T*>(a.out);
  const T* in[kParts];
  for (int k = 0; k < kParts; ++k) in[k] = static_cast<const T*>(a.part[k]);
#pragma omp simd
  for (std::int64_t r = begin; r < end; ++r)
#pragma GCC unroll 4
    for (int k = 0; k < kParts; ++k) out[r * kParts + k] = in[k][r];
}

// Rows of one element each, all of the same size: a block of every part in turn, while the result is in the first-level
// cache.
template <class T>
void interleave_parts(const JoinedRows& a, std::int64_t begin, std::int64_t end) {
  if (a.parts == 2) return interleave_few<2, T>(a, begin, end);
  if (a.parts == 3) return interleave_few<3, T>(a, begin, end);
  if (a.parts == 4) return interleave_few<4, T>(a, begin, end);
  constexpr std::int64_t kRows = 512;
  for (std::int64_t r0 = begin; r0 < end; r0 += kRows) {
    const std::int64_t count = r0 + kRows < end ? kRows : end - r0;
    for (std::int64_t k = 0; k < a.parts; ++k) {
      T* out = static_cast<T*>(a.out) + r0 * a.parts + k;
      const T* in = static_cast<const T*>(a.part[k]) + r0;
#pragma GCC unroll 4
      for (std::int64_t r = 0; r < count; ++r) out[r * a.parts] = in[r];
    }
  }
}

void join(const JoinedRows& a) {
  std::int64_t row = 0;
  bool equal = true;
  for (std::int64_t k = 0; k < a.parts; ++k) row += a.part_bytes[k], equal &= a.part_bytes[k] == a.part_bytes[0];
  constexpr std::int64_t kBytes = 4 * kBlock;
  parallel_for(a.rows, row >= kBytes ? 1 : ceil_div(kBytes, row > 0 ? row : 1), [&](std::int64_t b, std::int64_t e) {
    switch (equal && a.rows > 1 ? a.part_bytes[0] : 0) {  // a single row may be one of several elements
      case 1:
        return interleave_parts<std::uint8_t>(a, b, e);
      case 2:
        return interleave_parts<std::uint16_t>(a, b, e);
      case 4:
        return interleave_parts<std::uint32_t>(a, b, e);
      case 8:
        return interleave_parts<std::uint64_t>(a, b, e);
      default:
        break;
    }
    char* out = static_cast<char*>(a.out) + b * row;
    for (std::int64_t r = b; r < e; ++r)
      for (std::int64_t k = 0; k < a.parts; ++k) {
        copy_row_bytes(out, static_cast<const char*>(a.part[k]) + r * a.part_bytes[k], a.part_bytes[k]);
        out += a.part_bytes[k];
      }
  });
}

template <class T>
void triangle(const Triangle& a) {
  const std::int64_t rows = a.batch * a.rows;
  parallel_for(rows, a.cols >= kBlock ? 1 : ceil_div(kBlock, a.cols), [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t r = b; r < e; ++r) {
      const T* x = static_cast<const T*>(a.x) + r * a.cols;
      T* out = static_cast<T*>(a.out) + r * a.cols;
      // Columns [0, cut) lie below or on the diagonal (above it excluded for `upper`).
      const std::int64_t row = r % a.rows;
      std::int64_t cut = row + a.diagonal + (a.upper ? 0 : 1);
      cut = cut < 0 ? 0 : cut > a.cols ? a.cols : cut;
      const std::size_t head = static_cast<std::size_t>(cut) * sizeof(T),
                        tail = static_cast<std::size_t>(a.cols - cut) * sizeof(T);
      if (a.upper) {
        std::memset(out, 0, head);
        std::memcpy(out + cut, x + cut, tail);
      } else {
        std::memcpy(out, x, head);
        std::memset(out + cut, 0, tail);
      }
    }
  });
}

template <class... Ts>
void fill_ranges(IndexingKernels& k) {
  ((k.range[static_cast<int>(DTypeOf<Ts>::value)] = range<Ts>), ...);
}
template <class... Ts>
void fill_widths(IndexingKernels& k) {
  int i = 0;
  ((k.gather[i] = gather<Ts>, k.scatter[i] = scatter<Ts>, k.triangle[i] = triangle<Ts>, ++i), ...);
}

}  // namespace

void register_indexing(KernelTable& t) {
  IndexingKernels& k = family<IndexingKernels>(t);
  fill<0, bool, std::uint8_t, std::int8_t, std::int16_t, std::int32_t, std::int64_t, float, double>(k);
  each_type(FloatTypes{}, [&]<class T>() { k.add_rows[idx<T>] = add_rows<T>; });
  fill_ranges<bool, std::uint8_t, std::int8_t, std::int16_t, std::int32_t, std::int64_t, Half, BFloat16, float, double>(
      k);
  fill_widths<std::uint8_t, std::uint16_t, std::uint32_t, std::uint64_t>(k);
  k.checks_range = true;
  k.check_index = check_index;
  k.add_offsets = add_offsets;
  k.join = join;
  k.nonzero_count = nonzero_count;
  k.nonzero = nonzero;
  k.repeat_index = repeat_index;
}

}  // namespace pydlx::PYDLX_ISA
