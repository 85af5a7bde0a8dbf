// Elementwise loops that read and write 16-bit floats without buffers of float: for functors that cost less than the
// staging of their operands would.
#pragma once
#include <type_traits>

#include "cpu/gemm/words.h"
#include "functors/types.h"

namespace pydlx::PYDLX_ISA {
namespace {

// Functors whose value in a 16-bit float takes its bits only: `apply` on words, for both formats (their sign is bit
// 15).
template <class F>
struct OnBits {};
template <class F, class... A>
concept HasBits = ((std::is_same_v<A, Half> || std::is_same_v<A, BFloat16>) && ...) && requires { &OnBits<F>::apply; };

// Functors of a few instructions, which are worth a loop of their own over bfloat16.
template <class F>
inline constexpr bool kCheap = false;
template <class F, class... A>
concept RunsOnPairs = kCheap<F> && (std::is_same_v<A, BFloat16> && ...);

// Two neighbours in one word. Both become float in its lanes, without a change of width: the upper one by a mask, the
// lower one by a shift.
typedef std::uint32_t Pair __attribute__((aligned(2), may_alias));
inline __attribute__((always_inline)) float lower(Pair p) { return bit_cast<float>(p << 16); }
inline __attribute__((always_inline)) float upper(Pair p) { return bit_cast<float>(p & 0xffff0000u); }
inline __attribute__((always_inline)) std::uint32_t pair_of(float low, float high) {
  return float_to_bfloat16_bits(low) | static_cast<std::uint32_t>(float_to_bfloat16_bits(high)) << 16;
}

// A template argument would lose the alignment of Pair; a member keeps it.
struct PairRow {
  const Pair* at;
};
template <class F, class... Row>
inline __attribute__((always_inline)) void over_pairs(std::int64_t n, const double* param, Pair* o, Row... a) {
  const double q[4] = {param[0], param[1], param[2], param[3]};
#pragma omp simd
  for (std::int64_t i = 0; i < n / 2; ++i)
    o[i] = pair_of(F::apply(lower(a.at[i])..., q), F::apply(upper(a.at[i])..., q));
  if (n % 2 != 0) {
    const BFloat16 last = F::apply(static_cast<float>(reinterpret_cast<const BFloat16*>(a.at)[n - 1])..., q);
    reinterpret_cast<BFloat16*>(o)[n - 1] = last;
  }
}
template <class F, int operands>
void dense_pairs(std::int64_t n, char* const* p, const double* param) {
  const auto row = [p](int k) { return PairRow{reinterpret_cast<const Pair*>(p[k])}; };
  Pair* const out = reinterpret_cast<Pair*>(p[0]);
  if constexpr (operands == 2)
    over_pairs<F>(n, param, out, row(1));
  else if constexpr (operands == 3)
    over_pairs<F>(n, param, out, row(1), row(2));
  else
    over_pairs<F>(n, param, out, row(1), row(2), row(3));
}

// The form of functor F on explicit vectors, where it has one (cpu/pointwise/wide.h).
template <class F>
struct Wide {};
template <class F, class T, class... A>
concept HasWide =
    (std::is_same_v<A, T> && ...) && requires(Vector<A>... v, const double* q) { Wide<F>::apply(v..., q); };

// The same for results in bfloat16, where less does.
template <class F>
struct Brief : Wide<F> {};

// The four parameters as locals: the compiler then knows that no store changes them.
struct Params {
  double p[4];
  inline __attribute__((always_inline)) explicit Params(const double* q) : p{q[0], q[1], q[2], q[3]} {}
};

// Functors with such a form over bfloat16, two neighbours in a word as above. NaN need no care when
// results are rounded: they come from operands of 16 bits, or are the default one, and the bits to be dropped are 0.
template <class F, class... A>
concept RunsOnWidePairs =
    kVectorBytes == 64 && (std::is_same_v<A, BFloat16> && ...) && HasWide<F, float, functors::compute_t<A>...>;
template <class F, int operands>
void dense_wide_pairs(std::int64_t n, char* const* p, const double* param) {
#ifdef PYDLX_ISA_avx512
  constexpr int kPairs = 2 * kWords;
  const Params q(param);
  const auto rounded = [](Words v) __attribute__((always_inline)) {
    const WideBits w = (WideBits)v;
    return w + 0x7fffu + (w >> 16 & 1u);
  };
  const auto* const x = reinterpret_cast<const std::uint16_t*>(p[1]);
  const auto* const y = operands == 2 ? x : reinterpret_cast<const std::uint16_t*>(p[2]);
  const auto some = [&](std::int64_t i, const auto& get) __attribute__((always_inline)) {
    const WideBits a = get(x + i);
    Words low, high;
    if constexpr (operands == 2) {
      low = Brief<F>::apply((Words)(a << 16), q.p);
      high = Brief<F>::apply((Words)(a & 0xffff0000u), q.p);
    } else {
      const WideBits b = get(y + i);
      low = Brief<F>::apply((Words)(a << 16), (Words)(b << 16), q.p);
      high = Brief<F>::apply((Words)(a & 0xffff0000u), (Words)(b & 0xffff0000u), q.p);
    }
    return (__m512i)(rounded(low) >> 16 | (rounded(high) & 0xffff0000u));
  };
  std::uint16_t* const o = reinterpret_cast<std::uint16_t*>(p[0]);
  std::int64_t i = 0;
  for (; i + kPairs <= n; i += kPairs)
    _mm512_storeu_si512(o + i, some(i, [](const std::uint16_t* at) __attribute__((always_inline)) {
                          return (WideBits)_mm512_loadu_si512(at);
                        }));
  if (i < n) {
    const auto rest = static_cast<__mmask32>((1u << (n - i)) - 1u);
    _mm512_mask_storeu_epi16(o + i, rest, some(i, [rest](const std::uint16_t* at) __attribute__((always_inline)) {
                               return (WideBits)_mm512_maskz_loadu_epi16(rest, at);
                             }));
  }
#endif
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
