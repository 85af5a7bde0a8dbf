// Winograd's minimal filtering with unit stride: six inputs in a row give 7 - R outputs of a kernel of R taps with six
// multiplications instead of R (7 - R), and two axes multiply their savings: 4 times fewer for 3x3 kernels, 2.8 times
// for 5x5, 2 times for 1x3. Per position q of the transformed tile the sum over channels is an ordinary matrix product.
//
//   V[q] = B^T d B (input tile d), U[q] = G g G^T (kernel g), y = A^T (sum_c U V) A        (Lavin & Gray, 2015)
//
// Interpolation points: {0, 1, -1, 1/2, -2} and infinity. The usual {0, 1, -1, 2, -2} has rounding errors 1.6 times
// larger. B only depends on the points. The gradient of the kernel is the transposed algorithm: the same B, a tile of
// output gradients through G for as many values, and one final A for R values per kernel.
//
// Stride two, three taps: y_i = (x_2i g_0 + x_{2i+2} g_2) + x_{2i+1} g_1. The bracket is a kernel of two taps with unit
// stride on the even inputs, the rest one product per output: with five points nine products make four outputs of an
// axis instead of twelve. Two axes multiply 1.78 times less. All products of g_1 have the same transformed kernel, so
// its matrix product has several rows per tile. The input gradient is made of the same products: even rows of it (with
// the padding counted) are a kernel of two taps on the output gradient, odd rows have one tap.
#pragma once
#include "cpu/gemm/vec.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int kLane = kLanesOf<float>;
using V = Vector<float>;

// With float32_matmul_precision "highest" 3x3 kernels use four points, 0, 1, -1 and infinity: 2.25 times fewer
// multiplications, and rounding errors below those of the plain sum: its transforms hardly enlarge anything, and the
// sums over channels have fewer terms.
//
// The transforms along an axis. Rows of B^T are the coefficients of prod_{j != i} (x - a_j); their scales are in
// `spread`.
struct SixPoints {
  static constexpr int count = 6;
  PYDLX_INLINE static void input(const V* d, V* t) {
    const V e = d[4] - d[2], f = d[3] - d[1];
    t[0] = (d[0] + d[4]) + 1.5f * f - 2.0f * d[2];
    t[1] = (d[4] - d[1]) + 0.5f * d[2] + 2.5f * d[3];
    t[2] = (d[4] + d[1]) + 0.5f * d[3] - 2.5f * d[2];
    t[3] = e + 2.0f * f;
    t[4] = e - 0.5f * f;
    t[5] = (d[1] + d[5]) + 1.5f * e - 2.0f * d[3];
  }
  // G: the polynomial with K coefficients g at the six points.
  template <int K>
  PYDLX_INLINE static void spread(const V* g, V* u) {
    V even = g[0], odd = g[1], half = g[0] + 0.5f * g[1], two = g[0] - 2.0f * g[1];
    float small = 0.25f, large = 4.0f;
#pragma GCC unroll 5
    for (int i = 2; i < K; ++i, small *= 0.5f, large *= -2.0f) {
      (i % 2 ? odd : even) += g[i];
      half += small * g[i];
      two += large * g[i];
    }
    even *= 1.0f / 3;
    odd *= 1.0f / 3;
    u[0] = g[0];
    u[1] = even + odd;
    u[2] = odd - even;
    u[3] = half * (-16.0f / 15);
    u[4] = two * (1.0f / 15);
    u[5] = g[K - 1];
  }
  // A^T: the moments 0 to K - 1 of six values at the points.
  template <int K>
  PYDLX_INLINE static void collect(const V* m, V* y) {
    const V s = m[1] + m[2], d = m[1] - m[2];
    y[0] = (m[0] + s) + (m[3] + m[4]);
    float small = 0.5f, large = -2.0f;
#pragma GCC unroll 5
    for (int i = 1; i < K; ++i, small *= 0.5f, large *= -2.0f) {
      const V first = i == K - 1 ? (i % 2 ? d : s) + m[5] : (i % 2 ? d : s);
      y[i] = first + small * m[3] + large * m[4];
    }
  }
};

