// Softmax and log-softmax. Rows along the last axis are worked on while they sit in the first-level cache; other axes
// go through blocks of neighbouring columns, so that memory is always read along its fast axis. All arithmetic is in
// float or double.
#include "kernels/softmax.h"

#include "cpu/isa.h"
#include "cpu/vector_columns.h"
#include "functors/math.h"
#include "functors/types.h"

extern "C" {
double log(double);
}

namespace pydlx::PYDLX_ISA {
namespace {

using functors::compute_t;

constexpr std::int64_t kLanes = 32;
constexpr std::int64_t kBlock = 64;  // columns worked on together when the axis is not the last
constexpr std::int64_t kShort = 32;  // rows up to this long are worked on as columns

std::int64_t row_grain(std::int64_t n) { return n >= 16384 ? 1 : 16384 / (n + 1) + 1; }

// NaN wins, and a row of -inf keeps -inf: subtracting it then gives the NaN that PyTorch returns.
template <class A>
PYDLX_HD A larger(A a, A b) {
  return (b > a) | (b != b) ? b : a;
}

template <class A, class F>
PYDLX_HD A lane_max(std::int64_t n, const F& f) {
  A lane[kLanes];
  for (int l = 0; l < kLanes; ++l) lane[l] = static_cast<A>(-__builtin_inf());
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lane[l] = larger(lane[l], f(i + l));
  for (int l = 0; i < n; ++i, ++l) lane[l] = larger(lane[l], f(i));
  for (std::int64_t w = kLanes / 2; w > 0; w /= 2)
    for (int l = 0; l < w; ++l) lane[l] = larger(lane[l], lane[l + w]);
  return lane[0];
}
template <class A, class F>
PYDLX_HD A lane_sum(std::int64_t n, const F& f) {
  A lane[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lane[l] += f(i + l);
  for (int l = 0; i < n; ++i, ++l) lane[l] += f(i);
  for (std::int64_t w = kLanes / 2; w > 0; w /= 2)
    for (int l = 0; l < w; ++l) lane[l] += lane[l + w];
  return lane[0];
}

template <bool logarithm>
inline __attribute__((always_inline)) void forward_row(const float* x, float* y, std::int64_t n) {
  const float m = vmath::row_max(x, n);
  const float s = vmath::row_exp_sum<!logarithm>(x, y, n, m);
  const float scale = logarithm ? static_cast<float>(log(static_cast<double>(s))) : 1.0f / s;
  vmath::each_vector(n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
    if constexpr (logarithm)
      store_count(y + i, load_count(x + i, count) - m - scale, count);
    else
      store_count(y + i, load_count(y + i, count) * scale, count);
  });
}
// Rows of 16-bit floats as float, a piece at a time: what is between the passes stays unrounded, and of rows of one
// piece, in the first-level cache.
template <bool logarithm, class T>
inline __attribute__((always_inline)) void forward_row(const T* x, T* y, std::int64_t n) {
  constexpr std::int64_t kPiece = 4096;
  alignas(kVectorBytes) float piece[kPiece];
  const auto each_piece = [&](auto&& f) __attribute__((always_inline)) {
    for (std::int64_t c = 0; c < n; c += kPiece) f(c, n - c < kPiece ? n - c : kPiece);
  };
  const bool once = n <= kPiece;
  float m = -__builtin_inff(), s = 0;
  each_piece([&](std::int64_t c, std::int64_t length) __attribute__((always_inline)) {
    vmath::convert_row(x + c, piece, length);
    m = larger(m, vmath::row_max(piece, length));
  });
  each_piece([&](std::int64_t c, std::int64_t length) __attribute__((always_inline)) {
    if (!once) vmath::convert_row(x + c, piece, length);
    s += vmath::row_exp_sum<!logarithm>(piece, piece, length, m);
  });
  const float scale = logarithm ? static_cast<float>(log(static_cast<double>(s))) : 1.0f / s;
  each_piece([&](std::int64_t c, std::int64_t length) __attribute__((always_inline)) {
    if (!once) {
      vmath::convert_row(x + c, piece, length);
      if constexpr (!logarithm) vmath::row_exp_sum<true>(piece, piece, length, m);
    }
    vmath::each_vector(length, [&](std::int64_t i, int count) __attribute__((always_inline)) {
      const vmath::V v = load_count(piece + i, count);
      store_count(y + c + i, logarithm ? v - m - scale : v * scale, count);
    });
  });
}
template <bool logarithm, class T>
inline __attribute__((always_inline)) void backward_row(const T* g, const T* y, T* dx, std::int64_t n) {
  const float s = vmath::sum_row(n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
    const vmath::V v = load_count(g + i, count);
    return logarithm ? v : v * load_count(y + i, count);
  });
  vmath::each_vector(n, [&](std::int64_t i, int count) __attribute__((always_inline)) {
    const vmath::V v = load_count(g + i, count), p = load_count(y + i, count);
    store_count(dx + i, logarithm ? v - vmath::exp_nonpositive(p) * s : p * (v - s), count);
  });
}

template <bool logarithm, class T>
void forward_rows(const Softmax& k) {
  const std::int64_t n = k.n;
  parallel_for(k.outer, row_grain(n), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const T* x = static_cast<const T*>(k.in) + r * n;
      T* y = static_cast<T*>(k.out) + r * n;
      if constexpr (!__is_same(T, double)) {
        forward_row<logarithm>(x, y, n);
      } else {
        const T m = lane_max<T>(n, [&](std::int64_t i) { return x[i]; });
        if constexpr (logarithm) {
          const T shift = log(lane_sum<T>(n, [&](std::int64_t i) { return math::exp(x[i] - m); }));
          for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] - m - shift;
        } else {
          const T scale = T(1) / lane_sum<T>(n, [&](std::int64_t i) { return y[i] = math::exp(x[i] - m); });
          for (std::int64_t i = 0; i < n; ++i) y[i] *= scale;
        }
      }
    }
  });
}

