// Elementwise loops that read and write 16-bit floats without buffers of float: for functors that cost less than the
// staging of their operands would.
#pragma once
#include <type_traits>

#include "cpu/isa.h"
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

}  // namespace
}  // namespace pydlx::PYDLX_ISA
