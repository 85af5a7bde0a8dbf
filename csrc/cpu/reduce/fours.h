// Sums of float32 carried in double: converting every element costs more than the memory does once data come from a
// cache (80 GB/s where 200 can be read), so four elements are added in float32 and their sum is converted. Two
// roundings are the price: the error is at most 2^-23 of the sum of magnitudes before the result is rounded. In short
// sums, where that would show most, every element is converted; four numbers that overflow together are added again in
// double.
#pragma once
#include "cpu/reduce/fold.h"

namespace pydlx::PYDLX_ISA {
namespace {

template <class F>
concept Fours = F::fours;

typedef float Eight __attribute__((vector_size(32)));

inline __attribute__((always_inline)) vec_t<double> widened(Eight v) {
#ifdef __AVX512F__
  return (vec_t<double>)_mm512_maskz_cvtps_pd(0xFF, (__m256)v);
#else
  return __builtin_convertvector(v, vec_t<double>);
#endif
}
inline __attribute__((always_inline)) vec_t<double> widened_sum(vec_t<float> v) {
  return widened(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7)) +
         widened(__builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
}

constexpr std::int64_t kAhead = 512;                     // elements asked for before they are needed
constexpr std::int64_t kShortRow = 256, kFewRows = 128;  // shorter sums are carried in double altogether
constexpr std::int64_t kVeryFewRows = 8;                 // are walked down, not along

inline __attribute__((always_inline)) bool finite(double x) { return x - x == 0; }

// The same elements, each converted. Rare: some of them are infinite or NaN, or overflow as a group.
template <class F>
__attribute__((noinline)) double sum_each_in_double(const float* x, std::int64_t n, std::int64_t stride) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(F::map(x[i * stride]));
  return sum;
}

template <Fours F>
struct RowForm<F, double, float> {
  static constexpr int kVector = VectorOf<float>::lanes, kGroup = 4 * kVector;

  static inline __attribute__((always_inline)) vec_t<double> four(const float* x) {
    return widened_sum((F::map(load<float>(x)) + F::map(load<float>(x + kVector))) +
                       (F::map(load<float>(x + 2 * kVector)) + F::map(load<float>(x + 3 * kVector))));
  }
  // From memory half by half: taking a vector apart would cost another instruction.
  static inline __attribute__((always_inline)) vec_t<double> sixteen(const float* x) {
    Eight low, high;
    std::memcpy(&low, x, sizeof low);
    std::memcpy(&high, x + kVector / 2, sizeof high);
    return widened(F::map(low)) + widened(F::map(high));
  }
  static double fold(const float* x, std::int64_t n) {
    double sum = 0;
    std::int64_t i = 0;
    if (n >= kVector) {
      vec_t<double> a{}, b{};
      if (n >= kShortRow) {
        for (; i + 2 * kGroup <= n; i += 2 * kGroup) {
          // The hardware's prefetchers begin anew in every row and page.
          for (int k = 0; k < 2 * kGroup; k += kVector) __builtin_prefetch(x + i + kAhead + k);
          a += four(x + i), b += four(x + i + kGroup);
        }
        if (i + kGroup <= n) a += four(x + i), i += kGroup;
      }
      for (; i + 2 * kVector <= n; i += 2 * kVector) {
        a += sixteen(x + i);
        b += sixteen(x + i + kVector);
      }
      if (i + kVector <= n) b += sixteen(x + i), i += kVector;
      a += b;
      typedef double Quarter __attribute__((vector_size(32)));
      typedef double Pair __attribute__((vector_size(16)));
      const Quarter q = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
      const Pair p = __builtin_shufflevector(q, q, 0, 1) + __builtin_shufflevector(q, q, 2, 3);
      sum = p[0] + p[1];
    }
    for (; i < n; ++i) sum += static_cast<double>(F::map(x[i]));
    return finite(sum) ? sum : sum_each_in_double<F>(x, n, 1);
  }
};

template <Fours F>
struct ColumnForm<F, double, float> {
  // Sums that stay in registers.
  static void fold_few(const float* x, std::int64_t rows, std::int64_t row_stride, int width, double* part) {
    constexpr int kLanes = VectorOf<double>::lanes, kTogether = 4 * kLanes;
    int l = 0;
    for (; l + kTogether <= width; l += kTogether) {
      vec_t<double> sum[4] = {};
      for (std::int64_t i = 0; i < rows; ++i)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) sum[k] += F::map(load<double>(x + i * row_stride + l + k * kLanes));
      std::memcpy(part + l, sum, sizeof sum);
    }
    for (; l < width; ++l) {
      part[l] = 0;
      for (std::int64_t i = 0; i < rows; ++i) part[l] += static_cast<double>(F::map(x[i * row_stride + l]));
    }
  }
  static void fold(const float* x, std::int64_t rows, std::int64_t row_stride, int width, double* part) {
    if (rows <= kVeryFewRows) return fold_few(x, rows, row_stride, width, part);
    for (int l = 0; l < width; ++l) part[l] = 0;
    std::int64_t i = 0;
    for (; rows >= kFewRows && i + 8 <= rows; i += 8) {
      const float *p0 = x + i * row_stride, *p1 = p0 + row_stride, *p2 = p1 + row_stride, *p3 = p2 + row_stride,
                  *p4 = p3 + row_stride, *p5 = p4 + row_stride, *p6 = p5 + row_stride, *p7 = p6 + row_stride;
#pragma omp simd
      for (int l = 0; l < width; ++l)
        part[l] += static_cast<double>((F::map(p0[l]) + F::map(p1[l])) + (F::map(p2[l]) + F::map(p3[l]))) +
                   static_cast<double>((F::map(p4[l]) + F::map(p5[l])) + (F::map(p6[l]) + F::map(p7[l])));
    }
    for (; i + 4 <= rows; i += 4) {
      const float *p0 = x + i * row_stride, *p1 = p0 + row_stride, *p2 = p1 + row_stride, *p3 = p2 + row_stride;
#pragma omp simd
      for (int l = 0; l < width; ++l)
        part[l] += (static_cast<double>(F::map(p0[l])) + static_cast<double>(F::map(p1[l]))) +
                   (static_cast<double>(F::map(p2[l])) + static_cast<double>(F::map(p3[l])));
    }
    for (; i < rows; ++i) {
      const float* p = x + i * row_stride;
      for (int l = 0; l < width; ++l) part[l] += static_cast<double>(F::map(p[l]));
    }
    if (rows < kFewRows) return;
    bool all = true;
    for (int l = 0; l < width; ++l) all &= finite(part[l]);
    if (all) return;
    for (int l = 0; l < width; ++l)
      if (!finite(part[l])) part[l] = sum_each_in_double<F>(x + l, rows, row_stride);
  }
};

}  // namespace
}  // namespace pydlx::PYDLX_ISA
