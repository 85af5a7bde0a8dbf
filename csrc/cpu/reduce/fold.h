// The inner loops of a reduction: folds over vectors, and the Engine (walk.h) that is made of them.
#pragma once
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "cpu/reduce/walk.h"
#include "functors/types.h"

namespace pydlx::PYDLX_ISA {
namespace {

// 64-byte vectors; the compiler splits them on narrower machines, which keeps the lanes the same everywhere.
template <class A>
struct VectorOf {
  typedef A type __attribute__((vector_size(64)));
  static constexpr int lanes = 64 / static_cast<int>(sizeof(A));
};
template <class A>
using vec_t = typename VectorOf<A>::type;

// A vector of elements in the accumulator's type; only float to double converts.
template <class A, class T>
inline __attribute__((always_inline)) vec_t<A> load(const T* p) {
  if constexpr (__is_same(A, T)) {
    vec_t<A> v;
    std::memcpy(&v, p, sizeof v);
    return v;
  } else {
    typedef T half_vector __attribute__((vector_size(sizeof(T) * VectorOf<A>::lanes)));
    half_vector v;
    std::memcpy(&v, p, sizeof v);
#ifdef __AVX512F__
    // GCC 12 converts the halves one by one and joins them again: five instructions where the machine has one.
    if constexpr (__is_same(A, double) && __is_same(T, float))
      return (vec_t<A>)_mm512_maskz_cvtps_pd(0xFF, (__m256)v);  // the unmasked form warns
#endif
    return __builtin_convertvector(v, vec_t<A>);
  }
}

// A fold may have quicker forms for elements of type T that lie side by side: RowForm<F, A, T>::fold(x, n) for a row,
// ColumnForm<F, A, T>::fold(x, rows, row_stride, width, part) for dense columns.
template <class F, class A, class T = A>
struct RowForm {};
template <class F, class A, class T = A>
struct ColumnForm {};

// Folds n <= kChunk mapped values with F::combine. F works on scalars and on vectors alike: map, combine, and
// identity<A>().
template <class F, class A, class T>
inline __attribute__((always_inline)) A fold_row(const T* x, std::int64_t n, std::int64_t stride) {
  constexpr int lanes = VectorOf<A>::lanes;
  if constexpr (requires { RowForm<F, A, T>::fold(x, n); }) {
    if (stride == 1) return RowForm<F, A, T>::fold(x, n);
  }
  std::int64_t i = 0;
  A result = F::template identity<A>();
  if (stride == 1 && n >= 4 * lanes) {
    vec_t<A> a[4];
    for (int k = 0; k < 4; ++k) a[k] = F::map(load<A>(x + k * lanes));
    for (i = 4 * lanes; i + 4 * lanes <= n; i += 4 * lanes)
      for (int k = 0; k < 4; ++k) a[k] = F::combine(a[k], F::map(load<A>(x + i + k * lanes)));
    a[0] = F::combine(F::combine(a[0], a[1]), F::combine(a[2], a[3]));
    for (; i + lanes <= n; i += lanes) a[0] = F::combine(a[0], F::map(load<A>(x + i)));
    A lane[lanes];
    std::memcpy(lane, &a[0], sizeof lane);
    for (int w = lanes / 2; w > 0; w /= 2)
      for (int l = 0; l < w; ++l) lane[l] = F::combine(lane[l], lane[l + w]);
    result = lane[0];
  } else if (n >= 4) {
    A a[4];
    for (int k = 0; k < 4; ++k) a[k] = F::map(static_cast<A>(x[k * stride]));
    for (i = 4; i + 4 <= n; i += 4)
      for (int k = 0; k < 4; ++k) a[k] = F::combine(a[k], F::map(static_cast<A>(x[(i + k) * stride])));
    result = F::combine(F::combine(a[0], a[1]), F::combine(a[2], a[3]));
  }
  for (; i < n; ++i) result = F::combine(result, F::map(static_cast<A>(x[i * stride])));
  return result;
}

// part[l] <- fold of the rows of column l, four rows at a time.
template <class F, class A, class T>
inline __attribute__((always_inline)) void fold_cols(const T* x, std::int64_t rows, std::int64_t row_stride, int width,
                                                     std::int64_t lane_stride, A* part) {
  if constexpr (requires { ColumnForm<F, A, T>::fold(x, rows, row_stride, width, part); }) {
    if (lane_stride == 1) return ColumnForm<F, A, T>::fold(x, rows, row_stride, width, part);
  }
  for (int l = 0; l < width; ++l) part[l] = F::template identity<A>();
  std::int64_t i = 0;
  if (lane_stride == 1)
    for (; i + 4 <= rows; i += 4) {
      const T *p0 = x + i * row_stride, *p1 = p0 + row_stride, *p2 = p1 + row_stride, *p3 = p2 + row_stride;
      int first = 0;
      if constexpr (__is_same(A, T) && (__is_same(A, float) || __is_same(A, double))) {
        // The compiler makes branches of selections between floats.
        constexpr int kLanes = VectorOf<A>::lanes;
        for (; first + kLanes <= width; first += kLanes) {
          vec_t<A> sum = load<A>(part + first);
          sum = F::combine(sum, F::combine(F::combine(F::map(load<A>(p0 + first)), F::map(load<A>(p1 + first))),
                                           F::combine(F::map(load<A>(p2 + first)), F::map(load<A>(p3 + first)))));
          std::memcpy(part + first, &sum, sizeof sum);
        }
      }
#pragma omp simd
      for (int l = first; l < width; ++l)
        part[l] =
            F::combine(part[l], F::combine(F::combine(F::map(static_cast<A>(p0[l])), F::map(static_cast<A>(p1[l]))),
                                           F::combine(F::map(static_cast<A>(p2[l])), F::map(static_cast<A>(p3[l])))));
    }
  for (; i < rows; ++i) {
    const T* p = x + i * row_stride;
    for (int l = 0; l < width; ++l) part[l] = F::combine(part[l], F::map(static_cast<A>(p[l * lane_stride])));
  }
}

// n elements from stride `stride` into a dense buffer of the computing type.
template <class A, class T>
__attribute__((noinline)) void widen(A* to, const T* x, std::int64_t n, std::int64_t stride) {
  if (stride == 1)
    for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<A>(x[i]);
  else
    for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<A>(x[i * stride]);
}

// The Engine of an operation O on elements of type T with results of type Out. O gives In, State, indexed, init(),
// row(), cols(), merge() and finish<Out>() for one state. Where T is not O::In, pieces are first widened into a buffer
// in the first-level cache: only widening is instantiated for every storage type, which keeps this folder quick to
// compile.
template <class O, class T, class Out>
struct EngineOf {
  using In = typename O::In;
  using State = typename O::State;
  static_assert(sizeof(State) <= kMaxState);
  static constexpr bool direct = __is_same(T, In);

