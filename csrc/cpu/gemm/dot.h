// One row times one column. Inner products of tiles (micro.h) would compute a whole vector of results for it.
#pragma once
#include "core/parallel.h"
#include "core/verbose.h"
#include "cpu/gemm/cuts.h"
#include "kernels/gemm.h"

namespace pydlx::PYDLX_ISA {
namespace {

inline constexpr std::int64_t kDotRun = 8192;  // elements at least that one thread adds up
inline constexpr std::int64_t kDotRuns = 256;  // runs at most

template <class T>
T dot_run(const T* a, const T* b, std::int64_t n) {
  constexpr int L = kLanesOf<T>, N = 8;  // running sums hide the latency of additions
  Vector<T> sum[N] = {};
  std::int64_t i = 0;
  for (; i + N * L <= n; i += N * L)
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) sum[j] += load(a + i + j * L) * load(b + i + j * L);
  for (; i + L <= n; i += L) sum[0] += load(a + i) * load(b + i);
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    sum[1] += load_count(a + i, rest) * load_count(b + i, rest);
  }
  for (int w = N / 2; w > 0; w /= 2)
    for (int j = 0; j < w; ++j) sum[j] += sum[j + w];
  T lane[L];
  store(lane, sum[0]);
  for (int w = L / 2; w > 0; w /= 2)
    for (int l = 0; l < w; ++l) lane[l] += lane[l + w];
  return lane[0];
}

template <class T>
PYDLX_INLINE bool is_dot(const Gemm& g) {
  return g.m == 1 && g.n == 1 && g.a_col == 1 && g.b_row == 1 && g.k >= 2 * kLanesOf<T> && !g.bias &&
         g.activation == Activation::none;
}

// Runs follow from k alone and are added in order, so that the bits do not depend on the number of threads.
template <class T>
void dot_products(const Gemm& g) {
  const std::int64_t run = max_of(kDotRun, ceil_div(g.k, kDotRuns)), runs = ceil_div(g.k, run);
  const auto part = [&](std::int64_t batch, std::int64_t r) {
    const std::int64_t at = r * run;
    return dot_run(static_cast<const T*>(g.a) + batch * g.a_batch + at,
                   static_cast<const T*>(g.b) + batch * g.b_batch + at, min_of(run, g.k - at));
  };
  const auto finish = [&](std::int64_t batch, T sum) {
    T* out = static_cast<T*>(g.c) + batch * g.c_batch;
    *out = sum * static_cast<T>(g.alpha) + (g.beta != 0 ? static_cast<T>(g.beta) * *out : T(0));
  };
  if (verbose_on) [[unlikely]]
    verbose_note(": inner products of vectors, %lld runs each", static_cast<long long>(runs));
  if (g.batch > 1) {
    parallel_for(g.batch, 4 * kDotRun / g.k + 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        T sum = 0;
        for (std::int64_t r = 0; r < runs; ++r) sum += part(i, r);
        finish(i, sum);
      }
    });
    return;
  }
  T sums[kDotRuns];
  parallel_for(runs, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) sums[r] = part(0, r);
  });
  T sum = 0;
  for (std::int64_t r = 0; r < runs; ++r) sum += sums[r];
  finish(0, sum);
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
