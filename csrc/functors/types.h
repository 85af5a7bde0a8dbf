// Which dtypes a functor serves, and the type it computes in. Shared by the CPU and CUDA backends.
#pragma once
#include <type_traits>

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

// Integers wrap around, as in PyTorch: sums and products are formed in unsigned words, where overflow is defined.
template <class T, bool integer = type_bit<T> == kInt>
struct WrappingOf {
  using type = T;
};
template <class T>
struct WrappingOf<T, true> {
  using type = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
};
template <class T>
using wrapping_t = typename WrappingOf<T>::type;

// bool elements are read as bytes: memory from elsewhere, or not written yet, may hold other values than 0 and 1.
template <class T>
struct StoredOf {
  using type = T;
};
template <>
struct StoredOf<bool> {
  using type = std::uint8_t;
};
template <class T>
using stored_t = typename StoredOf<T>::type;

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

// How loops store numbers: 16-bit floats as bits, since GCC does not vectorise stores of structures.
PYDLX_HD constexpr std::uint16_t bits_of(Half v) { return v.bits; }
PYDLX_HD constexpr std::uint16_t bits_of(BFloat16 v) { return v.bits; }
template <class T>
PYDLX_HD constexpr T bits_of(T v) {
  return v;
}
template <class T>
using bits_t = decltype(bits_of(T{}));

}  // namespace pydlx::functors
