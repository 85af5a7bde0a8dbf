// Sums, products, norms and moments. Whatever the input's precision, floating sums are carried in double. Plain sums of
// float32 first add four neighbours in float32 (see fours.h), those of 16-bit floats more (see narrow_sums.h).
#include "cpu/reduce/narrow_sums.h"
#include "functors/math.h"
#include "kernels/reduce.h"

namespace pydlx::PYDLX_ISA {
namespace {

using functors::compute_t;

struct Additive {
  template <class A>
  PYDLX_HD static A identity() {
    return A(0);
  }
  template <class V>
  PYDLX_HD static V map(V x) {
    return x;
  }
  template <class V>
  PYDLX_HD static V combine(V a, V b) {
    return a + b;
  }
  template <class A>
  PYDLX_HD static A finish(A s, const double*) {
    return s;
  }
};
struct SumFold : Additive {
  static constexpr bool fours = true;
  template <class A>
  PYDLX_HD static A finish(A s, const double* param) {
    return param[0] != 0 ? s / static_cast<A>(param[0]) : s;
  }
};
struct NanSumFold : SumFold {
  template <class V>
  PYDLX_HD static V map(V x) {
    return x == x ? x : V{};
  }
};
struct ProdFold : Additive {
  template <class A>
  PYDLX_HD static A identity() {
    return A(1);
  }
  template <class V>
  PYDLX_HD static V combine(V a, V b) {
    return a * b;
  }
};
struct Norm1Fold : Additive {
  static constexpr bool fours = true;
  template <class V>
  PYDLX_HD static V map(V x) {
    return x < V{} ? -x : x;
  }
};
struct Norm2Fold : Additive {
  template <class V>
  PYDLX_HD static V map(V x) {
    return x * x;
  }
  template <class A>
  PYDLX_HD static A finish(A s, const double*) {
    return math::sqrt(s);
  }
};

// Count, mean and sum of squared deviations. Each chunk is centred on its own mean in a second pass over the cached
// data, and chunks are merged by Chan, Golub and LeVeque's update (1979) in double, so nothing cancels and memory is
// read once.
template <class A>
struct Var {
  using In = A;
  struct State {
    double n, mean, m2;
  };
  static constexpr bool indexed = false;

