// Geometry of convolutions whose groups have few channels. The forward pass and the gradient of the input are one sum:
// along every axis, tap k of result o sees operand (o step + k dilation - front) / spread, if that is one. The gradient
// of the input is the sum over the gradient of the output with the taps in reverse order, and a spread of the stride.
#pragma once
#include <numeric>

#include "cuda/conv/problem.cuh"
#include "cuda/runtime/pack.cuh"
#include "cuda/runtime/pairs.cuh"

namespace pydlx::cuda {
namespace {

constexpr int kDepthwiseThreads = 256;

struct DepthwiseAxis {
  std::int64_t in, out, taps, dilation, step, spread, front;
  std::int64_t tap_step, at_step;  // between taps that see an operand, and between the operands

  DepthwiseAxis() = default;
  DepthwiseAxis(const ConvShape& s, int d, bool back)
      : in(back ? s.out[d] : s.in[d]),
        out(back ? s.in[d] : s.out[d]),
        taps(s.kernel[d]),
        dilation(s.dilation[d]),
        step(back ? 1 : s.stride[d]),
        spread(back ? s.stride[d] : 1),
        front(back ? (s.kernel[d] - 1) * s.dilation[d] - s.pad[d] : s.pad[d]),
        tap_step(spread / std::gcd(spread, s.dilation[d])),
        at_step(s.dilation[d] / std::gcd(spread, s.dilation[d])) {}
  // The kernel is unrolled over rows of `K` taps.
  bool unrolled(int K, int steps, int spreads) const {
    return taps == K && dilation == 1 && step == steps && spread == spreads;
  }
  // There is no such axis.
  __host__ __device__ bool absent() const { return in == 1 && out == 1 && taps == 1 && front == 0; }
};

// The taps of a result that see operands: `count` of them, every tap_step-th from `tap` on, whose operands lie at_step
// apart from `at` on.
struct SeenTaps {
  std::int64_t tap, at, count;
};
__device__ __forceinline__ std::int64_t steps_up_to(std::int64_t distance, std::int64_t step) {
  return step == 1 ? distance : divide(distance + step - 1, step).quotient;
}
__device__ __forceinline__ SeenTaps seen_taps(const DepthwiseAxis& a, std::int64_t o) {
  SeenTaps s{0, o * a.step - a.front, 0};
  if (a.spread > 1) {
    while (s.tap < a.taps && s.at % a.spread != 0) {
      ++s.tap;
      s.at += a.dilation;
    }
    if (s.tap == a.taps) return s;
    s.at /= a.spread;
  }
  if (s.at < 0) {
    const std::int64_t skipped = steps_up_to(-s.at, a.at_step);
    s.tap += skipped * a.tap_step;
    s.at += skipped * a.at_step;
  }
  if (s.tap >= a.taps || s.at >= a.in) return s;
  const std::int64_t taps = steps_up_to(a.taps - s.tap, a.tap_step), there = steps_up_to(a.in - s.at, a.at_step);
  s.count = taps < there ? taps : there;
  return s;
}

// The forward pass, or the gradient of the input (`back`).
template <class T>
struct DepthwiseSum {
  using Element = T;
  using Acc = functors::compute_t<T>;
  Conv c;
  DepthwiseAxis axis[3];
  bool back;
  int sources, results;  // channels of a group that are read and written
  std::int64_t planes;   // groups of all images
  std::int64_t in_count, out_count, taps;

  DepthwiseSum(const Conv& conv, ConvPass pass)
      : c(conv),
        back(pass == ConvPass::input_grad),
        sources(static_cast<int>(back ? conv.shape.cout : conv.shape.cin)),
        results(static_cast<int>(back ? conv.shape.cin : conv.shape.cout)),
        planes(conv.shape.batch * conv.shape.groups),
        in_count(1),
        out_count(1),
        taps(1) {
    for (int d = 0; d < 3; ++d) {
      axis[d] = DepthwiseAxis(conv.shape, d, back);
      in_count *= axis[d].in;
      out_count *= axis[d].out;
      taps *= axis[d].taps;
    }
  }
  __device__ __forceinline__ const T* in() const { return static_cast<const T*>(back ? c.y : c.x); }
  __device__ __forceinline__ T* out() const { return static_cast<T*>(back ? c.x : c.y); }
  // The taps between a source and a result of a group; `back` reads them from the last one on.
  __device__ __forceinline__ const T* weights(std::int64_t group, int source, int result) const {
    const std::int64_t row = group * c.shape.cout + (back ? source : result);
    return static_cast<const T*>(c.w) + (row * c.shape.cin + (back ? result : source)) * taps;
  }
};

// Rows or columns of results whose taps are unrolled: result j sees with tap k the operand number slot(j, k) of those
// that all of them see (-1: none). With a spread the first result must be one whose first tap sees an operand.
template <int K, int kStep, int kSpread, int kCount>
struct Unrolled {
  static_assert(K % 2 == 1 && (kStep == 1 || kSpread == 1) && kSpread <= 2 && kCount % kSpread == 0);
  static constexpr int kSeen = ((kCount - 1) * kStep + K - 1) / kSpread + 1;
  static constexpr int slot(int j, int k) { return (j * kStep + k) % kSpread == 0 ? (j * kStep + k) / kSpread : -1; }
  // The first result, 0 or earlier, of the first such run.
  static std::int64_t first(const DepthwiseAxis& a) { return a.front % kSpread == 0 ? 0 : -1; }
};

// f.template operator()<K, kStep, kSpread>() for the kernels that are unrolled; false for others.
template <class F>
bool unrolled_taps(const DepthwiseAxis& y, const DepthwiseAxis& x, const F& f) {
  const auto sized = [&]<int K>() {
    if (y.unrolled(K, 1, 1) && x.unrolled(K, 1, 1))
      f.template operator()<K, 1, 1>();
    else if (y.unrolled(K, 2, 1) && x.unrolled(K, 2, 1))
      f.template operator()<K, 2, 1>();
    else if (y.unrolled(K, 1, 2) && x.unrolled(K, 1, 2))
      f.template operator()<K, 1, 2>();
    else
      return false;
    return true;
  };
  return sized.template operator()<3>() || sized.template operator()<5>() || sized.template operator()<7>();
}

// 16 bytes of elements in the type that sums have. From whole words: elements that were loaded as such would be taken
// apart and put together again.
template <class T>
__device__ __forceinline__ Pack<functors::compute_t<T>, kPackOf<T>> widened(const uint4& c) {
  const std::uint32_t words[4] = {c.x, c.y, c.z, c.w};
  Pack<functors::compute_t<T>, kPackOf<T>> wide;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if constexpr (sizeof(T) == 2)
      from_pair<T>(words[i], wide.v[2 * i], wide.v[2 * i + 1]);
    else if constexpr (sizeof(T) == 4)
      wide.v[i] = bit_cast<float>(words[i]);
    else if (i % 2 == 0)
      wide.v[i / 2] = bit_cast<double>(std::uint64_t{words[i + 1]} << 32 | words[i]);
  return wide;
}

}  // namespace
}  // namespace pydlx::cuda
