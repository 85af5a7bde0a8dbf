// Extrema with and without positions, and counts of non-zeros (any, all).
#include "cpu/reduce/fold.h"
#include "kernels/indexing.h"
#include "kernels/reduce.h"

namespace pydlx::PYDLX_ISA {
namespace {

using functors::compute_t;

template <class A>
PYDLX_HD constexpr A lowest() {
  if constexpr (A(0.5) != A(0))
    return -__builtin_inf();
  else if constexpr (A(-1) > A(0))
    return A(0);
  else
    return static_cast<A>(A(1) << (8 * sizeof(A) - 1));
}
template <class A>
PYDLX_HD constexpr A highest() {
  if constexpr (A(0.5) != A(0))
    return __builtin_inf();
  else
    return static_cast<A>(~lowest<A>());
}

// NaN replaces anything and is replaced by nothing. The two comparisons are one for integers.
struct MaxFold {
  template <class A>
  PYDLX_HD static A identity() {
    return lowest<A>();
  }
  template <class V>
  PYDLX_HD static V map(V x) {
    return x;
  }
  template <class V>
  PYDLX_HD static V combine(V a, V b) {
    return (b > a) | (b != b) ? b : a;
  }
  template <class A>
  PYDLX_HD static A finish(A s, const double*) {
    return s;
  }
};
struct MinFold : MaxFold {
  template <class A>
  PYDLX_HD static A identity() {
    return highest<A>();
  }
  template <class V>
  PYDLX_HD static V combine(V a, V b) {
    return (b < a) | (b != b) ? b : a;
  }
};

#ifdef __AVX512F__
// The machine's maximum forgets a NaN on its left, so NaN are looked for beside it, two vectors in one comparison; the
// selection above takes four instructions. The unmasked intrinsics warn.
template <bool maximum>
struct ExtremumRow {
  static inline __attribute__((always_inline)) __m512 pick(__m512 a, __m512 b) {
    return maximum ? _mm512_maskz_max_ps(0xFFFF, a, b) : _mm512_maskz_min_ps(0xFFFF, a, b);
  }
  static inline __attribute__((always_inline)) float fold(const float* x, std::int64_t n) {
    const __m512 none = _mm512_set1_ps(maximum ? -__builtin_inff() : __builtin_inff());
    __m512 a[4] = {none, none, none, none};
    unsigned nan = 0;
    std::int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
      __m512 v[4];
      for (int k = 0; k < 4; ++k) a[k] = pick(a[k], v[k] = _mm512_loadu_ps(x + i + 16 * k));
      nan |= _mm512_cmp_ps_mask(v[0], v[1], _CMP_UNORD_Q) | _mm512_cmp_ps_mask(v[2], v[3], _CMP_UNORD_Q);
    }
    for (; i < n; i += 16) {
      const auto mask = static_cast<__mmask16>(n - i >= 16 ? 0xFFFF : (1 << (n - i)) - 1);
      const __m512 v = _mm512_mask_loadu_ps(none, mask, x + i);
      a[0] = pick(a[0], v);
      nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    }
    if (nan != 0) return __builtin_nanf("");
    float lane[16];
    _mm512_storeu_ps(lane, pick(pick(a[0], a[1]), pick(a[2], a[3])));
    for (int w = 8; w > 0; w /= 2)
      for (int l = 0; l < w; ++l)
        lane[l] =
            maximum ? (lane[l + w] > lane[l] ? lane[l + w] : lane[l]) : (lane[l + w] < lane[l] ? lane[l + w] : lane[l]);
    return lane[0];
  }
};
template <>
struct RowForm<MaxFold, float> : ExtremumRow<true> {};
template <>
struct RowForm<MinFold, float> : ExtremumRow<false> {};
#endif

template <class Base>
struct AbsFold : Base {
  template <class V>
  PYDLX_HD static V map(V x) {
    return x < V{} ? -x : x;
  }
};

// Integers as wide as the elements, so that comparison masks fit both.
template <std::size_t bytes>
struct LaneOf {
  using type = std::int64_t;
};
template <>
struct LaneOf<4> {
  using type = std::int32_t;
};
template <>
struct LaneOf<2> {
  using type = std::int16_t;
};
template <>
struct LaneOf<1> {
  using type = std::int16_t;
};  // counts up to kChunk

// Value and first position. F is MaxFold or MinFold.
template <class F, class A>
struct ArgExtremum {
  using In = A;
  using Lane = typename LaneOf<sizeof(A)>::type;
  struct State {
    A value;
    std::int64_t index;  // -1: nothing seen
  };
  static constexpr bool indexed = true;
  PYDLX_HD static State init() { return {A(0), -1}; }
  PYDLX_HD static bool better(A b, A a) {  // strictly, so that the first of equals stays; a NaN stays too
    if constexpr (__is_same(F, MaxFold))
      return (b > a) | ((b != b) & (a == a));
    else
      return (b < a) | ((b != b) & (a == a));
  }
  PYDLX_HD static State merge(State a, State b) {
    if (b.index < 0) return a;
    return a.index < 0 || better(b.value, a.value) ? b : a;
  }
  // The extremum first, then the first element equal to it: both passes run on cached data.
  __attribute__((noinline)) static State row(const A* x, std::int64_t n, std::int64_t stride, std::int64_t pos) {
    const A v = fold_row<F, A>(x, n, stride);
    std::int64_t i = 0;
    if (stride == 1)
      for (; i + 64 <= n; i += 64) {
        unsigned char hit = 0;
        for (int l = 0; l < 64; ++l) {
          const A e = x[i + l];
          hit |= static_cast<unsigned char>((e == v) | (e != e));
        }
        if (hit) break;
      }
    for (; i < n; ++i) {
      const A e = x[i * stride];
      if (e == v || e != e) break;
    }
    return {v, pos + i};
  }
  __attribute__((noinline)) static void cols(const A* x, std::int64_t rows, std::int64_t row_stride, int width,
                                             std::int64_t lane_stride, std::int64_t pos, State* s) {
    A best[kColumns];
    Lane at[kColumns];
    for (int l = 0; l < width; ++l) best[l] = x[l * lane_stride], at[l] = 0;
    for (std::int64_t i = 1; i < rows; ++i) {
      const A* p = x + i * row_stride;
      const Lane row = static_cast<Lane>(i);
      if (lane_stride == 1) {
#pragma omp simd
        for (int l = 0; l < width; ++l) {
          const A v = p[l];
          const bool take = better(v, best[l]);
          best[l] = take ? v : best[l];
          at[l] = take ? row : at[l];
        }
      } else {
        for (int l = 0; l < width; ++l) {
          const A v = p[l * lane_stride];
          if (better(v, best[l])) best[l] = v, at[l] = row;
        }
      }
    }
    for (int l = 0; l < width; ++l) s[l] = merge(s[l], {best[l], pos + at[l]});
  }
  template <class Out>
  PYDLX_HD static void finish(const Reduce& r, State s, std::int64_t at) {
    if (r.out) static_cast<Out*>(r.out)[at] = static_cast<Out>(s.value);
    static_cast<std::int64_t*>(r.out2)[at] = s.index;
  }
};

template <class T>
struct Nonzero {
  using In = T;
  using State = std::int64_t;
  using Lane = typename LaneOf<sizeof(T)>::type;
  static constexpr bool indexed = false;
  static State init() { return 0; }
  static State merge(State a, State b) { return a + b; }
  __attribute__((noinline)) static State row(const T* x, std::int64_t n, std::int64_t stride, std::int64_t) {
    Lane count = 0;  // n <= kChunk fits
    if (stride == 1)
      for (std::int64_t i = 0; i < n; ++i) count = static_cast<Lane>(count + (x[i] != T(0)));
    else
      for (std::int64_t i = 0; i < n; ++i) count = static_cast<Lane>(count + (x[i * stride] != T(0)));
    return count;
  }
  __attribute__((noinline)) static void cols(const T* x, std::int64_t rows, std::int64_t row_stride, int width,
                                             std::int64_t lane_stride, std::int64_t, State* s) {
    Lane count[kColumns] = {};
    for (std::int64_t i = 0; i < rows; ++i) {
      const T* p = x + i * row_stride;
      if (lane_stride == 1)
        for (int l = 0; l < width; ++l) count[l] = static_cast<Lane>(count[l] + (p[l] != T(0)));
      else
        for (int l = 0; l < width; ++l) count[l] = static_cast<Lane>(count[l] + (p[l * lane_stride] != T(0)));
    }
    for (int l = 0; l < width; ++l) s[l] += count[l];
  }
  template <class>
  PYDLX_HD static void finish(const Reduce& r, State s, std::int64_t at) {
    if (r.param[0] == 0)
      static_cast<std::int64_t*>(r.out)[at] = s;
    else
      static_cast<bool*>(r.out)[at] = r.param[0] == 1 ? s > 0 : s == r.inner_numel;
  }
};

// Storage type T, computed in A beside a position and in E without one.
template <class T, class A, class E = A>
void add_any(KernelTable& t) {
  add_reduce<ReduceOp::amax, T, Fold<MaxFold, E>>(t);
  add_reduce<ReduceOp::amin, T, Fold<MinFold, E>>(t);
  add_reduce<ReduceOp::argmax, T, ArgExtremum<MaxFold, A>>(t);
  add_reduce<ReduceOp::argmin, T, ArgExtremum<MinFold, A>>(t);
}
template <class T>
void add_float(KernelTable& t) {
  using A = compute_t<T>;
  add_any<T, A>(t);
  add_reduce<ReduceOp::amax_abs, T, Fold<AbsFold<MaxFold>, A>>(t);
  add_reduce<ReduceOp::amin_abs, T, Fold<AbsFold<MinFold>, A>>(t);
  add_reduce<ReduceOp::nonzero, T, Nonzero<A>>(t);
}

}  // namespace

