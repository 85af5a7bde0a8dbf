// Sorting works on the unsigned keys of functors/sort_key.h. A key and its position form one item:
//   up to 32-bit elements   (key << 32 | position) in 64 bits; all items differ, so any algorithm is stable
//   64-bit elements         a pair
//   integers whose positions nobody wants  the key alone
// Short rows are merge sorted, long ones radix sorted byte by byte, skipping bytes in which all keys agree. One very
// long row is cut into parts, which are sorted and then merged by all threads (merge path: Odeh, Green et al. 2012).
#include "kernels/sort.h"

#include "cpu/isa.h"
#include "cpu/rank.h"
#include "functors/sort_key.h"

namespace pydlx::PYDLX_ISA {
namespace {

using functors::is_nan;
using functors::key_of;
using functors::value_of;
using functors::word_t;

constexpr std::int64_t kRun = 16;  // insertion-sorted runs
template <class E>
constexpr std::int64_t kRadix = sizeof(E) == 8 ? 128 : 512;  // from here radix sort wins; it makes up to 8 passes
constexpr std::int64_t kRanked = 256;                        // from here digits find an element faster than pivots
constexpr std::int64_t kParallelRow = 65536;                 // from here one row is worth several threads

struct Wide {
  std::uint64_t key, at;
};
using Narrow = std::uint64_t;
template <class U>
struct Key {
  U key;
};

PYDLX_HD bool before(Narrow a, Narrow b) { return a < b; }
PYDLX_HD bool before(const Wide& a, const Wide& b) { return a.key < b.key || (a.key == b.key && a.at < b.at); }
template <class U>
PYDLX_HD bool before(Key<U> a, Key<U> b) {
  return a.key < b.key;
}
template <class E>
constexpr int kDigits = sizeof(E) / 2;  // a pair has as many bytes of position as of key, and so has a narrow item
template <class U>
constexpr int kDigits<Key<U>> = sizeof(U);
PYDLX_HD unsigned digit(Narrow a, int d) { return a >> (32 + 8 * d) & 255; }
PYDLX_HD unsigned digit(const Wide& a, int d) { return a.key >> (8 * d) & 255; }
template <class U>
PYDLX_HD unsigned digit(Key<U> a, int d) {
  return a.key >> (8 * d) & 255;
}
PYDLX_HD std::int64_t position(Narrow a) { return static_cast<std::int64_t>(a & 0xffffffffu); }
PYDLX_HD std::int64_t position(const Wide& a) { return static_cast<std::int64_t>(a.at); }

template <int bytes>
struct ItemOf {
  using type = Narrow;
};
template <>
struct ItemOf<8> {
  using type = Wide;
};
template <class T>
using item_t = typename ItemOf<sizeof(T)>::type;

template <class T, class E = item_t<T>>
PYDLX_HD E item_of(T x, std::int64_t i, bool descending) {
  if constexpr (__is_same(E, Key<word_t<T>>))
    return {key_of(x, descending)};
  else if constexpr (sizeof(T) == 8)
    return Wide{key_of(x, descending), static_cast<std::uint64_t>(i)};
  else
    return static_cast<Narrow>(key_of(x, descending)) << 32 | static_cast<Narrow>(i);
}

// ---- sorting items
// ---------------------------------------------------------------------------------------------------------------

template <class E>
void insertion(E* a, std::int64_t n) {
  for (std::int64_t i = 1; i < n; ++i) {
    const E v = a[i];
    std::int64_t j = i;
    for (; j > 0 && before(v, a[j - 1]); --j) a[j] = a[j - 1];
    a[j] = v;
  }
}

template <class E>
void merge(const E* a, std::int64_t na, const E* b, std::int64_t nb, E* out) {
  std::int64_t i = 0, j = 0, o = 0;
  while (i < na && j < nb) {
    const bool second = before(b[j], a[i]);
    out[o++] = second ? b[j] : a[i];
    j += second;
    i += !second;
  }
  while (i < na) out[o++] = a[i++];
  while (j < nb) out[o++] = b[j++];
}

// Sorts a[n] with the help of b[n]; the result is in a.
template <class E>
void merge_sort(E* a, E* b, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kRun) insertion(a + i, n - i < kRun ? n - i : kRun);
  E *from = a, *to = b;
  for (std::int64_t w = kRun; w < n; w *= 2) {
    for (std::int64_t i = 0; i < n; i += 2 * w) {
      const std::int64_t na = n - i < w ? n - i : w, nb = n - i - na < w ? n - i - na : w;
      merge(from + i, na, from + i + na, nb, to + i);
    }
    E* t = from;
    from = to;
    to = t;
  }
  if (from != a) std::memcpy(static_cast<void*>(a), from, static_cast<std::size_t>(n) * sizeof(E));
}

template <class E>
void radix_sort(E* a, E* b, std::int64_t n) {
  constexpr int digits = kDigits<E>;
  std::uint32_t count[digits][256] = {};
  for (std::int64_t i = 0; i < n; ++i)
    for (int d = 0; d < digits; ++d) ++count[d][digit(a[i], d)];
  E *from = a, *to = b;
  for (int d = 0; d < digits; ++d) {
    if (count[d][digit(a[0], d)] == static_cast<std::uint32_t>(n)) continue;  // all keys agree in this byte
    std::uint32_t at = 0;
    for (auto& c : count[d]) {
      const std::uint32_t m = c;
      c = at;
      at += m;
    }
    for (std::int64_t i = 0; i < n; ++i) to[count[d][digit(from[i], d)]++] = from[i];
    E* t = from;
    from = to;
    to = t;
  }
  if (from != a) std::memcpy(static_cast<void*>(a), from, static_cast<std::size_t>(n) * sizeof(E));
}

template <class E>
void sort_items(E* a, E* b, std::int64_t n) {
  if (n < kRadix<E>)
    merge_sort(a, b, n);
  else
    radix_sort(a, b, n);
}

// Merges a and b into out on all threads: the cut of each output block is found by bisection along its diagonal.
template <class E>
void merge_parallel(const E* a, std::int64_t na, const E* b, std::int64_t nb, E* out) {
  auto cut = [&](std::int64_t diagonal) {  // how many of the first `diagonal` results come from a
    std::int64_t low = diagonal > nb ? diagonal - nb : 0, high = diagonal < na ? diagonal : na;
    while (low < high) {
      const std::int64_t mid = (low + high) / 2;
      if (before(b[diagonal - mid - 1], a[mid]))
        high = mid;
      else
        low = mid + 1;
    }
    return low;
  };
  parallel_for(na + nb, 32768, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t i0 = cut(begin), i1 = cut(end);
    merge(a + i0, i1 - i0, b + (begin - i0), (end - i1) - (begin - i0), out + begin);
  });
}

