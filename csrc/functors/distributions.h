// One draw of every distribution as a function of its random bits. Shared by the CPU and CUDA backends, so that both
// give the same numbers; every sum holds at most one inexact product, which all compilers fuse in the same way.
#pragma once
#include "functors/random.h"
#include "functors/special.h"
#include "kernels/random.h"

namespace pydlx::functors {

// The parameters of a RandomFill in the type of the draws.
template <class T>
struct DrawParams {
  T a, b, width;
  int bits;
  PYDLX_HD explicit DrawParams(const RandomFill& k)
      : a(static_cast<T>(k.a)), b(static_cast<T>(k.b)), width(static_cast<T>(k.b - k.a)), bits(k.bits) {}
};

// Every distribution but the normal one makes a value from one random number.
template <RandomOp op, class T>
PYDLX_HD T draw(typename RandomBits<T>::type r, const DrawParams<T>& k) {
  if constexpr (op == RandomOp::uniform) {
    const T v = unit(r, k.bits) * k.width + k.a;
    return v >= k.b ? k.a : v;  // rounding may reach the excluded end
  } else if constexpr (op == RandomOp::exponential) {
    const T tiny = sizeof(T) == 8 ? T(0x1p-54) : T(0x1p-33);
    const T e = -log_positive(open_unit(r));
    return (e < tiny ? tiny : e) / k.a;
  } else if constexpr (op == RandomOp::geometric) {
    const T v = log_positive(open_unit(r)) * k.b;  // b = 1 / log(1 - p), computed by the caller; 0 for p = 1
    const T c = static_cast<T>(__builtin_ceil(static_cast<double>(v)));
    return c < T(1) ? T(1) : c;
  } else {
    const SinCos<T> s = sincos_turns((unit(r, 24) + (sizeof(T) == 8 ? T(0x1p-54) : T(0x1p-25))) * T(0.5));
    return k.a - k.b * (s.cos / s.sin);  // tan(pi (u - 1/2)) = -cot(pi u)
  }
}
// Box and Muller: a radius and an angle give two independent values.
template <class T>
PYDLX_HD void draw_normal(typename RandomBits<T>::type r0, typename RandomBits<T>::type r1, const DrawParams<T>& k,
                          T& y0, T& y1) {
  const T radius = math::sqrt(T(-2) * log_positive(open_unit(r0))) * k.b;
  const SinCos<T> angle = sincos_turns(unit(r1, 24));
  y0 = k.a + radius * angle.cos;
  y1 = k.a + radius * angle.sin;
}

PYDLX_HD std::int64_t draw_integer(std::uint64_t r, std::uint64_t low, std::uint64_t range) {
  return static_cast<std::int64_t>(low + (range ? mul_high(r, range) : r));
}

// The i-th 64-bit number of the stream.
PYDLX_HD std::uint64_t word64(std::uint64_t seed, std::uint64_t offset, std::int64_t i) {
  const PhiloxWords p = philox(seed, offset + static_cast<std::uint64_t>(i) / 2);
  const int j = static_cast<int>(i & 1) * 2;
  return std::uint64_t{p.w[j]} << 32 | p.w[j + 1];
}

// Fisher and Yates: step i of a shuffle of n exchanges places i and this one.
PYDLX_HD std::int64_t shuffle_partner(std::uint64_t r, std::int64_t i, std::int64_t n) {
  return i + static_cast<std::int64_t>(mul_high(r, static_cast<std::uint64_t>(n - i)));
}

// Weighted sampling: the first j with cumulative[j] > u * total. `last` is the last positive weight; zero weights are
// never chosen.
PYDLX_HD std::int64_t draw_weighted(std::uint64_t r, const double* cumulative, double total, std::int64_t last) {
  const double u = unit(r, 53) * total;
  std::int64_t lo = 0, hi = last;
  while (lo < hi) {
    const std::int64_t mid = lo + (hi - lo) / 2;
    if (cumulative[mid] > u)
      hi = mid;
    else
      lo = mid + 1;
  }
  return lo;
}
// Exponential races: the order of E_j / p_j is the order of drawing without replacement (Efraimidis and Spirakis 2006).
PYDLX_HD double race_time(std::uint64_t r, double weight) { return -log_positive(open_unit(r)) / weight; }

// A private stream of uniforms in (0, 1) for one element.
struct ElementStream {
  std::uint64_t seed, block, sub = 0;
  PYDLX_HD double next() {
    const PhiloxWords p = philox(seed, block, sub / 2);
    const bool second = (sub++ & 1) != 0;
    return open_unit(std::uint64_t{second ? p.w[2] : p.w[0]} << 32 | (second ? p.w[3] : p.w[1]));
  }
};

// Small rates: multiply uniforms (Knuth). Larger: transformed rejection with squeeze (Hoermann 1993, PTRS).
PYDLX_HD double draw_poisson(double rate, ElementStream s) {
  if (rate == 0) return 0;
  if (rate < 10) {
    const double limit = math::exp(-rate);
    double product = s.next(), count = 0;
    while (product > limit) {
      product *= s.next();
      ++count;
    }
    return count;
  }
  const double root = math::sqrt(rate), log_rate = log_positive(rate);
  const double b = 0.931 + 2.53 * root, a = -0.059 + 0.02483 * b;
  const double inv_alpha = 1.1239 + 1.1328 / (b - 3.4), v_r = 0.9277 - 3.6224 / (b - 2);
  for (;;) {
    const double u = s.next() - 0.5, v = s.next();
    const double us = 0.5 - math::abs(u);
    const double count = math::floor((2 * a / us + b) * u + rate + 0.43);
    if (us >= 0.07 && v <= v_r) return count;
    if (count < 0 || (us < 0.013 && v > us)) continue;
    if (log_positive(v) + log_positive(inv_alpha) - log_positive(a / (us * us) + b) <=
        -rate + count * log_rate - math::lgamma(count + 1))
      return count;
  }
}

}  // namespace pydlx::functors
