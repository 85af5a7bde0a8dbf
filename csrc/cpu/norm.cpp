// Layer and RMS normalisation, one row at a time while it is in the first-level cache.
#include "kernels/norm.h"

#include "cpu/isa.h"
#include "cpu/past_caches.h"
#include "cpu/vector_rows.h"
#include "functors/math.h"
#include "functors/types.h"

namespace pydlx::PYDLX_ISA {
namespace {

using functors::compute_t;

constexpr std::int64_t kLanes = 32;

template <class A, class F>
inline __attribute__((always_inline)) A lane_sum(std::int64_t n, const F& f) {
  A lane[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lane[l] += f(i + l);
  for (int l = 0; i < n; ++i, ++l) lane[l] += f(i);
  for (int w = kLanes / 2; w > 0; w /= 2)
    for (int l = 0; l < w; ++l) lane[l] += lane[l + w];
  return lane[0];
}

std::int64_t row_grain(std::int64_t cols) { return cols >= 16384 ? 1 : 16384 / (cols + 1) + 1; }

// Row r of what is normalised; a sum with a residual is made first.
template <class T>
inline __attribute__((always_inline)) const T* input_row(const LayerNormForward& k, std::int64_t r) {
  using A = compute_t<T>;
  const T* x = static_cast<const T*>(k.x) + r * k.cols;
  if (!k.residual) return x;
  const T* residual = static_cast<const T*>(k.residual) + r * k.cols;
  T* sum = static_cast<T*>(k.sum) + r * k.cols;
#pragma omp simd
  for (std::int64_t i = 0; i < k.cols; ++i) sum[i] = static_cast<T>(static_cast<A>(x[i]) + static_cast<A>(residual[i]));
  return sum;
}

// ---- rows of float on explicit vectors, the last vector of a row a partial one --------------------------------------

// Rows that pass together: the end of one row's sums (additions across lanes, a root, a division) overlaps the sums of
// the next, and what belongs to columns is loaded once for all. Every row's result is the same whatever it passes with.
constexpr int kGroup = kVectorBytes == 64 ? 4 : 2;
constexpr std::int64_t kGroupColumns = 4096;  // longer rows pass alone: a group's should not fill the second level

// Calls f.operator()<rows>(first row) over [begin, end).
template <class F>
PYDLX_INLINE void each_group(std::int64_t begin, std::int64_t end, std::int64_t cols, const F& f) {
  std::int64_t r = begin;
  for (; cols <= kGroupColumns && r + kGroup <= end; r += kGroup) f.template operator()<kGroup>(r);
  for (; r < end; ++r) f.template operator()<1>(r);
}

// The lanes of v that belong to the row.
PYDLX_INLINE vmath::V within(vmath::V v, int count) {
  return count == vmath::kWidth ? v : (vmath::lane_numbers() < count ? v : vmath::V{});
}

template <int rows, bool past_caches>
PYDLX_INLINE void forward_rows(const LayerNormForward& k, std::int64_t r) {
  using vmath::V;
  const std::int64_t n = k.cols;
  const float *w = static_cast<const float*>(k.weight), *b = static_cast<const float*>(k.bias);
  float* const y = static_cast<float*>(k.y) + r * n;
  const float* x[rows];
  float mean[rows], rstd[rows];
#pragma GCC unroll 4
  for (int j = 0; j < rows; ++j) x[j] = input_row<float>(k, r + j);
#pragma GCC unroll 4
  for (int j = 0; j < rows; ++j) {
    const auto value = [&](std::int64_t i, int count)
                           __attribute__((always_inline)) { return load_count(x[j] + i, count); };
    mean[j] = k.mean ? vmath::sum_row(n, value) / static_cast<float>(n) : 0.0f;
  }
#pragma GCC unroll 4
  for (int j = 0; j < rows; ++j) {
    const float square = vmath::sum_row(n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
      const V d = load_count(x[j] + i, count) - mean[j];
      return within(d * d, count);
    });
    rstd[j] = 1.0f / math::sqrt(square / static_cast<float>(n) + static_cast<float>(k.eps));
  }
#pragma GCC unroll 4
  for (int j = 0; j < rows; ++j) {
    if (k.mean) static_cast<float*>(k.mean)[r + j] = mean[j];
    static_cast<float*>(k.rstd)[r + j] = rstd[j];
  }
  const auto scale = [&](const auto& shift) __attribute__((always_inline)) {
    vmath::each_vector(n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
      shift(i, count, [&](const auto& finish) __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int j = 0; j < rows; ++j)
          vmath::put<past_caches>(y + j * n + i, finish((load_count(x[j] + i, count) - mean[j]) * rstd[j]), count);
      });
    });
  };
  if (w && b) {
    scale([&](std::int64_t i, int count, const auto& each) __attribute__((always_inline)) {
      const V wi = load_count(w + i, count), bi = load_count(b + i, count);
      each([&](V v) __attribute__((always_inline)) { return v * wi + bi; });
    });
  } else if (w) {
    scale([&](std::int64_t i, int count, const auto& each) __attribute__((always_inline)) {
      const V wi = load_count(w + i, count);
      each([&](V v) __attribute__((always_inline)) { return v * wi; });
    });
  } else if (b) {
    scale([&](std::int64_t i, int count, const auto& each) __attribute__((always_inline)) {
      const V bi = load_count(b + i, count);
      each([&](V v) __attribute__((always_inline)) { return v + bi; });
    });
  } else {
    scale([&](std::int64_t, int, const auto& each)
              __attribute__((always_inline)) { each([&](V v) __attribute__((always_inline)) { return v; }); });
  }
}
template <bool past_caches>
void forward_range(const LayerNormForward& k, std::int64_t begin, std::int64_t end) {
  each_group(begin, end, k.cols,
             [&]<int rows>(std::int64_t r) __attribute__((always_inline)) { forward_rows<rows, past_caches>(k, r); });
  if (past_caches) past_caches_done();
}

