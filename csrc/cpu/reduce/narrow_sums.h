// Sums of 16-bit floats. Elements are added in float32, whose rounding is far below that of a 16-bit result, for at
// most one chunk or 128 rows; those sums are carried in double like all others. No widened copy is made. Where a sum is
// infinite or NaN, the elements are added again in double: their magnitudes may have overflowed float32 on the way.
#pragma once
#ifdef __F16C__
#include <immintrin.h>
#endif

#include "cpu/reduce/fours.h"

namespace pydlx::PYDLX_ISA {
namespace {

template <class T>
concept Narrow = __is_same(T, Half) || __is_same(T, BFloat16);

constexpr int kSixteen = VectorOf<float>::lanes;
static_assert(kSixteen == 16);
typedef std::uint16_t NarrowLanes __attribute__((vector_size(32)));
typedef std::uint32_t WideLanes __attribute__((vector_size(64)));

inline __attribute__((always_inline)) vec_t<float> widened_lanes(NarrowLanes v, const BFloat16*) {
#if defined(__AVX512F__)  // GCC 12 makes four instructions of the conversion
  return (vec_t<float>)((WideLanes)_mm512_maskz_cvtepu16_epi32(0xFFFF, (__m256i)v) << 16);
#else
  return (vec_t<float>)(__builtin_convertvector(v, WideLanes) << 16);
#endif
}
inline __attribute__((always_inline)) vec_t<float> widened_lanes(NarrowLanes v, const Half*) {
#if defined(__AVX512F__)
  return (vec_t<float>)_mm512_maskz_cvtph_ps(0xFFFF, (__m256i)v);
#elif defined(__F16C__)
  const Eight low = (Eight)_mm256_cvtph_ps(_mm256_castsi256_si128((__m256i)v)),
              high = (Eight)_mm256_cvtph_ps(_mm256_extracti128_si256((__m256i)v, 1));
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  vec_t<float> wide;
  for (int i = 0; i < kSixteen; ++i) wide[i] = half_bits_to_float(v[i]);
  return wide;
#endif
}
template <Narrow T>
inline __attribute__((always_inline)) vec_t<float> load_narrow(const T* p) {
  NarrowLanes v;
  std::memcpy(&v, p, sizeof v);
  return widened_lanes(v, p);
}
// The first `count` elements, then zeros.
template <Narrow T>
inline __attribute__((always_inline)) vec_t<float> load_narrow(const T* p, std::int64_t count) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  return widened_lanes((NarrowLanes)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1u), p), p);
#else
  NarrowLanes v{};
  for (int i = 0; i < kSixteen - 1; ++i)
    if (i < count) v[i] = p[i].bits;
  return widened_lanes(v, p);
#endif
}

template <class F, class T>
__attribute__((noinline)) double sum_narrow_in_double(const T* x, std::int64_t n, std::int64_t stride) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(F::map(static_cast<float>(x[i * stride])));
  return sum;
}

template <Fours F, Narrow T>
struct RowForm<F, double, T> {
  static inline __attribute__((always_inline)) double fold(const T* x, std::int64_t n) {
    vec_t<float> a[4] = {};
    std::int64_t i = 0;
    for (; i + 4 * kSixteen <= n; i += 4 * kSixteen)
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) a[k] += F::map(load_narrow(x + i + k * kSixteen));
    for (; i + kSixteen <= n; i += kSixteen) a[0] += F::map(load_narrow(x + i));
    if (i < n) a[1] += F::map(load_narrow(x + i, n - i));
    const vec_t<float> v = (a[0] + a[1]) + (a[2] + a[3]);
    typedef float Four __attribute__((vector_size(16)));
    const Eight e = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                    __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    const Four q = __builtin_shufflevector(e, e, 0, 1, 2, 3) + __builtin_shufflevector(e, e, 4, 5, 6, 7);
    const double sum = static_cast<double>((q[0] + q[1]) + (q[2] + q[3]));
    return finite(sum) ? sum : sum_narrow_in_double<F>(x, n, 1);
  }
};

template <Fours F, Narrow T>
struct ColumnForm<F, double, T> {
  // At most kRows rows of kColumns columns.
  static void fold(const T* x, std::int64_t rows, std::int64_t row_stride, int width, double* part) {
    alignas(64) float sums[kColumns];
    const std::int64_t whole = width / kSixteen * kSixteen, rest = width - whole;
    const auto strip = [&]<int kTogether>(std::int64_t i) __attribute__((always_inline)) {
      const T* p = x + i * row_stride;
      const auto add = [&](std::int64_t l, auto read) __attribute__((always_inline)) {
        vec_t<float> v[kTogether];
#pragma GCC unroll 8
        for (int k = 0; k < kTogether; ++k) v[k] = F::map(read(p + k * row_stride + l));
#pragma GCC unroll 3
        for (int step = 1; step < kTogether; step *= 2)
#pragma GCC unroll 8
          for (int k = 0; k < kTogether; k += 2 * step) v[k] += v[k + step];
        if (i > 0) v[0] += load<float>(sums + l);
        std::memcpy(sums + l, &v[0], sizeof v[0]);
      };
      for (std::int64_t l = 0; l < whole; l += kSixteen)
        add(l, [](const T* q) __attribute__((always_inline)) { return load_narrow(q); });
      if (rest > 0) add(whole, [&](const T* q) __attribute__((always_inline)) { return load_narrow(q, rest); });
    };
    std::int64_t i = 0;
    for (; i + 8 <= rows; i += 8) strip.template operator()<8>(i);
    for (; i < rows; ++i) strip.template operator()<1>(i);
    bool all = true;
    for (int l = 0; l < width; ++l) {
      part[l] = static_cast<double>(sums[l]);
      all &= finite(part[l]);
    }
    if (all) return;
    for (int l = 0; l < width; ++l)
      if (!finite(part[l])) part[l] = sum_narrow_in_double<F>(x + l, rows, row_stride);
  }
};

}  // namespace
}  // namespace pydlx::PYDLX_ISA
