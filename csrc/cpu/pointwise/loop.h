// The elementwise loop. Walking the outer axes, cutting work into parallel chunks and gathering strided, broadcast or
// 16-bit operands are ordinary functions; a functor is instantiated once per compute type, as one loop over contiguous
// arrays. That keeps a thousand kernels cheap to compile, and lets every one of them run at vector speed whatever the
// layout.
#pragma once
#include <cstdint>
#include <type_traits>

#include "cpu/gemm/words.h"
#include "cpu/past_caches.h"
#include "cpu/pointwise/narrow.h"
#include "cpu/pointwise/transpose.h"
#include "functors/types.h"
#include "kernels/pointwise.h"

namespace pydlx::PYDLX_ISA {
namespace {

using namespace functors;

// Elements per parallel chunk: 32 Ki elements are about 10 us of work, below which waking threads costs more than it
// saves.
constexpr std::int64_t kGrain = 32768;
// Columns of a tile of a transposed operand.
constexpr std::int64_t kTileCols = 64;
// Elements staged at a time: the buffers of five operands stay in the first-level cache.
constexpr std::int64_t kBlock = 512;

// ---- operands -------------------------------------------------------------------------------------------------------

// How an operand in memory becomes a contiguous array of its compute type (float for 16-bit floats, else itself), and
// back. Strides count elements; a load with stride 0 fills.
struct Format {
  std::size_t size;  // bytes in memory
  bool converts;     // compute type differs
  void (*load)(std::int64_t n, char* to, const char* from, std::int64_t stride);
  void (*store)(std::int64_t n, char* to, std::int64_t stride, const char* from);
  // to[r][c] = from[c][r] with kTileCols elements from row to row of `to`; or null.
  void (*transpose)(char* to, const char* from, std::int64_t from_col, std::int64_t rows, std::int64_t cols);
};

// float16 has instructions of its own, which the compiler does not find in the portable conversion.
template <class C, class T>
inline constexpr bool kConvertsByVector = kVectorBytes >= 32 && std::is_same_v<C, float> && std::is_same_v<T, Half>;

template <class C, class T>
void load(std::int64_t n, char* to, const char* from, std::int64_t stride) {
  C* o = reinterpret_cast<C*>(to);
  const T* a = reinterpret_cast<const T*>(from);
  if (stride == 0) {
    const C v = static_cast<C>(a[0]);
    for (std::int64_t i = 0; i < n; ++i) o[i] = v;
  } else if (stride == 1) {
    if constexpr (kConvertsByVector<C, T>) {
      std::int64_t i = 0;
      for (; i + kWords <= n; i += kWords) store<float>(o + i, widen_load(a + i, kWords));
      if (i < n) {
        const int rest = static_cast<int>(n - i);
        store_part(o + i, widen_load(a + i, rest), Lanes(rest));
      }
    } else {
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i) o[i] = static_cast<C>(a[i]);
    }
  } else {
    for (std::int64_t i = 0; i < n; ++i) o[i] = static_cast<C>(a[i * stride]);
  }
}
template <class C, class T>
void store(std::int64_t n, char* to, std::int64_t stride, const char* from) {
  word_t<T>* o = reinterpret_cast<word_t<T>*>(to);
  const C* a = reinterpret_cast<const C*>(from);
  if (stride == 1) {
    if constexpr (kConvertsByVector<C, T>) {
      T* h = reinterpret_cast<T*>(to);
      std::int64_t i = 0;
      for (; i + kWords <= n; i += kWords) narrow_store(h + i, load(a + i), kWords);
      if (i < n) {
        const int rest = static_cast<int>(n - i);
        narrow_store(h + i, load_part(a + i, Lanes(rest)), rest);
      }
    } else {
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i) o[i] = bits_of(static_cast<T>(a[i]));
    }
  } else {
    for (std::int64_t i = 0; i < n; ++i) o[i * stride] = bits_of(static_cast<T>(a[i]));
  }
}

template <class W>
void turn_tile(char* to, const char* from, std::int64_t from_col, std::int64_t rows, std::int64_t cols) {
  transpose_tile(reinterpret_cast<W*>(to), kTileCols, reinterpret_cast<const W*>(from), from_col, rows, cols);
}

template <class T>
constexpr Format format_of() {
  using C = compute_t<T>;
  if constexpr (sizeof(C) != sizeof(T))
    return {sizeof(T), true, load<C, T>, store<C, T>, nullptr};
  else if constexpr (LaneOf<word_t<T>>::kVectors)
    return {sizeof(T), false, load<word_t<T>, word_t<T>>, store<word_t<T>, word_t<T>>, turn_tile<word_t<T>>};
  else
    return {sizeof(T), false, load<word_t<T>, word_t<T>>, store<word_t<T>, word_t<T>>, nullptr};
}
template <class... Ts>
constexpr Format kFormats[] = {format_of<Ts>()...};