  static State row_of(const T* x, std::int64_t n, std::int64_t stride, std::int64_t pos) {
    if constexpr (direct) {
      return O::row(x, n, stride, pos);
    } else {
      if constexpr (requires { O::narrow_row(x, n); })
        if (stride == 1) return O::narrow_row(x, n);
      In buffer[kChunk];
      widen(buffer, x, n, stride);
      return O::row(buffer, n, 1, pos);
    }
  }
  static void init(void* s, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) static_cast<State*>(s)[i] = O::init();
  }
  static void row(const void* x, std::int64_t n, std::int64_t stride, std::int64_t pos, void* s) {
    *static_cast<State*>(s) = O::merge(*static_cast<State*>(s), row_of(static_cast<const T*>(x), n, stride, pos));
  }
  static void cols(const void* x, std::int64_t rows, std::int64_t row_stride, int width, std::int64_t lane_stride,
                   std::int64_t pos, void* s) {
    const T* p = static_cast<const T*>(x);
    if constexpr (direct) {
      O::cols(p, rows, row_stride, width, lane_stride, pos, static_cast<State*>(s));
    } else {
      if constexpr (requires { O::narrow_cols(p, rows, row_stride, width, static_cast<State*>(s)); })
        if (lane_stride == 1) return O::narrow_cols(p, rows, row_stride, width, static_cast<State*>(s));
      constexpr std::int64_t kGroup = 16;
      In buffer[kGroup * kColumns];
      for (std::int64_t i = 0; i < rows; i += kGroup) {
        const std::int64_t group = least(kGroup, rows - i);
        for (std::int64_t k = 0; k < group; ++k)
          widen(buffer + k * width, p + (i + k) * row_stride, width, lane_stride);
        O::cols(buffer, group, width, width, 1, pos + i, static_cast<State*>(s));
      }
    }
  }
  static void merge(void* a, const void* b, std::int64_t n) {
    State* into = static_cast<State*>(a);
    const State* from = static_cast<const State*>(b);
    for (std::int64_t i = 0; i < n; ++i) into[i] = O::merge(into[i], from[i]);
  }
  static void finish(const Reduce& given, const void* s, std::int64_t n, std::int64_t offset, std::int64_t stride) {
    const Reduce r = given;  // results cannot overlap a copy: what does not change is looked at once
    if (stride == 1)
      for (std::int64_t i = 0; i < n; ++i) O::template finish<Out>(r, static_cast<const State*>(s)[i], offset + i);
    else
      for (std::int64_t i = 0; i < n; ++i)
        O::template finish<Out>(r, static_cast<const State*>(s)[i], offset + i * stride);
  }
  static void rows(const Reduce& r, const void* x, std::int64_t count, std::int64_t step, std::int64_t n,
                   std::int64_t stride, std::int64_t offset, std::int64_t out_stride) {
    const T* p = static_cast<const T*>(x);
    for (std::int64_t i = 0; i < count; ++i)
      O::template finish<Out>(r, row_of(p + i * step, n, stride, 0), offset + i * out_stride);
  }
  static void run(const Reduce& r) {
    reduce_walk(r, Engine{sizeof(T), sizeof(State), O::indexed, init, row, cols, merge, finish, rows});
  }
};

// An operation that folds one accumulator: F gives map, combine, identity and `finish(A, param)`.
template <class F, class T, class A = T>
struct Fold {
  using In = T;
  using State = A;
  static constexpr bool indexed = false;
  PYDLX_HD static State init() { return F::template identity<A>(); }
  PYDLX_HD static State merge(State a, State b) { return F::combine(a, b); }
  __attribute__((noinline)) static State row(const T* x, std::int64_t n, std::int64_t stride, std::int64_t) {
    return fold_row<F, A>(x, n, stride);
  }
  __attribute__((noinline)) static void cols(const T* x, std::int64_t rows, std::int64_t row_stride, int width,
                                             std::int64_t lane_stride, std::int64_t, State* s) {
    A part[kColumns];
    fold_cols<F>(x, rows, row_stride, width, lane_stride, part);
    for (int l = 0; l < width; ++l) s[l] = F::combine(s[l], part[l]);
  }
  // Elements of another type that the fold has a form for, without a widened copy of them.
  template <class X>
    requires requires(const X* x) { RowForm<F, A, X>::fold(x, 0); }
  static State narrow_row(const X* x, std::int64_t n) {
    return RowForm<F, A, X>::fold(x, n);
  }
  template <class X>
    requires requires(const X* x, A* part) { ColumnForm<F, A, X>::fold(x, 0, 0, 0, part); }
  __attribute__((noinline)) static void narrow_cols(const X* x, std::int64_t rows, std::int64_t row_stride, int width,
                                                    State* s) {
    A part[kColumns];
    ColumnForm<F, A, X>::fold(x, rows, row_stride, width, part);
    for (int l = 0; l < width; ++l) s[l] = F::combine(s[l], part[l]);
  }
  template <class Out>
  PYDLX_HD static void finish(const Reduce& r, State s, std::int64_t at) {
    static_cast<Out*>(r.out)[at] = static_cast<Out>(F::finish(s, r.param));
  }
};

template <ReduceOp op, class T, class O, class Out = T>
void add_reduce(KernelTable& t) {
  // Where 64-bit integers are summed as unsigned ones, which may wrap, they are read as such, without a copy.
  constexpr bool wraps = __is_same(typename O::In, std::uint64_t) && __is_same(T, std::int64_t);
  using Element = std::conditional_t<wraps, std::uint64_t, T>;
  family<ReduceKernels>(t).reduce[static_cast<int>(op)][static_cast<int>(DTypeOf<T>::value)] =
      EngineOf<O, Element, Out>::run;
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
