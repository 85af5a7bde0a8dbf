// Sorting works on unsigned keys whose order is the order wanted: floats with their bits flipped so that they compare
// as integers (-0 as 0, every NaN as the largest), everything complemented for descending order. Shared by the CPU and
// CUDA backends.
#pragma once
#include "functors/types.h"

namespace pydlx::functors {

template <class T>
inline constexpr int exponent_bits = 0;  // floats only
template <>
inline constexpr int exponent_bits<Half> = 5;
template <>
inline constexpr int exponent_bits<BFloat16> = 8;
template <>
inline constexpr int exponent_bits<float> = 8;
template <>
inline constexpr int exponent_bits<double> = 11;

template <class T>
PYDLX_HD bool is_nan(T x) {
  if constexpr (exponent_bits<T> == 0) {
    return false;
  } else {
    using U = word_t<T>;
    constexpr U sign = U(U(1) << (8 * sizeof(U) - 1)), magnitude = U(sign - 1);
    constexpr U infinity =
        U(magnitude >> (8 * sizeof(U) - 1 - exponent_bits<T>) << (8 * sizeof(U) - 1 - exponent_bits<T>));
    return (bit_cast<U>(x) & magnitude) > infinity;
  }
}

template <class T>
PYDLX_HD word_t<T> key_of(T x, bool descending) {
  using U = word_t<T>;
  constexpr U sign = U(U(1) << (8 * sizeof(U) - 1));
  U u = bit_cast<U>(x);
  // Masks instead of selections: compilers turn those into branches, and then do not vectorise loops over keys.
  if constexpr (exponent_bits<T> > 0) {
    u = U(u & U(-U(u != sign)));  // -0
    u = U((u ^ (U(-U(u >> (8 * sizeof(U) - 1))) | sign)) | U(-U(is_nan(x))));
  } else if constexpr (T(-1) < T(0)) {
    u = U(u ^ sign);
  }
  return U(u ^ U(-U(descending)));
}

// The integer that has the key. Floats have no way back: the sign of 0 and the bits of NaN are lost.
template <class T>
PYDLX_HD T value_of(word_t<T> key, bool descending) {
  static_assert(exponent_bits<T> == 0);
  return bit_cast<T>(key_of(bit_cast<T>(word_t<T>(key ^ word_t<T>(-word_t<T>(descending)))), false));
}

}  // namespace pydlx::functors
