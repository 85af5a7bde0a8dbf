// Rows of floats on explicit vectors. The last vector of a row is a partial one: a loop over its elements one by one
// would cost as much as the rest of a short row.
#pragma once
#include "core/parallel.h"
#include "cpu/gemm/words.h"
#include "cpu/past_caches.h"
#include "cpu/vector_math.h"

namespace pydlx::PYDLX_ISA::vmath {
namespace {

PYDLX_INLINE I lane_numbers() {
  I lane{};
  for (int i = 0; i < kWidth; ++i) lane[i] = i;
  return lane;
}
// The first `count` < kWidth elements at p; `rest` in the other lanes.
PYDLX_INLINE V load_or(const float* p, int count, float rest) {
  const V v = load_part(p, Lanes(count));
  return rest == 0.0f ? v : (lane_numbers() < count ? v : all(rest));
}

// Halves are added to halves.
PYDLX_INLINE float lane_sum(V v) {
#if defined(PYDLX_ISA_avx512)
  // In registers, and without constants that long loops would have to hold.
  const auto eight = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                     __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)eight), _mm256_extractf128_ps((__m256)eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  alignas(kVectorBytes) float lane[kWidth];
  std::memcpy(lane, &v, sizeof lane);
  for (int w = kWidth / 2; w > 0; w /= 2)
    for (int l = 0; l < w; ++l) lane[l] += lane[l + w];
  return lane[0];
#endif
}
PYDLX_INLINE float lane_max(V v) {
  alignas(kVectorBytes) float lane[kWidth];
  std::memcpy(lane, &v, sizeof lane);
  for (int w = kWidth / 2; w > 0; w /= 2)
    for (int l = 0; l < w; ++l) lane[l] = lane[l + w] > lane[l] ? lane[l + w] : lane[l];
  return lane[0];
}

// The sum over i < n of f(i, count), where f gives a vector for elements i .. i + count of the row, 0 in lanes beyond
// count; four running sums hide the latency of additions.
template <class F>
PYDLX_INLINE float sum_row(std::int64_t n, const F& f) {
  V s[4] = {};
  std::int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth)
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) s[k] += f(i + k * kWidth, kWidth);
  for (; i + kWidth <= n; i += kWidth) s[0] += f(i, kWidth);
  if (i < n) s[1] += f(i, static_cast<int>(n - i));
  return lane_sum((s[0] + s[1]) + (s[2] + s[3]));
}
// Calls f(i, count) over the row.
template <class F>
PYDLX_INLINE void each_vector(std::int64_t n, const F& f) {
  std::int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) f(i, kWidth);
  if (i < n) f(i, static_cast<int>(n - i));
}
template <class From, class To>
PYDLX_INLINE void convert_row(const From* x, To* y, std::int64_t n) {
  each_vector(n, [&](std::int64_t i, int count)
                     __attribute__((always_inline)) { store_count(y + i, load_count(x + i, count), count); });
}

// The largest element, or any where there are NaN: what is made of it is NaN in that case anyway.
PYDLX_INLINE float row_max(const float* x, std::int64_t n) {
  const V lowest = all(-__builtin_inff());
  V m[4] = {lowest, lowest, lowest, lowest};
  std::int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth)
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) m[k] = at_least(load(x + i + k * kWidth), m[k]);
  for (; i + kWidth <= n; i += kWidth) m[0] = at_least(load(x + i), m[0]);
  if (i < n) m[1] = at_least(load_or(x + i, static_cast<int>(n - i), -__builtin_inff()), m[1]);
  return lane_max(at_least(at_least(m[0], m[1]), at_least(m[2], m[3])));
}

// The sum of e^(x - m) over a row that nowhere exceeds m; `keep` writes the terms to y.
template <bool keep>
PYDLX_INLINE float row_exp_sum(const float* x, float* y, std::int64_t n, float m) {
  return sum_row(n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
    const V e = exp_nonpositive((count == kWidth ? load(x + i) : load_or(x + i, count, -__builtin_inff())) - m);
    if constexpr (keep) store_count(y + i, e, count);
    return count == kWidth ? e : (lane_numbers() < count ? e : V{});  // m may be infinite
  });
}

// Whether the rows of a result leave past the caches: as elementwise results do, where threads wait for memory.
PYDLX_INLINE bool rows_past_caches(const void* to, std::int64_t rows, std::int64_t cols) {
  return num_threads() > 1 && rows * cols * static_cast<std::int64_t>(sizeof(float)) >= kPastCaches &&
         cols % kWidth == 0 && reinterpret_cast<std::uintptr_t>(to) % kVectorBytes == 0;
}
template <bool past_caches, class T>
PYDLX_INLINE void put(T* p, V v, int count) {
  if constexpr (past_caches)
    store_past_caches<float>(p, v);
  else
    store_count(p, v, count);
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA::vmath
