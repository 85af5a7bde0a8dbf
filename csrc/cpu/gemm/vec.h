// The widest vector of the instruction set this file is compiled for, through GCC's vector extension, plus the few
// operations the extension lacks: partial loads and stores, and interleaving.
#pragma once
#include "cpu/isa.h"

#if defined(PYDLX_ISA_avx512) || defined(PYDLX_ISA_avx2)
#include <immintrin.h>
#endif

namespace pydlx::PYDLX_ISA {
namespace {

#if defined(PYDLX_ISA_avx512)
inline constexpr int kVectorBytes = 64;
#elif defined(PYDLX_ISA_avx2)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

#define PYDLX_INLINE inline __attribute__((always_inline))

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef float unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  typedef int index __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef double unaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  typedef long long index __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
inline constexpr int kLanesOf = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
PYDLX_INLINE Vector<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(p);
}
template <class T>
PYDLX_INLINE void store(T* p, Vector<T> v) {
  *reinterpret_cast<typename VectorOf<T>::unaligned*>(p) = v;
}
template <class T>
PYDLX_INLINE Vector<T> splat(T x) {
  return x - Vector<T>{};  // x - 0 is x, signed zeros included
}
template <class T>
PYDLX_INLINE Vector<T> vmax(Vector<T> a, Vector<T> b) {  // b where a is NaN
  return a > b ? a : b;
}

// A partial vector of `count` lanes, 1 <= count <= lanes; the others read as zero and are not touched in memory.
#if defined(PYDLX_ISA_avx512)
struct Lanes {
  unsigned bits;
  PYDLX_INLINE explicit Lanes(int count) : bits((1u << count) - 1u) {}
};
PYDLX_INLINE Vector<float> load_part(const float* p, Lanes m) {
  return (Vector<float>)_mm512_maskz_loadu_ps(static_cast<__mmask16>(m.bits), p);
}
PYDLX_INLINE Vector<double> load_part(const double* p, Lanes m) {
  return (Vector<double>)_mm512_maskz_loadu_pd(static_cast<__mmask8>(m.bits), p);
}
PYDLX_INLINE void store_part(float* p, Vector<float> v, Lanes m) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>(m.bits), (__m512)v);
}
PYDLX_INLINE void store_part(double* p, Vector<double> v, Lanes m) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>(m.bits), (__m512d)v);
}
#elif defined(PYDLX_ISA_avx2)
struct Lanes {
  int count;
  PYDLX_INLINE explicit Lanes(int n) : count(n) {}
  PYDLX_INLINE __m256i words() const {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  PYDLX_INLINE __m256i doubles() const {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
  }
};
PYDLX_INLINE Vector<float> load_part(const float* p, Lanes m) {
  return (Vector<float>)_mm256_maskload_ps(p, m.words());
}
PYDLX_INLINE Vector<double> load_part(const double* p, Lanes m) {
  return (Vector<double>)_mm256_maskload_pd(p, m.doubles());
}
PYDLX_INLINE void store_part(float* p, Vector<float> v, Lanes m) { _mm256_maskstore_ps(p, m.words(), (__m256)v); }
PYDLX_INLINE void store_part(double* p, Vector<double> v, Lanes m) { _mm256_maskstore_pd(p, m.doubles(), (__m256d)v); }
#else
struct Lanes {
  int count;
  PYDLX_INLINE explicit Lanes(int n) : count(n) {}
};
template <class T>
PYDLX_INLINE Vector<T> load_part_of(const T* p, Lanes m) {
  Vector<T> v{};
  for (int i = 0; i < kLanesOf<T>; ++i)
    if (i < m.count) v[i] = p[i];
  return v;
}
template <class T>
PYDLX_INLINE void store_part_of(T* p, Vector<T> v, Lanes m) {
  for (int i = 0; i < kLanesOf<T>; ++i)
    if (i < m.count) p[i] = v[i];
}
PYDLX_INLINE Vector<float> load_part(const float* p, Lanes m) { return load_part_of<float>(p, m); }
PYDLX_INLINE Vector<double> load_part(const double* p, Lanes m) { return load_part_of<double>(p, m); }
PYDLX_INLINE void store_part(float* p, Vector<float> v, Lanes m) { store_part_of<float>(p, v, m); }
PYDLX_INLINE void store_part(double* p, Vector<double> v, Lanes m) { store_part_of<double>(p, v, m); }
#endif

// The first `count` lanes, 1 <= count <= lanes.
template <class T>
PYDLX_INLINE Vector<T> load_count(const T* p, int count) {
  return count == kLanesOf<T> ? load(p) : load_part(p, Lanes(count));
}
template <class T>
PYDLX_INLINE void store_count(T* p, Vector<T> v, int count) {
  if (count == kLanesOf<T>)
    store<T>(p, v);
  else
    store_part(p, v, Lanes(count));
}

// lo: a0 b0 a1 b1 ... from the lower halves; hi: the same from the upper halves.
template <class T, int kHalf>
PYDLX_INLINE Vector<T> interleave(Vector<T> a, Vector<T> b) {
  typename VectorOf<T>::index order{};
  for (int i = 0; i < kLanesOf<T>; ++i) order[i] = kHalf * (kLanesOf<T> / 2) + i / 2 + (i % 2) * kLanesOf<T>;
  return __builtin_shuffle(a, b, order);
}

// r[i] lane j -> r[j] lane i. log2(lanes) rounds of interleaving row i with row i + lanes/2.
template <class T>
PYDLX_INLINE void transpose_square(Vector<T> (&r)[kLanesOf<T>]) {
  constexpr int n = kLanesOf<T>;
#pragma GCC unroll 4
  for (int round = 1; round < n; round *= 2) {
    Vector<T> s[n];
#pragma GCC unroll 8
    for (int i = 0; i < n / 2; ++i) {
      s[2 * i] = interleave<T, 0>(r[i], r[i + n / 2]);
      s[2 * i + 1] = interleave<T, 1>(r[i], r[i + n / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) r[i] = s[i];
  }
}

// Lane i of the result is the sum of the lanes of r[i], added by halving: ((x0 + x8) + (x4 + x12)) + ... for 16 lanes.
template <class T>
PYDLX_INLINE Vector<T> sum_each(Vector<T> (&r)[kLanesOf<T>]) {
  constexpr int n = kLanesOf<T>;
#pragma GCC unroll 4
  for (int half = n / 2; half >= 1; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) r[i] = interleave<T, 0>(r[i], r[i + half]) + interleave<T, 1>(r[i], r[i + half]);
  return r[0];
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
