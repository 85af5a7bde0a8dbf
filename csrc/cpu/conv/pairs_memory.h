// What the bfloat16 convolutions have in common: how their memory is laid out, and how pixels become words.
#pragma once
#include "cpu/gemm/pairs.h"
#include "kernels/conv.h"

namespace pydlx::PYDLX_ISA {
namespace {

using T = BFloat16;

constexpr std::int64_t kColumns = kPanel;  // pixels in a tile

PYDLX_INLINE std::int64_t rounded(std::int64_t bytes) { return (bytes + 63) / 64 * 64; }
PYDLX_INLINE std::int64_t plane_of(const std::int64_t* n) { return n[1] * n[2]; }

PYDLX_INLINE char* aligned(void* p) {
  return reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(p) + 63) & ~std::uintptr_t{63});
}

// Cuts a buffer into parts that begin at whole cache lines. Of null, it tells how many bytes they need.
class Parts {
 public:
  explicit Parts(void* buffer)
      : first_((reinterpret_cast<std::uintptr_t>(buffer) + 63) & ~std::uintptr_t{63}), next_(first_) {}
  template <class U>
  U* take(std::int64_t count) {
    U* const part = reinterpret_cast<U*>(next_);
    next_ += static_cast<std::uintptr_t>(rounded(count * static_cast<std::int64_t>(sizeof(U))));
    return part;
  }
  std::int64_t bytes() const { return 64 + static_cast<std::int64_t>(next_ - first_); }

 private:
  std::uintptr_t first_, next_;
};

// Parts of a weight gradient's pixels that have sums of their own; their number follows from the geometry only.
PYDLX_INLINE std::int64_t chunks_of(std::int64_t units, std::int64_t products, std::int64_t sums_bytes) {
  constexpr std::int64_t kMost = 24, kWork = 8 << 20, kBytes = 8 << 20;
  return max_of(1, min_of(min_of(units, kMost), min_of(products / kWork, kBytes / sums_bytes)));
}
PYDLX_INLINE Words add_chunks(const float* sums, std::int64_t chunk, std::int64_t chunks) {
  Words v = load(sums);
  for (std::int64_t n = 1; n < chunks; ++n) v += load(sums + n * chunk);
  return v;
}

// Two pixels, of which one may not be there (null), -> words of their channels, up to whole lines of two vectors.
PYDLX_INLINE void join_two(const T* a, const T* b, std::int64_t channels, float* to) {
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                       5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0),
                high = _mm512_or_si512(low, _mm512_set1_epi16(16));
  for (std::int64_t j = 0; j < channels; j += 2 * kWords) {
    const std::int64_t n = channels - j;
    const auto half = [&](const T* from) __attribute__((always_inline)) {
      return !from             ? _mm512_setzero_si512()
             : n >= 2 * kWords ? _mm512_loadu_si512(from + j)
                               : _mm512_maskz_loadu_epi16((1u << n) - 1, from + j);
    };
    const __m512i u = half(a), v = half(b);
    _mm512_storeu_si512(to + j, _mm512_permutex2var_epi16(u, low, v));
    _mm512_storeu_si512(to + j + kWords, _mm512_permutex2var_epi16(u, high, v));
  }
}

// Sums [row][channel] -> w[channel][row].
PYDLX_INLINE void store_turned(const float* sums, std::int64_t width, std::int64_t rows, std::int64_t channels, T* w,
                               std::int64_t w_channel) {
  for (std::int64_t i = 0; i < rows; i += kWords)
    for (std::int64_t k = 0; k < channels; k += kWords) {
      const int count = static_cast<int>(min_of(kWords, rows - i));
      Words r[kWords];
#pragma GCC unroll 16
      for (int l = 0; l < kWords; ++l) r[l] = l < count ? load(sums + (i + l) * width + k) : Words{};
      transpose_square<float>(r);
#pragma GCC unroll 16
      for (int l = 0; l < kWords; ++l)
        if (k + l < channels) narrow_store(w + (k + l) * w_channel + i, r[l], count);
    }
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
