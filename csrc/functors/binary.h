// One functor per BinaryOp (result dtype = operand dtype) and per CompareOp (result bool).
#pragma once
#include "functors/math.h"
#include "functors/types.h"
#include "kernels/pointwise.h"

namespace pydlx::functors {

template <BinaryOp op>
struct Binary;
template <CompareOp op>
struct Compare;

template <>
struct Binary<BinaryOp::add> {
  static constexpr unsigned types = kAny;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    return static_cast<T>(a + b);
  }
};

template <>
struct Binary<BinaryOp::sub> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    return static_cast<T>(a - b);
  }
};

template <>
struct Binary<BinaryOp::mul> {
  static constexpr unsigned types = kAny;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    return static_cast<T>(a * b);
  }
};

template <>
struct Binary<BinaryOp::div> {  // true division; integers were promoted before
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    return a / b;
  }
};

template <>
struct Binary<BinaryOp::maximum> {
  static constexpr unsigned types = kAny;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    if constexpr (type_bit<T> == kFloat)
      return a != a ? a : (b != b ? b : (a > b ? a : b));  // NaN wins
    else
      return a > b ? a : b;
  }
};

template <>
struct Binary<BinaryOp::minimum> {
  static constexpr unsigned types = kAny;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    if constexpr (type_bit<T> == kFloat)
      return a != a ? a : (b != b ? b : (a < b ? a : b));
    else
      return a < b ? a : b;
  }
};

// (gradient, output) -> gradient where the output is positive. Written on the output, so that relu can run in place.
template <>
struct Binary<BinaryOp::relu_backward> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T g, T y, const double*) {
    return y > T(0) ? g : T(0);
  }
};

template <> struct Compare<CompareOp::eq> { template <class T> PYDLX_HD static bool apply(T a, T b) { return a == b; } };
template <> struct Compare<CompareOp::ne> { template <class T> PYDLX_HD static bool apply(T a, T b) { return a != b; } };
template <> struct Compare<CompareOp::lt> { template <class T> PYDLX_HD static bool apply(T a, T b) { return a < b; } };
template <> struct Compare<CompareOp::le> { template <class T> PYDLX_HD static bool apply(T a, T b) { return a <= b; } };
template <> struct Compare<CompareOp::gt> { template <class T> PYDLX_HD static bool apply(T a, T b) { return a > b; } };
template <> struct Compare<CompareOp::ge> { template <class T> PYDLX_HD static bool apply(T a, T b) { return a >= b; } };

}  // namespace pydlx::functors