// ---- walking --------------------------------------------------------------------------------------------------------

// n elements of contiguous compute-type arrays, output first.
using DenseFn = void (*)(std::int64_t n, char* const* p, const double* param);

// Whether the result is written only, and operands are so large that threads wait for memory. One thread alone cannot
// use all of its bandwidth, and is the slower for writing in bursts.
inline bool leaves_past_caches(const Elementwise& e, const Format* format) {
  constexpr std::int64_t kTraffic = 64 << 20;
  if (e.size[0] < 4 * kBlock || e.stride[0][0] != 1 || format[0].converts || num_threads() < 2) return false;
  std::int64_t bytes = 0;
  for (int k = 0; k < e.operands; ++k) {
    if (k > 0 && e.data[k] == e.data[0]) return false;
    const bool whole = e.stride[k][0] != 0 && (e.ndim == 1 || e.stride[k][e.ndim - 1] != 0);  // not one row for all
    bytes += whole ? e.numel * static_cast<std::int64_t>(format[k].size) : 0;
  }
  return bytes >= kTraffic && e.numel * static_cast<std::int64_t>(format[0].size) >= kPastCaches;
}

// One row: directly when every operand is contiguous in its compute type, else block by block through buffers. `dense`
// takes the operand number `single`, if any, as one value.
inline void run_row(std::int64_t n, char* const* p, const std::int64_t* s, const Format* format, int operands,
                    DenseFn dense, const double* param, int single = -1, bool past_caches = false) {
  bool staged[kMaxOperands], any = past_caches;
  for (int k = 0; k < operands; ++k) any |= staged[k] = k != single && (s[k] != 1 || format[k].converts);
  if (!any) {
    dense(n, p, param);
    return;
  }
  alignas(64) char buffer[kMaxOperands][kBlock * 8];
  char* q[kMaxOperands];
  staged[0] |= past_caches;
  const std::int64_t longest = n < kBlock ? n : kBlock;
  std::int64_t m = 0;
  for (std::int64_t b = 0; b < n; b += m) {
    m = n - b < kBlock ? n - b : kBlock;
    if (past_caches && b == 0) {  // from here on blocks begin at cache lines
      const auto size = static_cast<std::int64_t>(format[0].size);
      const auto ahead = static_cast<std::int64_t>(-reinterpret_cast<std::uintptr_t>(p[0]) % kCacheLine) / size;
      if (ahead > 0 && ahead < m) m = ahead;
    }
    for (int k = 0; k < operands; ++k) {
      char* at = p[k] + b * s[k] * static_cast<std::int64_t>(format[k].size);
      q[k] = staged[k] ? buffer[k] : at;
      if (k > 0 && staged[k] && (s[k] != 0 || b == 0)) format[k].load(s[k] == 0 ? longest : m, buffer[k], at, s[k]);
    }
    dense(m, q, param);
    if (!staged[0]) continue;
    char* const to = p[0] + b * s[0] * static_cast<std::int64_t>(format[0].size);
    if (past_caches && reinterpret_cast<std::uintptr_t>(to) % kCacheLine == 0)
      copy_past_caches(to, buffer[0], m * static_cast<std::int64_t>(format[0].size));
    else
      format[0].store(m, to, s[0], buffer[0]);
  }
  if (past_caches) past_caches_done();
}

// The axis along which an input lies dense while the output runs along axis 0, or 0.
inline int transposed_axis(const Elementwise& e, const Format* format) {
  for (int k = 1; k < e.operands; ++k) {
    if (!format[k].transpose || e.stride[k][0] == 0 || e.stride[k][0] == 1 || e.size[0] < 16) continue;
    for (int d = 1; d < e.ndim; ++d)
      if (e.stride[k][d] == 1 && e.size[d] >= 16) return d;
  }
  return 0;
}

