// The element of a given rank in a row: its key digit by digit from the top, each time among those that share the
// digits above (radix selection: Alabi et al., "Fast k-selection algorithms for graphics processing units", 2012), then
// its place.
#pragma once
#include <cstdint>
#include <cstring>

#include "cpu/isa.h"
#include "functors/sort_key.h"

namespace pydlx::PYDLX_ISA {
namespace {
namespace rank {

using functors::key_of;
using functors::word_t;

constexpr int kDigitBits = 11;
constexpr std::int64_t kKeys = 64;  // made at once, with vectors
constexpr std::int64_t kFew = 32;   // are sorted instead
constexpr std::int64_t kMostParts = 32, kPart = 32768;
using Counts = std::int64_t[1 << kDigitBits];

// Threads that a row is worth.
constexpr std::int64_t parts_of(std::int64_t n) {
  return n < 2 * kPart ? 1 : (n / kPart < kMostParts ? n / kPart : kMostParts);
}
// Bytes of working memory for a row: two lists of keys, and counts.
template <class T>
constexpr std::int64_t work_bytes(std::int64_t n) {
  return 2 * n * static_cast<std::int64_t>(sizeof(T)) + parts_of(n) * static_cast<std::int64_t>(sizeof(Counts)) + 64;
}

// Calls fn(first, keys, how many) for blocks of elements begin .. end.
template <class T, class F>
inline __attribute__((always_inline)) void each_block(const T* x, std::int64_t begin, std::int64_t end, bool descending,
                                                      const F& fn) {
  alignas(64) word_t<T> key[kKeys];
  for (std::int64_t i = begin; i < end; i += kKeys) {
    const std::int64_t m = end - i < kKeys ? end - i : kKeys;
    if (m == kKeys) {
#pragma omp simd
      for (std::int64_t j = 0; j < kKeys; ++j) key[j] = key_of(x[i + j], descending);
    } else {
      for (std::int64_t j = 0; j < m; ++j) key[j] = key_of(x[i + j], descending);
    }
    if (!fn(i, key, m)) return;
  }
}

// The place of the element that has `earlier` others with the same key before it, or -1.
template <class T>
__attribute__((noinline)) std::int64_t place_of(const T* x, std::int64_t n, bool descending, word_t<T> wanted,
                                                std::int64_t earlier) {
  std::int64_t place = -1;
  each_block(x, 0, n, descending, [&](std::int64_t first, const word_t<T>* key, std::int64_t m) {
    std::int64_t equal = 0;
    if (m == kKeys) {
#pragma omp simd reduction(+ : equal)
      for (std::int64_t j = 0; j < kKeys; ++j) equal += key[j] == wanted;
      if (equal <= earlier) {
        earlier -= equal;
        return true;
      }
    }
    for (std::int64_t j = 0; j < m; ++j)
      if (key[j] == wanted && earlier-- == 0) {
        place = first + j;
        return false;
      }
    return true;
  });
  return place;
}

template <class T>
__attribute__((noinline)) void count_digits(const T* x, std::int64_t begin, std::int64_t end, bool descending,
                                            int shift, unsigned mask, std::int64_t* counts) {
  // Two tables, so that neighbours with equal digits do not wait for each other.
  std::uint32_t count[2][1 << kDigitBits] = {};
  for (std::int64_t b = begin; b < end;) {
    const std::int64_t e = end - b < (std::int64_t{1} << 31) ? end : b + (std::int64_t{1} << 31);
    each_block(x, b, e, descending, [&](std::int64_t, const word_t<T>* key, std::int64_t m) {
      std::int64_t j = 0;
      for (; j + 2 <= m; j += 2) {
        ++count[0][static_cast<unsigned>(key[j] >> shift) & mask];
        ++count[1][static_cast<unsigned>(key[j + 1] >> shift) & mask];
      }
      if (j < m) ++count[0][static_cast<unsigned>(key[j] >> shift) & mask];
      return true;
    });
    for (unsigned d = 0; d <= mask; ++d) {
      counts[d] = (b == begin ? 0 : counts[d]) + count[0][d] + count[1][d];
      count[0][d] = count[1][d] = 0;
    }
    b = e;
  }
}

// Finds the digit of the key of rank k, which becomes its rank among those that have this digit; these go to `out`, if
// they are not all. Returns how many they are.
template <class T>
std::int64_t keep_digit(const T* x, std::int64_t n, bool descending, int shift, unsigned mask, std::int64_t& k,
                        unsigned& digit, word_t<T>* out, Counts* counts) {
  const std::int64_t most = in_parallel_region() ? 1 : num_threads(), parts = parts_of(n) < most ? parts_of(n) : most;
  const std::int64_t length = (n + parts - 1) / parts;
  const auto each_part = [&](const auto& fn) {
    parallel_for(parts, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) fn(p, p * length, (p + 1) * length < n ? (p + 1) * length : n);
    });
  };
  each_part([&](std::int64_t p, std::int64_t begin, std::int64_t end) {
    count_digits(x, begin, end, descending, shift, mask, counts[p]);
  });
  std::int64_t before = 0, same = 0;
  for (digit = 0;; ++digit) {
    same = 0;
    for (std::int64_t p = 0; p < parts; ++p) same += counts[p][digit];
    if (k < before + same) break;
    before += same;
  }
  k -= before;
  if (shift == 0 || same == n) return same;
  std::int64_t to[kMostParts];
  for (std::int64_t p = 0, at = 0; p < parts; ++p) to[p] = at, at += counts[p][digit];
  each_part([&](std::int64_t p, std::int64_t begin, std::int64_t end) {
    word_t<T>* o = out + to[p];
    each_block(x, begin, end, descending, [&](std::int64_t, const word_t<T>* key, std::int64_t m) {
      unsigned any = 0;
      if (m == kKeys)
#pragma omp simd reduction(| : any)
        for (std::int64_t j = 0; j < kKeys; ++j) any |= (static_cast<unsigned>(key[j] >> shift) & mask) == digit;
      if (m == kKeys && !any) return true;
      alignas(64) word_t<T> kept[kKeys];  // without branches, which would often be mispredicted
      std::int64_t count = 0;
      for (std::int64_t j = 0; j < m; ++j) {
        kept[count] = key[j];
        count += (static_cast<unsigned>(key[j] >> shift) & mask) == digit;
      }
      std::memcpy(o, kept, static_cast<std::size_t>(count) * sizeof(word_t<T>));
      o += count;
      return true;
    });
  });
  return same;
}

// The place of the element of 0-based rank k in the sorted row of more than kFew; of equal elements, the earlier come
// first. `work`: work_bytes(n) of memory.
template <class T>
std::int64_t place_of_rank(const T* x, std::int64_t n, std::int64_t k, bool descending, void* work) {
  using U = word_t<T>;
  constexpr int kBits = 8 * static_cast<int>(sizeof(U));
  auto* const counts = reinterpret_cast<Counts*>((reinterpret_cast<std::uintptr_t>(work) + 63) & ~std::uintptr_t{63});
  U *list = reinterpret_cast<U*>(counts + parts_of(n)), *spare = list + n, found = 0;
  std::int64_t left = n;
  for (int bits = kBits; bits > 0;) {
    const int width = bits < kDigitBits ? bits : kDigitBits, shift = bits - width;
    const unsigned mask = (1u << width) - 1u;
    unsigned digit;
    const std::int64_t all = left;
    if (all == n)  // nothing is in a list yet
      left = keep_digit(x, n, descending, shift, mask, k, digit, spare, counts);
    else
      left = keep_digit(list, all, false, shift, mask, k, digit, spare, counts);
    if (left < all) {
      U* const kept = spare;
      spare = list;
      list = kept;
    }
    found = static_cast<U>(found | static_cast<U>(digit) << shift);
    bits = shift;
    if (bits == 0 || left > kFew) continue;
    for (std::int64_t i = 1; i < left; ++i) {  // insertion
      const U key = list[i];
      std::int64_t j = i;
      for (; j > 0 && key < list[j - 1]; --j) list[j] = list[j - 1];
      list[j] = key;
    }
    found = list[k];
    std::int64_t first = k;
    while (first > 0 && list[first - 1] == found) --first;
    k -= first;
    break;
  }
  return place_of(x, n, descending, found, k);
}

}  // namespace rank
}  // namespace
}  // namespace pydlx::PYDLX_ISA