struct FourPoints {
  static constexpr int count = 4;
  PYDLX_INLINE static void input(const V* d, V* t) {
    t[0] = d[0] - d[2];
    t[1] = d[1] + d[2];
    t[2] = d[2] - d[1];
    t[3] = d[3] - d[1];
  }
  template <int K>
  PYDLX_INLINE static void spread(const V* g, V* u) {
    V even = g[0], odd = g[1];
#pragma GCC unroll 3
    for (int i = 2; i < K; ++i) (i % 2 ? odd : even) += g[i];
    u[0] = g[0];
    u[1] = 0.5f * (even + odd);
    u[2] = 0.5f * (even - odd);
    u[3] = g[K - 1];
  }
  template <int K>
  PYDLX_INLINE static void collect(const V* m, V* y) {
    const V s = m[1] + m[2], d = m[1] - m[2];
    y[0] = m[0] + s;
#pragma GCC unroll 3
    for (int i = 1; i < K; ++i) y[i] = (i % 2 ? d : s) + (i == K - 1 ? m[3] : V{});
  }
};

// 1, -1, 1/2, -1/2 and infinity; for two taps only, whose rounding errors with 0 among the points are 1.5 times larger.
struct FivePoints {
  static constexpr int count = 5;
  PYDLX_INLINE static void input(const V* d, V* t) {
    const V e = d[2] - 0.25f * d[0], f = d[3] - 0.25f * d[1], g = d[2] - d[0], h = d[3] - d[1];
    t[0] = f + e;
    t[1] = f - e;
    t[2] = h + 0.5f * g;
    t[3] = h - 0.5f * g;
    t[4] = (d[4] - d[2]) - 0.25f * g;
  }
  template <int K>
  PYDLX_INLINE static void spread(const V* g, V* u) {
    V even = g[0], odd = g[1], near = g[0], far = 0.5f * g[1];
    float power = 0.25f;
#pragma GCC unroll 4
    for (int i = 2; i < K; ++i, power *= 0.5f) {
      (i % 2 ? odd : even) += g[i];
      (i % 2 ? far : near) += power * g[i];
    }
    u[0] = (even + odd) * (2.0f / 3);
    u[1] = (odd - even) * (2.0f / 3);
    u[2] = (near + far) * (-4.0f / 3);
    u[3] = (near - far) * (4.0f / 3);
    u[4] = g[K - 1];
  }
  template <int K>
  PYDLX_INLINE static void collect(const V* m, V* y) {
    const V s = m[0] + m[1], d = m[0] - m[1], near = m[2] + m[3], far = m[2] - m[3];
    float power = 1;
#pragma GCC unroll 4
    for (int i = 0; i < K; ++i, power *= 0.5f) {
      const V first = i % 2 ? d : s;
      y[i] = (i == K - 1 ? first + m[4] : first) + power * (i % 2 ? far : near);
    }
  }
};

// An axis with a kernel of R taps, on the points P: positions of a transformed tile, pixels that a tile reads and those
// from one tile to the next, outputs of a tile, and different transformed kernels. The last of these has all positions
// that are left.
template <class P>
struct UnitStride {
  static constexpr int count = P::count, kernels = P::count, inputs = P::count;
  static constexpr int step(int r) { return P::count + 1 - r; }
  static constexpr int outputs(int r) { return P::count + 1 - r; }
  template <int R>
  PYDLX_INLINE static void input(const V* d, V* t) {
    P::input(d, t);
  }
  template <int R>
  PYDLX_INLINE static void kernel(const V* g, V* u) {
    P::template spread<R>(g, u);
  }
  template <int R>
  PYDLX_INLINE static void output(const V* m, V* y) {
    P::template collect<outputs(R)>(m, y);
  }
  template <int R>
  PYDLX_INLINE static void output_grad(const V* d, V* t) {
    P::template spread<outputs(R)>(d, t);
  }
  template <int R>
  PYDLX_INLINE static void kernel_grad(const V* m, V* g) {
    P::template collect<R>(m, g);
  }
};