// One long row: parts of equal length, then rounds of merges.
template <class E>
void sort_row_parallel(E* a, E* b, std::int64_t n) {
  std::int64_t parts = 1;
  while (parts < num_threads() && n / (2 * parts) >= kParallelRow / 2) parts *= 2;
  const std::int64_t length = (n + parts - 1) / parts;
  parallel_for(parts, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p)
      sort_items(a + p * length, b + p * length, n - p * length < length ? n - p * length : length);
  });
  E *from = a, *to = b;
  for (std::int64_t w = length; w < n; w *= 2) {
    for (std::int64_t i = 0; i < n; i += 2 * w) {
      const std::int64_t na = n - i < w ? n - i : w, nb = n - i - na < w ? n - i - na : w;
      merge_parallel(from + i, na, from + i + na, nb, to + i);
    }
    E* t = from;
    from = to;
    to = t;
  }
  if (from != a) std::memcpy(static_cast<void*>(a), from, static_cast<std::size_t>(n) * sizeof(E));
}

// Puts the k + 1 smallest items in front, the item of rank k last among them. Quickselect with median-of-three pivots;
// a run of bad pivots falls back to sorting.
template <class E>
void select_items(E* a, E* b, std::int64_t n, std::int64_t k) {
  std::int64_t low = 0, high = n - 1;
  for (int depth = 0; high - low > 32; ++depth) {
    if (depth > 64) {
      merge_sort(a + low, b + low, high - low + 1);  // radix sort keeps the order of equal keys, which is lost here
      return;
    }
    const E x = a[low], y = a[low + (high - low) / 2], z = a[high];
    const E pivot =
        before(x, y) ? (before(y, z) ? y : (before(x, z) ? z : x)) : (before(x, z) ? x : (before(y, z) ? z : y));
    std::int64_t i = low, j = high;
    while (i <= j) {
      while (before(a[i], pivot)) ++i;
      while (before(pivot, a[j])) --j;
      if (i <= j) {
        const E t = a[i];
        a[i++] = a[j];
        a[j--] = t;
      }
    }
    if (k <= j)
      high = j;
    else if (k >= i)
      low = i;
    else
      return;
  }
  insertion(a + low, high - low + 1);
}