// Transposed operands are turned tile by tile: row by row, each of their elements would fetch a cache line of its own.
inline void walk_tiles(const Elementwise& e, const Format* format, DenseFn dense, int axis, int single) {
  constexpr std::int64_t kRows = 16;
  int order[kMaxDims];  // axes above 1 once `axis` has become axis 1
  for (int d = 0; d < e.ndim; ++d) order[d] = d;
  order[1] = axis;
  order[axis] = 1;
  const std::int64_t cols = e.size[0], rows = e.size[axis], bands = (rows + kRows - 1) / kRows;
  bool turned[kMaxOperands] = {};
  for (int k = 1; k < e.operands; ++k)
    turned[k] = format[k].transpose && e.stride[k][axis] == 1 && e.stride[k][0] != 0 && e.stride[k][0] != 1;
  parallel_for(e.numel / (cols * rows) * bands, cols * kRows >= kGrain ? 1 : kGrain / (cols * kRows),
               [&](std::int64_t begin, std::int64_t end) {
                 alignas(64) char buffer[kMaxOperands - 1][kRows * kTileCols * 8];
                 for (std::int64_t task = begin; task < end; ++task) {
                   const std::int64_t r0 = task % bands * kRows, count = rows - r0 < kRows ? rows - r0 : kRows;
                   std::int64_t at[kMaxOperands] = {};
                   for (int k = 0; k < e.operands; ++k) {
                     std::int64_t rest = task / bands;
                     at[k] = r0 * e.stride[k][axis];
                     for (int d = 2; d < e.ndim; ++d) {
                       at[k] += rest % e.size[order[d]] * e.stride[k][order[d]];
                       rest /= e.size[order[d]];
                     }
                   }
                   for (std::int64_t c0 = 0; c0 < cols; c0 += kTileCols) {
                     const std::int64_t width = cols - c0 < kTileCols ? cols - c0 : kTileCols;
                     char* p[kMaxOperands];
                     std::int64_t stride[kMaxOperands], step[kMaxOperands];
                     for (int k = 0; k < e.operands; ++k) {
                       const auto size = static_cast<std::int64_t>(format[k].size);
                       p[k] = static_cast<char*>(e.data[k]) + (at[k] + c0 * e.stride[k][0]) * size;
                       stride[k] = e.stride[k][0];
                       step[k] = e.stride[k][axis] * size;
                       if (!turned[k]) continue;
                       // No prefetcher follows columns: the next tile's are asked for here.
                       for (std::int64_t c = width; c < 2 * width && c0 + c < cols; ++c)
                         for (std::int64_t line = 0; line < count * size; line += 64)
                           __builtin_prefetch(p[k] + c * stride[k] * size + line, 0, 2);
                       format[k].transpose(buffer[k - 1], p[k], stride[k], count, width);
                       p[k] = buffer[k - 1];
                       stride[k] = 1;
                       step[k] = kTileCols * size;
                     }
                     for (std::int64_t r = 0; r < count; ++r) {
                       run_row(width, p, stride, format, e.operands, dense, e.param, single);
                       for (int k = 0; k < e.operands; ++k) p[k] += step[k];
                     }
                   }
                 }
               });
}

[[maybe_unused]] void walk(const Elementwise& e, const Format* format, DenseFn dense, int single = -1) {
  std::int64_t inner_stride[kMaxOperands], step[kMaxOperands][kMaxDims];
  for (int k = 0; k < e.operands; ++k) {
    inner_stride[k] = e.stride[k][0];
    for (int d = 0; d < e.ndim; ++d) step[k][d] = e.stride[k][d] * static_cast<std::int64_t>(format[k].size);
  }
  const bool past_caches = leaves_past_caches(e, format);
  if (e.ndim == 1) {
    parallel_for(e.numel, kGrain, [&](std::int64_t b, std::int64_t end) {
      char* p[kMaxOperands];
      for (int k = 0; k < e.operands; ++k) p[k] = static_cast<char*>(e.data[k]) + b * step[k][0];
      run_row(end - b, p, inner_stride, format, e.operands, dense, e.param, single, past_caches);
    });
    return;
  }
  if (const int axis = transposed_axis(e, format)) return walk_tiles(e, format, dense, axis, single);
  const std::int64_t inner = e.size[0], rows = e.numel / inner;
  parallel_for(rows, inner >= kGrain ? 1 : kGrain / inner, [&](std::int64_t b, std::int64_t end) {
    std::int64_t index[kMaxDims];
    char* p[kMaxOperands];
    for (int k = 0; k < e.operands; ++k) p[k] = static_cast<char*>(e.data[k]);
    std::int64_t rest = b;
    for (int d = 1; d < e.ndim; ++d) {
      index[d] = rest % e.size[d];
      rest /= e.size[d];
      for (int k = 0; k < e.operands; ++k) p[k] += index[d] * step[k][d];
    }
    for (std::int64_t r = b; r < end; ++r) {
      run_row(inner, p, inner_stride, format, e.operands, dense, e.param, single, past_caches);
      for (int d = 1; d < e.ndim; ++d) {
        for (int k = 0; k < e.operands; ++k) p[k] += step[k][d];
        if (++index[d] < e.size[d]) break;
        for (int k = 0; k < e.operands; ++k) p[k] -= e.size[d] * step[k][d];
        index[d] = 0;
      }
    }
  });
}

