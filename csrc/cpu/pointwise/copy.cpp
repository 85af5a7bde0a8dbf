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
  static inline __attribute__((always_inline)) T apply(std::uint8_t c, T a, T b, const double*) {
    // Written with masks, which vectorise for every element size. A bool from outside may be any byte.
    const T mask = static_cast<T>(0 - static_cast<T>(c != 0));
    return static_cast<T>((a & mask) | (b & static_cast<T>(~mask)));
  }
};

// A transposition: the output runs along axis 0, the input along axis 1. Square tiles touch every cache line of both
// sides once; going row by row would fetch a line of the input for each element.
template <class W>
void transpose(const Elementwise& e) {
  constexpr std::int64_t kTile = 32;
  const std::int64_t cols = e.size[0], rows = e.size[1], bands = (rows + kTile - 1) / kTile;
  const std::int64_t out_row = e.stride[0][1], in_col = e.stride[1][0];
  parallel_for(e.numel / (cols * rows) * bands, cols * kTile >= kGrain ? 1 : kGrain / (cols * kTile),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t task = begin; task < end; ++task) {
                   W* out = static_cast<W*>(e.data[0]);
                   const W* in = static_cast<const W*>(e.data[1]);
                   std::int64_t rest = task / bands;
                   for (int d = 2; d < e.ndim; ++d) {
                     out += rest % e.size[d] * e.stride[0][d];
                     in += rest % e.size[d] * e.stride[1][d];
                     rest /= e.size[d];
                   }
                   const std::int64_t r0 = task % bands * kTile, r1 = r0 + kTile < rows ? r0 + kTile : rows;
                   for (std::int64_t c0 = 0; c0 < cols; c0 += kTile) {
                     const std::int64_t c1 = c0 + kTile < cols ? c0 + kTile : cols;
                     for (std::int64_t r = r0; r < r1; ++r)
                       for (std::int64_t c = c0; c < c1; ++c) out[r * out_row + c] = in[c * in_col + r];
                   }
                 }
               });
}

// Equal dtypes and selection move bits: one kernel per element size.
template <class T>
void copy_same(const Elementwise& e) {
  using W = word_t<T>;
  if (e.ndim >= 2 && e.stride[0][0] == 1 && e.stride[1][0] != 1 && e.stride[1][1] == 1 && e.size[0] >= 8 &&
      e.size[1] >= 8)
    transpose<W>(e);
  else
    map1<Same, W, W>(e);
}
template <class T>
void where_kernel(const Elementwise& e) {
  map3<Select, word_t<T>, std::uint8_t, word_t<T>>(e);
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
