// One functor per arithmetic BinaryOp (result dtype = operand dtype), TernaryOp and CompareOp (result bool).
#pragma once
#include "functors/special.h"
#include "functors/types.h"
#include "kernels/pointwise.h"

namespace pydlx::functors {

template <BinaryOp op>
struct Binary;
template <TernaryOp op>
struct Ternary;
template <CompareOp op>
struct Compare;

template <>
struct Binary<BinaryOp::add> {
  static constexpr unsigned types = kAny;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    using W = wrapping_t<T>;
    return static_cast<T>(static_cast<W>(a) + static_cast<W>(b));
  }
};

template <>
struct Binary<BinaryOp::add_scaled> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double* param) {
    return a + static_cast<T>(param[0]) * b;
  }
};

template <>
struct Binary<BinaryOp::sub> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    using W = wrapping_t<T>;
    return static_cast<T>(static_cast<W>(a) - static_cast<W>(b));
  }
};

template <>
struct Binary<BinaryOp::mul> {
  static constexpr unsigned types = kAny;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    using W = wrapping_t<T>;
    return static_cast<T>(static_cast<W>(a) * static_cast<W>(b));
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

template <>
struct Binary<BinaryOp::fmax> {  // a number wins over NaN
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    return b != b || a > b ? a : b;
  }
};

template <>
struct Binary<BinaryOp::fmin> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    return b != b || a < b ? a : b;
  }
};

// Integer division never traps: the ops refuse a zero divisor beforehand, and division by -1 is a negation, which
// wraps.
template <class T>
PYDLX_HD T negated(T a) {
  return static_cast<T>(0 - static_cast<std::uint64_t>(a));
}

template <>
struct Binary<BinaryOp::trunc_divide> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    if constexpr (type_bit<T> == kFloat)
      return math::trunc(a / b);
    else
      return b == 0 ? T(0) : (b == static_cast<T>(-1) && T(-1) < T(0) ? negated(a) : static_cast<T>(a / b));
  }
};

template <>
struct Binary<BinaryOp::remainder> {  // the sign of the divisor, as in Python
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    if constexpr (type_bit<T> == kFloat) {
      const T r = math::fmod(a, b);
      return r != T(0) && (r < T(0)) != (b < T(0)) ? r + b : r;
    } else {
      if (b == 0 || (T(-1) < T(0) && b == static_cast<T>(-1))) return T(0);
      const T r = static_cast<T>(a % b);
      return r != 0 && (r < 0) != (b < 0) ? static_cast<T>(r + b) : r;
    }
  }
};

template <>
struct Binary<BinaryOp::fmod> {  // the sign of the dividend, as in C
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    if constexpr (type_bit<T> == kFloat)
      return math::fmod(a, b);
    else
      return b == 0 || (T(-1) < T(0) && b == static_cast<T>(-1)) ? T(0) : static_cast<T>(a % b);
  }
};

template <>
struct Binary<BinaryOp::floor_divide> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    if constexpr (type_bit<T> == kFloat) {
      // (a - remainder) / b is within an ulp of an integer even where a / b rounds up to one (Python's algorithm).
      if (b == T(0)) return a / b;
      const T r = math::fmod(a, b);
      T q = (a - r) / b;
      if (r != T(0) && (r < T(0)) != (b < T(0))) q -= T(1);
      if (q == T(0)) return math::copysign(T(0), a / b);
      const T f = math::floor(q);
      return q - f > T(0.5) ? f + T(1) : f;
    } else {
      const T q = Binary<BinaryOp::trunc_divide>::apply(a, b, nullptr);
      const T r = Binary<BinaryOp::fmod>::apply(a, b, nullptr);
      return r != 0 && (r < 0) != (b < 0) ? static_cast<T>(q - 1) : q;
    }
  }
};

template <>
struct Binary<BinaryOp::pow> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    if constexpr (type_bit<T> == kFloat) {
      return math::pow(a, b);
    } else {
      // Negative powers of integers are 0 except for 1 and -1.
      if (b < 0)
        return a == T(1) ? T(1) : (a == static_cast<T>(-1) ? ((b & 1) != 0 ? static_cast<T>(-1) : T(1)) : T(0));
      std::uint64_t base = static_cast<std::uint64_t>(a), result = 1;
      for (std::uint64_t n = static_cast<std::uint64_t>(b); n != 0; n >>= 1) {
        if ((n & 1) != 0) result *= base;
        base *= base;
      }
      return static_cast<T>(result);
    }
  }
};