// Everything about `rows` rows that needs one pass over dy and x: the means of h = dy weight and of h xhat, and, where
// there are `sums`, sums[0 .. cols) += dy xhat and sums[cols .. 2 cols) += dy. Two running sums per row and mean.
template <int rows, bool weighted, bool summed>
PYDLX_INLINE void backward_means(const LayerNormBackward& k, std::int64_t r, float* sums, float* mean_h,
                                 float* mean_hx) {
  using vmath::V;
  const std::int64_t n = k.cols;
  const float *dy = static_cast<const float*>(k.dy) + r * n, *x = static_cast<const float*>(k.x) + r * n,
              *w = static_cast<const float*>(k.weight);
  float m[rows], s[rows];
#pragma GCC unroll 4
  for (int j = 0; j < rows; ++j) {
    m[j] = k.mean ? static_cast<const float*>(k.mean)[r + j] : 0.0f;
    s[j] = static_cast<const float*>(k.rstd)[r + j];
  }
  V sh[rows][2] = {}, shx[rows][2] = {};
  const auto step = [&](std::int64_t i, int count, int half) __attribute__((always_inline)) {
    const V wi = weighted ? load_count(w + i, count) : V{};
    V dw{}, db{};
    if constexpr (summed) dw = load_count(sums + i, count), db = load_count(sums + n + i, count);
#pragma GCC unroll 4
    for (int j = 0; j < rows; ++j) {
      // Lanes beyond the row have dy 0, but 0 - m may leave the range of float once it is scaled.
      const V g = load_count(dy + j * n + i, count),
              xhat = within((load_count(x + j * n + i, count) - m[j]) * s[j], count), h = weighted ? g * wi : g;
      sh[j][half] += h;
      shx[j][half] += h * xhat;
      if constexpr (summed) {
        dw += g * xhat;
        db += g;
      }
    }
    if constexpr (summed) {
      store_count(sums + i, dw, count);
      store_count(sums + n + i, db, count);
    }
  };
  std::int64_t i = 0;
  for (; i + 2 * vmath::kWidth <= n; i += 2 * vmath::kWidth) {
    step(i, vmath::kWidth, 0);
    step(i + vmath::kWidth, vmath::kWidth, 1);
  }
  if (i + vmath::kWidth <= n) step(i, vmath::kWidth, 0), i += vmath::kWidth;
  if (i < n) step(i, static_cast<int>(n - i), 1);
#pragma GCC unroll 4
  for (int j = 0; j < rows; ++j) {
    mean_h[j] = k.mean ? vmath::lane_sum(sh[j][0] + sh[j][1]) / static_cast<float>(n) : 0.0f;
    mean_hx[j] = vmath::lane_sum(shx[j][0] + shx[j][1]) / static_cast<float>(n);
  }
}

