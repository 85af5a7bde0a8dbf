// How 16-bit elements become the 32-bit words that are multiplied. A policy names the element type, how many elements
// along K a word holds, and how words are read, multiplied and written back; the driver (narrow.h) does the rest.
#pragma once
#include "cpu/gemm/vec.h"

namespace pydlx::PYDLX_ISA {
namespace {

using Words = Vector<float>;  // kWords words; their lanes need not be numbers
inline constexpr int kWords = kLanesOf<float>;

// kWords elements as float32. Partial ones (1 <= count <= kWords) read zeros past `count` and touch no memory there.
#if defined(PYDLX_ISA_avx512)
PYDLX_INLINE __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
PYDLX_INLINE __m256i load_16(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
PYDLX_INLINE __m256i load_16(const void* p, int count) { return _mm256_maskz_loadu_epi16(first_lanes(count), p); }
// A mask of all lanes, where GCC 12 takes the plain intrinsic's result for uninitialized.
typedef std::uint32_t WideBits __attribute__((vector_size(64)));
PYDLX_INLINE Words widen(__m256i x, const Half*) { return (Words)_mm512_maskz_cvtph_ps(0xffff, x); }
PYDLX_INLINE Words widen(__m256i x, const BFloat16*) {
  return (Words)((WideBits)_mm512_maskz_cvtepu16_epi32(0xffff, x) << 16);
}
template <class T>
PYDLX_INLINE Words widen_load(const T* p, int count) {
  return widen(count == kWords ? load_16(p) : load_16(p, count), p);
}
PYDLX_INLINE __m256i narrow(Words v, const Half*) {
  return _mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT);
}
PYDLX_INLINE __m256i narrow(Words v, const BFloat16*) {
#if defined(__AVX512BF16__)
  return (__m256i)_mm512_cvtneps_pbh((__m512)v);
#else
  const WideBits w = (WideBits)v, rounded = (w + 0x7fffu + ((w >> 16) & 1u)) >> 16;
  return _mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)(v == v ? rounded : WideBits{} + 0x7fc0u));
#endif
}
template <class T>
PYDLX_INLINE void narrow_store(T* p, Words v, int count) {
  if (count == kWords)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v, p));
  else
    _mm256_mask_storeu_epi16(p, first_lanes(count), narrow(v, p));
}
#else
PYDLX_INLINE Words widen_whole(const Half* p) {
#if defined(PYDLX_ISA_avx2)
  return (Words)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  Words v{};
  for (int i = 0; i < kWords; ++i) v[i] = static_cast<float>(p[i]);
  return v;
#endif
}
PYDLX_INLINE Words widen_whole(const BFloat16* p) {
#if defined(PYDLX_ISA_avx2)
  return (Words)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16);
#else
  Words v{};
  for (int i = 0; i < kWords; ++i) v[i] = static_cast<float>(p[i]);
  return v;
#endif
}
template <class T>
PYDLX_INLINE Words widen_load(const T* p, int count) {
  if (count == kWords) return widen_whole(p);
  T part[kWords];
  std::memset(part, 0, sizeof part);
  for (int i = 0; i < count; ++i) part[i] = p[i];
  return widen_whole(part);
}
template <class T>
PYDLX_INLINE void narrow_whole(T* p, Words v) {
  for (int i = 0; i < kWords; ++i) p[i] = static_cast<T>(v[i]);
}
#if defined(PYDLX_ISA_avx2)
PYDLX_INLINE void narrow_whole(Half* p, Words v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
#endif
template <class T>
PYDLX_INLINE void narrow_store(T* p, Words v, int count) {
  if (count == kWords) return narrow_whole(p, v);
  T part[kWords];
  narrow_whole(part, v);
  for (int i = 0; i < count; ++i) p[i] = part[i];
}
#endif

// As of float (vec.h).
template <class T>
  requires(sizeof(T) == 2)
PYDLX_INLINE Words load_count(const T* p, int count) {
  return widen_load(p, count);
}
template <class T>
  requires(sizeof(T) == 2)
PYDLX_INLINE void store_count(T* p, Words v, int count) {
  narrow_store(p, v, count);
}

// What becomes of finished sums: c = act(alpha * sum + beta * c + bias).
template <class T>
struct Finish {
  float alpha, beta;  // beta 0: c is not read
  const T* bias;      // at the first column, or null
  bool relu;
};
template <class T>
PYDLX_INLINE void finish(Words sum, const Finish<T>& f, const T* bias, T* c, int count) {
  sum *= splat<float>(f.alpha);
  if (f.beta != 0) sum += splat<float>(f.beta) * widen_load(c, count);
  if (bias) sum += widen_load(bias, count);
  if (f.relu) sum = sum < Words{} ? Words{} : sum;  // NaN stays NaN
  narrow_store(c, sum, count);
}
template <class T>
PYDLX_INLINE void finish_row(const float* sums, std::int64_t n, const Finish<T>& f, T* c) {
  std::int64_t j = 0;
  for (; j + kWords <= n; j += kWords) finish<T>(load(sums + j), f, f.bias ? f.bias + j : nullptr, c + j, kWords);
  if (j < n) {
    const int rest = static_cast<int>(n - j);
    finish<T>(load_part(sums + j, Lanes(rest)), f, f.bias ? f.bias + j : nullptr, c + j, rest);
  }
}

// One block of C: rows x columns, `steps` words along K.
template <class T>
struct WordBlock {
  std::int64_t m, n, steps;
  const char* a;               // words
  std::int64_t a_row, a_step;  // bytes
  bool ragged;                 // the last word of a row of A, in place, has one element only
  bool ahead = false;          // rows of A are short runs of memory that no cache holds yet
  const float* b;              // panels of kTileColumns<float> columns, see pack_words_b
  float* sums;                 // over earlier blocks of K when !first, and for later ones when !last
  std::int64_t sums_row;
  bool first, last;
  T* c;
  std::int64_t c_row;
  Finish<T> end;
  // One value per row, for policies that finish in the tile: act(row_scale * (...) + row_bias).
  const T *row_bias = nullptr, *row_scale = nullptr;
};

}  // namespace
}  // namespace pydlx::PYDLX_ISA