// ---- functors -------------------------------------------------------------------------------------------------------

// Functors with `rare(x)` and `slow(x)` have arguments that their branch-free form cannot serve.
template <class F, class... A>
concept HasRare = requires(A... a) { F::rare(a...); };

template <class T>
inline __attribute__((always_inline)) T value(stored_t<T> v) {
  if constexpr (std::is_same_v<T, bool>)
    return v != 0;
  else
    return v;
}

template <class F, class Out, class A>
void dense1(std::int64_t n, char* const* p, const double* param) {
  Out* o = reinterpret_cast<Out*>(p[0]);
  const stored_t<A>* a = reinterpret_cast<const stored_t<A>*>(p[1]);
  const Params q(param);
  if constexpr (HasWide<F, Out, A>) {
    constexpr int lanes = kLanesOf<Out>;
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes) store(o + i, Wide<F>::apply(load(a + i), q.p));
    if (i < n) {
      const Lanes rest(static_cast<int>(n - i));
      store_part(o + i, Wide<F>::apply(load_part(a + i, rest), q.p), rest);
    }
  } else if constexpr (HasRare<F, A>) {
    // Rare elements go through the branch-free form with the others, whose results then do not depend on their
    // neighbours.
    for (std::int64_t b = 0; b < n; b += kBlock) {
      const std::int64_t m = n - b < kBlock ? n - b : kBlock;
      const A* from = a + b;
      A kept[kBlock];
      int rare = 0;
#pragma omp simd reduction(| : rare)
      for (std::int64_t i = 0; i < m; ++i) rare |= F::rare(from[i]) ? 1 : 0;
      if (rare) {  // o may be a
        std::memcpy(kept, from, static_cast<std::size_t>(m) * sizeof(A));
        from = kept;
      }
#pragma omp simd
      for (std::int64_t i = 0; i < m; ++i) o[b + i] = F::apply(from[i], q.p);
      if (rare)
        for (std::int64_t i = 0; i < m; ++i)
          if (F::rare(from[i])) o[b + i] = F::slow(from[i]);
    }
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) o[i] = F::apply(value<A>(a[i]), q.p);
  }
}
template <class F, class Out, class A, class B>
void dense2(std::int64_t n, char* const* p, const double* param) {
  Out* o = reinterpret_cast<Out*>(p[0]);
  const stored_t<A>* a = reinterpret_cast<const stored_t<A>*>(p[1]);
  const stored_t<B>* b = reinterpret_cast<const stored_t<B>*>(p[2]);
  const Params q(param);
  if constexpr (HasWide<F, Out, A, B>) {
    constexpr int lanes = kLanesOf<Out>;
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes) store(o + i, Wide<F>::apply(load(a + i), load(b + i), q.p));
    if (i < n) {
      const Lanes rest(static_cast<int>(n - i));
      store_part(o + i, Wide<F>::apply(load_part(a + i, rest), load_part(b + i, rest), q.p), rest);
    }
  } else if constexpr (HasRare<F, A, B>) {
    for (std::int64_t begin = 0; begin < n; begin += kBlock) {
      const std::int64_t end = n - begin < kBlock ? n : begin + kBlock;
      int rare = 0;
#pragma omp simd reduction(| : rare)
      for (std::int64_t i = begin; i < end; ++i) rare |= F::rare(a[i], b[i]) ? 1 : 0;
      if (rare) {
        for (std::int64_t i = begin; i < end; ++i)
          o[i] = F::rare(a[i], b[i]) ? F::slow(a[i], b[i]) : F::apply(a[i], b[i], q.p);
      } else {
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i) o[i] = F::apply(a[i], b[i], q.p);
      }
    }
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) o[i] = F::apply(value<A>(a[i]), value<B>(b[i]), q.p);
  }
}
// The same with one value as the second operand: columns and numbers beside a tensor. A buffer full of it would be
// written and read for every row.
template <class F, class T>
void dense2_single(std::int64_t n, char* const* p, const double* param) {
  T* o = reinterpret_cast<T*>(p[0]);
  const T* a = reinterpret_cast<const T*>(p[1]);
  const T b = *reinterpret_cast<const T*>(p[2]);
  const Params q(param);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) o[i] = F::apply(a[i], b, q.p);
}
// Functors for which that is worth an instantiation.
template <class F>
inline constexpr bool kTakesSingle = false;
template <class F>
inline constexpr bool kCommutes = false;  // whichever of two NaNs comes out