// ---- rows
// ------------------------------------------------------------------------------------------------------------------------

PYDLX_HD std::int64_t row_grain(std::int64_t n) { return n >= 2048 ? 1 : 2048 / (n + 1) + 1; }

std::int64_t workspace_bytes(std::int64_t n) {
  const std::int64_t items = 2 * n * static_cast<std::int64_t>(sizeof(Wide)) + 64,
                     ranks = rank::work_bytes<std::uint64_t>(n);
  return n < kRanked || items > ranks ? items : ranks;
}

template <class T, class E = item_t<T>>
PYDLX_HD E* work_items(const Sort& s) {
  return reinterpret_cast<E*>(static_cast<char*>(s.workspace) + thread_index() * s.workspace_bytes);
}

template <class T>
PYDLX_HD void write_row(const T* x, const item_t<T>* a, std::int64_t n, T* values, std::int64_t* index) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t p = position(a[i]);
    index[i] = p;
    values[i] = x[p];
  }
}

template <class T, class E>
void sort_rows_as(const Sort& s) {
  const T* in = static_cast<const T*>(s.in);
  T* out = static_cast<T*>(s.values);
  const std::int64_t n = s.n;
  const auto read = [&](const T* x, E* a, std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) a[i] = item_of<T, E>(x[i], i, s.descending);
  };
  const auto write = [&](const E* a, std::int64_t r, std::int64_t begin, std::int64_t end) {
    if constexpr (__is_same(E, item_t<T>))
      write_row(in + r * n, a + begin, end - begin, out + r * n + begin, s.index + r * n + begin);
    else
      for (std::int64_t i = begin; i < end; ++i) out[r * n + i] = value_of<T>(a[i].key, s.descending);
  };
  if (s.rows < num_threads() && n >= kParallelRow) {
    E* a = static_cast<E*>(s.workspace);
    for (std::int64_t r = 0; r < s.rows; ++r) {
      parallel_for(n, 32768, [&](std::int64_t begin, std::int64_t end) { read(in + r * n, a, begin, end); });
      sort_row_parallel(a, a + n, n);
      parallel_for(n, 32768, [&](std::int64_t begin, std::int64_t end) { write(a, r, begin, end); });
    }
    return;
  }
  parallel_for(s.rows, row_grain(n), [&](std::int64_t begin, std::int64_t end) {
    E* a = work_items<T, E>(s);
    for (std::int64_t r = begin; r < end; ++r) {
      read(in + r * n, a, 0, n);
      sort_items(a, a + n, n);
      write(a, r, 0, n);
    }
  });
}

template <class T>
void sort_rows(const Sort& s) {
  if constexpr (functors::exponent_bits<T> == 0)
    if (!s.index) return sort_rows_as<T, Key<word_t<T>>>(s);
  sort_rows_as<T, item_t<T>>(s);
}

constexpr std::int64_t kFewest = 64;  // groups of a row: a multiple of every vector's lanes