template <>
struct Binary<BinaryOp::atan2> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    return math::atan2(a, b);
  }
};

template <>
struct Binary<BinaryOp::hypot> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    return math::hypot(a, b);
  }
};

template <>
struct Binary<BinaryOp::copysign> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    return math::copysign(a, b);
  }
};

template <>
struct Binary<BinaryOp::heaviside> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    return a == T(0) ? b : static_cast<T>(a > T(0));
  }
};

template <>
struct Binary<BinaryOp::xlogy> {  // 0 where a is 0, except that NaN in b shows
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    const T y = a * math::log(b);
    return b != b ? b : (a == T(0) ? T(0) : y);
  }
};

template <>
struct Binary<BinaryOp::logaddexp> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    const T high = a > b ? a : b, gap = -math::abs(a - b);
    const T y = high + math::log1p(math::exp(gap));
    return a == b && math::abs(a) == math::kInfinity<T> ? a : y;
  }
};

template <>
struct Binary<BinaryOp::bitwise_and> {
  static constexpr unsigned types = kBool | kInt;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    return static_cast<T>(a & b);
  }
};

template <>
struct Binary<BinaryOp::bitwise_or> {
  static constexpr unsigned types = kBool | kInt;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    return static_cast<T>(a | b);
  }
};

template <>
struct Binary<BinaryOp::bitwise_xor> {
  static constexpr unsigned types = kBool | kInt;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    return static_cast<T>(a ^ b);
  }
};

// Shifts by a negative count or by the width and more give what shifting one by one would: 0, or the sign.
template <>
struct Binary<BinaryOp::left_shift> {
  static constexpr unsigned types = kInt;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    const bool in_range = b >= 0 && static_cast<std::uint64_t>(b) < 8 * sizeof(T);
    return in_range ? static_cast<T>(static_cast<std::uint64_t>(a) << (static_cast<std::uint64_t>(b) & 63)) : T(0);
  }
};

template <>
struct Binary<BinaryOp::right_shift> {
  static constexpr unsigned types = kInt;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    const bool in_range = b >= 0 && static_cast<std::uint64_t>(b) < 8 * sizeof(T);
    if (!in_range) return a < 0 ? static_cast<T>(-1) : T(0);
    return static_cast<T>(a >> static_cast<int>(b));
  }
};

template <>
struct Ternary<TernaryOp::addcmul> {  // param: value
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T a, T b, T c, const double* param) {
    using W = wrapping_t<T>;
    return static_cast<T>(static_cast<W>(a) +
                          static_cast<W>(static_cast<T>(param[0])) * static_cast<W>(b) * static_cast<W>(c));
  }
};

template <>
struct Ternary<TernaryOp::addcdiv> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T a, T b, T c, const double* param) {
    return a + static_cast<T>(param[0]) * (b / c);
  }
};

// a + w (b - a), from the nearer end, so that w = 1 gives b exactly.
template <>
struct Ternary<TernaryOp::lerp> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T a, T b, T w, const double*) {
    return math::abs(w) < T(0.5) ? a + w * (b - a) : b - (b - a) * (T(1) - w);
  }
};

template <>
struct Compare<CompareOp::eq> {
  template <class T>
  PYDLX_HD static bool apply(T a, T b, const double*) {
    return a == b;
  }
};
template <>
struct Compare<CompareOp::ne> {
  template <class T>
  PYDLX_HD static bool apply(T a, T b, const double*) {
    return a != b;
  }
};
template <>
struct Compare<CompareOp::lt> {
  template <class T>
  PYDLX_HD static bool apply(T a, T b, const double*) {
    return a < b;
  }
};
template <>
struct Compare<CompareOp::le> {
  template <class T>
  PYDLX_HD static bool apply(T a, T b, const double*) {
    return a <= b;
  }
};
template <>
struct Compare<CompareOp::gt> {
  template <class T>
  PYDLX_HD static bool apply(T a, T b, const double*) {
    return a > b;
  }
};
template <>
struct Compare<CompareOp::ge> {
  template <class T>
  PYDLX_HD static bool apply(T a, T b, const double*) {
    return a >= b;
  }
};

}  // namespace pydlx::functors