template <bool logarithm, class T>
void backward_rows(const Softmax& k) {
  const std::int64_t n = k.n;
  parallel_for(k.outer, row_grain(n), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const T *g = static_cast<const T*>(k.in) + r * n, *y = static_cast<const T*>(k.y) + r * n;
      T* dx = static_cast<T*>(k.out) + r * n;
      if constexpr (!__is_same(T, double)) {
        backward_row<logarithm>(g, y, dx, n);
      } else if constexpr (logarithm) {
        const T s = lane_sum<T>(n, [&](std::int64_t i) { return g[i]; });
        for (std::int64_t i = 0; i < n; ++i) dx[i] = g[i] - math::exp(y[i]) * s;
      } else {
        const T s = lane_sum<T>(n, [&](std::int64_t i) { return g[i] * y[i]; });
        for (std::int64_t i = 0; i < n; ++i) dx[i] = y[i] * (g[i] - s);
      }
    }
  });
}

// The same for neighbouring columns, `vectors` of them, or of a single vector `count` lanes. What is between the passes
// stays in the buffer, or in the result, or is computed twice where the result has fewer bits.
template <bool logarithm, int vectors, class T>
PYDLX_INLINE void forward_columns(const T* x, T* y, std::int64_t n, std::int64_t stride, int count) {
  using vmath::kWidth, vmath::V;
  vmath::ColumnBuffer<vectors> buffer;
  const bool staged = buffer.holds(n);
  V largest[vectors], sum[vectors], rest[vectors];  // rest: of logarithms
  vmath::column_totals(x, n, stride, count, buffer, largest, sum,
                       [&](std::int64_t i, int v, V d, V e) __attribute__((always_inline)) {
                         const V kept = logarithm ? d : e;
                         __builtin_prefetch(x + i * stride + (v + vectors) * kWidth);
                         __builtin_prefetch(y + i * stride + v * kWidth, 1);
                         if (staged)
                           store(buffer.row[i] + v * kWidth, kept);
                         else if constexpr (__is_same(T, float))
                           store_count(y + i * stride + v * kWidth, kept, count);
                       });
  if constexpr (logarithm) {
    for (int v = 0; v < vectors; ++v) {
      const vmath::LogParts log = vmath::log_parts(sum[v]);
      sum[v] = log.high, rest[v] = log.low;
    }
  } else {
    for (int v = 0; v < vectors; ++v) sum[v] = 1.0f / sum[v];
  }
  for (std::int64_t i = 0; i < n; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      T* const to = y + i * stride + v * kWidth;
      V e;
      if (staged) {
        e = load(buffer.row[i] + v * kWidth);
      } else if constexpr (__is_same(T, float)) {
        e = load_count(to, count);
      } else {
        e = load_count(x + i * stride + v * kWidth, count) - largest[v];
        if constexpr (!logarithm) e = vmath::exp_nonpositive(e);
      }
      store_count(to, logarithm ? (e - sum[v]) - rest[v] : e * sum[v], count);
    }
}

