// Elementary and special functions of one operand.
#pragma once
#include <concepts>

#include "functors/special.h"
#include "functors/types.h"
#include "kernels/pointwise.h"

namespace pydlx::functors {

template <UnaryOp op>
struct Transcendental;

template <>
struct Transcendental<UnaryOp::exp> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::exp(x);
  }
};

template <>
struct Transcendental<UnaryOp::exp2> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::exp2(x);
  }
};

template <>
struct Transcendental<UnaryOp::expm1> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::expm1(x);
  }
};

template <>
struct Transcendental<UnaryOp::log> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::log(x);
  }
};

template <>
struct Transcendental<UnaryOp::log2> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::log2(x);
  }
};

template <>
struct Transcendental<UnaryOp::log10> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::log10(x);
  }
};

template <>
struct Transcendental<UnaryOp::log1p> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::log1p(x);
  }
};

struct Trigonometric {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static bool rare(T x) {
    return math::trig_is_large(x);
  }
};

template <>
struct Transcendental<UnaryOp::sin> : Trigonometric {
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::sin_small(x);
  }
  template <class T>
  PYDLX_HD static T slow(T x) {
    return math::sin(x);
  }
};

template <>
struct Transcendental<UnaryOp::cos> : Trigonometric {
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::cos_small(x);
  }
  template <class T>
  PYDLX_HD static T slow(T x) {
    return math::cos(x);
  }
};

template <>
struct Transcendental<UnaryOp::tanh> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::tanh(x);
  }
};

template <>
struct Transcendental<UnaryOp::sigmoid> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::sigmoid(x);
  }
};

template <>
struct Transcendental<UnaryOp::erf> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::erf(x);
  }
};

template <>
struct Transcendental<UnaryOp::tan> : Trigonometric {
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::tan_small(x);
  }
  template <class T>
  PYDLX_HD static T slow(T x) {
    return math::tan(x);
  }
};

template <>
struct Transcendental<UnaryOp::asin> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::asin(x);
  }
};

template <>
struct Transcendental<UnaryOp::acos> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::acos(x);
  }
};

template <>
struct Transcendental<UnaryOp::atan> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::atan(x);
  }
};

template <>
struct Transcendental<UnaryOp::sinh> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::sinh(x);
  }
};

template <>
struct Transcendental<UnaryOp::cosh> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::cosh(x);
  }
};

template <>
struct Transcendental<UnaryOp::asinh> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::asinh(x);
  }
};

template <>
struct Transcendental<UnaryOp::acosh> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::acosh(x);
  }
};

template <>
struct Transcendental<UnaryOp::atanh> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::atanh(x);
  }
};

template <>
struct Transcendental<UnaryOp::erfc> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::erfc(x);
  }
};

template <>
struct Transcendental<UnaryOp::erfinv> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::erfinv(x);
  }
};

// In double, reflection takes its branches.
struct Gamma {
  static constexpr unsigned types = kFloat;
  template <std::same_as<double> T>
  PYDLX_HD static bool rare(T x) {
    return !(x > 0.0);
  }
};

template <>
struct Transcendental<UnaryOp::lgamma> : Gamma {
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    if constexpr (std::is_same_v<T, double>)
      return math::lgamma_positive(x);
    else
      return math::lgamma(x);
  }
  template <class T>
  PYDLX_HD static T slow(T x) {
    return math::lgamma(x);
  }
};

template <>
struct Transcendental<UnaryOp::digamma> : Gamma {
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    if constexpr (std::is_same_v<T, double>)
      return math::digamma_positive(x);
    else
      return math::digamma(x);
  }
  template <class T>
  PYDLX_HD static T slow(T x) {
    return math::digamma(x);
  }
};

template <>
struct Transcendental<UnaryOp::trigamma> : Gamma {
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    if constexpr (std::is_same_v<T, double>)
      return math::trigamma_positive(x);
    else
      return math::trigamma(x);
  }
  template <class T>
  PYDLX_HD static T slow(T x) {
    return math::trigamma(x);
  }
};

template <>
struct Transcendental<UnaryOp::logit> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T x, const double*) {
    return math::logit(x);
  }
};

}  // namespace pydlx::functors