// dx of one row; w and ds may be null.
template <bool weighted, bool past_caches>
PYDLX_INLINE void backward_row(const LayerNormBackward& k, std::int64_t r, float mean_h, float mean_hx) {
  using vmath::V;
  const std::int64_t n = k.cols;
  const float *dy = static_cast<const float*>(k.dy) + r * n, *x = static_cast<const float*>(k.x) + r * n,
              *w = static_cast<const float*>(k.weight),
              *ds = k.dsum ? static_cast<const float*>(k.dsum) + r * n : nullptr;
  float* dx = static_cast<float*>(k.dx) + r * n;
  const float m = k.mean ? static_cast<const float*>(k.mean)[r] : 0.0f, s = static_cast<const float*>(k.rstd)[r],
              slope = s * mean_hx;
  const auto value = [&](std::int64_t i, int count) __attribute__((always_inline)) {
    const V g = load_count(dy + i, count), h = weighted ? g * load_count(w + i, count) : g;
    return s * (h - mean_h - (load_count(x + i, count) - m) * slope);
  };
  if (ds)
    vmath::each_vector(n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
      vmath::put<past_caches>(dx + i, value(i, count) + load_count(ds + i, count), count);
    });
  else
    vmath::each_vector(n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
      vmath::put<past_caches>(dx + i, value(i, count), count);
    });
}

// Rows [begin, end), whose sums over rows join `sums`.
template <bool weighted, bool summed, bool past_caches>
void backward_range(const LayerNormBackward& k, std::int64_t begin, std::int64_t end, float* sums) {
  each_group(begin, end, k.cols, [&]<int rows>(std::int64_t r) __attribute__((always_inline)) {
    float mean_h[rows], mean_hx[rows];
    backward_means<rows, weighted, summed>(k, r, sums, mean_h, mean_hx);
    for (int j = 0; j < rows && k.dx; ++j) backward_row<weighted, past_caches>(k, r + j, mean_h[j], mean_hx[j]);
  });
  if (past_caches) past_caches_done();
}
using BackwardRange = void (*)(const LayerNormBackward&, std::int64_t, std::int64_t, float*);
BackwardRange backward_range_for(const LayerNormBackward& k) {
  const bool weighted = k.weight, summed = k.dweight || k.dbias,
             past = k.dx && vmath::rows_past_caches(k.dx, k.rows, k.cols);
  constexpr BackwardRange all[2][2][2] = {{{backward_range<false, false, false>, backward_range<false, false, true>},
                                           {backward_range<false, true, false>, backward_range<false, true, true>}},
                                          {{backward_range<true, false, false>, backward_range<true, false, true>},
                                           {backward_range<true, true, false>, backward_range<true, true, true>}}};
  return all[weighted][summed][past];
}

// ---- other types ----------------------------------------------------------------------------------------------------

