// Rows of bool, eight at a time. Bytes that a view or another library made bool may hold more than 0 or 1.
#pragma once
#if defined(__AVX512BW__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

namespace pydlx::PYDLX_ISA {
namespace {
namespace flags {

// A byte of 1 for each that is not 0.
inline std::uint64_t eight(const std::uint8_t* flags) {
  constexpr std::uint64_t low = 0x7f7f7f7f7f7f7f7f, ones = 0x0101010101010101;
  std::uint64_t word;
  std::memcpy(&word, flags, sizeof word);
  return (((word & low) + low) | word) >> 7 & ones;
}

inline std::int64_t count(const std::uint8_t* flags, std::int64_t n) {
  std::int64_t sum = 0, i = 0;
  for (; i + 8 <= n; i += 8) sum += __builtin_popcountll(eight(flags + i));
  for (; i < n; ++i) sum += flags[i] != 0;
  return sum;
}

// The places `first`, `first` + 1, ... of the flags that are set; returns how many. No branch on a single flag: random
// ones would be mispredicted half the time. `found` has room for n + kSlack.
constexpr std::int64_t kSlack = 8;
inline std::int64_t places(const std::uint8_t* flags, std::int64_t n, std::int64_t first, std::int64_t* found) {
  std::int64_t count = 0, i = 0;
#if defined(__AVX512BW__)
  const __m512i eight_more = _mm512_set1_epi64(8);
  for (; i + 64 <= n; i += 64) {
    const __m512i part = _mm512_loadu_si512(flags + i);
    std::uint64_t set = _mm512_test_epi8_mask(part, part);
    __m512i at = _mm512_add_epi64(_mm512_set1_epi64(first + i), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
    for (; set != 0; set >>= 8, at = _mm512_add_epi64(at, eight_more)) {
      // Compressed in a register: compressed into memory takes much longer.
      _mm512_storeu_si512(found + count, _mm512_maskz_compress_epi64(static_cast<__mmask8>(set), at));
      count += __builtin_popcountll(set & 255);
    }
  }
#endif
  for (; i < n; ++i) {
    found[count] = first + i;
    count += flags[i] != 0;
  }
  return count;
}

}  // namespace flags
}  // namespace
}  // namespace pydlx::PYDLX_ISA
