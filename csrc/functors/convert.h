// Conversion between dtypes and selection. Shared by the CPU and CUDA backends.
#pragma once
#include "functors/types.h"

namespace pydlx::functors {

// Out-of-range float to integer conversion is undefined in C++: go through int64 and give INT64_MIN for what does not
// fit.
template <class To>
struct Convert {
  template <class From>
  PYDLX_HD static To apply(From x, const double*) {
    if constexpr (type_bit<To> == kBool) {
      return x != From(0);
    } else if constexpr (type_bit<From> == kBool && type_bit<To> == kFloat) {
      return x ? To(1) : To(0);  // a cast stays a scalar loop
    } else if constexpr (type_bit<From> == kFloat && type_bit<To> == kInt) {
      const bool in_range =
          x >= static_cast<From>(-9223372036854775808.0) && x < static_cast<From>(9223372036854775808.0);
      return static_cast<To>(in_range ? static_cast<std::int64_t>(x) : INT64_MIN);
    } else {
      return static_cast<To>(x);
    }
  }
};

struct Same {
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return x;
  }
};

struct Select {
  template <class T>
  PYDLX_HD static T apply(std::uint8_t c, T a, T b, const double*) {
    // Written with masks, which vectorise for every element size. A bool from outside may be any byte.
    const T mask = static_cast<T>(0 - static_cast<T>(c != 0));
    return static_cast<T>((a & mask) | (b & static_cast<T>(~mask)));
  }
};

}  // namespace pydlx::functors
