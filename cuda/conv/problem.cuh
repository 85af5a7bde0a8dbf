// What the passes of convolution have in common: flat positions in images, taken apart, and what happens to results on
// their way to memory.
#pragma once
#include "cuda/runtime/divisor.cuh"
#include "functors/types.h"
#include "kernels/conv.h"

namespace pydlx::cuda {
namespace {

// A flat position as up to three spatial coordinates and what lies above them.
struct Position {
  std::int64_t outer, at[3];
};
struct Volume {
  std::int64_t size[3], count;
  bool small;  // positions times what lies above them stays below 2^31
  FastDivisor divisor[3];

  Volume() = default;
  Volume(const std::int64_t (&s)[3], std::int64_t outer) {
    count = 1;
    for (int d = 0; d < 3; ++d) count *= size[d] = s[d];
    small = count * outer < (std::int64_t{1} << 31);
    for (int d = 0; d < 3 && small; ++d) divisor[d] = FastDivisor(static_cast<std::uint32_t>(s[d] > 0 ? s[d] : 1));
  }
  __device__ __forceinline__ Position split(std::int64_t i) const {
    Position p;
    if (small) {
      auto rest = static_cast<std::uint32_t>(i);
      for (int d = 2; d >= 0; --d) {
        const std::uint32_t q = divisor[d].quotient(rest);
        p.at[d] = rest - q * divisor[d].divisor;
        rest = q;
      }
      p.outer = rest;
    } else {
      for (int d = 2; d >= 0; --d) {
        p.at[d] = i % size[d];
        i /= size[d];
      }
      p.outer = i;
    }
    return p;
  }
  __device__ __forceinline__ std::int64_t flat(const std::int64_t (&at)[3]) const {
    return (at[0] * size[1] + at[1]) * size[2] + at[2];
  }
};

// What becomes of a channel's sums on their way to memory: scale, bias and activation of the forward pass, or the bias
// that a transposed convolution adds to the gradient of the input. `T` is the element stored.
template <class T>
struct ChannelEnd {
  using Acc = functors::compute_t<T>;
  Acc scale = Acc(1), bias = Acc(0);
  bool scaled, biased, rectified;
  __device__ __forceinline__ ChannelEnd(const Conv& c, std::int64_t channel)
      : scaled(c.scale != nullptr), biased(c.bias != nullptr), rectified(c.activation == Activation::relu) {
    if (scaled) scale = static_cast<Acc>(static_cast<const T*>(c.scale)[channel]);
    if (biased) bias = static_cast<Acc>(static_cast<const T*>(c.bias)[channel]);
  }
  __device__ __forceinline__ T operator()(Acc v) const {
    if (scaled) v *= scale;
    if (biased) v += bias;
    return static_cast<T>(rectified && v < Acc(0) ? Acc(0) : v);
  }
};

// A pass as a product of m x k and k x n for each of `batch` groups.
template <class T>
struct ConvProblem {
  using Element = T;
  using Acc = functors::compute_t<T>;
  Conv c;
  Volume in, out, kernel;
  std::int64_t m, n, k, batch;

  explicit ConvProblem(const Conv& conv) : c(conv), batch(conv.shape.groups) {
    const ConvShape& s = conv.shape;
    const std::int64_t above = s.batch > s.cin ? s.batch : s.cin;
    in = Volume(s.in, above);
    out = Volume(s.out, above);
    kernel = Volume(s.kernel, above > s.cout ? above : s.cout);
  }
  // A sum of the forward pass.
  __device__ __forceinline__ T ended(Acc v, std::int64_t channel) const { return ChannelEnd<T>(c, channel)(v); }
  // A sum of the gradient of the input, which a transposed convolution adds a bias to.
  __device__ __forceinline__ T with_bias(Acc v, std::int64_t channel) const {
    return static_cast<T>(c.bias ? v + static_cast<Acc>(static_cast<const T*>(c.bias)[channel]) : v);
  }
};

}  // namespace
}  // namespace pydlx::cuda