template <class T>
void forward(const LayerNormForward& k) {
  using A = compute_t<T>;
  if constexpr (__is_same(T, float)) {
    const auto range = vmath::rows_past_caches(k.y, k.rows, k.cols) ? forward_range<true> : forward_range<false>;
    parallel_for(k.rows, row_grain(k.cols), [&](std::int64_t begin, std::int64_t end) { range(k, begin, end); });
    return;
  }
  const T *w = static_cast<const T*>(k.weight), *b = static_cast<const T*>(k.bias);
  parallel_for(k.rows, row_grain(k.cols), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const T* x = input_row<T>(k, r);
      T* y = static_cast<T*>(k.y) + r * k.cols;
      // Two passes: the variance is summed from centred values, so it cannot cancel.
      // RMS normalisation is the same around 0.
      const A mean =
          k.mean ? lane_sum<A>(k.cols, [&](std::int64_t i) { return static_cast<A>(x[i]); }) / static_cast<A>(k.cols)
                 : A(0);
      const A var = lane_sum<A>(k.cols,
                                [&](std::int64_t i) {
                                  const A d = static_cast<A>(x[i]) - mean;
                                  return d * d;
                                }) /
                    static_cast<A>(k.cols);
      const A rstd = A(1) / math::sqrt(var + static_cast<A>(k.eps));
      if (k.mean) static_cast<A*>(k.mean)[r] = mean;
      static_cast<A*>(k.rstd)[r] = rstd;
      if (w && b)
        for (std::int64_t i = 0; i < k.cols; ++i)
          y[i] = static_cast<T>((static_cast<A>(x[i]) - mean) * rstd * static_cast<A>(w[i]) + static_cast<A>(b[i]));
      else
        for (std::int64_t i = 0; i < k.cols; ++i) {
          A v = (static_cast<A>(x[i]) - mean) * rstd;
          if (w) v *= static_cast<A>(w[i]);
          if (b) v += static_cast<A>(b[i]);
          y[i] = static_cast<T>(v);
        }
    }
  });
}

// dx of one row from the means of h = dy weight and of h xhat.
template <class T, class A>
void backward_row(const LayerNormBackward& k, std::int64_t r) {
  const T *dy = static_cast<const T*>(k.dy) + r * k.cols, *x = static_cast<const T*>(k.x) + r * k.cols,
          *w = static_cast<const T*>(k.weight), *ds = k.dsum ? static_cast<const T*>(k.dsum) + r * k.cols : nullptr;
  T* dx = static_cast<T*>(k.dx) + r * k.cols;
  const A m = k.mean ? static_cast<const A*>(k.mean)[r] : A(0), s = static_cast<const A*>(k.rstd)[r];
  auto h = [&](std::int64_t i) { return w ? static_cast<A>(dy[i]) * static_cast<A>(w[i]) : static_cast<A>(dy[i]); };
  const A mean_h = k.mean ? lane_sum<A>(k.cols, h) / static_cast<A>(k.cols) : A(0);
  const A mean_hx = lane_sum<A>(k.cols, [&](std::int64_t i) { return h(i) * (static_cast<A>(x[i]) - m) * s; }) /
                    static_cast<A>(k.cols);
  const auto value = [&](std::int64_t i) { return s * (h(i) - mean_h - (static_cast<A>(x[i]) - m) * s * mean_hx); };
  if (ds)
    for (std::int64_t i = 0; i < k.cols; ++i) dx[i] = static_cast<T>(value(i) + static_cast<A>(ds[i]));
  else
    for (std::int64_t i = 0; i < k.cols; ++i) dx[i] = static_cast<T>(value(i));
}

