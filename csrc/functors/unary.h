// Arithmetic, rounding and bit functors of one operand: y = f(x). `types` says for which dtypes a kernel is made;
// 16-bit floats arrive as float. Functors are stateless, take the op's parameters as doubles, and are forced inline
// (see core/half.h).
#pragma once
#include "functors/math.h"
#include "functors/types.h"
#include "kernels/pointwise.h"

namespace pydlx::functors {

template <UnaryOp op>
struct Unary;

template <>
struct Unary<UnaryOp::neg> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    if constexpr (type_bit<T> == kInt)
      return static_cast<T>(0 - static_cast<std::uint64_t>(x));  // the smallest integer wraps instead of overflowing
    else
      return -x;
  }
};

template <>
struct Unary<UnaryOp::abs> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    if constexpr (type_bit<T> == kFloat)
      return math::abs(x);
    else
      return static_cast<T>(x < 0 ? 0 - static_cast<std::uint64_t>(x) : static_cast<std::uint64_t>(x));
  }
};

template <>
struct Unary<UnaryOp::sign> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return static_cast<T>((x > T(0)) - (x < T(0)));
  }
};

template <>
struct Unary<UnaryOp::sqrt> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::sqrt(x);
  }
};

template <>
struct Unary<UnaryOp::rsqrt> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return T(1) / math::sqrt(x);
  }
};

template <>
struct Unary<UnaryOp::reciprocal> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return T(1) / x;
  }
};

template <>
struct Unary<UnaryOp::cube> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return x * x * x;
  }
};

template <>
struct Unary<UnaryOp::floor> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::floor(x);
  }
};

template <>
struct Unary<UnaryOp::ceil> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::ceil(x);
  }
};

template <>
struct Unary<UnaryOp::round> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::round(x);
  }
};

template <>
struct Unary<UnaryOp::trunc> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::trunc(x);
  }
};

template <>
struct Unary<UnaryOp::frac> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return x - math::trunc(x);
  }
};

template <>
struct Unary<UnaryOp::bitwise_not> {
  static constexpr unsigned types = kBool | kInt;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    if constexpr (type_bit<T> == kBool)
      return !x;
    else
      return static_cast<T>(~x);
  }
};

// param: replacements of NaN, +infinity, -infinity
template <>
struct Unary<UnaryOp::nan_to_num> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double* param) {
    const T y =
        x == math::kInfinity<T> ? static_cast<T>(param[1]) : (x == -math::kInfinity<T> ? static_cast<T>(param[2]) : x);
    return x != x ? static_cast<T>(param[0]) : y;
  }
};

template <>
struct Unary<UnaryOp::relu> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return x < T(0) ? T(0) : x;  // NaN passes through
  }
};

// param: lower and upper bound, of integers as the bits of 64 of them; the upper one wins when they cross, as in
// PyTorch. NaN passes through.
template <>
struct Unary<UnaryOp::clamp> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T bound(double v) {
    if constexpr (type_bit<T> == kInt)
      return static_cast<T>(bit_cast<std::int64_t>(v));
    else
      return static_cast<T>(v);
  }
  template <class T>
  PYDLX_HD static T apply(T x, const double* param) {
    const T low = bound<T>(param[0]), high = bound<T>(param[1]);
    const T y = x < low ? low : x;
    return y > high ? high : y;
  }
};

}  // namespace pydlx::functors
