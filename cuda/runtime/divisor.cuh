// Division of positions by sizes.
#pragma once
#include <cstdint>

#include "core/limits.h"
#include "cuda/runtime/launch.h"

namespace pydlx::cuda {

// x / divisor and x % divisor for 0 <= x < 2^31 by multiplication (Granlund and Montgomery 1994, "Division by invariant
// integers using multiplication").
struct FastDivisor {
  std::uint32_t divisor = 1, multiplier = 0, shift = 0;
  FastDivisor() = default;
  explicit FastDivisor(std::uint32_t d) : divisor(d) {
    while (shift < 32 && (std::uint64_t{1} << shift) < d) ++shift;
    multiplier = static_cast<std::uint32_t>(((((std::uint64_t{1} << shift) - d) << 32) / d) + 1);
  }
  __device__ __forceinline__ std::uint32_t quotient(std::uint32_t x) const {
    return (__umulhi(x, multiplier) + x) >> shift;
  }
};

// e / d and e % d; 32-bit division is several times cheaper.
struct Quotient {
  std::int64_t quotient, rest;
};
__device__ __forceinline__ Quotient divide(std::int64_t e, std::int64_t d) {
  if ((e | d) < (std::int64_t{1} << 32)) {
    const auto a = static_cast<std::uint32_t>(e), b = static_cast<std::uint32_t>(d), q = a / b;
    return {q, a - q * b};
  }
  const std::int64_t q = e / d;
  return {q, e - q * d};
}

// The same for a size that is known before the kernel runs, for 0 <= e < bound.
struct Divider {
  std::int64_t size = 1;
  bool small = true;
  FastDivisor fast;
  Divider() = default;
  Divider(std::int64_t n, std::int64_t bound) : size(n < 1 ? 1 : n), small((bound | size) < (std::int64_t{1} << 31)) {
    if (small) fast = FastDivisor(static_cast<std::uint32_t>(size));
  }
  __device__ __forceinline__ Quotient operator()(std::int64_t e) const {
    if (!small) {
      const std::int64_t q = e / size;
      return {q, e - q * size};
    }
    const auto a = static_cast<std::uint32_t>(e), q = fast.quotient(a);
    return {q, a - q * fast.divisor};
  }
};

// Position in a row-major list of axes, innermost first -> offset in steps of any unit.
struct Axes {
  int ndim = 0;
  bool small = true;  // fewer than 2^31 positions
  std::int64_t size[kMaxDims], step[kMaxDims];
  FastDivisor divisor[kMaxDims];

  Axes() = default;
  Axes(int n, const std::int64_t* sizes, const std::int64_t* strides, std::int64_t numel, std::int64_t unit = 1)
      : ndim(n), small(numel < (std::int64_t{1} << 31)) {
    for (int d = 0; d < n; ++d) {
      size[d] = sizes[d];
      step[d] = strides[d] * unit;
      if (small) divisor[d] = FastDivisor(static_cast<std::uint32_t>(sizes[d]));
    }
  }
  __device__ __forceinline__ std::int64_t offset(std::int64_t i) const {
    if (ndim == 1) return i * step[0];
    std::int64_t o = 0;
    if (small) {
      auto rest = static_cast<std::uint32_t>(i);
      for (int d = 0; d < ndim; ++d) {
        const std::uint32_t q = divisor[d].quotient(rest);
        o += static_cast<std::int64_t>(rest - q * divisor[d].divisor) * step[d];
        rest = q;
      }
    } else {
      for (int d = 0; d < ndim; ++d) {
        const std::int64_t q = i / size[d];
        o += (i - q * size[d]) * step[d];
        i = q;
      }
    }
    return o;
  }
};

}  // namespace pydlx::cuda
