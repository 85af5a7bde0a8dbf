// Results that are larger than any cache leave past the caches: a cache line that is overwritten as a whole need not be
// read first, and what comes next finds the operands that are still cached.
#pragma once
#include <cstring>

#include "cpu/gemm/vec.h"

namespace pydlx::PYDLX_ISA {
namespace {

// Bytes of such a result.
inline constexpr std::int64_t kPastCaches = 24 << 20;
inline constexpr std::int64_t kCacheLine = 64;

// A whole vector at a multiple of its size. past_caches_done() before other threads are told that it is there.
template <class T>
PYDLX_INLINE void store_past_caches(T* p, Vector<T> v) {
#if defined(PYDLX_ISA_avx512)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#elif defined(PYDLX_ISA_avx2)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#else
  store<T>(p, v);
#endif
}
PYDLX_INLINE void past_caches_done() {
#if defined(PYDLX_ISA_avx512) || defined(PYDLX_ISA_avx2)
  _mm_sfence();
#endif
}

// Whole cache lines that way, what is left of the last one through the caches. `to` is at a multiple of a cache line.
inline void copy_past_caches(char* to, const char* from, std::int64_t bytes) {
  std::int64_t i = 0;
  for (; i + kCacheLine <= bytes; i += kCacheLine)
#pragma GCC unroll 4
    for (int part = 0; part < kCacheLine; part += kVectorBytes)
      store_past_caches<float>(reinterpret_cast<float*>(to + i + part),
                               load(reinterpret_cast<const float*>(from + i + part)));
  std::memcpy(to + i, from + i, static_cast<std::size_t>(bytes - i));
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