// Three taps with stride two.
template <class P>
struct Strided {
  static constexpr int kOutputs = P::count - 1;
  static constexpr int count = P::count + kOutputs, kernels = P::count + 1, inputs = 2 * P::count - 1;
  static constexpr int step(int) { return 2 * kOutputs; }
  static constexpr int outputs(int) { return kOutputs; }
  template <int R>
  PYDLX_INLINE static void input(const V* d, V* t) {
    V even[P::count];
#pragma GCC unroll 6
    for (int i = 0; i < P::count; ++i) even[i] = d[2 * i];
    P::input(even, t);
#pragma GCC unroll 6
    for (int i = 0; i < kOutputs; ++i) t[P::count + i] = d[2 * i + 1];
  }
  template <int R>
  PYDLX_INLINE static void kernel(const V* g, V* u) {
    static_assert(R == 3);
    const V outer[2] = {g[0], g[2]};
    P::template spread<2>(outer, u);
    u[P::count] = g[1];
  }
  template <int R>
  PYDLX_INLINE static void output(const V* m, V* y) {
    P::template collect<kOutputs>(m, y);
#pragma GCC unroll 6
    for (int i = 0; i < kOutputs; ++i) y[i] += m[P::count + i];
  }
  template <int R>
  PYDLX_INLINE static void output_grad(const V* d, V* t) {
    P::template spread<kOutputs>(d, t);
#pragma GCC unroll 6
    for (int i = 0; i < kOutputs; ++i) t[P::count + i] = d[i];
  }
  template <int R>
  PYDLX_INLINE static void kernel_grad(const V* m, V* g) {  // m: one sum per transformed kernel
    V outer[2];
    P::template collect<2>(m, outer);
    g[0] = outer[0];
    g[1] = m[P::count];
    g[2] = outer[1];
  }
};

// Its input gradient, with the taps in reverse order: pixels that only the middle tap sees alternate with those of the
// outer two, and a tile begins with one of the former.
template <class P>
struct StridedGrad {
  static constexpr int kPairs = P::count - 1;
  static constexpr int count = P::count + kPairs, kernels = P::count + 1, inputs = P::count;
  static constexpr int step(int) { return kPairs; }
  static constexpr int outputs(int) { return 2 * kPairs; }
  template <int R>
  PYDLX_INLINE static void input(const V* d, V* t) {
    P::input(d, t);
#pragma GCC unroll 6
    for (int i = 0; i < kPairs; ++i) t[P::count + i] = d[i];
  }
  template <int R>
  PYDLX_INLINE static void kernel(const V* g, V* u) {
    Strided<P>::template kernel<R>(g, u);
  }
  template <int R>
  PYDLX_INLINE static void output(const V* m, V* y) {
    V outer[kPairs];
    P::template collect<kPairs>(m, outer);
#pragma GCC unroll 6
    for (int i = 0; i < kPairs; ++i) {
      y[2 * i] = m[P::count + i];
      y[2 * i + 1] = outer[i];
    }
  }
};

// What an axis with a kernel of R taps has. One tap needs no transform.
template <class W>
constexpr int points(int r) {
  return r > 1 ? W::count : 1;
}
template <class W>
constexpr int inputs(int r) {
  return r > 1 ? W::inputs : 1;
}
template <class W>
constexpr int step(int r) {
  return r > 1 ? W::step(r) : 1;
}
template <class W>
constexpr int outputs(int r) {
  return r > 1 ? W::outputs(r) : 1;
}
template <class W>
constexpr int kernels(int r) {
  return r > 1 ? W::kernels : 1;
}

// Positions along both axes: those of a transformed kernel follow each other, its copies side by side for each tile.
template <class W, int RY, int RX>
struct Positions {
  static constexpr int NY = points<W>(RY), NX = points<W>(RX), KY = kernels<W>(RY), KX = kernels<W>(RX);
  static constexpr int count = NY * NX, kernel_count = KY * KX;
  static constexpr int copies_y(int ky) { return ky < KY - 1 ? 1 : NY - KY + 1; }
  static constexpr int copies_x(int kx) { return kx < KX - 1 ? 1 : NX - KX + 1; }
  static constexpr int copies(int kernel) { return copies_y(kernel / KX) * copies_x(kernel % KX); }
  static constexpr int first(int kernel) { return kernel / KX * NX + kernel % KX * copies_y(kernel / KX); }
  // Of position (i, j).
  static constexpr int kernel(int i, int j) { return (i < KY ? i : KY - 1) * KX + (j < KX ? j : KX - 1); }
  static constexpr int copy(int i, int j) {
    return (i < KY ? 0 : i - KY + 1) * copies_x(j < KX ? j : KX - 1) + (j < KX ? 0 : j - KX + 1);
  }
  // Where it is, with `position` floats per position and `row` floats per row.
  PYDLX_INLINE static std::int64_t at(int i, int j, std::int64_t tile, std::int64_t position, std::int64_t row) {
    const int k = kernel(i, j);
    return first(k) * position + (tile * copies(k) + copy(i, j)) * row;
  }
};

}  // namespace
}  // namespace pydlx::PYDLX_ISA
