// Which dtypes a functor serves, and the type it computes in. Shared by the CPU and CUDA backends.
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

}  // namespace pydlx::functors
