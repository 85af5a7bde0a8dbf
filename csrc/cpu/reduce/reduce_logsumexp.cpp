// log(sum exp x) in one pass over memory: each chunk gives its maximum and the sum relative to it; chunks are merged by
// rescaling.
#include "cpu/reduce/fold.h"
#include "functors/math.h"
#include "kernels/reduce.h"

extern "C" {
double log(double);
}

namespace pydlx::PYDLX_ISA {
namespace {

using functors::compute_t;

struct ChunkMax {
  template <class A>
  PYDLX_HD static A identity() {
    return -__builtin_inf();
  }
  template <class V>
  PYDLX_HD static V map(V x) {
    return x;
  }
  template <class V>
  PYDLX_HD static V combine(V a, V b) {
    return (b > a) | (b != b) ? b : a;
  }
};

template <class A>
struct LogSumExp {
  using In = A;
  struct State {
    A max, sum;
  };
  static constexpr bool indexed = false;
  PYDLX_HD static State init() { return {static_cast<A>(-__builtin_inf()), A(0)}; }
  // The reference point: the maximum, or 0 where that is infinite, so that inf - inf cannot make a NaN.
  PYDLX_HD static A pivot(A m) { return math::abs(m) == static_cast<A>(__builtin_inf()) ? A(0) : m; }
  PYDLX_HD static State merge(State a, State b) {
    if (b.sum == A(0)) return a;
    if (a.sum == A(0)) return b;
    const A m = ChunkMax::combine(a.max, b.max), p = pivot(m);
    return {m, a.sum * math::exp(pivot(a.max) - p) + b.sum * math::exp(pivot(b.max) - p)};
  }
  __attribute__((noinline)) static State row(const A* x, std::int64_t n, std::int64_t stride, std::int64_t) {
    const A m = fold_row<ChunkMax, A>(x, n, stride), p = pivot(m);
    constexpr int lanes = 32;
    A lane[lanes] = {};
    std::int64_t i = 0;
    if (stride == 1)
      for (; i + lanes <= n; i += lanes)
        for (int l = 0; l < lanes; ++l) lane[l] += math::exp(x[i + l] - p);
    for (int l = 0; i < n; ++i, l = (l + 1) % lanes) lane[l] += math::exp(x[i * stride] - p);
    for (int w = lanes / 2; w > 0; w /= 2)
      for (int l = 0; l < w; ++l) lane[l] += lane[l + w];
    return {m, lane[0]};
  }
  __attribute__((noinline)) static void cols(const A* x, std::int64_t all, std::int64_t row_stride, int width,
                                             std::int64_t lane_stride, std::int64_t, State* states) {
    for (std::int64_t r0 = 0; r0 < all; r0 += kRows / 4, x += kRows / 4 * row_stride) {
      const std::int64_t rows = least(kRows / 4, all - r0);
      A max[kColumns], sum[kColumns];
      fold_cols<ChunkMax>(x, rows, row_stride, width, lane_stride, max);
      for (int l = 0; l < width; ++l) sum[l] = 0;
      for (std::int64_t i = 0; i < rows; ++i) {
        const A* p = x + i * row_stride;
        if (lane_stride == 1) {
#pragma omp simd
          for (int l = 0; l < width; ++l) sum[l] += math::exp(p[l] - pivot(max[l]));
        } else {
          for (int l = 0; l < width; ++l) sum[l] += math::exp(p[l * lane_stride] - pivot(max[l]));
        }
      }
      for (int l = 0; l < width; ++l) states[l] = merge(states[l], {max[l], sum[l]});
    }
  }
  template <class Out>
  PYDLX_HD static void finish(const Reduce& r, State s, std::int64_t at) {
    static_cast<Out*>(r.out)[at] =
        static_cast<Out>(static_cast<A>(log(static_cast<double>(s.sum)) + static_cast<double>(pivot(s.max))));
  }
};

}  // namespace

void register_reduce_logsumexp(KernelTable& t) {
  add_reduce<ReduceOp::logsumexp, Half, LogSumExp<compute_t<Half>>>(t);
  add_reduce<ReduceOp::logsumexp, BFloat16, LogSumExp<compute_t<BFloat16>>>(t);
  add_reduce<ReduceOp::logsumexp, float, LogSumExp<compute_t<float>>>(t);
  add_reduce<ReduceOp::logsumexp, double, LogSumExp<compute_t<double>>>(t);
}

}  // namespace pydlx::PYDLX_ISA
