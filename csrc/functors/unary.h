// One functor per UnaryOp: y = f(x). `types` says for which dtypes a kernel is made; arithmetic is in compute_t.
// A functor is stateless or built from the op's parameters; everything is forced inline (see core/half.h).
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
    return static_cast<T>(-x);
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
      return static_cast<T>(x < 0 ? -x : x);
  }
};

template <>
struct Unary<UnaryOp::exp> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::exp(x);
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
struct Unary<UnaryOp::relu> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return x < T(0) ? T(0) : x;  // NaN passes through
  }
};

}  // namespace pydlx::functors
