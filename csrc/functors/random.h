// From random bits to distributions. Element i of a float draw takes word i % 4 of block i / 4; element i of a double
// or integer draw takes 64 bits, half a block. Shared by the CPU and CUDA backends.
#pragma once
#include "core/philox.h"
#include "functors/math.h"

namespace pydlx::functors {

template <class T>
struct RandomBits {
  using type = std::uint32_t;
};
template <>
struct RandomBits<double> {
  using type = std::uint64_t;
};

// [0, 1) on a grid of 2^-bits, so that narrower types never round up to 1 (float: 24, float16: 11, bfloat16: 8; double
// always 53).
PYDLX_HD float unit(std::uint32_t r, int bits) {
  return static_cast<float>(static_cast<std::int32_t>(r >> (32 - bits))) *
         bit_cast<float>(static_cast<std::uint32_t>(127 - bits) << 23);
}
PYDLX_HD double unit(std::uint64_t r, int) { return static_cast<double>(static_cast<std::int64_t>(r >> 11)) * 0x1p-53; }

// (0, 1] with fine steps near 0: the argument of logarithms, reaching 6.7 (float) and 8.6 (double) standard deviations.
PYDLX_HD float open_unit(std::uint32_t r) { return (static_cast<float>(r) + 0.5f) * 0x1p-32f; }
PYDLX_HD double open_unit(std::uint64_t r) {
  return (static_cast<double>(static_cast<std::int64_t>(r >> 11)) + 0.5) * 0x1p-53;
}

// log of a positive normal number: x = 2^e m with m around 1, log m = 2 artanh((m - 1) / (m + 1)) as a series. Below 2
// ULP.
PYDLX_HD float log_positive(float x) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(x);
  const std::int32_t e = static_cast<std::int32_t>(bits - 0x3f3504f3u) >> 23;
  const float m = bit_cast<float>(bits - (static_cast<std::uint32_t>(e) << 23));
  const float s = (m - 1.0f) / (m + 1.0f), z = s * s;
  float p = 1.0f / 11;
  p = p * z + 1.0f / 9;
  p = p * z + 1.0f / 7;
  p = p * z + 1.0f / 5;
  p = p * z + 1.0f / 3;
  return static_cast<float>(e) * 0.693147180559945f + (2 * s + 2 * s * (z * p));
}
PYDLX_HD double log_positive(double x) {
  const std::uint64_t bits = bit_cast<std::uint64_t>(x);
  const std::int64_t e = static_cast<std::int64_t>(bits - 0x3fe6a09e667f3bcdull) >> 52;
  const double m = bit_cast<double>(bits - (static_cast<std::uint64_t>(e) << 52));
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
  double p = 1.0 / 21;
  p = p * z + 1.0 / 19;
  p = p * z + 1.0 / 17;
  p = p * z + 1.0 / 15;
  p = p * z + 1.0 / 13;
  p = p * z + 1.0 / 11;
  p = p * z + 1.0 / 9;
  p = p * z + 1.0 / 7;
  p = p * z + 1.0 / 5;
  p = p * z + 1.0 / 3;
  return static_cast<double>(e) * 0.6931471805599453 + (2 * s + 2 * s * (z * p));
}

// sin and cos of u turns for u in [0, 1): the reduction to an eighth of a turn is exact, Taylor series do the rest.
template <class T>
struct SinCos {
  T sin, cos;
};
template <class T>
PYDLX_HD SinCos<T> sincos_turns(T u) {
  const std::int32_t q = static_cast<std::int32_t>(u * 4 + T(0.5));
  const T a = (u - static_cast<T>(q) * T(0.25)) * T(6.283185307179586476925), z = a * a;
  T s, c;
  if constexpr (sizeof(T) == 8) {
    s = T(1.0 / 355687428096000);
    s = s * z - T(1.0 / 1307674368000);
    s = s * z + T(1.0 / 6227020800);
    s = s * z - T(1.0 / 39916800);
    s = s * z + T(1.0 / 362880);
    c = T(1.0 / 20922789888000);
    c = c * z - T(1.0 / 87178291200);
    c = c * z + T(1.0 / 479001600);
    c = c * z - T(1.0 / 3628800);
    c = c * z + T(1.0 / 40320);
  } else {
    s = T(1.0 / 362880);
    c = T(1.0 / 40320);
  }
  s = s * z - T(1.0 / 5040);
  s = s * z + T(1.0 / 120);
  s = s * z - T(1.0 / 6);
  s = a + a * (s * z);
  c = c * z - T(1.0 / 720);
  c = c * z + T(1.0 / 24);
  c = c * z - T(0.5);
  c = T(1) + c * z;
  const T x = q & 1 ? c : s, y = q & 1 ? s : c;
  return {q & 2 ? -x : x, (q + 1) & 2 ? -y : y};
}

}  // namespace pydlx::functors
