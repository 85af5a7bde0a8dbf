// Cross-entropy and negative log-likelihood. Cross-entropy keeps one log-sum-exp per row; probabilities are never
// stored: backward writes (p - onehot) g in one pass. Rows with inner > 1 (segmentation maps) go through 64 columns at
// a time.
#include "kernels/loss.h"

#include "cpu/first_bad.h"
#include "cpu/isa.h"
#include "cpu/past_caches.h"
#include "cpu/vector_columns.h"
#include "functors/math.h"
#include "functors/types.h"

namespace pydlx::PYDLX_ISA {
namespace {

using functors::compute_t;

constexpr int kLanes = 32;
constexpr int kColumns = 64;
constexpr std::int64_t kStreamed = std::int64_t{16} << 20;  // elements of a gradient that no cache holds

std::int64_t grain_for(std::int64_t work) { return work >= 8192 ? 1 : 8192 / (work + 1) + 1; }

// log(sum) is needed once per row; libm's is accurate and not inline.
inline __attribute__((always_inline)) float log_of(float x) { return __builtin_logf(x); }
inline __attribute__((always_inline)) double log_of(double x) { return __builtin_log(x); }

struct Target {
  std::int64_t index;
  bool ignored;
};
template <class K>
inline __attribute__((always_inline)) Target target_of(const K& k, std::int64_t row, FirstBad& bad) {
  const std::int64_t t = k.target[row];
  if (t == k.ignore_index) return {0, true};
  if (t < 0 || t >= k.classes) {
    bad.note(row);
    return {0, true};
  }
  return {t, false};
}

// The loss of one row from its maximum, the logarithm of the sum of exp(x - max), and the weighted sum of x - max.
template <class A>
struct RowTotals {
  A max, log_sum, smooth;
};
template <class T, class A>
inline __attribute__((always_inline)) void finish_row(const CrossEntropy& k, std::int64_t row, const T* x,
                                                      std::int64_t stride, Target t, const RowTotals<A>& r,
                                                      A total_weight) {
  const A* w = static_cast<const A*>(k.weight);
  static_cast<A*>(k.lse)[row] = r.max + r.log_sum;
  A loss = 0, weight = 0;
  if (!t.ignored) {
    weight = w ? w[t.index] : A(1);
    // A class of weight 0 takes no part, even with an infinite logit.
    if (weight != 0)
      loss = static_cast<A>(1 - k.smoothing) * weight * (r.log_sum - (static_cast<A>(x[t.index * stride]) - r.max));
    if (k.smoothing > 0)
      loss += static_cast<A>(k.smoothing / static_cast<double>(k.classes)) * (total_weight * r.log_sum - r.smooth);
  }
  static_cast<A*>(k.loss)[row] = loss;
  static_cast<A*>(k.row_weight)[row] = weight;
}

template <class A>
A weight_total(const CrossEntropy& k) {
  const A* w = static_cast<const A*>(k.weight);
  if (!w) return static_cast<A>(k.classes);
  A s = 0;
  for (std::int64_t c = 0; c < k.classes; ++c) s += w[c];
  return s;
}

// Rows of float, or of 16-bit floats as float, a piece in the first-level cache at a time: its maximum, then the
// exponentials relative to the largest so far, so that long rows come from memory once.
template <class T>
RowTotals<float> totals_of(const T* x, std::int64_t n) {
  constexpr std::int64_t kPiece = 4096;
  alignas(kVectorBytes) float widened[__is_same(T, float) ? 1 : kPiece];
  float max = -__builtin_inff(), sum = 0;
  for (std::int64_t i = 0; i < n; i += kPiece) {
    const std::int64_t m = n - i < kPiece ? n - i : kPiece;
    const float* piece = widened;
    if constexpr (__is_same(T, float))
      piece = x + i;
    else
      vmath::convert_row(x + i, widened, m);
    const float top = vmath::row_max(piece, m);
    if (top > max) {
      if (sum != 0) sum *= math::exp(max - top);
      max = top;
    }
    // Nothing but -inf so far: any finite reference gives the exponentials 0.
    sum += vmath::row_exp_sum<false>(piece, nullptr, m, max == -__builtin_inff() ? 0.0f : max);
  }
  return {max, log_of(sum), 0};
}
// The sum of w (x - max).
template <class T>
float smooth_total(const T* x, const float* w, std::int64_t n, float max) {
  return vmath::sum_row(n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
    const vmath::V d = load_count(x + i, count) - max, v = w ? d * load_count(w + i, count) : d;
    return count == vmath::kWidth ? v : (vmath::lane_numbers() < count ? v : vmath::V{});
  });
}
RowTotals<double> totals_of(const CrossEntropy& k, const double* x) {
  const double* w = static_cast<const double*>(k.weight);
  const std::int64_t n = k.classes;
  double top[kLanes], sum[kLanes] = {}, smooth[kLanes] = {};
  for (int l = 0; l < kLanes; ++l) top[l] = x[0];
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) top[l] = x[i + l] > top[l] ? x[i + l] : top[l];
  for (int l = 0; i < n; ++i, ++l) top[l] = x[i] > top[l] ? x[i] : top[l];
  double max = top[0];
  for (int l = 1; l < kLanes; ++l) max = top[l] > max ? top[l] : max;
  for (i = 0; i + kLanes <= n; i += kLanes) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) sum[l] += math::exp(x[i + l] - max);
  }
  for (int l = 0; i < n; ++i, ++l) sum[l] += math::exp(x[i] - max);
  if (k.smoothing > 0) {
    // The choice stands outside the loops: inside, it keeps the compiler from using vectors.
    for (i = 0; i + kLanes <= n; i += kLanes)
      if (w) {
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) smooth[l] += (x[i + l] - max) * w[i + l];
      } else {
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) smooth[l] += x[i + l] - max;
      }
    for (int l = 0; i < n; ++i, ++l) smooth[l] += (x[i] - max) * (w ? w[i] : 1.0);
  }
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) sum[l] += sum[l + width], smooth[l] += smooth[l + width];
  return {max, log_of(sum[0]), smooth[0]};
}

