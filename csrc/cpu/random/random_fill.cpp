// Continuous distributions, integers, coin flips and dropout.
#include "cpu/first_bad.h"
#include "cpu/random/stream.h"
#include "functors/random.h"
#include "functors/types.h"
#include "kernels/random.h"

namespace pydlx::PYDLX_ISA {
namespace {

using namespace functors;

template <class T>
using bits_t = typename RandomBits<T>::type;

// One step of a distribution: N values from N random numbers.
template <RandomOp op, class T, int N>
inline __attribute__((always_inline)) void transform(const bits_t<T>* r, T* y, const RandomFill& k) {
  const T a = static_cast<T>(k.a), b = static_cast<T>(k.b);
  if constexpr (op == RandomOp::uniform) {
    const T width = static_cast<T>(k.b - k.a);
    const int bits = k.bits;
#pragma omp simd
    for (int i = 0; i < N; ++i) {
      const T v = unit(r[i], bits) * width + a;
      y[i] = v >= b ? a : v;  // rounding may reach the excluded end
    }
  } else if constexpr (op == RandomOp::normal) {
    // Box and Muller: a radius and an angle give two independent values.
#pragma omp simd
    for (int i = 0; i < N; i += 2) {
      const T radius = math::sqrt(T(-2) * log_positive(open_unit(r[i]))) * b;
      const SinCos<T> angle = sincos_turns(unit(r[i + 1], 24));
      y[i] = a + radius * angle.cos;
      y[i + 1] = a + radius * angle.sin;
    }
  } else if constexpr (op == RandomOp::exponential) {
    const T tiny = sizeof(T) == 8 ? T(0x1p-54) : T(0x1p-33);
#pragma omp simd
    for (int i = 0; i < N; ++i) {
      const T e = -log_positive(open_unit(r[i]));
      y[i] = (e < tiny ? tiny : e) / a;
    }
  } else if constexpr (op == RandomOp::geometric) {
    const T scale = static_cast<T>(k.b);  // 1 / log(1 - p), computed by the caller; 0 for p = 1
    for (int i = 0; i < N; ++i) {
      const T v = log_positive(open_unit(r[i])) * scale;
      const T c = static_cast<T>(__builtin_ceil(static_cast<double>(v)));
      y[i] = c < T(1) ? T(1) : c;
    }
  } else {
#pragma omp simd
    for (int i = 0; i < N; ++i) {
      const SinCos<T> s = sincos_turns((unit(r[i], 24) + (sizeof(T) == 8 ? T(0x1p-54) : T(0x1p-25))) * T(0.5));
      y[i] = a - b * (s.cos / s.sin);  // tan(pi (u - 1/2)) = -cot(pi u)
    }
  }
}

template <RandomOp op, class T>
void fill(const RandomFill& k) {
  T* out = static_cast<T*>(k.out);
  constexpr int width = static_cast<int>(kWords * 4 / sizeof(T));
  for_each_step<bits_t<T>>(k.n, k.seed, k.offset, [&](std::int64_t i, std::int64_t n, const bits_t<T>* r) {
    if (n == width) {
      transform<op, T, width>(r, out + i, k);
    } else {
      T y[width];
      transform<op, T, width>(r, y, k);
      std::memcpy(out + i, y, static_cast<std::size_t>(n) * sizeof(T));
    }
  });
}

void integers(const RandomFill& k) {
  std::int64_t* out = static_cast<std::int64_t*>(k.out);
  const std::uint64_t low = static_cast<std::uint64_t>(k.low), range = k.range;
  for_each_step<std::uint64_t>(k.n, k.seed, k.offset, [&](std::int64_t i, std::int64_t n, const std::uint64_t* r) {
    for (std::int64_t j = 0; j < n; ++j)
      out[i + j] = static_cast<std::int64_t>(low + (range ? mul_high(r[j], range) : r[j]));
  });
}

template <class T>
std::int64_t bernoulli(const RandomFill& k) {
  bool* out = static_cast<bool*>(k.out);
  const T* p = static_cast<const T*>(k.input);
  FirstBad bad;
  const std::uint64_t threshold = static_cast<std::uint64_t>(k.a * 0x1p32);
  for_each_step<std::uint32_t>(k.n, k.seed, k.offset, [&](std::int64_t i, std::int64_t n, const std::uint32_t* r) {
    if (!p) {
      for (std::int64_t j = 0; j < n; ++j) out[i + j] = r[j] < threshold;
      return;
    }
    for (std::int64_t j = 0; j < n; ++j) {
      const double q = static_cast<double>(static_cast<compute_t<T>>(p[i + j]));
      if (!(q >= 0 && q <= 1)) bad.note(i + j);
      out[i + j] = static_cast<double>(r[j]) < q * 0x1p32;
    }
  });
  return bad.position;
}

template <class T>
void dropout(const Dropout& k) {
  using A = compute_t<T>;
  const T* x = static_cast<const T*>(k.in);
  T* y = static_cast<T*>(k.out);
  const A scale = static_cast<A>(k.scale), shift = static_cast<A>(k.shift), dropped = static_cast<A>(k.dropped);
  // threshold is at most 2^32; a word below it is dropped. 2^32 (p = 1) drops everything.
  const bool all = k.threshold > 0xffffffffu;
  const std::uint32_t limit = static_cast<std::uint32_t>(k.threshold);
  for_each_step<std::uint32_t>(k.n, k.seed, k.offset, [&](std::int64_t i, std::int64_t n, const std::uint32_t* r) {
    if (n == kWords && !all) {
#pragma omp simd
      for (int j = 0; j < kWords; ++j) {
        const A v = static_cast<A>(x[i + j]) * scale + shift;
        y[i + j] = static_cast<T>(r[j] >= limit ? v : dropped);
      }
    } else {
      for (std::int64_t j = 0; j < n; ++j) {
        const A v = static_cast<A>(x[i + j]) * scale + shift;
        y[i + j] = static_cast<T>(r[j] >= limit && !all ? v : dropped);
      }
    }
  });
}

template <class T>
void add_fill(RandomKernels& k) {
  constexpr int d = static_cast<int>(DTypeOf<T>::value);
  k.fill[static_cast<int>(RandomOp::uniform)][d] = fill<RandomOp::uniform, T>;
  k.fill[static_cast<int>(RandomOp::normal)][d] = fill<RandomOp::normal, T>;
  k.fill[static_cast<int>(RandomOp::exponential)][d] = fill<RandomOp::exponential, T>;
  k.fill[static_cast<int>(RandomOp::geometric)][d] = fill<RandomOp::geometric, T>;
  k.fill[static_cast<int>(RandomOp::cauchy)][d] = fill<RandomOp::cauchy, T>;
}
template <class T>
void add_typed(RandomKernels& k) {
  k.bernoulli[static_cast<int>(DTypeOf<T>::value)] = bernoulli<T>;
  k.dropout[static_cast<int>(DTypeOf<T>::value)] = dropout<T>;
}

}  // namespace

void register_random_fill(KernelTable& t) {
  RandomKernels& k = family<RandomKernels>(t);
  add_fill<float>(k);
  add_fill<double>(k);
  add_typed<Half>(k);
  add_typed<BFloat16>(k);
  add_typed<float>(k);
  add_typed<double>(k);
  k.integers = integers;
}

}  // namespace pydlx::PYDLX_ISA
