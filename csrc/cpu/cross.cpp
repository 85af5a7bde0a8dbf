// Cross products, a block of vectors at a time. Blocks are as long everywhere, so that all elements go through the same
// code: compilers may fuse either product with the subtraction, and a vector loop and its remainder need not agree.
#include "kernels/cross.h"

#include "cpu/isa.h"
#include "functors/types.h"

namespace pydlx::PYDLX_ISA {
namespace {

using functors::bits_of, functors::bits_t, functors::compute_t;

constexpr std::int64_t kVectors = 64;

template <class A>
struct Components {
  A at[3][kVectors];
};

// n vectors whose components are `inner` apart, and their neighbours 1, or 3 where `inner` is 1.
template <class A, class T>
inline __attribute__((always_inline)) void read(Components<A>& to, const T* x, std::int64_t inner, std::int64_t n) {
  if (inner == 1)
    for (std::int64_t i = 0; i < n; ++i)
      for (int c = 0; c < 3; ++c) to.at[c][i] = static_cast<A>(x[3 * i + c]);
  else
    for (int c = 0; c < 3; ++c)
      for (std::int64_t i = 0; i < n; ++i) to.at[c][i] = static_cast<A>(x[c * inner + i]);
}
template <class A, class T>
inline __attribute__((always_inline)) void write(const Components<A>& from, bits_t<T>* out, std::int64_t inner,
                                                 std::int64_t n) {
  if (inner == 1)
    for (std::int64_t i = 0; i < n; ++i)
      for (int c = 0; c < 3; ++c) out[3 * i + c] = bits_of(static_cast<T>(from.at[c][i]));
  else
    for (int c = 0; c < 3; ++c)
      for (std::int64_t i = 0; i < n; ++i) out[c * inner + i] = bits_of(static_cast<T>(from.at[c][i]));
}

template <class T>
__attribute__((noinline)) void block(const T* a, const T* b, bits_t<T>* out, std::int64_t inner, std::int64_t n) {
  using A = compute_t<T>;
  alignas(64) Components<A> x, y, z;
  if (n == kVectors) {
    read(x, a, inner, kVectors);
    read(y, b, inner, kVectors);
  } else {
    x = y = {};
    read(x, a, inner, n);
    read(y, b, inner, n);
  }
  for (int c = 0; c < 3; ++c) {
    const int p = (c + 1) % 3, q = (c + 2) % 3;
#pragma omp simd
    for (std::int64_t i = 0; i < kVectors; ++i) z.at[c][i] = x.at[p][i] * y.at[q][i] - x.at[q][i] * y.at[p][i];
  }
  n == kVectors ? write<A, T>(z, out, inner, kVectors) : write<A, T>(z, out, inner, n);
}

template <class T>
void cross(const Cross& k) {
  const T *a = static_cast<const T*>(k.a), *b = static_cast<const T*>(k.b);
  auto* out = static_cast<bits_t<T>*>(k.out);
  // Neighbouring vectors: along `inner`, or where that is 1 along `outer`.
  const std::int64_t run = k.inner == 1 ? k.outer : k.inner, runs = k.inner == 1 ? 1 : k.outer,
                     step = k.inner == 1 ? 3 : 1, blocks = (run + kVectors - 1) / kVectors;
  parallel_for(runs * blocks, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t first = u % blocks * kVectors, at = u / blocks * 3 * k.inner + first * step,
                         n = run - first < kVectors ? run - first : kVectors;
      block<T>(a + at, b + at, out + at, k.inner, n);
    }
  });
}

}  // namespace

void register_cross(KernelTable& t) {
  each_type(FloatTypes{}, [&]<class T>() { family<CrossKernels>(t).cross[idx<T>] = cross<T>; });
}

}  // namespace pydlx::PYDLX_ISA
