// Copies with conversion, and selection.
#include "cpu/pointwise/loop.h"
#include "kernels/pointwise.h"

namespace pydlx::PYDLX_ISA {
namespace {

// Out-of-range float to integer conversion is undefined in C++: go through int64 and give INT64_MIN for what does not
// fit.
template <class To>
struct Convert {
  template <class From>
  static inline __attribute__((always_inline)) To apply(From x, const double*) {
    if constexpr (type_bit<To> == kBool) {
      return x != From(0);
    } else if constexpr (type_bit<From> == kFloat && type_bit<To> == kInt) {
      const bool in_range =
          x >= static_cast<From>(-9223372036854775808.0) && x < static_cast<From>(9223372036854775808.0);
      return static_cast<To>(in_range ? static_cast<std::int64_t>(x) : INT64_MIN);
    } else {
      return static_cast<To>(x);
    }
  }
};

struct Same {
  template <class T>
  static inline __attribute__((always_inline)) T apply(T x, const double*) {
    return x;
  }
};
struct Select {
  template <class T>
  static inline __attribute__((always_inline)) T apply(bool c, T a, T b, const double*) {
    return c ? a : b;
  }
};

// Equal dtypes and selection move bits: one kernel per element size.
template <class T>
void copy_same(const Elementwise& e) {
  map1<Same, word_t<T>, word_t<T>>(e);
}
template <class T>
void where_kernel(const Elementwise& e) {
  map3<Select, word_t<T>, bool, word_t<T>>(e);
}

template <class To, class... From>
void fill_to(PointwiseKernels& k, Types<From...>) {
  ((k.copy[idx<To>][idx<From>] = map1<Convert<compute_t<To>>, To, From>), ...);
  k.copy[idx<To>][idx<To>] = copy_same<To>;
  k.where[idx<To>] = where_kernel<To>;
}
template <class... Ts>
void fill(PointwiseKernels& k, Types<Ts...> all) {
  (fill_to<Ts>(k, all), ...);
}

}  // namespace

void register_copy(KernelTable& t) { fill(family<PointwiseKernels>(t), AllTypes{}); }

}  // namespace pydlx::PYDLX_ISA