template <class T>
void forward_row(const CrossEntropy& k, std::int64_t row, FirstBad& bad, compute_t<T> total_weight) {
  using A = compute_t<T>;
  const T* x = static_cast<const T*>(k.x) + row * k.classes;
  RowTotals<A> r;
  if constexpr (__is_same(T, double)) {
    r = totals_of(k, x);
  } else {
    r = totals_of(x, k.classes);
    if (k.smoothing > 0) r.smooth = smooth_total(x, static_cast<const float*>(k.weight), k.classes, r.max);
  }
  finish_row<T, A>(k, row, x, 1, target_of(k, row, bad), r, total_weight);
}

// The largest element of `width` <= 64 neighbouring columns, and the sum of the exponentials relative to it.
void column_totals(const double* x, std::int64_t n, std::int64_t stride, int width, double* max, double* sum) {
  for (int l = 0; l < width; ++l) max[l] = x[l], sum[l] = 0;
  for (std::int64_t c = 1; c < n; ++c)
    for (int l = 0; l < width; ++l) max[l] = x[c * stride + l] > max[l] ? x[c * stride + l] : max[l];
  for (std::int64_t c = 0; c < n; ++c) {
#pragma omp simd
    for (int l = 0; l < width; ++l) sum[l] += math::exp(x[c * stride + l] - max[l]);
  }
}
template <int vectors, class T>
PYDLX_INLINE void column_vectors(const T* x, std::int64_t n, std::int64_t stride, int count, float* max, float* sum) {
  vmath::ColumnBuffer<vectors> buffer;
  vmath::V m[vectors], s[vectors];
  vmath::column_totals(x, n, stride, count, buffer, m, s, [](std::int64_t, int, vmath::V, vmath::V) {});
  for (int v = 0; v < vectors; ++v) {
    store_count(max + v * vmath::kWidth, m[v], count);
    store_count(sum + v * vmath::kWidth, s[v], count);
  }
}
template <class T>
void column_totals(const T* x, std::int64_t n, std::int64_t stride, int width, float* max, float* sum) {
  constexpr int kVectors = 4, kStrip = kVectors * vmath::kWidth;
  int l = 0;
  for (; l + kStrip <= width; l += kStrip) column_vectors<kVectors>(x + l, n, stride, vmath::kWidth, max + l, sum + l);
  for (; l < width; l += vmath::kWidth)
    column_vectors<1>(x + l, n, stride, width - l < vmath::kWidth ? width - l : vmath::kWidth, max + l, sum + l);
}