  PYDLX_HD static State init() { return {0, 0, 0}; }
  PYDLX_HD static State merge(State a, State b) {
    if (b.n == 0) return a;
    if (a.n == 0) return b;
    const double n = a.n + b.n, delta = b.mean - a.mean;
    return {n, a.mean + delta * (b.n / n), a.m2 + b.m2 + delta * delta * (a.n * b.n / n)};
  }
  // What rounding of the pivot left behind is put back: m2 about the pivot exceeds m2 about the mean by (sum d)^2 / n.
  PYDLX_HD static State centred(double n, double pivot, double sum, double square) {
    const double m2 = square - sum * sum / n;
    return {n, pivot + sum / n, m2 < 0 ? 0.0 : m2};
  }
  __attribute__((noinline)) static State row(const A* x, std::int64_t n, std::int64_t stride, std::int64_t) {
    constexpr int lanes = VectorOf<A>::lanes;
    const A pivot = fold_row<Additive, A>(x, n, stride) / static_cast<A>(n);
    A sum = 0, square = 0;
    std::int64_t i = 0;
    if (stride == 1 && n >= 2 * lanes) {
      vec_t<A> s[2] = {}, q[2] = {};
      for (; i + 2 * lanes <= n; i += 2 * lanes)
        for (int k = 0; k < 2; ++k) {
          const vec_t<A> d = load<A>(x + i + k * lanes) - pivot;
          s[k] += d;
          q[k] += d * d;
        }
      A ls[lanes], lq[lanes];
      s[0] += s[1];
      q[0] += q[1];
      std::memcpy(ls, &s[0], sizeof ls);
      std::memcpy(lq, &q[0], sizeof lq);
      for (int w = lanes / 2; w > 0; w /= 2)
        for (int l = 0; l < w; ++l) ls[l] += ls[l + w], lq[l] += lq[l + w];
      sum = ls[0];
      square = lq[0];
    }
    for (; i < n; ++i) {
      const A d = x[i * stride] - pivot;
      sum += d;
      square += d * d;
    }
    return centred(static_cast<double>(n), pivot, sum, square);
  }
  __attribute__((noinline)) static void cols(const A* x, std::int64_t all, std::int64_t row_stride, int width,
                                             std::int64_t lane_stride, std::int64_t, State* states) {
    // A quarter of the usual rows at a time: the block is read twice and should still be cached the second time.
    for (std::int64_t r0 = 0; r0 < all; r0 += kRows / 4, x += kRows / 4 * row_stride) {
      const std::int64_t rows = least(kRows / 4, all - r0);
      A pivot[kColumns], sum[kColumns], square[kColumns];
      fold_cols<Additive>(x, rows, row_stride, width, lane_stride, pivot);
      for (int l = 0; l < width; ++l) pivot[l] /= static_cast<A>(rows), sum[l] = square[l] = 0;
      for (std::int64_t i = 0; i < rows; ++i) {
        const A* p = x + i * row_stride;
        if (lane_stride == 1) {
#pragma omp simd
          for (int l = 0; l < width; ++l) {
            const A d = p[l] - pivot[l];
            sum[l] += d;
            square[l] += d * d;
          }
        } else {
          for (int l = 0; l < width; ++l) {
            const A d = p[l * lane_stride] - pivot[l];
            sum[l] += d;
            square[l] += d * d;
          }
        }
      }
      // All columns of a block have seen the same number of rows, so the weights are shared.
      const double n = states[0].n, m = static_cast<double>(rows), total = n + m, w = m / total, nw = n * w,
                   inverse = 1 / m;
      for (int l = 0; l < width; ++l) {
        const double s = sum[l], mean = pivot[l] + s * inverse, m2 = square[l] - s * s * inverse,
                     delta = mean - states[l].mean;
        states[l] = {total, states[l].mean + delta * w, states[l].m2 + (m2 < 0 ? 0.0 : m2) + delta * delta * nw};
      }
    }
  }
  template <class Out>
  PYDLX_HD static void finish(const Reduce& r, State s, std::int64_t at) {
    const double free = s.n - r.param[0];
    double v = s.m2 / (free > 0 ? free : 0.0);
    if (r.param[1] != 0) v = math::sqrt(v);
    static_cast<Out*>(r.out)[at] = static_cast<Out>(static_cast<A>(v));
    if (r.out2) static_cast<Out*>(r.out2)[at] = static_cast<Out>(static_cast<A>(s.mean));
  }
};

// Unsigned arithmetic wraps where signed overflow would be undefined; the bits are the same.
template <class T>
void add_integer(KernelTable& t) {
  add_reduce<ReduceOp::sum, T, Fold<Additive, std::uint64_t>, std::int64_t>(t);
  add_reduce<ReduceOp::prod, T, Fold<ProdFold, std::uint64_t>, std::int64_t>(t);
}

template <class T>
void add_float(KernelTable& t) {
  using A = compute_t<T>;
  add_reduce<ReduceOp::sum, T, Fold<SumFold, A, double>>(t);
  add_reduce<ReduceOp::prod, T, Fold<ProdFold, A, double>>(t);
  add_reduce<ReduceOp::nansum, T, Fold<NanSumFold, A, double>>(t);
  add_reduce<ReduceOp::norm1, T, Fold<Norm1Fold, A, double>>(t);
  add_reduce<ReduceOp::norm2, T, Fold<Norm2Fold, A, double>>(t);
  add_reduce<ReduceOp::var, T, Var<A>>(t);
}

}  // namespace

void register_reduce_sums(KernelTable& t) {
  add_integer<std::uint8_t>(t);
  add_integer<std::int8_t>(t);
  add_integer<std::int16_t>(t);
  add_integer<std::int32_t>(t);
  add_integer<std::int64_t>(t);
  add_float<Half>(t);
  add_float<BFloat16>(t);
  add_float<float>(t);
  add_float<double>(t);
}

}  // namespace pydlx::PYDLX_ISA
