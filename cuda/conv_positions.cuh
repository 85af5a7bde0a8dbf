// Flat positions in images, taken apart.
#pragma once
#include "cuda/runtime/divisor.cuh"

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

}  // namespace
}  // namespace pydlx::cuda
