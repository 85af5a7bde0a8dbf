// Layer and RMS normalisation, one row at a time while it is in the first-level cache.
#include "kernels/norm.h"

#include "cpu/isa.h"
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

// One row of float: the same two passes on explicit vectors, the last one partial.
inline __attribute__((always_inline)) void forward_row(const LayerNormForward& k, std::int64_t r) {
  using vmath::V;
  const std::int64_t n = k.cols;
  const float *x = input_row<float>(k, r), *w = static_cast<const float*>(k.weight),
              *b = static_cast<const float*>(k.bias);
  float* y = static_cast<float*>(k.y) + r * n;
  const auto value = [&](std::int64_t i, int count)
                         __attribute__((always_inline)) { return vmath::load_count(x + i, count); };
  const float mean = k.mean ? vmath::sum_row(n, value) / static_cast<float>(n) : 0.0f;
  const float square = vmath::sum_row(n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
    const V d = value(i, count) - mean;
    return count == vmath::kWidth ? d * d : (vmath::lane_numbers() < count ? d * d : V{});
  });
  const float rstd = 1.0f / math::sqrt(square / static_cast<float>(n) + static_cast<float>(k.eps));
  if (k.mean) static_cast<float*>(k.mean)[r] = mean;
  static_cast<float*>(k.rstd)[r] = rstd;
  if (w && b) {
    vmath::each_vector(n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
      const V scaled = (value(i, count) - mean) * rstd;
      vmath::store_count(y + i, scaled * vmath::load_count(w + i, count) + vmath::load_count(b + i, count), count);
    });
  } else if (w) {
    vmath::each_vector(n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
      vmath::store_count(y + i, (value(i, count) - mean) * rstd * vmath::load_count(w + i, count), count);
    });
  } else {
    vmath::each_vector(n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
      const V scaled = (value(i, count) - mean) * rstd;
      vmath::store_count(y + i, b ? scaled + vmath::load_count(b + i, count) : scaled, count);
    });
  }
}

template <class T>
void forward(const LayerNormForward& k) {
  using A = compute_t<T>;
  if constexpr (__is_same(T, float)) {
    parallel_for(k.rows, row_grain(k.cols), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) forward_row(k, r);
    });
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

template <class T>
void backward(const LayerNormBackward& k) {
  using A = compute_t<T>;
  if (!k.dweight && !k.dbias) {
    parallel_for(k.rows, row_grain(k.cols), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) backward_row<T, A>(k, r);
    });
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
      for (std::int64_t r = r0; r < r1; ++r) {
        if (k.dx) backward_row<T, A>(k, r);
        add_row<T, A>(k, r, block);
        if (block != total && ((r - r0) % kNormBlockRows == kNormBlockRows - 1 || r + 1 == r1)) {
          for (std::int64_t i = 0; i < two; ++i) total[i] += block[i];
          std::memset(block, 0, static_cast<std::size_t>(two) * sizeof(A));
        }
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