// A key that at least k keys of the row do not exceed: the k-th smallest among the minima of `groups` groups. Element i
// belongs to group i % groups, so that the minima are taken lane by lane; 8 groups for each of the k keep nearly all
// other elements above the bar.
template <class T>
__attribute__((noinline)) word_t<T> bar_of(const T* x, std::int64_t n, std::int64_t k, bool descending,
                                           std::int64_t groups, item_t<T>* items, item_t<T>* spare) {
  word_t<T>* least = reinterpret_cast<word_t<T>*>(spare);
  for (std::int64_t g = 0; g < groups; ++g) least[g] = key_of(x[g], descending);
  std::int64_t i = groups;
  for (; i + groups <= n; i += groups) {
#pragma omp simd
    for (std::int64_t g = 0; g < groups; ++g) {
      const word_t<T> key = key_of(x[i + g], descending);
      least[g] = key < least[g] ? key : least[g];
    }
  }
  for (std::int64_t g = 0; i < n; ++i, ++g) {
    const word_t<T> key = key_of(x[i], descending);
    least[g] = key < least[g] ? key : least[g];
  }
  if (k > 16) {
    for (std::int64_t g = 0; g < groups; ++g) {
      if constexpr (sizeof(T) == 8)
        items[g] = {least[g], static_cast<std::uint64_t>(g)};
      else
        items[g] = static_cast<Narrow>(least[g]) << 32 | static_cast<Narrow>(g);
    }
    select_items(items, spare, groups, k - 1);
    if constexpr (sizeof(T) == 8)
      return items[k - 1].key;
    else
      return static_cast<word_t<T>>(items[k - 1] >> 32);
  }
  word_t<T> few[16];  // the k smallest so far, in order
  for (std::int64_t g = 0, have = 0; g < groups; ++g) {
    const word_t<T> key = least[g];
    if (have == k && key >= few[k - 1]) continue;
    std::int64_t j = have < k ? have++ : k - 1;
    for (; j > 0 && few[j - 1] > key; --j) few[j] = few[j - 1];
    few[j] = key;
  }
  return few[k - 1];
}

// The items whose keys do not exceed the bar go to a, in order; of keys at the bar itself, the first k are enough.
template <class T>
__attribute__((noinline)) std::int64_t candidates(const T* x, std::int64_t n, std::int64_t k, word_t<T> bar,
                                                  bool descending, item_t<T>* a) {
  std::int64_t have = 0, equal = 0;
  word_t<T> limit = bar;
  for (std::int64_t i = 0; i < n; i += kFewest) {
    const std::int64_t m = n - i < kFewest ? n - i : kFewest;
    alignas(64) word_t<T> key[kFewest];
    unsigned any = 0;
#pragma omp simd
    for (std::int64_t j = 0; j < m; ++j) key[j] = key_of(x[i + j], descending);
    for (std::int64_t j = m; j < kFewest; ++j) key[j] = static_cast<word_t<T>>(~word_t<T>(0));
#pragma omp simd reduction(| : any)
    for (int j = 0; j < kFewest; ++j) any |= key[j] <= limit;
    if (!any) continue;
    for (std::int64_t j = 0; j < m; ++j) {
      if (key[j] > limit) continue;
      a[have++] = item_of(x[i + j], i + j, descending);
      if (key[j] == bar && ++equal == k) {
        if (bar == 0) return have;
        limit = static_cast<word_t<T>>(bar - 1);
      }
    }
  }
  return have;
}

// The k first items of the sorted row: those that do not exceed a bar, which are hardly more than k, sorted. Where k is
// not small beside the row, all items are candidates.
template <class T>
void topk_rows(const Sort& s) {
  const T* in = static_cast<const T*>(s.in);
  T* values = static_cast<T*>(s.values);
  const std::int64_t n = s.n, k = s.k;
  std::int64_t groups = kFewest;
  while (groups < 8 * k) groups *= 2;
  parallel_for(s.rows, row_grain(n), [&](std::int64_t begin, std::int64_t end) {
    using E = item_t<T>;
    E* a = work_items<T>(s);
    E* spare = a + n;
    for (std::int64_t r = begin; r < end; ++r) {
      const T* x = in + r * n;
      std::int64_t have = 0;
      if (k > 0 && n >= 2 * groups) {
        have = candidates(x, n, k, bar_of(x, n, k, s.descending, groups, a, spare), s.descending, a);
      } else {
        for (; have < n; ++have) a[have] = item_of(x[have], have, s.descending);
      }
      const bool in_order = have == k;  // selection loses the order of equal keys, which radix sort would keep
      if (!in_order && k > 0) select_items(a, spare, have, k - 1);
      if (in_order)
        sort_items(a, spare, k);
      else
        merge_sort(a, spare, k);
      write_row(x, a, k, values + r * k, s.index + r * k);
    }
  });
}

