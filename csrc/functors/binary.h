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
struct Binary<BinaryOp::mul_scaled> {
  static constexpr unsigned types = kFloat;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double* param) {
    return a * (static_cast<T>(param[0]) * b);
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
    else if constexpr (type_bit<T> == kBool)
      return static_cast<T>(a | b);  // a comparison of bools stays a scalar loop
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
    else if constexpr (type_bit<T> == kBool)
      return static_cast<T>(a & b);  // a comparison of bools stays a scalar loop
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

// Integer division never traps: the ops refuse a zero divisor beforehand (the result would be 0), and division by -1 is
// a negation, which wraps. It takes place in floating point, where it has vectors: of integers below 2^24 in float or
// 2^53 in double a quotient that is no integer stays below the next one when it is rounded, so that its trunc and floor
// are exact, and so are the product and difference that make the remainder. Wider integers are `rare`.
template <class T>
using quotient_t = std::conditional_t<(sizeof(T) <= 2), float, double>;
template <class T>
PYDLX_HD quotient_t<T> to_quotient(T a) {
  if constexpr (sizeof(T) == 8)  // without the conversion that AVX2 lacks
    return bit_cast<double>(static_cast<std::int64_t>(a) + 0x4338000000000000ll) - 6755399441055744.0;
  else
    return static_cast<quotient_t<T>>(a);
}
// Whether |a| or |b| exceeds the 2^51 that to_quotient and math::to_int are good for.
PYDLX_HD bool exceeds_quotient(std::int64_t a, std::int64_t b) {
  const std::uint64_t limit = 1ull << 51;
  return (((static_cast<std::uint64_t>(a) + limit) | (static_cast<std::uint64_t>(b) + limit)) >> 52) != 0;
}
enum class Rounding { trunc, floor };
template <Rounding rounding, class T>
PYDLX_HD quotient_t<T> rounded_quotient(quotient_t<T> x, quotient_t<T> y) {
  return rounding == Rounding::floor ? math::floor(x / y) : math::trunc(x / y);
}
template <Rounding rounding, class T>
PYDLX_HD T integer_quotient(T a, T b) {
  const T q = static_cast<T>(math::to_int(rounded_quotient<rounding, T>(to_quotient(a), to_quotient(b))));
  return b == T(0) ? T(0) : q;
}
template <Rounding rounding, class T>
PYDLX_HD T integer_remainder(T a, T b) {
  const quotient_t<T> x = to_quotient(a), y = to_quotient(b);
  const T r = static_cast<T>(math::to_int(x - rounded_quotient<rounding, T>(x, y) * y));
  return b == T(0) ? T(0) : r;
}
// The same for all integers.
PYDLX_HD std::int64_t trunc_quotient(std::int64_t a, std::int64_t b) {
  return b == 0 ? 0 : (b == -1 ? static_cast<std::int64_t>(0 - static_cast<std::uint64_t>(a)) : a / b);
}
PYDLX_HD std::int64_t trunc_remainder(std::int64_t a, std::int64_t b) { return b == 0 || b == -1 ? 0 : a % b; }

template <>
struct Binary<BinaryOp::trunc_divide> {
  static constexpr unsigned types = kNumber;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    if constexpr (type_bit<T> == kFloat)
      return math::trunc(a / b);
    else
      return integer_quotient<Rounding::trunc>(a, b);
  }
  template <class T>
    requires(std::is_same_v<T, std::int64_t>)
  PYDLX_HD static bool rare(T a, T b) {
    return exceeds_quotient(a, b);
  }
  PYDLX_HD static std::int64_t slow(std::int64_t a, std::int64_t b) { return trunc_quotient(a, b); }
};

// Quotients of floats whose remainder math::fmod_small finds, and of integers that floating point divides exactly;
// others are `rare`.
struct Division {
  static constexpr unsigned types = kNumber;
  template <class T>
    requires(sizeof(T) == 8 || type_bit<T> == kFloat)
  PYDLX_HD static bool rare(T a, T b) {
    if constexpr (type_bit<T> == kInt)
      return exceeds_quotient(a, b);
    else
      return math::fmod_is_large(a, b);
  }
};

template <>
struct Binary<BinaryOp::remainder> : Division {  // the sign of the divisor, as in Python
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    if constexpr (type_bit<T> == kFloat)
      return shifted(math::fmod_small(a, b), b);
    else
      return integer_remainder<Rounding::floor>(a, b);
  }
  template <class T>
    requires(type_bit<T> == kFloat)
  PYDLX_HD static T slow(T a, T b) {
    return shifted(math::fmod(a, b), b);
  }
  PYDLX_HD static std::int64_t slow(std::int64_t a, std::int64_t b) {
    const std::int64_t r = trunc_remainder(a, b);
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
  }

 private:
  // Zeros keep their sign, the dividend's.
  template <class T>
  PYDLX_HD static T shifted(T r, T b) {
    const T other = r * math::copysign(T(1), b) < T(0) ? r + b : r;
    return other;
  }
};

template <>
struct Binary<BinaryOp::fmod> : Division {  // the sign of the dividend, as in C
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    if constexpr (type_bit<T> == kFloat)
      return math::fmod_small(a, b);
    else
      return integer_remainder<Rounding::trunc>(a, b);
  }
  template <class T>
    requires(type_bit<T> == kFloat)
  PYDLX_HD static T slow(T a, T b) {
    return math::fmod(a, b);
  }
  PYDLX_HD static std::int64_t slow(std::int64_t a, std::int64_t b) { return trunc_remainder(a, b); }
};

template <>
struct Binary<BinaryOp::floor_divide> : Division {
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    if constexpr (type_bit<T> == kFloat)
      return floored(a, b, math::fmod_small(a, b));
    else
      return integer_quotient<Rounding::floor>(a, b);
  }
  template <class T>
    requires(type_bit<T> == kFloat)
  PYDLX_HD static T slow(T a, T b) {
    return b == T(0) ? a / b : floored(a, b, math::fmod(a, b));
  }
  PYDLX_HD static std::int64_t slow(std::int64_t a, std::int64_t b) {
    const std::int64_t q = trunc_quotient(a, b), r = trunc_remainder(a, b);
    return r != 0 && (r < 0) != (b < 0) ? q - 1 : q;
  }

 private:
  // (a - remainder) / b is within an ulp of an integer even where a / b rounds up to one (Python's algorithm).
  template <class T>
  PYDLX_HD static T floored(T a, T b, T r) {
    const T sign = math::copysign(T(1), b), whole = (a - r) / b;
    const T q = r * sign < T(0) ? whole - T(1) : whole;
    const T f = math::floor(q), n = q - f > T(0.5) ? f + T(1) : f;
    return q == T(0) ? math::copysign(T(0), a * sign) : n;
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
    const T y = high + math::log1p_unit(math::exp(gap));
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
    using W = wrapping_t<T>;
    const bool in_range = b >= 0 && static_cast<W>(b) < 8 * sizeof(T);
    return in_range ? static_cast<T>(static_cast<W>(a) << (static_cast<W>(b) & (8 * sizeof(W) - 1))) : T(0);
  }
};

template <>
struct Binary<BinaryOp::right_shift> {
  static constexpr unsigned types = kInt;
  template <class T>
  PYDLX_HD static T apply(T a, T b, const double*) {
    const bool in_range = b >= 0 && static_cast<wrapping_t<T>>(b) < 8 * sizeof(T);
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
