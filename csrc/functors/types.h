// Which dtypes a functor serves, the type it computes in, and lists of types. Shared by the CPU and CUDA backends.
#pragma once
#include "core/dtype.h"

namespace pydlx::functors {

enum TypeSet : unsigned { kBool = 1, kInt = 2, kFloat = 4, kNumber = kInt | kFloat, kAny = kBool | kInt | kFloat };

template <class T>
inline constexpr unsigned type_bit = dtype_category(DTypeOf<T>::value) == 0   ? kBool
                                     : dtype_category(DTypeOf<T>::value) == 1 ? kInt
                                                                              : kFloat;

// 16-bit floats are storage formats: arithmetic happens in float.
template <class T>
struct ComputeOf {
  using type = T;
};
template <>
struct ComputeOf<Half> {
  using type = float;
};
template <>
struct ComputeOf<BFloat16> {
  using type = float;
};
template <class T>
using compute_t = typename ComputeOf<T>::type;

// The unsigned integer of an element's width.
template <std::size_t size>
struct WordOf;
template <>
struct WordOf<1> {
  using type = std::uint8_t;
};
template <>
struct WordOf<2> {
  using type = std::uint16_t;
};
template <>
struct WordOf<4> {
  using type = std::uint32_t;
};
template <>
struct WordOf<8> {
  using type = std::uint64_t;
};
template <class T>
using word_t = typename WordOf<sizeof(T)>::type;

template <class... Ts>
struct Types {};
using AllTypes =
    Types<bool, std::uint8_t, std::int8_t, std::int16_t, std::int32_t, std::int64_t, Half, BFloat16, float, double>;

// Place in a kernel table's row.
template <class T>
inline constexpr int idx = static_cast<int>(DTypeOf<T>::value);

}  // namespace pydlx::functors