template <class T>
void kth_rows(const Sort& s) {
  const T* in = static_cast<const T*>(s.in);
  const auto rows = [&](std::int64_t begin, std::int64_t end) {
    item_t<T>* a = work_items<T>(s);
    for (std::int64_t r = begin; r < end; ++r) {
      const T* x = in + r * s.n;
      std::int64_t at = -1;
      if (functors::exponent_bits<T> > 0 && s.nan_first) at = rank::place_of(x, s.n, false, ~word_t<T>(0), 0);
      if (at < 0 && s.n >= kRanked) {
        at = rank::place_of_rank(x, s.n, s.k, s.descending, a);
      } else if (at < 0) {
        for (std::int64_t i = 0; i < s.n; ++i) a[i] = item_of(x[i], i, s.descending);
        select_items(a, a + s.n, s.n, s.k);
        at = position(a[s.k]);
      }
      s.index[r] = at;
      static_cast<T*>(s.values)[r] = x[at];
    }
  };
  if (s.rows < num_threads() && s.n >= kParallelRow)
    rows(0, s.rows);
  else
    parallel_for(s.rows, row_grain(s.n), rows);
}

// For `lanes` values, how many of n sorted elements come before each: those for which passes(lane, position) holds, a
// prefix. As many steps for every value, without branches on the data, which would be mispredicted half of the time;
// several searches at once hide the latency of their loads.
template <int lanes, class F>
inline __attribute__((always_inline)) void prefix_lengths(std::int64_t n, const F& passes, std::int64_t* out) {
  std::int64_t low[lanes] = {};
  for (; n > 1; n -= n / 2)
#pragma GCC unroll 8
    for (int l = 0; l < lanes; ++l) low[l] += -static_cast<std::int64_t>(passes(l, low[l] + n / 2 - 1)) & (n / 2);
  for (int l = 0; l < lanes; ++l) out[l] = n == 1 ? low[l] + static_cast<std::int64_t>(passes(l, low[l])) : low[l];
}

template <class T>
void search(const SearchSorted& s) {
  parallel_for(s.rows * s.m, 1024, [&](std::int64_t begin, std::int64_t end) {
    constexpr int lanes = 4;
    const bool right = s.right;
    for (std::int64_t i = begin; i < end;) {
      const std::int64_t row = s.sorted_rows == 1 ? 0 : i / s.m, stop = s.sorted_rows == 1 ? end : (row + 1) * s.m;
      const T *x = static_cast<const T*>(s.sorted) + row * s.n, *v = static_cast<const T*>(s.values) + i;
      const std::int64_t* order = s.sorter ? s.sorter + row * s.n : nullptr;
      if constexpr (!__is_same(T, Half) && !__is_same(T, BFloat16)) {
        if (!order && i + lanes <= stop && i + lanes <= end) {
          bool nan = false;
          for (int l = 0; l < lanes; ++l) nan |= is_nan(v[l]);
          if (!nan) {  // comparisons order everything but a NaN sought for as keys do
            prefix_lengths<lanes>(
                s.n,
                [=](int l, std::int64_t at)
                    __attribute__((always_inline)) { return (x[at] < v[l]) | (right & (x[at] == v[l])); },
                s.out + i);
            i += lanes;
            continue;
          }
        }
      }
      const auto by_keys = [&]<int count>() __attribute__((always_inline)) {
        word_t<T> key[count];
        for (int l = 0; l < count; ++l) key[l] = key_of(v[l], false);
        prefix_lengths<count>(
            s.n,
            [&](int l, std::int64_t at) __attribute__((always_inline)) {
              const word_t<T> k = key_of(x[order ? order[at] : at], false);
              return (k < key[l]) | (right & (k == key[l]));
            },
            s.out + i);
        i += count;
      };
      if (i + lanes <= stop && i + lanes <= end)
        by_keys.template operator()<lanes>();
      else
        by_keys.template operator()<1>();
    }
  });
}

}  // namespace

void register_sort(KernelTable& t) {
  SortKernels& s = family<SortKernels>(t);
  s.workspace_bytes = workspace_bytes;
  each_type(AllTypes{}, [&]<class T>() {
    using U = functors::stored_t<T>;
    s.sort[idx<T>] = sort_rows<U>;
    s.topk[idx<T>] = topk_rows<U>;
    s.kth[idx<T>] = kth_rows<U>;
    s.search[idx<T>] = search<U>;
  });
}

}  // namespace pydlx::PYDLX_ISA