// Up to 64 neighbouring positions of one outer index.
template <class T>
void forward_columns(const CrossEntropy& k, std::int64_t outer, std::int64_t first, int width, FirstBad& bad,
                     compute_t<T> total_weight) {
  using A = compute_t<T>;
  const T* x = static_cast<const T*>(k.x) + outer * k.classes * k.inner + first;
  const A* w = static_cast<const A*>(k.weight);
  A max[kColumns], log_sum[kColumns], smooth[kColumns] = {};
  column_totals(x, k.classes, k.inner, width, max, log_sum);
#pragma omp simd
  for (int l = 0; l < width; ++l) log_sum[l] = math::log(log_sum[l]);
  if (k.smoothing > 0)
    for (std::int64_t c = 0; c < k.classes; ++c) {
      const A wc = w ? w[c] : A(1);
      for (int l = 0; l < width; ++l) smooth[l] += (static_cast<A>(x[c * k.inner + l]) - max[l]) * wc;
    }
  for (int l = 0; l < width; ++l) {
    const std::int64_t row = outer * k.inner + first + l;
    finish_row<T, A>(k, row, x + l, k.inner, target_of(k, row, bad), {max[l], log_sum[l], smooth[l]}, total_weight);
  }
}

template <class T>
std::int64_t cross_entropy(const CrossEntropy& k) {
  FirstBad bad;
  const auto total_weight = weight_total<compute_t<T>>(k);
  if (k.inner == 1) {
    parallel_for(k.outer, grain_for(k.classes), [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t r = b; r < e; ++r) forward_row<T>(k, r, bad, total_weight);
    });
  } else {
    const std::int64_t blocks = (k.inner + kColumns - 1) / kColumns;
    parallel_for(k.outer * blocks, grain_for(k.classes * kColumns), [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t i = b; i < e; ++i) {
        const std::int64_t first = i % blocks * kColumns;
        forward_columns<T>(k, i / blocks, first,
                           static_cast<int>(k.inner - first < kColumns ? k.inner - first : kColumns), bad,
                           total_weight);
      }
    });
  }
  return bad.position;
}

// dx = g ((1 - s) w_t (p - onehot) + s / C (W p - w)), with W the sum of the weights. As a p - b w - c onehot.
template <class A>
struct RowSlopes {
  A p, w, onehot, lse;
  std::int64_t target;
};
template <class A>
inline __attribute__((always_inline)) RowSlopes<A> slopes_of(const CrossEntropy& k, std::int64_t row, A total_weight) {
  FirstBad unused;  // targets were checked in forward
  const Target t = target_of(k, row, unused);
  const A lse = static_cast<const A*>(k.lse)[row];
  if (t.ignored) return {0, 0, 0, lse, 0};
  const A* w = static_cast<const A*>(k.weight);
  const A g = static_cast<const A*>(k.grad)[row * k.grad_stride];
  const A hard = static_cast<A>(1 - k.smoothing) * (w ? w[t.index] : A(1)),
          soft = static_cast<A>(k.smoothing / static_cast<double>(k.classes));
  return {g * (hard + soft * total_weight), g * soft, g * hard, lse, t.index};
}