template <class F, class Out, class A, class B, class C>
void dense3(std::int64_t n, char* const* p, const double* param) {
  Out* o = reinterpret_cast<Out*>(p[0]);
  const stored_t<A>* a = reinterpret_cast<const stored_t<A>*>(p[1]);
  const stored_t<B>* b = reinterpret_cast<const stored_t<B>*>(p[2]);
  const stored_t<C>* c = reinterpret_cast<const stored_t<C>*>(p[3]);
  const Params q(param);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) o[i] = F::apply(value<A>(a[i]), value<B>(b[i]), value<C>(c[i]), q.p);
}

template <class F, class T>
void dense3_single(std::int64_t n, char* const* p, const double* param) {
  T* o = reinterpret_cast<T*>(p[0]);
  const T *a = reinterpret_cast<const T*>(p[1]), *b = reinterpret_cast<const T*>(p[2]);
  const T c = *reinterpret_cast<const T*>(p[3]);
  const Params q(param);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) o[i] = F::apply(a[i], b[i], c, q.p);
}

// The kernels. F is a stateless functor type with `static C apply(C..., const double* param)` on compute types.
template <class F, class Out, class A>
void map1(const Elementwise& e) {
  if constexpr (HasBits<F, Out, A>)
    map1<OnBits<F>, word_t<Out>, word_t<A>>(e);
  else if constexpr (RunsOnPairs<F, Out, A>)
    walk(e, kFormats<word_t<Out>, word_t<A>>, dense_pairs<F, 2>);
  else if constexpr (RunsOnWidePairs<F, A>)
    walk(e, kFormats<word_t<Out>, word_t<A>>, dense_wide_pairs<F, 2>);
  else
    walk(e, kFormats<Out, A>, dense1<F, compute_t<Out>, compute_t<A>>);
}
template <class F, class Out, class A, class B = A>
void map2(const Elementwise& e) {
  if constexpr (kTakesSingle<F> && std::is_same_v<Out, A> && std::is_same_v<A, B> &&
                (std::is_same_v<A, float> || std::is_same_v<A, double>)) {
    if (e.stride[2][0] == 0) return walk(e, kFormats<Out, A, B>, dense2_single<F, A>, 2);
    if (kCommutes<F> && e.stride[1][0] == 0) {
      Elementwise swapped = e;
      swapped.data[1] = e.data[2];
      swapped.data[2] = e.data[1];
      for (int d = 0; d < e.ndim; ++d) {
        swapped.stride[1][d] = e.stride[2][d];
        swapped.stride[2][d] = e.stride[1][d];
      }
      return walk(swapped, kFormats<Out, A, B>, dense2_single<F, A>, 2);
    }
  }
  if constexpr (HasBits<F, Out, A, B>)
    map2<OnBits<F>, word_t<Out>, word_t<A>, word_t<B>>(e);
  else if constexpr (RunsOnPairs<F, Out, A, B>)
    walk(e, kFormats<word_t<Out>, word_t<A>, word_t<B>>, dense_pairs<F, 3>);
  else if constexpr (RunsOnWidePairs<F, A, B>)
    walk(e, kFormats<word_t<Out>, word_t<A>, word_t<B>>, dense_wide_pairs<F, 3>);
  else
    walk(e, kFormats<Out, A, B>, dense2<F, compute_t<Out>, compute_t<A>, compute_t<B>>);
}
template <class F, class Out, class A, class B = A, class C = B>
void map3(const Elementwise& e) {
  if constexpr (kTakesSingle<F> && std::is_same_v<A, compute_t<A>>)
    if (e.stride[3][0] == 0) return walk(e, kFormats<Out, A, B, C>, dense3_single<F, A>, 3);
  if constexpr (RunsOnPairs<F, Out, A, B, C>)
    walk(e, kFormats<word_t<Out>, word_t<A>, word_t<B>, word_t<C>>, dense_pairs<F, 4>);
  else
    walk(e, kFormats<Out, A, B, C>, dense3<F, compute_t<Out>, compute_t<A>, compute_t<B>, compute_t<C>>);
}

// The kernels as functors/fill.h asks for them.
struct Map {
  template <class F, class Out, class... In>
  static constexpr void (*kernel())(const Elementwise&) {
    static_assert(sizeof...(In) >= 1 && sizeof...(In) <= 3);
    if constexpr (sizeof...(In) == 1)
      return map1<F, Out, In...>;
    else if constexpr (sizeof...(In) == 2)
      return map2<F, Out, In...>;
    else
      return map3<F, Out, In...>;
  }
};

}  // namespace
}  // namespace pydlx::PYDLX_ISA