// A block of `width` <= kBlock columns: element (i, l) is at i * stride + l.
template <bool logarithm, class T>
void forward_block(const T* x, T* y, std::int64_t n, std::int64_t stride, int width) {
  if constexpr (!__is_same(T, double)) {
    constexpr int kVectors = 4, kStrip = kVectors * vmath::kWidth;
    int l = 0;
    for (; l + kStrip <= width; l += kStrip)
      forward_columns<logarithm, kVectors>(x + l, y + l, n, stride, vmath::kWidth);
    for (; l < width; l += vmath::kWidth)
      forward_columns<logarithm, 1>(x + l, y + l, n, stride, width - l < vmath::kWidth ? width - l : vmath::kWidth);
  } else {
    T max[kBlock], sum[kBlock];
    for (int l = 0; l < width; ++l) max[l] = x[l], sum[l] = 0;
    for (std::int64_t i = 1; i < n; ++i)
      for (int l = 0; l < width; ++l) max[l] = larger(max[l], x[i * stride + l]);
    for (std::int64_t i = 0; i < n; ++i)
      for (int l = 0; l < width; ++l) sum[l] += math::exp(x[i * stride + l] - max[l]);
#pragma omp simd
    for (int l = 0; l < width; ++l) sum[l] = logarithm ? math::log(sum[l]) : T(1) / sum[l];
    for (std::int64_t i = 0; i < n; ++i)
      for (int l = 0; l < width; ++l) {
        const T d = x[i * stride + l] - max[l];
        y[i * stride + l] = logarithm ? d - sum[l] : math::exp(d) * sum[l];
      }
  }
}

template <bool logarithm, class T>
void backward_block(const T* g, const T* y, T* dx, std::int64_t n, std::int64_t stride, int width) {
  using A = compute_t<T>;
  A sum[kBlock] = {};
  for (std::int64_t i = 0; i < n; ++i)
    for (int l = 0; l < width; ++l) {
      const A v = static_cast<A>(g[i * stride + l]);
      sum[l] += logarithm ? v : v * static_cast<A>(y[i * stride + l]);
    }
  for (std::int64_t i = 0; i < n; ++i)
    for (int l = 0; l < width; ++l) {
      const A v = static_cast<A>(g[i * stride + l]), p = static_cast<A>(y[i * stride + l]);
      dx[i * stride + l] = static_cast<T>(logarithm ? v - math::exp(p) * sum[l] : p * (v - sum[l]));
    }
}

// Rows too short to fill vectors are turned into columns, a block at a time.
template <class T>
PYDLX_HD void to_columns(T* to, const T* x, std::int64_t n, int rows) {
  for (int l = 0; l < rows; ++l)
    for (std::int64_t i = 0; i < n; ++i) to[i * kBlock + l] = x[l * n + i];
}
template <class T>
PYDLX_HD void from_columns(T* y, const T* from, std::int64_t n, int rows) {
  for (int l = 0; l < rows; ++l)
    for (std::int64_t i = 0; i < n; ++i) y[l * n + i] = from[i * kBlock + l];
}

template <bool backward, bool logarithm, class T>
void by_blocks(const Softmax& k) {
  const T *in = static_cast<const T*>(k.in), *y = static_cast<const T*>(k.y);
  T* out = static_cast<T*>(k.out);
  const std::int64_t lines = k.inner == 1 ? k.outer : k.inner, repeats = k.inner == 1 ? 1 : k.outer;
  const std::int64_t blocks = (lines + kBlock - 1) / kBlock;
  parallel_for(repeats * blocks, row_grain(k.n * kBlock), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t c = b % blocks * kBlock;
      const int width = static_cast<int>(lines - c < kBlock ? lines - c : kBlock);
      if (k.inner == 1) {
        T buffer[3][kShort * kBlock];
        const std::int64_t base = c * k.n;
        to_columns(buffer[0], in + base, k.n, width);
        if constexpr (backward) {
          to_columns(buffer[1], y + base, k.n, width);
          backward_block<logarithm>(buffer[0], buffer[1], buffer[2], k.n, kBlock, width);
        } else {
          forward_block<logarithm>(buffer[0], buffer[2], k.n, kBlock, width);
        }
        from_columns(out + base, buffer[2], k.n, width);
      } else {
        const std::int64_t base = b / blocks * k.n * k.inner + c;
        if constexpr (backward)
          backward_block<logarithm>(in + base, y + base, out + base, k.n, k.inner, width);
        else
          forward_block<logarithm>(in + base, out + base, k.n, k.inner, width);
      }
    }
  });
}

template <bool logarithm, class T>
void forward(const Softmax& k) {
  if (k.inner == 1 && (k.n > kShort || k.outer < kBlock))
    forward_rows<logarithm, T>(k);
  else
    by_blocks<false, logarithm, T>(k);
}
template <bool logarithm, class T>
void backward(const Softmax& k) {
  if (k.inner == 1 && (k.n > kShort || k.outer < kBlock))
    backward_rows<logarithm, T>(k);
  else
    by_blocks<true, logarithm, T>(k);
}

}  // namespace

void register_softmax(KernelTable& t) {
  SoftmaxKernels& k = family<SoftmaxKernels>(t);
  each_type(FloatTypes{}, [&]<class T>() {
    k.forward[0][idx<T>] = forward<false, T>;
    k.forward[1][idx<T>] = forward<true, T>;
    k.backward[0][idx<T>] = backward<false, T>;
    k.backward[1][idx<T>] = backward<true, T>;
  });
}

}  // namespace pydlx::PYDLX_ISA