// dx = p e^(x - lse) - s over a row, or - s w[i]. `past_caches`: the result is too large to be read from a cache, so it
// need not go through them.
template <bool weighted, class T>
inline __attribute__((always_inline)) void gradient_row(const T* x, T* dx, std::int64_t n, const RowSlopes<float>& r,
                                                        const float* w, bool past_caches) {
  const auto at = [&](std::int64_t i, int count) __attribute__((always_inline)) {
    const vmath::V e = r.p * vmath::exp(load_count(x + i, count) - r.lse);
    if constexpr (weighted)
      return e - r.w * load_count(w + i, count);
    else
      return e - r.w;
  };
  std::int64_t i = 0;
  if constexpr (__is_same(T, float)) {
    if (past_caches) {
      const int head = static_cast<int>(-(reinterpret_cast<std::uintptr_t>(dx) / sizeof(float)) % vmath::kWidth);
      if (head > 0 && head < n) store_count(dx, at(0, head), head), i = head;
      for (; i + vmath::kWidth <= n; i += vmath::kWidth) store_past_caches<float>(dx + i, at(i, vmath::kWidth));
      past_caches_done();
    }
  }
  for (; i + vmath::kWidth <= n; i += vmath::kWidth) store_count(dx + i, at(i, vmath::kWidth), vmath::kWidth);
  if (i < n) store_count(dx + i, at(i, static_cast<int>(n - i)), static_cast<int>(n - i));
}
template <bool weighted>
inline __attribute__((always_inline)) void gradient_row(const double* x, double* dx, std::int64_t n,
                                                        const RowSlopes<double>& r, const double* w, bool) {
#pragma omp simd
  for (std::int64_t c = 0; c < n; ++c) dx[c] = r.p * math::exp(x[c] - r.lse) - r.w * (weighted ? w[c] : 1.0);
}

// dx of up to 64 neighbouring positions of one outer index.
template <class T, bool past>
void gradient_columns(const CrossEntropy& k, std::int64_t outer, std::int64_t first, int width,
                      compute_t<T> total_weight) {
  using A = compute_t<T>;
  const std::int64_t base = outer * k.classes * k.inner + first;
  const A* w = static_cast<const A*>(k.weight);
  alignas(kVectorBytes) A p[kColumns] = {}, slope[kColumns] = {}, onehot[kColumns] = {}, lse[kColumns] = {};
  std::int64_t target[kColumns];
  for (int l = 0; l < width; ++l) {
    const RowSlopes<A> s = slopes_of<A>(k, outer * k.inner + first + l, total_weight);
    p[l] = s.p, slope[l] = s.w, onehot[l] = s.onehot, lse[l] = s.lse, target[l] = s.target;
  }
  // Classes are counted in 32 bits, which vectors of floats compare, from the first of every 2^30.
  constexpr std::int64_t kCounted = std::int64_t{1} << 30;
  for (std::int64_t c0 = 0; c0 < k.classes; c0 += kCounted) {
    alignas(kVectorBytes) std::int32_t near[kColumns] = {};
    for (int l = 0; l < width; ++l) {
      const std::int64_t ahead = target[l] - c0;
      near[l] = ahead >= 0 && ahead < kCounted ? static_cast<std::int32_t>(ahead) : -1;
    }
    for (std::int64_t c = c0; c < k.classes && c < c0 + kCounted; ++c) {
      const A wc = w ? w[c] : A(1);
      const T* x = static_cast<const T*>(k.x) + base + c * k.inner;
      T* dx = static_cast<T*>(k.dx) + base + c * k.inner;
      const auto here = static_cast<std::int32_t>(c - c0);
      // Ignored, or no gradient: zero even where x is not finite.
      if constexpr (!__is_same(T, double)) {
        for (int l = 0; l < width; l += vmath::kWidth) {
          const int count = width - l < vmath::kWidth ? width - l : vmath::kWidth;
          const vmath::V pl = load(p + l), sl = load(slope + l), hit = load(onehot + l);
          vmath::I t;
          std::memcpy(&t, near + l, sizeof t);
          const vmath::V d =
              pl * vmath::exp(load_count(x + l, count) - load(lse + l)) - sl * wc - (t == here ? hit : vmath::V{});
          vmath::put<past>(dx + l, (pl == 0.0f) & (sl == 0.0f) ? vmath::V{} : d, count);
        }
      } else {
#pragma omp simd
        for (int l = 0; l < width; ++l) {
          const A d = p[l] * math::exp(x[l] - lse[l]) - slope[l] * wc - (near[l] == here ? onehot[l] : A(0));
          dx[l] = (p[l] == 0) & (slope[l] == 0) ? A(0) : d;
        }
      }
    }
  }
}