void register_reduce_extrema(KernelTable& t) {
  add_any<std::uint8_t, std::int32_t, std::uint8_t>(t);
  add_any<std::int8_t, std::int32_t, std::int8_t>(t);
  add_any<std::int16_t, std::int32_t, std::int16_t>(t);
  add_any<std::int32_t, std::int32_t>(t);
  add_any<std::int64_t, std::int64_t>(t);
  add_reduce<ReduceOp::nonzero, std::uint8_t, Nonzero<std::uint8_t>>(t);
  add_reduce<ReduceOp::nonzero, std::int8_t, Nonzero<std::int8_t>>(t);
  add_reduce<ReduceOp::nonzero, std::int16_t, Nonzero<std::int16_t>>(t);
  add_reduce<ReduceOp::nonzero, std::int32_t, Nonzero<std::int32_t>>(t);
  add_reduce<ReduceOp::nonzero, std::int64_t, Nonzero<std::int64_t>>(t);
  add_float<Half>(t);
  add_float<BFloat16>(t);
  add_float<float>(t);
  add_float<double>(t);
  // A bool is a byte holding 0 or 1.
  constexpr ReduceOp ops[] = {ReduceOp::amax, ReduceOp::amin, ReduceOp::argmax, ReduceOp::argmin, ReduceOp::nonzero};
  for (const ReduceOp op : ops) {
    ReduceFn* row = family<ReduceKernels>(t).reduce[static_cast<int>(op)];
    row[static_cast<int>(DType::Bool)] = row[static_cast<int>(DType::UInt8)];
  }
}

}  // namespace pydlx::PYDLX_ISA
