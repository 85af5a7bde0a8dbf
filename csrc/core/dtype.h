// Element types, their sizes, and PyTorch's promotion rules.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/half.h"

namespace pydlx {

enum class DType : std::uint8_t { Bool, UInt8, Int8, Int16, Int32, Int64, Float16, BFloat16, Float32, Float64 };
inline constexpr int kDTypeCount = 10;

constexpr std::size_t itemsize(DType t) {
  constexpr std::size_t table[kDTypeCount] = {1, 1, 1, 2, 4, 8, 2, 2, 4, 8};
  return table[static_cast<int>(t)];
}
constexpr const char* dtype_name(DType t) {
  constexpr const char* table[kDTypeCount] = {"bool",  "uint8",   "int8",     "int16",   "int32",
                                              "int64", "float16", "bfloat16", "float32", "float64"};
  return table[static_cast<int>(t)];
}
constexpr bool is_floating(DType t) { return t >= DType::Float16; }
constexpr bool is_integral(DType t) { return t > DType::Bool && t < DType::Float16; }
// Category order of promotion: bool < integral < floating.
constexpr int dtype_category(DType t) { return t == DType::Bool ? 0 : is_floating(t) ? 2 : 1; }

// Result dtype of two dimensioned operands (PyTorch's table, "Tensor Attributes: type promotion").
DType promote(DType a, DType b);

DType default_dtype();
void set_default_dtype(DType t);

// C++ type <-> DType.
template <class T>
struct DTypeOf;
template <>
struct DTypeOf<bool> {
  static constexpr DType value = DType::Bool;
};
template <>
struct DTypeOf<std::uint8_t> {
  static constexpr DType value = DType::UInt8;
};
template <>
struct DTypeOf<std::int8_t> {
  static constexpr DType value = DType::Int8;
};
template <>
struct DTypeOf<std::int16_t> {
  static constexpr DType value = DType::Int16;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::Int32;
};
template <>
struct DTypeOf<std::int64_t> {
  static constexpr DType value = DType::Int64;
};
template <>
struct DTypeOf<Half> {
  static constexpr DType value = DType::Float16;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::BFloat16;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::Float32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::Float64;
};

}  // namespace pydlx
