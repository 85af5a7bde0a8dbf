// Continuous distributions, integers, coin flips and dropout.
#include "cpu/first_bad.h"
#include "cpu/random/stream.h"
#include "functors/distributions.h"
#include "functors/types.h"
#include "kernels/random.h"

namespace pydlx::PYDLX_ISA {
namespace {

using namespace functors;

template <class T>
using bits_t = typename RandomBits<T>::type;

// One step of a distribution: N values from N random numbers.
template <RandomOp op, class T, int N>
inline __attribute__((always_inline)) void transform(const bits_t<T>* r, T* y, const DrawParams<T>& k) {
  if constexpr (op == RandomOp::normal) {
#pragma omp simd
    for (int i = 0; i < N; i += 2) draw_normal(r[i], r[i + 1], k, y[i], y[i + 1]);
  } else if constexpr (op == RandomOp::geometric) {
    for (int i = 0; i < N; ++i) y[i] = draw<op>(r[i], k);
  } else {
#pragma omp simd
    for (int i = 0; i < N; ++i) y[i] = draw<op>(r[i], k);
  }
}

template <RandomOp op, class T>
void fill(const RandomFill& k) {
  T* out = static_cast<T*>(k.out);
  constexpr int width = static_cast<int>(kWords * 4 / sizeof(T));
  const DrawParams<T> p(k);
  for_each_step<bits_t<T>>(k.n, k.seed, k.offset, [&](std::int64_t i, std::int64_t n, const bits_t<T>* r) {
    if (n == width) {
      transform<op, T, width>(r, out + i, p);
    } else {
      T y[width];
      transform<op, T, width>(r, y, p);
      std::memcpy(out + i, y, static_cast<std::size_t>(n) * sizeof(T));
    }
  });
}

void integers(const RandomFill& k) {
  std::int64_t* out = static_cast<std::int64_t*>(k.out);
  const std::uint64_t low = static_cast<std::uint64_t>(k.low), range = k.range;
  for_each_step<std::uint64_t>(k.n, k.seed, k.offset, [&](std::int64_t i, std::int64_t n, const std::uint64_t* r) {
    for (std::int64_t j = 0; j < n; ++j) out[i + j] = draw_integer(r[j], low, range);
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

}  // namespace

void register_random_fill(KernelTable& t) {
  RandomKernels& k = family<RandomKernels>(t);
  each_type(WideTypes{}, [&]<class T>() {
    k.fill[static_cast<int>(RandomOp::uniform)][idx<T>] = fill<RandomOp::uniform, T>;
    k.fill[static_cast<int>(RandomOp::normal)][idx<T>] = fill<RandomOp::normal, T>;
    k.fill[static_cast<int>(RandomOp::exponential)][idx<T>] = fill<RandomOp::exponential, T>;
    k.fill[static_cast<int>(RandomOp::geometric)][idx<T>] = fill<RandomOp::geometric, T>;
    k.fill[static_cast<int>(RandomOp::cauchy)][idx<T>] = fill<RandomOp::cauchy, T>;
  });
  each_type(FloatTypes{}, [&]<class T>() {
    k.bernoulli[idx<T>] = bernoulli<T>;
    k.dropout[idx<T>] = dropout<T>;
  });
  k.integers = integers;
}

}  // namespace pydlx::PYDLX_ISA