// sums[0 .. cols) += dy xhat, sums[cols .. 2 cols) += dy, over one row.
template <class T, class A>
void add_row(const LayerNormBackward& k, std::int64_t r, A* sums) {
  const T *dy = static_cast<const T*>(k.dy) + r * k.cols, *x = static_cast<const T*>(k.x) + r * k.cols;
  const A m = k.mean ? static_cast<const A*>(k.mean)[r] : A(0), s = static_cast<const A*>(k.rstd)[r];
  A *pw = sums, *pb = sums + k.cols;
#pragma omp simd
  for (std::int64_t i = 0; i < k.cols; ++i) {
    const A g = static_cast<A>(dy[i]);
    pw[i] += g * (static_cast<A>(x[i]) - m) * s;
    pb[i] += g;
  }
}

// Rows [begin, end): dx, and what they add to `sums` unless that is null.
template <class T, class A>
void backward_range_of(const LayerNormBackward& k, std::int64_t begin, std::int64_t end, A* sums) {
  for (std::int64_t r = begin; r < end; ++r) {
    if (k.dx) backward_row<T, A>(k, r);
    if (sums) add_row<T, A>(k, r, sums);
  }
}

template <class T>
void backward(const LayerNormBackward& k) {
  using A = compute_t<T>;
  void (*range)(const LayerNormBackward&, std::int64_t, std::int64_t, A*) = backward_range_of<T, A>;
  if constexpr (__is_same(T, float)) range = backward_range_for(k);
  if (!k.dweight && !k.dbias) {
    parallel_for(k.rows, row_grain(k.cols),
                 [&](std::int64_t begin, std::int64_t end) { range(k, begin, end, nullptr); });
    return;
  }
  // Everything a row is needed for happens while it is in the first-level cache.
  const std::int64_t chunk = layer_norm_chunk_rows(k.rows), chunks = (k.rows + chunk - 1) / chunk, two = 2 * k.cols;
  const std::int64_t stride = chunk > kNormBlockRows ? 2 * two : two, work = chunk * k.cols;
  A* const scratch = static_cast<A*>(k.scratch);
  parallel_for(chunks, work >= 16384 ? 1 : 16384 / (work + 1) + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) {
      A *total = scratch + c * stride, *block = stride > two ? total + two : total;
      std::memset(total, 0, static_cast<std::size_t>(stride) * sizeof(A));
      const std::int64_t r0 = c * chunk, r1 = r0 + chunk < k.rows ? r0 + chunk : k.rows;
      if (block == total) {
        range(k, r0, r1, total);
        continue;
      }
      for (std::int64_t r = r0; r < r1; r += kNormBlockRows) {
        range(k, r, r + kNormBlockRows < r1 ? r + kNormBlockRows : r1, block);
        for (std::int64_t i = 0; i < two; ++i) total[i] += block[i];
        std::memset(block, 0, static_cast<std::size_t>(two) * sizeof(A));
      }
    }
  });
  T *dw = static_cast<T*>(k.dweight), *db = static_cast<T*>(k.dbias);
  parallel_for(k.cols, 16384 / chunks + 1, [&](std::int64_t begin, std::int64_t end) {
    constexpr std::int64_t kStrip = 64;
    for (std::int64_t c0 = begin; c0 < end; c0 += kStrip) {
      const std::int64_t width = end - c0 < kStrip ? end - c0 : kStrip;
      A sw[kStrip] = {}, sb[kStrip] = {};
      for (std::int64_t c = 0; c < chunks; ++c) {
        const A* p = scratch + c * stride + c0;
        for (std::int64_t l = 0; l < width; ++l) sw[l] += p[l], sb[l] += p[k.cols + l];
      }
      for (std::int64_t l = 0; l < width; ++l) {
        if (dw) dw[c0 + l] = static_cast<T>(sw[l]);
        if (db) db[c0 + l] = static_cast<T>(sb[l]);
      }
    }
  });
}

}  // namespace

void register_norm(KernelTable& t) {
  NormKernels& k = family<NormKernels>(t);
  each_type(FloatTypes{}, [&]<class T>() {
    k.layer_norm[idx<T>] = forward<T>;
    k.layer_norm_backward[idx<T>] = backward<T>;
  });
}

}  // namespace pydlx::PYDLX_ISA
