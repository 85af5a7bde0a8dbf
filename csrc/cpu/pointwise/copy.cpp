// Copies with conversion, and selection.
#include "cpu/pointwise/loop.h"
#include "kernels/pointwise.h"

namespace pydlx::PYDLX_ISA {
namespace {

// Out-of-range float to integer conversion is undefined in C++: go through int64 and give INT64_MIN for what does not fit.
template <class To, class From>
struct Convert {
  static inline __attribute__((always_inline)) To apply(From v, const double*) {
    using C = compute_t<From>;
    const C x = static_cast<C>(v);
    if constexpr (type_bit<To> == kBool) {
      return x != C(0);
    } else if constexpr (type_bit<From> == kFloat && type_bit<To> == kInt) {
      const bool in_range = x >= static_cast<C>(-9223372036854775808.0) && x < static_cast<C>(9223372036854775808.0);
      return static_cast<To>(in_range ? static_cast<std::int64_t>(x) : INT64_MIN);
    } else if constexpr (type_bit<To> == kFloat) {
      return static_cast<To>(static_cast<compute_t<To>>(x));
    } else {
      return static_cast<To>(x);
    }
  }
};

template <class T>
void copy_row(std::int64_t n, char* const* p, const std::int64_t* s, const double* param) {
  if (s[0] == 1 && s[1] == 1)
    std::memcpy(p[0], p[1], static_cast<std::size_t>(n) * sizeof(T));
  else
    row1<Convert<T, T>, T, T>(n, p, s, param);
}
template <class T>
void copy_same(const Elementwise& e) {
  constexpr std::size_t size[] = {sizeof(T), sizeof(T)};
  walk(e, size, copy_row<T>);
}

template <class T>
void where_row(std::int64_t n, char* const* p, const std::int64_t* s, const double*) {
  T* o = reinterpret_cast<T*>(p[0]);
  const bool* c = reinterpret_cast<const bool*>(p[1]);
  const T *a = reinterpret_cast<const T*>(p[2]), *b = reinterpret_cast<const T*>(p[3]);
  if (s[0] == 1 && s[1] == 1 && s[2] == 1 && s[3] == 1) {
    for (std::int64_t i = 0; i < n; ++i) o[i] = c[i] ? a[i] : b[i];
  } else {
    const std::int64_t so = s[0], sc = s[1], sa = s[2], sb = s[3];
    for (std::int64_t i = 0; i < n; ++i) o[i * so] = c[i * sc] ? a[i * sa] : b[i * sb];
  }
}
template <class T>
void where_kernel(const Elementwise& e) {
  constexpr std::size_t size[] = {sizeof(T), 1, sizeof(T), sizeof(T)};
  walk(e, size, where_row<T>);
}

template <class To, class... From>
void fill_to(PointwiseKernels& k, Types<From...>) {
  ((k.copy[idx<To>][idx<From>] = map1<Convert<To, From>, To, From>), ...);
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