template <class T>
void cross_entropy_backward(const CrossEntropy& k) {
  using A = compute_t<T>;
  const A total_weight = weight_total<A>(k);
  const A* w = static_cast<const A*>(k.weight);
  const bool smooth = k.smoothing > 0;
  if (k.inner == 1) {
    const bool past = k.outer * k.classes >= kStreamed;
    parallel_for(k.outer, grain_for(k.classes), [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t r = b; r < e; ++r) {
        const T* x = static_cast<const T*>(k.x) + r * k.classes;
        T* dx = static_cast<T*>(k.dx) + r * k.classes;
        const RowSlopes<A> s = slopes_of<A>(k, r, total_weight);
        if (s.p == 0 && s.w == 0) {  // ignored, or no gradient: zero even where x is not finite
          for (std::int64_t c = 0; c < k.classes; ++c) dx[c] = static_cast<T>(A(0));
          continue;
        }
        const A at_target = s.p * math::exp(static_cast<A>(x[s.target]) - s.lse) - s.onehot -
                            (smooth ? s.w * (w ? w[s.target] : A(1)) : A(0));
        // s.w is 0 without smoothing.
        if (smooth && w)
          gradient_row<true>(x, dx, k.classes, s, w, past);
        else
          gradient_row<false>(x, dx, k.classes, s, w, past);
        dx[s.target] = static_cast<T>(at_target);
      }
    });
    return;
  }
  const std::int64_t blocks = (k.inner + kColumns - 1) / kColumns;
  bool past = false;
  if constexpr (__is_same(T, float)) past = vmath::rows_past_caches(k.dx, k.outer * k.classes, k.inner);
  const auto block = past ? gradient_columns<T, __is_same(T, float)> : gradient_columns<T, false>;
  parallel_for(k.outer * blocks, grain_for(k.classes * kColumns), [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t i = b; i < e; ++i) {
      const std::int64_t first = i % blocks * kColumns;
      block(k, i / blocks, first, static_cast<int>(k.inner - first < kColumns ? k.inner - first : kColumns),
            total_weight);
    }
    if (past) past_caches_done();
  });
}

template <class T>
std::int64_t nll_loss(const NllLoss& k) {
  using A = compute_t<T>;
  FirstBad bad;
  const T* x = static_cast<const T*>(k.x);
  const A* w = static_cast<const A*>(k.weight);
  parallel_for(k.outer * k.inner, 4096, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t r = b; r < e; ++r) {
      const Target t = target_of(k, r, bad);
      const A weight = t.ignored ? A(0) : w ? w[t.index] : A(1);
      static_cast<T*>(k.loss)[r] = static_cast<T>(
          t.ignored ? A(0) : -weight * static_cast<A>(x[(r / k.inner * k.classes + t.index) * k.inner + r % k.inner]));
      static_cast<A*>(k.row_weight)[r] = weight;
    }
  });
  return bad.position;
}

template <class T>
void nll_loss_backward(const NllLoss& k) {
  using A = compute_t<T>;
  T* dx = static_cast<T*>(k.dx);
  const T* g = static_cast<const T*>(k.grad);
  const A* w = static_cast<const A*>(k.weight);
  parallel_for(k.outer, grain_for(k.classes * k.inner), [&](std::int64_t b, std::int64_t e) {
    FirstBad unused;
    for (std::int64_t o = b; o < e; ++o) {
      std::memset(static_cast<void*>(dx + o * k.classes * k.inner), 0,
                  static_cast<std::size_t>(k.classes * k.inner) * sizeof(T));
      for (std::int64_t i = 0; i < k.inner; ++i) {
        const std::int64_t r = o * k.inner + i;
        const Target t = target_of(k, r, unused);
        if (!t.ignored)
          dx[(o * k.classes + t.index) * k.inner + i] = static_cast<T>(-(w ? w[t.index] : A(1)) * static_cast<A>(g[r]));
      }
    }
  });
}

}  // namespace

void register_loss(KernelTable& t) {
  LossKernels& k = family<LossKernels>(t);
  each_type(FloatTypes{}, [&]<class T>() {
    k.cross_entropy[idx<T>] = cross_entropy<T>;
    k.cross_entropy_backward[idx<T>] = cross_entropy_backward<T>;
    k.nll_loss[idx<T>] = nll_loss<T>;
    k.nll_loss_backward[idx<T>] = nll_loss_backward<T>;
  });
}

}  // namespace pydlx::PYDLX_ISA
